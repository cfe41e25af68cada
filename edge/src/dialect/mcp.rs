//! The envelope of nine keys that mahavishnu, crackerjack, akosha, dhruva, excalidraw-mcp and fastblocks speak.
//!
//! | file | what is in it |
//! |---|---|
//! | this one | the life of a connection: token, greeting, deadlines, the end |
//! | `envelope` | the nine keys |
//! | `requests` | what each frame of the client becomes |
//! | `answers` | what each frame of the session becomes |
//! | `joins` | rooms that were asked for and are not there yet |
//! | `pending` | what waits for an answer, and what waits behind it |
//! | `say` | frames for the client |

mod answers;
pub(super) mod envelope;
mod joins;
mod pending;
mod requests;
mod say;

use std::sync::Arc;

use trishula::wire::close::CloseCode;

use super::bad::{self, BadFrames};
use super::login::{Heard, Login, User};
use super::ours::{Refused, Said};
use super::step::{Ids, Note, Now, Pace, Steps};
use super::{Auth, MAX_FRAME, Settings, old_code};

use envelope::{Envelope, Type};
use joins::Joins;
use pending::{Held, Pending};
use say::{Status, code};

/// Every string that the old tests and clients look for begins or ends here.
const BAD_TOKEN: &str = "Invalid or expired token";

/// One client.
pub struct Mcp {
    settings: Arc<Settings>,
    ids: Box<dyn Ids>,
    pace: Box<dyn Pace>,
    login: Login,
    stage: Stage,
    pending: Pending,
    joins: Joins,
    held: Held,
    bad: BadFrames,
}

/// How far the connection is.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing has come yet, and until then may come.
    Fresh { until: u64 },
    /// A token is being looked at.
    Authenticating { answer_to: Option<String>, greeted: bool },
    /// Requests are served.
    Greeted,
    /// Over.
    Ended,
}

impl Mcp {
    /// A new connection; `user`: who it is, if the upgrade request has said so.
    pub fn new(
        settings: Arc<Settings>,
        user: Option<User>,
        ids: Box<dyn Ids>,
        pace: Box<dyn Pace>,
        now: Now,
    ) -> Mcp {
        let wait = match settings.auth {
            Auth::Required => settings.auth_within,
            Auth::Optional => settings.greet_within,
        };
        Mcp {
            settings,
            ids,
            pace,
            login: Login::new(user),
            stage: Stage::Fresh { until: now.after(wait) },
            pending: Pending::default(),
            joins: Joins::default(),
            held: Held::default(),
            bad: BadFrames::default(),
        }
    }

    /// What is to be done before anything has come.
    pub fn start(&mut self, now: Now, out: &mut Steps) {
        if self.login.user().is_some() {
            self.login.register(self.ids.as_mut(), out);
            self.greet(now, out);
        }
    }

    /// Whether a frame of the client's may be given now.
    pub fn hears_client(&self) -> bool {
        !matches!(self.stage, Stage::Authenticating { .. }) && self.login.has_room()
    }

    /// A frame of the client's.
    pub fn client(&mut self, now: Now, frame: &[u8], out: &mut Steps) {
        if frame.len() > MAX_FRAME && self.stage != Stage::Ended {
            return self.end(CloseCode::TooBig, "frame exceeds limit of 1048576 bytes", out);
        }
        match self.stage {
            Stage::Fresh { .. } => self.first(now, frame, out),
            Stage::Greeted => self.frame(now, frame, out),
            Stage::Authenticating { .. } => out.note(Note::Full),
            Stage::Ended => {}
        }
    }

    /// A frame of the session's.
    pub fn session(&mut self, now: Now, frame: &[u8], out: &mut Steps) {
        if self.stage == Stage::Ended {
            return;
        }
        let Some(said) = Said::read(frame) else { return out.note(Note::Ignored) };
        match self.login.hear(&said, self.ids.as_mut(), out) {
            Heard::Authenticated => self.authenticated(now, &said, out),
            Heard::AuthRefused(why) => self.auth_refused(now, &said, &why, out),
            Heard::Done => {}
            Heard::Other => self.said(now, &said, out),
        }
    }

