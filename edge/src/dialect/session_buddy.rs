//! The messages of session-buddy's own: no envelope, no ids, and one stream of metrics for everybody.
//!
//! The metrics are the room `metrics` of the namespace, in which the agent of the service publishes
//! `{"event":"metrics_update","data":{…}}`; which of them a client wants to see is decided here.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use trishula::wire::client::check_depth;
use trishula::wire::close::CloseCode;

use super::bad::BadFrames;
use super::login::{Heard, Login, User};
use super::mcp::envelope::iso;
use super::ours::{self, Body, Refused, Said, Say};
use super::step::{Ids, Note, Now, Pace, Steps};
use super::{Auth, MAX_FRAME, Settings};
use crate::access::Action;

/// The room with the metrics.
const ROOM: &str = "metrics";
/// The event in it.
const UPDATE: &str = "metrics_update";
/// How long until the room is asked for once more, when the mesh could not give it.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest name of a skill, in bytes.
const MAX_SKILL: usize = 512;
const FAILED: &str = "Authentication failed";

/// One client.
pub struct SessionBuddy {
    settings: Arc<Settings>,
    ids: Box<dyn Ids>,
    pace: Box<dyn Pace>,
    login: Login,
    stage: Stage,
    /// The one skill that the client wants to see.
    skill: Option<String>,
    /// The SUBSCRIBE without an answer.
    asked: Option<String>,
    /// When the room is asked for again.
    again: Option<u64>,
    bad: BadFrames,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Fresh { until: u64 },
    Authenticating,
    Greeted,
    Ended,
}

/// A frame of the client's.
#[derive(Default, Deserialize)]
struct Given {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    skill: Option<String>,
}

/// A frame for the client.
#[derive(Serialize)]
struct Out<'a, D: Serialize> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(flatten)]
    rest: D,
}

#[derive(Serialize)]
struct Connected<'a> {
    message: &'a str,
    authenticated: bool,
    timestamp: String,
}

#[derive(Serialize)]
struct Confirmed<'a> {
    skill: Option<&'a str>,
    timestamp: String,
}

#[derive(Serialize)]
struct Update<D: Serialize> {
    timestamp: String,
    data: D,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metrics<'a> {
    #[serde(borrow)]
    top_skills: Vec<&'a RawValue>,
}

/// The metrics of one skill.
#[derive(Serialize)]
struct One<'a> {
    top_skills: Vec<&'a RawValue>,
    anomalies: [(); 0],
}

#[derive(Serialize)]
struct Nothing {}

impl SessionBuddy {
    /// A new connection; `user`: who it is, if the upgrade request has said so.
    pub fn new(
        settings: Arc<Settings>,
        user: Option<User>,
        ids: Box<dyn Ids>,
        pace: Box<dyn Pace>,
        now: Now,
    ) -> SessionBuddy {
        let wait = match settings.auth {
            Auth::Required => settings.auth_within,
            Auth::Optional => settings.greet_within,
        };
        let (login, stage) = (Login::new(user), Stage::Fresh { until: now.after(wait) });
        let bad = BadFrames::default();
        SessionBuddy { settings, ids, pace, login, stage, skill: None, asked: None, again: None, bad }
    }

    /// What is to be done before anything has come.
    pub fn start(&mut self, now: Now, out: &mut Steps) {
        if self.login.user().is_some() {
            self.greet(now, out);
        }
    }

    /// Whether a frame of the client's may be given now.
    pub fn hears_client(&self) -> bool {
        self.stage != Stage::Authenticating
    }

    /// A frame of the client's.
    pub fn client(&mut self, now: Now, frame: &[u8], out: &mut Steps) {
        if self.stage == Stage::Ended {
            return;
        }
        if frame.len() > MAX_FRAME {
            return self.end(CloseCode::TooBig, "frame exceeds limit of 1048576 bytes", out);
        }
        let given = read(frame);
        if let Stage::Fresh { .. } = self.stage {
            if let Some(token) = given.as_ref().and_then(|given| given.token.as_deref()) {
                self.login.authenticate(self.ids.as_mut(), token, out);
                self.stage = Stage::Authenticating;
                return;
            }
            if self.settings.auth == Auth::Required {
                return self.refuse(Note::AuthRequired, out);
            }
            self.greet(now, out);
        }
        if self.pace.take(now.micros, frame.len()).is_err() {
            return out.note(Note::RateLimited);
        }
        match given {
            Some(given) => {
                self.bad.good();
                self.asked(now, given, out);
            }
            // Nobody is told: the old server says nothing, and its clients expect nothing.
            None => {
                out.note(Note::DecodeError);
                if let Some((code, reason)) = self.bad.bad(out) {
                    self.end(code, reason, out);
                }
            }
        }
    }

    fn asked(&mut self, now: Now, given: Given, out: &mut Steps) {
        match given.kind.as_deref() {
            Some("ping") => say("pong", Nothing {}, out),
            Some("subscribe") => {
                self.skill = given.skill.filter(|skill| skill.len() <= MAX_SKILL);
                let (skill, timestamp) = (self.skill.as_deref(), iso(now.wall_ms));
                say("subscription_confirmed", Confirmed { skill, timestamp }, out);
            }
            Some("unsubscribe") => self.skill = None,
            _ => out.note(Note::Ignored),
        }
    }

