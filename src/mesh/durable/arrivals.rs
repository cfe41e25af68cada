//! Messages from other nodes for agents whose home is here: put in order, recognised, stored.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::table::{Flow, Known, No};
use super::taking::Whose;
use crate::mesh::{Event, Mesh, Step, Time};
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::{Head, MessageKey, State};
use crate::wire::frame::{Confirm, Dest, Forward, Frame, Inquire, MAX_HOPS, Outcome};
use crate::wire::ids::{Incarnation, NodeName};
use crate::wire::record::{Place, Upstream};

/// Messages that wait for an earlier one of their flow: what is beyond is sent again by its node.
const MAX_HELD: usize = 4096;
/// Their bytes.
const MAX_HELD_BYTES: usize = 32 << 20;
/// How long one waits for another, after the latest that does.
const HELD_FOR: Duration = Duration::from_secs(15);
/// A message that was meant for another life of this node, or for another registration, may have been on its way for so long, in
/// queues, again and again over a way that loses, or at the door of a node that was just starting (no handshake takes longer); in
/// milliseconds.
const UNDER_WAY_MS: u64 = 10_000;
/// Flows that are followed; those that are forgotten begin anew, and what is known by its name stays known.
const MAX_FLOWS: usize = 50_000;

/// A message that came from another node.
#[derive(Debug)]
pub(super) struct Arrived {
    from: Upstream,
    key: MessageKey,
    head: Head,
    payload: Bytes,
    redelivered: bool,
    unseen: bool,
    /// Whether it was meant for this life of this node.
    timely: bool,
    registered_ms: u64,
    age_ms: u64,
    at: Time,
}

impl Arrived {
    /// The time that it waited for an earlier one is part of its own.
    fn has_waited(&mut self, time: Duration) {
        let waited_ms = time.as_millis() as u64;
        self.age_ms = self.age_ms.saturating_add(waited_ms);
        self.head.ttl_ms = self.head.ttl_ms.map(|left_ms| left_ms.saturating_sub(waited_ms));
    }
}

/// How far one flow of one node has come.
#[derive(Debug, Default)]
struct Followed {
    incarnation: Incarnation,
    done: u64,
    /// By number: after which one, and what.
    held: BTreeMap<u64, (u64, Arrived)>,
    /// When one was held last.
    held_at: Time,
}

/// Every flow that comes here.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    flows: BTreeMap<(NodeName, Flow), Followed>,
    held: usize,
    bytes: usize,
}

impl Arrivals {
    pub(super) fn held(&self) -> usize {
        self.held
    }

    pub(super) fn flows(&self) -> usize {
        self.flows.len()
    }

    fn followed(&mut self, node: NodeName, flow: Flow, incarnation: Incarnation) -> Option<&mut Followed> {
        if self.flows.len() >= MAX_FLOWS {
            self.flows.retain(|_, followed| !followed.held.is_empty());
        }
        let followed = self.flows.entry((node, flow)).or_default();
        if followed.incarnation > incarnation {
            return None;
        }
        if followed.incarnation < incarnation {
            self.held -= followed.held.len();
            self.bytes -= followed.held.values().map(|(_, arrived)| arrived.payload.len()).sum::<usize>();
            *followed = Followed { incarnation, ..Followed::default() };
        }
        Some(followed)
    }
}

impl Mesh {
    /// One place of a durable message is here.
    pub(in crate::mesh) fn arrive(&mut self, forward: &Forward, dest: Dest, payload: Bytes) {
        if self.rolled_back().is_some() {
            // Its node keeps it, and sends it again.
            return;
        }
        let Some(key) = forward.key_at(&dest) else { return self.event(Event::Stray("Forward")) };
        self.seen_clock(forward.head.taken);
        let arrived = Arrived {
            from: Upstream::Node(forward.origin.clone(), forward.incarnation, dest.number),
            key,
            head: forward.head.clone(),
            payload,
            redelivered: forward.redelivered,
            unseen: forward.unseen,
            timely: dest.life == self.config.incarnation,
            registered_ms: dest.registered_ms,
            age_ms: forward.age_ms,
            at: self.now,
        };
        let asked = arrived.head.ttl_ms == Some(0);
        if asked || arrived.head.not_before_ms.unwrap_or(0) > 0 {
            self.store_arrived(arrived);
            return;
        }
        let flow = (arrived.key.from.clone(), arrived.key.to.clone(), arrived.head.priority);
        let (number, after) = (dest.number.0, dest.after.0);
        let arrivals = &mut self.durable.arrivals;
        let (now, held, held_bytes) = (self.now, arrivals.held, arrivals.bytes);
        let Some(followed) = arrivals.followed(forward.origin.clone(), flow.clone(), forward.incarnation)
        else {
            return;
        };
        if after > followed.done {
            let bytes = arrived.payload.len();
            let known = followed.held.contains_key(&number);
            if !known && (held >= MAX_HELD || held_bytes + bytes > MAX_HELD_BYTES) {
                return self.event(Event::Stray("Forward"));
            }
            followed.held_at = now;
            if let Some((_, old)) = followed.held.insert(number, (after, arrived)) {
                arrivals.bytes -= old.payload.len();
                arrivals.held -= 1;
            }
            arrivals.bytes += bytes;
            arrivals.held += 1;
            return;
        }
        if self.store_arrived(arrived) {
            self.done(&forward.origin, &flow, number);
            self.release_held(forward.origin.clone(), flow);
        }
    }

