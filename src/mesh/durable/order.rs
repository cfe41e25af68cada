//! Order across a move: what was taken after a message that lies at its recipient's earlier home waits until that home
//! has passed it on, or can't be reached. Which of them can is known when the ways are: not yet in the first second of a
//! node, nor in the one after it has found another. And what leaves a mailbox waits until the disk knows that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::table::{Flow, Item, No};
use crate::mesh::{Mesh, Time};
use crate::wire::envelope::State;
use crate::wire::frame::{Frame, Inquire, MAX_HOPS};
use crate::wire::ids::{NodeName, Sequence};
use crate::wire::record::{Place, Upstream};

/// No message waits longer than this for the earlier home to pass on what came before.
const HELD_BACK_FOR: Duration = Duration::from_secs(60);
/// News of nodes comes one by one: so long after a node has come into reach it says nothing yet that another has not.
const FINDS_OTHERS_FOR: Duration = Duration::from_secs(1);
/// Earlier messages of one flow that are asked about in one round.
const ASK_AT_ONCE: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Order {
    /// What other nodes have taken over, by its flow and by node.
    elsewhere: BTreeMap<Flow, BTreeMap<NodeName, BTreeSet<No>>>,
    /// When a node came into reach last.
    found: Time,
    /// What waits for that, and since when something of its flow does that could go.
    held_back: BTreeMap<Flow, (Time, BTreeSet<No>)>,
    /// What has left the mailbox here, in which nobody had got it, and since when: that is not on disk yet, and were the power to go, it
    /// would be handed over here as if nobody had got it elsewhere.
    leaving: BTreeMap<No, Time>,
    /// Flows in which something has moved: whether what waits may go on is looked at when this turn ends.
    moved: BTreeSet<Flow>,
}

impl Order {
    /// Items that wait for earlier ones, or for the disk to know that they leave.
    pub(super) fn held_back(&self) -> usize {
        let waiting = self.held_back.values().flat_map(|(_, nos)| nos);
        waiting.chain(self.leaving.keys()).collect::<BTreeSet<_>>().len()
    }
}

impl Mesh {
    /// Another node has this item, and is asked what becomes of it.
    pub(super) fn now_theirs(&mut self, no: No) {
        let Some(item) = self.durable.table.get(no) else { return };
        let Some(node) = item.other.clone() else { return };
        if let Some(flow) = item.flow().filter(|_| item.was_passed_on()) {
            let nodes = self.durable.order.elsewhere.entry(flow).or_default();
            nodes.entry(node.clone()).or_default().insert(no);
        }
        self.durable.peers.entry(node).or_default().theirs.insert(no);
    }

    pub(super) fn forget_theirs(&mut self, node: &NodeName, no: No) {
        if let Some(peer) = self.durable.peers.get_mut(node) {
            peer.theirs.remove(&no);
        }
        self.not_elsewhere(node, no);
    }

    /// It does not lie at that node any more, or has ended there: nothing needs to wait for it.
    pub(super) fn not_elsewhere(&mut self, node: &NodeName, no: No) {
        if self.durable.order.elsewhere.is_empty() {
            return;
        }
        let Some(flow) = self.durable.table.get(no).and_then(Item::flow) else { return };
        let order = &mut self.durable.order;
        let Some(nodes) = order.elsewhere.get_mut(&flow) else { return };
        if let Some(nos) = nodes.get_mut(node) {
            nos.remove(&no);
            if nos.is_empty() {
                nodes.remove(node);
            }
        }
        if nodes.is_empty() {
            order.elsewhere.remove(&flow);
        }
        if order.held_back.contains_key(&flow) {
            order.moved.insert(flow);
        }
    }

    /// Whether an item that belongs at `home` now has to wait; if so it is noted, and goes on by itself.
    pub(super) fn hold_back(&mut self, no: No, home: &NodeName) -> bool {
        let (order, leaving) = (&self.durable.order, self.is_leaving(no));
        if order.elsewhere.is_empty() && order.held_back.is_empty() && !leaving {
            return false;
        }
        let Some(flow) = self.durable.table.get(no).and_then(Item::flow) else { return leaving };
        // What waits already goes first, also in the turn in which its time comes.
        let behind = |(_, nos): &(Time, BTreeSet<No>)| nos.first().is_some_and(|first| *first < no);
        let waits =
            self.has_to_wait(no, &flow, home) || self.durable.order.held_back.get(&flow).is_some_and(behind);
        let (now, held_back) = (self.now, &mut self.durable.order.held_back);
        if waits {
            held_back.entry(flow).or_insert_with(|| (now, BTreeSet::new())).1.insert(no);
        } else if let Some((_, nos)) = held_back.get_mut(&flow) {
            nos.remove(&no);
        }
        waits
    }

