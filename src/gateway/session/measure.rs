//! What the metrics say of a session's messages: how many there were, and how long they took.

use std::collections::VecDeque;
use std::sync::LazyLock;

use prometheus::IntCounter;

use crate::metrics;
use crate::wire::envelope::{Head, State, Target};
use crate::wire::ids::MessageId;

/// Messages that are timed at once; of more, the oldest are not.
const MAX_TIMED: usize = 64;

/// Messages whose sender asked for the receipt `delivered`: which, and when it came, in microseconds.
#[derive(Debug, Default)]
pub(super) struct Measured {
    under_way: VecDeque<(MessageId, u64)>,
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
