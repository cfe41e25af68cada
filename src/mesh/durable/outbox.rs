//! Items on their way to other nodes: how many at once, in which order, and again when nothing was heard of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::room::NoRoom;
use super::table::{Flow, No, Sent};
use crate::mesh::{Event, Mesh, Step, Time};
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::{Head, Priority, State, Target};
use crate::wire::frame::{Confirm, Dest, Forward, Frame, MAX_HOPS, Outcome};
use crate::wire::ids::{AgentAddr, Incarnation, LinkId, MessageId, NodeName, Sequence};
use crate::wire::record::Place;

/// Messages on the way to one node that it has not confirmed; as many again of priority 1.
const WINDOW: usize = 1024;
/// Their bytes; one message may always go.
const WINDOW_BYTES: usize = 8 << 20;
/// A message that was not confirmed for so long is sent again.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// After a full queue.
const PAUSE: Duration = Duration::from_millis(20);
/// Between two questions about messages that a node has taken over.
const ASK_AFTER: Duration = Duration::from_secs(30);
/// Messages in one question.
pub(super) const ASK_AT_ONCE: usize = 500;

/// What items have in common that share a frame.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Named {
    /// Nothing.
    Single(No),
    /// The broadcast: its sender, and what that calls it.
    Broadcast(AgentAddr, MessageId),
}

/// Whether a recipient may have got a message, and whether it is known that nobody got it.
type Seen = (bool, bool);

/// What this node has to do with another one.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Not sent yet, or to be sent again.
    pub(super) waiting: BTreeSet<(Priority, No)>,
    /// Sent, and not confirmed.
    pub(super) in_flight: BTreeSet<No>,
    bytes: usize,
    urgent: usize,
    /// Refused there for want of room.
    pub(super) no_room: NoRoom,
    /// Items that lie there: what becomes of them is asked.
    pub(super) theirs: BTreeSet<No>,
    /// Its life when something was sent last.
    incarnation: Incarnation,
    via: Option<LinkId>,
    paused_until: Time,
    ask_at: Time,
    asked_up_to: No,
}

impl Peer {
    pub(super) fn landed(&mut self, no: No, bytes: usize, urgent: bool) {
        if self.in_flight.remove(&no) {
            self.bytes -= bytes;
            self.urgent -= usize::from(urgent);
        }
    }

    fn has_room(&self, bytes: usize, urgent: bool) -> bool {
        if urgent {
            return self.urgent < WINDOW;
        }
        let others = self.in_flight.len() - self.urgent;
        others < WINDOW && (self.bytes + bytes <= WINDOW_BYTES || others == 0)
    }
}

impl Mesh {
    pub(super) fn pump_peers(&mut self, nodes: impl IntoIterator<Item = NodeName>) {
        let mut ready = Vec::new();
        for node in nodes {
            self.take_ready(&node, &mut ready);
        }
        self.send_items(&ready);
    }

    fn take_ready(&mut self, node: &NodeName, ready: &mut Vec<No>) {
        if self.way_of_messages(node).is_none() || self.rolled_back().is_some() {
            return;
        }
        let now = self.now;
        let Some(peer) = self.durable.peers.get_mut(node).filter(|peer| peer.paused_until <= now) else {
            return;
        };
        let mut full = false;
        let (mut gone, mut behind) = (Vec::new(), Vec::new());
        for (priority, no) in &peer.waiting {
            let urgent = *priority == Priority::URGENT;
            if full && !urgent {
                break;
            }
            let Some(item) = self.durable.table.get(*no) else {
                gone.push((*priority, *no));
                continue;
            };
            if peer.no_room.holds_back(&item.key.to, *no) {
                behind.push((item.key.to.clone(), (*priority, *no)));
                continue;
            }
            let bytes = item.payload.len();
            if !peer.has_room(bytes, urgent) {
                full = !urgent;
                continue;
            }
            // One that is under way already is sent again, and counts once.
            if peer.in_flight.insert(*no) {
                peer.bytes += bytes;
                peer.urgent += usize::from(urgent);
            }
            gone.push((*priority, *no));
            ready.push(*no);
        }
        for entry in gone {
            peer.waiting.remove(&entry);
        }
        for (to, entry) in behind {
            peer.waiting.remove(&entry);
            peer.no_room.insert(to, entry, now);
        }
    }

