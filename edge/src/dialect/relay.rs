//! The relay of the old mesh: a bare agent id first, then messages that reach their recipient as they were written.
//!
//! Its clients break on any frame without an `id`, so nothing without one is ever sent, and nothing at all before the
//! agent id has come. What a client would only be told for its information (greetings, receipts, acknowledgements) is
//! not sent; that a message of its came to nothing is, as the message that ERROR is.

mod message;

use bytes::Bytes;
use serde::Serialize;
use std::time::Duration;
use trishula::wire::client::{ErrorPayload, MESH, ServerFrame};
use trishula::wire::close::{CloseCode, Code, Refusal};
use trishula::wire::ids::{AgentAddr, AgentName, Namespace};

use super::bad::BadFrames;
use super::ours::{self, Refused, Said, Say};
use super::step::{Ids, Note, Now, Pace, Steps};
use super::{Auth, MAX_FRAME};

const INVALID: &str = "Invalid token";

/// What an operator decides about a listener with this dialect.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The namespace of the agents.
    pub namespace: Namespace,
    /// Whether a client needs a token, unless the upgrade request had one.
    pub auth: Auth,
    /// How long it may take with its id and its token.
    pub auth_within: Duration,
    /// Largest frame that the session takes, in bytes.
    pub max_frame: usize,
}

/// One client.
pub struct Relay {
    entry: Entry,
    ids: Box<dyn Ids>,
    pace: Box<dyn Pace>,
    stage: Stage,
    agent: Option<AgentAddr>,
    token: Option<String>,
    /// AUTH and REGISTER, whose refusal is the end.
    asked: [Option<String>; 2],
    bad: BadFrames,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Neither id nor token, or one of them.
    Fresh {
        until: u64,
    },
    /// Named; a bare frame may still be its token.
    Named,
    /// Has sent its first message.
    Speaking,
    Ended,
}

#[derive(Serialize)]
struct Token<'a> {
    token: &'a str,
}

#[derive(Serialize)]
struct Register<'a> {
    agent: &'a str,
}

impl Relay {
    /// A new connection; `known`: the upgrade request has shown a token.
    pub fn new(mut entry: Entry, known: bool, ids: Box<dyn Ids>, pace: Box<dyn Pace>, now: Now) -> Relay {
        if known {
            entry.auth = Auth::Optional;
        }
        let stage = Stage::Fresh { until: now.after(entry.auth_within) };
        let bad = BadFrames::default();
        Relay { entry, ids, pace, stage, agent: None, token: None, asked: [None, None], bad }
    }

    /// A frame of the client's.
    pub fn client(&mut self, now: Now, frame: &[u8], out: &mut Steps) {
        if self.stage == Stage::Ended {
            return;
        }
        if frame.len() > MAX_FRAME {
            return self.end(CloseCode::TooBig, "frame exceeds limit of 1048576 bytes", out);
        }
        let bare = bare(frame);
        match (self.stage, bare) {
            (Stage::Fresh { .. }, Some(word)) => self.introduced(word, out),
            (Stage::Fresh { .. }, None) if self.agent.is_some() => self.invalid(INVALID, out),
            (Stage::Fresh { .. }, None) => self.invalid("The first frame must be the agent id", out),
            (Stage::Named, Some(token)) if self.token.is_none() => self.show(token.to_owned(), out),
            _ => self.message(now, frame, out),
        }
    }

    /// An id or a token, in either order: the old documents have both.
    fn introduced(&mut self, word: &str, out: &mut Steps) {
        if self.agent.is_some() || looks_like_a_token(word) {
            if self.token.replace(word.to_owned()).is_some() {
                return self.invalid(INVALID, out);
            }
        } else {
            match AgentName::new(word) {
                Ok(name) => self.agent = Some(AgentAddr::new(self.entry.namespace.clone(), name)),
                Err(_) => return self.invalid("Invalid agent id", out),
            }
        }
        let Some(agent) = self.agent.clone() else { return };
        if self.token.is_none() && self.entry.auth == Auth::Required {
            return;
        }
        self.stage = Stage::Named;
        if let Some(token) = self.token.take() {
            self.show(token, out);
        }
        let id = self.ids.next_id();
        let register = Register { agent: agent.name.as_str() };
        out.to_session(Say::control("REGISTER", &id, register).text());
        self.asked[1] = Some(id);
    }

    fn show(&mut self, token: String, out: &mut Steps) {
        let id = self.ids.next_id();
        out.to_session(Say::control("AUTH", &id, Token { token: &token }).text());
        self.asked[0] = Some(id);
        // Shown once; it is not needed any more, but that there was one is.
        self.token = Some(String::new());
    }

