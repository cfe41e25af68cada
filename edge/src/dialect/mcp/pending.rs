//! What was asked of the session and has no answer yet, and the events that wait behind it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::dialect::step::{Now, Steps};

/// How long the session may take for an answer of its own. The client of old waits for 30 s.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Requests under way at once.
const MAX_PENDING: usize = 64;
/// How long an event stands behind an answer.
const HOLD_WITHIN: Duration = Duration::from_millis(250);
/// Events, and bytes of them, that stand behind an answer.
const MAX_HELD: (usize, usize) = (64, 256 * 1024);

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Join,
    /// The same, and the client has left meanwhile.
    Left,
    Leave,
    Refresh,
    Members,
    History,
    /// Of the agent of the service; how long it has once the question was delivered.
    Service(Duration),
}

/// A question under way.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) what: What,
    /// `event` of the request, which the answer repeats.
    pub(super) event: String,
    /// The channel that it is about.
    pub(super) channel: Option<String>,
    /// What the answer carries as `correlation_id`.
    pub(super) answer_to: Option<String>,
    /// Whether only a refusal is told.
    pub(super) quiet: bool,
    /// When it is answered with an error.
    pub(super) due: u64,
}

impl Asked {
    /// Whose answer is nothing to tell.
    pub(super) fn no_matter(due: u64) -> Asked {
        Asked { what: What::Left, event: String::new(), channel: None, answer_to: None, quiet: true, due }
    }
}

/// Questions by the id that they went to the session with.
#[derive(Debug, Default)]
pub(super) struct Pending(BTreeMap<String, Asked>);

impl Pending {
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= MAX_PENDING
    }

    pub(super) fn insert(&mut self, id: String, asked: Asked) {
        self.0.insert(id, asked);
    }

    pub(super) fn get(&mut self, id: &str) -> Option<&mut Asked> {
        self.0.get_mut(id)
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Asked> {
        self.0.remove(id)
    }

    /// Takes out the one about a token.
    pub(super) fn take_refresh(&mut self) -> Option<Asked> {
        let id = self.0.iter().find(|(_, asked)| asked.what == What::Refresh)?.0.clone();
        self.0.remove(&id)
    }

    pub(super) fn next_due(&self) -> Option<u64> {
        self.0.values().map(|asked| asked.due).min()
    }

    /// Takes out one whose time is over.
    pub(super) fn overdue(&mut self, now: Now) -> Option<Asked> {
        let id = self.0.iter().find(|(_, asked)| asked.due <= now.micros)?.0.clone();
        self.0.remove(&id)
    }

    /// Whether the client waits for a frame.
    pub(super) fn owes_an_answer(&self) -> bool {
        self.0.values().any(|asked| !asked.quiet)
    }
}

/// Events that came while the client waits for an answer. Clients by the examples take the very next frame for it.
#[derive(Debug, Default)]
pub(super) struct Held {
    events: VecDeque<Bytes>,
    bytes: usize,
    /// Until when events are held, from the first one on.
    until: Option<u64>,
}

impl Held {
    /// Sends an event, or holds it.
    pub(super) fn event(&mut self, now: Now, frame: Bytes, owes: bool, out: &mut Steps) {
        let until = *self.until.get_or_insert_with(|| now.after(HOLD_WITHIN));
        let fits = self.events.len() < MAX_HELD.0 && self.bytes + frame.len() <= MAX_HELD.1;
        if owes && fits && now.micros < until {
            self.bytes += frame.len();
            self.events.push_back(frame);
            return;
        }
        self.let_go(out);
        if !owes {
            self.until = None;
        }
        out.to_client(frame);
    }

    /// Nothing is owed any more.
    pub(super) fn settled(&mut self, out: &mut Steps) {
        self.let_go(out);
        self.until = None;
    }

    pub(super) fn next_due(&self) -> Option<u64> {
        self.until.filter(|_| !self.events.is_empty())
    }

    pub(super) fn due(&mut self, now: Now, out: &mut Steps) {
        if self.next_due().is_some_and(|at| at <= now.micros) {
            self.let_go(out);
        }
    }

    fn let_go(&mut self, out: &mut Steps) {
        self.bytes = 0;
        self.events.drain(..).for_each(|event| out.to_client(event));
    }
}
