//! How much a node keeps, for `status` and for tests.

use super::Waiting;
use super::table::No;
use crate::mesh::{Mesh, Ticket};
use crate::wire::envelope::State;
use crate::wire::ids::AgentAddr;
use crate::wire::record::Place;

/// Counts of what a node keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct DurableView {
    /// In mailboxes of agents of this node, those in hands included.
    pub mailbox: usize,
    /// In the hands of sessions.
    pub in_hand: usize,
    /// On the way to other nodes, or waiting for one.
    pub outbox: usize,
    /// Taken over by other nodes: what becomes of them is not known yet.
    pub handed: usize,
    /// Second copies.
    pub copies: usize,
    /// Ended, and their senders are still to be told.
    pub untold: usize,
    /// Marks of messages that have ended.
    pub marks: usize,
    /// Messages from other nodes that wait for an earlier one.
    pub held: usize,
    /// Messages that wait for an earlier one that lies at its recipient's earlier home.
    pub held_back: usize,
    /// Of those on their way, messages that their recipient's home has no room for now.
    pub no_room: usize,
    /// Broadcasts that are not answered yet.
    pub counting: usize,
    /// Answers that agents here got lately, whose depth is remembered.
    pub answers: usize,
    /// Flows from other nodes that are followed.
    pub flows: usize,
    /// Messages that the disk has refused so far.
    pub unwritten: usize,
    /// Bytes of payloads.
    pub bytes: usize,
}

/// How near a node is to what its operator allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// Messages that it keeps, marks not counted.
    pub messages: usize,
    /// Bytes of their payloads.
    pub bytes: usize,
    /// The mailbox with the most messages, those on their way to it counted: whose, how many, their bytes.
    pub fullest: Option<(AgentAddr, usize, usize)>,
    /// Ends that wait for the sender that has the most, as it is away.
    pub receipts: usize,
    /// Marks of the sender that has the most.
    pub marks: usize,
    /// Pairs of a sender and a recipient whose rate is followed.
    pub pairs: usize,
}

impl Mesh {
    /// How near this node is to its limits.
    pub fn limits_in_use(&self) -> Use {
        let durable = &self.durable;
        let fullest = durable.mailboxes.fullest();
        let senders = durable.table.untold_senders();
        Use {
            messages: durable.table.len(),
            bytes: durable.table.bytes,
            fullest: fullest.map(|(agent, mailbox)| (agent.clone(), mailbox.count(), mailbox.bytes())),
            receipts: senders.iter().map(|sender| durable.table.untold_ends(sender)).max().unwrap_or(0),
            marks: durable.table.most_marks(),
            pairs: durable.brakes.pairs(),
        }
    }

    /// Counts of what this node keeps.
    pub fn durable_view(&self) -> DurableView {
        let durable = &self.durable;
        let mut view = DurableView {
            in_hand: durable.hands.len(),
            marks: durable.table.mark_count(),
            held: durable.arrivals.held(),
            held_back: durable.order.held_back(),
            no_room: durable.peers.values().map(|peer| peer.no_room.len()).sum(),
            counting: durable.counts.len(),
            answers: durable.depths.len(),
            flows: durable.arrivals.flows(),
            unwritten: durable.unwritten.len()
                + durable.rewrites.len()
                + durable.unerased.len()
                + usize::from(durable.unwritten_past.is_some()),
            bytes: durable.table.bytes,
            ..DurableView::default()
        };
        for (_, item) in durable.table.iter() {
            match item.place {
                Place::Mailbox => view.mailbox += 1,
                Place::Outbox => view.outbox += 1,
                Place::Handed => view.handed += 1,
                Place::Copy => view.copies += 1,
                Place::Dead | Place::Ended => view.untold += 1,
            }
        }
        view
    }

    /// Whether anybody is told something once this record is on disk. What nobody waits for may share a later commit:
    /// until then it counts as not written, here and for the node that the message came from.
    pub fn is_waited_for(&self, ticket: Ticket) -> bool {
        if let Some(waited_for) = self.rooms.is_waited_for(ticket) {
            return waited_for;
        }
        let wish = |no: &No| self.durable.table.get(*no).map(|item| (item, item.head.receipt));
        match self.durable.waiting.get(&ticket) {
            Some(Waiting::Changed(_) | Waiting::Erased(_)) => false,
            Some(Waiting::Kept(no, _)) => wish(no).is_none_or(|(item, wish)| {
                let least = if item.is_of_this_node() { State::Accepted } else { State::Stored };
                item.head.copies > 1 || wish >= Some(least)
            }),
            Some(Waiting::End(no, State::Acked, _)) => {
                wish(no).is_none_or(|(_, wish)| wish >= Some(State::Acked))
            }
            Some(Waiting::End(..) | Waiting::Past(_)) | None => true,
        }
    }
}
