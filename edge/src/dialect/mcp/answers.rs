//! What each frame of the session becomes.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Mcp;
use super::envelope::{Beside, iso};
use super::pending::{Asked, What};
use super::say::{Status, Told, code};
use crate::dialect::MAX_FRAME;
use crate::dialect::ours::{Body, Refused, Said};
use crate::dialect::step::{Note, Now, Steps};

/// Bytes that the frame around a history may need.
const AROUND: usize = 4096;

/// Payload of RECEIPT.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Receipt {
    state: String,
    reason: String,
}

/// Payload of SUBSCRIBED.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Joined {
    room: String,
    recovered: Option<bool>,
}

/// Payload of PRESENCE.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Members {
    members: Vec<String>,
    complete: bool,
}

#[derive(Serialize)]
struct MembersOf<'a> {
    channel: &'a str,
    #[serde(flatten)]
    members: Members,
}

/// Payload of HISTORY.
#[derive(Default, Deserialize)]
#[serde(default)]
struct History<'a> {
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
    complete: bool,
}

#[derive(Serialize)]
struct Recent<'a> {
    channel: &'a str,
    messages: Vec<Box<RawValue>>,
    count: usize,
    complete: bool,
}

/// A message of a history, as the client gets it.
#[derive(Serialize)]
struct Past<'a> {
    id: &'a str,
    event: &'a str,
    data: &'a RawValue,
    timestamp: String,
    room: &'a str,
}

impl Mcp {
    /// A frame that is not about the token or the registration.
    pub(super) fn said(&mut self, now: Now, said: &Said<'_>, out: &mut Steps) {
        if said.of_mesh() {
            self.mesh_said(now, said, out);
        } else {
            self.agent_said(now, said, out);
        }
        self.settle(out);
    }

    fn mesh_said(&mut self, now: Now, said: &Said<'_>, out: &mut Steps) {
        let about = said.reply_to.as_deref();
        match said.kind.as_str() {
            "SUBSCRIBED" | "ERROR" if self.wish_answered(now, said, out) => {}
            "RECEIPT" => self.receipt(now, said, out),
            "ERROR" => {
                let asked = about.and_then(|id| self.pending.remove(id));
                self.refused(now, asked, &said.payload(), out);
            }
            "SUBSCRIBED" | "UNSUBSCRIBED" | "PRESENCE" | "HISTORY" => {
                if let Some(asked) = about.and_then(|id| self.pending.remove(id)) {
                    self.answered(now, &asked, said, out);
                }
                // Also where nobody has asked: the mesh says so by itself.
                if said.kind == "SUBSCRIBED" {
                    self.joined(now, &said.payload(), out);
                }
            }
            _ => {}
        }
    }

    /// Whether something of a room is missing. A first SUBSCRIBE names no place from where anything could be, so this is always
    /// about a room that the client reads already.
    pub(super) fn joined(&mut self, now: Now, joined: &Joined, out: &mut Steps) {
        if joined.recovered == Some(false) {
            self.missed(now, &joined.room, out);
        }
    }

    pub(super) fn answered(&mut self, now: Now, asked: &Asked, said: &Said<'_>, out: &mut Steps) {
        if asked.quiet {
            return;
        }
        let (to, channel) = (asked.answer_to.as_deref(), asked.channel.as_deref().unwrap_or(""));
        let status = |status| Status { status, channel: Some(channel), user_id: None };
        match asked.what {
            What::Join => self.respond_status(now, to, &asked.event, status("subscribed"), out),
            What::Leave => self.respond_status(now, to, &asked.event, status("unsubscribed"), out),
            What::Members => {
                let data = MembersOf { channel, members: said.payload() };
                self.respond(now, to, &asked.event, data, Beside::default(), out);
            }
            What::History => {
                let data = recent(channel, said.payload());
                self.respond(now, to, &asked.event, data, Beside::default(), out);
            }
            What::Left | What::Refresh | What::Service(_) => {}
        }
    }

    /// The service is there and has the question: now it has its time to answer. Or it will never have it.
    fn receipt(&mut self, now: Now, said: &Said<'_>, out: &mut Steps) {
        let Some(about) = said.reply_to.as_deref() else { return };
        let Some(asked) = self.pending.get(about) else { return };
        let What::Service(within) = asked.what else { return };
        let Receipt { state, reason } = said.payload();
        match state.as_str() {
            "accepted" | "stored" => {}
            "delivered" | "acked" => asked.due = now.after(within),
            _ => {
                if let Some(asked) = self.pending.remove(about) {
                    let why = format!("The service did not take {}: {state} {reason}", asked.event);
                    self.error(now, asked.answer_to.as_deref(), code::SERVER_ERROR, why.trim_end(), out);
                }
            }
        }
    }

