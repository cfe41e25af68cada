//! What upstream is told of an item, and its end.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::Waiting;
use super::table::{Item, Known, MARK_MS, No};
use crate::mesh::{Event, Mesh, Step, Time};
use crate::wire::close::Refusal;
use crate::wire::envelope::{Head, MessageKey, State};
use crate::wire::frame::{Frame, Heard, MAX_HOPS, Presence, Receipt};
use crate::wire::ids::AgentAddr;
use crate::wire::record::{Place, Record, Upstream};

/// States on the way to a good end, in their order.
const ON_THE_WAY: [State; 4] = [State::Accepted, State::Stored, State::Delivered, State::Acked];
/// Receipts that are sent to other nodes in one round.
const TOLD_A_ROUND: usize = 500;
/// So much later a receipt may come than one that was sent after it …
const OVERTAKEN_WITHIN: Duration = Duration::from_secs(5);
/// … and of so many messages it is noticed.
const MAX_HEARD: usize = 20_000;
/// Who is nowhere known may be on its way from one node to another for so long.
const UNKNOWN_FOR: Duration = Duration::from_secs(60);
/// A receipt that another node did not confirm is sent again after this.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(5);

impl Mesh {
    /// A message that was taken and not accepted is given back to its sender.
    pub(super) fn refuse_taken(&mut self, no: No, refusal: Refusal) {
        self.out_of_outbox(no);
        let Some(item) = self.durable.table.get(no) else { return };
        if item.place == Place::Mailbox {
            self.durable.mailboxes.remove_item(no, item);
        }
        // Another node may have taken it over meanwhile.
        if let Some(other) = item.other.clone() {
            self.forget_theirs(&other, no);
        }
        let Some(item) = self.durable.table.remove(no) else { return };
        if item.sent.is_some() {
            self.durable.gave_back = self.now;
        }
        if let Some(other) = item.other.as_ref().filter(|_| item.head.copies > 1) {
            self.withdraw_copy(other, no, item.key.clone());
        }
        self.durable.unplaced.remove(&no);
        self.persist_erasure(item.key.clone());
        self.event(Event::Refused(refusal.code.as_str()));
        if item.is_of_a_broadcast() {
            return self.counted(no, &item.key, Some(refusal));
        }
        let receipt = self.receipt_of(&item.key, State::Refused, Some(refusal), false);
        self.tell_sender(receipt);
    }

    /// Refuses a message to the session that sent it.
    pub(in crate::mesh) fn refuse_at(
        &mut self,
        sender: super::taking::Sender,
        head: &Head,
        refusal: Refusal,
    ) {
        let receipt = self.refused(head, refusal);
        self.send(sender.0, Frame::Told(sender.1, receipt));
    }

    /// An item that lies here ends: told once that is on disk.
    pub(super) fn end(&mut self, no: No, state: State, reason: Option<Refusal>) {
        self.out_of_outbox(no);
        let Some(item) = self.durable.table.get_mut(no) else { return };
        if item.ending || item.state.is_end() {
            return;
        }
        item.ending = true;
        if item.place == Place::Mailbox && item.placed {
            self.durable.mailboxes.remove_item(no, item);
        }
        self.durable.unplaced.remove(&no);
        self.write_end(no, state, reason);
    }

    pub(super) fn write_end(&mut self, no: No, state: State, reason: Option<Refusal>) {
        let (at_ms, told) = (self.wall_ms(), self.nobody_is_told(no, state));
        let Some(item) = self.durable.table.get_mut(no) else { return };
        item.place = if state == State::Dead { Place::Dead } else { Place::Ended };
        let record = if item.on_disk {
            let mut change = item.change(at_ms);
            (change.state, change.reason, change.told) = (state, reason.clone(), told);
            Record::Change(item.key.clone(), change)
        } else {
            let mut kept = item.kept(no);
            (kept.state, kept.reason, kept.told) = (state, reason.clone(), told);
            if state != State::Dead {
                kept.payload = Bytes::new();
            }
            Record::Keep(Box::new(kept))
        };
        let ticket = self.persist(record);
        self.durable.waiting.insert(ticket, Waiting::End(no, state, reason));
    }

