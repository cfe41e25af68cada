//! What the mesh looks like from this node, for `status` and `agents`: a copy, taken when asked for.

use std::collections::BTreeMap;

use super::{Mesh, Role, Time};
use crate::wire::frame::AgentState;
use crate::wire::ids::{Incarnation, LinkId, Namespace, NodeName};

/// Everything that `status` shows.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Every node that is known, this one first, the others by name.
    pub nodes: Vec<NodeView>,
    /// Links of this node.
    pub links: Vec<LinkView>,
    /// Agents connected in the whole mesh; one that is connected at two nodes counts at both.
    pub agents_online: usize,
    /// Agents that are known.
    pub agents_known: usize,
    /// Number of the revocation list in force; 0: none.
    pub revocation_list: u64,
}

/// One node.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// Which.
    pub node: NodeName,
    /// Its life.
    pub incarnation: Incarnation,
    /// Whether a way leads there.
    pub reachable: bool,
    /// The neighbour that messages to it go to first.
    pub next_hop: Option<NodeName>,
    /// Round trip along the way, in microseconds.
    pub rtt_us: Option<u64>,
    /// Agents connected there.
    pub agents_online: usize,
    /// Whether it holds the key of the mesh CA.
    pub holds_ca: bool,
}

/// One link.
#[derive(Debug, Clone)]
pub struct LinkView {
    /// The driver's number for it.
    pub link: LinkId,
    /// The peer's machine.
    pub peer: NodeName,
    /// What it is to us.
    pub role: Role,
    /// Whether we dialled.
    pub dialled: bool,
    /// Smoothed round trip in microseconds; 0: not measured.
    pub rtt_us: u32,
    /// By how much the peer's wall clock is ahead of ours, in milliseconds; `None`: not measured.
    pub skew_ms: Option<f64>,
    /// When it came up.
    pub up_since: Time,
    /// Sessions behind it.
    pub sessions: usize,
}

impl Mesh {
    /// Takes the copy.
    pub fn snapshot(&self) -> Snapshot {
        let me = &self.config.node;
        let mut nodes: Vec<NodeView> =
            self.topology.all().map(|state| self.node_view(&state.origin)).collect();
        nodes.sort_by_key(|view| (view.node != *me, view.node.clone()));
        Snapshot {
            links: self.links.keys().filter_map(|id| self.link_view(*id)).collect(),
            agents_online: self.agents_online(),
            agents_known: self.directory.agents(None).count(),
            revocation_list: self.revocations.as_ref().map_or(0, |(number, _)| *number),
            nodes,
        }
    }

    /// The agents of a namespace, or of all, each with its home.
    pub fn agents_seen(&self, namespace: Option<&Namespace>) -> Vec<(NodeName, AgentState)> {
        let agents = self.directory.agents(namespace);
        agents.map(|(node, state)| (node.clone(), self.seen_from_here(node, state))).collect()
    }

    /// Where every other node says that it can be dialled.
    pub fn addresses(&self) -> BTreeMap<NodeName, Vec<String>> {
        let others = self.topology.all().filter(|state| state.origin != self.config.node);
        let dialable = others.filter(|state| !state.addresses.is_empty());
        dialable.map(|state| (state.origin.clone(), state.addresses.clone())).collect()
    }

    /// Agents connected in the whole mesh, as far as this node can reach them; one that is connected at two nodes counts at
    /// both. It is asked for often, and walks nodes, not agents.
    pub fn agents_online(&self) -> usize {
        let there = self.directory.others().filter(|node| self.topology.route(node).is_some());
        there.chain([&self.config.node]).map(|node| self.directory.online_at(node)).sum()
    }

    fn node_view(&self, node: &NodeName) -> NodeView {
        let state = self.topology.announced(node);
        let route = self.topology.route(node);
        NodeView {
            node: node.clone(),
            incarnation: state.map_or(Incarnation(0), |state| state.incarnation),
            reachable: route.is_some() || *node == self.config.node,
            next_hop: route.map(|route| route.next.clone()),
            rtt_us: route.map(|route| route.rtt_us),
            agents_online: self.directory.online_at(node),
            holds_ca: state.is_some_and(|state| state.holds_ca),
        }
    }

    /// By how much the wall clock of each node that there is a link to is ahead of ours, in milliseconds.
    pub fn skews(&self) -> Vec<(NodeName, f64)> {
        let links = self.neighbours.iter().filter_map(|(node, id)| Some((node, self.links.get(id)?)));
        links.filter_map(|(node, link)| Some((node.clone(), link.skew_ms?))).collect()
    }

    fn link_view(&self, id: LinkId) -> Option<LinkView> {
        let link = self.links.get(&id)?;
        Some(LinkView {
            link: id,
            peer: link.peer.clone(),
            role: link.role,
            dialled: link.dialled,
            rtt_us: link.rtt_us,
            skew_ms: link.skew_ms,
            up_since: link.up_since,
            sessions: link.sessions.len(),
        })
    }
}
