//! Where an item belongs: in a mailbox here, or on the way to its recipient's home.

use std::collections::BTreeSet;

use super::table::{Item, MARK_MS, No};
use crate::mesh::created::NEVER_MS;
use crate::mesh::{Mesh, Time};
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::{Head, State};
use crate::wire::frame::{Outcome, Presence};
use crate::wire::ids::{AgentAddr, NodeName};
use crate::wire::record::{Place, Upstream};

/// A message whose recipient was known, and is no longer, waits so long for news of it, in milliseconds.
const HOMELESS_MS: u64 = 60_000;
/// One that makes its recipient then does not wait so long: who registers elsewhere takes it over from here.
const MAKE_AFTER_MS: u64 = 5_000;
/// What a message's age may lack: the ways that it took, and what clocks are off; at most, in milliseconds.
const AGE_UNKNOWN_MS: u64 = 10_000;
/// A sender's clock may be so much ahead, in milliseconds …
const AHEAD_MS: u64 = 1_000;
/// … and what one says that is further ahead counts as sent so long ago.
const UNKNOWN_AGE_MS: u64 = 60_000;

impl Mesh {
    /// Puts an item where it belongs now. One whose recipient is nowhere known waits.
    pub(super) fn place(&mut self, no: No) {
        let Some(item) = self.durable.table.get(no) else { return };
        if item.ending || item.hand.is_some() || !item.is_ours() {
            return;
        }
        if let Some(asked) = self.has_to_be_asked(item) {
            return self.put_in_outbox(no, asked);
        }
        let over = item.place == Place::Outbox && item.placed && item.expires_ms <= self.wall_ms();
        let home = self.directory.home(&item.key.to);
        let home = home.map(|(home, state)| (home.clone(), state.registered_ms == NEVER_MS));
        if let Some((_, made)) = home
            && let Some(item) = self.durable.table.get_mut(no)
        {
            item.to_made = made;
        }
        match home.map(|(home, _)| home) {
            // Nobody else has had it, or nobody can be asked.
            Some(home) if home == self.config.node && over => self.end(no, State::Expired, None),
            Some(home) if home == self.config.node => self.put_in_mailbox(no),
            Some(home) => self.put_in_outbox(no, home),
            None => self.leave_unplaced(no),
        }
    }

    /// The node that may have handed over a message whose time is over: whether it did decides how the message ended, and
    /// wherever its recipient has moved since, it comes too late.
    fn has_to_be_asked(&self, item: &Item) -> Option<NodeName> {
        let over = item.place == Place::Outbox && item.expires_ms <= self.wall_ms();
        item.sent.as_ref().filter(|_| over).map(|sent| sent.node.clone())
    }

    /// These agents' homes may have changed: what waits for them follows.
    pub(in crate::mesh) fn rehome(&mut self, agents: &[AgentAddr]) {
        for agent in agents {
            self.note_move(agent);
            let items = self.durable.table.of_recipient(agent);
            for no in &items {
                self.place(*no);
            }
            self.pump_all(&items);
        }
    }

    /// Notes when an agent's home moves here: had it lived elsewhere before, that node has the marks of what it got.
    fn note_move(&mut self, agent: &AgentAddr) {
        let here = self.directory.home(agent).is_some_and(|(home, _)| *home == self.config.node);
        if here {
            // Also where no other home is known: it may be one that can't be reached.
            self.durable.here.entry(agent.clone()).or_insert(self.now);
        } else {
            self.durable.here.remove(agent);
        }
    }

    /// Sends and hands over what can go on of these items.
    pub(super) fn pump_all(&mut self, items: &[No]) {
        let (mut agents, mut nodes) = (BTreeSet::new(), BTreeSet::new());
        for no in items {
            let Some(item) = self.durable.table.get(*no) else { continue };
            match (item.place, &item.peer) {
                (Place::Mailbox, _) => drop(agents.insert(item.key.to.clone())),
                (Place::Outbox, Some(node)) => drop(nodes.insert(node.clone())),
                _ => {}
            }
        }
        self.pump_peers(nodes);
        for agent in agents {
            self.pump_mailbox(&agent);
        }
    }

    /// An agent was forgotten: what still waits for it here is dead, unless it lives elsewhere.
    pub(in crate::mesh) fn bury(&mut self, agent: &AgentAddr) {
        self.rehome(std::slice::from_ref(agent));
        if self.directory.home(agent).is_some() {
            return;
        }
        for no in self.durable.table.of_recipient(agent) {
            if self.durable.table.get(no).is_some_and(|item| item.is_ours() && item.hand.is_none()) {
                let message = format!("{agent} was unregistered");
                self.end(no, State::Dead, Some(Refusal::new(Code::UnknownRecipient, message)));
            }
        }
    }

