//! Which agents there are, and where each one's home is: every node's list, as it announces it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Time;
use super::topology::MAX_NODES;
use crate::wire::frame::{AgentState, Agents, Presence};
use crate::wire::ids::{AgentAddr, Incarnation, Namespace, NodeName};
use crate::wire::record::{Elsewhere, KnownNode};

mod lost;

/// Agents that one node may have …
pub const MAX_AGENTS: usize = 20_000;
/// … and the bytes that they may take: the whole list must fit into one frame's head ([`MAX_HEAD`]).
///
/// [`MAX_HEAD`]: crate::wire::frame::MAX_HEAD
pub const MAX_LIST_BYTES: usize = 3 << 20;

/// That a node is in reach is written so often, in milliseconds: once a day.
const HEARD_EVERY_MS: u64 = 24 * 3600 * 1000;

/// One node's list.
#[derive(Debug, Default)]
struct List {
    incarnation: Incarnation,
    version: u64,
    agents: BTreeMap<AgentAddr, AgentState>,
    /// What they take in a frame, at most.
    bytes: usize,
    /// When its node was in reach, in milliseconds of the wall clock; brought up to date once a day.
    heard_ms: u64,
    /// Since when its node is not in reach, as far as this life of this node knows.
    lost: Option<Time>,
    /// Its agents were forgotten, as it stayed away for too long.
    aged_out: bool,
    /// Agents of its that it has lost with what it remembered.
    forgotten: BTreeSet<AgentAddr>,
    /// How often this life of it was told of those.
    told: u32,
}

/// What is to be done about another node's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Nothing.
    Well,
    /// Its node is in reach: that is to be written once a day.
    Heard,
    /// It has been out of reach for too long: its agents are to be forgotten.
    Over,
}

/// What an agent takes in a frame, at most.
pub(super) fn bytes_of(state: &AgentState) -> usize {
    let names = state.agent.namespace.as_str().len() + state.agent.name.as_str().len();
    let capabilities: usize = state.capabilities.iter().map(|capability| capability.len() + 2).sum();
    32 + names + capabilities
}

/// What came of an announcement.
#[derive(Debug, PartialEq, Eq)]
pub enum Learned {
    /// It was newer: pass it on. These agents changed.
    News(Vec<AgentAddr>),
    /// It is known already.
    Old,
    /// Something between is missing: ask for the whole list.
    Gap,
}

/// Everybody's lists, and an index of them by agent.
#[derive(Debug)]
pub struct Directory {
    me: NodeName,
    lists: BTreeMap<NodeName, List>,
    homes: BTreeMap<AgentAddr, BTreeSet<NodeName>>,
    /// How many agents of a namespace are connected at each node; no zeros.
    online: BTreeMap<Namespace, BTreeMap<NodeName, usize>>,
    /// Agents of this node that are away, with the wall clock in milliseconds since when; `None`: not asked for yet.
    away_since: BTreeMap<AgentAddr, Option<u64>>,
    /// Agents of other nodes of which the disk does not have the latest yet.
    unwritten: BTreeSet<(NodeName, AgentAddr)>,
    /// Since when other nodes remember their agents, by what a life of theirs said.
    memories: BTreeMap<NodeName, (Incarnation, Incarnation)>,
}

impl Directory {
    /// Starts with the agents that this node knew before it was restarted, its own and others'; nobody is connected.
    pub fn new(
        me: NodeName,
        incarnation: Incarnation,
        known: Vec<AgentState>,
        elsewhere: BTreeMap<NodeName, KnownNode>,
    ) -> Directory {
        let mut directory = Directory {
            me: me.clone(),
            lists: BTreeMap::new(),
            homes: BTreeMap::new(),
            online: BTreeMap::new(),
            away_since: BTreeMap::new(),
            unwritten: BTreeSet::new(),
            memories: BTreeMap::new(),
        };
        let list = List { incarnation, version: 1, ..List::default() };
        directory.lists.insert(me.clone(), list);
        for mut state in known.into_iter().take(MAX_AGENTS) {
            state.presence = Presence::Away;
            directory.set(&me, state);
        }
        let others = elsewhere.into_iter().filter(|(node, _)| *node != me);
        for (node, KnownNode { heard_ms, agents }) in others.take(MAX_NODES - 1) {
            // Its version is older than any that it announces: whatever is heard of it replaces this.
            directory.lists.insert(node.clone(), List { heard_ms, ..List::default() });
            for mut state in agents.into_values().take(MAX_AGENTS) {
                state.presence = Presence::Away;
                directory.set(&node, state);
            }
        }
        directory
    }

