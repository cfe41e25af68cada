//! The history of one room at one node: for each origin a line without gaps, and all of them merged.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;

use crate::mesh::topology::MAX_NODES;
use crate::wire::ids::{AgentAddr, MessageId, NodeName};
use crate::wire::record::RoomMessage;
use crate::wire::room::{Position, Vector};

/// What an entry needs beside its payload and its names, in bytes, about.
const AROUND: usize = 256;

/// Where an entry stands in the merged history: by the clock of its origin, never before an earlier one of the same.
type Rank = (u64, NodeName, Position);

/// The messages of one origin: all after `floor` up to `top`.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// The last one that is kept no more.
    pub floor: Position,
    /// The last one.
    pub top: Position,
    /// The last one that is on disk, with all before it.
    pub written: Position,
    /// The disk has lost what came after `top` at the last start: the least place that this can have had. Least of all: it has not.
    hole: Position,
    /// The last one that is on disk.
    reached: Position,
    /// Those that the disk has refused so far.
    refused: BTreeSet<Position>,
    entries: BTreeMap<Position, (u64, RoomMessage)>,
    /// The clock of the last one.
    clock: u64,
}

/// The history of a room.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub lines: BTreeMap<NodeName, Line>,
    order: BTreeSet<Rank>,
    /// The same message may come by two origins, when its sender gave it to both: in the order in which this node got them.
    names: BTreeMap<(AgentAddr, MessageId), Vec<Rank>>,
    pub bytes: usize,
}

/// What a reader gets before what is new.
pub(super) struct CatchUp {
    /// Where it stands before the messages.
    pub cursor: Vector,
    /// Whether nothing is missing before them.
    pub recovered: bool,
    /// Their origins, places and texts.
    pub messages: Vec<(NodeName, Position, Bytes)>,
    /// Whether nothing is left in that direction.
    pub complete: bool,
}

impl Line {
    /// One is on disk.
    pub fn stored(&mut self, at: Position) {
        self.refused.remove(&at);
        if at <= self.top {
            self.reached = self.reached.max(at);
        }
        self.look_what_is_written();
    }

    /// The disk has refused one, which is written again: what comes after it does not count as written before that.
    pub fn refused(&mut self, at: Position) {
        if self.entries.contains_key(&at) {
            self.refused.insert(at);
            self.look_what_is_written();
        }
    }

    fn look_what_is_written(&mut self) {
        self.written = match self.refused.first() {
            None => self.reached,
            Some(first) => self.entries.range(..first).next_back().map_or(self.floor, |(at, _)| *at),
        };
    }
}

impl Log {
    /// How far this node is.
    pub fn now(&self) -> Vector {
        let lines = self.lines.iter().filter(|(_, line)| line.top > Position::default());
        Vector { at: lines.map(|(origin, line)| (origin.clone(), line.top)).collect(), cut: false }
    }

    /// The same, and behind what is lost.
    pub fn behind_holes(&self) -> Vector {
        let mut now = self.now();
        self.lines.iter().for_each(|(origin, line)| now.advance(origin, line.hole));
        now
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether a message of this name is in the history.
    pub fn knows(&self, from: &AgentAddr, id: &MessageId) -> bool {
        self.names.contains_key(&(from.clone(), id.clone()))
    }

    pub fn get(&self, origin: &NodeName, at: Position) -> Option<&RoomMessage> {
        self.lines.get(origin)?.entries.get(&at).map(|(_, message)| message)
    }

    /// Whether a message is kept, or was.
    pub fn has(&self, origin: &NodeName, at: Position) -> bool {
        self.lines.get(origin).is_some_and(|line| line.floor >= at || line.entries.contains_key(&at))
    }

    /// Adds the next message of an origin; answers whether the same one came before by another origin.
    pub fn push(&mut self, message: RoomMessage) -> bool {
        let line = self.lines.entry(message.origin.clone()).or_default();
        line.clock = line.clock.max(message.taken);
        line.top = line.top.max(message.at);
        let rank = (line.clock, message.origin.clone(), message.at);
        self.bytes += size_of(&message);
        let names = self.names.entry((message.from.clone(), message.id.clone())).or_default();
        names.push(rank.clone());
        let known = names.len() > 1;
        line.entries.insert(message.at, (line.clock, message));
        self.order.insert(rank);
        known
    }

    /// The messages of an origin after a place, in order, each with the place of the one before it.
    pub fn after(
        &self,
        origin: &NodeName,
        place: Position,
    ) -> impl Iterator<Item = (Position, &RoomMessage)> + use<'_> {
        let line = self.lines.get(origin);
        let mut before = line.map_or(place, |line| {
            let earlier = line.entries.range(..=place).next_back().map(|(at, _)| *at);
            earlier.unwrap_or(line.floor)
        });
        let range = (Bound::Excluded(place), Bound::Unbounded);
        let entries = line.into_iter().flat_map(move |line| line.entries.range(range));
        entries.map(move |(at, (_, message))| (std::mem::replace(&mut before, *at), message))
    }

