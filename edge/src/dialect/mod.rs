//! The dialects of old WebSocket clients, each a translator: its client's frames on the one side, our own protocol
//! (docs/protocol.md) on the other. Behind it runs the ordinary session, which knows nothing of it. What each frame
//! becomes is in docs/dialects.md.
//!
//! A dialect is pure. It is told the time, gets its ids and its client's pace from whoever drives it, and answers with
//! [`Steps`]; what it remembers has a limit, and a time after which the client gets an error in place of an answer.
//!
//! | file | what is in it |
//! |---|---|
//! | this one | the contract, and the one type for all dialects |
//! | [`step`] | what goes in and out |
//! | [`services`] | the seven services as data: greeting, permissions, requests |
//! | [`mcp`] | the envelope of nine keys, for six of them |
//! | [`session_buddy`] | session-buddy's own messages |
//! | [`relay`] | the relay of the old mesh |
//! | [`sniff`] | which of them a client speaks, by its first frame |
//! | [`carrier`] | a dialect between a WebSocket and a session; the one file that knows of sockets and clocks |
//! | [`pace`] | the rate of one client |
//! | [`paced`] | our own protocol, at a limited rate |
//! | [`bad`] | clients that send one bad frame after the other |
//! | [`ids`] | ids by chance |
//! | `login` | token and registration, towards the session |
//! | `ours` | frames of our own protocol |

pub mod bad;
pub mod carrier;
pub mod ids;
pub mod mcp;
pub mod pace;
pub mod paced;
pub mod relay;
pub mod services;
pub mod session_buddy;
pub mod sniff;
pub mod step;

#[cfg(test)]
mod hostile;
mod login;
mod ours;
#[cfg(test)]
mod vectors;

use std::time::Duration;

use bytes::Bytes;
use trishula::wire::close::CloseCode;

use mcp::Mcp;
use paced::Paced;
use relay::Relay;
use session_buddy::SessionBuddy;
use sniff::Sniffer;

pub use login::User;
pub use ours::SERVICE_AGENT;
pub use step::{Ids, Note, Now, Pace, Step, Steps};

use services::{Request, Service};

use crate::access::{ANYBODY, Access, Action, Who};
use crate::config::presets;

/// Largest frame that a client of old takes: over it, it closes with 1009.
const MAX_FRAME: usize = 1 << 20;

/// What one client speaks.
pub enum Dialect {
    /// Our own protocol: everything passes as it is.
    Trishula,
    /// The same, at a limited rate.
    Paced(Box<Paced>),
    /// The envelope of nine keys.
    Mcp(Box<Mcp>),
    /// session-buddy's own messages.
    SessionBuddy(Box<SessionBuddy>),
    /// The relay of the old mesh.
    Relay(Box<Relay>),
    /// Not known yet.
    Undecided(Box<Sniffer>),
}

impl Dialect {
    /// What is to be done before anything has come. Once, and first.
    pub fn start(&mut self, now: Now, out: &mut Steps) {
        match self {
            Dialect::Mcp(mcp) => mcp.start(now, out),
            Dialect::SessionBuddy(buddy) => buddy.start(now, out),
            Dialect::Trishula | Dialect::Paced(_) | Dialect::Relay(_) | Dialect::Undecided(_) => {}
        }
    }

    /// Whether nobody knows yet what the client speaks.
    pub fn is_undecided(&self) -> bool {
        matches!(self, Dialect::Undecided(_))
    }

    /// Whether a frame of the client's may be given now. While it may not, the client is not read.
    pub fn hears_client(&self) -> bool {
        match self {
            Dialect::Mcp(mcp) => mcp.hears_client(),
            Dialect::SessionBuddy(buddy) => buddy.hears_client(),
            Dialect::Trishula | Dialect::Paced(_) | Dialect::Relay(_) | Dialect::Undecided(_) => true,
        }
    }

    /// A frame of the client's, text or binary.
    pub fn client(&mut self, now: Now, frame: &Bytes, out: &mut Steps) {
        match self {
            Dialect::Trishula => out.to_session(frame.clone()),
            Dialect::Paced(paced) => paced.client(now, frame, out),
            Dialect::Mcp(mcp) => mcp.client(now, frame, out),
            Dialect::SessionBuddy(buddy) => buddy.client(now, frame, out),
            Dialect::Relay(relay) => relay.client(now, frame, out),
            Dialect::Undecided(sniffer) => {
                if let Some(mut decided) = sniffer.first(now, frame) {
                    decided.start(now, out);
                    decided.client(now, frame, out);
                    *self = decided;
                }
            }
        }
    }

    /// A frame of the session's, in our protocol.
    pub fn session(&mut self, now: Now, frame: &Bytes, out: &mut Steps) {
        match self {
            Dialect::Trishula | Dialect::Paced(_) => out.to_client(frame.clone()),
            Dialect::Mcp(mcp) => mcp.session(now, frame, out),
            Dialect::SessionBuddy(buddy) => buddy.session(now, frame, out),
            Dialect::Relay(relay) => relay.session(now, frame, out),
            // A session says nothing of its own accord before it has a client.
            Dialect::Undecided(_) => out.note(Note::Ignored),
        }
    }

    /// The session ends the connection so; the client is told in its own way.
    pub fn session_closes(&mut self, now: Now, code: CloseCode, reason: &str, out: &mut Steps) {
        match self {
            Dialect::Trishula | Dialect::Paced(_) | Dialect::Undecided(_) => out.close(code, reason),
            Dialect::Mcp(mcp) => mcp.session_closes(now, code, reason, out),
            Dialect::SessionBuddy(buddy) => buddy.session_closes(code, reason, out),
            Dialect::Relay(relay) => relay.session_closes(code, reason, out),
        }
    }

