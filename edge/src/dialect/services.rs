//! The seven services of old, as data: names and greetings. What may be asked of them, and who may do what in which channels, is in
//! `deploy/services`, where an operator can change it.

use serde::Deserialize;

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
    /// Events that its clients may send, where the operator allows it at all.
    pub publishes: &'static [Publish],
    /// Other names for a channel: an argument, and what stands before its value.
    pub aliases: &'static [(&'static str, &'static str)],
}

/// `[[service.request]]`: a request that the agent of the service answers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// `event` of the request.
    pub event: String,
    /// Arguments that must be there.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Permissions, any one of which a client must have; `*`: a good token; empty: nothing.
    #[serde(default)]
    pub permissions: Vec<String>,
}

/// Requests that the edge answers itself.
const OWN: [&str; 6] = ["subscribe", "unsubscribe", "refresh_token", "get_recent", "get_presence", "auth"];

impl Request {
    /// Whether it can come to the agent of a service.
    pub fn is_good(&self) -> bool {
        !self.event.is_empty() && !OWN.contains(&self.event.as_str())
    }

    /// One service calls another: every service has this one.
    pub fn of_every_service() -> Request {
        let permissions = ["service:communicate", "admin"].map(str::to_owned).into();
        Request { event: "service_message".into(), needs: Vec::new(), permissions }
    }
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

impl Service {
    /// The preset of this name.
    pub fn preset(name: &str) -> Option<&'static Service> {
        SERVICES.iter().find(|service| service.name == name)
    }
}

const MAHAVISHNU: Service = Service {
    name: "mahavishnu",
    server: "mahavishnu",
    message: "Connected to Mahavishnu orchestration",
    port: 8690,
    family: Family::Mcp,
    publishes: &[],
    aliases: &[],
};

const CRACKERJACK: Service = Service {
    name: "crackerjack",
    server: "crackerjack",
    message: "Connected to Crackerjack quality monitoring",
    port: 8686,
    family: Family::Mcp,
    publishes: &[],
    aliases: &[],
};

const AKOSHA: Service = Service {
    name: "akosha",
    server: "akosha",
    message: "Connected to Akosha pattern detection",
    port: 8692,
    family: Family::Mcp,
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
    publishes: &[],
    aliases: &[],
};

const EXCALIDRAW: Service = Service {
    name: "excalidraw-mcp",
    server: "excalidraw",
    message: "Connected to Excalidraw collaboration",
    port: 3042,
    family: Family::Mcp,
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
