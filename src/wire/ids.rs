//! Names and numbers, each a type of its own: a value of one of these types has been checked.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest agent name, in bytes.
pub const MAX_AGENT_NAME: usize = 64;
/// Longest node name or namespace, in bytes: a DNS label (RFC 1035).
pub const MAX_LABEL: usize = 63;
/// Longest room name, in bytes.
pub const MAX_ROOM_NAME: usize = 128;
/// Longest message id, in bytes.
pub const MAX_MESSAGE_ID: usize = 128;

/// The namespace that names without one belong to, unless the client's own says otherwise.
pub const DEFAULT_NAMESPACE: &str = "trishula";

/// Why a string is not a name. The state of nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {shown:?} {why}")]
pub struct NameError {
    /// What was to be read: "node name", "agent name" …
    pub what: &'static str,
    /// The start of what was given.
    pub shown: String,
    /// What is wrong with it, and what would be right.
    pub why: &'static str,
}

fn name_error(what: &'static str, given: &str, why: &'static str) -> NameError {
    NameError { what, shown: given.chars().take(80).collect(), why }
}

fn starts_with(given: &str, ok: fn(&u8) -> bool) -> bool {
    given.as_bytes().first().is_some_and(ok)
}

fn is_label(given: &str) -> bool {
    let lower = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    given.len() <= MAX_LABEL && starts_with(given, lower) && given.bytes().all(|b| lower(&b) || b == b'-')
}

/// What a room's name may hold: the old services call theirs after projects, files and people. Nothing that a line of a log,
/// a pattern or a shell reads as something else, and nothing that is not seen.
fn is_of_room(c: char) -> bool {
    match c {
        _ if c.is_ascii_alphanumeric() => true,
        _ if c.is_ascii() => " ._-:/@+=,~#%&!()".contains(c),
        // Soft hyphen, joiners, marks of direction, separators and the byte order mark (Unicode 15.1, Default_Ignorable and Bidi_Control).
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' => false,
        '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{ffff}' | '\u{e0000}'..='\u{e0fff}' => false,
        _ => !c.is_control() && !c.is_whitespace(),
    }
}

/// What no agent and no namespace is called, in any case: `to` means something else by them.
fn is_reserved(given: &str) -> bool {
    ["broadcast", "mesh"].iter().any(|word| given.eq_ignore_ascii_case(word))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr, $why:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks a string and takes it as a name.
            pub fn new(given: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> bool = $check;
                if check(given) { Ok(Self(given.into())) } else { Err(name_error($what, given, $why)) }
            }

            /// The name as it was given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(given: &str) -> Result<Self, NameError> {
                Self::new(given)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(given: String) -> Result<Self, NameError> {
                Self::new(&given)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.to_string()
            }
        }
    };
}

name!(
    /// One machine of the mesh: `dc`, `agni`.
    NodeName, "node name", is_label,
    "is not a node name: lower-case letters, digits and '-', at most 63, starting with a letter or digit"
);
name!(
    /// A wall between groups of agents: own secrets, limits, agents and rooms.
    Namespace, "namespace", |s| is_label(s) && !is_reserved(s),
    "is not a namespace: lower-case letters, digits and '-', at most 63, starting with a letter or digit; 'broadcast' and 'mesh' are taken"
);
name!(
    /// An agent's name inside its namespace.
    AgentName, "agent name",
    |s| s.len() <= MAX_AGENT_NAME
        && starts_with(s, u8::is_ascii_alphanumeric)
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && !is_reserved(s),
    "is not an agent name: letters, digits, '.', '_' and '-', at most 64, starting with a letter or digit; 'broadcast' and 'mesh' are taken"
);
name!(
    /// A room's name inside its namespace.
    RoomName, "room name",
    |s| s.len() <= MAX_ROOM_NAME
        && s.chars().all(is_of_room)
        && s.starts_with(|c: char| c.is_ascii_alphanumeric() || !c.is_ascii())
        && !s.ends_with(' '),
    "is not a room name: letters and digits of any script, blanks inside and '._-:/@+=,~#%&!()', at most 128 bytes of UTF-8, starting with a letter or digit"
);
name!(
    /// What a sender calls its message; unique for that sender.
    MessageId, "message id",
    |s| !s.is_empty()
        && s.len() <= MAX_MESSAGE_ID
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':')),
    "is not a message id: 1 to 128 of letters, digits and '._:-'"
);