    /// Its recipient is nowhere known: perhaps news of it are still to come. If it was known before, they have a minute.
    fn leave_unplaced(&mut self, no: No) {
        let had_home = self
            .durable
            .table
            .get(no)
            .is_some_and(|item| item.peer.is_some() || item.place == Place::Mailbox);
        self.out_of_outbox(no);
        let fresh = self.durable.table.get(no).is_some_and(|item| !item.placed);
        let (now, now_ms) = (self.now, self.wall_ms());
        if let Some(item) = self.durable.table.get_mut(no) {
            item.placed = true;
            item.homeless = if had_home { Some(now) } else { item.homeless };
            if item.place == Place::Mailbox {
                self.durable.mailboxes.remove_item(no, item);
                item.place = Place::Outbox;
            }
        }
        let patience_ms = self.durable.table.get(no).map_or(HOMELESS_MS, Item::patience_ms);
        if had_home {
            self.durable.table.look_again(no, now_ms + patience_ms);
        }
        if fresh {
            self.write_item(no);
        }
    }

    /// Whether an item's recipient has been gone for too long.
    pub(super) fn is_homeless(&self, item: &Item) -> bool {
        let waits = item.place == Place::Outbox && item.peer.is_none();
        let long = |since: Time| self.now.since(since).as_millis() as u64 >= item.patience_ms();
        waits && item.homeless.is_some_and(long)
    }

    fn put_in_mailbox(&mut self, no: No) {
        let Some(item) = self.durable.table.get(no) else { return };
        if item.placed && item.place == Place::Mailbox {
            return;
        }
        let agent = item.key.to.clone();
        self.out_of_outbox(no);
        // What was sent before may have been handed over before: by the agent's earlier home, or by an earlier life of this
        // node that did not write it down.
        let here_since = self.durable.here.get(&agent).copied().unwrap_or_default();
        let here_since = here_since.max(self.durable.started).max(self.durable.dark_until);
        // Another node may hand over to sessions of its own, if they share.
        let only_here = self.directory.everywhere(&agent).count() < 2;
        let early = !only_here || self.sent_by(self.age_ms(no)) < here_since;
        let (unseen_since, now_ms) = (self.away_since_registration(&agent), self.wall_ms());
        let Some(item) = self.durable.table.get_mut(no) else { return };
        item.redelivered |= item.sent.take().is_some() || (!item.alone && early);
        (item.alone, item.moving) = (true, true);
        item.unseen_since = if item.redelivered || item.head.copies > 1 { 0 } else { unseen_since };
        item.place = Place::Mailbox;
        item.placed = true;
        item.state = item.state.max(State::Stored);
        let due = item.not_before_ms <= now_ms;
        self.stays(no);
        let here = self.config.node.clone();
        let waits = due && !self.hold_back(no, &here);
        if let Some(item) = self.durable.table.get(no) {
            self.durable.mailboxes.add(no, item, waits);
        }
        self.write_item(no);
        self.hold_elsewhere(no);
    }

    /// How long ago an item's sender sent it, in milliseconds, as far as that is known: not less because this node's clock is
    /// behind the others'.
    pub(super) fn age_ms(&self, no: No) -> u64 {
        self.durable.table.get(no).map_or(0, |item| self.latest_ms().saturating_sub(item.sent_ms))
    }

    /// When a message of this age was sent at the earliest, by the clock that stands still while the machine sleeps and
    /// is never set: nothing counts as later than it is.
    fn sent_by(&self, age_ms: u64) -> Time {
        let most_ms = age_ms.saturating_add(age_ms.min(AGE_UNKNOWN_MS));
        Time(self.now.0.saturating_sub(most_ms.saturating_mul(1_000)))
    }

    /// When an agent registered last, if it is away now and can't have got anything since; else 0.
    fn away_since_registration(&self, agent: &AgentAddr) -> u64 {
        match self.directory.own(agent) {
            Some(state) if state.presence != Presence::Online => state.registered_ms,
            _ => 0,
        }
    }

