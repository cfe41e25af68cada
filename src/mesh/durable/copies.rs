//! The second machine: messages that were sent with `copies: 2`.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::outbox::ASK_AT_ONCE;
use super::table::{Item, Known, No};
use super::taking::Whose;
use crate::mesh::{Event, Mesh};
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::{MessageKey, State, Target};
use crate::wire::frame::{Dest, Forward, Frame, MAX_HOPS, Outcome, Release, Withdraw};
use crate::wire::ids::{Incarnation, NodeName, Sequence};
use crate::wire::record::{Place, Upstream};

/// Between two questions whether a second machine has a message.
const SECOND_AGAIN: Duration = Duration::from_secs(5);
/// How long a second machine may take before the sender is told that there is none, in milliseconds.
pub(super) const SECOND_WITHIN_MS: u64 = 5_000;

impl Mesh {
    /// Which machine is to have the second copy: the recipient's home, or the nearest one if that is here.
    pub(super) fn second_machine(&self, home: &NodeName) -> Result<NodeName, Refusal> {
        if *home != self.config.node && self.topology.route(home).is_some() {
            return Ok(home.clone());
        }
        self.nearest_after(None, home).ok_or_else(|| {
            let message = "copies: 2 needs a second machine, and none can be reached";
            Refusal::new(Code::Unavailable, message)
        })
    }

    /// The nearest machine that can be reached, or the next one after another; never `but`.
    fn nearest_after(&self, one: Option<&NodeName>, but: &NodeName) -> Option<NodeName> {
        let place = |node: &NodeName| Some((self.topology.route(node)?.cost_us, node.clone()));
        let others = self.topology.all().map(|state| &state.origin).filter(|node| *node != but);
        let one = match one {
            // It can't be reached any more: who is next is not known.
            Some(one) => Some(place(one)?),
            None => None,
        };
        let (_, next) = others.filter_map(place).filter(|place| Some(place) > one.as_ref()).min()?;
        Some(next)
    }

    /// Sends the second copy of an item in a mailbox here to where it is to lie.
    pub(super) fn hold_elsewhere(&mut self, no: No) {
        let Some(item) = self.durable.table.get(no).filter(|item| item.head.copies > 1 && !item.second)
        else {
            return;
        };
        let holder = match &item.other {
            Some(holder) => holder.clone(),
            None => match self.second_machine(&self.config.node) {
                Ok(holder) => holder,
                // The sender is told when its patience ends.
                Err(_) => return,
            },
        };
        let Some(link) = self.way_to(&holder) else { return };
        let Some(item) = self.durable.table.get_mut(no) else { return };
        item.other = Some(holder.clone());
        let agent = matches!(item.head.to, Target::Broadcast(_)).then(|| item.key.to.clone());
        let payload = item.payload.clone();
        let Some(head) = self.head_left(no) else { return };
        let forward = Forward {
            origin: self.config.node.clone(),
            incarnation: self.config.incarnation,
            to: vec![Dest {
                node: holder,
                agent,
                number: Sequence(no),
                after: Sequence(0),
                life: Incarnation(0),
                registered_ms: 0,
            }],
            hops_left: MAX_HOPS,
            redelivered: false,
            unseen: false,
            age_ms: self.age_ms(no),
            head,
        };
        self.send(link, Frame::Hold(forward, payload));
    }

    /// Another node asks this one to keep a second copy, or to pass that on.
    pub(in crate::mesh) fn hold(&mut self, forward: Forward, payload: Bytes) {
        let Some(dest) = forward.to.first().cloned() else { return };
        if dest.node != self.config.node {
            return self.pass_on(&dest.node, forward.hops_left, |hops_left| {
                Frame::Hold(Forward { hops_left, ..forward }, payload)
            });
        }
        let Some(key) = forward.key_at(&dest) else { return self.event(Event::Stray("Hold")) };
        let upstream = Upstream::Node(forward.origin.clone(), forward.incarnation, dest.number);
        match self.durable.table.known(&key) {
            Some(Known::Item(no)) => {
                self.add_upstream(no, upstream.clone());
                return self.report_stand(no, &upstream);
            }
            Some(Known::Mark(mark)) => {
                let outcome = Outcome::Reached(mark.state, mark.reason.clone());
                return self.report(&upstream, outcome);
            }
            None => {}
        }
        if let Err(refusal) = self.check_room(&key.to, payload.len(), Whose::Nodes) {
            return self.report(&upstream, Outcome::Reached(State::Refused, Some(refusal)));
        }
        let no = self.durable.table.next_no();
        let mut item = self.new_item(key, forward.head, payload, upstream);
        (item.place, item.placed, item.second) = (Place::Copy, true, true);
        (item.state, item.other) = (State::Accepted, Some(forward.origin));
        self.durable.table.insert(no, item);
        self.now_theirs(no);
        self.write_item(no);
    }

    /// The second copy is on the other machine's disk.
    pub(super) fn held_at(&mut self, no: No, node: &NodeName) {
        let Some(item) = self.durable.table.get_mut(no).filter(|item| item.other.as_ref() == Some(node))
        else {
            return;
        };
        if item.second || item.ending {
            return;
        }
        item.second = true;
        self.write_change(no);
        self.announce(no);
        self.look_at_time(no);
    }

