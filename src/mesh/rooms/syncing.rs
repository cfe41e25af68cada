//! What keepers of a room lack of each other's.
//!
//! Each knows of every other how far that one is with each origin: it says so when asked, and when it has written what it was
//! sent. Who lacks something asks; who has something that another one lacks asks as well, and sends what the answer shows to
//! be missing. An origin sends its own; others' only where their origin can't, or when asked a second time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::mesh::topology::MAX_NODES;
use crate::mesh::{Mesh, Time};
use crate::wire::frame::{Frame, MAX_HOPS, RoomEntry, RoomLapse, RoomReach, RoomSays, RoomState};
use crate::wire::ids::NodeName;
use crate::wire::record::Record;
use crate::wire::room::{Position, RoomKey};

use super::reading::begins_now;
use super::{Peer, Queued, Room};

/// Until somebody is asked again; twice as long each time.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// At least so long between two questions that something which came calls for.
const ASK_SOON: Duration = Duration::from_millis(200);
/// How long what was written waits for more before its sender is told.
const OWE_FOR: Duration = Duration::from_millis(20);
/// One that was asked so often and says nothing is not waited for before a gap is given up.
const SILENT: u32 = 3;
/// Entries and bytes that are sent at one go.
const BURST: usize = 1200;
/// See [`BURST`].
const BURST_BYTES: usize = 6 << 20;

impl Mesh {
    /// Another node said something of a room.
    pub(super) fn keeper_changed(&mut self, key: &RoomKey, node: &NodeName) {
        let keeps = self.rooms.interest.keeps(node, key);
        let life = self.topology.announced(node).map(|state| state.incarnation);
        let Some(room) = self.rooms.kept.get_mut(key) else { return };
        if !keeps {
            room.peers.remove(node);
            return self.look_whether_ready(key);
        }
        let peer = room.peers.entry(node.clone()).or_default();
        if life.is_some_and(|life| life > peer.life) {
            *peer = Peer { life: life.unwrap_or_default(), ..Peer::default() };
        }
        let unheard = peer.has.is_none() && peer.again_at <= self.now;
        self.rooms.restless.insert(key.clone());
        if unheard && self.topology.route(node).is_some() {
            self.ask_keeper(key, node);
        } else {
            self.send_lacking(key, node, false);
        }
    }

    /// Ways to nodes have appeared or are gone.
    pub(in crate::mesh) fn room_routes(&mut self, gained: &[NodeName], lost: &[NodeName]) {
        for node in gained.iter().chain(lost) {
            for key in self.rooms.interest.rooms_of(node) {
                let Some(room) = self.rooms.kept.get_mut(&key) else { continue };
                room.peers.remove(node);
                self.keeper_changed(&key, node);
                self.look_whether_ready(&key);
                self.show_members(&key, &BTreeSet::new());
            }
        }
    }

    /// A node is forgotten.
    pub(in crate::mesh) fn forget_rooms_of(&mut self, node: &NodeName) {
        for key in self.rooms.interest.forget(node) {
            if let Some(room) = self.rooms.kept.get_mut(&key) {
                room.peers.remove(node);
            }
            self.look_whether_ready(&key);
            self.show_members(&key, &BTreeSet::new());
        }
    }

    /// Asks another keeper what it has.
    pub(super) fn ask_keeper(&mut self, key: &RoomKey, node: &NodeName) {
        let now = self.now;
        let Some(room) = self.rooms.kept.get_mut(key) else { return };
        let peer = room.peers.entry(node.clone()).or_default();
        let says = if peer.asked == 0 { RoomSays::Ask } else { RoomSays::AskAll };
        peer.again_at = now.after(ASK_AGAIN * (1 << peer.asked.min(3)));
        peer.asked = peer.asked.saturating_add(1);
        self.rooms.restless.insert(key.clone());
        self.send_state(key, node, says);
    }

