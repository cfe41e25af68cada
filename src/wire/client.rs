//! Client frames (docs/protocol.md): JSON text ↔ types.
//!
//! A frame is read once, where it enters: the whole text is checked, the fields that the mesh needs are
//! taken out, and the text itself travels on as the payload, byte for byte. Only `from`, `id` and
//! `timestamp`, when the client left them out, are inserted behind the opening brace.

mod insert;
mod message;
mod number;
mod register;
mod retry;
mod room;
mod server;
mod text;
mod words;

use bytes::Bytes;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::close::{Code, Refusal};
use super::envelope::{Head, Kind, State, Target};
use super::ids::{AgentAddr, MessageId, NameError, Namespace, RoomName};

pub use insert::{marked, placed};
use register::RawRegister;
pub use register::{AckMode, MAX_CAPABILITIES, MAX_CAPABILITY, Register};
pub use retry::{Renamed, renamed};
pub use room::{HistoryPayload, Joined, Left, MemberEvent, MembersPayload, RoomFrame};
pub use server::{ErrorPayload, ServerFrame};
use text::Str;
pub use text::check_depth;
pub use words::{Timestamp, Urgency};

/// Largest frame by default, in bytes.
pub const DEFAULT_MAX_FRAME: usize = 1 << 20;
/// Deepest nesting of arrays and objects.
pub const MAX_DEPTH: usize = 64;
/// Longest time to live and longest delay, in milliseconds: 30 days.
const MAX_DURATION_MS: u64 = 30 * 24 * 3600 * 1000;
/// Latest timestamp, in milliseconds: what a float holds exactly.
const MAX_TIMESTAMP: f64 = 9_007_199_254_740_991.0;
/// Longest reason of a NACK, in characters.
const MAX_REASON: usize = 256;
/// What `from` is when the mesh itself speaks.
pub const MESH: &str = "mesh";

/// Who speaks on a session: what a frame is checked against.
#[derive(Debug, Clone, Copy)]
pub struct Speaker<'a> {
    /// The session's agent, once it has one.
    pub agent: Option<&'a AgentAddr>,
    /// The session's namespace: names without one are in it.
    pub namespace: &'a Namespace,
    /// Largest frame in bytes.
    pub max_frame: usize,
    /// The last state to be told of when a message to an agent does not say.
    pub receipts: Option<State>,
    /// On how many machines a durable message must be before it is accepted when it does not say: 1 or 2.
    pub copies: u8,
}

/// What a client may say.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientFrame {
    /// Here is my token, or a fresh one.
    Auth {
        /// The JWT as sent; never logged.
        token: String,
    },
    /// Register me.
    Register(Register),
    /// Forget me.
    Unregister,
    /// I am alive.
    Heartbeat,
    /// Who is there?
    Agents,
    /// I can't do this message.
    Nack {
        /// Who sent it.
        to: Target,
        /// Which.
        message: MessageId,
        /// Why.
        reason: String,
        /// Whether it is to come again later.
        requeue: bool,
    },
    /// Where does this message stand?
    Query {
        /// Its sender; the session's agent when absent.
        from: Option<AgentAddr>,
        /// Which.
        message: MessageId,
    },
    /// Carry this.
    Message(Box<Head>, Bytes),
    /// Something about a room.
    Room(RoomName, RoomFrame),
}

/// A frame with the id that answers refer to.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// As the client gave it.
    pub id: Option<MessageId>,
    /// What it says.
    pub frame: ClientFrame,
}

/// A frame that was refused, with its id if that much could be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// As the client gave it.
    pub id: Option<MessageId>,
    /// Its type in upper case, if that much could be read.
    pub kind: Option<String>,
    /// Why.
    pub refusal: Refusal,
}

impl ClientFrame {
    /// The frame's type.
    pub fn word(&self) -> String {
        match self {
            ClientFrame::Auth { .. } => "AUTH".into(),
            ClientFrame::Register(_) => "REGISTER".into(),
            ClientFrame::Unregister => "UNREGISTER".into(),
            ClientFrame::Heartbeat => "HEARTBEAT".into(),
            ClientFrame::Agents => "AGENTS".into(),
            ClientFrame::Nack { .. } => "NACK".into(),
            ClientFrame::Query { .. } => "QUERY".into(),
            ClientFrame::Message(head, _) => head.kind.as_str().into(),
            ClientFrame::Room(_, frame) => frame.word().into(),
        }
    }

