//! Frames about rooms (docs/protocol.md, section 10).

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::retry::retyped;
use super::{ClientFrame, Raw, Speaker};
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::{Kind, Target};
use crate::wire::ids::{MessageId, RoomName};
use crate::wire::room::{MAX_HISTORY, Vector};

/// The types of this section, in upper case.
pub(super) const WORDS: [&str; 5] = ["SUBSCRIBE", "UNSUBSCRIBE", "PUBLISH", "PRESENCE", "HISTORY"];
/// How many messages HISTORY answers with, when it does not say.
const DEFAULT_LIMIT: u16 = 50;

/// What a client may say about a room.
#[derive(Debug, Clone, PartialEq)]
pub enum RoomFrame {
    /// Send me what is published there.
    Subscribe {
        /// Where to go on.
        cursor: Option<Vector>,
        /// Without a cursor: begin with so many of the latest messages.
        history: u16,
        /// Whether who joins and leaves is told.
        presence: bool,
    },
    /// No more of it.
    Unsubscribe,
    /// Who is there?
    Presence,
    /// What was published?
    History {
        /// So many at most.
        limit: u16,
        /// Only what came before.
        before: Option<Vector>,
        /// Only what came after.
        after: Option<Vector>,
    },
}

impl RoomFrame {
    /// The frame's type.
    pub fn word(&self) -> &'static str {
        match self {
            RoomFrame::Subscribe { .. } => "SUBSCRIBE",
            RoomFrame::Unsubscribe => "UNSUBSCRIBE",
            RoomFrame::Presence => "PRESENCE",
            RoomFrame::History { .. } => "HISTORY",
        }
    }

    pub(super) fn needs_node(&self) -> bool {
        !matches!(self, RoomFrame::Unsubscribe)
    }
}

/// Payload of SUBSCRIBED.
#[derive(Debug, Serialize, Deserialize)]
pub struct Joined {
    /// The room's name.
    pub room: String,
    /// Where the session stands now.
    pub cursor: String,
    /// Whether nothing is missing between the cursor that it gave and what follows.
    pub recovered: bool,
    /// How many messages follow before new ones.
    pub missed: usize,
    /// Who is there.
    pub members: Vec<String>,
}

/// Payload of UNSUBSCRIBED.
#[derive(Debug, Serialize, Deserialize)]
pub struct Left {
    /// The room's name.
    pub room: String,
}

/// Payload of PRESENCE when it was asked for.
#[derive(Debug, Serialize, Deserialize)]
pub struct MembersPayload {
    /// The room's name.
    pub room: String,
    /// Who is there.
    pub members: Vec<String>,
    /// Whether these are all.
    pub complete: bool,
}

/// Payload of PRESENCE as an event.
#[derive(Debug, Serialize, Deserialize)]
pub struct MemberEvent {
    /// The room's name.
    pub room: String,
    /// `joined` or `left`.
    pub event: String,
    /// Who.
    pub agent: String,
}

/// Payload of HISTORY.
#[derive(Debug, Serialize, Deserialize)]
pub struct HistoryPayload {
    /// The room's name.
    pub room: String,
    /// The messages as subscribers get them, oldest first.
    pub messages: Vec<Box<RawValue>>,
    /// Where to go on.
    pub cursor: String,
    /// Whether nothing is left in that direction.
    pub complete: bool,
}

#[derive(Deserialize)]
struct Subscribe {
    #[serde(default)]
    cursor: Option<String>,
    #[serde(default)]
    history: Option<u32>,
    #[serde(default)]
    presence: Option<bool>,
}

#[derive(Deserialize)]
struct History {
    #[serde(default)]
    limit: Option<u32>,
    #[serde(default)]
    before: Option<String>,
    #[serde(default)]
    after: Option<String>,
}

impl Raw<'_> {
    /// `None`: it is no frame about rooms.
    pub(super) fn room(
        &self,
        word: &str,
        text: &str,
        speaker: Speaker<'_>,
    ) -> Result<Option<ClientFrame>, Refusal> {
        let frame = match word {
            "SUBSCRIBE" => {
                let given: Subscribe = self.control(text)?;
                let history = bounded("history", given.history, 0, 0)?;
                let cursor = cursor("cursor", given.cursor)?;
                RoomFrame::Subscribe { cursor, history, presence: given.presence.unwrap_or(false) }
            }
            "UNSUBSCRIBE" => RoomFrame::Unsubscribe,
            "PRESENCE" => RoomFrame::Presence,
            "HISTORY" => {
                let given: History = self.control(text)?;
                if given.before.is_some() && given.after.is_some() {
                    return Err(bad("before and after: one of them at most".into()));
                }
                let limit = bounded("limit", given.limit, 1, DEFAULT_LIMIT)?;
                let (before, after) = (cursor("before", given.before)?, cursor("after", given.after)?);
                RoomFrame::History { limit, before, after }
            }
            _ => return Ok(None),
        };
        Ok(Some(ClientFrame::Room(self.room_name(speaker)?, frame)))
    }

    /// PUBLISH is STATUS under another name.
    pub(super) fn publish(
        &self,
        bytes: &Bytes,
        id: Option<&MessageId>,
        speaker: Speaker<'_>,
        stamp: impl Fn() -> (MessageId, u64),
    ) -> Result<ClientFrame, Refusal> {
        self.room_name(speaker)?;
        let text = retyped(bytes, Kind::Status.as_str()).ok_or_else(|| bad("type: can't be read".into()))?;
        self.message(Kind::Status, &text, id, speaker, stamp)
    }

    /// A room of the session's own namespace.
    fn room_name(&self, speaker: Speaker<'_>) -> Result<RoomName, Refusal> {
        match self.target(speaker)? {
            Target::Room(namespace, name) if namespace == *speaker.namespace => Ok(name),
            Target::Room(namespace, _) => {
                let message = format!("to: no rule lets this session into rooms of {namespace}");
                Err(Refusal::new(Code::Forbidden, message))
            }
            _ => Err(bad(format!("to: {} is for a room, which is written room:NAME", self.kind.0))),
        }
    }
}

