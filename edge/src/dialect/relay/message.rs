//! A message of the old mesh as one of ours, and back.
//!
//! One that is written as ours (types in capitals, numbers for priority and time) travels as it is, with
//! [`AS_IT_IS`] in front; one of the file's vocabulary (words for type and priority, `created_at`) travels whole in a
//! payload. Either way a relay client at the other end gets the text that was written, and any other client a message
//! that it can read.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use trishula::wire::client::{self, ClientFrame, Speaker};
use trishula::wire::close::{Code, Refusal};
use trishula::wire::envelope::{Class, Target};
use trishula::wire::ids::{AgentAddr, MessageId, Namespace};

use crate::dialect::ours::{self, Said};
use crate::dialect::step::Ids;

/// Stands behind the brace of a message that travels as it is. A message is kept also for a recipient that was never
/// seen, as the files of old were.
const AS_IT_IS: &str = "\"x-relay\":1,\"create\":true,";
/// Longest id, in bytes, that is repeated to its writer.
const MAX_ID: usize = 128;

/// What the mesh needs of a message of the file's vocabulary.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(rename = "type", default, borrow)]
    kind: Option<&'a RawValue>,
    #[serde(default, borrow)]
    from: Option<&'a RawValue>,
    #[serde(default, borrow)]
    to: Option<&'a RawValue>,
    #[serde(default, borrow)]
    id: Option<&'a RawValue>,
    #[serde(default, borrow)]
    priority: Option<&'a RawValue>,
    #[serde(default, borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(default, borrow)]
    reply_to: Option<&'a RawValue>,
}

/// The message around it.
#[derive(Serialize)]
struct Around<'a> {
    #[serde(rename = "x-relay")]
    relay: u8,
    create: bool,
    #[serde(rename = "type")]
    kind: &'a str,
    to: &'a str,
    id: &'a str,
    priority: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<&'a str>,
    payload: &'a RawValue,
}

/// What a message says of how it travelled.
#[derive(Default, Deserialize)]
struct Travelled {
    #[serde(rename = "x-relay", default)]
    relay: serde_json::Value,
}

/// A client's message as one for the session.
///
/// # Errors
///
/// It is none, or for nobody, or of somebody else.
pub(super) fn outgoing(
    frame: &[u8],
    agent: &AgentAddr,
    max_frame: usize,
    ids: &mut dyn Ids,
) -> Result<Bytes, Refusal> {
    let bad = |why: &str| Refusal::new(Code::BadFrame, why);
    let text = std::str::from_utf8(frame).map_err(|_| bad("the message is not UTF-8"))?;
    if !text.trim_start().starts_with('{') {
        return Err(bad("the message is not a JSON object"));
    }
    client::check_depth(frame)?;
    let written: Written<'_> =
        serde_json::from_str(text).map_err(|e| bad(&format!("the message can't be read: {e}")))?;
    let kind = string(written.kind).unwrap_or_default();
    let is_word = |given: Option<&RawValue>| given.is_some_and(|given| given.get().starts_with('"'));
    let in_words = kind.bytes().any(|byte| byte.is_ascii_lowercase())
        || is_word(written.priority)
        || is_word(written.timestamp);
    let sent = if in_words { None } else { as_it_is(text, agent) };
    let sent = match sent {
        Some(sent) => sent?,
        None => around(text, &kind, &written, agent, ids)?,
    };
    if sent.len() > max_frame {
        let why = format!("the message has {} bytes; at most {max_frame} are taken", sent.len());
        return Err(Refusal::new(Code::TooLarge, why));
    }
    Ok(sent)
}

/// The text itself, if it is a message of our protocol. `None`: it is another vocabulary.
fn as_it_is(text: &str, agent: &AgentAddr) -> Option<Result<Bytes, Refusal>> {
    let speaker = Speaker {
        agent: Some(agent),
        namespace: &agent.namespace,
        max_frame: usize::MAX,
        receipts: None,
        copies: 1,
    };
    // The session puts in what is missing; here it only has to be possible.
    let stamp = || (Placeholder::id(), 0);
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    match client::parse(&bytes, speaker, stamp) {
        Ok(parsed) => match parsed.frame {
            ClientFrame::Message(head, _) if head.class == Class::Durable && !head.create => {
                Some(Ok(behind_the_brace(text, AS_IT_IS)))
            }
            ClientFrame::Message(..) | ClientFrame::Heartbeat => Some(Ok(bytes)),
            // REGISTER and the like mean nothing here.
            _ => None,
        },
        Err(refused) if refused.refusal.code == Code::FromMismatch => Some(Err(refused.refusal)),
        Err(_) => None,
    }
}

/// An id for what is only looked at.
struct Placeholder;

impl Placeholder {
    fn id() -> MessageId {
        // A digit is always an id.
        MessageId::new("0").unwrap_or_else(|_| unreachable!("a digit is an id"))
    }
}

