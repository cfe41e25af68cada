//! Rooms: named channels, with the history of what was published, and who is there.
//!
//! Every node that has subscribers of a room, or took something for it, *keeps* the room: all of its history, from whichever
//! node. What a node takes from a publisher is written first, then goes to its own readers and to every other keeper; these
//! take what each origin published in its order and without gaps. What was lost on the way, or was published while two
//! keepers did not see each other, they ask each other for, by how far each is with each origin. Nobody leads.
//!
//! | file | what is in it |
//! |---|---|
//! | [`log`] | the history of one room |
//! | [`forgotten`] | how far rooms reached that are kept no more |
//! | [`interest`] | which node keeps which room, and who is there |
//! | `publishing` | a message from a session, and from another node |
//! | `reading` | sessions that subscribe, and what they ask |
//! | `proof` | cursors that say more than there is |
//! | `syncing` | what keepers lack of each other's |
//! | `presence` | who joins and leaves |
//! | `timing` | what happens because time passes |

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::sessions::Key;
use super::{Mesh, Ticket, Time};
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::Head;
use crate::wire::frame::{RoomAsk, RoomSubscribe};
use crate::wire::ids::{ANONYMOUS, AgentAddr, AgentName, Incarnation, LinkId, MessageId, NodeName};
use crate::wire::record::{KnownRoom, Record, RoomMessage};
use crate::wire::room::{Position, RoomKey, Vector};

mod forgotten;
mod interest;
mod log;
mod presence;
mod proof;
mod publishing;
mod reading;
mod syncing;
#[cfg(test)]
mod tests;
mod timing;

use forgotten::Forgotten;
use interest::Interest;
use log::Log;
use proof::Unproved;

/// Rooms that a node keeps; those of one namespace are at most half of what the others leave, and those that one of its agents
/// opened at most half of what its other agents leave.
const MAX_ROOMS: usize = 4096;
/// Largest message of a room, in bytes.
const MAX_MESSAGE: usize = (1 << 20) + 1024;

/// How much a node keeps of rooms.
#[derive(Debug, Clone)]
pub struct RoomLimits {
    /// Messages of a room's history; it may be an eighth more before it is cut.
    pub messages: usize,
    /// Their bytes, likewise.
    pub bytes: usize,
    /// Bytes of all histories.
    pub all_bytes: usize,
    /// For how long a message is kept, in milliseconds.
    pub kept_for_ms: u64,
}

impl Default for RoomLimits {
    fn default() -> RoomLimits {
        RoomLimits { messages: 1000, bytes: 4 << 20, all_bytes: 128 << 20, kept_for_ms: 24 * 3600 * 1000 }
    }
}

/// Messages of sessions here that wait for the disk.
const MAX_WAITING: usize = 8192;
/// Their bytes, and those of messages that wait until a room has heard from its other keepers.
const MAX_WAITING_BYTES: usize = 64 << 20;
/// Requests that wait until a room has heard from its other keepers.
const MAX_QUEUED: usize = 1024;
/// How much over its bound a history may grow before it is cut: one part of so many.
const SLACK: usize = 8;
/// A room that is new here hears from its other keepers first, for so long at most.
const READY_WITHIN: Duration = Duration::from_secs(1);

/// What the disk has been asked for.
#[derive(Debug)]
enum Waiting {
    /// A message of a session here, and who is to be told.
    Own(RoomKey, Box<Head>, RoomMessage, Vec<Key>),
    /// A message from another node, and which one that is.
    Theirs(RoomKey, NodeName, Position, NodeName),
    /// Something that nobody waits for.
    Dropped(Box<Record>),
}

/// A session's subscription.
#[derive(Debug)]
struct Sub {
    agent: AgentName,
    presence: bool,
}

/// What another keeper of a room is known to have.
#[derive(Debug, Default)]
struct Peer {
    /// Floor and top of each line; `None`: it has not said yet.
    has: Option<BTreeMap<NodeName, (Position, Position)>>,
    /// In which life it said so.
    life: Incarnation,
    /// When it is asked again, should there be a reason.
    again_at: Time,
    /// How often it was asked without an answer that brought anything.
    asked: u32,
}

/// Something that waits until a room has heard from its other keepers.
#[derive(Debug)]
enum Queued {
    Publish(Key, Box<Head>, bytes::Bytes),
    Subscribe(LinkId, RoomSubscribe),
    Ask(LinkId, RoomAsk),
}

/// A room that this node keeps.
#[derive(Debug)]
struct Room {
    log: Log,
    subs: BTreeMap<Key, Sub>,
    peers: BTreeMap<NodeName, Peer>,
    /// Until then its other keepers are heard first; `None`: that is over.
    ready_at: Option<Time>,
    queued: VecDeque<Queued>,
    unproved: Vec<Unproved>,
    /// Who is there, as its readers were told.
    shown: BTreeSet<AgentName>,
    /// Who seems to have left, and when that is believed.
    leaving: BTreeMap<AgentName, Time>,
    /// When somebody wanted something of it last.
    used: Time,
    /// The agent that opened it here; `None`: it was kept from an earlier life.
    by: Option<AgentAddr>,
}

