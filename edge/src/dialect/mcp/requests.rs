//! What each frame of the client becomes.

use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use trishula::wire::ids::RoomName;

use super::envelope::{Empty, Envelope, Type};
use super::pending::{ANSWER_WITHIN, Asked, What};
use super::say::code;
use super::{Mcp, Stage};
use crate::access::Action;
use crate::dialect::ours::{SERVICE_AGENT, Say};
use crate::dialect::services::Request;
use crate::dialect::step::{Note, Now, Steps};

/// How long it may take until it is known that the service is there.
const DELIVER_WITHIN: Duration = Duration::from_millis(900);
/// Messages of a room's history, when the client does not say.
const HISTORY: u64 = 50;
/// Most of a request's name that is repeated.
const SHOWN: usize = 100;

/// What an event of the client's is to the mesh.
#[derive(Serialize)]
struct Published<'a> {
    event: &'a str,
    data: &'a RawValue,
}

/// What a request is to the agent of the service.
#[derive(Serialize)]
struct Question<'a> {
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Limit {
    limit: u64,
}

/// How a client asked for a room, or to leave it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// It waits for an answer.
    Request,
    /// It does not.
    Event,
}

impl Mcp {
    /// A frame after the greeting.
    pub(super) fn frame(&mut self, now: Now, frame: &[u8], out: &mut Steps) {
        let read = Envelope::read(frame);
        if let Err(wait) = self.pace.take(now.micros, frame.len()) {
            out.note(Note::RateLimited);
            let to = read.ok().and_then(|envelope| envelope.answer_to());
            let seconds = wait.as_secs_f64();
            let why = format!("Message rate limit exceeded. Retry after {seconds:.3} seconds.");
            return self.error(now, to.as_deref(), code::RATE_LIMIT_EXCEEDED, &why, out);
        }
        let envelope = match read {
            Ok(envelope) => envelope,
            Err(why) => {
                out.note(Note::DecodeError);
                self.error(now, None, code::DECODE_ERROR, &why, out);
                if let Some((code, reason)) = self.bad.bad(out) {
                    self.end(code, reason, out);
                }
                return;
            }
        };
        self.bad.good();
        match envelope.kind {
            Type::Ping => self.pong(now, envelope.answer_to().as_deref(), out),
            Type::Request => self.request(now, &envelope, out),
            Type::Event => self.own_event(now, &envelope, out),
            Type::Subscribe => self.join(now, &envelope, Form::Request, out),
            Type::Unsubscribe => self.leave(now, &envelope, Form::Request, out),
            Type::Response | Type::Error | Type::Pong | Type::Ack => out.note(Note::Ignored),
        }
    }

    fn request(&mut self, now: Now, envelope: &Envelope<'_>, out: &mut Steps) {
        let name = envelope.event.as_deref().unwrap_or("None");
        match name {
            "subscribe" => self.join(now, envelope, Form::Request, out),
            "unsubscribe" => self.leave(now, envelope, Form::Request, out),
            "refresh_token" => self.refresh(now, envelope, out),
            "get_recent" => self.ask_room(now, envelope, What::History, out),
            "get_presence" => self.ask_room(now, envelope, What::Members, out),
            // One that came too late for the greeting, and has done nothing yet.
            "auth" if self.login.user().is_none() && !self.login.registers() => {
                self.authenticate(now, envelope, true, out);
            }
            _ => {
                let settings = self.settings.clone();
                if let Some(request) = settings.requests.iter().find(|known| known.event == name) {
                    return self.ask_service(now, envelope, request, out);
                }
                out.note(Note::BadRequest);
                let shown: String = name.chars().take(SHOWN).collect();
                let why = format!("Unknown request event: {shown}");
                self.refuse(now, envelope, code::UNKNOWN_REQUEST, &why, out);
            }
        }
    }

    /// An event: a wish for a room, or something to publish. Old servers drop what clients publish.
    fn own_event(&mut self, now: Now, envelope: &Envelope<'_>, out: &mut Steps) {
        match envelope.event.as_deref() {
            Some("subscribe") => self.join(now, envelope, Form::Event, out),
            Some("unsubscribe") => self.leave(now, envelope, Form::Event, out),
            Some(event) if self.settings.may_publish => self.publish(now, envelope, event, out),
            _ => out.note(Note::Ignored),
        }
    }