fn bad(message: String) -> Refusal {
    Refusal::new(Code::BadFrame, message)
}

fn bounded(field: &str, given: Option<u32>, least: u16, default: u16) -> Result<u16, Refusal> {
    let Some(given) = given else { return Ok(default) };
    match u16::try_from(given) {
        Ok(number) if (least..=MAX_HISTORY).contains(&number) => Ok(number),
        _ => Err(bad(format!("{field}: {given} is not from {least} to {MAX_HISTORY}"))),
    }
}

fn cursor(field: &str, given: Option<String>) -> Result<Option<Vector>, Refusal> {
    let read = given.as_deref().map(Vector::from_cursor).transpose();
    read.map_err(|why| bad(format!("{field}: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::client::{Parsed, Refused, parse};
    use crate::wire::ids::{AgentAddr, Namespace};

    fn read(text: &str) -> Result<ClientFrame, Code> {
        let namespace = Namespace::new("trishula").unwrap();
        let agent = AgentAddr::parse("dc", &namespace).unwrap();
        let speaker = Speaker {
            agent: Some(&agent),
            namespace: &namespace,
            max_frame: 10_000,
            receipts: None,
            copies: 1,
        };
        let stamp = || (MessageId::new("made").unwrap(), 7);
        let parsed: Result<Parsed, Refused> = parse(&Bytes::copy_from_slice(text.as_bytes()), speaker, stamp);
        parsed.map(|parsed| parsed.frame).map_err(|refused| refused.refusal.code)
    }

    #[test]
    fn frames_about_rooms_are_read_with_their_defaults() {
        // covers B07
        let name = RoomName::new("deploys").unwrap();
        let plain = RoomFrame::Subscribe { cursor: None, history: 0, presence: false };
        let subscribe = read(r#"{"type":"subscribe","to":"room:deploys"}"#).unwrap();
        assert_eq!(subscribe, ClientFrame::Room(name.clone(), plain));
        let cursor = Vector::default().to_cursor();
        let text = format!(
            r#"{{"type":"SUBSCRIBE","to":"room:deploys","payload":{{"cursor":"{cursor}","history":null,"presence":true}}}}"#
        );
        let full = RoomFrame::Subscribe { cursor: Some(Vector::default()), history: 0, presence: true };
        assert_eq!(read(&text).unwrap(), ClientFrame::Room(name.clone(), full));
        let history = read(r#"{"type":"HISTORY","to":"trishula/room:deploys","limit":7}"#).unwrap();
        let expected = RoomFrame::History { limit: 7, before: None, after: None };
        assert_eq!(history, ClientFrame::Room(name, expected));
    }

    #[test]
    fn publish_is_a_status_with_the_same_text() {
        // covers B07
        let text =
            r#"{"x":{"type":1}, "type" : "publish","to":"room:deploys","id":"p-1","payload":{"a":1.0}}"#;
        let ClientFrame::Message(head, payload) = read(text).unwrap() else { panic!("no message") };
        assert_eq!((head.kind, head.id.as_str()), (Kind::Status, "p-1"));
        let expected = r#"{"from":"dc","timestamp":7,"x":{"type":1}, "type" : "STATUS","to":"room:deploys","id":"p-1","payload":{"a":1.0}}"#;
        assert_eq!(payload, expected);
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_code() {
        // covers B07, B19
        for (text, code) in [
            (r#"{"type":"SUBSCRIBE"}"#, Code::BadFrame),
            (r#"{"type":"SUBSCRIBE","to":"agni"}"#, Code::BadFrame),
            (r#"{"type":"SUBSCRIBE","to":"room:"}"#, Code::BadName),
            (r#"{"type":"SUBSCRIBE","to":"other/room:x"}"#, Code::Forbidden),
            (r#"{"type":"SUBSCRIBE","to":"room:x","payload":{"cursor":"AAEC"}}"#, Code::BadFrame),
            (r#"{"type":"SUBSCRIBE","to":"room:x","payload":{"history":1001}}"#, Code::BadFrame),
            (r#"{"type":"SUBSCRIBE","to":"room:x","payload":{"presence":1}}"#, Code::BadFrame),
            (r#"{"type":"HISTORY","to":"room:x","limit":0}"#, Code::BadFrame),
            (
                r#"{"type":"HISTORY","to":"room:x","payload":{"before":"AQAA","after":"AQAA"}}"#,
                Code::BadFrame,
            ),
            (r#"{"type":"PUBLISH","to":"agni","payload":1}"#, Code::BadFrame),
            (r#"{"type":"PUBLISH","payload":1}"#, Code::BadFrame),
        ] {
            assert_eq!(read(text).err(), Some(code), "{text}");
        }
    }
}
