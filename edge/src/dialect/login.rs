//! Who the client is, towards the session: its token, its registration, and what waits for that.
//!
//! Legacy clients open several connections with one token, and a session of the same agent would take over from the
//! one before. So each connection is an agent of its own below the token's, `USER.xxxxxxxx`, or `anonymous.xxxxxxxx`;
//! where the token does not allow that, one of the sessions that share the token's agent.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::Serialize;
use trishula::gateway::auth::{ANONYMOUS, base_of};
use trishula::wire::ids::AgentName;

use super::ours::{Authenticated, Refused, Said, Say};
use super::step::{Ids, Steps};

/// Frames that wait for the registration.
const MAX_WAITING: usize = 64;
/// Bytes of frames that wait beyond which the client is not read.
const MAX_WAITING_BYTES: usize = 64 * 1024;

/// Who somebody is that has shown a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The token's agent.
    pub name: String,
    /// What the token calls it, where that is another name.
    pub called: Option<String>,
    /// The token's permissions.
    pub permissions: Vec<String>,
}

impl User {
    /// As its token calls it.
    pub(super) fn as_given(&self) -> &str {
        self.called.as_deref().unwrap_or(&self.name)
    }
}

/// What has become of a frame of the session's.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The token is good. A second time: it was refreshed.
    Authenticated,
    /// It is not; why.
    AuthRefused(String),
    /// It was about the registration, or about nothing.
    Done,
    /// It is for somebody else.
    Other,
}

/// How far the registration is.
#[derive(Debug, PartialEq, Eq)]
enum Registration {
    Not,
    Asked { id: String, shared: bool },
    Done { shared: bool },
}

#[derive(Debug)]
pub(super) struct Login {
    user: Option<User>,
    /// The AUTH without an answer.
    asked: Option<String>,
    registration: Registration,
    waiting: VecDeque<Bytes>,
    bytes: usize,
}

#[derive(Serialize)]
struct Token<'a> {
    token: &'a str,
}

#[derive(Serialize)]
struct Register<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    shared: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    transient: bool,
}

impl Login {
    /// `user`: who it is, if the upgrade request has said so.
    pub(super) fn new(user: Option<User>) -> Login {
        Login { user, asked: None, registration: Registration::Not, waiting: VecDeque::new(), bytes: 0 }
    }

    pub(super) fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    /// Whether more of the client's frames find room.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < MAX_WAITING && self.bytes < MAX_WAITING_BYTES
    }

    /// Whether somebody is registered, or will be.
    pub(super) fn registers(&self) -> bool {
        self.registration != Registration::Not
    }

    /// Whether a token is being looked at.
    pub(super) fn is_asking(&self) -> bool {
        self.asked.is_some()
    }

    /// Shows a token. The id under which it went.
    pub(super) fn authenticate(&mut self, ids: &mut dyn Ids, token: &str, out: &mut Steps) -> String {
        let id = ids.next_id();
        out.to_session(Say::control("AUTH", &id, Token { token }).text());
        self.asked = Some(id.clone());
        id
    }

    /// Registers, once.
    pub(super) fn register(&mut self, ids: &mut dyn Ids, out: &mut Steps) {
        if self.registers() {
            return;
        }
        let base = self.user.as_ref().map_or(ANONYMOUS.into(), |user| base_of(&user.name));
        let own: String = ids.next_id().chars().filter(|c| *c != '-').take(8).collect();
        self.ask(ids, Some(&format!("{base}.{own}")), out);
    }

    fn ask(&mut self, ids: &mut dyn Ids, agent: Option<&str>, out: &mut Steps) {
        let (id, shared) = (ids.next_id(), agent.is_none());
        // An agent that is only for this connection ends with it, also where nobody is left to say so.
        let register = Register { agent, shared, transient: !shared };
        out.to_session(Say::control("REGISTER", &id, register).text());
        self.registration = Registration::Asked { id, shared };
    }

    /// Passes a frame on, as soon as there is an agent for it to come from. `false`: too many wait already.
    pub(super) fn pass(&mut self, ids: &mut dyn Ids, frame: Bytes, out: &mut Steps) -> bool {
        self.register(ids, out);
        if matches!(self.registration, Registration::Done { .. }) {
            out.to_session(frame);
            return true;
        }
        if self.waiting.len() >= MAX_WAITING {
            return false;
        }
        self.bytes += frame.len();
        self.waiting.push_back(frame);
        true
    }

    /// A frame of the session's.
    pub(super) fn hear(&mut self, said: &Said<'_>, ids: &mut dyn Ids, out: &mut Steps) -> Heard {
        let about = said.reply_to.as_deref();
        match said.kind.as_str() {
            _ if !said.of_mesh() => Heard::Other,
            "AUTHENTICATED" => {
                if about.is_some() && about == self.asked.as_deref() {
                    self.asked = None;
                    let Authenticated { agent, user: called, permissions } = said.payload();
                    let agent = agent.filter(|name| AgentName::new(name).is_ok());
                    self.user = agent.map(|name| User { name, called, permissions });
                    return Heard::Authenticated;
                }
                Heard::Done
            }
            "ERROR" if about.is_some() && about == self.asked.as_deref() => {
                self.asked = None;
                Heard::AuthRefused(said.payload::<Refused>().code)
            }
            "REGISTERED" | "ERROR" => self.registered(said, ids, out),
            "UNREGISTERED" => Heard::Done,
            _ => Heard::Other,
        }
    }

    fn registered(&mut self, said: &Said<'_>, ids: &mut dyn Ids, out: &mut Steps) -> Heard {
        let (id, was_shared) = match &self.registration {
            Registration::Asked { id, shared } => (id, *shared),
            _ if said.kind == "REGISTERED" => return Heard::Done,
            _ => return Heard::Other,
        };
        if said.reply_to.as_ref() != Some(id) {
            return Heard::Other;
        }
        // Where the node is away the session registers by itself, as soon as it can.
        if said.kind == "ERROR" && said.payload::<Refused>().code == "forbidden" && !was_shared {
            self.ask(ids, None, out);
            return Heard::Done;
        }
        self.registration = Registration::Done { shared: was_shared };
        self.bytes = 0;
        self.waiting.drain(..).for_each(|frame| out.to_session(frame));
        Heard::Done
    }

    /// The connection is over: an agent that was only for it is forgotten.
    pub(super) fn leave(&mut self, out: &mut Steps) {
        let own = match self.registration {
            Registration::Asked { shared, .. } | Registration::Done { shared } => !shared,
            Registration::Not => false,
        };
        if own {
            out.to_session(Bytes::from_static(b"{\"type\":\"UNREGISTER\"}"));
        }
        self.registration = Registration::Not;
    }
}
