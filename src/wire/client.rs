//! Client frames (docs/protocol.md): JSON text ↔ types.
//!
//! A frame is read once, where it enters: the whole text is checked, the fields that the mesh needs are
//! taken out, and the text itself travels on as the payload, byte for byte. Only `from`, `id` and
//! `timestamp`, when the client left them out, are inserted behind the opening brace.

mod insert;
mod number;
mod register;
mod retry;
mod server;
mod text;

use bytes::Bytes;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::close::{Code, Refusal};
use super::envelope::{Class, Form, Head, Kind, Priority, State, Target};
use super::ids::{AgentAddr, MessageId, NameError, Namespace};

use insert::Missing;
pub use insert::marked;
use register::RawRegister;
pub use register::{AckMode, MAX_CAPABILITIES, MAX_CAPABILITY, Register};
pub use retry::{Renamed, renamed};
pub use server::{ErrorPayload, ServerFrame};
use text::Str;
pub use text::check_depth;

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
    /// A frame of the protocol that this release does not serve.
    Reserved(&'static str),
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
            ClientFrame::Reserved(word) => (*word).into(),
        }
    }

    /// Whether it can only be served by the session's node.
    pub fn needs_node(&self) -> bool {
        matches!(self, ClientFrame::Message(..) | ClientFrame::Agents | ClientFrame::Query { .. })
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
    timestamp: Option<f64>,
    #[serde(default, borrow, deserialize_with = "present")]
    payload: Option<&'a RawValue>,
    #[serde(default)]
    priority: Option<u8>,
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

/// Frames of the protocol that a later release serves.
const RESERVED: [&str; 5] = ["SUBSCRIBE", "UNSUBSCRIBE", "PUBLISH", "PRESENCE", "HISTORY"];

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
            "REGISTER" => self.control::<RawRegister>(text)?.check().map(ClientFrame::Register),
            "UNREGISTER" => Ok(ClientFrame::Unregister),
            "AGENTS" => Ok(ClientFrame::Agents),
            "NACK" => self.nack(text, speaker),
            "QUERY" => self.query(text, speaker),
            word => match RESERVED.into_iter().find(|reserved| *reserved == word) {
                Some(reserved) => Ok(ClientFrame::Reserved(reserved)),
                None => {
                    let shown: String = kind.chars().take(40).collect();
                    Err(Refusal::new(
                        Code::UnknownType,
                        format!("type: {shown:?} is not a type of this protocol"),
                    ))
                }
            },
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

    fn message(
        &self,
        kind: Kind,
        bytes: &Bytes,
        id: Option<&MessageId>,
        speaker: Speaker<'_>,
        stamp: impl Fn() -> (MessageId, u64),
    ) -> Result<ClientFrame, Refusal> {
        let Some(agent) = speaker.agent else {
            return Err(Refusal::new(
                Code::NotRegistered,
                format!("{kind} needs a registered agent to come from"),
            ));
        };
        self.check_fields()?;
        self.check_from(agent, speaker.namespace)?;
        let (stamped_id, now_ms) = match (id, self.timestamp) {
            (Some(id), Some(at)) => (id.clone(), at as u64),
            (given, at) => {
                let (new, now) = stamp();
                (given.cloned().unwrap_or(new), at.map_or(now, |at| at as u64))
            }
        };
        let (class, to) = (self.class(kind)?, self.target(speaker)?);
        let head = Head {
            from: agent.clone(),
            number: self.number.map(|given| number::read(given, &to)).transpose()?,
            to,
            kind,
            priority: self.priority()?,
            class,
            reply_to: self.reply_to()?,
            receipt: self.receipt(class, speaker)?,
            ttl_ms: self.ttl_ms,
            not_before_ms: self.not_before_ms,
            copies: self.copies()?,
            create: self.create.unwrap_or(false),
            form: Form::Json,
            id: stamped_id,
            sent_ms: now_ms,
            depth: 0,
            retry_of: None,
            taken: 0,
        };
        let missing = Missing {
            from: self.from.is_none().then_some(&head.from.name),
            id: id.is_none().then_some(&head.id),
            timestamp: self.timestamp.is_none().then_some(now_ms),
        };
        let payload = missing.insert_into(bytes);
        Ok(ClientFrame::Message(Box::new(head), payload))
    }

    fn check_fields(&self) -> Result<(), Refusal> {
        let bad = |message: String| Err(Refusal::new(Code::BadFrame, message));
        let ours = [("redelivered", self.redelivered), ("cursor", self.cursor), ("retry_of", self.retry_of)];
        if let Some((name, _)) = ours.into_iter().find(|(_, given)| given.is_some()) {
            return bad(format!("{name}: only the server adds it"));
        }
        if let Some(at) = self.timestamp.filter(|at| !(0.0..=MAX_TIMESTAMP).contains(at)) {
            return bad(format!("timestamp: {at} is not from 0 to {MAX_TIMESTAMP}"));
        }
        if let Some(ms) = self.ttl_ms.filter(|ms| !(1..=MAX_DURATION_MS).contains(ms)) {
            return bad(format!("ttl_ms: {ms} is not from 1 to {MAX_DURATION_MS}"));
        }
        if let Some(ms) = self.not_before_ms.filter(|ms| *ms > MAX_DURATION_MS) {
            return bad(format!("not_before_ms: {ms} is over {MAX_DURATION_MS}"));
        }
        Ok(())
    }

    fn check_from(&self, agent: &AgentAddr, home: &Namespace) -> Result<(), Refusal> {
        let Some(from) = &self.from else { return Ok(()) };
        match AgentAddr::parse(&from.0, home) {
            Ok(given) if given == *agent => Ok(()),
            Ok(given) => {
                let message = format!("from: {given} is not this session's agent, {agent}");
                Err(Refusal::new(Code::FromMismatch, message))
            }
            Err(e) => Err(Refusal::new(Code::BadName, format!("from: {e}"))),
        }
    }

    fn target(&self, speaker: Speaker<'_>) -> Result<Target, Refusal> {
        let Some(to) = &self.to else {
            return Err(Refusal::new(Code::BadFrame, format!("to: {} must say whom it is for", self.kind.0)));
        };
        Target::parse(&to.0, speaker.namespace).map_err(|e| Refusal::new(Code::BadName, format!("to: {e}")))
    }

    fn priority(&self) -> Result<Priority, Refusal> {
        let Some(number) = self.priority else { return Ok(Priority::DEFAULT) };
        Priority::new(number)
            .ok_or_else(|| Refusal::new(Code::BadFrame, format!("priority: {number} is not from 1 to 5")))
    }

    fn class(&self, kind: Kind) -> Result<Class, Refusal> {
        match self.class.as_ref().map(|word| word.0.as_ref()) {
            None => Ok(kind.default_class()),
            Some("durable") => Ok(Class::Durable),
            Some("live") => Ok(Class::Live),
            Some(_) => Err(Refusal::new(Code::BadFrame, "class: is neither \"durable\" nor \"live\"")),
        }
    }

    fn copies(&self) -> Result<u8, Refusal> {
        match self.copies {
            None => Ok(1),
            Some(n @ 1..=2) => Ok(n),
            Some(n) => Err(Refusal::new(Code::BadFrame, format!("copies: {n} is neither 1 nor 2"))),
        }
    }

    fn receipt(&self, class: Class, speaker: Speaker<'_>) -> Result<Option<State>, Refusal> {
        let Some(word) = &self.receipt else {
            let to_one = self.to.as_ref().is_some_and(|to| !is_broadcast(&to.0));
            let wish = speaker.receipts.filter(|_| to_one);
            // Of a live message there is one state to tell.
            return Ok(match class {
                Class::Durable => wish,
                Class::Live => wish.filter(|wish| *wish >= State::Delivered).map(|_| State::Delivered),
            });
        };
        State::parse_wish(&word.0)
            .map_err(|why| Refusal::new(Code::BadFrame, format!("receipt: {:?} {why}", word.0)))
    }

    /// Old writers say `null` or an empty string for "answers nothing".
    fn reply_to(&self) -> Result<Option<MessageId>, Refusal> {
        match self.reply_to.as_ref().filter(|id| !id.0.is_empty()) {
            None => Ok(None),
            Some(id) => MessageId::new(&id.0)
                .map(Some)
                .map_err(|e| Refusal::new(Code::BadName, format!("reply_to: {e}"))),
        }
    }
}

fn is_broadcast(to: &str) -> bool {
    to.rsplit('/').next() == Some("broadcast")
}

/// A type of the protocol, in upper case. Others are not repeated: they may be of any length.
fn known_word(kind: &str) -> Option<String> {
    const CONTROL: [&str; 6] = ["AUTH", "REGISTER", "UNREGISTER", "AGENTS", "NACK", "QUERY"];
    let word = kind.to_ascii_uppercase();
    let control = CONTROL.iter().chain(&RESERVED).any(|known| *known == word);
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

/// Present means not null: a null would stand beside the value that we insert.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}