    /// The client has closed, or is gone. What the session is still to be told goes ahead of that.
    pub fn client_gone(&mut self, out: &mut Steps) {
        match self {
            Dialect::Trishula | Dialect::Paced(_) | Dialect::Undecided(_) => {}
            Dialect::Mcp(mcp) => mcp.client_gone(out),
            Dialect::SessionBuddy(buddy) => buddy.client_gone(out),
            Dialect::Relay(relay) => relay.client_gone(),
        }
    }

    /// When something is due, in [`Now::micros`].
    pub fn next_due(&self) -> Option<u64> {
        match self {
            Dialect::Trishula | Dialect::Paced(_) => None,
            Dialect::Mcp(mcp) => mcp.next_due(),
            Dialect::SessionBuddy(buddy) => buddy.next_due(),
            Dialect::Relay(relay) => relay.next_due(),
            Dialect::Undecided(sniffer) => Some(sniffer.until()),
        }
    }

    /// Does what is due.
    pub fn due(&mut self, now: Now, out: &mut Steps) {
        match self {
            Dialect::Trishula | Dialect::Paced(_) => {}
            Dialect::Mcp(mcp) => mcp.due(now, out),
            Dialect::SessionBuddy(buddy) => buddy.due(now, out),
            Dialect::Relay(relay) => relay.due(now, out),
            Dialect::Undecided(sniffer) => {
                if let Some(mut decided) = sniffer.silent(now) {
                    decided.start(now, out);
                    *self = decided;
                }
            }
        }
    }
}

/// Whether a client needs a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// It does.
    Required,
    /// It may show one.
    Optional,
}

/// What a client without a token may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anonymous {
    /// All, as on the old servers.
    Everything,
    /// What these permissions allow; none: nothing.
    Permissions(Vec<String>),
}

/// What an operator decides about a listener that serves a dialect.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The service.
    pub service: &'static Service,
    /// What it calls itself in its greeting.
    pub server: String,
    /// Its namespace here.
    pub namespace: String,
    /// Whether a client needs a token.
    pub auth: Auth,
    /// What one without may do, where it needs none.
    pub anonymous: Anonymous,
    /// Who may do what in which channels.
    pub access: Access,
    /// What may be asked of its agent.
    pub requests: Vec<Request>,
    /// Whether clients may publish what their service lists, which the old servers ignored.
    pub may_publish: bool,
    /// Whether the client came by TLS.
    pub secure: bool,
    /// Frames a second that the greeting names.
    pub rate: u32,
    /// Largest frame that the session takes, in bytes.
    pub max_frame: usize,
    /// How long a client may take with its token.
    pub auth_within: Duration,
    /// How long the greeting waits for a token that need not come.
    pub greet_within: Duration,
    /// How long the agent of the service may take with an answer, once it has the question.
    pub answer_within: Duration,
}

impl Settings {
    /// As the old servers had it, but that a token is needed, and that clients without one may do nothing.
    pub fn new(service: &'static Service) -> Settings {
        let session_buddy = service.family == services::Family::SessionBuddy;
        let preset = presets::section(service.name);
        Settings {
            service,
            server: service.server.into(),
            namespace: service.name.into(),
            auth: Auth::Required,
            anonymous: Anonymous::Permissions(Vec::new()),
            access: preset.as_ref().map(|section| section.access()).unwrap_or_default(),
            requests: preset.map(|section| section.requests()).unwrap_or_default(),
            may_publish: false,
            secure: true,
            rate: 100,
            max_frame: trishula::wire::client::DEFAULT_MAX_FRAME,
            auth_within: Duration::from_secs(if session_buddy { 5 } else { 10 }),
            greet_within: Duration::from_millis(250),
            answer_within: Duration::from_secs(25),
        }
    }

    /// Whether this client may do this.
    fn may(&self, user: Option<&User>, action: Action, channel: &str) -> bool {
        self.who(user).is_none_or(|who| self.access.allows(who, action, channel))
    }

    /// Whether it may ask its service what takes one of these permissions; where none is needed, everybody may.
    fn may_ask(&self, user: Option<&User>, needed: &[String]) -> bool {
        let has_one = |who: Who<'_>| {
            let (Who::Known(permissions) | Who::Stranger(permissions)) = who;
            let anybody = matches!(who, Who::Known(_)) && needed.iter().any(|needed| needed == ANYBODY);
            anybody || self.access.has_any(permissions, needed)
        };
        needed.is_empty() || self.who(user).is_none_or(has_one)
    }

    /// With which permissions it comes; `None`: everything is allowed.
    fn who<'a>(&'a self, user: Option<&'a User>) -> Option<Who<'a>> {
        match (user, &self.anonymous) {
            // A token takes nothing away from what all may without one.
            (_, Anonymous::Everything) => None,
            (Some(user), _) => Some(Who::Known(&user.permissions)),
            (None, Anonymous::Permissions(permissions)) => Some(Who::Stranger(permissions)),
        }
    }
}

/// A close of ours as one that clients of old have seen before.
fn old_code(code: CloseCode) -> CloseCode {
    match code {
        CloseCode::HeartbeatMissed => CloseCode::Internal,
        ours if ours.number() >= 4000 => CloseCode::PolicyViolation,
        other => other,
    }
}