    /// Gives up what an origin published up to a place; also what never came. Answers how many messages went.
    pub fn drop_up_to(&mut self, origin: &NodeName, place: Position) -> usize {
        let line = self.lines.entry(origin.clone()).or_default();
        line.floor = line.floor.max(place);
        line.top = line.top.max(place);
        line.reached = line.reached.max(place);
        let rest = line.entries.split_off(&place);
        let mut gone = std::mem::replace(&mut line.entries, rest);
        if let Some(last) = line.entries.remove(&place) {
            gone.insert(place, last);
        }
        line.refused.retain(|at| *at > place);
        line.look_what_is_written();
        let count = gone.len();
        for (at, (clock, message)) in gone {
            self.forget((clock, origin.clone(), at), &message);
        }
        count
    }

    /// What an origin published last is lost: up to this place, or beyond.
    pub fn lose_end(&mut self, origin: &NodeName, hole: Position) {
        self.lines.entry(origin.clone()).or_default().hole = hole;
    }

    /// All that an origin published up to its top has come without a gap: what was lost is among it.
    pub fn close_hole(&mut self, origin: &NodeName) {
        if let Some(line) = self.lines.get_mut(origin).filter(|line| line.top >= line.hole) {
            line.hole = Position::default();
        }
    }

    fn forget(&mut self, rank: Rank, message: &RoomMessage) {
        self.bytes -= size_of(message).min(self.bytes);
        self.order.remove(&rank);
        let name = (message.from.clone(), message.id.clone());
        if let Some(ranks) = self.names.get_mut(&name) {
            ranks.retain(|other| *other != rank);
            if ranks.is_empty() {
                self.names.remove(&name);
            }
        }
    }

    /// Drops the oldest until all is within bounds; answers which lines begin later now.
    pub fn shrink(
        &mut self,
        most: usize,
        most_bytes: usize,
        kept_since_ms: u64,
    ) -> Vec<(NodeName, Position)> {
        let mut begun: BTreeMap<NodeName, Position> = BTreeMap::new();
        while let Some((_, origin, at)) = self.order.first().cloned() {
            let kept = self.lines.get(&origin).and_then(|line| line.entries.get(&at));
            let old = kept.is_some_and(|(_, message)| message.kept_ms < kept_since_ms);
            if self.order.len() <= most && self.bytes <= most_bytes && !old {
                break;
            }
            self.drop_up_to(&origin, at);
            begun.insert(origin, at);
        }
        begun.into_iter().collect()
    }

    /// When the oldest message was kept here, in milliseconds of the wall clock.
    pub fn oldest_ms(&self) -> Option<u64> {
        let (_, origin, at) = self.order.first()?;
        self.lines.get(origin)?.entries.get(at).map(|(_, message)| message.kept_ms)
    }

    /// Everything that a reader lacks.
    pub fn since(&self, cursor: &Vector) -> CatchUp {
        self.page_after(cursor, usize::MAX, usize::MAX)
    }

