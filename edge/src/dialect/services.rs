//! The seven services of old, as data: names, greetings, and what may be asked. Who may do what in which channels is in
//! `deploy/services`, where an operator can change it.

/// Which of the older dialects a service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// The envelope of nine keys.
    Mcp,
    /// session-buddy's own messages.
    SessionBuddy,
}

/// One service.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// Its namespace.
    pub name: &'static str,
    /// What it calls itself in its greeting.
    pub server: &'static str,
    /// Its greeting in words.
    pub message: &'static str,
    /// The port that its clients know.
    pub port: u16,
    /// What it speaks.
    pub family: Family,
    /// Requests that its agent answers.
    pub requests: &'static [Request],
    /// Events that its clients may send, where the operator allows it at all.
    pub publishes: &'static [Publish],
    /// Other names for a channel: an argument, and what stands before its value.
    pub aliases: &'static [(&'static str, &'static str)],
}

/// A request that the agent of the service answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// `event` of the request.
    pub name: &'static str,
    /// Arguments that must be there.
    pub needs: &'static [&'static str],
    /// Permissions, any one of which a client must have; empty: none.
    pub permissions: &'static [&'static str],
}

/// An event that clients send.
#[derive(Debug, Clone, Copy)]
pub struct Publish {
    /// `event`.
    pub event: &'static str,
    /// The channel is this and the value of [`Publish::key`].
    pub prefix: &'static str,
    /// The key of `data` that names the channel.
    pub key: &'static str,
}

impl Request {
    const fn new(name: &'static str, needs: &'static [&'static str]) -> Request {
        Request { name, needs, permissions: &[] }
    }
}

/// One service calls another.
const SERVICE_MESSAGE: Request =
    Request { name: "service_message", needs: &[], permissions: &["service:communicate", "admin"] };

impl Service {
    /// The preset of this name.
    pub fn preset(name: &str) -> Option<&'static Service> {
        SERVICES.iter().find(|service| service.name == name)
    }

    /// The request of this name.
    pub fn request(&self, name: &str) -> Option<&'static Request> {
        let own = self.requests.iter().find(|request| request.name == name);
        own.or_else(|| (name == SERVICE_MESSAGE.name).then_some(&SERVICE_MESSAGE))
    }
}

const MAHAVISHNU: Service = Service {
    name: "mahavishnu",
    server: "mahavishnu",
    message: "Connected to Mahavishnu orchestration",
    port: 8690,
    family: Family::Mcp,
    requests: &[
        Request::new("get_pool_status", &["pool_id"]),
        Request::new("get_workflow_status", &["workflow_id"]),
    ],
    publishes: &[],
    aliases: &[],
};

const CRACKERJACK: Service = Service {
    name: "crackerjack",
    server: "crackerjack",
    message: "Connected to Crackerjack quality monitoring",
    port: 8686,
    family: Family::Mcp,
    requests: &[Request::new("get_test_status", &["run_id"]), Request::new("get_quality_gate", &["project"])],
    publishes: &[],
    aliases: &[],
};

const AKOSHA: Service = Service {
    name: "akosha",
    server: "akosha",
    message: "Connected to Akosha pattern detection",
    port: 8692,
    family: Family::Mcp,
    requests: &[Request::new("get_patterns", &[]), Request::new("get_anomalies", &[])],
    publishes: &[],
    aliases: &[],
};

/// Only its plan is known.
const DHRUVA: Service = Service {
    name: "dhruva",
    server: "dhruva",
    message: "Connected to Dhruva adapter distribution",
    port: 8693,
    family: Family::Mcp,
    requests: &[Request::new("get_adapter_status", &["adapter_id"])],
    publishes: &[],
    aliases: &[],
};

const EXCALIDRAW: Service = Service {
    name: "excalidraw-mcp",
    server: "excalidraw",
    message: "Connected to Excalidraw collaboration",
    port: 3042,
    family: Family::Mcp,
    requests: &[Request::new("get_diagram_status", &["diagram_id"])],
    publishes: &[
        Publish { event: "diagram.updated", prefix: "diagram:", key: "diagram_id" },
        Publish { event: "cursor.moved", prefix: "cursor:", key: "diagram_id" },
        Publish { event: "user.joined", prefix: "presence:", key: "diagram_id" },
        Publish { event: "user.left", prefix: "presence:", key: "diagram_id" },
    ],
    aliases: &[],
};

