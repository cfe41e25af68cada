//! What the metrics say of a session's messages: how many there were, and how long they took.

use std::collections::{BTreeMap, VecDeque};
use std::sync::LazyLock;

use prometheus::{Histogram, IntCounter};

use crate::metrics;
use crate::wire::envelope::{Head, State, Target};
use crate::wire::ids::MessageId;

/// Messages that are timed at once; of more, the oldest are not. Some wait for days for their last receipt, and must not keep
/// the others out.
const MAX_TIMED: usize = 1024;
/// The same of wishes for rooms, which are answered soon.
const MAX_WISHES: usize = 64;

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
    /// Messages whose sender asked for a receipt.
    under_way: BTreeMap<MessageId, Timed>,
    /// SUBSCRIBE and UNSUBSCRIBE.
    rooms: VecDeque<(Option<MessageId>, u64)>,
}

/// A message whose sender is still to be told of it.
#[derive(Debug)]
struct Timed {
    /// When it came.
    taken: u64,
    /// The last state that he is told.
    last: State,
    /// The latest that he was told; after a restart of a node it may come again.
    told: Option<State>,
}

impl Measured {
    /// A message was taken from the client and goes to the node.
    pub(super) fn taken(&mut self, head: &Head, now: u64) {
        count(&head.to);
        let Some(wish) = head.receipt else { return };
        // One for many ends for its sender when it was taken.
        let last = if matches!(head.to, Target::Agent(_)) { wish } else { State::Accepted };
        // Given again, it has been under way since it came first.
        if self.under_way.contains_key(&head.id) {
            return;
        }
        if self.under_way.len() >= MAX_TIMED {
            let oldest = self.under_way.iter().min_by_key(|(_, timed)| timed.taken);
            if let Some(id) = oldest.map(|(id, _)| id.clone()) {
                self.under_way.remove(&id);
            }
        }
        self.under_way.insert(head.id.clone(), Timed { taken: now, last, told: None });
    }

    /// It found no way to the node, and its sender knows.
    pub(super) fn not_taken(&mut self, id: &MessageId) {
        self.under_way.remove(id);
    }

    /// The client wants to join or to leave a room.
    pub(super) fn asks_room(&mut self, id: Option<MessageId>, now: u64) {
        if self.rooms.len() >= MAX_WISHES {
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

    /// Its sender is told what became of a message.
    pub(super) fn told(&mut self, id: &MessageId, state: State, now: u64) {
        if let (Some(took), Some(into)) = (self.took(id, state, now), latency(state)) {
            into.observe(took as f64 / 1e6);
        }
    }

    /// How long a message has taken to a state that its sender asked for, in microseconds; `None`: it counted before, or the
    /// message has failed, and that is not fast.
    fn took(&mut self, id: &MessageId, state: State, now: u64) -> Option<u64> {
        let timed = self.under_way.get_mut(id)?;
        let counts = state <= timed.last && timed.told < Some(state);
        timed.told = timed.told.max(Some(state));
        let took = now.saturating_sub(timed.taken);
        // All ends but `acked` are behind whatever may be asked for.
        if state >= timed.last {
            self.under_way.remove(id);
        }
        counts.then_some(took)
    }
}

/// Where the time to a state goes; looked up once, not for every message. `None`: a message that failed is not timed.
fn latency(state: State) -> Option<&'static Histogram> {
    static OF: LazyLock<[(State, Histogram); 4]> = LazyLock::new(|| {
        let states = [State::Accepted, State::Stored, State::Delivered, State::Acked];
        states.map(|state| (state, metrics::MESSAGE_LATENCY.with_label_values(&[state.as_str()])))
    });
    OF.iter().find(|(of, _)| *of == state).map(|(_, histogram)| histogram)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::testing::{head, namespace};
    use crate::wire::ids::RoomName;

    fn asks(id: &str, receipt: Option<State>) -> Head {
        Head { receipt, ..head("dc", "agni", id, 3) }
    }

    fn id(id: &str) -> MessageId {
        MessageId::new(id).unwrap()
    }

    #[test]
    fn each_receipt_that_was_asked_for_is_timed_once_and_nothing_stays_behind_the_last() {
        // covers T22
        use State::{Accepted, Acked, Dead, Delivered, Expired, Nacked, Refused, Stored};
        let good = [Accepted, Stored, Delivered, Acked];
        for (n, wish) in good.into_iter().enumerate() {
            let mut measured = Measured::default();
            measured.taken(&asks("m", Some(wish)), 100);
            for (told, state) in good[..=n].iter().enumerate() {
                let now = 110 + 10 * told as u64;
                assert_eq!(measured.took(&id("m"), *state, now), Some(now - 100), "{wish:?} {state:?}");
                assert_eq!(
                    measured.took(&id("m"), *state, now),
                    None,
                    "a node that was started tells it again"
                );
            }
            assert!(measured.under_way.is_empty(), "{wish:?} is the end");
        }
        // Some are left out, and what failed is timed no more.
        let mut measured = Measured::default();
        for (end, passed) in
            [(Nacked, Some(Delivered)), (Expired, Some(Stored)), (Dead, None), (Refused, None)]
        {
            measured.taken(&asks("m", Some(Acked)), 0);
            if let Some(passed) = passed {
                assert_eq!(measured.took(&id("m"), passed, 7), Some(7));
            }
            assert_eq!(measured.took(&id("m"), end, 9), None, "{end:?}");
            assert!(measured.under_way.is_empty() && latency(end).is_none());
        }
        // What is for many ends when it is taken, and of what nobody asks for nothing is kept.
        let room = Target::Room(namespace(), RoomName::new("deploys").unwrap());
        for to in [room, Target::Broadcast(namespace())] {
            measured.taken(&Head { to, ..asks("m", Some(Acked)) }, 0);
            assert_eq!(measured.took(&id("m"), Accepted, 5), Some(5));
            assert!(measured.under_way.is_empty());
        }
        measured.taken(&asks("m", None), 0);
        assert_eq!(measured.took(&id("m"), Acked, 5), None);
    }

    #[test]
    fn what_is_given_again_counts_from_the_first_time_and_what_waits_for_ever_keeps_nobody_out() {
        // covers T22
        let mut measured = Measured::default();
        for now in [10, 50] {
            measured.taken(&asks("again", Some(State::Acked)), now);
        }
        assert_eq!(measured.took(&id("again"), State::Acked, 60), Some(50));
        for n in 0..2 * MAX_TIMED {
            measured.taken(&asks(&format!("m-{n}"), Some(State::Acked)), n as u64);
        }
        assert_eq!(measured.under_way.len(), MAX_TIMED);
        let mut took = |n: usize| measured.took(&id(&format!("m-{n}")), State::Delivered, 5000);
        assert_eq!(took(MAX_TIMED - 1), None, "one of the oldest");
        assert_eq!(took(MAX_TIMED), Some(5000 - MAX_TIMED as u64));
        measured.not_taken(&id(&format!("m-{MAX_TIMED}")));
        assert_eq!(measured.under_way.len(), MAX_TIMED - 1);
    }
}
