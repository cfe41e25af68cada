//! Agents of other nodes, kept on disk: a node that starts while it is cut off still knows them, and takes messages for
//! them. They count as away until their node is heard, and then only what that one says is true, but for agents that it has
//! lost with its disk ([`super::directory`]).

use std::collections::BTreeMap;
use std::time::Duration;

use super::directory::Look;
use super::{FORGET_AFTER_MS, Mesh, Ticket};
use crate::wire::ids::{AgentAddr, NodeName};
use crate::wire::record::{Elsewhere, Record};

/// Rows that are given to the disk at one time: a large list must not keep messages waiting.
const ROWS_AT_ONCE: usize = 1000;
/// A node must have been out of reach for so long in this life of ours before it counts as gone: one that slept or was off
/// for weeks first gets its links back.
const LOST_FOR: Duration = Duration::from_secs(3600);

/// Rows that the disk has been asked for.
pub(super) type Noting = BTreeMap<Ticket, (NodeName, AgentAddr)>;

impl Mesh {
    /// Writes what has changed of other nodes' agents.
    pub(super) fn write_elsewhere(&mut self) {
        for (node, news) in self.directory.to_write(ROWS_AT_ONCE.saturating_sub(self.noting.len())) {
            let agent = match &news {
                Elsewhere::Agent(state) => state.agent.clone(),
                Elsewhere::Forget(agent) => agent.clone(),
                Elsewhere::Heard(_) | Elsewhere::Left => continue,
            };
            let ticket = self.persist(Record::Elsewhere(node.clone(), news));
            self.noting.insert(ticket, (node, agent));
        }
    }

    /// What came of it: what the disk refused is written again, as it is then.
    pub(super) fn elsewhere_persisted(&mut self, ticket: Ticket, failed: bool) {
        if let Some((node, agent)) = self.noting.remove(&ticket)
            && failed
        {
            self.directory.not_written(node, agent);
        }
    }

    /// Looks after what is known of other nodes: which are in reach, and which are gone for good.
    pub(super) fn look_after_others(&mut self) {
        let now = (self.now, self.wall_ms());
        for node in self.directory.others().cloned().collect::<Vec<_>>() {
            let in_reach = self.topology.route(&node).is_some();
            match self.directory.look_after(&node, in_reach, now, (FORGET_AFTER_MS, LOST_FOR)) {
                Look::Well => {}
                Look::Heard => drop(self.persist(Record::Elsewhere(node, Elsewhere::Heard(now.1)))),
                Look::Over => {
                    let agents = self.directory.age_out(&node);
                    self.persist(Record::Elsewhere(node, Elsewhere::Left));
                    self.rehome(&agents);
                }
            }
        }
        self.write_elsewhere();
    }

    /// A node was thrown out.
    pub(super) fn forget_node(&mut self, node: &NodeName) {
        self.directory.forget(node);
        self.forget_rooms_of(node);
        self.persist(Record::Elsewhere(node.clone(), Elsewhere::Left));
    }
}
