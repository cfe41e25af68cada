//! The node that has the first copies of messages stays away: this one, which has the second ones, steps in. After the time
//! that is set, or at once by the operator's word.

use super::table::No;
use crate::mesh::{Mesh, Step};
use crate::wire::ids::NodeName;
use crate::wire::record::Place;

/// What an operator's word comes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TakeOver {
    /// Messages that go on from here at once.
    pub now: usize,
    /// Messages whose recipients have not registered elsewhere: each goes on as soon as its recipient has.
    pub later: usize,
}

/// Why a node is not replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoTakeOver {
    /// It is this one.
    #[error("it is this node itself; ask the node that has the second copies")]
    ThisNode,
    /// Nothing was ever heard of it.
    #[error("no node of this name is known to this mesh; see the nodes with: trishula status")]
    Unknown,
    /// A way leads there.
    #[error("it is in reach and hands its messages over itself; stop it first if another node is to")]
    InReach,
    /// This node can't tell what is still to be done.
    #[error("this node's own store is an old one; say first how it is to go on: trishula store resume")]
    OldStore,
}

impl Mesh {
    /// What [`crate::mesh::Input::TakeOver`] would do now.
    pub fn may_take_over(&self, node: &NodeName) -> Result<TakeOver, NoTakeOver> {
        if *node == self.config.node {
            return Err(NoTakeOver::ThisNode);
        }
        if self.rolled_back().is_some() {
            return Err(NoTakeOver::OldStore);
        }
        // A connection that is only tried, by early data, is none.
        if self.way_to(node).is_some() {
            return Err(NoTakeOver::InReach);
        }
        let known = self.topology.announced(node).is_some()
            || self.durable.peers.contains_key(node)
            || self.directory.others().any(|other| other == node);
        if !known {
            return Err(NoTakeOver::Unknown);
        }
        let (now, later): (Vec<No>, Vec<No>) =
            self.copies_of(node).into_iter().partition(|no| self.lives_elsewhere(*no, node));
        Ok(TakeOver { now: now.len(), later: later.len() })
    }

    /// The operator does not want to wait for a node any longer. That holds until it is in reach again.
    pub(in crate::mesh) fn take_over_now(&mut self, node: &NodeName) {
        if self.may_take_over(node).is_ok() {
            self.durable.given_up.insert(node.clone());
            self.take_over_from(node);
        }
    }

    /// Routes have changed: who is in reach is waited for again when it goes the next time.
    pub(super) fn wait_again(&mut self) {
        let mut given_up = std::mem::take(&mut self.durable.given_up);
        given_up.retain(|node| self.way_to(node).is_none());
        self.durable.given_up = given_up;
    }

    /// Once a round, of a node that can't be reached.
    pub(super) fn take_over_in_time(&mut self, node: &NodeName) {
        if self.durable.given_up.contains(node) || self.is_away(node, self.config.limits.takes_over_after) {
            self.take_over_from(node);
        }
    }

    /// Those whose recipients live elsewhere by now go there.
    fn take_over_from(&mut self, node: &NodeName) {
        let mut moved = self.copies_of(node);
        moved.retain(|no| self.lives_elsewhere(*no, node));
        for no in &moved {
            self.not_elsewhere(node, *no);
            let Some(item) = self.durable.table.get_mut(*no) else { continue };
            item.place = Place::Outbox;
            item.redelivered = true;
            // Where no other machine is left, a sender that waits for two is told so.
            item.second |= !item.is_of_this_node();
            self.hop(*no, Step::TookOver, Some(node), None);
            self.write_change(*no);
            self.place(*no);
        }
        self.pump_all(&moved);
    }

    /// Second copies that this node has of what lies there.
    fn copies_of(&self, node: &NodeName) -> Vec<No> {
        let theirs = self.durable.peers.get(node).map(|peer| &peer.theirs);
        let copies = theirs
            .into_iter()
            .flatten()
            .filter(|no| self.durable.table.get(**no).is_some_and(|item| item.place == Place::Copy));
        copies.copied().collect()
    }

    fn lives_elsewhere(&self, no: No, node: &NodeName) -> bool {
        let recipient = self.durable.table.get(no).map(|item| &item.key.to);
        recipient.and_then(|agent| self.directory.home(agent)).is_some_and(|(home, _)| home != node)
    }
}
