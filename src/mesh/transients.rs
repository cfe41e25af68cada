//! Agents that are forgotten with their last session: each connection of an older client is one, and nobody comes back under
//! its name. One whose entrance is lost is waited for: the entrance may attach its sessions again, here or elsewhere, and so it
//! does after a restart of this node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Mesh, Time};
use crate::wire::frame::Presence;
use crate::wire::ids::AgentAddr;

/// How long: entrances try to reach a node every five seconds at least.
const WAIT: Duration = Duration::from_secs(60);

/// Those of this node; it knows no more than [`MAX_AGENTS`](super::directory::MAX_AGENTS).
#[derive(Debug, Default)]
pub(super) struct Transients {
    /// Since when they are waited for; `None`: they are there.
    since: BTreeMap<AgentAddr, Option<Time>>,
}

impl Transients {
    /// This node was restarted, and knew these.
    pub(super) fn known(agents: BTreeSet<AgentAddr>, now: Time) -> Transients {
        Transients { since: agents.into_iter().map(|agent| (agent, Some(now))).collect() }
    }

    /// An agent is registered: what it said last counts.
    pub(super) fn note(&mut self, agent: &AgentAddr, transient: bool) {
        if transient {
            self.since.insert(agent.clone(), None);
        } else {
            self.since.remove(agent);
        }
    }

    /// The last of its sessions was lost.
    pub(super) fn wait_for(&mut self, agent: &AgentAddr, now: Time) {
        if let Some(since) = self.since.get_mut(agent) {
            *since = Some(now);
        }
    }

    pub(super) fn has(&self, agent: &AgentAddr) -> bool {
        self.since.contains_key(agent)
    }

    pub(super) fn is_away(&self, agent: &AgentAddr) -> bool {
        self.since.get(agent).is_some_and(Option::is_some)
    }

    pub(super) fn remove(&mut self, agent: &AgentAddr) {
        self.since.remove(agent);
    }

    fn over(&self, now: Time) -> Vec<AgentAddr> {
        let over = |since: &Option<Time>| since.is_some_and(|since| now.since(since) >= WAIT);
        self.since.iter().filter(|(_, since)| over(since)).map(|(agent, _)| agent.clone()).collect()
    }
}

impl Mesh {
    /// Forgets those that were waited for in vain. One for whom something waits may have been attached again at a node that can't
    /// be heard, and what waits for it would die: so it is waited for, no longer than for any agent that is away.
    pub(super) fn forget_transients(&mut self) {
        let over = self.transients.over(self.now);
        if over.is_empty() || !self.remembers_all() {
            return;
        }
        let dark = self.is_dark();
        for agent in over {
            if self.sessions.is_registering(&agent) || (dark && self.something_waits_for(&agent)) {
                continue;
            }
            let away = self.directory.own(&agent).filter(|own| own.presence == Presence::Away).cloned();
            match away {
                Some(state) => self.forget_agent(state),
                None => self.transients.remove(&agent),
            }
        }
    }
}
