//! Every durable message that this node knows of: whole ones, and the marks of those that have ended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::numbers::{Numbers, number_of};
use super::shares::Shares;
use crate::mesh::Time;
use crate::wire::close::Refusal;
use crate::wire::envelope::{Head, MessageKey, Numbered, Priority, State};
use crate::wire::ids::{AgentAddr, Incarnation, LinkId, NodeName, SessionNo};
use crate::wire::record::{Place, Upstream};

/// Names a message within this node, across its restarts; a later one is greater.
pub(in crate::mesh) type No = u64;

/// Marks that are kept of all senders' messages (of one: see [`Limits`](super::Limits)) …
pub(super) const MARKS: usize = 200_000;
/// … and for how long, in milliseconds: 7 days.
pub(super) const MARK_MS: u64 = 7 * 24 * 3600 * 1000;
/// A sender's clock that is further off than this says nothing about the age of its messages, in milliseconds: a day.
const CREDIBLE_MS: u64 = 24 * 3600 * 1000;

/// Messages that keep their order.
pub(super) type Flow = (AgentAddr, AgentAddr, Priority);

/// Where a message was sent last.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) node: NodeName,
    pub(super) incarnation: Incarnation,
    pub(super) at: Time,
}

/// A message in a session's hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hand {
    pub(super) link: LinkId,
    pub(super) session: SessionNo,
    pub(super) tag: u64,
}

/// What a session has in its hands, also when the message has ended elsewhere meanwhile.
#[derive(Debug, Clone, Copy)]
pub(super) struct InHand {
    pub(super) no: No,
    pub(super) urgent: bool,
    pub(super) bytes: usize,
}

/// One durable message for one recipient.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) key: MessageKey,
    /// Whom to tell what becomes of it; the first is on disk.
    pub(super) upstream: Vec<Upstream>,
    pub(super) head: Head,
    pub(super) payload: Bytes,
    pub(super) place: Place,
    pub(super) state: State,
    pub(super) reason: Option<Refusal>,
    /// Wall clock in milliseconds, as all that ends in `_ms`.
    pub(super) taken_ms: u64,
    /// When its sender sent it first, as far as that is known.
    pub(super) sent_ms: u64,
    pub(super) expires_ms: u64,
    pub(super) not_before_ms: u64,
    pub(super) on_disk: bool,
    /// A second machine has it, where that was asked for.
    pub(super) second: bool,
    /// When its sender is told that no second machine has it, by the wall clock in milliseconds.
    pub(super) second_by_ms: u64,
    /// Its end is being written.
    pub(super) ending: bool,
    pub(super) other: Option<NodeName>,
    /// See [`Kept::unseen_since`](crate::wire::record::Kept::unseen_since).
    pub(super) unseen_since: u64,
    /// Its recipient may have got it before.
    pub(super) redelivered: bool,
    /// The node it is on its way to.
    pub(super) peer: Option<NodeName>,
    /// Since when its recipient is nowhere known, if it was before.
    pub(super) homeless: Option<Time>,
    /// A message had made its recipient, as far as this node heard last, and nobody has registered as that since.
    pub(super) to_made: bool,
    /// This node knows whether anybody got it: nobody else can have handed it over before.
    pub(super) alone: bool,
    /// It was on disk when this node started: what an earlier life told of it, and to whom it sent it, is not known.
    pub(super) restored: bool,
    /// It is in a mailbox, and that is not on disk yet.
    pub(super) moving: bool,
    /// How often it is being written.
    pub(super) writes: u32,
    /// It was put where it belongs once.
    pub(super) placed: bool,
    pub(super) sent: Option<Sent>,
    pub(super) hand: Option<Hand>,
    /// The latest state that its upstream was told.
    pub(super) told: Option<State>,
    /// When its sender was told by way of another node.
    pub(super) told_at: Time,
    /// When its sender is told no more how it ended, once it has; else 0.
    pub(super) give_up_ms: u64,
    /// How often its recipient wanted it later.
    pub(super) requeues: u32,
}