    /// Whether it can only be served by the session's node.
    pub fn needs_node(&self) -> bool {
        match self {
            ClientFrame::Message(..) | ClientFrame::Agents | ClientFrame::Query { .. } => true,
            ClientFrame::Room(_, frame) => frame.needs_node(),
            _ => false,
        }
    }
}

/// Reads one frame. `stamp` is asked for an id and the time in milliseconds when the client left one out.
pub fn parse(
    bytes: &Bytes,
    speaker: Speaker<'_>,
    stamp: impl Fn() -> (MessageId, u64),
) -> Result<Parsed, Refused> {
    let nameless = |refusal| Refused { id: None, kind: None, refusal };
    if bytes.len() > speaker.max_frame {
        let message = format!("the frame has {} bytes; at most {} are taken", bytes.len(), speaker.max_frame);
        return Err(nameless(Refusal::new(Code::TooLarge, message)));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|e| nameless(Refusal::new(Code::BadFrame, format!("the frame is not UTF-8: {e}"))))?;
    // A list of the fields' values in order would pass for an object.
    if !text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{') {
        return Err(nameless(Refusal::new(Code::BadFrame, "the frame is not a JSON object")));
    }
    check_depth(text.as_bytes()).map_err(nameless)?;
    let raw: Raw<'_> = serde_json::from_str(text).map_err(|e| {
        let refusal = Refusal::new(Code::BadFrame, format!("the frame can't be read: {e}"));
        Named::of(text).refused(refusal)
    })?;
    let id = match raw.id.as_ref().map(|id| MessageId::new(&id.0)).transpose() {
        Ok(id) => id,
        Err(e) => return Err(nameless(Refusal::new(Code::BadName, format!("id: {e}")))),
    };
    match raw.read(bytes, text, id.as_ref(), speaker, stamp) {
        Ok(frame) => Ok(Parsed { id, frame }),
        Err(refusal) => Err(Refused { id, kind: known_word(&raw.kind.0), refusal }),
    }
}

/// What is left of a frame with a field of the wrong type: enough to say which frame it was.
#[derive(Default, Deserialize)]
struct Named {
    #[serde(default)]
    id: serde_json::Value,
    #[serde(rename = "type", default)]
    kind: serde_json::Value,
}

impl Named {
    fn of(text: &str) -> Named {
        serde_json::from_str(text).unwrap_or_default()
    }

    fn refused(self, refusal: Refusal) -> Refused {
        let id = self.id.as_str().and_then(|id| MessageId::new(id).ok());
        Refused { id, kind: self.kind.as_str().and_then(known_word), refusal }
    }
}

/// The fields that the mesh knows; all others are checked to be JSON and left alone.
#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(rename = "type", borrow)]
    kind: Str<'a>,
    #[serde(default, borrow, deserialize_with = "present")]
    from: Option<Str<'a>>,
    #[serde(default, borrow)]
    to: Option<Str<'a>>,
    #[serde(default, borrow, deserialize_with = "present")]
    id: Option<Str<'a>>,
    #[serde(default, deserialize_with = "present")]
    timestamp: Option<Timestamp>,
    #[serde(default, borrow, deserialize_with = "present")]
    payload: Option<&'a RawValue>,
    #[serde(default)]
    priority: Option<Urgency>,
    #[serde(default, borrow)]
    reply_to: Option<Str<'a>>,
    #[serde(default)]
    ttl_ms: Option<u64>,
    #[serde(default)]
    not_before_ms: Option<u64>,
    #[serde(default, borrow)]
    class: Option<Str<'a>>,
    #[serde(default)]
    copies: Option<u8>,
    #[serde(default)]
    create: Option<bool>,
    #[serde(default, borrow)]
    receipt: Option<Str<'a>>,
    #[serde(default, borrow)]
    number: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "present")]
    redelivered: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "present")]
    cursor: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "present")]
    retry_of: Option<IgnoredAny>,
}