    /// When something is due, in [`Now::micros`].
    pub fn next_due(&self) -> Option<u64> {
        let stage = match self.stage {
            Stage::Fresh { until } => Some(until),
            Stage::Ended => return None,
            _ => None,
        };
        let due = [stage, self.pending.next_due(), self.joins.next_due(), self.held.next_due()];
        due.into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn due(&mut self, now: Now, out: &mut Steps) {
        if matches!(self.stage, Stage::Fresh { until } if until <= now.micros) {
            match self.settings.auth {
                Auth::Required => self.auth_required(now, out),
                Auth::Optional => self.greet(now, out),
            }
        }
        if self.stage == Stage::Ended {
            return;
        }
        while let Some(asked) = self.pending.overdue(now) {
            self.unanswered(now, asked, out);
        }
        self.wishes_due(now, out);
        self.settle(out);
        self.held.due(now, out);
    }

    /// The session ends the connection so. A client that waits for the verdict on its token gets a frame first: without
    /// one it never comes back.
    pub fn session_closes(&mut self, now: Now, given: CloseCode, reason: &str, out: &mut Steps) {
        let greeted = match self.stage {
            Stage::Ended => return,
            Stage::Greeted => true,
            _ => false,
        };
        let (error, close, words) = match given {
            CloseCode::Unauthorized if greeted => {
                (Some((code::AUTH_FAILED, BAD_TOKEN)), CloseCode::PolicyViolation, "Authentication failed")
            }
            // The address has shown too many wrong ones, and this one was not looked at.
            CloseCode::RateLimited if let Some(to) = self.token_under_way() => {
                self.error(now, to.as_deref(), code::AUTH_FAILED, reason, out);
                return self.end(CloseCode::PolicyViolation, "Authentication failed", out);
            }
            // The one in its request.
            CloseCode::Unauthorized => return self.auth_failed(now, None, BAD_TOKEN, out),
            CloseCode::AuthTimeout => return self.auth_required(now, out),
            CloseCode::Forbidden => {
                (Some((code::FORBIDDEN, "Not authorized")), old_code(given), "Not authorized")
            }
            CloseCode::TryAgainLater => {
                let full = "Server at maximum capacity";
                (Some((code::SERVER_ERROR, full)), given, full)
            }
            CloseCode::HeartbeatMissed => (None, CloseCode::Internal, "keepalive ping timeout"),
            CloseCode::Internal => (None, given, "Internal server error"),
            CloseCode::Slow => (None, old_code(given), "Reads too slowly"),
            CloseCode::TakenOver => (None, old_code(given), "Replaced by a newer connection"),
            CloseCode::TooManyErrors => (None, old_code(given), bad::REASON),
            other => (None, old_code(other), reason),
        };
        let error = error.or((!greeted).then_some((code::SERVER_ERROR, "The server ends this connection")));
        if let Some((code, message)) = error {
            self.error(now, None, code, message, out);
        }
        self.end(close, words, out);
    }

    /// What an answer to the token carries that is being looked at; `None`: there is none.
    fn token_under_way(&mut self) -> Option<Option<String>> {
        match &mut self.stage {
            Stage::Authenticating { answer_to, .. } => Some(answer_to.take()),
            _ => self.pending.take_refresh().map(|asked| asked.answer_to),
        }
    }

    /// The client has closed, or is gone.
    pub fn client_gone(&mut self, out: &mut Steps) {
        self.stage = Stage::Ended;
        self.login.leave(out);
    }

    /// The first frame: a token, or, where none is needed, anything.
    fn first(&mut self, now: Now, frame: &[u8], out: &mut Steps) {
        let required = self.settings.auth == Auth::Required;
        let envelope = match Envelope::read(frame) {
            Ok(envelope) => envelope,
            Err(why) if required => {
                out.note(Note::DecodeError);
                self.error(now, None, code::DECODE_ERROR, &why, out);
                return self.end(CloseCode::Internal, "Authentication error", out);
            }
            Err(_) => {
                self.greet(now, out);
                return self.frame(now, frame, out);
            }
        };
        if envelope.kind == Type::Request && envelope.event.as_deref() == Some("auth") {
            self.authenticate(now, &envelope, false, out);
        } else if required {
            self.auth_required(now, out);
        } else {
            self.greet(now, out);
            self.frame(now, frame, out);
        }
    }

    /// Shows the client's token to the session.
    fn authenticate(&mut self, now: Now, envelope: &Envelope<'_>, greeted: bool, out: &mut Steps) {
        let answer_to = envelope.answer_to();
        match envelope.argument("token") {
            Some(token) => {
                self.login.authenticate(self.ids.as_mut(), &token, out);
                self.stage = Stage::Authenticating { answer_to, greeted };
            }
            None => self.auth_failed(now, answer_to.as_deref(), "Missing or malformed auth token", out),
        }
    }

    /// The token is good: the answer, then the greeting. Clients count on that order.
    fn authenticated(&mut self, now: Now, said: &Said<'_>, out: &mut Steps) {
        let user = self.login.user().map(|user| user.as_given().to_owned());
        let user_id = user.as_deref();
        let refreshed = said.reply_to.as_deref().and_then(|id| self.pending.remove(id));
        if let Some(asked) = refreshed {
            let status = Status { status: "refreshed", channel: None, user_id };
            self.respond_status(now, asked.answer_to.as_deref(), &asked.event, status, out);
            return self.settle(out);
        }
        let stage = std::mem::replace(&mut self.stage, Stage::Greeted);
        let Stage::Authenticating { answer_to, greeted } = stage else { return };
        // At once: the session would take the token's own agent in a moment.
        self.login.register(self.ids.as_mut(), out);
        let status = Status { status: "authenticated", channel: None, user_id };
        self.respond_status(now, answer_to.as_deref(), "auth", status, out);
        if !greeted {
            self.welcome(now, out);
        }
    }

    fn auth_refused(&mut self, now: Now, said: &Said<'_>, why: &str, out: &mut Steps) {
        let refreshed = said.reply_to.as_deref().and_then(|id| self.pending.remove(id));
        if let Some(asked) = refreshed {
            let refused: Refused = said.payload();
            // Others of its address have shown too many wrong ones, and this one was not looked at.
            let (note, words) = match why {
                "rate_limited" => (Note::RateLimited, refused.message.as_str()),
                _ => (Note::RefreshFailed, BAD_TOKEN),
            };
            out.note(note);
            self.error(now, asked.answer_to.as_deref(), code::AUTH_FAILED, words, out);
            return self.settle(out);
        }
        let Stage::Authenticating { answer_to, .. } = &mut self.stage else { return };
        let answer_to = answer_to.take();
        if why.starts_with("token_") || why == "bad_frame" || why == "forbidden" {
            return self.auth_failed(now, answer_to.as_deref(), BAD_TOKEN, out);
        }
        self.error(now, answer_to.as_deref(), code::SERVER_ERROR, "Authentication is not possible now", out);
        self.end(CloseCode::TryAgainLater, "Authentication is not possible now", out);
    }

    fn auth_failed(&mut self, now: Now, to: Option<&str>, message: &str, out: &mut Steps) {
        out.note(Note::AuthFailed);
        self.error(now, to, code::AUTH_FAILED, message, out);
        self.end(CloseCode::PolicyViolation, "Authentication failed", out);
    }

    fn auth_required(&mut self, now: Now, out: &mut Steps) {
        out.note(Note::AuthRequired);
        self.error(now, None, code::AUTH_REQUIRED, "Authentication required", out);
        self.end(CloseCode::PolicyViolation, "Authentication required", out);
    }

    fn greet(&mut self, now: Now, out: &mut Steps) {
        self.stage = Stage::Greeted;
        self.welcome(now, out);
    }

    fn end(&mut self, code: CloseCode, reason: &str, out: &mut Steps) {
        self.stage = Stage::Ended;
        self.login.leave(out);
        out.close(code, reason);
    }

    /// Whether the client waits for a frame.
    fn owes_an_answer(&self) -> bool {
        self.pending.owes_an_answer() || self.joins.owes_an_answer()
    }

    /// Events go on once nothing is owed any more.
    fn settle(&mut self, out: &mut Steps) {
        if !self.owes_an_answer() {
            self.held.settled(out);
        }
    }
}
