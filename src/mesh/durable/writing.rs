//! What the disk is given, and what is done when it refuses.

use std::collections::BTreeSet;

use super::Waiting;
use super::table::{Item, Known, No};
use crate::mesh::{Event, Mesh, Step, Ticket};
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::{MessageKey, State};
use crate::wire::record::{Change, Past, Place, Record, Upstream};

impl Mesh {
    /// Writes an item, in its turn: were it on disk before an earlier one of its flow that the disk has refused, and the power went,
    /// it would be handed over first.
    pub(super) fn write_item(&mut self, no: No) {
        let refused = &self.durable.refused;
        let item = self.durable.table.get(no).filter(|item| !refused.is_empty() && !item.on_disk);
        let before = item.and_then(Item::flow).and_then(|flow| refused.get(&flow)).and_then(BTreeSet::first);
        match before.is_some_and(|first| *first < no) {
            true => self.write_later(no),
            false => self.write_now(no),
        }
    }

    /// In the next round.
    pub(super) fn write_later(&mut self, no: No) {
        self.durable.unwritten.insert(no, None);
        let item = self.durable.table.get(no).filter(|item| !item.on_disk);
        if let Some(flow) = item.and_then(Item::flow) {
            self.durable.refused.entry(flow).or_default().insert(no);
        }
    }

    pub(super) fn no_longer_refused(&mut self, no: No) {
        if self.durable.refused.is_empty() {
            return;
        }
        let Some(flow) = self.durable.table.get(no).and_then(Item::flow) else { return };
        if let Some(nos) = self.durable.refused.get_mut(&flow) {
            nos.remove(&no);
            if nos.is_empty() {
                self.durable.refused.remove(&flow);
            }
        }
    }

    /// What comes of it is an input.
    pub(super) fn write_now(&mut self, no: No) {
        let Some(item) = self.durable.table.get_mut(no) else { return };
        item.writes += 1;
        let (record, place) = (Record::Keep(Box::new(item.kept(no))), item.place);
        let ticket = self.persist(record);
        self.durable.waiting.insert(ticket, Waiting::Kept(no, place));
    }

    /// A record is on disk, or could not be written.
    pub(in crate::mesh) fn durable_persisted(&mut self, ticket: Ticket, failed: Option<&str>) {
        match (self.durable.waiting.remove(&ticket), failed) {
            (Some(Waiting::Kept(no, place)), None) => self.kept(no, place),
            (Some(Waiting::Kept(no, _)), Some(why)) => self.not_kept(no, why),
            (Some(Waiting::End(no, state, reason)), None) => self.ended(no, state, reason),
            // That it ended nobody is told before it is written in a later round.
            (Some(Waiting::End(no, state, reason)), Some(why)) => {
                self.durable.unwritten.insert(no, Some((state, reason)));
                self.refused_in_hand(no, why);
            }
            (Some(Waiting::Changed(changed)), None) => self.changed(&changed),
            (Some(Waiting::Erased(_) | Waiting::Past(_)), None) => {}
            (Some(Waiting::Past(past)), Some(_)) => self.durable.unwritten_past = Some(*past),
            (Some(Waiting::Changed(changed)), Some(_)) => self.not_changed(*changed),
            (Some(Waiting::Erased(key)), Some(_)) => drop(self.durable.unerased.insert(*key)),
            (None, _) => {}
        }
    }

    fn kept(&mut self, no: No, place: Place) {
        let Some(item) = self.durable.table.get_mut(no) else { return };
        item.writes = item.writes.saturating_sub(1);
        (item.on_disk, item.moving) = (true, item.moving && item.writes > 0);
        if item.writes == 0 && place == Place::Outbox {
            self.has_left(no);
        }
        self.no_longer_refused(no);
        self.hop(no, Step::Kept, None, None);
        self.announce(no);
    }

    fn not_kept(&mut self, no: No, why: &str) {
        let Some(item) = self.durable.table.get_mut(no) else { return };
        item.writes = item.writes.saturating_sub(1);
        let Some(item) = self.durable.table.get(no) else { return };
        if !item.on_disk && item.is_of_this_node() && item.told.is_none() && !item.is_seen() {
            let message = format!("the disk of node {} refused it: {why}", self.config.node);
            return self.refuse_taken(no, Refusal::new(Code::Unavailable, message));
        }
        // Whoever has it still keeps it until it is on disk here.
        if !item.ending || item.state.is_end() {
            self.write_later(no);
        }
        self.refused_in_hand(no, why);
    }