    /// A frame of the session's.
    pub fn session(&mut self, now: Now, frame: &[u8], out: &mut Steps) {
        if self.stage == Stage::Ended {
            return;
        }
        let Some(said) = Said::read(frame) else { return out.note(Note::Ignored) };
        match self.login.hear(&said, self.ids.as_mut(), out) {
            Heard::Authenticated => self.greet(now, out),
            Heard::AuthRefused(_) => self.refuse(Note::AuthFailed, out),
            Heard::Done => {}
            Heard::Other if said.of_mesh() => self.mesh_said(now, &said),
            Heard::Other if said.room() == Some(ROOM) => self.update(now, &said, out),
            Heard::Other => out.note(Note::Ignored),
        }
    }

    /// Whether the room was given. That updates were missed is not for the client: the next one is all of the metrics.
    fn mesh_said(&mut self, now: Now, said: &Said<'_>) {
        if self.asked.is_none() || said.reply_to != self.asked {
            return;
        }
        self.asked = None;
        let code = said.payload::<Refused>().code;
        if said.kind == "ERROR" && matches!(code.as_str(), "unavailable" | "internal" | "rate_limited") {
            self.again = Some(now.after(AGAIN));
        }
    }

    fn update(&mut self, now: Now, said: &Said<'_>, out: &mut Steps) {
        let body = said.payload::<Body<'_>>();
        let data = body.data.filter(|data| data.get().starts_with('{'));
        let (Some(UPDATE), Some(data), Stage::Greeted) = (body.event.as_deref(), data, self.stage) else {
            return out.note(Note::Ignored);
        };
        // The old frame is no larger than what it is made of, but for its time.
        if data.get().len() + 256 > MAX_FRAME {
            return out.note(Note::TooLarge);
        }
        let timestamp = iso(now.wall_ms);
        // An empty name is none.
        let Some(skill) = self.skill.as_ref().filter(|skill| !skill.is_empty()) else {
            return say(UPDATE, Update { timestamp, data }, out);
        };
        let mut metrics: Metrics<'_> = serde_json::from_str(data.get()).unwrap_or_default();
        metrics.top_skills.retain(|row| ours::string_field(row, "skill_name").as_ref() == Some(skill));
        if !metrics.top_skills.is_empty() {
            let data = One { top_skills: metrics.top_skills, anomalies: [] };
            say(UPDATE, Update { timestamp, data }, out);
        }
    }

    /// When something is due, in [`Now::micros`].
    pub fn next_due(&self) -> Option<u64> {
        match self.stage {
            Stage::Fresh { until } => Some(until),
            Stage::Greeted => self.again,
            _ => None,
        }
    }

    /// Does what is due.
    pub fn due(&mut self, now: Now, out: &mut Steps) {
        match self.stage {
            Stage::Fresh { until } if until <= now.micros => match self.settings.auth {
                Auth::Required => self.refuse(Note::AuthRequired, out),
                Auth::Optional => self.greet(now, out),
            },
            Stage::Greeted if self.again.is_some_and(|at| at <= now.micros) => self.join(out),
            _ => {}
        }
    }

    /// The session ends the connection so.
    pub fn session_closes(&mut self, given: CloseCode, reason: &str, out: &mut Steps) {
        let (code, reason) = match given {
            _ if self.stage == Stage::Ended => return,
            CloseCode::AuthTimeout => return self.refuse(Note::AuthRequired, out),
            CloseCode::Unauthorized | CloseCode::Forbidden => return self.refuse(Note::AuthFailed, out),
            CloseCode::HeartbeatMissed => (CloseCode::Internal, "keepalive ping timeout"),
            other => (super::old_code(other), reason),
        };
        self.end(code, reason, out);
    }

    /// The client has closed, or is gone.
    pub fn client_gone(&mut self, out: &mut Steps) {
        self.stage = Stage::Ended;
        self.login.leave(out);
    }

    fn greet(&mut self, now: Now, out: &mut Steps) {
        self.stage = Stage::Greeted;
        let connected = Connected {
            message: self.settings.service.message,
            authenticated: self.login.user().is_some(),
            timestamp: iso(now.wall_ms),
        };
        // At once: the session would take the token's own agent in a moment.
        self.join(out);
        say("connected", connected, out);
    }

    /// Asks for the metrics. A good token is enough for them.
    fn join(&mut self, out: &mut Steps) {
        self.again = None;
        let user = self.login.user();
        if user.is_none() && !self.settings.may(None, Action::Read, ROOM) {
            return out.note(Note::Forbidden);
        }
        let id = self.ids.next_id();
        let frame = Say::room("SUBSCRIBE", ROOM, &id, Nothing {}).text();
        if self.login.pass(self.ids.as_mut(), frame, out) {
            self.asked = Some(id);
        }
    }

    fn refuse(&mut self, note: Note, out: &mut Steps) {
        out.note(note);
        self.end(CloseCode::OldUnauthorized, FAILED, out);
    }

    fn end(&mut self, code: CloseCode, reason: &str, out: &mut Steps) {
        self.stage = Stage::Ended;
        self.login.leave(out);
        out.close(code, reason);
    }
}

/// `None`: no JSON object, or a known key of another type.
fn read(frame: &[u8]) -> Option<Given> {
    let text = std::str::from_utf8(frame).ok()?;
    let object = text.trim_start().starts_with('{') && check_depth(frame).is_ok();
    object.then(|| serde_json::from_str(text).ok()).flatten()
}

fn say(kind: &str, rest: impl Serialize, out: &mut Steps) {
    out.to_client(ours::text(&Out { kind, rest }));
}