impl Item {
    /// The order it is kept in; `None`: it is delayed, and has none.
    pub(super) fn flow(&self) -> Option<Flow> {
        let ordered = self.head.not_before_ms.unwrap_or(0) == 0;
        ordered.then(|| (self.key.from.clone(), self.key.to.clone(), self.head.priority))
    }

    /// Whether a recipient may have got it from this node.
    pub(super) fn is_seen(&self) -> bool {
        self.hand.is_some() || self.redelivered || self.ending
    }

    /// The other node that has it, or had it when it ended.
    pub(super) fn lies_at(&self) -> Option<&NodeName> {
        let taken_over = self.head.copies < 2 && self.place != Place::Mailbox;
        self.sent.as_ref().map(|sent| &sent.node).or(self.other.as_ref().filter(|_| taken_over))
    }

    pub(super) fn urgent(&self) -> bool {
        self.head.priority == Priority::URGENT
    }

    /// Whether this node must see to it that it goes on.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self.place, Place::Mailbox | Place::Outbox)
    }
}

/// By what a message that has ended is recognised.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub(super) state: State,
    pub(super) reason: Option<Refusal>,
    pub(super) depth: u16,
    number: Option<Numbered>,
    taken_ms: u64,
    sent_ms: u64,
    keep_ms: u64,
}

/// What is known under a name.
pub(super) enum Known<'a> {
    Item(No),
    Mark(&'a Mark),
}

#[derive(Debug)]
enum Slot {
    Item(No),
    Mark(Box<Mark>),
}

/// The table and its indexes.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Table {
    items: BTreeMap<No, Item>,
    slots: BTreeMap<MessageKey, Slot>,
    /// Names with a mark, by sender and in the order in which they ended.
    marks: BTreeMap<AgentAddr, VecDeque<MessageKey>>,
    mark_count: usize,
    horizons: BTreeMap<AgentAddr, u64>,
    pub(super) numbers: Numbers,
    /// Items by recipient.
    by_recipient: BTreeMap<AgentAddr, BTreeSet<No>>,
    /// Items of senders of this node that are to be told something.
    untold: BTreeMap<AgentAddr, BTreeSet<No>>,
    /// When something is to be done about an item, by the wall clock in milliseconds.
    deadlines: BTreeSet<(u64, No)>,
    pub(super) bytes: usize,
    pub(super) shares: Shares,
    last: No,
}

impl Table {
    pub(super) fn next_no(&mut self) -> No {
        self.last += 1;
        self.last
    }

    pub(super) fn get(&self, no: No) -> Option<&Item> {
        self.items.get(&no)
    }