    fn put_in_outbox(&mut self, no: No, home: NodeName) {
        let Some(item) = self.durable.table.get(no) else { return };
        if item.placed && item.place == Place::Outbox && item.peer.as_ref() == Some(&home) {
            return;
        }
        self.out_of_outbox(no);
        let Some(item) = self.durable.table.get_mut(no) else { return };
        let fresh = !item.placed;
        let moved = item.place == Place::Mailbox && item.placed;
        if moved {
            self.durable.mailboxes.remove_item(no, item);
            if item.moving {
                // No disk has it as stored.
                (item.state, item.moving) = (State::Accepted, false);
            }
            // The node that gave it to this one may not know that it is here, and may have handed it over itself meanwhile.
            item.alone &= !item.is_of_another_node();
        }
        item.place = Place::Outbox;
        item.placed = true;
        item.peer = Some(home.clone());
        self.durable.mailboxes.count_outbound(&item.key.to, item.payload.len());
        let (flow, priority, leaves) = (item.flow(), item.head.priority, moved && item.unseen_since > 0);
        if leaves {
            self.leaves(no);
        }
        if let Some(flow) = flow {
            self.durable.flows.entry(flow).or_default().insert(no);
        }
        if !self.hold_back(no, &home) {
            self.durable.peers.entry(home).or_default().waiting.insert((priority, no));
        }
        if fresh {
            self.write_item(no);
            if self.durable.table.get(no).is_some_and(|item| item.other.is_some()) {
                self.hold_elsewhere(no);
            }
        } else if moved {
            self.write_change(no);
        }
    }

    /// It is not on its way to anybody any more.
    pub(super) fn out_of_outbox(&mut self, no: No) {
        let Some(item) = self.durable.table.get_mut(no) else { return };
        let Some(node) = item.peer.take() else { return };
        self.durable.mailboxes.uncount(&item.key.to, item.payload.len());
        let (flow, priority, bytes, urgent) =
            (item.flow(), item.head.priority, item.payload.len(), item.urgent());
        if let Some(peer) = self.durable.peers.get_mut(&node) {
            peer.waiting.remove(&(priority, no));
            peer.no_room.remove(&item.key.to, (priority, no));
            peer.landed(no, bytes, urgent);
        }
        if let Some(flow) = flow
            && let Some(nos) = self.durable.flows.get_mut(&flow)
        {
            nos.remove(&no);
            if nos.is_empty() {
                self.durable.flows.remove(&flow);
            }
        }
    }

    /// Writes what has changed in an item; nobody waits for it.
    pub(super) fn write_change(&mut self, no: No) {
        let at_ms = self.wall_ms();
        // The end of one that is ending is written with it.
        if let Some(item) = self.durable.table.get(no).filter(|item| !item.ending) {
            let (key, change) = (item.key.clone(), item.change(at_ms));
            self.persist_change(key, change);
        }
    }
}

impl Head {
    /// When it was sent, by the wall clock in milliseconds: as its sender says, unless that makes no sense.
    pub(super) fn sent_about_ms(&self, taken_ms: u64) -> u64 {
        if self.sent_ms > taken_ms.saturating_add(AHEAD_MS) {
            // Its sender's clock is ahead of this node's, and says nothing.
            return taken_ms.saturating_sub(UNKNOWN_AGE_MS);
        }
        let sense = taken_ms.saturating_sub(MARK_MS)..=taken_ms;
        if sense.contains(&self.sent_ms) { self.sent_ms } else { taken_ms }
    }
}

impl Item {
    /// Whether it makes its recipient, should nobody know that any more: its sender asked for it, or it was taken for one that a
    /// message had made. The node that had it forgot it because nothing waited there, and can't see what waits here.
    pub(super) fn may_make_recipient(&self) -> bool {
        self.head.create || self.to_made
    }

    fn patience_ms(&self) -> u64 {
        if self.may_make_recipient() { MAKE_AFTER_MS } else { HOMELESS_MS }
    }

    /// What another node may be told of it, once that is on disk. On its way it is as good as a second copy.
    pub(super) fn stand(&self, upstream: &Upstream) -> Outcome {
        let on_its_way = self.place == Place::Outbox && self.state < State::Stored;
        let theirs = self.went_to(upstream).is_none();
        match self.place {
            _ if self.state.is_end() => Outcome::Reached(self.state, self.reason.clone()),
            _ if on_its_way => Outcome::Held,
            Place::Copy if theirs => Outcome::Held,
            // Upstream itself has it: told that it is stored here, it would let go, and neither would have it.
            Place::Handed if theirs => Outcome::Elsewhere,
            _ => Outcome::Reached(self.state.max(State::Stored), self.reason.clone()),
        }
    }

    /// Whether another node has given it to this one.
    pub(super) fn is_of_another_node(&self) -> bool {
        self.upstream.iter().any(|upstream| *upstream != Upstream::Sender)
    }

    /// Whether its sender is a client of this node.
    pub(super) fn is_of_this_node(&self) -> bool {
        self.upstream.contains(&Upstream::Sender)
    }
}
