//! Which node keeps which room, and which agents are there: announced like agents, by versioned changes that are flooded.

use std::collections::{BTreeMap, BTreeSet};

use crate::mesh::topology::MAX_NODES;
use crate::mesh::{Mesh, Time};
use crate::wire::frame::{Frame, RoomDigest, RoomList, RoomThere};
use crate::wire::ids::{AgentName, Incarnation, LinkId, NodeName};
use crate::wire::room::{MAX_MEMBERS, RoomKey};

use super::{MAX_ROOMS, Rooms};

/// Members that are known of one node, of all its rooms together: so its whole list fits into a frame. The others are left out,
/// and whoever asks is told that some may be.
const MAX_ANNOUNCED: usize = 16_384;
/// How long a change of members may wait for others.
const GATHER: std::time::Duration = std::time::Duration::from_millis(50);

/// What one node said.
#[derive(Debug, Default)]
struct List {
    incarnation: Incarnation,
    version: u64,
    rooms: BTreeMap<RoomKey, BTreeSet<AgentName>>,
    /// Members of all of them.
    count: usize,
}

impl List {
    /// Takes a room as it is now, with as many of its members as there is room for.
    fn put<'a>(&mut self, key: &RoomKey, members: impl IntoIterator<Item = &'a AgentName>) {
        self.remove(key);
        let most = MAX_MEMBERS.min(MAX_ANNOUNCED - self.count);
        let members: BTreeSet<AgentName> = members.into_iter().take(most).cloned().collect();
        self.count += members.len();
        self.rooms.insert(key.clone(), members);
    }

    fn remove(&mut self, key: &RoomKey) {
        self.count -= self.rooms.remove(key).map_or(0, |members| members.len());
    }

    fn clear(&mut self) -> BTreeMap<RoomKey, BTreeSet<AgentName>> {
        self.count = 0;
        std::mem::take(&mut self.rooms)
    }

    /// Whether members of a room may have been left out.
    fn may_lack(&self, key: &RoomKey) -> bool {
        let full = self.count >= MAX_ANNOUNCED;
        self.rooms.get(key).is_some_and(|members| full || members.len() >= MAX_MEMBERS)
    }

    /// A room as it is announced.
    fn there(&self, key: &RoomKey) -> RoomThere {
        let members = self.rooms.get(key);
        RoomThere {
            room: key.clone(),
            kept: members.is_some(),
            members: members.into_iter().flatten().cloned().collect(),
            parted: Vec::new(),
        }
    }
}

/// What all nodes said, and what of this node's own is still to be said.
#[derive(Debug, Default)]
pub(super) struct Interest {
    lists: BTreeMap<NodeName, List>,
    /// What this node said: what the others know of it.
    own: List,
    /// Rooms of which it left out members, as all together were too many.
    cut: BTreeSet<RoomKey>,
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

    /// Whether members of a room at nodes that can be reached may be unknown here.
    pub fn may_lack(&self, key: &RoomKey, reached: impl Fn(&NodeName) -> bool) -> bool {
        self.lists.iter().any(|(node, list)| list.may_lack(key) && reached(node))
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
        let base = interest.own.version;
        interest.own.version += 1;
        // Those who left and are not named count as gone without a word: that is believed after a while.
        let mut left = MAX_ANNOUNCED;
        let rooms = changed.iter().map(|key| {
            let parted = parted.remove(key).unwrap_or_default().into_iter().take(left);
            let there = RoomThere { parted: parted.collect(), ..self.rooms.own_there(key) };
            left -= there.parted.len();
            there
        });
        let news = RoomList {
            origin: self.config.node.clone(),
            incarnation: self.config.incarnation,
            base: Some(base),
            version: base + 1,
            rooms: rooms.collect(),
        };
        // Nobody takes more of them at once.
        let whole = if news.rooms.len() > MAX_ROOMS { self.whole_room_list(&news.origin) } else { None };
        self.flood(&Frame::RoomList(whole.unwrap_or(news)), None);
        let interest = &mut self.rooms.interest;
        if interest.own.count < MAX_ANNOUNCED {
            interest.changed.append(&mut interest.cut);
        }
    }

