//! Which node keeps which room, and which agents are there: announced like agents, by versioned changes that are flooded.

use std::collections::{BTreeMap, BTreeSet};

use crate::mesh::topology::MAX_NODES;
use crate::mesh::{Mesh, Time};
use crate::wire::frame::{Frame, RoomDigest, RoomList, RoomThere};
use crate::wire::ids::{AgentName, Incarnation, LinkId, NodeName};
use crate::wire::room::{MAX_MEMBERS, RoomKey};

use super::MAX_ROOMS;

/// Members that a node announces, of all rooms: so its whole list fits into a frame.
const MAX_ANNOUNCED: usize = 16_384;
/// How long a change of members may wait for others.
const GATHER: std::time::Duration = std::time::Duration::from_millis(50);

/// What one node said.
#[derive(Debug, Default)]
struct List {
    incarnation: Incarnation,
    version: u64,
    rooms: BTreeMap<RoomKey, BTreeSet<AgentName>>,
}

/// What all nodes said, and what of this node's own is still to be said.
#[derive(Debug, Default)]
pub(super) struct Interest {
    lists: BTreeMap<NodeName, List>,
    version: u64,
    changed: BTreeSet<RoomKey>,
    /// Who left by their own word since the last announcement.
    parted: BTreeMap<RoomKey, BTreeSet<AgentName>>,
    due: Option<Time>,
    at_once: bool,
}

impl Interest {
    /// Something of a room of this node's has changed; `at_once`: others must know before they can send what belongs here.
    pub fn touch(&mut self, key: &RoomKey, at_once: bool) {
        self.changed.insert(key.clone());
        self.at_once |= at_once;
    }

    /// Somebody left by its own word.
    pub fn parts(&mut self, key: &RoomKey, agent: &AgentName) {
        self.parted.entry(key.clone()).or_default().insert(agent.clone());
    }

    /// The nodes that said that they keep a room.
    pub fn keepers(&self, key: &RoomKey) -> impl Iterator<Item = &NodeName> {
        self.lists.iter().filter(move |(_, list)| list.rooms.contains_key(key)).map(|(node, _)| node)
    }

    /// Whether a node said that it keeps a room.
    pub fn keeps(&self, node: &NodeName, key: &RoomKey) -> bool {
        self.lists.get(node).is_some_and(|list| list.rooms.contains_key(key))
    }

    /// The members of a room at other nodes.
    pub fn members(&self, key: &RoomKey) -> impl Iterator<Item = (&NodeName, &AgentName)> {
        let there = self.lists.iter().filter_map(move |(node, list)| Some((node, list.rooms.get(key)?)));
        there.flat_map(|(node, members)| members.iter().map(move |member| (node, member)))
    }

    /// The rooms of a node.
    pub fn rooms_of(&self, node: &NodeName) -> Vec<RoomKey> {
        self.lists.get(node).map(|list| list.rooms.keys().cloned().collect()).unwrap_or_default()
    }

    pub fn forget(&mut self, node: &NodeName) -> Vec<RoomKey> {
        self.lists.remove(node).map(|list| list.rooms.into_keys().collect()).unwrap_or_default()
    }

    pub fn next(&self) -> Option<Time> {
        self.due
    }
}

impl Mesh {
    /// Announces what has changed: at once where others must know, else after a little while, together.
    pub(in crate::mesh) fn announce_rooms(&mut self) {
        let interest = &mut self.rooms.interest;
        if interest.changed.is_empty() {
            return;
        }
        if !interest.at_once {
            let due = *interest.due.get_or_insert(self.now.after(GATHER));
            if self.now < due {
                return;
            }
        }
        (interest.due, interest.at_once) = (None, false);
        let changed = std::mem::take(&mut interest.changed);
        let mut parted = std::mem::take(&mut interest.parted);
        let base = interest.version;
        interest.version += 1;
        let mut left = MAX_ANNOUNCED;
        let rooms = changed.iter().map(|key| {
            let there = self.room_there(key, &mut left);
            RoomThere { parted: parted.remove(key).unwrap_or_default().into_iter().collect(), ..there }
        });
        let news = RoomList {
            origin: self.config.node.clone(),
            incarnation: self.config.incarnation,
            base: Some(base),
            version: base + 1,
            rooms: rooms.collect(),
        };
        self.flood(&Frame::RoomList(news), None);
    }