/// All that a node has of rooms.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    kept: BTreeMap<RoomKey, Room>,
    by_session: BTreeMap<Key, BTreeSet<RoomKey>>,
    /// How many agents the rooms take that a session joins, where its entrance has said so.
    most: BTreeMap<Key, u32>,
    forgotten: Forgotten,
    interest: Interest,
    /// The number of the last message taken in this life.
    last: u64,
    waiting: BTreeMap<Ticket, Waiting>,
    /// Bytes of messages that wait, for the disk or for other keepers.
    waiting_bytes: usize,
    /// Messages of sessions here that wait for the disk, by name.
    being_written: BTreeMap<(RoomKey, AgentAddr, MessageId), Ticket>,
    /// Messages that could not be written, and are written again.
    unwritten: Vec<(RoomKey, NodeName, Position, NodeName)>,
    /// Other records that could not be written.
    rewrites: Vec<Record>,
    /// Bytes of all histories.
    bytes: usize,
    /// Rooms in which some keeper may lack something.
    restless: BTreeSet<RoomKey>,
    /// Keepers that are to be told how far this node is.
    owed: BTreeSet<(RoomKey, NodeName)>,
    owed_at: Option<Time>,
    /// Rooms that sessions have left, and who did by its own word: who is there is looked at once.
    stale: BTreeMap<RoomKey, BTreeSet<AgentName>>,
    /// Links of which something about a room found no room.
    again: BTreeSet<(LinkId, RoomKey)>,
    next_round: Time,
}

/// How much a node keeps of rooms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RoomsView {
    /// Rooms.
    pub rooms: usize,
    /// Messages of their histories.
    pub messages: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Rooms that are kept no more, of which it is known how far they reached.
    pub forgotten: usize,
    /// Subscriptions of sessions here.
    pub subscriptions: usize,
    /// Messages that wait for the disk.
    pub waiting: usize,
    /// Bytes of messages that wait, for the disk or until a room has heard from its other keepers.
    pub waiting_bytes: usize,
    /// Of the fullest history, messages.
    pub fullest: usize,
}

impl Room {
    fn new(now: Time, by: Option<AgentAddr>) -> Room {
        Room {
            log: Log::default(),
            subs: BTreeMap::new(),
            peers: BTreeMap::new(),
            ready_at: None,
            queued: VecDeque::new(),
            unproved: Vec::new(),
            shown: BTreeSet::new(),
            leaving: BTreeMap::new(),
            used: now,
            by,
        }
    }

    /// How far it is, by what is here and by what its other keepers have said: also what is still on its way here.
    fn reached(&self) -> Vector {
        let mut reached = self.log.behind_holes();
        for has in self.peers.values().filter_map(|peer| peer.has.as_ref()) {
            has.iter().for_each(|(origin, (_, top))| reached.advance(origin, *top));
        }
        reached
    }
}

impl Rooms {
    /// Whether a room is kept, or it is known how far it reached.
    fn has_something_of(&self, key: &RoomKey) -> bool {
        self.kept.contains_key(key) || self.forgotten.has(key)
    }

    /// Whether anybody waits for this record; `None`: it is not about rooms.
    pub(super) fn is_waited_for(&self, ticket: Ticket) -> Option<bool> {
        self.waiting.get(&ticket).map(|waiting| matches!(waiting, Waiting::Own(..)))
    }
}

impl Mesh {
    /// Takes up again what an earlier life of this node kept.
    pub(super) fn restore_rooms(&mut self, known: BTreeMap<RoomKey, KnownRoom>) {
        for (key, known) in known {
            if known.messages.is_empty() {
                let mut reached = Vector { at: known.floors, cut: false };
                known.holes.iter().for_each(|(origin, hole)| reached.advance(origin, *hole));
                self.remember_reach(key, reached.at);
                continue;
            }
            let mut holes = BTreeMap::new();
            let mut room = Room::new(self.now, None);
            for (origin, place) in known.floors {
                room.log.drop_up_to(&origin, place);
            }
            for message in known.messages {
                let top = room.log.lines.get(&message.origin).map_or(Position::default(), |line| line.top);
                // One before it was not on disk yet: what lies before it is lost here, and whoever lacks it is told.
                if message.after > top {
                    room.log.drop_up_to(&message.origin, message.after);
                    holes.insert(message.origin.clone(), message.after);
                }
                if top < message.at {
                    room.log.push(message);
                }
            }
            for line in room.log.lines.values_mut() {
                line.stored(line.top);
            }
            for (origin, hole) in known.holes {
                room.log.lose_end(&origin, hole);
            }
            for (origin, place) in holes {
                self.write_room(Record::RoomFloor(key.clone(), origin, place));
            }
            self.rooms.bytes += room.log.bytes;
            self.rooms.interest.touch(&key, true);
            self.rooms.kept.insert(key, room);
        }
    }

