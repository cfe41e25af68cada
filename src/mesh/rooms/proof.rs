//! Cursors that say more than there is.
//!
//! A reader may know more than its node: it comes from another one, which was told sooner. But a cursor may also be made up, or
//! of another room, and who kept to it would hear nothing until it came true. So before a place beyond all that is known here is
//! believed, the node whose publish it would be is asked how far it is.

use std::collections::{BTreeMap, BTreeSet};

use crate::mesh::{Mesh, Time};
use crate::wire::frame::{RoomSays, RoomSubscribe};
use crate::wire::ids::{LinkId, NodeName, SessionNo};
use crate::wire::room::{Position, RoomKey};

use super::{MAX_QUEUED, READY_WITHIN};

/// Answers that a node gives to be believed: the first one may have been on its way already, and a second one where others wait
/// for that node's word.
const ANSWERS: u32 = 2;

/// A subscription whose cursor is looked into.
#[derive(Debug)]
pub(super) struct Unproved {
    link: LinkId,
    wish: RoomSubscribe,
    /// Then it is believed.
    until: Time,
    /// Answers that are still to come.
    left: BTreeMap<NodeName, u32>,
    /// Who has given them all.
    answered: BTreeSet<NodeName>,
}

impl Unproved {
    pub fn is_of(&self, link: LinkId, session: SessionNo) -> bool {
        (self.link, self.wish.session) == (link, session)
    }
}

impl Mesh {
    /// Asks nodes in reach whether they have come as far as a cursor says, where nobody has told so yet; `false`: there is
    /// nobody to ask.
    pub(super) fn asks_for_proof(&mut self, link: LinkId, key: &RoomKey, wish: &RoomSubscribe) -> bool {
        let Some(room) = self.rooms.kept.get(key).filter(|room| room.unproved.len() < MAX_QUEUED) else {
            return false;
        };
        let reached = room.reached();
        let places = wish.cursor.iter().flat_map(|cursor| &cursor.at);
        let beyond = places.filter(|(origin, place)| **place > reached.get(origin)).map(|(origin, _)| origin);
        let asked = beyond.filter(|node| **node != self.config.node && self.topology.route(node).is_some());
        let is_asked = |node: &NodeName| room.unproved.iter().any(|other| other.left.contains_key(node));
        let left = asked.map(|node| (node.clone(), ANSWERS + u32::from(is_asked(node))));
        let left: BTreeMap<NodeName, u32> = left.collect();
        if left.is_empty() {
            return false;
        }
        for (node, _) in left.iter().filter(|(_, left)| **left == ANSWERS) {
            self.send_state(key, node, RoomSays::Ask);
        }
        let (wish, until, answered) = (wish.clone(), self.now.after(READY_WITHIN), BTreeSet::new());
        if let Some(room) = self.rooms.kept.get_mut(key) {
            room.unproved.push(Unproved { link, wish, until, left, answered });
        }
        self.rooms.restless.insert(key.clone());
        self.rooms.next_round = self.rooms.next_round.min(until);
        true
    }

    /// A node has answered how far it is.
    pub(super) fn proves(&mut self, key: &RoomKey, node: &NodeName) {
        let Some(room) = self.rooms.kept.get_mut(key) else { return };
        let mut again = false;
        for unproved in &mut room.unproved {
            let Some(left) = unproved.left.get_mut(node) else { continue };
            *left -= 1;
            if *left == 0 {
                unproved.left.remove(node);
                unproved.answered.insert(node.clone());
            } else {
                again = true;
            }
        }
        if again {
            self.send_state(key, node, RoomSays::Ask);
        }
        self.look_for_proof(key);
    }

    /// Subscribes those whose cursors have been looked into, or whose time is over.
    pub(super) fn look_for_proof(&mut self, key: &RoomKey) {
        let now = self.now;
        let Some(room) = self.rooms.kept.get_mut(key) else { return };
        let done = room.unproved.extract_if(.., |unproved| unproved.left.is_empty() || unproved.until <= now);
        for Unproved { link, wish, answered, .. } in done.collect::<Vec<_>>() {
            self.join_room(link, key, &wish, &answered);
        }
    }

    /// A wish without places that can't be, and whether all can. Those of other nodes are believed, but of those that have
    /// answered.
    pub(super) fn possible(
        &self,
        key: &RoomKey,
        wish: &RoomSubscribe,
        answered: &BTreeSet<NodeName>,
    ) -> (RoomSubscribe, bool) {
        let (mut wish, mut possible) = (wish.clone(), true);
        let (Some(cursor), Some(room)) = (wish.cursor.as_mut(), self.rooms.kept.get(key)) else {
            return (wish, possible);
        };
        let (reached, me) = (room.reached(), &self.config.node);
        let last = Position { incarnation: self.config.incarnation, n: self.rooms.last };
        for (origin, place) in &mut cursor.at {
            let there = reached.get(origin);
            if *place <= there || !(origin == me || answered.contains(origin)) {
                continue;
            }
            possible = false;
            // What an earlier life of this node published, and its disk has lost, is no hindrance.
            if origin != me || *place > last {
                *place = there;
            }
        }
        (wish, possible)
    }
}
