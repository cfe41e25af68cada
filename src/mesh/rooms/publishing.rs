//! A message for a room: from a session of this node, and from another node.
//!
//! It is written before anybody gets it. So what a reader has seen is what the origin will know after any crash, and its
//! number never means another message.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::mesh::sessions::Key;
use crate::mesh::topology::MAX_NODES;
use crate::mesh::{Event, Mesh, Ticket};
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::{Head, State, Target};
use crate::wire::frame::{Frame, MAX_HOPS, Receipt, RoomEntry, RoomMessage as Told};
use crate::wire::ids::{LinkId, NodeName};
use crate::wire::record::{Record, RoomMessage};
use crate::wire::room::{Position, RoomKey};

use super::log::Line;
use super::{MAX_MESSAGE, MAX_QUEUED, MAX_WAITING, MAX_WAITING_BYTES, Queued, Waiting};

impl Mesh {
    /// A session publishes. Its entrance and the mesh have checked that it may.
    pub(in crate::mesh) fn publish(&mut self, sender: Key, head: Head, payload: Bytes) {
        let Target::Room(namespace, name) = head.to.clone() else { return };
        let key = RoomKey::new(namespace, name);
        if let Some(refusal) = self.stands_still() {
            return self.refuse_publish(&[sender], &head, refusal);
        }
        if payload.len() > MAX_MESSAGE {
            let message = format!("{} bytes; a message of a room has at most {MAX_MESSAGE}", payload.len());
            return self.refuse_publish(&[sender], &head, Refusal::new(Code::TooLarge, message));
        }
        let (now, bytes) = (self.now, self.rooms.waiting_bytes + payload.len());
        let room = match self.keep_room(&key, Some(&head.from)) {
            Ok(room) => room,
            Err(refusal) => return self.refuse_publish(&[sender], &head, refusal),
        };
        room.used = now;
        if room.ready_at.is_some() {
            if room.queued.len() < MAX_QUEUED && bytes <= MAX_WAITING_BYTES {
                room.queued.push_back(Queued::Publish(sender, Box::new(head), payload));
                self.rooms.waiting_bytes = bytes;
                return;
            }
            let message =
                format!("too many requests wait for {key} already, or too many bytes for all rooms");
            return self.refuse_publish(&[sender], &head, Refusal::new(Code::Unavailable, message));
        }
        self.publish_now(sender, &key, head, payload);
    }

    pub(super) fn publish_now(&mut self, sender: Key, key: &RoomKey, mut head: Head, payload: Bytes) {
        let Some(room) = self.rooms.kept.get(key) else { return };
        if room.log.knows(&head.from, &head.id) {
            return self.tell_accepted(&head);
        }
        let name = (key.clone(), head.from.clone(), head.id.clone());
        if let Some(ticket) = self.rooms.being_written.get(&name)
            && let Some(Waiting::Own(_, _, _, senders)) = self.rooms.waiting.get_mut(ticket)
        {
            if senders.len() < MAX_QUEUED {
                senders.push(sender);
            }
            return;
        }
        let bytes = self.rooms.waiting_bytes + payload.len();
        if self.rooms.waiting.len() >= MAX_WAITING || bytes > MAX_WAITING_BYTES {
            let message = "too many messages of rooms wait for the disk";
            return self.refuse_publish(&[sender], &head, Refusal::new(Code::Unavailable, message));
        }
        self.rooms.waiting_bytes = bytes;
        self.rooms.last += 1;
        head.taken = self.next_clock();
        let message = RoomMessage {
            origin: self.config.node.clone(),
            at: Position { incarnation: self.config.incarnation, n: self.rooms.last },
            after: Position::default(),
            from: head.from.clone(),
            id: head.id.clone(),
            taken: head.taken,
            kept_ms: self.wall_ms(),
            payload,
        };
        let ticket = self.persist(Record::RoomKeep(key.clone(), Box::new(message.clone())));
        self.rooms.being_written.insert(name, ticket);
        let waiting = Waiting::Own(key.clone(), Box::new(head), message, vec![sender]);
        self.rooms.waiting.insert(ticket, waiting);
    }

    /// The disk has spoken.
    pub(in crate::mesh) fn rooms_persisted(&mut self, ticket: Ticket, failed: Option<&str>) {
        match self.rooms.waiting.remove(&ticket) {
            None => {}
            Some(Waiting::Own(key, head, message, senders)) => {
                let name = (key.clone(), head.from.clone(), head.id.clone());
                self.rooms.being_written.remove(&name);
                self.rooms.waiting_bytes -= message.payload.len().min(self.rooms.waiting_bytes);
                match failed {
                    None => self.published(&key, &head, message),
                    Some(why) => {
                        let message = format!("the node's disk refused the message: {why}");
                        self.refuse_publish(&senders, &head, Refusal::new(Code::Unavailable, message));
                    }
                }
            }
            Some(Waiting::Theirs(key, origin, at, by)) => match failed {
                None => self.stored_theirs(key, &origin, at, by),
                Some(_) => {
                    if let Some(line) = self.line_of(&key, &origin) {
                        line.refused(at);
                    }
                    self.rooms.unwritten.push((key, origin, at, by));
                }
            },
            Some(Waiting::Dropped(record)) if failed.is_some() => self.rooms.rewrites.push(*record),
            Some(Waiting::Dropped(_)) => {}
        }
    }

