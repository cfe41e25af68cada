//! What the metrics say of a session's messages: how many there were, and how long they took.

use std::collections::VecDeque;
use std::sync::LazyLock;

use prometheus::{Histogram, IntCounter};

use crate::metrics;
use crate::wire::envelope::{Head, State, Target};
use crate::wire::ids::MessageId;

/// What is timed at once, messages and wishes for rooms each; of more, the oldest are not.
const MAX_TIMED: usize = 64;

/// Where the time goes that clients need to join and to leave rooms, in seconds.
#[derive(Debug, Clone)]
pub struct RoomTimes {
    /// From SUBSCRIBE to SUBSCRIBED.
    pub join: Histogram,
    /// From UNSUBSCRIBE to UNSUBSCRIBED.
    pub leave: Histogram,
}

/// What is under way, and when it came, in microseconds.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Messages whose sender asked for the receipt `delivered`.
    under_way: VecDeque<(MessageId, u64)>,
    /// SUBSCRIBE and UNSUBSCRIBE.
    rooms: VecDeque<(Option<MessageId>, u64)>,
}

impl Measured {
    /// A message was taken from the client and goes to the node.
    pub(super) fn taken(&mut self, head: &Head, now: u64) {
        count(&head.to);
        if head.receipt == Some(State::Delivered) {
            if self.under_way.len() >= MAX_TIMED {
                self.under_way.pop_front();
            }
            self.under_way.push_back((head.id.clone(), now));
        }
    }

    /// The client wants to join or to leave a room.
    pub(super) fn asks_room(&mut self, id: Option<MessageId>, now: u64) {
        if self.rooms.len() >= MAX_TIMED {
            self.rooms.pop_front();
        }
        self.rooms.push_back((id, now));
    }

    /// It is answered; `into`: where its time goes, if it got what it wanted.
    pub(super) fn answers_room(&mut self, id: Option<&MessageId>, into: Option<&Histogram>, now: u64) {
        let at = self.rooms.iter().position(|(asked, _)| asked.as_ref() == id);
        let asked = at.and_then(|at| self.rooms.remove(at));
        if let (Some((_, asked)), Some(into)) = (asked, into) {
            into.observe(now.saturating_sub(asked) as f64 / 1e6);
        }
    }

    /// What became of a message is known. One that was refused was not delivered fast.
    pub(super) fn told(&mut self, id: &MessageId, state: State, now: u64) {
        let Some(at) = self.under_way.iter().position(|(taken, _)| taken == id) else { return };
        if let Some((_, taken)) = self.under_way.remove(at)
            && state == State::Delivered
        {
            metrics::MESSAGE_LATENCY.observe(now.saturating_sub(taken) as f64 / 1e6);
        }
    }
}

/// The counters are looked up once, not for every message.
fn count(to: &Target) {
    static AGENT: LazyLock<IntCounter> = LazyLock::new(|| counter("agent"));
    static BROADCAST: LazyLock<IntCounter> = LazyLock::new(|| counter("broadcast"));
    static ROOM: LazyLock<IntCounter> = LazyLock::new(|| counter("room"));
    match to {
        Target::Agent(_) => AGENT.inc(),
        Target::Broadcast(_) => BROADCAST.inc(),
        Target::Room(..) => ROOM.inc(),
    }
}

fn counter(target: &str) -> IntCounter {
    metrics::MESSAGES_SENT.with_label_values(&[target])
}