    pub(super) fn is_held_back(&self, no: No) -> bool {
        let flow = || self.durable.table.get(no).and_then(Item::flow);
        let held_back = &self.durable.order.held_back;
        let waits = !held_back.is_empty()
            && flow().and_then(|flow| held_back.get(&flow)).is_some_and(|(_, nos)| nos.contains(&no));
        waits || self.is_leaving(no)
    }

    /// Whether the disk does not know yet that it has left the mailbox here.
    fn is_leaving(&self, no: No) -> bool {
        self.durable.order.leaving.contains_key(&no)
    }

    /// It leaves the mailbox here, in which nobody had got it.
    pub(super) fn leaves(&mut self, no: No) {
        self.durable.order.leaving.entry(no).or_insert(self.now);
    }

    /// It belongs here after all.
    pub(super) fn stays(&mut self, no: No) {
        self.durable.order.leaving.remove(&no);
    }

    /// The disk knows where it belongs.
    pub(super) fn has_left(&mut self, no: No) {
        if self.durable.order.leaving.remove(&no).is_none() {
            return;
        }
        match self.durable.table.get(no).and_then(Item::flow) {
            Some(flow) => drop(self.durable.order.moved.insert(flow)),
            None => {
                self.let_go(no);
                self.pump_all(&[no]);
            }
        }
    }

    /// Once a round: what the disk has not taken for so long, and may never, goes with a mark.
    fn leave_unwritten(&mut self) {
        let late = |(_, since): &(&No, &Time)| self.now.since(**since) >= HELD_BACK_FOR;
        let late: Vec<No> = self.durable.order.leaving.iter().filter(late).map(|(no, _)| *no).collect();
        for no in late {
            if let Some(item) = self.durable.table.get_mut(no) {
                item.redelivered = true;
            }
            self.has_left(no);
        }
    }

    fn has_to_wait(&self, no: No, flow: &Flow, home: &NodeName) -> bool {
        let order = &self.durable.order;
        let long = |(since, _): &(Time, _)| self.now.since(*since) >= HELD_BACK_FOR;
        if self.is_leaving(no) {
            return true;
        }
        let Some(nodes) = order.elsewhere.get(flow) else { return false };
        let mut earlier = nodes
            .iter()
            .filter(|(node, nos)| *node != home && nos.first().is_some_and(|first| *first < no))
            .map(|(node, _)| node);
        if !self.could_go_to(home) {
            return earlier.next().is_some();
        }
        !order.held_back.get(flow).is_some_and(long)
            && earlier.any(|node| self.is_finding_others() || self.way_to(node).is_some())
    }

    fn could_go_to(&self, home: &NodeName) -> bool {
        *home == self.config.node || self.way_to(home).is_some()
    }

    fn is_finding_others(&self) -> bool {
        let latest = self.durable.order.found.max(self.durable.started);
        self.now.since(latest) < FINDS_OTHERS_FOR
    }

    /// A node has come into reach: what could not go may do so now, or has to wait for what lies there.
    pub(in crate::mesh) fn found_a_node(&mut self) {
        let order = &mut self.durable.order;
        order.found = self.now;
        order.moved.extend(order.held_back.keys().cloned());
    }

    /// When a turn ends: what waits for nothing any more goes on.
    pub(in crate::mesh) fn go_on_in_order(&mut self) {
        while let Some(flow) = self.durable.order.moved.pop_first() {
            let Some((_, nos)) = self.durable.order.held_back.get(&flow) else { continue };
            let (mut free, mut behind) = (Vec::new(), false);
            for no in nos {
                let waits = |home| self.has_to_wait(*no, &flow, &home);
                if !behind && !self.home_of(*no).is_some_and(waits) {
                    free.push(*no);
                } else {
                    // Whatever comes after one that leaves waits for the disk with it.
                    behind |= self.is_leaving(*no);
                }
            }
            if let Some((_, nos)) = self.durable.order.held_back.get_mut(&flow) {
                nos.retain(|no| !free.contains(no));
                if nos.is_empty() {
                    self.durable.order.held_back.remove(&flow);
                }
            }
            free.iter().for_each(|no| self.let_go(*no));
            self.pump_all(&free);
        }
    }

