//! Accepted messages that their recipient's home has no room for: they wait here, where they count against the same limits, and
//! are tried again. Nothing that was accepted dies as a mailbox is full.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use super::table::No;
use crate::mesh::{Mesh, Step, Time};
use crate::wire::envelope::Priority;
use crate::wire::ids::{AgentAddr, NodeName};

/// Between two tries.
const TRY_AFTER: Duration = Duration::from_secs(5);
/// Recipients that are tried at once, with one message each: a full mailbox costs the way to its node no more.
const TRY_AT_ONCE: usize = 256;
/// Messages that follow one that has found room.
const FOLLOW: usize = 64;

/// What waits for room at one node.
#[derive(Debug, Default)]
pub(super) struct NoRoom {
    of: BTreeMap<AgentAddr, BTreeSet<(Priority, No)>>,
    /// On their way again, to see whether there is room.
    tries: BTreeSet<No>,
    try_at: Time,
    /// Who was tried last.
    tried: Option<AgentAddr>,
}

impl NoRoom {
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.of.values().map(BTreeSet::len).sum()
    }

    /// Whether a message waits behind others of its recipient.
    pub(super) fn holds_back(&self, to: &AgentAddr, no: No) -> bool {
        self.of.contains_key(to) && !self.tries.contains(&no)
    }

    pub(super) fn remove(&mut self, to: &AgentAddr, entry: (Priority, No)) {
        self.tries.remove(&entry.1);
        if let Some(entries) = self.of.get_mut(to) {
            entries.remove(&entry);
            if entries.is_empty() {
                self.of.remove(to);
            }
        }
    }

    pub(super) fn insert(&mut self, to: AgentAddr, entry: (Priority, No), now: Time) {
        self.tries.remove(&entry.1);
        if self.of.is_empty() {
            self.try_at = now.after(TRY_AFTER);
        }
        self.of.entry(to).or_default().insert(entry);
    }

    /// The first of each recipient, when it is time; of those whose turn it is, if there are many.
    fn due(&mut self, now: Time) -> Vec<(Priority, No)> {
        if self.of.is_empty() || now < self.try_at {
            return Vec::new();
        }
        self.try_at = now.after(TRY_AFTER);
        let from = self.tried.take().map_or(Bound::Unbounded, Bound::Excluded);
        let turn = self.of.range((from, Bound::Unbounded)).take(TRY_AT_ONCE);
        let turn: Vec<AgentAddr> = turn.map(|(to, _)| to.clone()).collect();
        self.tried = turn.last().filter(|_| turn.len() == TRY_AT_ONCE).cloned();
        turn.iter().flat_map(|to| self.first(to, 1)).collect()
    }

    fn first(&mut self, to: &AgentAddr, most: usize) -> Vec<(Priority, No)> {
        let first: Vec<_> = self.of.get(to).into_iter().flatten().take(most).copied().collect();
        first.iter().for_each(|entry| self.remove(to, *entry));
        self.tries.extend(first.iter().map(|(_, no)| no));
        first
    }
}

impl Mesh {
    /// The home has no room for it now; nor, so, for what is behind it on the way to the same recipient.
    pub(super) fn wait_for_room(&mut self, no: No) {
        let Some(item) = self.durable.table.get(no) else { return };
        let (to, Some(node)) = (item.key.to.clone(), item.peer.clone()) else { return };
        let Some(peer) = self.durable.peers.get_mut(&node) else { return };
        let is_of = |no: &No| self.durable.table.get(*no).is_some_and(|item| item.key.to == to);
        let is_news = !peer.no_room.of.contains_key(&to);
        let behind: Vec<No> = peer.in_flight.iter().filter(|no| is_news && is_of(no)).copied().collect();
        for no in behind.into_iter().chain([no]) {
            let Some(item) = self.durable.table.get(no) else { continue };
            peer.landed(no, item.payload.len(), item.urgent());
            peer.no_room.insert(to.clone(), (item.head.priority, no), self.now);
        }
        self.hop(no, Step::NoRoom, Some(&node), None);
    }

    /// Once a round.
    pub(super) fn try_for_room(&mut self, node: &NodeName) {
        let now = self.now;
        if let Some(peer) = self.durable.peers.get_mut(node) {
            let due = peer.no_room.due(now);
            peer.waiting.extend(due);
        }
    }

    /// A message has found room there: others for its recipient may.
    pub(super) fn has_found_room(&mut self, node: &NodeName, no: No) {
        let Some(item) = self.durable.table.get(no) else { return };
        if let Some(peer) = self.durable.peers.get_mut(node) {
            let follow = peer.no_room.first(&item.key.to, FOLLOW);
            peer.waiting.extend(follow);
        }
    }
}