    /// Changes an agent of this node; answers what to announce.
    pub fn change(&mut self, state: AgentState) -> Option<Agents> {
        let me = self.me.clone();
        let list = self.lists.get_mut(&me)?;
        let base = list.version;
        list.version += 1;
        let news = Agents {
            origin: me.clone(),
            incarnation: list.incarnation,
            base: Some(base),
            version: list.version,
            agents: vec![state.clone()],
        };
        self.set(&me, state);
        Some(news)
    }

    /// Takes another node's announcement.
    pub fn learn(&mut self, news: Agents) -> Learned {
        if news.origin == self.me || news.agents.len() > MAX_AGENTS {
            return Learned::Old;
        }
        if self.lists.len() >= MAX_NODES && !self.lists.contains_key(&news.origin) && !self.make_room() {
            return Learned::Old;
        }
        let have = self.lists.get(&news.origin).map_or((Incarnation(0), 0), |l| (l.incarnation, l.version));
        if have >= (news.incarnation, news.version) {
            return Learned::Old;
        }
        if !self.keeps_bounds(&news) {
            return Learned::Old;
        }
        let before = match news.base {
            Some(base) if have != (news.incarnation, base) => return Learned::Gap,
            Some(_) => self.as_known(&news.origin, &news.agents),
            None => self.clear(&news.origin),
        };
        let list = self.lists.entry(news.origin.clone()).or_default();
        list.aged_out = false;
        list.incarnation = news.incarnation;
        list.version = news.version;
        let mut changed: BTreeSet<AgentAddr> = before.keys().cloned().collect();
        for state in news.agents {
            changed.insert(state.agent.clone());
            self.set(&news.origin, state);
        }
        if news.base.is_none() {
            self.keep_what_was_lost(&news.origin, &before);
        }
        self.note_unwritten(&news.origin, &before, &changed);
        Learned::News(changed.into_iter().collect())
    }

    /// What is known of these agents of a node.
    fn as_known(&self, node: &NodeName, agents: &[AgentState]) -> BTreeMap<AgentAddr, AgentState> {
        let Some(list) = self.lists.get(node) else { return BTreeMap::new() };
        let known = agents.iter().filter_map(|state| list.agents.get(&state.agent));
        known.map(|state| (state.agent.clone(), state.clone())).collect()
    }

    /// What is kept of an agent on disk has changed; whether it is connected is not kept.
    fn note_unwritten(
        &mut self,
        node: &NodeName,
        before: &BTreeMap<AgentAddr, AgentState>,
        changed: &BTreeSet<AgentAddr>,
    ) {
        let kept = |state: &AgentState| AgentState { presence: Presence::Away, ..state.clone() };
        for agent in changed {
            let now = self.lists.get(node).and_then(|list| list.agents.get(agent));
            if before.get(agent).map(kept) != now.map(kept) {
                self.unwritten.insert((node.clone(), agent.clone()));
            }
        }
    }

    /// Some of what the disk does not have yet, at most so many; it counts as given to the disk.
    pub fn to_write(&mut self, most: usize) -> Vec<(NodeName, Elsewhere)> {
        let mut news = Vec::new();
        while news.len() < most
            && let Some((node, agent)) = self.unwritten.pop_first()
        {
            let state = self.lists.get(&node).and_then(|list| list.agents.get(&agent));
            let what = state.map_or(Elsewhere::Forget(agent), |state| Elsewhere::Agent(state.clone()));
            news.push((node, what));
        }
        news
    }

    /// The disk refused it.
    pub fn not_written(&mut self, node: NodeName, agent: AgentAddr) {
        if self.lists.contains_key(&node) {
            self.unwritten.insert((node, agent));
        }
    }

    /// A new node needs the room of one of which nothing was heard in this life; `false`: there is none.
    fn make_room(&mut self) -> bool {
        let unheard = |(node, list): &(&NodeName, &List)| {
            **node != self.me && (list.incarnation.0 == 0 || list.aged_out)
        };
        let Some(node) = self.lists.iter().find(unheard).map(|(node, _)| node.clone()) else { return false };
        self.unwritten.extend(self.agents_of(&node).into_iter().map(|agent| (node.clone(), agent)));
        self.clear(&node);
        self.lists.remove(&node);
        self.memories.remove(&node);
        true
    }

    fn agents_of(&self, node: &NodeName) -> Vec<AgentAddr> {
        self.lists.get(node).map(|list| list.agents.keys().cloned().collect()).unwrap_or_default()
    }