fn around(
    text: &str,
    kind: &str,
    written: &Written<'_>,
    agent: &AgentAddr,
    ids: &mut dyn Ids,
) -> Result<Bytes, Refusal> {
    if let Some(from) = written.from.filter(|from| from.get() != "null") {
        let from = string(Some(from)).and_then(|from| AgentAddr::parse(&from, &agent.namespace).ok());
        if from.as_ref() != Some(agent) {
            let why = format!("from: is not this connection's agent, {agent}");
            return Err(Refusal::new(Code::FromMismatch, why));
        }
    }
    let to = string(written.to).ok_or_else(|| Refusal::new(Code::BadFrame, "to: must say whom it is for"))?;
    let to = if to.eq_ignore_ascii_case("all") { "broadcast" } else { &to };
    Target::parse(to, &agent.namespace).map_err(|e| Refusal::new(Code::BadName, format!("to: {e}")))?;
    let id = string(written.id).filter(|id| MessageId::new(id).is_ok()).unwrap_or_else(|| ids.next_id());
    let reply_to = string(written.reply_to).filter(|id| MessageId::new(id).is_ok());
    let payload: &RawValue = serde_json::from_str(text)
        .map_err(|e| Refusal::new(Code::BadFrame, format!("the message can't be read: {e}")))?;
    let message = Around {
        relay: 2,
        create: true,
        kind: match kind.to_ascii_lowercase().as_str() {
            "task" | "command" => "COMMAND",
            "response" | "result" => "RESULT",
            _ => "STATUS",
        },
        to,
        id: &id,
        priority: priority(written.priority),
        reply_to: reply_to.as_deref(),
        payload,
    };
    Ok(ours::text(&message))
}

fn priority(given: Option<&RawValue>) -> u8 {
    let Some(given) = given else { return 3 };
    match string(Some(given)).map(|word| word.to_ascii_lowercase()).as_deref() {
        Some("urgent") => 1,
        Some("high") => 2,
        Some("low") => 4,
        _ => serde_json::from_str(given.get()).ok().filter(|n| (1..=5).contains(n)).unwrap_or(3),
    }
}

/// What a relay client gets for a message: the text that was written, with an `id`.
pub(super) fn incoming(frame: &Bytes, said: &Said<'_>, home: &Namespace) -> Bytes {
    let travelled: Travelled = serde_json::from_slice(frame).unwrap_or_default();
    match travelled.relay.as_u64() {
        Some(1) => without_mark(frame),
        Some(2) => unwrapped(said, home).unwrap_or_else(|| frame.clone()),
        _ => frame.clone(),
    }
}

fn without_mark(frame: &Bytes) -> Bytes {
    let mark = AS_IT_IS.as_bytes();
    let Some(at) = frame.windows(mark.len()).position(|window| window == mark) else { return frame.clone() };
    let mut out = BytesMut::with_capacity(frame.len() - mark.len());
    out.put_slice(&frame[..at]);
    out.put_slice(&frame[at + mark.len()..]);
    out.freeze()
}

/// The message within, if it is of whom it says: anybody can write the mark.
fn unwrapped(said: &Said<'_>, home: &Namespace) -> Option<Bytes> {
    let text = said.object()?.get();
    let written: Written<'_> = serde_json::from_str(text).ok()?;
    if let Some(from) = written.from.filter(|from| from.get() != "null") {
        let from = AgentAddr::parse(&string(Some(from))?, home).ok()?;
        if AgentAddr::parse(&said.from, home).ok()? != from {
            return None;
        }
    }
    let object = said.object()?;
    match ours::field(object, "id") {
        Some(id) if id.get().starts_with('"') => Some(Bytes::copy_from_slice(text.as_bytes())),
        // A number, or nothing: the one around it takes its place, as another beside it would not help.
        Some(id) => {
            let at = (id.get().as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
            let (before, behind) = (text.get(..at)?, text.get(at + id.get().len()..)?);
            Some(Bytes::from(format!("{before}\"{}\"{behind}", said.id)))
        }
        None if text[1..].trim_start().starts_with('}') => None,
        None => Some(behind_the_brace(text, &format!("\"id\":\"{}\",", said.id))),
    }
}

fn behind_the_brace(text: &str, fields: &str) -> Bytes {
    let open = text.find('{').map_or(0, |at| at + 1);
    let mut out = BytesMut::with_capacity(text.len() + fields.len());
    out.put_slice(&text.as_bytes()[..open]);
    out.put_slice(fields.as_bytes());
    out.put_slice(&text.as_bytes()[open..]);
    out.freeze()
}

/// The id that a message's writer gave it, for a complaint about it.
pub(super) fn id_of(frame: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(frame).ok().filter(|text| text.trim_start().starts_with('{'))?;
    let written: Written<'_> = serde_json::from_str(text).ok()?;
    string(written.id).filter(|id| id.len() <= MAX_ID)
}

fn string(given: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(given?.get()).ok()
}
