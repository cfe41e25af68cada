//! What happens because time passes.

use std::time::Duration;

use crate::mesh::{Mesh, Time};
use crate::wire::frame::Frame;
use crate::wire::ids::LinkId;
use crate::wire::record::Record;
use crate::wire::room::RoomKey;

use super::Waiting;
use super::forgotten::Reached;

/// Between two rounds while some keeper may lack something.
const ROUND: Duration = Duration::from_millis(250);
/// Between two rounds otherwise.
const CALM: Duration = Duration::from_secs(5);
/// A room with neither readers nor history is forgotten when nobody has wanted anything of it for so long.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// For so long it is known how far a forgotten room reached, in milliseconds: 30 days.
const FORGOTTEN_FOR_MS: u64 = 30 * 24 * 3600 * 1000;

impl Mesh {
    /// When [`Mesh::rooms_tick`] has something to do.
    pub(in crate::mesh) fn next_rooms(&self) -> Time {
        let rooms = &self.rooms;
        let others = [rooms.owed_at, rooms.interest.next()];
        others.into_iter().flatten().fold(rooms.next_round, Time::min)
    }

    pub(in crate::mesh) fn rooms_tick(&mut self) {
        self.tell_owed();
        if self.now < self.rooms.next_round {
            return;
        }
        self.ask_the_restless();
        self.write_rooms_again();
        self.believe_who_left();
        self.look_after_old_rooms();
        self.tell_again();
        let waits = self.rooms.kept.values().any(|room| !room.leaving.is_empty());
        let busy = waits || !self.rooms.restless.is_empty() || !self.rooms.again.is_empty();
        self.rooms.next_round = self.now.after(if busy { ROUND } else { CALM });
    }

    /// Something about a room found no room on its way to an entrance: its sessions are to subscribe again.
    pub(in crate::mesh) fn unsent_of_room(&mut self, link: LinkId, room: RoomKey) {
        self.rooms.again.insert((link, room));
        self.rooms.next_round = self.rooms.next_round.min(self.now.after(ROUND));
    }

    fn tell_again(&mut self) {
        for (link, room) in std::mem::take(&mut self.rooms.again) {
            if self.links.contains_key(&link) {
                self.send(link, Frame::RoomAgain(room));
            }
        }
    }

    pub(super) fn write_rooms_again(&mut self) {
        for record in std::mem::take(&mut self.rooms.rewrites) {
            // It may have been made anew since: what was written of it by then is to stay.
            let there = matches!(&record, Record::RoomGone(key) if self.rooms.has_something_of(key));
            if !there {
                self.write_room(record);
            }
        }
        for (key, origin, at, by) in std::mem::take(&mut self.rooms.unwritten) {
            let message = self.rooms.kept.get(&key).and_then(|room| room.log.get(&origin, at)).cloned();
            // It may have been dropped since.
            let Some(message) = message else { continue };
            let ticket = self.persist(Record::RoomKeep(key.clone(), Box::new(message)));
            self.rooms.waiting.insert(ticket, Waiting::Theirs(key, origin, at, by));
        }
    }

    pub(super) fn look_after_old_rooms(&mut self) {
        let since = self.wall_ms().saturating_sub(self.config.rooms.kept_for_ms);
        let old = |ms: Option<u64>| ms.is_some_and(|ms| ms < since);
        let rooms = self.rooms.kept.iter();
        let aged = rooms.filter(|(_, room)| old(room.log.oldest_ms())).map(|(key, _)| key.clone());
        for key in aged.collect::<Vec<_>>() {
            self.shrink_room(&key, true);
        }
        let now = self.now;
        let rooms = self.rooms.kept.iter().filter(|(_, room)| {
            room.subs.is_empty()
                && room.log.len() == 0
                && room.queued.is_empty()
                && room.unproved.is_empty()
                && now.since(room.used) >= FORGET_AFTER
        });
        let unused: Vec<RoomKey> = rooms.map(|(key, _)| key.clone()).collect();
        for key in unused {
            let waits = self.rooms.being_written.keys().any(|(room, _, _)| *room == key);
            if !waits {
                self.forget_room(key);
            }
        }
        let since = self.wall_ms().saturating_sub(FORGOTTEN_FOR_MS);
        for key in self.rooms.forgotten.expire(since) {
            self.write_room(Record::RoomGone(key));
        }
    }

    /// How far it reached stays known: whoever comes with a cursor from before is told what it has missed.
    fn forget_room(&mut self, key: RoomKey) {
        let Some(room) = self.rooms.kept.remove(&key) else { return };
        self.rooms.restless.remove(&key);
        self.rooms.interest.touch(&key, true);
        let reached = room.log.behind_holes().at;
        self.remember_reach(key, reached);
    }

    pub(super) fn remember_reach(&mut self, key: RoomKey, reached: Reached) {
        let now_ms = self.wall_ms();
        for key in self.rooms.forgotten.put(key, reached, now_ms) {
            self.write_room(Record::RoomGone(key));
        }
    }
}