    /// Once a round: whose node sends nothing more does not hold anything for ever. A node that still has what is
    /// dropped here sends it again.
    pub(super) fn drop_long_held(&mut self) {
        let (now, arrivals) = (self.now, &mut self.durable.arrivals);
        if arrivals.held == 0 {
            return;
        }
        for followed in arrivals.flows.values_mut() {
            if !followed.held.is_empty() && now.since(followed.held_at) >= HELD_FOR {
                arrivals.held -= followed.held.len();
                arrivals.bytes -=
                    followed.held.values().map(|(_, arrived)| arrived.payload.len()).sum::<usize>();
                followed.held.clear();
            }
        }
    }

    /// What waited for a message that is here now.
    fn release_held(&mut self, node: NodeName, flow: Flow) {
        loop {
            let arrivals = &mut self.durable.arrivals;
            let Some(followed) = arrivals.flows.get_mut(&(node.clone(), flow.clone())) else { return };
            let Some(first) = followed.held.first_entry().filter(|first| first.get().0 <= followed.done)
            else {
                return;
            };
            let (number, (_, mut arrived)) = first.remove_entry();
            arrived.has_waited(self.now.since(arrived.at));
            arrivals.held -= 1;
            arrivals.bytes -= arrived.payload.len();
            if self.store_arrived(arrived) {
                self.done(&node, &flow, number);
            }
        }
    }

    fn done(&mut self, node: &NodeName, flow: &Flow, number: u64) {
        if let Some(followed) = self.durable.arrivals.flows.get_mut(&(node.clone(), flow.clone())) {
            followed.done = followed.done.max(number);
        }
    }

    /// In its turn: recognised, refused, or stored; `false`: it does not belong here, and its turn is still to come.
    fn store_arrived(&mut self, arrived: Arrived) -> bool {
        let home = self.directory.home(&arrived.key.to).map(|(home, _)| home.clone());
        let elsewhere = match self.durable.table.known(&arrived.key) {
            Some(Known::Mark(mark)) => {
                let outcome = Outcome::Reached(mark.state, mark.reason.clone());
                self.recognised(&arrived.key, &arrived.head);
                self.report(&arrived.from, outcome);
                return true;
            }
            Some(Known::Item(no)) if !self.lies_elsewhere(no) => {
                self.arrived_again(no, arrived.from, arrived.head.ttl_ms == Some(0));
                return true;
            }
            Some(Known::Item(no)) => Some(no),
            None => None,
        };
        let home = match home {
            // One that is new makes its recipient when it is certain to be taken.
            None if arrived.head.create && elsewhere.is_none() => Some(self.config.node.clone()),
            None if arrived.head.create => {
                self.create_agent(&arrived.key.to).ok().map(|()| self.config.node.clone())
            }
            home => home,
        };
        // Its node asks whether it came in time: it did not, and if it still comes it is recognised.
        let over = arrived.head.ttl_ms == Some(0);
        match (elsewhere, home.as_ref() == Some(&self.config.node)) {
            (Some(no), true) => self.adopt(no, arrived),
            (Some(no), false) if over => self.over_elsewhere(no, arrived.from),
            (None, _) if over => return self.store_new(arrived),
            (_, false) => {
                self.report(&arrived.from, Outcome::Elsewhere);
                return false;
            }
            (None, true) => return self.store_new(arrived),
        }
        true
    }