    fn join(&mut self, now: Now, envelope: &Envelope<'_>, form: Form, out: &mut Steps) {
        let Some(channel) = self.channel(now, envelope, out) else { return };
        if !self.may(Action::Read, &channel) {
            out.note(Note::Forbidden);
            let why = format!("Not authorized to subscribe to {channel}");
            return self.refuse(now, envelope, code::FORBIDDEN, &why, out);
        }
        self.wish(now, envelope, channel, form, out);
    }

    fn leave(&mut self, now: Now, envelope: &Envelope<'_>, form: Form, out: &mut Steps) {
        let Some(channel) = self.channel(now, envelope, out) else { return };
        let id = self.ids.next_id();
        let frame = Say::room("UNSUBSCRIBE", &channel, &id, Empty {}).text();
        // A wish that was dropped without it would still come true.
        if self.ask(now, envelope, (id, frame), What::Leave, Some(channel.clone()), form, out) {
            self.unwish(now, &channel, out);
        }
    }

    fn ask_room(&mut self, now: Now, envelope: &Envelope<'_>, what: What, out: &mut Steps) {
        let Some(channel) = self.channel(now, envelope, out) else { return };
        if !self.may(Action::Read, &channel) {
            out.note(Note::Forbidden);
            let why = format!("Not authorized to read {channel}");
            return self.refuse(now, envelope, code::FORBIDDEN, &why, out);
        }
        let id = self.ids.next_id();
        let frame = if what == What::History {
            let limit = envelope.number("limit").unwrap_or(HISTORY).clamp(1, 1000);
            Say::room("HISTORY", &channel, &id, Limit { limit }).text()
        } else {
            Say::room("PRESENCE", &channel, &id, Empty {}).text()
        };
        self.ask(now, envelope, (id, frame), what, Some(channel), Form::Request, out);
    }

    fn refresh(&mut self, now: Now, envelope: &Envelope<'_>, out: &mut Steps) {
        let Some(token) = envelope.argument("token") else {
            out.note(Note::RefreshFailed);
            return self.refuse(now, envelope, code::AUTH_FAILED, "Missing or malformed auth token", out);
        };
        // Before there is an agent, a token would decide who it is.
        if self.login.user().is_none() || self.login.is_asking() || self.pending.is_full() {
            out.note(Note::BadRequest);
            let why = "There is no token that could be refreshed now";
            return self.refuse(now, envelope, code::REQUEST_ERROR, why, out);
        }
        let id = self.login.authenticate(self.ids.as_mut(), &token, out);
        let asked = question(now, envelope, What::Refresh, None, Form::Request);
        self.pending.insert(id, asked);
    }

    fn ask_service(&mut self, now: Now, envelope: &Envelope<'_>, request: &Request, out: &mut Steps) {
        if let Some(missing) = request.needs.iter().find(|name| !envelope.has(name)) {
            return self.missing(now, envelope, missing, out);
        }
        if !self.settings.may_ask(self.login.user(), &request.permissions) {
            out.note(Note::Forbidden);
            let why = format!("Not authorized to request {}", request.event);
            return self.refuse(now, envelope, code::FORBIDDEN, &why, out);
        }
        let id = self.ids.next_id();
        let payload = Question { event: &request.event, data: envelope.data() };
        // Live: nobody waits for the answer to a question that is delivered tomorrow.
        let frame = Say {
            to: Some(SERVICE_AGENT.into()),
            class: Some("live"),
            receipt: Some("delivered"),
            ..Say::control("COMMAND", &id, payload)
        };
        let what = What::Service(self.settings.answer_within);
        self.ask(now, envelope, (id.clone(), frame.text()), what, None, Form::Request, out);
    }

    fn publish(&mut self, now: Now, envelope: &Envelope<'_>, event: &str, out: &mut Steps) {
        let known = self.settings.service.publishes.iter().find(|row| row.event == event);
        let named = envelope.room().map(str::to_owned);
        let by_key = || known.and_then(|row| Some(format!("{}{}", row.prefix, envelope.argument(row.key)?)));
        let (Some(channel), Some(data)) = (named.or_else(by_key), envelope.data()) else {
            return out.note(Note::Ignored);
        };
        if RoomName::new(&channel).is_err() || !self.may(Action::Write, &channel) {
            out.note(Note::Forbidden);
            let why = format!("Not authorized to publish to {channel}");
            return self.refuse(now, envelope, code::FORBIDDEN, &why, out);
        }
        let id = self.ids.next_id();
        let frame = Say::room("PUBLISH", &channel, &id, Published { event, data }).text();
        if frame.len() > self.settings.max_frame || !self.login.pass(self.ids.as_mut(), frame, out) {
            out.note(Note::TooLarge);
            self.refuse(now, envelope, code::REQUEST_ERROR, "The event can't be taken: it is too large", out);
        }
    }