const FASTBLOCKS: Service = Service {
    name: "fastblocks",
    server: "fastblocks",
    message: "Connected to Fastblocks UI update stream",
    port: 8684,
    family: Family::Mcp,
    requests: &[
        Request::new("get_component_status", &["component_id"]),
        Request::new("get_state", &["state_path"]),
    ],
    publishes: &[],
    aliases: &[("component_id", "component:")],
};

/// The service of session-buddy. Its clients name no channels.
pub const SESSION_BUDDY: Service = Service {
    name: "session-buddy",
    server: "session-buddy",
    message: "Connected to Session-Buddy real-time metrics",
    port: 8765,
    family: Family::SessionBuddy,
    requests: &[],
    publishes: &[],
    aliases: &[],
};

/// One that is none of the seven, whose clients speak the envelope.
pub const NAMELESS: Service = Service {
    name: "",
    server: "",
    message: "Connected",
    port: 0,
    family: Family::Mcp,
    requests: &[],
    publishes: &[],
    aliases: &[],
};

/// The seven. Old documents claim 8686 for two of them; mahavishnu has 8690 here.
pub const SERVICES: [Service; 7] =
    [SESSION_BUDDY, MAHAVISHNU, CRACKERJACK, AKOSHA, DHRUVA, EXCALIDRAW, FASTBLOCKS];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Action, Who};
    use crate::config::{DialectName, presets};

    fn may(service: &str, permissions: &[&str], channel: &str) -> bool {
        let permissions: Vec<String> = permissions.iter().map(|p| (*p).to_owned()).collect();
        let access = presets::section(service).unwrap().access();
        access.allows(Who::Known(&permissions), Action::Read, channel)
    }

    #[test]
    fn channels_open_by_the_table_of_their_service() {
        // covers B01, B05
        assert!(may("mahavishnu", &["pool:read"], "pool:p1"));
        assert!(!may("mahavishnu", &["pool:read"], "workflow:w1"));
        assert!(!may("mahavishnu", &["read"], "global") && may("mahavishnu", &["admin"], "global"));
        assert!(may("crackerjack", &["Crackerjack: Read"], "test:r1"));
        assert!(!may("mahavishnu", &["pool: read"], "pool:p1"));
        assert!(
            may("akosha", &["akosha:read"], "patterns:x") && may("akosha", &["akosha:read"], "anomalies")
        );
        assert!(!may("excalidraw-mcp", &["admin"], "diagram:d1"));
        assert!(may("excalidraw-mcp", &["excalidraw:admin"], "global"));
        assert!(may("fastblocks", &["fastblocks:read"], "state") && !may("fastblocks", &[], "state"));
        assert!(!may("mahavishnu", &["superadmin"], "global"), "no search within a permission");
        assert!(may("session-buddy", &[], "metrics") && !may("session-buddy", &["read"], "others"));
    }

    #[test]
    fn every_preset_has_a_port_and_a_name_of_its_own() {
        // covers B01, B02
        for service in &SERVICES {
            let same = |other: &&Service| other.port == service.port || other.name == service.name;
            assert_eq!(SERVICES.iter().filter(same).count(), 1, "{}", service.name);
            let section = presets::section(service.name).unwrap();
            assert_eq!((section.name.as_str(), section.listen[0].port()), (service.name, service.port));
            assert_eq!(section.dialect == DialectName::Mcp, service.family == Family::Mcp);
            assert!(section.auth && section.anonymous_permissions.is_empty() && section.tls);
            assert_eq!((section.ping_interval_s, section.ping_timeout_s), (20, Some(20)));
            assert_eq!((section.max_frame, section.message_rate_limit), (1 << 20, 100));
        }
        let ours = presets::section("trishula").unwrap();
        assert_eq!(ours.room, crate::access::Access::open_rooms());
    }
}