    pub(super) fn ended(&mut self, no: No, state: State, reason: Option<Refusal>) {
        let Some(item) = self.durable.table.get_mut(no) else { return };
        (item.state, item.reason, item.on_disk) = (state, reason, true);
        // A dead letter is read from the disk.
        self.durable.table.drop_payload(no);
        self.hop(no, step_of(state), None, None);
        self.announce(no);
    }

    /// Another node says how an item ended that it had taken over.
    pub(super) fn ended_elsewhere(&mut self, no: No, state: State, reason: Option<Refusal>) {
        let Some(item) = self.durable.table.get(no) else { return };
        if item.ending || item.state.is_end() {
            return;
        }
        let in_mailbox = item.place == Place::Mailbox;
        if let Some(other) = item.other.clone() {
            self.not_elsewhere(&other, no);
        }
        self.out_of_outbox(no);
        let told = self.nobody_is_told(no, state);
        let at_ms = self.wall_ms();
        let Some(item) = self.durable.table.get_mut(no) else { return };
        if in_mailbox {
            self.durable.mailboxes.remove_item(no, item);
        }
        (item.state, item.reason, item.place, item.ending) = (state, reason, Place::Ended, true);
        // What a session has in its hands of it stays there until it says what became of that.
        (item.second, item.hand) = (true, None);
        self.durable.table.drop_payload(no);
        self.hop(no, step_of(state), None, None);
        let Some(item) = self.durable.table.get(no) else { return };
        let mut change = item.change(at_ms);
        change.told = told;
        let key = item.key.clone();
        self.persist_change(key, change);
        self.announce(no);
    }

    /// Whether nobody here is to be told of this end; that somebody was is written once it has happened.
    pub(super) fn nobody_is_told(&self, no: No, state: State) -> bool {
        let Some(item) = self.durable.table.get(no) else { return true };
        let silent = state == State::Acked && item.head.receipt < Some(State::Acked);
        !item.is_of_this_node() || item.is_of_a_broadcast() || silent
    }

    fn hears_here(&self, sender: &AgentAddr) -> bool {
        !self.sessions.of(sender).is_empty()
    }

    /// Tells upstream what it may know and has not been told.
    pub(super) fn announce(&mut self, no: No) {
        let Some(item) = self.durable.table.get(no) else { return };
        if !item.can_be_told() || item.told == Some(item.state) {
            return;
        }
        let (state, told) = (item.state, item.told);
        let mut all_told = true;
        for upstream in item.upstream.clone() {
            match upstream {
                Upstream::Sender => all_told &= self.tell_states(no, told, state),
                node => self.report_item(no, &node),
            }
        }
        self.durable.table.set_untold(no, !all_told);
        if !all_told {
            return self.bound_untold(no);
        }
        if let Some(item) = self.durable.table.get_mut(no) {
            // What has come back from another node is less far than that was: who sent it is not told all that again.
            let before = item.told.filter(|_| item.is_of_this_node());
            item.told = before.max(Some(state));
        }
        if state.is_end() {
            self.forget_ended(no);
        }
    }

    /// Tells a sender of this node each state that it asked for; `false`: it is not there.
    fn tell_states(&mut self, no: No, told: Option<State>, state: State) -> bool {
        let Some(item) = self.durable.table.get(no) else { return true };
        let (key, wish, reason) = (item.key.clone(), item.head.receipt, item.reason.clone());
        if item.is_of_a_broadcast() {
            self.counted(no, &key, None);
            return true;
        }
        let restored = item.restored;
        let good = ON_THE_WAY.into_iter().filter(|s| Some(*s) > told && *s <= state && Some(*s) <= wish);
        let mut states: Vec<State> = if state <= State::Acked { good.collect() } else { Vec::new() };
        if state > State::Acked {
            states.push(state);
        }
        if states.is_empty() {
            return true;
        }
        if restored {
            // What an earlier life told is not known: only the latest is told, and may be told again.
            states.drain(..states.len() - 1);
        }
        if !self.hears(&key.from) {
            return false;
        }
        let here = self.hears_here(&key.from);
        let last = states.last().copied();
        let home = self.durable.table.get(no).and_then(Item::lies_at).cloned();
        for state in states {
            let reason = reason.clone().filter(|_| state.is_end());
            let mut receipt = self.receipt_of(&key, state, reason, wish.is_some());
            if state > State::Accepted
                && let Some(home) = &home
            {
                receipt.node = home.clone();
            }
            self.tell_sender(receipt);
        }
        // An end that was sent to another node is kept until that has passed it on.
        let passed_on = here || !last.is_some_and(State::is_end);
        if !passed_on && let Some(item) = self.durable.table.get_mut(no) {
            item.told = Some(State::Delivered);
            item.told_at = self.now;
        }
        passed_on
    }