    /// The mesh refused something; what it was, if that is still known.
    pub(super) fn refused(&mut self, now: Now, asked: Option<Asked>, refused: &Refused, out: &mut Steps) {
        let to = asked.as_ref().and_then(|asked| asked.answer_to.as_deref());
        if asked.as_ref().is_some_and(|asked| asked.what == What::Left) {
            return;
        }
        let (what, channel) = match &asked {
            Some(asked) => (Some(asked.what), asked.channel.as_deref().unwrap_or("this")),
            None => (None, "this"),
        };
        match refused.code.as_str() {
            "forbidden" => {
                out.note(Note::Forbidden);
                let verb = if what == Some(What::Join) { "subscribe to" } else { "use" };
                let why = format!("Not authorized to {verb} {channel}");
                self.error(now, to, code::FORBIDDEN, &why, out);
            }
            "bad_name" => {
                out.note(Note::BadName);
                self.error(now, to, code::INVALID_CHANNEL, &refused.message, out);
            }
            "rate_limited" => {
                out.note(Note::RateLimited);
                let seconds = refused.retry_after_ms.unwrap_or(1000) as f64 / 1000.0;
                let why = format!("Message rate limit exceeded. Retry after {seconds:.3} seconds.");
                self.error(now, to, code::RATE_LIMIT_EXCEEDED, &why, out);
            }
            "unknown_recipient" | "recipient_offline" | "no_route" if what.is_some() => {
                out.note(Note::Unanswered);
                let event = asked.as_ref().map_or("", |asked| asked.event.as_str());
                let why = format!("No service is there to answer {event}");
                self.error(now, to, code::SERVER_ERROR, &why, out);
            }
            "internal" => self.error(now, to, code::INTERNAL_ERROR, "Internal server error", out),
            // The close behind it says so.
            "token_expired" | "token_invalid" | "unauthenticated" if what.is_none() => {}
            _ => self.error(now, to, code::SERVER_ERROR, &refused.message, out),
        }
    }