    /// What came after a cursor, the oldest first to be kept.
    pub fn page_after(&self, cursor: &Vector, limit: usize, bytes: usize) -> CatchUp {
        let mut cursor = self.of_this_mesh(cursor);
        // A place that is none of this room's says nothing of it.
        let mut recovered = cursor.at.iter().all(|(origin, place)| self.is_place(origin, *place));
        if std::mem::take(&mut cursor.cut) {
            recovered = false;
            // Of whom it says nothing, all counts as read: nothing comes twice.
            for (origin, line) in &self.lines {
                cursor.at.entry(origin.clone()).or_insert(line.top);
            }
        }
        for (origin, line) in &self.lines {
            recovered &= cursor.covers(origin, line.floor.max(line.hole));
            // What is kept no more it has missed: it goes on behind that.
            cursor.advance(origin, line.floor);
            // And behind what is lost at the end, when it has got what is left before it.
            let place = cursor.get(origin);
            let rest = (Bound::Excluded(place), Bound::Included(line.hole));
            if place < line.hole && line.entries.range(rest).next().is_none() {
                cursor.advance(origin, line.hole);
            }
        }
        let mut left = bytes;
        let (mut messages, mut complete) = (Vec::new(), true);
        for (_, origin, at) in &self.order {
            if cursor.covers(origin, *at) {
                continue;
            }
            let Some(message) = self.first_of(origin, *at, |rank| cursor.covers(&rank.1, rank.2)) else {
                continue;
            };
            let fits = message.payload.len() <= left || messages.is_empty();
            if messages.len() == limit || !fits {
                complete = false;
                break;
            }
            left = left.saturating_sub(message.payload.len());
            messages.push((origin.clone(), *at, message.payload.clone()));
        }
        CatchUp { cursor, recovered, messages, complete }
    }

    /// The latest of what came before a cursor.
    pub fn page_before(&self, cursor: &Vector, limit: usize, bytes: usize) -> CatchUp {
        let mut start = self.of_this_mesh(cursor);
        let mut left = bytes;
        let (mut messages, mut complete) = (Vec::new(), true);
        for (_, origin, at) in self.order.iter().rev() {
            if !cursor.covers(origin, *at) {
                continue;
            }
            let Some(message) = self.first_of(origin, *at, |_| false) else { continue };
            let fits = message.payload.len() <= left || messages.is_empty();
            if messages.len() == limit || !fits {
                complete = false;
                break;
            }
            left = left.saturating_sub(message.payload.len());
            start.at.insert(origin.clone(), self.before(origin, *at));
            messages.push((origin.clone(), *at, message.payload.clone()));
        }
        messages.reverse();
        CatchUp { cursor: start, recovered: true, messages, complete }
    }

    /// A cursor that names more nodes than a mesh has was made up: what it says of nodes that are not known is left out, or each
    /// message's cursor would carry it on.
    fn of_this_mesh(&self, cursor: &Vector) -> Vector {
        let mut cursor = cursor.clone();
        if cursor.at.len() > MAX_NODES {
            cursor.at.retain(|origin, _| self.lines.contains_key(origin));
        }
        cursor
    }

    /// Whether a reader can stand there, as far as is known here: what an origin published in other rooms has other places.
    fn is_place(&self, origin: &NodeName, place: Position) -> bool {
        self.lines.get(origin).is_none_or(|line| {
            let within = line.floor < place && place <= line.top;
            !within || place == line.hole || line.entries.contains_key(&place)
        })
    }

    fn before(&self, origin: &NodeName, at: Position) -> Position {
        let Some(line) = self.lines.get(origin) else { return Position::default() };
        line.entries.range(..at).next_back().map_or(line.floor, |(at, _)| *at)
    }

    /// A message, if it is the first of its name that a reader gets; `had`: whether it has got that one.
    fn first_of(&self, origin: &NodeName, at: Position, had: impl Fn(&Rank) -> bool) -> Option<&RoomMessage> {
        let (clock, message) = self.lines.get(origin)?.entries.get(&at)?;
        let ranks = self.names.get(&(message.from.clone(), message.id.clone()))?;
        let own = (*clock, origin.clone(), at);
        let first = ranks.iter().all(|rank| *rank >= own && !had(rank));
        first.then_some(message)
    }
}

fn size_of(message: &RoomMessage) -> usize {
    message.payload.len() + message.id.as_str().len() + AROUND
}