    /// The time of a message is over of which this node has no more than a copy, or the word of another node: that one says
    /// how it ended, unless it is the one that asks.
    fn over_elsewhere(&mut self, no: No, asker: Upstream) {
        let theirs = self.durable.table.get(no).is_some_and(|item| item.went_to(&asker).is_none());
        self.add_upstream(no, asker.clone());
        if theirs { self.end(no, State::Expired, None) } else { self.report_stand(no, &asker) }
    }

    /// Whether all that is here of a message is what another node is to be asked, or a second copy.
    fn lies_elsewhere(&self, no: No) -> bool {
        let item = self.durable.table.get(no);
        item.is_some_and(|item| matches!(item.place, Place::Handed | Place::Copy) && !item.ending)
    }

    /// `false`: there is no room for it now, and its turn is still to come.
    fn store_new(&mut self, arrived: Arrived) -> bool {
        let bytes = arrived.payload.len();
        let over = arrived.head.ttl_ms == Some(0);
        let mut checked = self.check_age(&arrived.head).and_then(|()| self.check_size(bytes));
        checked = checked.and_then(|()| self.check_room(&arrived.key.to, bytes, Whose::Nodes));
        let makes = checked.is_ok() && !over && self.directory.home(&arrived.key.to).is_none();
        if makes && self.create_agent(&arrived.key.to).is_err() {
            self.report(&arrived.from, Outcome::Elsewhere);
            return false;
        }
        if let Err(refusal) = checked {
            let never = !refusal.code.retry();
            self.report(&arrived.from, Outcome::Reached(State::Refused, Some(refusal)));
            return never;
        }
        let no = self.durable.table.next_no();
        let node = match &arrived.from {
            Upstream::Node(node, ..) => Some(node.clone()),
            Upstream::Sender => None,
        };
        let mut item = self.new_item(arrived.key, arrived.head, arrived.payload, arrived.from);
        // What its node knows holds for the life of this node that it was meant for, and for the registration: if the recipient
        // was elsewhere since, it may have got it there.
        let registered_ms = self.directory.registered_at(&item.key.to, &self.config.node);
        let same = arrived.registered_ms == registered_ms;
        let as_it_was = same && arrived.timely;
        let age_ms = if as_it_was { arrived.age_ms } else { arrived.age_ms.saturating_add(UNDER_WAY_MS) };
        item.sent_ms = self.latest_ms().saturating_sub(age_ms);
        item.alone = arrived.unseen && as_it_was;
        item.redelivered = arrived.redelivered || (!same && self.hears_late());
        item.state = State::Stored;
        item.second = true;
        self.durable.table.insert(no, item);
        self.hop(no, Step::Arrived, node.as_ref(), None);
        if over {
            self.end(no, State::Expired, None);
            return true;
        }
        self.place(no);
        self.pump_all(&[no]);
        true
    }

    fn arrived_again(&mut self, no: No, from: Upstream, over: bool) {
        self.hop(no, Step::Recognised, None, None);
        let (item, now_ms) = (self.durable.table.get(no), self.wall_ms());
        let back = |node: &NodeName| {
            item.is_some_and(|item| item.place == Place::Outbox && item.peer.as_ref() == Some(node))
        };
        if matches!(&from, Upstream::Node(node, ..) if back(node)) {
            if over && item.is_some_and(|item| item.expires_ms <= now_ms) {
                // Each of the two asks the other whether it came in time: here it did not.
                self.add_upstream(no, from);
                return self.end(no, State::Expired, None);
            }
            // Each of the two sends it to the other: neither may rely on the other until they agree where it belongs.
            return self.report(&from, Outcome::Elsewhere);
        }
        self.add_upstream(no, from.clone());
        self.report_stand(no, &from);
    }

    /// Says where an item stands, if that is on disk; else it is said when it is.
    pub(super) fn report_stand(&mut self, no: No, to: &Upstream) {
        let Some(item) = self.durable.table.get(no).filter(|item| item.on_disk) else { return };
        if !item.state.is_end() && (item.ending || item.moving) {
            return;
        }
        self.report_item(no, to);
    }

    /// Where an item stands, and where it lies if that is not here any more.
    pub(super) fn report_item(&mut self, no: No, to: &Upstream) {
        let Some(item) = self.durable.table.get(no) else { return };
        let (stand, next) = (item.stand(to), item.went_to(to).cloned());
        self.report(to, stand);
        if let Some(next) = next {
            self.report(to, Outcome::PassedOn(next));
        }
    }