    /// An agent speaks: a room, or the service, with an answer or to this client alone. Nobody else has a say here: what a client
    /// is told without a room is the word of its service, and the rules of rooms must not be gone around by writing to it directly.
    fn agent_said(&mut self, now: Now, said: &Said<'_>, out: &mut Steps) {
        let kind = said.kind.to_ascii_uppercase();
        // Acknowledgements and signs of life are between agents of the mesh.
        if matches!(kind.as_str(), "ACK" | "HEARTBEAT") {
            return out.note(Note::Ignored);
        }
        if said.room().is_none() {
            if !said.of_service(&self.settings.namespace) {
                return out.note(Note::NotOfService);
            }
            if matches!(kind.as_str(), "RESULT" | "ERROR") {
                let asked = said.reply_to.as_deref().and_then(|id| self.pending.remove(id));
                return match asked {
                    Some(asked) => self.service_answered(now, &asked, &kind, said, out),
                    // It came too late, or nobody has asked.
                    None => out.note(Note::Ignored),
                };
            }
        }
        if !self.is_greeted() {
            return out.note(Note::Ignored);
        }
        let (body, other) = (said.payload::<Body<'_>>(), wrapped(said.payload));
        let fallback = kind.to_ascii_lowercase();
        self.event(now, told(said, &body, &other, &fallback), out);
    }

    fn service_answered(&mut self, now: Now, asked: &Asked, kind: &str, said: &Said<'_>, out: &mut Steps) {
        let to = asked.answer_to.as_deref();
        let body = said.payload::<Body<'_>>();
        if kind == "ERROR" || body.error_message.is_some() || body.error_code.is_some() {
            let refused = said.payload::<Refused>();
            let given = body.error_code.unwrap_or(refused.code);
            let message = body.error_message.unwrap_or(refused.message);
            let code = if given.is_empty() { code::SERVER_ERROR } else { given.as_str() };
            let message = if message.is_empty() { "The service could not answer" } else { &message };
            return self.error(now, to, code, message, out);
        }
        let other = wrapped(said.payload);
        let data = body.data.filter(is_object).or(said.object()).unwrap_or(&other);
        self.respond(now, to, &asked.event, data, Beside::default(), out);
    }
}

fn is_object(raw: &&RawValue) -> bool {
    raw.get().starts_with('{')
}

/// A payload that is no object, as one.
fn wrapped(payload: Option<&RawValue>) -> Box<RawValue> {
    let payload = payload.map_or("null", RawValue::get);
    let text = format!("{{\"payload\":{payload}}}");
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// What a message is to the client: the body `{event, data}` as it says, anything else under the message's type.
fn told<'a>(said: &'a Said<'a>, body: &'a Body<'a>, other: &'a RawValue, fallback: &'a str) -> Told<'a> {
    let named = body.event.as_deref().filter(|_| body.data.is_none_or(|data| is_object(&data)));
    let data = match (named, body.data) {
        (Some(_), Some(data)) => data,
        _ => said.object().unwrap_or(other),
    };
    Told {
        id: &said.id,
        event: named.unwrap_or(fallback),
        data,
        wall_ms: said.timestamp.0 as u64,
        room: said.room(),
    }
}

/// The latest messages of a history that fit into a frame, oldest first; one that is too large for what is left is passed over.
fn recent<'a>(channel: &'a str, history: History<'_>) -> Recent<'a> {
    let mut left = MAX_FRAME - AROUND;
    let total = history.messages.len();
    let rows = history.messages.iter().rev().filter_map(|raw| {
        let said = Said::read(raw.get().as_bytes())?;
        let (body, other) = (said.payload::<Body<'_>>(), wrapped(said.payload));
        let fallback = said.kind.to_ascii_lowercase();
        let told = told(&said, &body, &other, &fallback);
        let past = Past {
            id: told.id,
            event: told.event,
            data: told.data,
            timestamp: iso(told.wall_ms),
            room: channel,
        };
        let row = serde_json::value::to_raw_value(&past).ok()?;
        left = left.checked_sub(row.get().len() + 1)?;
        Some(row)
    });
    let mut messages: Vec<_> = rows.collect();
    messages.reverse();
    let count = messages.len();
    Recent { channel, complete: history.complete && count == total, count, messages }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use crate::dialect::step::{Step, Steps};
    use crate::dialect::vectors::{BEGIN, dialect, nine_keys};

    #[test]
    fn only_a_subscription_that_says_so_has_missed_something() {
        // covers B06, B07
        let mut client = dialect(&json!({"dialect": "mcp", "user": ["pool:read"]}));
        let mut steps = Steps::new();
        client.start(BEGIN, &mut steps);
        assert!(steps.take().count() > 0, "it is greeted");
        let mut told = |kind: &str, reply_to: Value, payload: Value| {
            let frame =
                json!({"type": kind, "from": "mesh", "id": "m", "reply_to": reply_to, "payload": payload});
            client.session(BEGIN, &Bytes::from(frame.to_string()), &mut steps);
            let frames = steps.take().map(|step| match step {
                Step::ToClient(frame) => frame,
                other => panic!("{other:?}"),
            });
            frames.collect::<Vec<_>>()
        };
        let room = |recovered: Value| json!({"room": "pool:p1", "cursor": "AA", "recovered": recovered});
        for (kind, payload) in [
            ("SUBSCRIBED", room(json!(true))),
            ("SUBSCRIBED", room(json!(null))),
            ("SUBSCRIBED", room(json!("false"))),
            ("SUBSCRIBED", json!([false])),
            ("SUBSCRIBED", json!({})),
            ("UNSUBSCRIBED", room(json!(false))),
            ("PRESENCE", room(json!(false))),
            ("HISTORY", room(json!(false))),
        ] {
            assert!(told(kind, Value::Null, payload.clone()).is_empty(), "{kind} {payload}");
        }
        // Of its own accord, and to a question that was given up meanwhile.
        for reply_to in [Value::Null, json!("long-ago")] {
            let frames = told("SUBSCRIBED", reply_to, room(json!(false)));
            assert_eq!(frames.len(), 1);
            nine_keys(&frames[0]);
            let event: Value = serde_json::from_slice(&frames[0]).unwrap();
            assert_eq!((&event["type"], &event["event"]), (&json!("event"), &json!("subscription.missed")));
            assert_eq!(event["data"], json!({"channel": "pool:p1", "recovered": false}));
            assert_eq!(event["room"], "pool:p1");
            assert_eq!(event.as_object().unwrap().len(), 9, "and no key besides the nine");
        }
    }
}