    /// A sender here was told how its message ended, which another node keeps for it.
    pub(in crate::mesh) fn confirm_heard(&mut self, receipt: Receipt) {
        if !receipt.state.is_end() || receipt.state == State::Refused {
            return;
        }
        let message = MessageKey { from: receipt.sender, id: receipt.id, to: receipt.recipient };
        let (to, state) = (receipt.keeper, receipt.state);
        if let Some(link) = self.way_to(&to) {
            self.send(link, Frame::Heard(Heard { to, message, state, hops_left: MAX_HOPS }));
        }
    }

    /// Whether a sender here has been told more of its message already: what another node tells may come by another way
    /// than what it told before.
    pub(in crate::mesh) fn comes_too_late(&mut self, receipt: &Receipt) -> bool {
        if receipt.state == State::Refused {
            return false;
        }
        let (sender, id) = (receipt.sender.clone(), receipt.id.clone());
        let message = MessageKey { from: sender, id, to: receipt.recipient.clone() };
        // Its sender has given it to this node as well, or its end is known here.
        let passed = match self.durable.table.known(&message) {
            Some(Known::Mark(_)) => true,
            Some(Known::Item(no)) => self
                .durable
                .table
                .get(no)
                .is_some_and(|item| item.is_of_this_node() && item.told > Some(receipt.state)),
            None => false,
        };
        if passed && !receipt.state.is_end() {
            return true;
        }
        let full = self.durable.heard_here.len() >= MAX_HEARD;
        match self.durable.heard_here.get_mut(&message) {
            Some((state, _)) if receipt.state < *state && !receipt.state.is_end() => return true,
            Some(known) => *known = (receipt.state, self.now),
            None if full => {}
            None => drop(self.durable.heard_here.insert(message, (receipt.state, self.now))),
        }
        false
    }

    /// Once a round: what was told so long ago is not overtaken any more.
    pub(super) fn forget_heard(&mut self) {
        let now = self.now;
        self.durable.heard_here.retain(|_, (_, at)| now.since(*at) < OVERTAKEN_WITHIN);
    }

    /// A sender elsewhere was told.
    pub(in crate::mesh) fn heard(&mut self, heard: Heard) {
        if heard.to != self.config.node {
            let to = heard.to.clone();
            return self
                .pass_on(&to, heard.hops_left, |hops_left| Frame::Heard(Heard { hops_left, ..heard }));
        }
        let Some(Known::Item(no)) = self.durable.table.known(&heard.message) else { return };
        let Some(item) = self.durable.table.get_mut(no).filter(|item| item.state == heard.state) else {
            return;
        };
        item.told = Some(heard.state);
        self.durable.table.set_untold(no, false);
        self.forget_ended(no);
    }

    /// Once a round: receipts for senders that are connected elsewhere by now.
    pub(super) fn tell_elsewhere(&mut self) {
        let mut left = TOLD_A_ROUND;
        for sender in self.durable.table.untold_senders() {
            if left == 0 || self.hears_here(&sender) || !self.hears(&sender) {
                continue;
            }
            for no in self.durable.table.untold_of(&sender).into_iter().take(left) {
                let told_at = self.durable.table.get(no).map_or(self.now, |item| item.told_at);
                if told_at == Time::default() || self.now.since(told_at) >= TOLD_AGAIN_AFTER {
                    left -= 1;
                    self.announce(no);
                }
            }
        }
    }

    /// Whether a sender is connected where it can be told.
    fn hears(&self, sender: &AgentAddr) -> bool {
        self.hears_here(sender)
            || self.directory.home(sender).is_some_and(|(node, state)| {
                *node != self.config.node
                    && state.presence == Presence::Online
                    && self.topology.route(node).is_some()
            })
    }

    /// To the sender's sessions, here or at its home.
    pub(super) fn tell_sender(&mut self, mut receipt: Receipt) {
        if !self.hears_here(&receipt.sender)
            && let Some((home, _)) = self.directory.home(&receipt.sender)
        {
            receipt.to = home.clone();
        }
        self.receipt(receipt);
    }

