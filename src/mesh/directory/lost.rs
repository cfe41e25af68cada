//! Agents of a node whose disk was lost: the others remember them, and tell it.

use std::collections::BTreeMap;

use super::{Directory, MAX_AGENTS, MAX_LIST_BYTES, bytes_of};
use crate::mesh::created::NEVER_MS;
use crate::mesh::topology::MAX_NODES;
use crate::wire::frame::{AgentState, Agents, Presence, Remembers};
use crate::wire::ids::{AgentAddr, Incarnation, NodeName};

/// How often a node is told of agents that it has lost: every ten seconds, until it has them.
const MAX_TOLD: u32 = 60;

impl Directory {
    /// A node says since when its list lacks nobody for want of memory.
    pub fn note_memory(&mut self, Remembers { origin, incarnation, since }: Remembers) {
        let known = self.memories.get(&origin).map(|(life, _)| *life);
        let room = known.is_some() || self.memories.len() < MAX_NODES;
        if origin != self.me && room && known <= Some(incarnation) {
            self.memories.insert(origin, (incarnation, since));
        }
    }

    /// What a life of another node said of that.
    pub fn remembers_since(&self, node: &NodeName, incarnation: Incarnation) -> Option<Incarnation> {
        self.memories.get(node).filter(|(life, _)| *life == incarnation).map(|(_, since)| *since)
    }

    /// Agents that are not in a node's list any more, and registered before what that node can remember: they are away, and
    /// what comes for them waits. Their node is told of them.
    pub(super) fn keep_what_was_lost(&mut self, node: &NodeName, before: &BTreeMap<AgentAddr, AgentState>) {
        let life = self.version(node).0;
        let Some(since) = self.remembers_since(node, life) else { return };
        // Nobody ever registered as those that a message has made: another one makes them again.
        let lost = |state: &AgentState| state.registered_ms > NEVER_MS && state.registered_ms < since.0;
        for state in before.values().filter(|state| lost(state)) {
            if self.is_newer_elsewhere(node, state) {
                continue;
            }
            let Some(list) = self.lists.get(node) else { return };
            let room = list.agents.len() < MAX_AGENTS && list.bytes + bytes_of(state) <= MAX_LIST_BYTES;
            if room && !list.agents.contains_key(&state.agent) {
                self.set(node, AgentState { presence: Presence::Away, ..state.clone() });
                if let Some(list) = self.lists.get_mut(node) {
                    list.forgotten.insert(state.agent.clone());
                }
            }
        }
    }

    /// Whether an agent has registered at another node since.
    pub fn is_newer_elsewhere(&self, node: &NodeName, state: &AgentState) -> bool {
        let mut others = self.everywhere(&state.agent).filter(|(other, _)| *other != node);
        others.any(|(_, other)| other.registered_ms > state.registered_ms)
    }

    /// What a node is to be told of its own agents. One that has no room for them is not told for ever.
    pub fn lost_at(&mut self, node: &NodeName) -> Option<Agents> {
        let list = self.lists.get_mut(node).filter(|list| !list.forgotten.is_empty())?;
        if list.told >= MAX_TOLD {
            return None;
        }
        list.told += 1;
        let agents = list.forgotten.iter().filter_map(|agent| list.agents.get(agent)).cloned().collect();
        let (incarnation, version) = (list.incarnation, list.version);
        Some(Agents { origin: node.clone(), incarnation, base: None, version, agents })
    }
}