impl Raw<'_> {
    fn read(
        &self,
        bytes: &Bytes,
        text: &str,
        id: Option<&MessageId>,
        speaker: Speaker<'_>,
        stamp: impl Fn() -> (MessageId, u64),
    ) -> Result<ClientFrame, Refusal> {
        let kind = self.kind.0.as_ref();
        if let Some(kind) = Kind::parse(kind) {
            if kind == Kind::Heartbeat && self.to.as_ref().is_none_or(|to| to.0 == MESH) {
                return Ok(ClientFrame::Heartbeat);
            }
            return self.message(kind, bytes, id, speaker, stamp);
        }
        match kind.to_ascii_uppercase().as_str() {
            "AUTH" => {
                let token = self.control::<Token>(text)?.token;
                Ok(ClientFrame::Auth { token })
            }
            "REGISTER" => {
                if self.has_payload() {
                    register::check_beside(text)?;
                }
                self.control::<RawRegister>(text)?.check().map(ClientFrame::Register)
            }
            "UNREGISTER" => Ok(ClientFrame::Unregister),
            "AGENTS" => Ok(ClientFrame::Agents),
            "NACK" => self.nack(text, speaker),
            "QUERY" => self.query(text, speaker),
            "PUBLISH" => self.publish(bytes, id, speaker, stamp),
            word => self.room(word, text, speaker)?.ok_or_else(|| {
                let shown: String = kind.chars().take(40).collect();
                Refusal::new(Code::UnknownType, format!("type: {shown:?} is not a type of this protocol"))
            }),
        }
    }

    /// What is particular to a control frame lies in its payload, or beside it when there is none.
    fn control<T: DeserializeOwned>(&self, text: &str) -> Result<T, Refusal> {
        let bad = |why: &str| Refusal::new(Code::BadFrame, format!("payload of {}: {why}", self.kind.0));
        let source = self.payload.filter(|_| self.has_payload()).map_or(text, |payload| payload.get());
        if !source.trim_start().starts_with('{') {
            return Err(bad("is not an object"));
        }
        serde_json::from_str(source).map_err(|e| bad(&without_values(&e)))
    }

    fn has_payload(&self) -> bool {
        self.payload.is_some_and(|payload| payload.get() != "null")
    }

    fn nack(&self, text: &str, speaker: Speaker<'_>) -> Result<ClientFrame, Refusal> {
        let message = self.reply_to()?.ok_or_else(|| {
            Refusal::new(Code::BadFrame, "reply_to: NACK must name the message that it refuses")
        })?;
        let Reason { reason, requeue } = self.control(text)?;
        if reason.chars().count() > MAX_REASON {
            let message = format!("reason: has more than {MAX_REASON} characters");
            return Err(Refusal::new(Code::BadFrame, message));
        }
        Ok(ClientFrame::Nack { to: self.target(speaker)?, message, reason, requeue })
    }

    fn query(&self, text: &str, speaker: Speaker<'_>) -> Result<ClientFrame, Refusal> {
        let bad = |field: &str, why: NameError| Refusal::new(Code::BadName, format!("{field}: {why}"));
        let Asked { message, from } = self.control(text)?;
        // In the shorthand `from` is the envelope's: who asks, not whose message it is.
        let from = from.filter(|_| self.has_payload());
        let from = from.map(|from| AgentAddr::parse(&from, speaker.namespace)).transpose();
        let message = MessageId::new(&message).map_err(|e| bad("message", e))?;
        Ok(ClientFrame::Query { from: from.map_err(|e| bad("from", e))?, message })
    }
}

/// A type of the protocol, in upper case. Others are not repeated: they may be of any length.
fn known_word(kind: &str) -> Option<String> {
    const CONTROL: [&str; 6] = ["AUTH", "REGISTER", "UNREGISTER", "AGENTS", "NACK", "QUERY"];
    let word = kind.to_ascii_uppercase();
    let control = CONTROL.iter().chain(&room::WORDS).any(|known| *known == word);
    (control || Kind::parse(&word).is_some()).then_some(word)
}

#[derive(Deserialize)]
struct Token {
    token: String,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    requeue: bool,
}

#[derive(Deserialize)]
struct Asked {
    message: String,
    #[serde(default, deserialize_with = "present")]
    from: Option<String>,
}

/// What serde found, without the values in it: one of them may be a token.
fn without_values(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.split_once("invalid type: ") {
        Some((_, rest)) => match rest.split_once(", expected ") {
            Some((_, expected)) => format!("wrong type, expected {expected}"),
            None => "wrong type".into(),
        },
        None => text,
    }
}

/// On how many machines, if it is said.
fn copies_of(given: Option<u8>) -> Result<Option<u8>, Refusal> {
    match given {
        None | Some(1..=2) => Ok(given),
        Some(n) => Err(Refusal::new(Code::BadFrame, format!("copies: {n} is neither 1 nor 2"))),
    }
}

/// Present means not null: a null would stand beside the value that we insert.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}