    pub(super) fn send_state(&mut self, key: &RoomKey, node: &NodeName, says: RoomSays) {
        let has = match self.rooms.kept.get(key) {
            Some(room) => reaches(room),
            None => Vec::new(),
        };
        let state = RoomState {
            to: node.clone(),
            from: self.config.node.clone(),
            incarnation: self.config.incarnation,
            hops_left: MAX_HOPS,
            room: key.clone(),
            says,
            has,
        };
        self.pass_on(node, MAX_HOPS, |hops_left| Frame::RoomState(RoomState { hops_left, ..state }));
    }

    /// What another node has of a room: for this one, or to be passed on.
    pub(in crate::mesh) fn room_state(&mut self, state: RoomState) {
        if state.to != self.config.node {
            let to = state.to.clone();
            let left = state.hops_left;
            return self.pass_on(&to, left, |hops_left| Frame::RoomState(RoomState { hops_left, ..state }));
        }
        if state.from == self.config.node || state.has.len() > MAX_NODES + 1 {
            return;
        }
        let RoomState { from, incarnation, room: key, says, has, .. } = state;
        let Some(room) = self.rooms.kept.get_mut(&key) else {
            // It believes that this node keeps the room: what it lacks here is nothing.
            if matches!(says, RoomSays::Ask | RoomSays::AskAll) {
                self.send_state(&key, &from, RoomSays::Answer);
            }
            return;
        };
        let peer = room.peers.entry(from.clone()).or_default();
        if incarnation < peer.life {
            return;
        }
        peer.life = incarnation;
        let has: BTreeMap<_, _> = has.into_iter().map(|r| (r.origin, (r.floor, r.top))).collect();
        if peer.has.as_ref() != Some(&has) {
            peer.asked = 0;
        }
        peer.has = Some(has);
        match says {
            RoomSays::Ask | RoomSays::AskAll => {
                self.send_lacking(&key, &from, says == RoomSays::AskAll);
                self.send_state(&key, &from, RoomSays::Answer);
            }
            RoomSays::Answer => self.send_lacking(&key, &from, false),
            RoomSays::Have => {}
        }
        self.rooms.restless.insert(key.clone());
        self.look_for_gaps(&key);
        self.look_whether_ready(&key);
        if says == RoomSays::Answer {
            self.proves(&key, &from);
        }
    }

    /// Sends what another keeper lacks: of this node's own, of its own, and of origins that can't send it.
    fn send_lacking(&mut self, key: &RoomKey, node: &NodeName, all: bool) {
        let Some(room) = self.rooms.kept.get(key) else { return };
        let Some(has) = room.peers.get(node).and_then(|peer| peer.has.as_ref()) else { return };
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (origin, line) in &room.log.lines {
            let top = has.get(origin).map_or(Position::default(), |(_, top)| *top);
            // What lies between is not here: it must see first that nobody has it.
            if top < line.floor || top >= line.top || !(all || self.answers_for(key, origin, node)) {
                continue;
            }
            for (after, message) in room.log.after(origin, top) {
                if entries.len() >= BURST || bytes >= BURST_BYTES {
                    break;
                }
                bytes += message.payload.len();
                let entry = RoomEntry {
                    to: vec![node.clone()],
                    by: self.config.node.clone(),
                    hops_left: MAX_HOPS,
                    room: key.clone(),
                    origin: origin.clone(),
                    at: message.at,
                    after,
                    from: message.from.clone(),
                    id: message.id.clone(),
                    taken: message.taken,
                };
                entries.push((entry, message.payload.clone()));
            }
        }
        if !entries.is_empty() {
            self.sent_to_keepers(key, std::slice::from_ref(node));
        }
        for (entry, payload) in entries {
            self.send_entry(entry, payload);
        }
    }

    /// Whether this node sends what `origin` published to `node`.
    fn answers_for(&self, key: &RoomKey, origin: &NodeName, node: &NodeName) -> bool {
        *origin == self.config.node
            || origin == node
            || self.topology.route(origin).is_none()
            || !self.rooms.interest.keeps(origin, key)
    }

    /// They are not asked about it before they had time to say that they have it.
    pub(super) fn sent_to_keepers(&mut self, key: &RoomKey, nodes: &[NodeName]) {
        let due = self.now.after(ASK_AGAIN);
        let Some(room) = self.rooms.kept.get_mut(key) else { return };
        for node in nodes {
            let peer = room.peers.entry(node.clone()).or_default();
            peer.again_at = peer.again_at.max(due);
        }
        if !nodes.is_empty() {
            self.rooms.restless.insert(key.clone());
        }
    }

