//! The reference model of a disk: records in the order in which they were given, a batch an fsync, and what is left
//! when the power goes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use trishula::mesh::Ticket;
use trishula::wire::envelope::{MessageKey, State};
use trishula::wire::frame::AgentState;
use trishula::wire::ids::{AgentAddr, Incarnation, NodeName};
use trishula::wire::record::{Kept, KnownNode, KnownRoom, Memory, Numbers, Past, Place, Record};
use trishula::wire::room::RoomKey;

use crate::clock::Us;
use crate::rng::Rng;

/// What is on the platter.
#[derive(Debug, Clone, Default)]
pub struct Platter {
    pub agents: BTreeMap<AgentAddr, AgentState>,
    pub transient: BTreeSet<AgentAddr>,
    pub elsewhere: BTreeMap<NodeName, KnownNode>,
    pub messages: BTreeMap<MessageKey, Kept>,
    pub horizons: BTreeMap<AgentAddr, u64>,
    pub numbers: BTreeMap<(AgentAddr, AgentAddr), Numbers>,
    pub rooms: BTreeMap<RoomKey, KnownRoom>,
    /// The node's latest life, written before its first frame leaves, and what is known of those before.
    pub lives: Option<(Incarnation, Past)>,
}

impl Platter {
    /// A life begins; answers what is known of those before.
    pub fn begin_life(&mut self, incarnation: u64) -> Option<Past> {
        let incarnation = Incarnation(incarnation);
        let past = self.lives.take().map(|(last, past)| past.then(last));
        self.lives = Some((incarnation, past.clone().unwrap_or_else(|| Past::new(incarnation))));
        past
    }

    /// Answers the message that it changes, as it is now.
    fn apply(&mut self, record: Record) -> Option<Changed> {
        match record {
            Record::Agent(state) => {
                self.transient.remove(&state.agent);
                self.agents.insert(state.agent.clone(), state);
            }
            Record::Transient(state) => {
                self.transient.insert(state.agent.clone());
                self.agents.insert(state.agent.clone(), state);
            }
            Record::Forget(agent) => {
                self.agents.remove(&agent);
                self.transient.remove(&agent);
            }
            Record::Elsewhere(node, news) => self.elsewhere.entry(node).or_default().note(&news),
            Record::Keep(kept) => {
                let key = kept.key.clone();
                let before = self.messages.insert(key.clone(), *kept).map(|before| before.state);
                return self.changed(key, before);
            }
            Record::Change(key, change) => {
                let kept = self.messages.get_mut(&key)?;
                let before = kept.state;
                kept.place = change.place;
                kept.state = change.state;
                kept.reason = change.reason;
                kept.other = change.other;
                kept.told = change.told;
                if matches!(change.place, Place::Handed | Place::Ended) {
                    kept.payload = Bytes::new();
                }
                return self.changed(key, Some(before));
            }
            Record::Erase(key) => drop(self.messages.remove(&key)),
            Record::Horizon(sender, sent_ms) => drop(self.horizons.insert(sender, sent_ms)),
            Record::RoomKeep(ref key, _) | Record::RoomFloor(ref key, ..) | Record::RoomGone(ref key) => {
                self.rooms.entry(key.clone()).or_default().note(&record);
            }
            Record::Past(past) => {
                if let Some(lives) = &mut self.lives {
                    lives.1 = past;
                }
            }
            Record::Numbers(numbers) => {
                drop(self.numbers.insert((numbers.from.clone(), numbers.to.clone()), numbers));
            }
        }
        None
    }

    fn changed(&self, key: MessageKey, before: Option<State>) -> Option<Changed> {
        let kept = self.messages.get(&key)?;
        let (place, state) = (kept.place, kept.state);
        let overwritten = before.filter(|before| before.is_end() && *before != state);
        Some(Changed { key, place, state, told: kept.told, overwritten })
    }
}