    /// Puts a question to the session, and remembers who waits for its answer. `false`: it could not, and the client is told.
    #[allow(clippy::too_many_arguments)]
    fn ask(
        &mut self,
        now: Now,
        envelope: &Envelope<'_>,
        (id, frame): (String, bytes::Bytes),
        what: What,
        channel: Option<String>,
        form: Form,
        out: &mut Steps,
    ) -> bool {
        if frame.len() > self.settings.max_frame {
            out.note(Note::TooLarge);
            self.refuse(now, envelope, code::REQUEST_ERROR, "The request is too large", out);
            return false;
        }
        if self.pending.is_full() || !self.login.pass(self.ids.as_mut(), frame, out) {
            self.too_many(now, envelope, out);
            return false;
        }
        self.pending.insert(id, question(now, envelope, what, channel, form));
        true
    }

    pub(super) fn too_many(&mut self, now: Now, envelope: &Envelope<'_>, out: &mut Steps) {
        out.note(Note::Full);
        let why = "Too many requests wait for their answers already";
        self.refuse(now, envelope, code::SERVER_ERROR, why, out);
    }

    /// The channel that a frame is about. `None`: it names none, and has its answer.
    fn channel(&mut self, now: Now, envelope: &Envelope<'_>, out: &mut Steps) -> Option<String> {
        let Some(channel) = envelope.channel(self.settings.service.aliases) else {
            self.missing(now, envelope, "channel", out);
            return None;
        };
        if RoomName::new(&channel).is_ok() {
            return Some(channel);
        }
        out.note(Note::BadName);
        let shown: String = channel.chars().take(SHOWN).collect();
        let why = format!("Invalid channel: {shown}");
        self.refuse(now, envelope, code::INVALID_CHANNEL, &why, out);
        None
    }

    fn missing(&mut self, now: Now, envelope: &Envelope<'_>, argument: &str, out: &mut Steps) {
        out.note(Note::BadRequest);
        self.refuse(now, envelope, code::REQUEST_ERROR, &format!("Missing argument: {argument}"), out);
    }

    pub(super) fn refuse(
        &mut self,
        now: Now,
        envelope: &Envelope<'_>,
        code: &str,
        why: &str,
        out: &mut Steps,
    ) {
        self.error(now, envelope.answer_to().as_deref(), code, why, out);
    }

    fn may(&self, action: Action, channel: &str) -> bool {
        self.settings.may(self.login.user(), action, channel)
    }

    /// A question has had its time.
    pub(super) fn unanswered(&mut self, now: Now, asked: Asked, out: &mut Steps) {
        if asked.what == What::Left {
            return;
        }
        out.note(Note::Unanswered);
        let why = match asked.what {
            What::Join => {
                format!("No answer to {} from the mesh; it is asked again until there is one", asked.event)
            }
            What::Service(_) => format!("No answer to {} from the service", asked.event),
            What::Refresh => "Authentication is not possible now".to_owned(),
            _ => format!("No answer to {} from the mesh", asked.event),
        };
        self.error(now, asked.answer_to.as_deref(), code::SERVER_ERROR, &why, out);
    }

    /// Whether the greeting is over.
    pub(super) fn is_greeted(&self) -> bool {
        self.stage == Stage::Greeted
    }
}

pub(super) fn question(
    now: Now,
    envelope: &Envelope<'_>,
    what: What,
    channel: Option<String>,
    form: Form,
) -> Asked {
    let within = if matches!(what, What::Service(_)) { DELIVER_WITHIN } else { ANSWER_WITHIN };
    let event = match (envelope.kind, &envelope.event, what) {
        (Type::Request, Some(event), _) => event.clone(),
        (_, _, What::Leave) => "unsubscribe".to_owned(),
        _ => "subscribe".to_owned(),
    };
    Asked {
        what,
        event,
        channel,
        answer_to: envelope.answer_to(),
        quiet: form == Form::Event,
        due: now.after(within),
    }
}