    /// The machine that was asked keeps no second copy: the next one is asked, and after the last the nearest again in the next round.
    pub(super) fn not_held_at(&mut self, no: No, node: &NodeName) {
        let next = self.nearest_after(Some(node), &self.config.node);
        let Some(item) = self.durable.table.get_mut(no).filter(|item| item.other.as_ref() == Some(node))
        else {
            return;
        };
        if item.second || item.ending || matches!(item.place, Place::Copy | Place::Handed) {
            return;
        }
        item.other = next.clone();
        if next.is_some() && item.place == Place::Mailbox {
            self.hold_elsewhere(no);
        }
    }

    /// Its sender gave it again, and waits for the second machine again.
    pub(super) fn ask_for_second(&mut self, no: No) {
        self.look_for_second(no);
        self.durable.table.look_again_if_second(no);
    }

    fn look_for_second(&mut self, no: No) {
        let Some(item) = self.durable.table.get(no).filter(|item| !item.second && !item.ending) else {
            return;
        };
        match (item.place, item.other.clone()) {
            // Whoever has the first copy says so, or it is gone.
            (Place::Copy, Some(other)) => self.inquire_about(&other, &[no]),
            _ => self.hold_elsewhere(no),
        }
    }

    /// Once a round: whether a second machine has what it should have.
    pub(super) fn ask_for_seconds(&mut self) {
        if self.durable.seconds.is_empty() || self.now < self.durable.next_seconds {
            return;
        }
        self.durable.next_seconds = self.now.after(SECOND_AGAIN);
        let table = &self.durable.table;
        self.durable.seconds.retain(|no| table.get(*no).is_some_and(|item| !item.second && !item.ending));
        for no in self.durable.seconds.clone() {
            self.look_for_second(no);
        }
    }

    /// Once a round: a node that was started again may have lost its second copies. It is asked, until it has said of each.
    pub(super) fn ask_new_lives(&mut self) {
        let others = self.topology.all().filter(|state| state.origin != self.config.node);
        let lives: Vec<_> = others.map(|state| (state.origin.clone(), state.incarnation)).collect();
        for (node, life) in &lives {
            if self.durable.lives.insert(node.clone(), *life) != Some(*life) {
                self.doubt_copies_at(node);
            }
        }
        self.durable.lives.retain(|node, _| lives.iter().any(|(known, _)| known == node));
        for node in self.durable.doubted.keys().cloned().collect::<Vec<_>>() {
            let (table, doubted) = (&self.durable.table, &mut self.durable.doubted);
            let nos = doubted.entry(node.clone()).or_default();
            nos.retain(|no| table.get(*no).is_some_and(|item| item.has_second_at(&node)));
            let asked: Vec<No> = nos.iter().take(ASK_AT_ONCE).copied().collect();
            if asked.is_empty() {
                doubted.remove(&node);
            }
            self.inquire_about(&node, &asked);
        }
    }

    fn doubt_copies_at(&mut self, node: &NodeName) {
        let there = self.durable.table.iter().filter(|(_, item)| item.has_second_at(node));
        let nos: BTreeSet<No> = there.map(|(no, _)| no).collect();
        for no in &nos {
            if let Some(item) = self.durable.table.get_mut(*no) {
                item.other = Some(node.clone());
            }
        }
        if !nos.is_empty() {
            self.durable.doubted.insert(node.clone(), nos);
        }
    }

    /// A node that was asked has answered. `true`: the second copy is gone, and another machine is asked to keep one.
    pub(super) fn answers_doubt(&mut self, no: No, node: &NodeName, outcome: &Outcome) -> bool {
        if !self.durable.doubted.get_mut(node).is_some_and(|nos| nos.remove(&no)) {
            return false;
        }
        let lost = match outcome {
            Outcome::Unknown => true,
            Outcome::Reached(State::Refused, why) => why.as_ref().is_some_and(|why| why.code == Code::TooOld),
            _ => false,
        };
        let Some(item) = self.durable.table.get_mut(no).filter(|item| lost && item.has_second_at(node))
        else {
            return false;
        };
        // It was accepted, and is not given back for want of a second machine.
        (item.second, item.other, item.second_by_ms) = (false, None, u64::MAX);
        self.durable.seconds.insert(no);
        self.hold_elsewhere(no);
        true
    }

    /// A sender gives a message here that another node has taken: what that one has on disk is not known here.
    pub(super) fn unsure_of_second(&mut self, no: No) {
        if let Some(item) = self.durable.table.get_mut(no).filter(|item| item.head.copies > 1 && !item.ending)
        {
            item.second = false;
            self.durable.seconds.insert(no);
        }
    }