    /// Where an item that is held back belongs.
    fn home_of(&self, no: No) -> Option<NodeName> {
        let item = self.durable.table.get(no)?;
        match item.place {
            Place::Mailbox => Some(self.config.node.clone()),
            Place::Outbox => item.peer.clone(),
            _ => None,
        }
    }

    fn let_go(&mut self, no: No) {
        let Some(item) = self.durable.table.get(no).filter(|item| !item.ending && item.hand.is_none()) else {
            return;
        };
        match (item.place, &item.peer) {
            (Place::Mailbox, _) => self.durable.mailboxes.waits(no, item, true),
            (Place::Outbox, Some(node)) => {
                let entry = (item.head.priority, no);
                self.durable.peers.entry(node.clone()).or_default().waiting.insert(entry);
            }
            _ => {}
        }
    }

    /// Once a round: nodes that have what others wait for are asked, and ways and times are looked at again.
    pub(super) fn ask_in_order(&mut self) {
        self.leave_unwritten();
        let flows: Vec<Flow> = self.durable.order.held_back.keys().cloned().collect();
        for flow in flows {
            for (node, nos) in self.durable.order.elsewhere.get(&flow).cloned().unwrap_or_default() {
                let asked: Vec<No> = nos.into_iter().take(ASK_AT_ONCE).collect();
                self.inquire_about(&node, &asked);
            }
            self.begin_anew_to_wait(&flow);
            self.durable.order.moved.insert(flow);
        }
    }

    /// As long as its home can't be reached nothing is waited for but that.
    fn begin_anew_to_wait(&mut self, flow: &Flow) {
        let first = self.durable.order.held_back.get(flow).and_then(|(_, nos)| nos.first().copied());
        let home = first.and_then(|no| self.home_of(no));
        if home.is_some_and(|home| !self.could_go_to(&home))
            && let Some((since, _)) = self.durable.order.held_back.get_mut(flow)
        {
            *since = self.now;
        }
    }

    /// Asks a node where items stand that it has.
    pub(super) fn inquire_about(&mut self, node: &NodeName, nos: &[No]) {
        let Some(link) = self.way_to(node) else { return };
        let key = |no: &No| Some((Sequence(*no), self.durable.table.get(*no)?.key.clone()));
        let asked: Vec<_> = nos.iter().filter_map(key).collect();
        if !asked.is_empty() {
            let (to, from) = (node.clone(), self.config.node.clone());
            let incarnation = self.config.incarnation;
            self.send(link, Frame::Inquire(Inquire { to, from, incarnation, asked, hops_left: MAX_HOPS }));
        }
    }

    /// A node that had an item has passed it on to where its recipient lives by now: that one is asked from now on.
    pub(super) fn passed_on(&mut self, no: No, node: &NodeName, next: NodeName) {
        let Some(item) = self.durable.table.get(no) else { return };
        let had_it = matches!(item.place, Place::Handed | Place::Copy) && item.other.as_ref() == Some(node);
        if !had_it || item.ending || next == self.config.node {
            return;
        }
        self.forget_theirs(node, no);
        if let Some(item) = self.durable.table.get_mut(no) {
            item.other = Some(next);
        }
        self.now_theirs(no);
        self.write_change(no);
    }
}

impl Item {
    /// Whether this node had it before the one that has it now.
    pub(super) fn was_passed_on(&self) -> bool {
        // A second copy that was never first is kept as no more than accepted.
        self.place == Place::Handed || (self.place == Place::Copy && self.state >= State::Stored)
    }

    /// The node that this one has passed it on to, as far as its upstream is concerned.
    pub(super) fn went_to(&self, upstream: &Upstream) -> Option<&NodeName> {
        let other = self.other.as_ref().filter(|_| !self.state.is_end() && self.was_passed_on())?;
        let to_itself = matches!(upstream, Upstream::Node(node, ..) if node == other);
        (!to_itself).then_some(other)
    }
}
