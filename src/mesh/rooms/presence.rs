//! Who is in a room: the sessions of this node that have subscribed, and what other nodes said of theirs.
//!
//! Who leaves by its own word has left at once. Who only disappears, with a connection, a node or a way to it, may be back in
//! a moment: that is believed after a while, and most readers never hear of it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::mesh::Mesh;
use crate::wire::frame::{Frame, RoomMember};
use crate::wire::ids::{AgentName, LinkId};
use crate::wire::room::{MAX_MEMBERS, RoomKey};

use super::Room;

/// How long somebody that disappeared still counts as there.
const LEAVES_AFTER: Duration = Duration::from_secs(5);

impl Mesh {
    /// Who is in a room now, as far as this node can tell.
    pub(super) fn members_now(&self, key: &RoomKey) -> BTreeSet<AgentName> {
        let reachable = self.rooms.interest.members(key);
        let reachable = reachable.filter(|(node, _)| self.topology.route(node).is_some());
        let mut members: BTreeSet<AgentName> = reachable.map(|(_, member)| member.clone()).collect();
        if let Some(room) = self.rooms.kept.get(key) {
            members.extend(room.subs.values().map(|sub| sub.agent.clone()));
        }
        members
    }

    /// Whether more may be in a room than this node can tell, by the bounds of what nodes announce.
    pub(super) fn may_lack_members(&self, key: &RoomKey) -> bool {
        self.rooms.interest.may_lack(key, |node| self.topology.route(node).is_some())
    }

    /// Who is in a room, as its readers are told.
    pub(super) fn members_shown(&self, key: &RoomKey) -> BTreeSet<AgentName> {
        match self.rooms.kept.get(key) {
            Some(room) => room.shown.clone(),
            None => self.members_now(key),
        }
    }

    /// At most as many members as are listed.
    pub(super) fn members_listed(&self, key: &RoomKey) -> Vec<AgentName> {
        match self.rooms.kept.get(key) {
            Some(room) => room.shown.iter().take(MAX_MEMBERS).cloned().collect(),
            None => Vec::new(),
        }
    }

    /// A session of this node's has come: only that one is new.
    pub(super) fn show_newcomer(&mut self, key: &RoomKey, agent: &AgentName) {
        let Some(room) = self.rooms.kept.get_mut(key) else { return };
        room.leaving.remove(agent);
        if !room.shown.insert(agent.clone()) {
            return;
        }
        for link in links_with_presence(room) {
            let member = RoomMember { room: key.clone(), agent: agent.clone(), joined: true };
            self.send(link, Frame::RoomMember(member));
        }
    }

    /// Looks who is there in rooms that sessions have left: once for all that left together.
    pub(in crate::mesh) fn show_left_rooms(&mut self) {
        for (key, parted) in std::mem::take(&mut self.rooms.stale) {
            self.show_members(&key, &parted);
        }
    }

    /// Looks who is there; those who left by their own word are in `parted`.
    pub(super) fn show_members(&mut self, key: &RoomKey, parted: &BTreeSet<AgentName>) {
        if !self.rooms.kept.contains_key(key) {
            return;
        }
        let members = self.members_now(key);
        let now = self.now;
        let Some(room) = self.rooms.kept.get_mut(key) else { return };
        room.leaving.retain(|agent, _| !members.contains(agent));
        let mut events: Vec<(AgentName, bool)> = Vec::new();
        for agent in &members {
            if room.shown.insert(agent.clone()) {
                events.push((agent.clone(), true));
            }
        }
        for agent in room.shown.difference(&members).cloned().collect::<Vec<_>>() {
            let due = *room.leaving.entry(agent.clone()).or_insert_with(|| now.after(LEAVES_AFTER));
            if due <= now || parted.contains(&agent) {
                room.leaving.remove(&agent);
                room.shown.remove(&agent);
                events.push((agent, false));
            }
        }
        let links = links_with_presence(room);
        for (agent, joined) in events {
            for link in &links {
                let member = RoomMember { room: key.clone(), agent: agent.clone(), joined };
                self.send(*link, Frame::RoomMember(member));
            }
        }
    }

    /// Those who have been away for long enough have left.
    pub(super) fn believe_who_left(&mut self) {
        let now = self.now;
        let due = self.rooms.kept.iter().filter(|(_, room)| room.leaving.values().any(|due| *due <= now));
        for key in due.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.show_members(&key, &BTreeSet::new());
        }
    }
}

fn links_with_presence(room: &Room) -> BTreeSet<LinkId> {
    room.subs.iter().filter(|(_, sub)| sub.presence).map(|((link, _), _)| *link).collect()
}
