//! One node of a test, and what its disk has.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::super::super::*;
use super::Disk;
use crate::wire::envelope::MessageKey;
use crate::wire::frame::AgentState;
use crate::wire::ids::AgentAddr;
use crate::wire::record::{Kept, KnownNode, KnownRoom, Numbers, Past, Place};
use crate::wire::room::RoomKey;

pub(super) struct Machine {
    pub(super) mesh: Mesh,
    pub(super) disk: Disk,
    pub(super) records: Vec<(Ticket, Record)>,
    /// What is on its disk.
    pub(super) memory: BTreeMap<MessageKey, Kept>,
    pub(super) agents: BTreeMap<AgentAddr, AgentState>,
    pub(super) transient: BTreeSet<AgentAddr>,
    pub(super) elsewhere: BTreeMap<NodeName, KnownNode>,
    pub(super) numbers: BTreeMap<(AgentAddr, AgentAddr), Numbers>,
    pub(super) rooms: BTreeMap<RoomKey, KnownRoom>,
    pub(super) past: Option<Past>,
    /// Answers calls.
    pub(super) answers: bool,
}

impl Machine {
    pub(super) fn on_disk(&self) -> Memory {
        let mut messages: Vec<Kept> = self.memory.values().cloned().collect();
        messages.sort_by_key(|kept| kept.order);
        let agents = self.agents.values().cloned().collect();
        let numbers = self.numbers.values().cloned().collect();
        let rooms = self.rooms.clone();
        let (elsewhere, transient) = (self.elsewhere.clone(), self.transient.clone());
        Memory { agents, transient, elsewhere, messages, horizons: Vec::new(), numbers, rooms }
    }

    pub(super) fn write(&mut self, record: &Record) {
        match record {
            Record::Agent(state) | Record::Transient(state) => {
                self.transient.remove(&state.agent);
                self.agents.insert(state.agent.clone(), state.clone());
                if matches!(record, Record::Transient(_)) {
                    self.transient.insert(state.agent.clone());
                }
            }
            Record::Forget(agent) => {
                self.agents.remove(agent);
                self.transient.remove(agent);
            }
            Record::Elsewhere(node, news) => self.elsewhere.entry(node.clone()).or_default().note(news),
            Record::Keep(kept) => drop(self.memory.insert(kept.key.clone(), (**kept).clone())),
            Record::Erase(key) => drop(self.memory.remove(key)),
            Record::Horizon(..) => {}
            Record::RoomKeep(key, _) | Record::RoomFloor(key, ..) | Record::RoomGone(key) => {
                self.rooms.entry(key.clone()).or_default().note(record);
            }
            Record::Past(past) => self.past = Some(past.clone()),
            Record::Numbers(numbers) => {
                let pair = (numbers.from.clone(), numbers.to.clone());
                drop(self.numbers.insert(pair, numbers.clone()));
            }
            Record::Change(key, change) => {
                let Some(kept) = self.memory.get_mut(key) else { return };
                (kept.place, kept.state, kept.reason) = (change.place, change.state, change.reason.clone());
                (kept.other, kept.told) = (change.other.clone(), change.told);
                if matches!(change.place, Place::Handed | Place::Ended) {
                    kept.payload = Bytes::new();
                }
            }
        }
    }
}
