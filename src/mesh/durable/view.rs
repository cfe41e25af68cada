//! How much a node keeps, for `status` and for tests.

use crate::mesh::Mesh;
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
    /// Flows from other nodes that are followed.
    pub flows: usize,
    /// Messages that the disk has refused so far.
    pub unwritten: usize,
    /// Bytes of payloads.
    pub bytes: usize,
}

impl Mesh {
    /// Counts of what this node keeps.
    pub fn durable_view(&self) -> DurableView {
        let durable = &self.durable;
        let mut view = DurableView {
            in_hand: durable.hands.len(),
            marks: durable.table.mark_count(),
            held: durable.arrivals.held(),
            flows: durable.arrivals.flows(),
            unwritten: durable.unwritten.len() + durable.rewrites.len(),
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
}