    /// An entry came whose predecessor did not.
    pub(super) fn lacks_before(&mut self, key: &RoomKey, entry: &RoomEntry) {
        let soon = self.now.after(ASK_SOON);
        let Some(room) = self.rooms.kept.get_mut(key) else { return };
        let peer = room.peers.entry(entry.by.clone()).or_default();
        if let Some(has) = &mut peer.has {
            let (_, top) = has.entry(entry.origin.clone()).or_insert((Position::default(), entry.at));
            *top = (*top).max(entry.at);
        }
        peer.again_at = peer.again_at.min(soon);
        self.rooms.restless.insert(key.clone());
        self.rooms.next_round = self.rooms.next_round.min(soon);
    }

    /// What another node sent is here: it is told in a moment.
    pub(super) fn owe(&mut self, key: &RoomKey, node: &NodeName) {
        self.rooms.owed.insert((key.clone(), node.clone()));
        self.rooms.owed_at.get_or_insert(self.now.after(OWE_FOR));
    }

    /// Tells those who sent something how far this node is.
    pub(super) fn tell_owed(&mut self) {
        if self.rooms.owed_at.is_none_or(|due| due > self.now) {
            return;
        }
        self.rooms.owed_at = None;
        for (key, node) in std::mem::take(&mut self.rooms.owed) {
            self.send_state(&key, &node, RoomSays::Have);
        }
    }

    /// Asks keepers that lack something, or have what this node lacks.
    pub(super) fn ask_the_restless(&mut self) {
        for key in self.rooms.restless.clone() {
            let mut rest = true;
            for node in self.keepers(&key) {
                if !self.wants_of(&key, &node) {
                    continue;
                }
                rest = false;
                let peer = self.rooms.kept.get(&key).and_then(|room| room.peers.get(&node));
                if peer.is_none_or(|peer| peer.again_at <= self.now) {
                    self.ask_keeper(&key, &node);
                }
            }
            self.look_for_gaps(&key);
            self.look_whether_ready(&key);
            self.look_for_proof(&key);
            let idle = |room: &Room| room.ready_at.is_none() && room.unproved.is_empty();
            if rest && self.rooms.kept.get(&key).is_none_or(idle) {
                self.rooms.restless.remove(&key);
            }
        }
    }

    /// Whether this node lacks what another keeper has, or that one may lack what this node is to send.
    fn wants_of(&self, key: &RoomKey, node: &NodeName) -> bool {
        let Some(room) = self.rooms.kept.get(key) else { return false };
        let Some(has) = room.peers.get(node).and_then(|peer| peer.has.as_ref()) else { return true };
        lacks(room, has)
            || room.log.lines.iter().any(|(origin, line)| {
                let top = has.get(origin).map_or(Position::default(), |(_, top)| *top);
                top < line.written && self.answers_for(key, origin, node)
            })
    }

    /// Gives up what no keeper in reach has any more: whoever reads here has missed it, and is told.
    pub(super) fn look_for_gaps(&mut self, key: &RoomKey) {
        let Some(room) = self.rooms.kept.get(key) else { return };
        let mut silent = false;
        let mut reaches: BTreeMap<NodeName, Vec<(Position, Position)>> = BTreeMap::new();
        for node in self.keepers(key) {
            let peer = room.peers.get(&node);
            match peer.and_then(|peer| peer.has.as_ref()) {
                None => silent |= peer.is_none_or(|peer| peer.asked < SILENT),
                Some(has) => {
                    for (origin, reach) in has {
                        reaches.entry(origin.clone()).or_default().push(*reach);
                    }
                }
            }
        }
        let mut given_up = Vec::new();
        for (origin, reaches) in reaches {
            let line = room.log.lines.get(&origin);
            let top = line.map_or(Position::default(), |line| line.top);
            let beyond: Vec<_> = reaches.iter().filter(|(_, other)| *other > top).collect();
            let first = beyond.iter().map(|(floor, _)| *floor).min();
            if let Some(floor) = first.filter(|floor| *floor > top && !silent) {
                given_up.push((origin, floor));
            } else if origin == self.config.node {
                // An earlier life of this node published what its disk has lost since.
                let own = self.config.incarnation;
                let older = reaches.iter().map(|(_, other)| *other).filter(|other| other.incarnation < own);
                let lost = older.max().filter(|lost| *lost < top && !room.log.has(&origin, *lost));
                given_up.extend(lost.map(|lost| (origin, lost)));
            }
        }
        for (origin, place) in given_up {
            self.give_up(key, &origin, place);
        }
    }

