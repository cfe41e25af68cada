//! Broadcasts: one receipt that counts, said when every recipient's message is on disk or refused.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::table::{Item, Known, No};
use super::taking::Sender;
use crate::mesh::{Mesh, Step};
use crate::wire::close::Refusal;
use crate::wire::envelope::{Head, MessageKey, State, Target};
use crate::wire::frame::Receipt;
use crate::wire::ids::{AgentAddr, MessageId};

/// A broadcast whose acceptance is not decided for all of its recipients yet.
#[derive(Debug, Default)]
pub(super) struct Count {
    waiting: BTreeSet<No>,
    accepted: u32,
    refused: u32,
    /// The first of the refusals.
    refusal: Option<Refusal>,
    /// Whether its sender wants to be told.
    asked: bool,
}

/// By sender and id; as many as have items that wait for the disk.
pub(super) type Counts = BTreeMap<(AgentAddr, MessageId), Count>;

impl Mesh {
    /// Takes a broadcast: for each of its recipients by itself, answered once for all.
    pub(super) fn take_several(&mut self, sender: Sender, head: &Head, payload: &Bytes, to: Vec<AgentAddr>) {
        let mut count = Count { asked: head.receipt.is_some(), ..Count::default() };
        let mut taken = Vec::with_capacity(to.len());
        for to in to {
            let key = MessageKey { from: head.from.clone(), id: head.id.clone(), to };
            match self.durable.table.known(&key) {
                Some(Known::Mark(_)) => {
                    self.recognised(&key, head);
                    count.accepted += 1;
                }
                Some(Known::Item(no)) => {
                    self.counted_before(no, &mut count);
                }
                None => match self.take_new(Some(sender), key, head.clone(), payload.clone()) {
                    Ok(no) => {
                        count.waiting.insert(no);
                        taken.push(no);
                    }
                    Err(refusal) => count.refuse(refusal),
                },
            }
        }
        // Of a broadcast that is given again while it is being counted the newer count counts.
        self.durable.counts.insert((head.from.clone(), head.id.clone()), count);
        self.tell_count(&head.from, &head.id);
        for no in &taken {
            self.place(*no);
        }
        self.pump_all(&taken);
    }

    /// One recipient's message was given before.
    fn counted_before(&mut self, no: No, count: &mut Count) {
        self.hop(no, Step::Recognised, None, None);
        self.add_sender(no);
        // What other nodes were told says nothing of what this sender was.
        if let Some(item) = self.durable.table.get_mut(no) {
            item.told = None;
        }
        match self.durable.table.get(no) {
            Some(item) if item.can_be_told() => count.accepted += 1,
            _ => drop(count.waiting.insert(no)),
        }
    }

    /// One recipient's message is accepted, or was refused.
    pub(super) fn counted(&mut self, no: No, key: &MessageKey, refusal: Option<Refusal>) {
        let name = (key.from.clone(), key.id.clone());
        let Some(count) = self.durable.counts.get_mut(&name) else { return };
        if !count.waiting.remove(&no) {
            return;
        }
        match refusal {
            Some(refusal) => count.refuse(refusal),
            None => count.accepted += 1,
        }
        self.tell_count(&name.0, &name.1);
    }

    /// Tells the sender once all are decided.
    fn tell_count(&mut self, from: &AgentAddr, id: &MessageId) {
        let name = (from.clone(), id.clone());
        if self.durable.counts.get(&name).is_none_or(|count| !count.waiting.is_empty()) {
            return;
        }
        let Some(count) = self.durable.counts.remove(&name) else { return };
        // Who did not ask is told of refusals only.
        let refused = count.refused > 0 && (count.accepted == 0 || !count.asked);
        if !count.asked && !refused {
            return;
        }
        let key = MessageKey { from: name.0.clone(), id: name.1, to: name.0 };
        let state = if refused { State::Refused } else { State::Accepted };
        let receipt = self.receipt_of(&key, state, count.refusal, count.asked);
        self.tell_sender(Receipt { counts: Some((count.accepted, count.refused)), ..receipt });
    }
}

impl Count {
    fn refuse(&mut self, refusal: Refusal) {
        self.refused += 1;
        self.refusal.get_or_insert(refusal);
    }
}

impl Item {
    pub(super) fn is_of_a_broadcast(&self) -> bool {
        matches!(self.head.to, Target::Broadcast(_))
    }

    /// Whether anybody may be told how far it is.
    pub(super) fn can_be_told(&self) -> bool {
        // An end that is being written is told when it is written, and so is a move into a mailbox.
        self.on_disk && (self.state.is_end() || (self.second && !self.ending && !self.moving))
    }
}