    /// Sends items that were taken out of their queues; those of one message share a frame for each link.
    fn send_items(&mut self, items: &[No]) {
        let mut together: BTreeMap<(LinkId, Named, Seen), (Vec<Dest>, No)> = BTreeMap::new();
        for no in items {
            let Some((link, dest, seen)) = self.prepare(*no) else { continue };
            let Some(item) = self.durable.table.get(*no) else { continue };
            let message = match item.is_of_a_broadcast() {
                true => Named::Broadcast(item.key.from.clone(), item.key.id.clone()),
                false => Named::Single(*no),
            };
            together.entry((link, message, seen)).or_insert_with(|| (Vec::new(), *no)).0.push(dest);
        }
        for ((link, _, (redelivered, unseen)), (to, no)) in together {
            let Some(head) = self.head_left(no) else { continue };
            let Some(payload) = self.durable.table.get(no).map(|item| item.payload.clone()) else { continue };
            let forward = Forward {
                origin: self.config.node.clone(),
                incarnation: self.config.incarnation,
                to,
                hops_left: MAX_HOPS,
                redelivered,
                unseen,
                age_ms: self.age_ms(no),
                head,
            };
            self.send(link, Frame::Forward(forward, payload));
        }
    }

    /// An item's head with the times that are left.
    pub(super) fn head_left(&self, no: No) -> Option<Head> {
        let (now_ms, item) = (self.wall_ms(), self.durable.table.get(no)?);
        let not_before = |at_ms: u64| at_ms.saturating_sub(now_ms).max(1);
        Some(Head {
            ttl_ms: Some(item.expires_ms.saturating_sub(now_ms)),
            not_before_ms: (item.not_before_ms > 0).then_some(item.not_before_ms).map(not_before),
            ..item.head.clone()
        })
    }

    fn prepare(&mut self, no: No) -> Option<(LinkId, Dest, Seen)> {
        let item = self.durable.table.get(no)?;
        let node = item.peer.clone()?;
        let after = item.flow().and_then(|flow| self.before_in(&flow, no, &node));
        let link = self.way_of_messages(&node);
        let incarnation = self.life_of(&node);
        let recipient = self.durable.table.get(no).map(|item| &item.key.to);
        let registered_ms = recipient.map_or(0, |agent| self.directory.registered_at(agent, &node));
        let now = self.now;
        if let Some(peer) = self.durable.peers.get_mut(&node) {
            peer.incarnation = incarnation;
            peer.via = link;
        }
        let item = self.durable.table.get_mut(no)?;
        // Another node, or an earlier life of that one, may have handed it over and forgotten it.
        item.redelivered |=
            item.sent.as_ref().is_some_and(|sent| sent.node != node || sent.incarnation != incarnation);
        self.durable.doubtful.remove(&no);
        let step = if item.sent.is_some() { Step::SentAgain } else { Step::Sent };
        item.sent = Some(Sent { node: node.clone(), incarnation, at: now });
        let agent = matches!(item.head.to, Target::Broadcast(_)).then(|| item.key.to.clone());
        let (number, after) = (Sequence(no), Sequence(after.unwrap_or(0)));
        let dest = Dest { node, agent, number, after, life: incarnation, registered_ms };
        let (redelivered, unseen) = (item.redelivered, item.alone && !item.redelivered);
        self.hop(no, step, Some(&dest.node), link);
        Some((link?, dest, (redelivered, unseen)))
    }

    /// The message before one in its flow that is on its way to the same node.
    fn before_in(&self, flow: &Flow, no: No, node: &NodeName) -> Option<No> {
        let same_way = |other: &&No| {
            self.durable.table.get(**other).is_some_and(|other| other.peer.as_ref() == Some(node))
        };
        self.durable.flows.get(flow)?.range(..no).rev().find(same_way).copied()
    }

    fn life_of(&self, node: &NodeName) -> Incarnation {
        self.topology.announced(node).map_or(Incarnation(0), |state| state.incarnation)
    }

    /// What another node says of messages that it was sent.
    pub(in crate::mesh) fn confirm(&mut self, confirm: Confirm) {
        if confirm.to != self.config.node {
            let to = confirm.to.clone();
            return self.pass_on(&to, confirm.hops_left, |hops_left| {
                Frame::Confirm(Confirm { hops_left, ..confirm })
            });
        }
        if confirm.incarnation != self.config.incarnation {
            return;
        }
        for (number, outcome) in confirm.reports {
            self.reported(&confirm.node, number.0, outcome);
        }
        self.pump_peers([confirm.node]);
    }