    fn whole_room_list(&self, node: &NodeName) -> Option<RoomList> {
        let (incarnation, list) = if *node == self.config.node {
            (self.config.incarnation, &self.rooms.interest.own)
        } else {
            let list = self.rooms.interest.lists.get(node)?;
            (list.incarnation, list)
        };
        let (version, rooms) = (list.version, list.rooms.keys().map(|key| list.there(key)).collect());
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
            touched.extend(list.clear().into_keys().map(|key| (key, BTreeSet::new())));
        }
        (list.incarnation, list.version) = (news.incarnation, news.version);
        for there in &news.rooms {
            if !there.kept {
                list.remove(&there.room);
            } else if list.rooms.len() < MAX_ROOMS || list.rooms.contains_key(&there.room) {
                list.put(&there.room, &there.members);
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
            version: self.rooms.interest.own.version,
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

impl Rooms {
    /// What a room of this node is now, as the others will know it.
    fn own_there(&mut self, key: &RoomKey) -> RoomThere {
        let Interest { own, cut, .. } = &mut self.interest;
        cut.remove(key);
        match self.kept.get(key) {
            None => own.remove(key),
            Some(room) => {
                let members: BTreeSet<&AgentName> = room.subs.values().map(|sub| &sub.agent).collect();
                let wanted = members.len().min(MAX_MEMBERS);
                own.put(key, members);
                if own.rooms.get(key).is_some_and(|named| named.len() < wanted) {
                    cut.insert(key.clone());
                }
            }
        }
        own.there(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::rooms::Sub;
    use crate::mesh::rooms::tests::reach;
    use crate::mesh::{Config, Output};
    use crate::wire::client::MembersPayload;
    use crate::wire::frame::{MAX_HEAD, RoomAsk, RoomQuestion};
    use crate::wire::ids::{Namespace, RoomName, Sequence, SessionNo};
    use crate::wire::record::Memory;

    fn key(n: usize) -> RoomKey {
        RoomKey::new(Namespace::new("trishula").unwrap(), RoomName::new(&format!("{n:x>128}")).unwrap())
    }

    fn agent(n: usize) -> AgentName {
        AgentName::new(&format!("{n:a>64}")).unwrap()
    }

    fn mesh() -> Mesh {
        let node = NodeName::new("dc").unwrap();
        Mesh::new(Config::new(node, Incarnation(2)), Time(0), 1, Memory::default())
    }

    fn whole(mesh: &Mesh, node: &str) -> RoomList {
        mesh.whole_room_list(&NodeName::new(node).unwrap()).unwrap()
    }

    fn named(list: &RoomList) -> usize {
        list.rooms.iter().map(|there| there.members.len()).sum()
    }

    /// How many members PRESENCE names, and whether it says that these are all.
    fn asked(mesh: &mut Mesh, key: &RoomKey) -> (usize, bool) {
        while mesh.poll_output().is_some() {}
        let (session, number, bytes) = (SessionNo(1), Sequence(1), 1 << 20);
        let question = RoomQuestion::Members { bytes };
        mesh.ask_room_now(LinkId(1), key, &RoomAsk { session, number, room: key.name.clone(), question });
        let Some(Output::Send(_, Frame::Answer(_, _, text))) = mesh.poll_output() else {
            panic!("no answer")
        };
        let told: MembersPayload = serde_json::from_slice(&text).unwrap();
        (told.members.len(), told.complete)
    }

    #[test]
    fn the_list_of_another_node_fits_into_a_frame_however_it_came() {
        // covers B07, B19
        let mut mesh = mesh();
        let origin = NodeName::new("agni").unwrap();
        for n in 0..MAX_ROOMS as u64 {
            // Seventy full rooms are more than a frame.
            let members = if n < 70 { MAX_MEMBERS } else { 0 };
            let there = RoomThere {
                room: key(n as usize),
                kept: true,
                members: (0..members).map(agent).collect(),
                parted: Vec::new(),
            };
            let (incarnation, rooms) = (Incarnation(1), vec![there]);
            let news = RoomList { origin: origin.clone(), incarnation, base: Some(n), version: n + 1, rooms };
            mesh.room_list(LinkId(1), news);
        }
        let list = whole(&mesh, "agni");
        assert_eq!((list.rooms.len(), named(&list)), (MAX_ROOMS, MAX_ANNOUNCED));
        assert!(Frame::RoomList(list).encode().head.len() < MAX_HEAD);
        // Whoever asks is told, also in a room of which nobody at all is known.
        assert_eq!(asked(&mut mesh, &key(100)), (0, true), "nobody can be reached there");
        reach(&mut mesh, &["agni"]);
        assert_eq!(asked(&mut mesh, &key(100)), (0, false));
        assert_eq!(asked(&mut mesh, &key(3)), (MAX_MEMBERS, false));
        assert_eq!(asked(&mut mesh, &key(MAX_ROOMS)), (0, true), "that node has no such room");
    }

    #[test]
    fn members_that_are_left_out_are_announced_when_there_is_room() {
        // covers B07
        let mut mesh = mesh();
        let full = MAX_ANNOUNCED / MAX_MEMBERS + 1;
        for room in 0..=full {
            mesh.keep_room(&key(room), None).unwrap();
            let subs = &mut mesh.rooms.kept.get_mut(&key(room)).unwrap().subs;
            subs.extend((0..MAX_MEMBERS).map(|n| {
                let session = (LinkId(1), SessionNo((room * MAX_MEMBERS + n) as u64));
                (session, Sub { agent: agent(n), presence: false })
            }));
        }
        mesh.announce_rooms();
        let list = whole(&mesh, "dc");
        assert_eq!((list.rooms.len(), named(&list)), (full + 1, MAX_ANNOUNCED));
        assert!(Frame::RoomList(list).encode().head.len() < MAX_HEAD);
        assert!(mesh.rooms.interest.changed.is_empty(), "there is no room yet");
        mesh.rooms.kept.get_mut(&key(0)).unwrap().subs.clear();
        mesh.rooms.kept.get_mut(&key(1)).unwrap().subs.clear();
        for key in [key(0), key(1)] {
            mesh.rooms.interest.touch(&key, true);
        }
        mesh.announce_rooms();
        assert!(named(&whole(&mesh, "dc")) < MAX_ANNOUNCED);
        mesh.announce_rooms();
        mesh.now = mesh.now.after(GATHER);
        mesh.announce_rooms();
        let list = whole(&mesh, "dc");
        assert_eq!(named(&list), (full - 1) * MAX_MEMBERS, "all of those that are there");
        assert!(mesh.rooms.interest.cut.is_empty() && mesh.rooms.interest.changed.is_empty());
    }
}