    fn give_up(&mut self, key: &RoomKey, origin: &NodeName, place: Position) {
        let Some(room) = self.rooms.kept.get_mut(key) else { return };
        let before = room.log.bytes;
        room.log.drop_up_to(origin, place);
        let links: BTreeSet<_> = room.subs.keys().map(|(link, _)| *link).collect();
        self.rooms.bytes -= (before - room.log.bytes).min(self.rooms.bytes);
        for peer in room.peers.values_mut() {
            (peer.again_at, peer.asked) = (Time(0), 0);
        }
        self.rooms.restless.insert(key.clone());
        self.rooms.next_round = self.now;
        self.write_room(Record::RoomFloor(key.clone(), origin.clone(), place));
        let members = self.members_listed(key);
        for link in links {
            let (room, origin, members) = (key.clone(), origin.clone(), members.clone());
            self.send(link, Frame::RoomLapse(RoomLapse { room, origin, to: place, members }));
        }
    }

    /// Whether another keeper in reach has not said what it has, and was not asked in vain too often either.
    pub(super) fn has_unheard_keepers(&self, key: &RoomKey) -> bool {
        let Some(room) = self.rooms.kept.get(key) else { return false };
        let unheard = |peer: &Peer| peer.has.is_none() && peer.asked < SILENT;
        self.keepers(key).iter().any(|node| room.peers.get(node).is_none_or(unheard))
    }

    /// Does what waited until a room had heard from its other keepers, when it has, or its time is over. Who wants only what is
    /// new waits for longer: before it is known what is old, that can't be told from it.
    pub(super) fn look_whether_ready(&mut self, key: &RoomKey) {
        let Some(room) = self.rooms.kept.get(key) else { return };
        if room.ready_at.is_none() && room.queued.is_empty() {
            return;
        }
        let heard = |node: &NodeName| {
            let has = room.peers.get(node).and_then(|peer| peer.has.as_ref());
            has.is_some_and(|has| !lacks(room, has))
        };
        if room.ready_at.is_some_and(|due| due > self.now) && !self.keepers(key).iter().all(heard) {
            return;
        }
        let unheard = self.has_unheard_keepers(key);
        let Some(room) = self.rooms.kept.get_mut(key) else { return };
        room.ready_at = None;
        let waits = |queued: &Queued| matches!(queued, Queued::Subscribe(_, wish) if begins_now(wish));
        let (later, now): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut room.queued).into_iter().partition(|queued| unheard && waits(queued));
        room.queued = later;
        for queued in now {
            match queued {
                Queued::Publish(sender, head, payload) => {
                    self.rooms.waiting_bytes -= payload.len().min(self.rooms.waiting_bytes);
                    self.publish_now(sender, key, *head, payload);
                }
                Queued::Subscribe(link, wish) => self.subscribe_now(link, key, &wish),
                Queued::Ask(link, ask) => self.ask_room_now(link, key, &ask),
            }
        }
    }
}

fn reaches(room: &Room) -> Vec<RoomReach> {
    let lines = room.log.lines.iter();
    lines
        .map(|(origin, line)| RoomReach { origin: origin.clone(), floor: line.floor, top: line.written })
        .collect()
}

/// Whether another keeper has something that this node has not.
fn lacks(room: &Room, has: &BTreeMap<NodeName, (Position, Position)>) -> bool {
    has.iter().any(|(origin, (_, top))| room.log.lines.get(origin).is_none_or(|line| line.top < *top))
}