    fn reported(&mut self, node: &NodeName, no: No, outcome: Outcome) {
        if self.answers_doubt(no, node, &outcome) {
            return;
        }
        let Some(item) = self.durable.table.get(no) else { return };
        let asked = item.sent.as_ref().is_some_and(|sent| sent.node == *node);
        let theirs = item.other.as_ref() == Some(node);
        let lies_there = theirs && matches!(item.place, Place::Copy | Place::Handed) && !item.ending;
        match outcome {
            _ if !asked && !theirs => self.event(Event::Stray("Confirm")),
            Outcome::Held => self.held_at(no, node),
            Outcome::Reached(State::Refused, Some(why)) if lies_there && why.code == Code::TooOld => {
                self.unknown_there(no, node, Some(why));
            }
            Outcome::Reached(State::Refused, why) if asked => self.refused_there(no, node, why),
            Outcome::Reached(state, why) if state.is_end() && state != State::Refused => {
                self.ended_elsewhere(no, state, why);
            }
            Outcome::Reached(state, _) if asked => self.stored_there(no, node, state),
            Outcome::Reached(State::Refused, _) => self.not_held_at(no, node),
            Outcome::Reached(..) => self.held_at(no, node),
            Outcome::Unknown => self.unknown_there(no, node, None),
            Outcome::Elsewhere if asked => self.not_there(no, node),
            Outcome::PassedOn(next) => self.passed_on(no, node, next),
            _ => {}
        }
    }

    /// The home has it on disk: it has taken it over.
    fn stored_there(&mut self, no: No, node: &NodeName, state: State) {
        let Some(item) = self.durable.table.get(no) else { return };
        if item.ending || item.place == Place::Mailbox {
            return;
        }
        let first = item.place == Place::Outbox;
        self.has_found_room(node, no);
        self.out_of_outbox(no);
        let Some(item) = self.durable.table.get_mut(no) else { return };
        item.state = item.state.max(state);
        item.second = true;
        if first {
            item.place = if item.head.copies > 1 { Place::Copy } else { Place::Handed };
            item.other = Some(node.clone());
            if item.place == Place::Handed {
                self.durable.table.drop_payload(no);
            }
            self.now_theirs(no);
            self.write_change(no);
            self.hop(no, Step::Stored, Some(node), None);
        }
        self.announce(no);
    }

    fn refused_there(&mut self, no: No, node: &NodeName, why: Option<Refusal>) {
        let why = why.unwrap_or_else(|| Refusal::new(Code::Internal, "refused without a reason"));
        let Some(item) = self.durable.table.get(no) else { return };
        // It took it over meanwhile: this is its answer to a double of it, by a slower way.
        if matches!(item.place, Place::Handed | Place::Copy) {
            return self.event(Event::Stray("Confirm"));
        }
        let untold = item.told.is_none() && item.is_of_this_node() && !item.on_disk;
        let may_find_room = why.code.retry() && item.place == Place::Outbox && !item.ending;
        if untold {
            self.refuse_taken(no, why);
        } else if may_find_room {
            // A home that its recipient has left meanwhile says nothing of the room at the next one.
            if self.is_on_its_way_to(no, node) {
                self.wait_for_room(no);
            }
        } else {
            self.end(no, State::Dead, Some(why));
        }
    }

    /// `why`: it may have ended there.
    fn unknown_there(&mut self, no: No, node: &NodeName, why: Option<Refusal>) {
        let Some(item) = self.durable.table.get_mut(no) else { return };
        match item.place {
            // Its copy there is gone: with ours it can be sent again.
            Place::Copy => {
                item.place = Place::Outbox;
                item.redelivered = true;
                self.forget_theirs(node, no);
                self.write_change(no);
                self.place(no);
                self.pump_all(&[no]);
            }
            Place::Handed => {
                self.forget_theirs(node, no);
                let lost = || {
                    let message = format!(
                        "node {node} had taken it over, and knows nothing of it any more: its disk was lost"
                    );
                    Refusal::new(Code::Internal, message)
                };
                self.end(no, State::Dead, Some(why.unwrap_or_else(lost)));
            }
            _ => {}
        }
    }

