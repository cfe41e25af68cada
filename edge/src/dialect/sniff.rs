//! Which dialect a client speaks, where a port is shared. A client that authenticated in its upgrade request, or offered
//! one of our subprotocols, speaks ours, and is not asked here. Any other shows it by its first frame, or by its silence.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use trishula::wire::client::check_depth;

use super::mcp::Mcp;
use super::paced::Paced;
use super::relay::{Entry, Relay, bare};
use super::session_buddy::SessionBuddy;
use super::step::{Ids, Now, Pace};
use super::{Dialect, Settings};

/// How long the first frame may take.
pub const WITHIN: Duration = Duration::from_secs(1);

/// A dialect's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tongue {
    /// Our own protocol.
    Trishula,
    /// The envelope of nine keys.
    Mcp,
    /// session-buddy's own messages.
    SessionBuddy,
    /// The relay of the old mesh.
    Relay,
}

/// Which dialects a port serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Serves {
    /// Our own protocol.
    pub trishula: bool,
    /// The envelope.
    pub mcp: bool,
    /// session-buddy's own messages.
    pub session_buddy: bool,
    /// The relay.
    pub relay: bool,
}

/// The dialects that one service serves.
#[derive(Debug, Clone)]
pub struct Choice {
    /// Whether our own protocol is among them.
    pub trishula: bool,
    /// The service that speaks the envelope.
    pub mcp: Option<Arc<Settings>>,
    /// session-buddy.
    pub session_buddy: Option<Arc<Settings>>,
    /// The relay.
    pub relay: Option<Entry>,
}

impl Choice {
    fn serves(&self) -> Serves {
        Serves {
            trishula: self.trishula,
            mcp: self.mcp.is_some(),
            session_buddy: self.session_buddy.is_some(),
            relay: self.relay.is_some(),
        }
    }
}

impl Serves {
    fn has(&self, tongue: Tongue) -> bool {
        match tongue {
            Tongue::Trishula => self.trishula,
            Tongue::Mcp => self.mcp,
            Tongue::SessionBuddy => self.session_buddy,
            Tongue::Relay => self.relay,
        }
    }

    /// What a first frame is, of what is served.
    pub fn of(&self, frame: &[u8]) -> Tongue {
        self.pick(&guesses(frame))
    }

    /// What a client is that says nothing. Those of session-buddy wait to be greeted, and so do those of the envelope
    /// that need no token; ours speak first.
    pub fn of_silence(&self) -> Tongue {
        self.pick(&[Tongue::SessionBuddy, Tongue::Mcp, Tongue::Trishula, Tongue::Relay])
    }

    fn pick(&self, order: &[Tongue]) -> Tongue {
        // Whoever is served last gets what nobody else can read, and says so in its own way.
        let rest = [Tongue::Trishula, Tongue::Mcp, Tongue::SessionBuddy, Tongue::Relay];
        let mut all = order.iter().chain(&rest).copied();
        all.find(|tongue| self.has(*tongue)).unwrap_or(Tongue::Trishula)
    }
}

/// What tells the dialects apart. Types are not repeated here that more than one of them has.
#[derive(Default, Deserialize)]
struct First<'a> {
    #[serde(rename = "type", default, borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(default)]
    token: Option<IgnoredAny>,
    #[serde(default)]
    to: Option<IgnoredAny>,
    #[serde(default)]
    skill: Option<IgnoredAny>,
    #[serde(default)]
    data: Option<IgnoredAny>,
    #[serde(default)]
    channel: Option<IgnoredAny>,
    #[serde(default)]
    room: Option<IgnoredAny>,
}

/// What a frame may be, the likeliest first.
fn guesses(frame: &[u8]) -> Vec<Tongue> {
    use Tongue::{Mcp, Relay, SessionBuddy, Trishula};
    if bare(frame).is_some() {
        return vec![Relay];
    }
    let text = std::str::from_utf8(frame).ok();
    let object = text.filter(|text| text.trim_start().starts_with('{') && check_depth(frame).is_ok());
    let first = object.and_then(|text| serde_json::from_str::<First<'_>>(text).ok());
    let Some(first) = first else { return vec![Trishula, Mcp] };
    let Some(kind) = first.kind.as_deref() else {
        return if first.token.is_some() { vec![SessionBuddy] } else { vec![Trishula, Mcp] };
    };
    let channel = first.data.is_some() || first.channel.is_some() || first.room.is_some();
    match kind {
        _ if first.to.is_some() => vec![Trishula],
        "request" | "event" | "response" | "pong" | "error" | "ack" => vec![Mcp],
        "subscribe" | "unsubscribe" if first.skill.is_none() && channel => vec![Mcp],
        "subscribe" | "unsubscribe" => vec![SessionBuddy, Mcp],
        "ping" => vec![Mcp, SessionBuddy],
        _ => vec![Trishula, Mcp],
    }
}

/// A client that has not shown yet what it speaks.
pub struct Sniffer {
    choice: Choice,
    /// For the dialect that it will be.
    tools: Option<(Box<dyn Ids>, Box<dyn Pace>)>,
    until: u64,
}

impl Sniffer {
    /// A new connection.
    pub fn new(choice: Choice, ids: Box<dyn Ids>, pace: Box<dyn Pace>, now: Now) -> Sniffer {
        Sniffer { choice, tools: Some((ids, pace)), until: now.after(WITHIN) }
    }

    /// When its silence is taken for an answer, in [`Now::micros`].
    pub fn until(&self) -> u64 {
        self.until
    }

    /// Its first frame. `None`: it was decided before.
    pub fn first(&mut self, now: Now, frame: &[u8]) -> Option<Dialect> {
        self.become_a(self.choice.serves().of(frame), now)
    }

    /// The time is over, if it is.
    pub fn silent(&mut self, now: Now) -> Option<Dialect> {
        if now.micros < self.until {
            return None;
        }
        self.become_a(self.choice.serves().of_silence(), now)
    }

    fn become_a(&mut self, tongue: Tongue, now: Now) -> Option<Dialect> {
        let (ids, pace) = self.tools.take()?;
        Some(match (tongue, &self.choice) {
            (Tongue::Mcp, Choice { mcp: Some(settings), .. }) => {
                Dialect::Mcp(Box::new(Mcp::new(settings.clone(), None, ids, pace, now)))
            }
            (Tongue::SessionBuddy, Choice { session_buddy: Some(settings), .. }) => {
                Dialect::SessionBuddy(Box::new(SessionBuddy::new(settings.clone(), None, ids, pace, now)))
            }
            (Tongue::Relay, Choice { relay: Some(entry), .. }) => {
                Dialect::Relay(Box::new(Relay::new(entry.clone(), false, ids, pace, now)))
            }
            _ => Dialect::Paced(Box::new(Paced::new(ids, pace))),
        })
    }
}