    /// Its recipient may have got it, and its sender is not to wait until the disk takes it: it is told at once that this is not
    /// accepted. When it comes again it is recognised, and answered once it is on disk.
    fn refused_in_hand(&mut self, no: No, why: &str) {
        let Some(item) = self.durable.table.get_mut(no) else { return };
        if item.on_disk || !item.is_of_this_node() || item.told.is_some() {
            return;
        }
        item.upstream.retain(|upstream| *upstream != Upstream::Sender);
        let (key, several) = (item.key.clone(), item.is_of_a_broadcast());
        let message = format!(
            "the disk of node {} refused it, and it may have arrived: {why}; sent again under the same id it is recognised",
            self.config.node
        );
        let refusal = Refusal::new(Code::Unavailable, message);
        self.event(Event::Refused(refusal.code.as_str()));
        if several {
            return self.counted(no, &key, Some(refusal));
        }
        let receipt = self.receipt_of(&key, State::Refused, Some(refusal), false);
        self.tell_sender(receipt);
    }

    fn changed(&mut self, (key, change): &(MessageKey, Change)) {
        if change.place == Place::Outbox
            && let Some(Known::Item(no)) = self.durable.table.known(key)
        {
            self.has_left(no);
        }
    }

    /// A change is not on disk: it is written again, unless what is written since says more.
    fn not_changed(&mut self, (key, change): (MessageKey, Change)) {
        match self.durable.table.known(&key) {
            Some(Known::Item(no)) => {
                let ending =
                    self.durable.table.get(no).is_some_and(|item| item.ending && !item.state.is_end());
                if !ending {
                    self.durable.unwritten.entry(no).or_insert(None);
                }
            }
            // Of what has ended only the end counts.
            Some(Known::Mark(_)) if !change.state.is_end() => {}
            Some(Known::Mark(_)) => drop(self.durable.rewrites.insert(key, change)),
            None => {}
        }
    }

    /// Once a round: what the disk refused is written again, and what comes behind it.
    pub(super) fn write_again(&mut self) {
        let table = &self.durable.table;
        self.durable.refused.retain(|_, nos| {
            nos.retain(|no| table.get(*no).is_some_and(|item| !item.on_disk));
            !nos.is_empty()
        });
        for (no, end) in std::mem::take(&mut self.durable.unwritten) {
            let Some(item) = self.durable.table.get(no) else { continue };
            match end {
                Some((state, reason)) => self.write_end(no, state, reason),
                // Its end is being written, and all of it with that.
                None if item.ending && !item.state.is_end() => {}
                // Its mark is all that is left of it soon: the change is repeated also then.
                None if item.on_disk && item.state.is_end() => {
                    self.write_told(no, self.nobody_is_told(no, item.state));
                }
                None => self.write_now(no),
            }
        }
        for (key, change) in std::mem::take(&mut self.durable.rewrites) {
            self.persist_change(key, change);
        }
        if let Some(past) = self.durable.unwritten_past.take() {
            self.persist_past(past);
        }
        for key in std::mem::take(&mut self.durable.unerased) {
            // Its sender may have given it again meanwhile.
            if self.durable.table.known(&key).is_none() {
                self.persist_erasure(key);
            }
        }
    }

    /// Takes a message off the disk; what the disk refuses is repeated, or the next start would know it again.
    pub(super) fn persist_erasure(&mut self, key: MessageKey) {
        let ticket = self.persist(Record::Erase(key.clone()));
        self.durable.waiting.insert(ticket, Waiting::Erased(Box::new(key)));
    }

    /// Writes what is known of this store's lives; what the disk refuses is repeated, unless there is news of it.
    pub(super) fn persist_past(&mut self, past: Past) {
        self.durable.unwritten_past = None;
        self.durable.waiting.retain(|_, waiting| !matches!(waiting, Waiting::Past(_)));
        let ticket = self.persist(Record::Past(past.clone()));
        self.durable.waiting.insert(ticket, Waiting::Past(Box::new(past)));
    }

    /// Writes what has changed in a message; what the disk refuses is written again.
    pub(super) fn persist_change(&mut self, key: MessageKey, change: Change) {
        let ticket = self.persist(Record::Change(key.clone(), change.clone()));
        self.durable.waiting.insert(ticket, Waiting::Changed(Box::new((key, change))));
    }
}