    /// The two nodes do not agree where the recipient lives; news of it is on the way.
    fn not_there(&mut self, no: No, node: &NodeName) {
        if !self.is_on_its_way_to(no, node) {
            return;
        }
        let Some(item) = self.durable.table.get(no) else { return };
        let (Some(node), priority, bytes, urgent) =
            (item.peer.clone(), item.head.priority, item.payload.len(), item.urgent())
        else {
            return;
        };
        let now = self.now;
        if let Some(peer) = self.durable.peers.get_mut(&node) {
            peer.landed(no, bytes, urgent);
            peer.waiting.insert((priority, no));
            peer.paused_until = now.after(PAUSE);
            self.durable.pump_at = Some(now.after(PAUSE));
        }
    }

    /// Not so: its recipient has moved meanwhile, and it waits for its turn at another node.
    fn is_on_its_way_to(&self, no: No, node: &NodeName) -> bool {
        let there = self.durable.table.get(no).is_some_and(|item| item.peer.as_ref() == Some(node));
        there && !self.is_held_back(no)
    }

    /// There was no room in the link's queue.
    pub(in crate::mesh) fn unsent_items(&mut self, forward: &Forward) {
        if forward.origin == self.config.node && forward.incarnation == self.config.incarnation {
            for dest in &forward.to {
                self.not_there(dest.number.0, &dest.node);
            }
        }
    }

    /// Routes have changed: what was under way to a node over another way, or to an earlier life of it, is sent again.
    pub(in crate::mesh) fn reroute(&mut self) {
        self.look_into_the_dark();
        self.wait_again();
        let nodes: Vec<NodeName> = self.durable.peers.keys().cloned().collect();
        for node in &nodes {
            let (via, life, now) = (self.way_to(node), self.life_of(node), self.now);
            let away = &mut self.durable.away;
            if via.is_some() {
                away.remove(node);
            } else {
                away.entry(node.clone()).or_insert(now);
            }
            let Some(peer) = self.durable.peers.get_mut(node) else { continue };
            let same = via == peer.via && life == peer.incarnation;
            if via.is_none() || same {
                continue;
            }
            (peer.via, peer.incarnation, peer.ask_at) = (via, life, now);
            self.send_again(node, Duration::ZERO);
        }
        self.pump_peers(nodes);
    }

    /// Everything for a node that it has not confirmed: a connection with it begins, and whatever was under way is lost.
    pub(in crate::mesh) fn send_all_again(&mut self, node: &NodeName) {
        self.send_again(node, Duration::ZERO);
        self.pump_peers([node.clone()]);
    }

    /// What was sent so long ago and not confirmed waits again.
    fn send_again(&mut self, node: &NodeName, after: Duration) {
        let now = self.now;
        let Some(peer) = self.durable.peers.get_mut(node) else { return };
        for no in peer.in_flight.clone() {
            let Some(item) = self.durable.table.get(no) else { continue };
            if item.sent.as_ref().is_none_or(|sent| now.since(sent.at) >= after) {
                peer.landed(no, item.payload.len(), item.urgent());
                peer.waiting.insert((item.head.priority, no));
            }
        }
    }

    /// Once a round: what was not heard of for too long.
    pub(super) fn round_of_peers(&mut self) {
        let nodes: Vec<NodeName> = self.durable.peers.keys().cloned().collect();
        for node in &nodes {
            if self.way_to(node).is_some() {
                self.durable.away.remove(node);
                self.send_again(node, AGAIN_AFTER);
                self.try_for_room(node);
                self.ask_about(node);
                continue;
            }
            self.durable.away.entry(node.clone()).or_insert(self.now);
            self.take_over_in_time(node);
        }
        self.ask_in_order();
        self.pump_peers(nodes);
        self.durable.peers.retain(|_, peer| {
            let on_the_way =
                !(peer.waiting.is_empty() && peer.in_flight.is_empty() && peer.no_room.is_empty());
            on_the_way || !peer.theirs.is_empty()
        });
    }

    fn ask_about(&mut self, node: &NodeName) {
        let now = self.now;
        let Some(peer) = self.durable.peers.get_mut(node).filter(|peer| peer.ask_at <= now) else { return };
        let from = peer.asked_up_to + 1;
        let asked: Vec<No> = peer.theirs.range(from..).take(ASK_AT_ONCE).copied().collect();
        let more = asked.len() == ASK_AT_ONCE;
        peer.asked_up_to = if more { asked.last().copied().unwrap_or(0) } else { 0 };
        peer.ask_at = if more { now } else { now.after(ASK_AFTER) };
        self.inquire_about(node, &asked);
    }

    pub(super) fn is_away(&self, node: &NodeName, long: Duration) -> bool {
        self.durable.away.get(node).is_some_and(|since| self.now.since(*since) >= long)
    }
}
