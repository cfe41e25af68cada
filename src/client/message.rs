//! What a client sends and gets.

use bytes::Bytes;
use rand::RngExt;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Error;
use crate::rt::clock;
use crate::wire::client::{MESH, Timestamp, Urgency};
use crate::wire::envelope::{Class, Kind, Numbered};

/// Payload of an ACK that no program has asked for.
const AUTOMATIC: &str = r#"{"auto":true}"#;

/// A message as it arrived, from an agent or from `mesh`.
#[derive(Debug, Clone, Deserialize)]
pub struct Message {
    /// COMMAND, RESULT … or a control type of the mesh's.
    #[serde(rename = "type")]
    pub kind: String,
    /// Who sent it.
    pub from: String,
    /// To whom.
    #[serde(default)]
    pub to: String,
    /// What the sender calls it.
    #[serde(default)]
    pub id: String,
    /// Milliseconds since the epoch, by the sender's clock.
    #[serde(default, deserialize_with = "timestamp")]
    pub timestamp: f64,
    /// 1 to 5.
    #[serde(default = "default_priority", deserialize_with = "priority")]
    pub priority: u8,
    /// The message that it answers.
    #[serde(default)]
    pub reply_to: Option<String>,
    /// `durable` or `live`, where its sender said so.
    #[serde(default)]
    pub class: Option<String>,
    /// It may have come before.
    #[serde(default)]
    pub redelivered: bool,
    /// Of a message of a room: the place behind it, from which to go on.
    #[serde(default)]
    pub cursor: Option<String>,
    /// JSON, as it was written.
    #[serde(default = "null")]
    pub payload: Box<RawValue>,
    /// The whole of it as it arrived, with the fields that nobody here knows.
    #[serde(skip)]
    pub frame: Bytes,
}

fn default_priority() -> u8 {
    3
}

/// A sender may have written it as text.
fn timestamp<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Timestamp::deserialize(from).map(|at| at.0)
}

/// A sender may have written it as a word, or `null` for none.
fn priority<'de, D: Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
    let given = Option::<Urgency>::deserialize(from)?;
    Ok(given.map_or_else(default_priority, |urgency| urgency.0))
}

fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

impl Message {
    pub(super) fn parse(frame: &Bytes) -> Result<Message, Error> {
        let read: Result<Message, _> = serde_json::from_slice(frame);
        read.map(|message| Message { frame: frame.clone(), ..message })
            .map_err(|e| Error::Malformed(e.to_string()))
    }

    /// Whether the mesh itself speaks.
    pub fn is_from_mesh(&self) -> bool {
        self.from == MESH
    }

    /// Whether it is of this type.
    pub fn is(&self, kind: Kind) -> bool {
        Kind::parse(&self.kind) == Some(kind)
    }

    /// Whether the mesh keeps it until it is acknowledged.
    pub fn is_durable(&self) -> bool {
        let by_kind = || Kind::parse(&self.kind).is_some_and(|kind| kind.default_class() == Class::Durable);
        !self.is_from_mesh()
            && self.cursor.is_none()
            && self.class.as_deref().map_or_else(by_kind, |class| class == "durable")
    }

    /// Whether it is an ACK that a client like this one sent by itself: no word of its program's.
    pub(super) fn is_automatic(&self) -> bool {
        self.is(Kind::Ack) && self.payload.get() == AUTOMATIC
    }

    /// The payload as a type of the caller's.
    pub fn read<T: for<'de> Deserialize<'de>>(&self) -> Result<T, Error> {
        serde_json::from_str(self.payload.get())
            .map_err(|e| Error::Malformed(format!("payload of {}: {e}", self.kind)))
    }
}

/// A message to send.
#[derive(Debug, Clone, Serialize)]
pub struct Outgoing {
    /// COMMAND, RESULT …
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// An agent, `namespace/agent` or `broadcast`.
    pub to: String,
    /// Unique for the sender; a resend carries the same.
    pub id: String,
    /// When it was made, in milliseconds since the epoch: a resend keeps it, and so is known for one after a move.
    pub timestamp: u64,
    /// Any JSON.
    pub payload: Value,
    /// 1 (most urgent) to 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// The message that this one answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// The last state to be told of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
    /// Milliseconds that it may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Milliseconds that it is held back for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before_ms: Option<u64>,
    /// `durable` or `live`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<&'static str>,
    /// On how many machines it must lie before it is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copies: Option<u8>,
    /// Keep it for a recipient that has never registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create: Option<bool>,
    /// Which one it is of this client's to that recipient: given when it is sent first (see [`Sender::numbered`](super::Sender::numbered)).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<Numbered>,
}

impl Outgoing {
    /// A message of any kind, with a new id.
    pub fn new(kind: Kind, to: &str, payload: Value) -> Outgoing {
        Outgoing {
            kind: kind.as_str(),
            to: to.to_owned(),
            id: new_id(),
            timestamp: clock::wall_ms(),
            payload,
            priority: None,
            reply_to: None,
            receipt: None,
            ttl_ms: None,
            not_before_ms: None,
            class: None,
            copies: None,
            create: None,
            number: None,
        }
    }

    /// A COMMAND.
    pub fn command(to: &str, payload: Value) -> Outgoing {
        Outgoing::new(Kind::Command, to, payload)
    }

    /// The RESULT that answers a message.
    pub fn result(of: &Message, payload: Value) -> Outgoing {
        Outgoing { reply_to: Some(of.id.clone()), ..Outgoing::new(Kind::Result, &of.from, payload) }
    }

    pub(super) fn to_frame(&self) -> Result<Bytes, Error> {
        serde_json::to_vec(self).map(Bytes::from).map_err(|e| Error::Malformed(e.to_string()))
    }
}

/// What a client does with a message that it was delivered.
#[derive(Debug)]
pub(super) enum Verdict {
    Acked { automatic: bool },
    Nacked { reason: String, requeue: bool },
}

/// The name of a message: who sent it, and what the sender calls it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Name {
    from: String,
    id: String,
}

impl Name {
    pub(super) fn of(message: &Message) -> Name {
        Name { from: message.from.clone(), id: message.id.clone() }
    }

    /// The frame that says the verdict.
    pub(super) fn settle(&self, id: &str, verdict: &Verdict) -> Bytes {
        let frame = match verdict {
            Verdict::Acked { automatic } => json!({
                "type": "ACK", "id": id, "to": self.from, "reply_to": self.id, "payload": automatic.then(|| json!({"auto": true})),
            }),
            Verdict::Nacked { reason, requeue } => json!({
                "type": "NACK", "id": id, "to": self.from, "reply_to": self.id, "payload": {"reason": reason, "requeue": requeue},
            }),
        };
        Bytes::from(frame.to_string())
    }
}

/// 128 random bits: no two clients choose the same.
pub(super) fn new_id() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}

/// Payload of REGISTERED.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Registered {
    /// Who the session is.
    pub agent: String,
    /// Its namespace.
    pub namespace: String,
    /// The node that serves it.
    pub node: String,
    /// The session's name in logs.
    pub session: String,
}

/// One agent of the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Agent {
    /// Its name.
    pub agent: String,
    /// Whether it is connected.
    pub online: bool,
    /// Where it registered last.
    pub node: String,
    /// What it can.
    pub capabilities: Vec<String>,
}

pub(super) fn agents(answer: &Message) -> Result<Vec<Agent>, Error> {
    #[derive(Deserialize)]
    struct List {
        agents: Vec<Agent>,
    }
    Ok(answer.read::<List>()?.agents)
}
