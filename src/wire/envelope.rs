//! The envelope: a small typed head that every hop reads, and a payload that only the two ends do.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::close::{Code, Refusal};
use super::ids::{AgentAddr, AgentName, MessageId, NameError, Namespace, RoomName};

/// What those files call a message, and what that is here.
const FILE_WORDS: [(&str, Kind); 6] = [
    ("task", Kind::Command),
    ("response", Kind::Result),
    ("standup", Kind::Status),
    ("file_share", Kind::Status),
    ("proposal", Kind::Status),
    ("broadcast", Kind::Status),
];

/// The six words of the client envelope's `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Asks an agent to do something.
    Command,
    /// Tells how something stands.
    Status,
    /// Answers a command.
    Result,
    /// Says that something failed.
    Error,
    /// A sign of life.
    Heartbeat,
    /// Acknowledges a message.
    Ack,
}

impl Kind {
    /// Every kind, in the order of the protocol's table.
    pub const ALL: [Kind; 6] =
        [Kind::Command, Kind::Status, Kind::Result, Kind::Error, Kind::Heartbeat, Kind::Ack];

    /// The word on the client's wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Command => "COMMAND",
            Kind::Status => "STATUS",
            Kind::Result => "RESULT",
            Kind::Error => "ERROR",
            Kind::Heartbeat => "HEARTBEAT",
            Kind::Ack => "ACK",
        }
    }

    /// Reads the word, in either case: one of the six, or one of the files that agents exchanged before.
    pub fn parse(word: &str) -> Option<Kind> {
        let known = Kind::ALL.into_iter().map(|kind| (kind.as_str(), kind));
        let (_, kind) = known.chain(FILE_WORDS).find(|(known, _)| known.eq_ignore_ascii_case(word))?;
        Some(kind)
    }

    /// The class that a message of this kind has when its sender does not choose.
    pub fn default_class(self) -> Class {
        match self {
            Kind::Heartbeat | Kind::Ack => Class::Live,
            _ => Class::Durable,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// 1 (most urgent) to 5 (bulk).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Priority(u8);

impl Priority {
    /// The most urgent: waits for nothing else on any hop.
    pub const URGENT: Priority = Priority(1);
    /// The least urgent: it has what the others leave.
    pub const BULK: Priority = Priority(5);
    /// What a message has whose sender does not say.
    pub const DEFAULT: Priority = Priority(3);

    /// Checks a number.
    pub fn new(number: u8) -> Option<Priority> {
        (1..=5).contains(&number).then_some(Priority(number))
    }

    /// The number, 1 to 5.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Priority {
    type Error = &'static str;
    fn try_from(number: u8) -> Result<Self, Self::Error> {
        Priority::new(number).ok_or("priority is a number from 1 to 5")
    }
}

impl From<Priority> for u8 {
    fn from(priority: Priority) -> u8 {
        priority.0
    }
}

/// What is promised for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Kept until its end is known.
    Durable,
    /// At most once; worthless when late.
    Live,
}

/// Whom a message is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Target {
    /// One agent.
    Agent(AgentAddr),
    /// Every registered agent of a namespace but the sender.
    Broadcast(Namespace),
    /// Everybody in a room.
    Room(Namespace, RoomName),
}

impl Target {
    /// Reads `name`, `namespace/name`, `broadcast`, `room:NAME` or `namespace/room:NAME`; what has no
    /// namespace is in `home`.
    pub fn parse(given: &str, home: &Namespace) -> Result<Target, NameError> {
        if given == "broadcast" {
            return Ok(Target::Broadcast(home.clone()));
        }
        if let Some(room) = given.strip_prefix("room:") {
            return Ok(Target::Room(home.clone(), RoomName::new(room)?));
        }
        let Some((namespace, name)) = given.split_once('/') else {
            return Ok(Target::Agent(AgentAddr::new(home.clone(), AgentName::new(given)?)));
        };
        let namespace = Namespace::new(namespace)?;
        Ok(match name.strip_prefix("room:") {
            Some(room) => Target::Room(namespace, RoomName::new(room)?),
            None if name == "broadcast" => Target::Broadcast(namespace),
            None => Target::Agent(AgentAddr::new(namespace, AgentName::new(name)?)),
        })
    }