    /// Nobody has taken the second copy in time: the message is given back. `false`: nothing is left of it here.
    pub(super) fn check_second(&mut self, no: No) -> bool {
        let Some(item) = self.durable.table.get_mut(no) else { return false };
        if item.ending || item.told.is_some() {
            return true;
        }
        // Another node relies on it, or an earlier life accepted it.
        let relied_on = item.upstream.len() > 1 || item.place == Place::Copy;
        let (kept, asked) = (item.restored || relied_on, item.head.receipt.is_some());
        if kept {
            item.second_by_ms = u64::MAX;
        }
        if kept && !asked {
            return true;
        }
        let message = "copies: 2: no second machine has confirmed it within 5 s";
        let refusal = Refusal::new(Code::Unavailable, message);
        if !item.is_seen() && !kept {
            self.refuse_taken(no, refusal);
            return false;
        }
        // Its recipient has got it, or it was accepted before: when its sender gives it again it must be recognised.
        if !kept {
            item.upstream.retain(|upstream| *upstream != Upstream::Sender);
        }
        let (key, several) = (item.key.clone(), item.is_of_a_broadcast());
        if several {
            self.counted(no, &key, Some(refusal));
            return true;
        }
        let receipt = self.receipt_of(&key, State::Refused, Some(refusal), false);
        self.tell_sender(receipt);
        true
    }

    /// An item has ended: its second copy is not needed any more.
    pub(super) fn release_copy(&mut self, holder: &NodeName, no: No) {
        let Some(item) = self.durable.table.get(no).filter(|item| item.head.copies > 1) else { return };
        let (key, state, reason) = (item.key.clone(), item.state, item.reason.clone());
        self.send_release(holder, key, state, reason);
    }

    /// One that can't be reached asks, and learns of the end.
    pub(super) fn send_release(
        &mut self,
        holder: &NodeName,
        key: MessageKey,
        state: State,
        reason: Option<Refusal>,
    ) {
        if let Some(link) = self.way_to(holder) {
            let messages = vec![(key, state, reason)];
            self.send(link, Frame::Release(Release { to: holder.clone(), messages, hops_left: MAX_HOPS }));
        }
    }

    /// A second copy that this node has is not needed any more.
    pub(in crate::mesh) fn release(&mut self, release: Release) {
        if release.to != self.config.node {
            let to = release.to.clone();
            return self.pass_on(&to, release.hops_left, |hops_left| {
                Frame::Release(Release { hops_left, ..release })
            });
        }
        for (key, state, reason) in release.messages {
            let Some(Known::Item(no)) = self.durable.table.known(&key) else { continue };
            let Some(item) = self.durable.table.get(no) else { continue };
            let copy = item.place == Place::Copy;
            let only_copy = copy && !item.was_passed_on() && !item.is_of_this_node();
            match state {
                // It was given back to its sender. Only nodes that know no [`Withdraw`] say so.
                State::Refused if only_copy => self.drop_copy(no),
                State::Refused => {}
                // Also one that has become the first meanwhile, unless its recipient is at it.
                state if state.is_end() && item.hand.is_none() => self.ended_elsewhere(no, state, reason),
                _ => {}
            }
        }
    }

    /// An item was given back to its sender: its second copy is not to stay.
    pub(super) fn withdraw_copy(&mut self, holder: &NodeName, no: No, key: MessageKey) {
        let Some(link) = self.way_to(holder) else { return };
        let withdraw = Withdraw {
            to: holder.clone(),
            from: self.config.node.clone(),
            incarnation: self.config.incarnation,
            messages: vec![(Sequence(no), key)],
            hops_left: MAX_HOPS,
        };
        self.send(link, Frame::Withdraw(withdraw));
    }

    /// Second copies that this node has were given back to their senders, and never were.
    pub(in crate::mesh) fn withdraw(&mut self, withdraw: Withdraw) {
        if withdraw.to != self.config.node {
            let to = withdraw.to.clone();
            return self.pass_on(&to, withdraw.hops_left, |hops_left| {
                Frame::Withdraw(Withdraw { hops_left, ..withdraw })
            });
        }
        for (number, key) in withdraw.messages {
            let attempt = Upstream::Node(withdraw.from.clone(), withdraw.incarnation, number);
            let Some(Known::Item(no)) = self.durable.table.known(&key) else { continue };
            let Some(item) = self.durable.table.get_mut(no) else { continue };
            // Whoever else has given it to this node relies on it, and so does a later attempt.
            let only_copy = item.place == Place::Copy && !item.was_passed_on();
            if only_copy && item.upstream == [attempt] {
                self.drop_copy(no);
            }
        }
    }

    fn drop_copy(&mut self, no: No) {
        if let Some(node) = self.durable.table.get(no).and_then(|item| item.other.clone()) {
            self.forget_theirs(&node, no);
        }
        if let Some(item) = self.durable.table.remove(no) {
            self.persist_erasure(item.key);
        }
    }
}

impl Item {
    /// Whether this is the first copy of two, and the second lies at that node.
    fn has_second_at(&self, node: &NodeName) -> bool {
        let came_from = |upstream: &Upstream| matches!(upstream, Upstream::Node(from, ..) if from == node);
        let there =
            self.other.as_ref().map_or_else(|| self.upstream.iter().any(came_from), |other| other == node);
        self.head.copies > 1 && self.second && self.is_ours() && !self.ending && there
    }
}