    fn room_there(&self, key: &RoomKey, left: &mut usize) -> RoomThere {
        let (kept, members) = match self.rooms.kept.get(key) {
            None => (false, Vec::new()),
            Some(room) => {
                let own: BTreeSet<&AgentName> = room.subs.values().map(|sub| &sub.agent).collect();
                let most = MAX_MEMBERS.min(*left);
                (true, own.into_iter().take(most).cloned().collect())
            }
        };
        *left -= members.len();
        RoomThere { room: key.clone(), kept, members, parted: Vec::new() }
    }

    fn whole_room_list(&self, node: &NodeName) -> Option<RoomList> {
        let plain = |room: &RoomKey, members: &BTreeSet<AgentName>| RoomThere {
            room: room.clone(),
            kept: true,
            members: members.iter().cloned().collect(),
            parted: Vec::new(),
        };
        let (incarnation, version, rooms) = if *node == self.config.node {
            let mut left = MAX_ANNOUNCED;
            let keys: Vec<&RoomKey> = self.rooms.kept.keys().collect();
            let rooms = keys.into_iter().map(|key| self.room_there(key, &mut left)).collect();
            (self.config.incarnation, self.rooms.interest.version, rooms)
        } else {
            let list = self.rooms.interest.lists.get(node)?;
            let rooms = list.rooms.iter().map(|(key, members)| plain(key, members)).collect();
            (list.incarnation, list.version, rooms)
        };
        (version > 0).then(|| RoomList { origin: node.clone(), incarnation, base: None, version, rooms })
    }

    /// What another node says of its rooms.
    pub(in crate::mesh) fn room_list(&mut self, from: LinkId, news: RoomList) {
        let expelled = self.topology.is_expelled(&news.origin, news.incarnation);
        if news.origin == self.config.node || expelled || news.rooms.len() > MAX_ROOMS {
            return;
        }
        let lists = &mut self.rooms.interest.lists;
        if lists.len() >= MAX_NODES && !lists.contains_key(&news.origin) {
            return;
        }
        let list = lists.entry(news.origin.clone()).or_default();
        let known = (list.incarnation, list.version);
        if (news.incarnation, news.version) <= known {
            return;
        }
        let fits = news.base.is_none()
            || (news.incarnation, news.base) == (list.incarnation, Some(list.version))
            || (news.incarnation > list.incarnation && news.base == Some(0));
        if !fits {
            return self.send_room_digest(from);
        }
        let mut touched: BTreeMap<RoomKey, BTreeSet<AgentName>> = BTreeMap::new();
        if news.base.is_none() || news.incarnation > list.incarnation {
            let before = std::mem::take(&mut list.rooms);
            touched.extend(before.into_keys().map(|key| (key, BTreeSet::new())));
        }
        (list.incarnation, list.version) = (news.incarnation, news.version);
        for there in &news.rooms {
            let members = there.members.iter().take(MAX_MEMBERS).cloned().collect();
            if !there.kept {
                list.rooms.remove(&there.room);
            } else if list.rooms.len() < MAX_ROOMS || list.rooms.contains_key(&there.room) {
                list.rooms.insert(there.room.clone(), members);
            }
            touched.insert(there.room.clone(), there.parted.iter().cloned().collect());
        }
        let origin = news.origin.clone();
        self.flood(&Frame::RoomList(news), Some(from));
        for (key, parted) in touched {
            self.keeper_changed(&key, &origin);
            self.show_members(&key, &parted);
        }
    }

    pub(in crate::mesh) fn send_room_digest(&mut self, link: LinkId) {
        let own = RoomDigest {
            origin: self.config.node.clone(),
            incarnation: self.config.incarnation,
            version: self.rooms.interest.version,
        };
        let others = self.rooms.interest.lists.iter().map(|(origin, list)| RoomDigest {
            origin: origin.clone(),
            incarnation: list.incarnation,
            version: list.version,
        });
        let digest = std::iter::once(own).chain(others).collect();
        self.send(link, Frame::RoomDigest(digest));
    }

    /// Sends what the peer lacks of what we have; what we lack it sends for our own digest.
    pub(in crate::mesh) fn room_digest(&mut self, link: LinkId, theirs: &[RoomDigest]) {
        let theirs = &theirs[..theirs.len().min(MAX_NODES + 1)];
        let own = self.config.node.clone();
        let mut nodes: Vec<NodeName> = self.rooms.interest.lists.keys().cloned().collect();
        nodes.push(own);
        for node in nodes {
            let has = theirs.iter().find(|known| known.origin == node);
            let has = has.map(|known| (known.incarnation, known.version));
            if let Some(whole) = self.whole_room_list(&node)
                && has < Some((whole.incarnation, whole.version))
            {
                self.send(link, Frame::RoomList(whole));
            }
        }
    }
}