    fn published(&mut self, key: &RoomKey, head: &Head, message: RoomMessage) {
        // It may have been forgotten while the disk wrote, when nobody was there.
        if self.keep_room(key, None).is_err() {
            return;
        }
        let Some(room) = self.rooms.kept.get_mut(key) else { return };
        let (origin, at, payload) = (message.origin.clone(), message.at, message.payload.clone());
        let before = room.log.bytes;
        let after = room.log.lines.get(&origin).map_or(Position::default(), |line| line.top);
        let (from, id, taken) = (message.from.clone(), message.id.clone(), message.taken);
        let known = room.log.push(message);
        if let Some(line) = room.log.lines.get_mut(&origin) {
            line.stored(at);
        }
        self.rooms.bytes += room.log.bytes - before;
        self.tell_readers(key, &origin, (after, at), known, &payload);
        let to = self.keepers(key);
        let entry = RoomEntry {
            to,
            by: origin.clone(),
            hops_left: MAX_HOPS,
            room: key.clone(),
            origin,
            at,
            after,
            from,
            id,
            taken,
        };
        self.sent_to_keepers(key, &entry.to);
        self.send_entry(entry, payload);
        self.tell_accepted(head);
        self.shrink_room(key, false);
    }

    /// To the sessions here: one frame for each entrance, however many sessions it has.
    pub(super) fn tell_readers(
        &mut self,
        key: &RoomKey,
        origin: &NodeName,
        (after, at): (Position, Position),
        known: bool,
        payload: &Bytes,
    ) {
        let Some(room) = self.rooms.kept.get(key) else { return };
        let links: BTreeSet<LinkId> = room.subs.keys().map(|(link, _)| *link).collect();
        for link in links {
            let told = Told { room: key.clone(), origin: origin.clone(), at, after, known };
            let payload = if known { Bytes::new() } else { payload.clone() };
            self.event(Event::HandedOver);
            self.send(link, Frame::RoomMessage(told, payload));
        }
    }

    /// Sends an entry on, once a link, with those of its nodes that lie behind that link.
    pub(super) fn send_entry(&mut self, entry: RoomEntry, payload: Bytes) {
        let mut by_link: BTreeMap<LinkId, Vec<NodeName>> = BTreeMap::new();
        for node in &entry.to {
            if let Some(link) = self.way_to(node) {
                by_link.entry(link).or_default().push(node.clone());
            }
        }
        for (link, to) in by_link {
            self.send(link, Frame::RoomEntry(RoomEntry { to, ..entry.clone() }, payload.clone()));
        }
    }

    /// An entry of another node: for this one, or to be passed on, or both.
    pub(in crate::mesh) fn room_entry(&mut self, mut entry: RoomEntry, payload: Bytes) {
        entry.hops_left = entry.hops_left.min(MAX_HOPS);
        if entry.hops_left == 0 || entry.to.len() > MAX_NODES {
            return self.event(Event::Refused(Code::HopLimit.as_str()));
        }
        entry.hops_left -= 1;
        let (here, on): (Vec<NodeName>, Vec<NodeName>) =
            std::mem::take(&mut entry.to).into_iter().partition(|node| *node == self.config.node);
        if !on.is_empty() {
            self.send_entry(RoomEntry { to: on, ..entry.clone() }, payload.clone());
        }
        if !here.is_empty() {
            self.take_entry(entry, payload);
        }
    }

    pub(super) fn take_entry(&mut self, entry: RoomEntry, payload: Bytes) {
        let (key, kept_ms) = (entry.room.clone(), self.wall_ms());
        let Some(room) = self.rooms.kept.get_mut(&key) else { return };
        let top = room.log.lines.get(&entry.origin).map_or(Position::default(), |line| line.top);
        if top >= entry.at {
            return self.owe(&key, &entry.by);
        }
        if room.log.lines.len() >= MAX_NODES && !room.log.lines.contains_key(&entry.origin) {
            return;
        }
        if top < entry.after {
            return self.lacks_before(&key, &entry);
        }
        self.seen_clock(entry.taken);
        let RoomEntry { origin, at, after, from, id, taken, by, .. } = entry;
        let message = RoomMessage {
            origin: origin.clone(),
            at,
            after,
            from,
            id,
            taken,
            kept_ms,
            payload: payload.clone(),
        };
        let Some(room) = self.rooms.kept.get_mut(&key) else { return };
        let before = room.log.bytes;
        let known = room.log.push(message.clone());
        room.log.close_hole(&origin);
        self.rooms.bytes += room.log.bytes - before;
        self.tell_readers(&key, &origin, (top, at), known, &payload);
        let ticket = self.persist(Record::RoomKeep(key.clone(), Box::new(message)));
        self.rooms.waiting.insert(ticket, Waiting::Theirs(key.clone(), origin, at, by));
        self.shrink_room(&key, false);
    }

    /// What another node sent is on disk: it is told, together with what else is by then.
    fn stored_theirs(&mut self, key: RoomKey, origin: &NodeName, at: Position, by: NodeName) {
        if let Some(line) = self.line_of(&key, origin) {
            line.stored(at);
        }
        self.owe(&key, &by);
        self.look_whether_ready(&key);
    }

    fn line_of(&mut self, key: &RoomKey, origin: &NodeName) -> Option<&mut Line> {
        self.rooms.kept.get_mut(key)?.log.lines.get_mut(origin)
    }

    fn tell_accepted(&mut self, head: &Head) {
        if head.receipt.is_none() {
            return;
        }
        let receipt = Receipt {
            to: self.config.node.clone(),
            sender: head.from.clone(),
            id: head.id.clone(),
            recipient: head.from.clone(),
            counts: None,
            node: self.config.node.clone(),
            state: State::Accepted,
            refusal: None,
            asked: true,
            keeper: self.config.node.clone(),
            hops_left: MAX_HOPS,
        };
        self.receipt(receipt);
    }

    fn refuse_publish(&mut self, senders: &[Key], head: &Head, refusal: Refusal) {
        let receipt = self.refused(head, refusal);
        for (link, session) in senders {
            self.send(*link, Frame::Told(*session, receipt.clone()));
        }
    }
}