    /// The namespace that the message enters.
    pub fn namespace(&self) -> &Namespace {
        match self {
            Target::Agent(agent) => &agent.namespace,
            Target::Broadcast(namespace) | Target::Room(namespace, _) => namespace,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Agent(agent) => agent.fmt(f),
            Target::Broadcast(namespace) => write!(f, "{namespace}/broadcast"),
            Target::Room(namespace, room) => write!(f, "{namespace}/room:{room}"),
        }
    }
}

/// How far a message is on its way; also the last state that its sender wants to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum State {
    /// Written and fsynced at the node that took it.
    Accepted,
    /// Written and fsynced at the recipient's home.
    Stored,
    /// Written to a socket of the recipient.
    Delivered,
    /// The recipient said that it has done with it.
    Acked,
    /// The recipient refused it.
    Nacked,
    /// Its time to live ran out.
    Expired,
    /// Undeliverable; the reason is with it.
    Dead,
    /// Never taken: its sender has it still. No receipt says this, the sender is told by ERROR.
    Refused,
}

impl State {
    /// The word on the client's wire.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Accepted => "accepted",
            State::Stored => "stored",
            State::Delivered => "delivered",
            State::Acked => "acked",
            State::Nacked => "nacked",
            State::Expired => "expired",
            State::Dead => "dead",
            State::Refused => "refused",
        }
    }

    /// Whether nothing follows it.
    pub fn is_end(self) -> bool {
        self > State::Delivered
    }

    /// Reads one of the four words a sender may wait for; `none` is `Ok(None)`.
    pub fn parse_wish(word: &str) -> Result<Option<State>, &'static str> {
        Ok(Some(match word {
            "none" => return Ok(None),
            "accepted" => State::Accepted,
            "stored" => State::Stored,
            "delivered" => State::Delivered,
            "acked" => State::Acked,
            _ => return Err("is not one of none, accepted, stored, delivered, acked"),
        }))
    }
}

/// How the payload is written; only the two ends care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Form {
    /// One JSON object (RFC 8259): the whole client envelope, as its sender wrote it.
    Json,
    /// The same as one MessagePack map.
    MsgPack,
}

/// A sender's count of its messages to one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Numbered {
    /// Greater than that of every earlier count of the same sender.
    pub epoch: u64,
    /// From 1; the same message sent again has the same.
    pub n: u64,
}

/// What every hop knows of a message. Encoded by postcard: fields may only be added at the end, and are
/// written only to a peer that said in its HELLO that it reads them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The sender, stamped by the entrance that authenticated it.
    pub from: AgentAddr,
    /// The recipient.
    pub to: Target,
    /// What the sender calls it.
    pub id: MessageId,
    /// COMMAND, RESULT …
    pub kind: Kind,
    /// 1 to 5.
    pub priority: Priority,
    /// Durable or live.
    pub class: Class,
    /// The message that this one answers or acknowledges.
    pub reply_to: Option<MessageId>,
    /// The last state that the sender wants to be told.
    pub receipt: Option<State>,
    /// Milliseconds that it may still live.
    pub ttl_ms: Option<u64>,
    /// Milliseconds until it may be delivered.
    pub not_before_ms: Option<u64>,
    /// On how many machines it must be before it is accepted: 1 or 2.
    pub copies: u8,
    /// Whether an agent that was never seen gets a mailbox.
    pub create: bool,
    /// How the payload is written.
    pub form: Form,
    /// When it was sent, in milliseconds since the epoch, by its sender's clock.
    pub sent_ms: u64,
    /// How many messages it is the answer to an answer of: 0 for one that answers nothing.
    pub depth: u16,
    /// The message whose content it has, which died.
    pub retry_of: Option<MessageId>,
    /// When a node took it, by its hybrid logical clock: milliseconds times 65,536 plus a counter. Orders traces,
    /// audit and merged history, nothing else.
    pub taken: u64,
    /// Which one it is of its sender's to this recipient, where the sender counts them.
    pub number: Option<Numbered>,
}