    /// Every other node of which there is a list.
    pub fn others(&self) -> impl Iterator<Item = &NodeName> {
        self.lists.keys().filter(|node| **node != self.me)
    }

    /// Looks after another node's list; `wall_ms` is the wall clock, and `limits` are the longest time out of reach by
    /// that clock, in milliseconds, and the shortest by the other one, which stands still while a machine sleeps.
    pub fn look_after(
        &mut self,
        node: &NodeName,
        in_reach: bool,
        (now, wall_ms): (Time, u64),
        limits: (u64, Duration),
    ) -> Look {
        let Some(list) = self.lists.get_mut(node) else { return Look::Well };
        if in_reach && list.aged_out {
            // It is back: its list is asked for, whether it has changed or not.
            (list.aged_out, list.incarnation, list.version) = (false, Incarnation(0), 0);
        }
        if in_reach || list.heard_ms == 0 {
            list.lost = None;
            if wall_ms.saturating_sub(list.heard_ms) < HEARD_EVERY_MS {
                return Look::Well;
            }
            list.heard_ms = wall_ms;
            return Look::Heard;
        }
        let lost = *list.lost.get_or_insert(now);
        let over = wall_ms.saturating_sub(list.heard_ms) > limits.0 && now.since(lost) >= limits.1;
        if over && !list.aged_out { Look::Over } else { Look::Well }
    }

    /// Forgets the agents of a node that is gone; answers them. Its version stays: others may still tell of the same list.
    pub fn age_out(&mut self, node: &NodeName) -> Vec<AgentAddr> {
        let agents = self.clear(node).into_keys().collect();
        if let Some(list) = self.lists.get_mut(node) {
            list.aged_out = true;
        }
        self.unwritten.retain(|(of, _)| of != node);
        agents
    }

    /// Whether a node's list would still be one that fits into a frame: it is passed on whole to whoever lacks it, and
    /// a frame that a peer must refuse costs the link to it.
    fn keeps_bounds(&self, news: &Agents) -> bool {
        let list = self.lists.get(&news.origin).filter(|_| news.base.is_some());
        let (mut count, mut bytes) = list.map_or((0, 0), |list| (list.agents.len(), list.bytes));
        for state in news.agents.iter().filter(|state| state.presence != Presence::Gone) {
            let before = list.and_then(|list| list.agents.get(&state.agent));
            count += usize::from(before.is_none());
            bytes = bytes + bytes_of(state) - before.map_or(0, bytes_of);
        }
        count <= MAX_AGENTS && bytes <= MAX_LIST_BYTES
    }

    /// Forgets a node and all its agents.
    pub fn forget(&mut self, node: &NodeName) {
        self.clear(node);
        self.lists.remove(node);
        self.memories.remove(node);
        self.unwritten.retain(|(of, _)| of != node);
    }

    /// The whole list of a node, to hand to a peer that lacks it.
    pub fn whole(&self, node: &NodeName) -> Option<Agents> {
        // What an earlier life of this node knew is news to nobody.
        let list = self.lists.get(node).filter(|list| list.incarnation.0 > 0)?;
        Some(Agents {
            origin: node.clone(),
            incarnation: list.incarnation,
            base: None,
            version: list.version,
            agents: list.agents.values().cloned().collect(),
        })
    }

    /// The newest version of a node's list that is known.
    pub fn version(&self, node: &NodeName) -> (Incarnation, u64) {
        self.lists.get(node).map_or((Incarnation(0), 0), |list| (list.incarnation, list.version))
    }

    /// An agent as this node itself has it.
    pub fn own(&self, agent: &AgentAddr) -> Option<&AgentState> {
        self.lists.get(&self.me)?.agents.get(agent)
    }

    /// Whether this node has agents of other namespaces than this one.
    pub fn has_others(&self, namespace: &Namespace) -> bool {
        let Some(list) = self.lists.get(&self.me) else { return false };
        // They are in the order of their namespaces.
        let ends = [list.agents.first_key_value(), list.agents.last_key_value()];
        ends.into_iter().flatten().any(|(agent, _)| agent.namespace != *namespace)
    }

    /// When an agent registered at a node last, by that node's clock; 0: it is not known there.
    pub fn registered_at(&self, agent: &AgentAddr, node: &NodeName) -> u64 {
        let state = self.lists.get(node).and_then(|list| list.agents.get(agent));
        state.map_or(0, |state| state.registered_ms)
    }

    /// Whether this node can have this agent besides the others it has.
    pub fn has_room_for(&self, state: &AgentState) -> bool {
        let Some(list) = self.lists.get(&self.me) else { return false };
        let before = list.agents.get(&state.agent);
        let bytes = list.bytes - before.map_or(0, bytes_of) + bytes_of(state);
        (before.is_some() || list.agents.len() < MAX_AGENTS) && bytes <= MAX_LIST_BYTES
    }

