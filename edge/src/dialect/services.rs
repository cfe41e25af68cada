//! The seven services of old, as data: names, greetings, who may read what, and what may be asked.
//!
//! Where nothing else is said, the tables repeat what the old servers decided about a client with a token. Each channel
//! that no row covers is denied. What a client without a token may do is not said here but in
//! [`Settings`](super::Settings).

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
    /// Permissions that open every channel.
    pub admin: &'static [&'static str],
    /// Whether `Crackerjack: Read` is the same as `crackerjack:read`.
    pub lenient: bool,
    /// Channels.
    pub channels: &'static [Channel],
    /// Requests that its agent answers.
    pub requests: &'static [Request],
    /// Events that its clients may send, where the operator allows it at all.
    pub publishes: &'static [Publish],
    /// Other names for a channel: an argument, and what stands before its value.
    pub aliases: &'static [(&'static str, &'static str)],
}

/// Who may do what with some channels: any one of the permissions will do.
#[derive(Debug, Clone, Copy)]
pub struct Channel {
    /// A name, or a beginning and `*`.
    pub pattern: &'static str,
    /// Subscribe, and ask for members and history.
    pub read: &'static [&'static str],
    /// Publish.
    pub write: &'static [&'static str],
}

/// A request that the agent of the service answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// `event` of the request.
    pub name: &'static str,
    /// Arguments that must be there.
    pub needs: &'static [&'static str],
    /// Permissions, any one of which a client with a token must have; empty: none.
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

impl Channel {
    const fn read(pattern: &'static str, read: &'static [&'static str]) -> Channel {
        Channel { pattern, read, write: &[] }
    }

    const fn both(
        pattern: &'static str,
        read: &'static [&'static str],
        write: &'static [&'static str],
    ) -> Channel {
        Channel { pattern, read, write }
    }

    fn covers(&self, channel: &str) -> bool {
        match self.pattern.strip_suffix('*') {
            Some(beginning) => channel.starts_with(beginning),
            None => channel == self.pattern,
        }
    }
}

impl Request {
    const fn new(name: &'static str, needs: &'static [&'static str]) -> Request {
        Request { name, needs, permissions: &[] }
    }
}

/// One service calls another.
const SERVICE_MESSAGE: Request =
    Request { name: "service_message", needs: &[], permissions: &["service:communicate", "admin"] };

/// What a client wants with a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Subscribe, members, history.
    Read,
    /// Publish.
    Write,
}

impl Service {
    /// The preset of this name.
    pub fn preset(name: &str) -> Option<&'static Service> {
        SERVICES.iter().find(|service| service.name == name)
    }

    /// Whether somebody with these permissions may do this.
    pub fn allows(&self, permissions: &[String], action: Action, channel: &str) -> bool {
        if self.has_any(permissions, self.admin) {
            return true;
        }
        let mut rows = self.channels.iter().filter(|row| row.covers(channel));
        rows.any(|row| {
            let enough = if action == Action::Read { row.read } else { row.write };
            self.has_any(permissions, enough)
        })
    }

    /// Whether one of the permissions is among those that are enough.
    pub fn has_any(&self, permissions: &[String], enough: &[&str]) -> bool {
        permissions.iter().any(|given| {
            if !self.lenient {
                return enough.contains(&given.as_str());
            }
            let given: String = given.to_lowercase().split_whitespace().collect();
            enough.contains(&given.as_str())
        })
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
    admin: &["admin"],
    lenient: false,
    channels: &[
        Channel::read("workflow:*", &["workflow:read"]),
        Channel::read("pool:*", &["pool:read"]),
        Channel::read("worker:*", &["worker:read"]),
        Channel::read("goal-teams*", &["team:read"]),
    ],
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
    admin: &["admin", "crackerjack:admin"],
    lenient: true,
    channels: &[
        Channel::read("quality:*", &["crackerjack:read"]),
        Channel::read("test:*", &["crackerjack:read"]),
    ],
    requests: &[Request::new("get_test_status", &["run_id"]), Request::new("get_quality_gate", &["project"])],
    publishes: &[],
    aliases: &[],
};

/// Both spellings: the old server checked one and published to the other.
const AKOSHA: Service = Service {
    name: "akosha",
    server: "akosha",
    message: "Connected to Akosha pattern detection",
    port: 8692,
    family: Family::Mcp,
    admin: &["admin", "akosha:admin"],
    lenient: false,
    channels: &[
        Channel::read("pattern:*", &["akosha:read"]),
        Channel::read("patterns:*", &["akosha:read"]),
        Channel::read("anomaly:*", &["akosha:read"]),
        Channel::read("anomalies", &["akosha:read"]),
        Channel::read("insight:*", &["akosha:read"]),
        Channel::read("insights", &["akosha:read"]),
        Channel::read("metrics", &["akosha:read"]),
    ],
    requests: &[Request::new("get_patterns", &[]), Request::new("get_anomalies", &[])],
    publishes: &[],
    aliases: &[],
};

/// Only its plan is known, which has no permissions: these are like its neighbours'.
const DHRUVA: Service = Service {
    name: "dhruva",
    server: "dhruva",
    message: "Connected to Dhruva adapter distribution",
    port: 8693,
    family: Family::Mcp,
    admin: &["admin", "dhruva:admin"],
    lenient: false,
    channels: &[
        Channel::read("adapter:*", &["dhruva:read"]),
        Channel::read("storage:*", &["dhruva:read"]),
        Channel::read("distribution", &["dhruva:read"]),
    ],
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
    admin: &["excalidraw:admin"],
    lenient: false,
    channels: &[
        Channel::both("diagram:*", &["excalidraw:read"], &["excalidraw:write"]),
        Channel::both("cursor:*", &["excalidraw:read"], &["excalidraw:write"]),
        Channel::both("presence:*", &["excalidraw:read"], &["excalidraw:write"]),
    ],
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
    admin: &["fastblocks:admin"],
    lenient: false,
    channels: &[
        Channel::read("ui:*", &["fastblocks:read"]),
        Channel::read("component:*", &["fastblocks:read"]),
        Channel::read("state*", &["fastblocks:read"]),
    ],
    requests: &[
        Request::new("get_component_status", &["component_id"]),
        Request::new("get_state", &["state_path"]),
    ],
    publishes: &[],
    aliases: &[("component_id", "component:")],
};

/// Its clients name no channels: every good token reads the one that there is.
const SESSION_BUDDY: Service = Service {
    name: "session-buddy",
    server: "session-buddy",
    message: "Connected to Session-Buddy real-time metrics",
    port: 8765,
    family: Family::SessionBuddy,
    admin: &["admin", "session-buddy:admin"],
    lenient: false,
    channels: &[Channel::read("metrics", &["session-buddy:read"])],
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

    fn may(service: &str, permissions: &[&str], channel: &str) -> bool {
        let permissions: Vec<String> = permissions.iter().map(|p| (*p).to_owned()).collect();
        Service::preset(service).unwrap().allows(&permissions, Action::Read, channel)
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
    }

    #[test]
    fn every_preset_has_a_port_and_a_name_of_its_own() {
        // covers B01
        for service in &SERVICES {
            let same = |other: &&Service| other.port == service.port || other.name == service.name;
            assert_eq!(SERVICES.iter().filter(same).count(), 1, "{}", service.name);
            assert!(trishula::wire::ids::Namespace::new(service.name).is_ok());
            for row in service.channels {
                let beginning = row.pattern.trim_end_matches('*');
                assert!(trishula::wire::ids::RoomName::new(&format!("{beginning}x")).is_ok());
            }
        }
    }
}
