//! How far rooms reached that are kept no more: a cursor from before a room was forgotten is not taken for one that misses
//! nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::wire::ids::NodeName;
use crate::wire::room::{Position, RoomKey};

/// Rooms of which it is known.
const MAX_ROOMS: usize = 16_384;
/// Their lines, all together.
const MAX_LINES: usize = 65_536;

/// The last place of each origin.
pub(super) type Reached = BTreeMap<NodeName, Position>;

/// Rooms that are forgotten, and how far each reached.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    rooms: BTreeMap<RoomKey, (u64, Reached)>,
    by_age: BTreeSet<(u64, RoomKey)>,
    lines: usize,
}

impl Forgotten {
    pub fn len(&self) -> usize {
        self.rooms.len()
    }

    pub fn has(&self, key: &RoomKey) -> bool {
        self.rooms.contains_key(key)
    }

    /// Notes a room, with the wall clock in milliseconds; answers of which ones nothing is known from now on.
    pub fn put(&mut self, key: RoomKey, reached: Reached, now_ms: u64) -> Vec<RoomKey> {
        self.take(&key);
        if reached.is_empty() {
            return vec![key];
        }
        self.lines += reached.len();
        self.by_age.insert((now_ms, key.clone()));
        self.rooms.insert(key, (now_ms, reached));
        let mut gone = Vec::new();
        while (self.rooms.len() > MAX_ROOMS || self.lines > MAX_LINES)
            && let Some((_, oldest)) = self.by_age.first().cloned()
        {
            self.take(&oldest);
            gone.push(oldest);
        }
        gone
    }

    /// A room is kept again.
    pub fn take(&mut self, key: &RoomKey) -> Reached {
        let Some((since, reached)) = self.rooms.remove(key) else { return Reached::new() };
        self.by_age.remove(&(since, key.clone()));
        self.lines -= reached.len();
        reached
    }

    /// Those that were forgotten before this time, in milliseconds of the wall clock: nothing is known of them any more.
    pub fn expire(&mut self, before_ms: u64) -> Vec<RoomKey> {
        let old = self.by_age.iter().take_while(|(since, _)| *since < before_ms);
        let old: Vec<RoomKey> = old.map(|(_, key)| key.clone()).collect();
        old.iter().for_each(|key| drop(self.take(key)));
        old
    }
}