/// What a message is called outside: its sender and what that calls it, and one of its recipients.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageKey {
    /// Who sent it.
    pub from: AgentAddr,
    /// What the sender calls it.
    pub id: MessageId,
    /// To whom.
    pub to: AgentAddr,
}

impl Head {
    /// A message that asks for nothing: in its kind's class, of the default priority, in JSON, without times.
    pub fn new(from: AgentAddr, to: Target, id: MessageId, kind: Kind) -> Head {
        Head {
            from,
            to,
            id,
            kind,
            priority: Priority::DEFAULT,
            class: kind.default_class(),
            reply_to: None,
            receipt: None,
            ttl_ms: None,
            not_before_ms: None,
            copies: 1,
            create: false,
            form: Form::Json,
            sent_ms: 0,
            depth: 0,
            retry_of: None,
            taken: 0,
            number: None,
        }
    }

    /// Why this release does not carry the message; what the protocol has and is not served yet is refused, never
    /// half done. An entrance says so at once; a node checks again, as it trusts no entrance with that.
    pub fn refusal(&self) -> Option<Refusal> {
        let unserved = match (&self.to, self.receipt) {
            (to, _) if *to.namespace() != self.from.namespace => {
                let message = format!("no rule lets {} send into {}", self.from, to.namespace());
                return Some(Refusal::new(Code::Forbidden, message));
            }
            (Target::Room(..), _) if self.ttl_ms.is_some() => "ttl_ms of a message to a room",
            (Target::Room(..), _) if self.not_before_ms.is_some_and(|ms| ms > 0) => {
                "not_before_ms of a message to a room"
            }
            (Target::Room(..), _) if self.copies > 1 => "copies: 2 of a message to a room",
            (Target::Room(..), _) => return None,
            (Target::Broadcast(_), Some(_)) if self.class == Class::Live => "a receipt for a live broadcast",
            (Target::Broadcast(_), Some(wish)) if wish != State::Accepted => {
                "a receipt for a broadcast other than accepted"
            }
            (_, Some(wish)) if self.class == Class::Live && wish != State::Delivered => {
                "a receipt of a live message other than delivered"
            }
            _ if self.class == Class::Live && self.copies > 1 => "copies: 2 of a live message",
            _ if self.class == Class::Live && self.not_before_ms.is_some_and(|ms| ms > 0) => {
                "not_before_ms of a live message"
            }
            _ => return None,
        };
        Some(Refusal::unserved(unserved))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_the_protocol_says() {
        // covers T04, T08
        let home = Namespace::new("trishula").unwrap();
        for (given, shown) in [
            ("agni", "trishula/agni"),
            ("akosha/indexer", "akosha/indexer"),
            ("broadcast", "trishula/broadcast"),
            ("akosha/broadcast", "akosha/broadcast"),
            ("room:build/42", "trishula/room:build/42"),
            ("akosha/room:metrics", "akosha/room:metrics"),
        ] {
            assert_eq!(Target::parse(given, &home).unwrap().to_string(), shown);
        }
        for bad in ["", "room:", "a/b/c", "UP/agent", "mesh"] {
            assert!(Target::parse(bad, &home).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn kinds_are_read_in_either_case_and_priorities_have_bounds() {
        // covers T04
        assert_eq!(Kind::parse("command"), Some(Kind::Command));
        assert_eq!(Kind::parse("TASK"), Some(Kind::Command), "a word of the files");
        assert_eq!(Kind::parse("chore"), None);
        assert_eq!(Priority::new(0), None);
        assert_eq!(Priority::new(6), None);
        assert_eq!(Priority::new(1), Some(Priority::URGENT));
    }
}