    /// How much this node keeps of rooms.
    pub fn rooms_view(&self) -> RoomsView {
        let mut view = RoomsView {
            rooms: self.rooms.kept.len(),
            bytes: self.rooms.bytes,
            forgotten: self.rooms.forgotten.len(),
            waiting: self.rooms.waiting.len(),
            waiting_bytes: self.rooms.waiting_bytes,
            ..RoomsView::default()
        };
        for room in self.rooms.kept.values() {
            view.messages += room.log.len();
            view.subscriptions += room.subs.len();
            view.fullest = view.fullest.max(room.log.len());
        }
        view
    }

    /// The room, from now on kept here, unless there are too many. `by`: the agent for which it is opened, if its share is to
    /// be looked at.
    fn keep_room(&mut self, key: &RoomKey, by: Option<&AgentAddr>) -> Result<&mut Room, Refusal> {
        if !self.rooms.kept.contains_key(key) {
            self.has_room_for(key, by)?;
            let mut room = Room::new(self.now, by.cloned());
            for (origin, place) in self.rooms.forgotten.take(key) {
                room.log.drop_up_to(&origin, place);
            }
            let others = self.keepers(key);
            if !others.is_empty() {
                room.ready_at = Some(self.now.after(READY_WITHIN));
            }
            self.rooms.kept.insert(key.clone(), room);
            self.rooms.interest.touch(key, true);
            self.rooms.restless.insert(key.clone());
            for node in others {
                self.ask_keeper(key, &node);
            }
            self.show_members(key, &BTreeSet::new());
        }
        self.rooms.kept.get_mut(key).ok_or_else(|| Refusal::new(Code::Internal, "the room is gone"))
    }

    /// Whether one more room may be kept, for this namespace and this agent.
    fn has_room_for(&self, key: &RoomKey, by: Option<&AgentAddr>) -> Result<(), Refusal> {
        let namespace = &key.namespace;
        let kept = self.rooms.kept.len();
        let own = || self.rooms.kept.iter().filter(|(other, _)| other.namespace == *namespace);
        let all_own = own().count();
        let share = MAX_ROOMS.saturating_sub(kept - all_own) / 2;
        if all_own >= share {
            let message = format!(
                "node {} keeps {all_own} rooms of namespace {namespace}, of {MAX_ROOMS} in all, and can keep no more of it until some are forgotten",
                self.config.node
            );
            return Err(Refusal::new(Code::Unavailable, message));
        }
        let Some(by) = by else { return Ok(()) };
        let who = person(by);
        let opened = own().filter(|(_, room)| room.by.as_ref().is_some_and(|by| person(by) == who)).count();
        if opened >= share.saturating_sub(all_own - opened) / 2 {
            let message = format!(
                "{namespace}/{who} has opened {opened} rooms here, and may open no more until some are forgotten: the rest is for others"
            );
            return Err(Refusal::new(Code::Unavailable, message));
        }
        Ok(())
    }

    /// The other nodes that keep a room and can be reached.
    fn keepers(&self, key: &RoomKey) -> Vec<NodeName> {
        let nodes = self.rooms.interest.keepers(key).filter(|node| **node != self.config.node);
        nodes.filter(|node| self.topology.route(node).is_some()).cloned().collect()
    }

    /// Keeps histories within their bounds; what is dropped is dropped on disk as well.
    fn shrink_room(&mut self, key: &RoomKey, exactly: bool) {
        let RoomLimits { messages, bytes, all_bytes, kept_for_ms } = self.config.rooms;
        let since = self.wall_ms().saturating_sub(kept_for_ms);
        let Some(room) = self.rooms.kept.get_mut(key) else { return };
        let over = room.log.len() > messages + messages / SLACK || room.log.bytes > bytes + bytes / SLACK;
        if over || exactly {
            self.cut_room(key, messages, bytes, since);
        }
        // Where all together are too many, the fullest one halves.
        while self.rooms.bytes > all_bytes {
            let rooms = self.rooms.kept.iter().filter(|(_, room)| room.log.len() > 1);
            let Some((key, room)) = rooms.max_by_key(|(_, room)| room.log.bytes) else { return };
            let (key, most) = (key.clone(), room.log.len() / 2);
            self.cut_room(&key, most, bytes, since);
        }
    }

    fn cut_room(&mut self, key: &RoomKey, messages: usize, bytes: usize, since: u64) {
        let Some(room) = self.rooms.kept.get_mut(key) else { return };
        let before = room.log.bytes;
        let begun = room.log.shrink(messages, bytes, since);
        self.rooms.bytes -= (before - room.log.bytes).min(self.rooms.bytes);
        for (origin, place) in begun {
            self.write_room(Record::RoomFloor(key.clone(), origin, place));
        }
    }

    /// Writes something about a room that nobody waits for.
    fn write_room(&mut self, record: Record) {
        let ticket = self.persist(record.clone());
        self.rooms.waiting.insert(ticket, Waiting::Dropped(Box::new(record)));
    }
}

/// All connections of an older client's user count as one. Those that show no token may be anybody's, and each counts as itself.
fn person(agent: &AgentAddr) -> &str {
    let name = agent.name.as_str();
    agent.name.connection_of().filter(|user| *user != ANONYMOUS).unwrap_or(name)
}