    /// A sender is here (again): it is told what it missed.
    pub(in crate::mesh) fn tell_untold(&mut self, sender: &AgentAddr) {
        for no in self.durable.table.untold_of(sender) {
            self.announce(no);
        }
    }

    /// Its end is known wherever it matters: only the mark is left.
    fn forget_ended(&mut self, no: No) {
        let Some(item) = self.durable.table.get(no) else { return };
        let state = item.state;
        if let Some(other) = item.other.clone() {
            self.forget_theirs(&other, no);
            self.release_copy(&other, no);
        }
        let refused_by_disk = self.durable.unwritten.remove(&no).is_some();
        if refused_by_disk || !self.nobody_is_told(no, state) {
            self.write_told(no, true);
        }
        let gone = self.durable.table.leave_mark(no, self.config.limits.marks_of_sender);
        self.erase(gone);
    }

    /// Writes how it ended, and whether its sender has been told: then it is not told again after a restart.
    pub(super) fn write_told(&mut self, no: No, told: bool) {
        let at_ms = self.wall_ms();
        let Some(item) = self.durable.table.get(no) else { return };
        let mut change = item.change(at_ms);
        change.told = told;
        let key = item.key.clone();
        self.persist_change(key, change);
    }

    /// Erases what was dropped; what stands in for its marks is on disk before they go from there.
    pub(super) fn erase(&mut self, gone: Vec<MessageKey>) {
        self.write_numbers();
        let senders: BTreeSet<&AgentAddr> = gone.iter().map(|key| &key.from).collect();
        for sender in senders {
            if let Some(sent_ms) = self.durable.table.horizon(sender) {
                self.persist(Record::Horizon(sender.clone(), sent_ms));
            }
        }
        for key in gone {
            self.persist_erasure(key);
        }
    }

    /// Its sender has not come to be told how it ended.
    pub(super) fn give_up_untold(&mut self, no: No) {
        let over = |item: &Item| item.give_up_ms > 0 && item.give_up_ms <= self.wall_ms();
        if self.durable.table.get(no).is_some_and(over) {
            self.event(Event::Refused("receipt_dropped"));
            self.forget_ended(no);
        }
    }

    /// Once a round: a sender whom nobody has known for a minute does not come back, and need not be told how its messages ended.
    pub(super) fn give_up_unknown_senders(&mut self) {
        if !self.remembers_all() {
            return;
        }
        let before = std::mem::take(&mut self.durable.nowhere);
        let mut left = TOLD_A_ROUND;
        for sender in self.durable.table.untold_senders() {
            if self.directory.home(&sender).is_some() || self.sessions.is_registering(&sender) {
                continue;
            }
            let since = before.get(&sender).copied().unwrap_or(self.now);
            if self.now.since(since) >= UNKNOWN_FOR {
                for no in self.durable.table.untold_ends_of(&sender, left) {
                    left -= 1;
                    self.forget_ended(no);
                }
            }
            self.durable.nowhere.insert(sender, since);
        }
    }

    /// Receipts that wait for a sender that does not come have a bound, and a time.
    pub(super) fn bound_untold(&mut self, no: No) {
        let now_ms = self.wall_ms();
        let Some(item) = self.durable.table.get_mut(no) else { return };
        let sender = item.key.from.clone();
        if item.give_up_ms == 0 && item.state.is_end() {
            // Restarts do not make it longer than a message can live and be remembered.
            item.give_up_ms = now_ms.min(item.expires_ms).saturating_add(MARK_MS);
            let give_up_ms = item.give_up_ms;
            self.durable.table.look_again(no, give_up_ms);
        }
        let most = self.config.limits.receipts_of_sender;
        if self.durable.table.untold_count(&sender) <= most {
            return;
        }
        let untold = self.durable.table.untold_of(&sender);
        let over = untold.len().saturating_sub(most);
        for no in untold.into_iter().take(over) {
            if self.durable.table.get(no).is_some_and(|item| item.state.is_end()) {
                self.event(Event::Refused("receipt_dropped"));
                self.forget_ended(no);
            }
        }
    }
}

fn step_of(end: State) -> Step {
    match end {
        State::Acked => Step::Acked,
        State::Nacked => Step::Nacked,
        State::Expired => Step::Expired,
        _ => Step::Dead,
    }
}