    fn message(&mut self, now: Now, frame: &[u8], out: &mut Steps) {
        self.stage = Stage::Speaking;
        let Some(agent) = self.agent.clone() else { return };
        if let Err(wait) = self.pace.take(now.micros, frame.len()) {
            out.note(Note::RateLimited);
            let why = format!("over the rate; again after {:.3} s", wait.as_secs_f64());
            let about = message::id_of(frame);
            return self.complain(now, about.as_deref(), &Refusal::new(Code::RateLimited, why), out);
        }
        match message::outgoing(frame, &agent, self.entry.max_frame, self.ids.as_mut()) {
            Ok(text) => {
                self.bad.good();
                out.to_session(text);
            }
            Err(refusal) => {
                out.note(match refusal.code {
                    Code::FromMismatch => Note::Forbidden,
                    Code::BadName => Note::BadName,
                    _ => Note::BadRequest,
                });
                self.complain(now, message::id_of(frame).as_deref(), &refusal, out);
                if let Some((code, reason)) = self.bad.bad(out) {
                    self.end(code, reason, out);
                }
            }
        }
    }

    /// A frame of the session's.
    pub fn session(&mut self, now: Now, frame: &Bytes, out: &mut Steps) {
        if self.stage == Stage::Ended {
            return;
        }
        let Some(said) = Said::read(frame) else { return out.note(Note::Ignored) };
        if said.of_mesh() {
            return self.mesh_said(&said, frame, out);
        }
        // That a message has come is told by the mesh, and is not for clients that know nothing of it.
        let acknowledges = said.kind.eq_ignore_ascii_case("ACK") && said.reply_to.is_some();
        if said.id.is_empty() || (acknowledges && said.payload.is_none_or(|p| p.get() == "null")) {
            return out.note(Note::Ignored);
        }
        let text = message::incoming(frame, &said, &self.entry.namespace);
        if text.len() <= MAX_FRAME {
            return out.to_client(text);
        }
        out.note(Note::TooLarge);
        let why =
            format!("the message {} of {} has {} bytes, too many for you", said.id, said.from, text.len());
        self.complain(now, Some(&said.id), &Refusal::new(Code::TooLarge, why), out);
    }

    fn mesh_said(&mut self, said: &Said<'_>, frame: &Bytes, out: &mut Steps) {
        if said.kind != "ERROR" {
            return;
        }
        let Some(about) = &said.reply_to else { return };
        let asked = self.asked.iter().position(|id| id.as_ref() == Some(about));
        match asked {
            Some(0) => self.invalid(INVALID, out),
            // While the node is away the session registers as soon as it can.
            Some(_) if said.payload::<Refused>().code == "unavailable" => {}
            Some(_) => self.invalid(INVALID, out),
            None if said.id.is_empty() => out.note(Note::Ignored),
            None => out.to_client(frame.clone()),
        }
    }

    /// When something is due, in [`Now::micros`].
    pub fn next_due(&self) -> Option<u64> {
        match self.stage {
            Stage::Fresh { until } => Some(until),
            _ => None,
        }
    }

    /// Does what is due.
    pub fn due(&mut self, now: Now, out: &mut Steps) {
        if matches!(self.stage, Stage::Fresh { until } if until <= now.micros) {
            self.invalid(if self.agent.is_some() { INVALID } else { "No agent id came" }, out);
        }
    }

    /// The session ends the connection so.
    pub fn session_closes(&mut self, given: CloseCode, reason: &str, out: &mut Steps) {
        match given {
            _ if self.stage == Stage::Ended => {}
            CloseCode::Unauthorized | CloseCode::AuthTimeout | CloseCode::Forbidden => {
                self.invalid(INVALID, out);
            }
            other => self.end(super::old_code(other), reason, out),
        }
    }

    /// The client has closed, or is gone: its agent stays known, as its mail waits for it.
    pub fn client_gone(&mut self) {
        self.stage = Stage::Ended;
    }

    fn invalid(&mut self, reason: &str, out: &mut Steps) {
        out.note(Note::AuthFailed);
        self.end(CloseCode::PolicyViolation, reason, out);
    }

    fn end(&mut self, code: CloseCode, reason: &str, out: &mut Steps) {
        self.stage = Stage::Ended;
        out.close(code, reason);
    }

    /// Tells the client that something came to nothing: a complete message, with an id.
    fn complain(&mut self, now: Now, about: Option<&str>, refusal: &Refusal, out: &mut Steps) {
        let Some(agent) = &self.agent else { return };
        let id = self.ids.next_id();
        let frame = ServerFrame {
            kind: "ERROR",
            from: MESH,
            to: agent.name.as_str(),
            id: &id,
            timestamp: now.wall_ms,
            reply_to: about,
            payload: ErrorPayload::from(refusal),
            priority: 3,
        };
        out.to_client(ours::text(&frame));
    }
}

/// A frame that is one word, without the space around it.
pub(super) fn bare(frame: &[u8]) -> Option<&str> {
    let word = std::str::from_utf8(frame).ok()?.trim();
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '{' | '}' | '[' | ']' | '"');
    (!word.is_empty() && word.chars().all(plain)).then_some(word)
}

/// Whether this is a JWT in compact form rather than a name.
pub(super) fn looks_like_a_token(word: &str) -> bool {
    word.starts_with("eyJ") && word.matches('.').count() == 2
}