/// A message as it was on the platter at some time.
pub struct Changed {
    pub key: MessageKey,
    pub place: Place,
    pub state: State,
    /// Its sender was there to be told.
    pub told: bool,
    /// Another end that was written before.
    pub overwritten: Option<State>,
}

/// Whether a node that has this can still bring the message to its recipient.
pub fn has_it_whole(kept: &Kept) -> bool {
    matches!(kept.place, Place::Mailbox | Place::Outbox | Place::Copy)
}

/// What a finished write says.
pub struct Written {
    pub tickets: Vec<Ticket>,
    /// Messages whose record changed, one after the other.
    pub changed: Vec<Changed>,
    /// It failed, and nothing of it is on the platter.
    pub failed: bool,
}

#[derive(Debug, Default)]
pub struct Disk {
    pub platter: Platter,
    /// Given, and not fsynced yet.
    waiting: VecDeque<(Ticket, Record)>,
    /// How many of them the write under way covers.
    batch: usize,
    pub full_until: Us,
    pub slow_until: Us,
    /// How long an fsync takes at best.
    pub fsync: Us,
}

impl Disk {
    pub fn new(fsync: Us) -> Disk {
        Disk { fsync, ..Disk::default() }
    }

    pub fn give(&mut self, ticket: Ticket, record: Record) {
        self.waiting.push_back((ticket, record));
    }

    /// Whether something was given to it that is not written.
    #[allow(dead_code)] // For the simulation of the whole stack.
    pub fn is_at_work(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Begins a write of all that waits, unless one is under way; answers how long it takes.
    pub fn begin(&mut self, now: Us, rng: &mut Rng) -> Option<Us> {
        if self.batch > 0 || self.waiting.is_empty() {
            return None;
        }
        self.batch = self.waiting.len();
        let slow = if now < self.slow_until { 200 } else { 1 };
        Some(self.fsync * slow + rng.below(self.fsync * 2 * slow))
    }

    pub fn finish(&mut self, now: Us) -> Written {
        let batch: Vec<_> = self.waiting.drain(..self.batch).collect();
        self.batch = 0;
        let failed = now < self.full_until;
        let mut written = Written { tickets: Vec::new(), changed: Vec::new(), failed };
        for (ticket, record) in batch {
            written.tickets.push(ticket);
            if !failed {
                written.changed.extend(self.platter.apply(record));
            }
        }
        written
    }

    /// The power goes: of what was not fsynced a beginning of any length is there all the same. Answers the messages
    /// that it touches and how many records are gone.
    pub fn lose_power(&mut self, rng: &mut Rng) -> (Vec<Changed>, usize) {
        let kept = rng.index(self.waiting.len() + 1);
        self.lose_power_keeping(kept)
    }

    pub fn lose_power_keeping(&mut self, kept: usize) -> (Vec<Changed>, usize) {
        self.batch = 0;
        let lost = self.waiting.len() - kept;
        let survivors: Vec<_> = self.waiting.drain(..).take(kept).collect();
        let changed = survivors.into_iter().filter_map(|(_, record)| self.platter.apply(record)).collect();
        (changed, lost)
    }

    /// What a node is told at its start.
    pub fn memory(&self) -> Memory {
        let mut messages: Vec<Kept> = self.platter.messages.values().cloned().collect();
        messages.sort_by_key(|kept| kept.order);
        for kept in &mut messages {
            if matches!(kept.place, Place::Handed | Place::Ended | Place::Dead) {
                kept.payload = Bytes::new();
            }
        }
        let agents = self.platter.agents.values().cloned().collect();
        let horizons = self.platter.horizons.iter().map(|(sender, ms)| (sender.clone(), *ms)).collect();
        let numbers = self.platter.numbers.values().cloned().collect();
        let rooms = self.platter.rooms.clone();
        let (elsewhere, transient) = (self.platter.elsewhere.clone(), self.platter.transient.clone());
        Memory { agents, transient, elsewhere, messages, horizons, numbers, rooms }
    }
}