    /// Agents of this node that have been away for so many milliseconds: since this was asked first after
    /// they left, or after this node started. How long ago they registered does not matter.
    pub fn own_away_for(&mut self, limit_ms: u64, wall_ms: u64) -> Vec<AgentAddr> {
        let since = self.away_since.iter_mut().map(|(agent, since)| (agent, *since.get_or_insert(wall_ms)));
        let over = since.filter(|(_, since)| wall_ms.saturating_sub(*since) > limit_ms);
        over.map(|(agent, _)| agent.clone()).collect()
    }

    /// An agent's home: where it is connected, or else was last; the newest registration wins.
    pub fn home(&self, agent: &AgentAddr) -> Option<(&NodeName, &AgentState)> {
        self.everywhere(agent)
            .max_by_key(|(node, state)| (state.presence == Presence::Online, state.registered_ms, *node))
    }

    /// Every node that has this agent.
    pub fn everywhere(&self, agent: &AgentAddr) -> impl Iterator<Item = (&NodeName, &AgentState)> {
        let nodes = self.homes.get(agent).into_iter().flatten();
        nodes.filter_map(|node| Some((node, self.lists.get(node)?.agents.get(agent)?)))
    }

    /// Every agent of a namespace (or of all) with its home, by name.
    pub fn agents(&self, namespace: Option<&Namespace>) -> impl Iterator<Item = (&NodeName, &AgentState)> {
        let wanted = move |agent: &&AgentAddr| namespace.is_none_or(|n| agent.namespace == *n);
        self.homes.keys().filter(wanted).filter_map(|agent| self.home(agent))
    }

    /// The nodes at which agents of a namespace are connected, by name; walks nodes, not agents.
    pub fn nodes_with(&self, namespace: &Namespace) -> impl Iterator<Item = &NodeName> {
        self.online.get(namespace).into_iter().flat_map(BTreeMap::keys)
    }

    /// Agents connected at a node; walks namespaces, not agents.
    pub fn online_at(&self, node: &NodeName) -> usize {
        self.online.values().filter_map(|nodes| nodes.get(node)).sum()
    }

    fn set(&mut self, node: &NodeName, state: AgentState) {
        if *node == self.me {
            self.note_away(&state);
        }
        let Some(list) = self.lists.get_mut(node) else { return };
        let agent = state.agent.clone();
        list.forgotten.remove(&agent);
        if state.presence == Presence::Gone {
            if let Some(old) = list.agents.remove(&agent) {
                list.bytes -= bytes_of(&old);
                self.unindex(node, &old);
            }
            return;
        }
        list.bytes += bytes_of(&state);
        let online = state.presence == Presence::Online;
        if let Some(old) = list.agents.insert(agent.clone(), state) {
            list.bytes -= bytes_of(&old);
            self.unindex(node, &old);
        }
        if online {
            let nodes = self.online.entry(agent.namespace.clone()).or_default();
            *nodes.entry(node.clone()).or_default() += 1;
        }
        self.homes.entry(agent).or_default().insert(node.clone());
    }

    fn note_away(&mut self, own: &AgentState) {
        if own.presence == Presence::Away {
            self.away_since.entry(own.agent.clone()).or_default();
        } else {
            self.away_since.remove(&own.agent);
        }
    }

    /// Takes what a node's list had of an agent out of the indexes.
    fn unindex(&mut self, node: &NodeName, old: &AgentState) {
        if let Some(nodes) = self.homes.get_mut(&old.agent) {
            nodes.remove(node);
            if nodes.is_empty() {
                self.homes.remove(&old.agent);
            }
        }
        let namespace = &old.agent.namespace;
        if old.presence == Presence::Online
            && let Some(nodes) = self.online.get_mut(namespace)
        {
            match nodes.get_mut(node) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(nodes.remove(node)),
            }
            if nodes.is_empty() {
                self.online.remove(namespace);
            }
        }
    }

    /// Empties a node's list; answers what was in it.
    fn clear(&mut self, node: &NodeName) -> BTreeMap<AgentAddr, AgentState> {
        let Some(list) = self.lists.get_mut(node) else { return BTreeMap::new() };
        list.bytes = 0;
        list.forgotten.clear();
        list.told = 0;
        let old = std::mem::take(&mut list.agents);
        old.values().for_each(|state| self.unindex(node, state));
        old
    }
}

#[cfg(test)]
mod tests;