    /// What was handed to another node, or kept as a copy for it, comes back: the recipient lives here now.
    fn adopt(&mut self, no: No, arrived: Arrived) {
        let Some(item) = self.durable.table.get(no) else { return };
        let (other, place, was_here) = (item.other.clone(), item.place, item.was_passed_on());
        if let Some(other) = other {
            self.forget_theirs(&other, no);
        }
        if place == Place::Handed {
            self.durable.table.set_payload(no, arrived.payload);
        }
        self.add_upstream(no, arrived.from);
        // A copy for that node comes after what came before it from there: its number here says nothing of that.
        let no = if was_here { no } else { self.durable.table.renumber(no).unwrap_or(no) };
        let Some(item) = self.durable.table.get_mut(no) else { return };
        // That node may have handed it over. It sent it before it had it on disk, perhaps: who gave it to this node as well
        // waits for its word.
        (item.place, item.redelivered) = (Place::Outbox, true);
        item.second |= !item.is_of_this_node();
        (item.other, item.sent) = (None, None);
        if !item.second {
            self.durable.seconds.insert(no);
            self.durable.table.look_again_if_second(no);
        }
        self.place(no);
        self.pump_all(&[no]);
    }

    /// Whom to tell as well: of one node only its latest number counts.
    pub(super) fn add_upstream(&mut self, no: No, from: Upstream) {
        let Some(item) = self.durable.table.get_mut(no) else { return };
        let node_of = |upstream: &Upstream| match upstream {
            Upstream::Node(node, ..) => Some(node.clone()),
            Upstream::Sender => None,
        };
        let node = node_of(&from);
        match item.upstream.iter_mut().find(|known| node_of(known) == node) {
            // What comes late was overtaken.
            Some(known) if known.is_later_than(&from) => {}
            Some(known) => *known = from,
            None => item.upstream.push(from),
        }
    }

    /// Notes what another node is to be told; what is noted in one turn goes in one frame.
    pub(super) fn report(&mut self, to: &Upstream, outcome: Outcome) {
        if let Upstream::Node(node, incarnation, number) = to {
            let reports = self.durable.reports.entry((node.clone(), *incarnation)).or_default();
            reports.push((*number, outcome));
        }
    }

    /// Sends what was noted.
    pub(in crate::mesh) fn send_reports(&mut self) {
        if self.durable.reports.is_empty() {
            return;
        }
        let mut waiting = Vec::new();
        for ((to, incarnation), reports) in std::mem::take(&mut self.durable.reports) {
            let Some(link) = self.way_of_reports(&to) else {
                // One that is lost is asked for again by whoever waits for it.
                if self.is_coming(&to) {
                    waiting.push(((to, incarnation), reports));
                }
                continue;
            };
            let node = self.config.node.clone();
            self.send(link, Frame::Confirm(Confirm { to, incarnation, node, reports, hops_left: MAX_HOPS }));
        }
        self.durable.reports.extend(waiting);
    }

    /// Another node asks where its messages stand.
    pub(in crate::mesh) fn inquire(&mut self, inquire: Inquire) {
        if inquire.to != self.config.node {
            let to = inquire.to.clone();
            return self.pass_on(&to, inquire.hops_left, |hops_left| {
                Frame::Inquire(Inquire { hops_left, ..inquire })
            });
        }
        for (number, key) in inquire.asked {
            let asker = Upstream::Node(inquire.from.clone(), inquire.incarnation, number);
            self.answer_inquiry(asker, &key);
        }
    }

    fn answer_inquiry(&mut self, asker: Upstream, key: &MessageKey) {
        match self.durable.table.known(key) {
            Some(Known::Item(no)) => {
                self.add_upstream(no, asker.clone());
                self.report_stand(no, &asker);
            }
            Some(Known::Mark(mark)) => {
                let outcome = Outcome::Reached(mark.state, mark.reason.clone());
                self.report(&asker, outcome);
            }
            // What can't be read may still come back. The asker asks again.
            None if !self.remembers_all() => {}
            None => self.report(&asker, self.unknown(key)),
        }
    }

    /// What is said of a message that is not known. It may have come and ended, and its mark be gone since, as its sender has so
    /// many: then this is no sign that a disk was lost.
    fn unknown(&self, key: &MessageKey) -> Outcome {
        if self.durable.table.horizon(&key.from).is_none() {
            return Outcome::Unknown;
        }
        let message = format!(
            "node {} had taken it over, and does not remember how it ended, as it keeps that of so many of {}'s messages only",
            self.config.node, key.from
        );
        Outcome::Reached(State::Refused, Some(Refusal::new(Code::TooOld, message)))
    }
}
