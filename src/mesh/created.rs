//! Agents that a message with `create` has made and as whom nobody has registered. They are no more than what waits for
//! them: without that they are forgotten, and there are so few of them that whoever registers finds room.

use std::collections::{BTreeMap, BTreeSet};

use super::Mesh;
use super::directory::MAX_AGENTS;
use crate::wire::close::{Code, Refusal};
use crate::wire::frame::{AgentState, Presence};
use crate::wire::ids::{AgentAddr, Namespace};

/// When such an agent registered last: before all who have.
pub(super) const NEVER_MS: u64 = 1;
/// Most of them at a node.
const MAX_CREATED: usize = MAX_AGENTS / 2;

/// Those of this node, by namespace; no empty ones.
#[derive(Debug, Default)]
pub(super) struct Created {
    of: BTreeMap<Namespace, BTreeSet<AgentAddr>>,
    count: usize,
}

impl Created {
    /// This node was restarted, and knew these.
    pub(super) fn known<'a>(agents: impl Iterator<Item = &'a AgentState>) -> Created {
        let mut created = Created::default();
        agents.for_each(|state| created.note(&AgentState { presence: Presence::Away, ..state.clone() }));
        created
    }

    /// An agent of this node has changed.
    pub(super) fn note(&mut self, state: &AgentState) {
        let (agent, namespace) = (&state.agent, &state.agent.namespace);
        if state.registered_ms == NEVER_MS && state.presence == Presence::Away {
            let added = self.of.entry(namespace.clone()).or_default().insert(agent.clone());
            self.count += usize::from(added);
        } else if let Some(agents) = self.of.get_mut(namespace) {
            self.count -= usize::from(agents.remove(agent));
            if agents.is_empty() {
                self.of.remove(namespace);
            }
        }
    }

    fn of(&self, namespace: &Namespace) -> usize {
        self.of.get(namespace).map_or(0, BTreeSet::len)
    }
}

impl Mesh {
    /// Whether a message may make one more.
    pub(super) fn check_created(&self, state: &AgentState) -> Result<(), Refusal> {
        let (node, namespace) = (&self.config.node, &state.agent.namespace);
        let (of, most) = (self.created.of(namespace), self.config.limits.created_agents);
        let full = if of >= most {
            format!(
                "namespace {namespace} has {of} at node {node}, as many as [limits] created_agents lets a namespace have"
            )
        } else if self.created.count >= MAX_CREATED {
            format!("node {node} has {MAX_CREATED} of them, as many as a node may")
        } else if !self.directory.has_room_for(state) {
            format!("node {node} has all the agents it can hold")
        } else {
            return Ok(());
        };
        let agent = &state.agent;
        let message =
            format!("create: no agent {agent} has registered, and no more are made for messages: {full}");
        Err(Refusal::new(Code::Unavailable, message))
    }

    /// Forgets those for whom nothing waits, as far as is known here: what waits elsewhere makes them anew.
    pub(super) fn forget_created(&mut self) {
        if !self.remembers_all() {
            return;
        }
        let idle = |agent: &&AgentAddr| self.has_no_mail(agent) && !self.sessions.is_registering(agent);
        let idle: Vec<AgentAddr> = self.created.of.values().flatten().filter(idle).cloned().collect();
        for agent in idle {
            if let Some(state) = self.directory.own(&agent).cloned() {
                self.forget_agent(state);
            }
        }
    }
}
