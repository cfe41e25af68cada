//! The second machine: messages that were sent with `copies: 2`.

use std::time::Duration;

use bytes::Bytes;

use super::table::{Known, No};
use crate::mesh::{Event, Mesh, Step};
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::{State, Target};
use crate::wire::frame::{Dest, Forward, Frame, MAX_HOPS, Outcome, Release};
use crate::wire::ids::{NodeName, Sequence};
use crate::wire::record::{Place, Upstream};

/// A node that stays away for so long is replaced by the one that has the second copy.
pub(super) const TAKES_OVER_AFTER: Duration = Duration::from_secs(60);
/// How long a second machine may take before the sender is told that there is none, in milliseconds.
pub(super) const SECOND_WITHIN_MS: u64 = 5_000;

impl Mesh {
    /// Which machine is to have the second copy: the recipient's home, or the nearest one if that is here.
    pub(super) fn second_machine(&self, home: &NodeName) -> Result<NodeName, Refusal> {
        if *home != self.config.node && self.topology.route(home).is_some() {
            return Ok(home.clone());
        }
        let others = self.topology.all().map(|state| &state.origin).filter(|node| *node != home);
        let cost = |node: &&NodeName| self.topology.route(node).map(|route| route.cost_us);
        let nearest =
            others.filter(|node| cost(node).is_some()).min_by_key(|node| (cost(node), (*node).clone()));
        nearest.cloned().ok_or_else(|| {
            let message = "copies: 2 needs a second machine, and none can be reached";
            Refusal::new(Code::Unavailable, message)
        })
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
            to: vec![Dest { node: holder, agent, number: Sequence(no), after: Sequence(0) }],
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
        if let Err(refusal) = self.check_room(&key.to, payload.len()) {
            return self.report(&upstream, Outcome::Reached(State::Refused, Some(refusal)));
        }
        let no = self.durable.table.next_no();
        let mut item = self.new_item(key, forward.head, payload, upstream);
        (item.place, item.placed, item.second) = (Place::Copy, true, true);
        (item.state, item.other) = (State::Accepted, Some(forward.origin.clone()));
        self.durable.table.insert(no, item);
        self.durable.peers.entry(forward.origin).or_default().theirs.insert(no);
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

    /// Its sender gave it again, and waits for the second machine again.
    pub(super) fn ask_for_second(&mut self, no: No) {
        if self.durable.table.get(no).is_some_and(|item| !item.second && item.place == Place::Mailbox) {
            self.hold_elsewhere(no);
        }
        self.durable.table.look_again_if_second(no);
    }

    /// Nobody has taken the second copy in time: the message is given back. `false`: nothing is left of it here.
    pub(super) fn check_second(&mut self, no: No) -> bool {
        let Some(item) = self.durable.table.get_mut(no) else { return false };
        if item.ending || item.told.is_some() {
            return true;
        }
        let message = "copies: 2: no second machine has confirmed it within 5 s";
        let refusal = Refusal::new(Code::Unavailable, message);
        if !item.is_seen() {
            self.refuse_taken(no, refusal);
            return false;
        }
        // Its recipient has got it: when its sender gives it again it must be recognised.
        item.upstream.retain(|upstream| *upstream != Upstream::Sender);
        let key = item.key.clone();
        let receipt = self.receipt_of(&key, State::Refused, Some(refusal), false);
        self.tell_sender(receipt);
        true
    }

    /// An item has ended: its second copy is not needed any more.
    pub(super) fn release_copy(&mut self, holder: &NodeName, no: No) {
        let Some(item) = self.durable.table.get(no).filter(|item| item.head.copies > 1) else { return };
        let messages = vec![(item.key.clone(), item.state)];
        if let Some(link) = self.way_to(holder) {
            let release = Release { to: holder.clone(), messages, hops_left: MAX_HOPS };
            self.send(link, Frame::Release(release));
        }
        // One that can't be reached asks, and learns of the end.
    }

    /// A second copy that this node has is not needed any more.
    pub(in crate::mesh) fn release(&mut self, release: Release) {
        if release.to != self.config.node {
            let to = release.to.clone();
            return self.pass_on(&to, release.hops_left, |hops_left| {
                Frame::Release(Release { hops_left, ..release })
            });
        }
        for (key, state) in release.messages {
            let Some(Known::Item(no)) = self.durable.table.known(&key) else { continue };
            let copy = self.durable.table.get(no).is_some_and(|item| item.place == Place::Copy);
            if copy && state.is_end() {
                self.ended_elsewhere(no, state, None);
            }
        }
    }

    /// The node that has the first copies stays away: those whose recipients live elsewhere by now go there.
    pub(super) fn take_over_from(&mut self, node: &NodeName) {
        let Some(peer) = self.durable.peers.get(node) else { return };
        let theirs: Vec<No> = peer.theirs.iter().copied().collect();
        let mut moved = Vec::new();
        for no in theirs {
            let Some(item) = self.durable.table.get(no).filter(|item| item.place == Place::Copy) else {
                continue;
            };
            let elsewhere = self.directory.home(&item.key.to).is_some_and(|(home, _)| home != node);
            if elsewhere {
                moved.push(no);
            }
        }
        for no in &moved {
            let Some(item) = self.durable.table.get_mut(*no) else { continue };
            item.place = Place::Outbox;
            item.redelivered = true;
            item.second = true;
            self.hop(*no, Step::TookOver, Some(node), None);
            self.write_change(*no);
            self.place(*no);
        }
        self.pump_all(&moved);
    }
}