    pub(super) fn get_mut(&mut self, no: No) -> Option<&mut Item> {
        self.items.get_mut(&no)
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn mark_count(&self) -> usize {
        self.mark_count
    }

    /// Of the sender that has the most.
    pub(super) fn most_marks(&self) -> usize {
        self.marks.values().map(VecDeque::len).max().unwrap_or(0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (No, &Item)> {
        self.items.iter().map(|(no, item)| (*no, item))
    }

    pub(super) fn known(&self, key: &MessageKey) -> Option<Known<'_>> {
        self.slots.get(key).map(|slot| match slot {
            Slot::Item(no) => Known::Item(*no),
            Slot::Mark(mark) => Known::Mark(mark),
        })
    }

    /// Puts a new item in; what was known under its name is replaced.
    pub(super) fn insert(&mut self, no: No, item: Item) {
        self.last = self.last.max(no);
        self.bytes += item.payload.len();
        self.shares.takes(&item.key.from.namespace, 1, item.payload.len());
        self.slots.insert(item.key.clone(), Slot::Item(no));
        self.by_recipient.entry(item.key.to.clone()).or_default().insert(no);
        self.deadlines.insert((item.expires_ms, no));
        if item.not_before_ms > 0 {
            self.deadlines.insert((item.not_before_ms, no));
        }
        self.items.insert(no, item);
    }

    /// Takes an item out, as if it had never been.
    pub(super) fn remove(&mut self, no: No) -> Option<Item> {
        let item = self.items.remove(&no)?;
        self.bytes -= item.payload.len();
        self.shares.gives(&item.key.from.namespace, 1, item.payload.len());
        self.slots.remove(&item.key);
        self.deadlines.remove(&(item.expires_ms, no));
        self.deadlines.remove(&(item.not_before_ms, no));
        self.deadlines.remove(&(item.give_up_ms, no));
        unindex(&mut self.by_recipient, &item.key.to, no);
        unindex(&mut self.untold, &item.key.from, no);
        Some(item)
    }

    /// Gives an item the number of one that comes now.
    pub(super) fn renumber(&mut self, no: No) -> Option<No> {
        let untold = self
            .items
            .get(&no)
            .is_some_and(|item| self.untold.get(&item.key.from).is_some_and(|nos| nos.contains(&no)));
        let item = self.remove(no)?;
        // What is being written of it under its old number tells nothing any more.
        let item = Item { writes: 0, ..item };
        let no = self.next_no();
        self.insert(no, item);
        self.set_untold(no, untold);
        Some(no)
    }

    /// The payload is needed here again.
    pub(super) fn set_payload(&mut self, no: No, payload: Bytes) {
        self.drop_payload(no);
        if let Some(item) = self.items.get_mut(&no) {
            self.bytes += payload.len();
            self.shares.takes(&item.key.from.namespace, 0, payload.len());
            item.payload = payload;
        }
    }

    /// The payload is not needed here any more.
    pub(super) fn drop_payload(&mut self, no: No) {
        if let Some(item) = self.items.get_mut(&no) {
            self.bytes -= item.payload.len();
            self.shares.gives(&item.key.from.namespace, 0, item.payload.len());
            item.payload = Bytes::new();
        }
    }

    pub(super) fn wake_at(&mut self, no: No, wall_ms: u64) {
        if let Some(item) = self.items.get_mut(&no) {
            self.deadlines.remove(&(item.not_before_ms, no));
            item.not_before_ms = wall_ms;
            self.deadlines.insert((wall_ms, no));
        }
    }

    /// Items whose time has come.
    pub(super) fn due(&mut self, wall_ms: u64) -> Vec<No> {
        let later = self.deadlines.split_off(&(wall_ms + 1, 0));
        let due = std::mem::replace(&mut self.deadlines, later);
        due.into_iter().map(|(_, no)| no).collect()
    }

    /// Looks at an item again at that time.
    pub(super) fn look_again(&mut self, no: No, wall_ms: u64) {
        self.deadlines.insert((wall_ms, no));
    }

    /// Looks at an item when its sender's patience for a second machine ends.
    pub(super) fn look_again_if_second(&mut self, no: No) {
        if let Some(by_ms) = self.items.get(&no).filter(|item| !item.second).map(|item| item.second_by_ms) {
            self.look_again(no, by_ms);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(when, _)| *when)
    }

    pub(super) fn of_recipient(&self, agent: &AgentAddr) -> Vec<No> {
        self.by_recipient.get(agent).map(|nos| nos.iter().copied().collect()).unwrap_or_default()
    }

    pub(super) fn set_untold(&mut self, no: No, untold: bool) {
        let Some(item) = self.items.get(&no) else { return };
        if untold {
            self.untold.entry(item.key.from.clone()).or_default().insert(no);
        } else {
            unindex(&mut self.untold, &item.key.from.clone(), no);
        }
    }

    pub(super) fn untold_senders(&self) -> Vec<AgentAddr> {
        self.untold.keys().cloned().collect()
    }

    pub(super) fn untold_count(&self, sender: &AgentAddr) -> usize {
        self.untold.get(sender).map_or(0, BTreeSet::len)
    }

    /// How many of them have ended.
    pub(super) fn untold_ends(&self, sender: &AgentAddr) -> usize {
        let ended = |no: &&No| self.items.get(no).is_some_and(|item| item.state.is_end());
        self.untold.get(sender).map_or(0, |nos| nos.iter().filter(ended).count())
    }

    /// Some of those, at most so many.
    pub(super) fn untold_ends_of(&self, sender: &AgentAddr, most: usize) -> Vec<No> {
        let ended = |no: &&No| self.items.get(no).is_some_and(|item| item.state.is_end());
        self.untold.get(sender).into_iter().flatten().filter(ended).take(most).copied().collect()
    }

    pub(super) fn untold_of(&self, sender: &AgentAddr) -> Vec<No> {
        self.untold.get(sender).map(|nos| nos.iter().copied().collect()).unwrap_or_default()
    }

    /// An item has ended: only its mark is left. Answers the names of marks that had to go for it, as a sender has so many
    /// at most.
    pub(super) fn leave_mark(&mut self, no: No, of_a_sender: usize) -> Vec<MessageKey> {
        let Some(item) = self.remove(no) else { return Vec::new() };
        let mark = Mark {
            state: item.state,
            reason: item.reason,
            depth: item.head.depth,
            number: number_of(&item.head),
            taken_ms: item.taken_ms,
            sent_ms: item.head.sent_ms,
            // A resend can come as long as the message lives; one without a time to live has no say in that.
            keep_ms: if item.head.ttl_ms.is_some() { item.expires_ms } else { item.taken_ms },
        };
        self.mark(item.key, mark, of_a_sender)
    }

    fn mark(&mut self, key: MessageKey, mark: Mark, of_a_sender: usize) -> Vec<MessageKey> {
        let queue = self.marks.entry(key.from.clone()).or_default();
        queue.push_back(key.clone());
        let over = queue.len() > of_a_sender;
        self.slots.insert(key.clone(), Slot::Mark(Box::new(mark)));
        self.mark_count += 1;
        let mut gone = Vec::new();
        if over {
            gone.extend(self.drop_oldest(&key.from));
        } else if self.mark_count > MARKS {
            let most = self.marks.iter().max_by_key(|(_, queue)| queue.len()).map(|(from, _)| from.clone());
            gone.extend(most.and_then(|from| self.drop_oldest(&from)));
        }
        gone
    }

    fn drop_oldest(&mut self, sender: &AgentAddr) -> Option<MessageKey> {
        let queue = self.marks.get_mut(sender)?;
        let key = queue.pop_front()?;
        if queue.is_empty() {
            self.marks.remove(sender);
        }
        self.mark_count -= 1;
        if let Some(Slot::Mark(mark)) = self.slots.get(&key) {
            let noted = mark.number.is_some_and(|number| self.numbers.note(&key, number));
            if !noted && mark.sent_ms.abs_diff(mark.taken_ms) <= CREDIBLE_MS {
                let horizon = self.horizons.entry(sender.clone()).or_default();
                *horizon = (*horizon).max(mark.sent_ms);
            }
            self.slots.remove(&key);
        }
        Some(key)
    }

    /// Drops marks whose time is over, at most so many at once.
    pub(super) fn drop_old_marks(&mut self, wall_ms: u64, most: usize) -> Vec<MessageKey> {
        let mut gone = Vec::new();
        let senders: Vec<AgentAddr> = self.marks.keys().cloned().collect();
        for sender in senders {
            while gone.len() < most && self.oldest_is_over(&sender, wall_ms) {
                gone.extend(self.drop_oldest(&sender));
            }
        }
        gone
    }

    fn oldest_is_over(&self, sender: &AgentAddr, wall_ms: u64) -> bool {
        let Some(key) = self.marks.get(sender).and_then(|queue| queue.front()) else { return false };
        match self.slots.get(key) {
            Some(Slot::Mark(mark)) => wall_ms > mark.keep_ms.max(mark.taken_ms.saturating_add(MARK_MS)),
            _ => true,
        }
    }

    /// The time up to which a sender's messages can't be told from ones that were forgotten.
    pub(super) fn horizon(&self, sender: &AgentAddr) -> Option<u64> {
        self.horizons.get(sender).copied()
    }

    pub(super) fn set_horizon(&mut self, sender: AgentAddr, sent_ms: u64) {
        self.horizons.insert(sender, sent_ms);
    }
}

fn unindex(index: &mut BTreeMap<AgentAddr, BTreeSet<No>>, agent: &AgentAddr, no: No) {
    if let Some(nos) = index.get_mut(agent) {
        nos.remove(&no);
        if nos.is_empty() {
            index.remove(agent);
        }
    }
}