/// An agent with its namespace; written `namespace/name`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AgentAddr {
    /// The wall it lives behind.
    pub namespace: Namespace,
    /// Its name there.
    pub name: AgentName,
}

impl AgentAddr {
    /// Puts the two together.
    pub fn new(namespace: Namespace, name: AgentName) -> Self {
        Self { namespace, name }
    }

    /// Reads `name` (in the namespace given) or `namespace/name`.
    pub fn parse(given: &str, home: &Namespace) -> Result<Self, NameError> {
        match given.split_once('/') {
            Some((namespace, name)) => Ok(Self::new(Namespace::new(namespace)?, AgentName::new(name)?)),
            None => Ok(Self::new(home.clone(), AgentName::new(given)?)),
        }
    }
}

impl fmt::Display for AgentAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for AgentAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Hex digits of a connection in its agent's name.
const CONNECTION: usize = 8;

/// What clients are called that show no token, where they have no names of their own: their connections are `anonymous.xxxxxxxx`.
pub const ANONYMOUS: &str = "anonymous";

impl AgentName {
    /// Whose connection it is the name of: each one of an older client is an agent `NAME.xxxxxxxx`.
    pub fn connection_of(&self) -> Option<&str> {
        let (of, no) = self.as_str().rsplit_once('.')?;
        let digits = no.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (no.len() == CONNECTION && digits && !of.is_empty()).then_some(of)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number!(
    /// A node's life, from one start to the next: new and fsynced before the first frame leaves.
    Incarnation
);
number!(
    /// The n-th message or call of one incarnation of a node.
    Sequence
);
number!(
    /// One connected client of an agent, numbered by the gateway that holds its socket.
    SessionNo
);
number!(
    /// One link of this process, for as long as it runs; never sent.
    LinkId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_where_they_enter() {
        // covers B19
        for bad in ["", "a b", "-a", "broadcast", "mesh", "Mesh", "ü", &"a".repeat(65), "a/b"] {
            assert!(AgentName::new(bad).is_err(), "{bad:?} must not be an agent name");
        }
        for good in ["dc", "agni.planner", "mac_2", "A-1", &"a".repeat(64)] {
            assert_eq!(AgentName::new(good).unwrap().as_str(), good);
        }
        assert!(NodeName::new("Agni").is_err());
        assert!(Namespace::new("mesh").is_err() && Namespace::new("broadcast").is_err());
        let error = NodeName::new("Agni!").unwrap_err().to_string();
        assert!(error.contains("Agni!") && error.contains("lower-case"), "{error}");
    }

    #[test]
    fn rooms_have_names_as_people_give_them() {
        // covers B05, B19
        let long = "\u{e9}".repeat(64);
        for good in [
            "deploys",
            "pool:7/a",
            "my project (2026)",
            "a@b.example",
            "त्रिशूल",
            "会议:1",
            "1+1=2, ~#%&!",
            &long,
        ] {
            assert_eq!(RoomName::new(good).unwrap().as_str(), good);
        }
        let too_long = format!("{long}a");
        for bad in [
            "",
            " a",
            "a ",
            "a\tb",
            "a\nb",
            "a*",
            "a\"b",
            "a\\b",
            "<a>",
            "$a",
            ":a",
            "/a",
            "a\u{a0}b",
            "a\u{202e}b",
            "\u{200b}",
            "a\u{feff}",
            "a\u{85}",
            &too_long,
        ] {
            assert!(RoomName::new(bad).is_err(), "{bad:?} must not be a room name");
        }
    }

    #[test]
    fn an_address_without_a_namespace_is_in_the_senders() {
        // covers T08
        let home = Namespace::new("trishula").unwrap();
        assert_eq!(AgentAddr::parse("dc", &home).unwrap().to_string(), "trishula/dc");
        assert_eq!(AgentAddr::parse("akosha/dc", &home).unwrap().to_string(), "akosha/dc");
        assert!(AgentAddr::parse("a/b/c", &home).is_err());
    }
}
