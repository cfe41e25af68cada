//! What a test sees of a cluster: what clients got and were told, and what nodes know.

use std::collections::{BTreeMap, BTreeSet};

use super::{Client, Cluster, agent, node};
use crate::wire::close::{Code, Refusal};
use crate::wire::frame::{Deliver, Frame, Presence, Receipt};
use crate::wire::ids::SessionNo;

impl Cluster {
    /// What a client's session got.
    pub fn got(&self, client: &Client) -> Vec<&Frame> {
        let frames = self.inboxes.get(&client.link).into_iter().flatten();
        frames.filter(|frame| is_for(frame, client.session)).collect()
    }

    /// The ids of the messages that a client's session got.
    pub fn messages(&self, client: &Client) -> Vec<String> {
        let deliveries = self.got(client).into_iter().filter_map(|frame| match frame {
            Frame::Deliver(Deliver { head, .. }, _) => Some(head.id.to_string()),
            _ => None,
        });
        deliveries.collect()
    }

    /// What a client was told of its messages.
    pub fn told(&self, client: &Client) -> Vec<&Receipt> {
        let told = self.got(client).into_iter().filter_map(|frame| match frame {
            Frame::Told(_, receipt) => Some(receipt),
            _ => None,
        });
        told.collect()
    }

    /// The codes of the refusals that a client was told.
    pub fn refusals(&self, client: &Client) -> Vec<Code> {
        self.told(client).iter().filter_map(|receipt| Some(receipt.refusal.as_ref()?.code)).collect()
    }

    /// Why a client's session was ended by its node, if it was.
    pub fn evicted(&self, client: &Client) -> Option<&Refusal> {
        self.got(client).into_iter().find_map(|frame| match frame {
            Frame::Evict(_, refusal) => Some(refusal),
            _ => None,
        })
    }

    pub fn attached(&self, client: &Client) -> bool {
        self.got(client).iter().any(|frame| matches!(frame, Frame::Attached(..)))
    }

    /// Messages that went from a node to another, counted for each pair.
    pub fn forwards(&self) -> BTreeMap<(String, String), usize> {
        let mut count = BTreeMap::new();
        for sent in self.sent.iter().filter(|sent| matches!(sent.frame, Frame::Forward(..))) {
            let to = sent.to.as_ref().unwrap().to_string();
            *count.entry((sent.from.to_string(), to)).or_default() += 1;
        }
        count
    }

    /// The nodes that a node can reach.
    pub fn reachable(&self, name: &str) -> BTreeSet<String> {
        let nodes = self.mesh(name).snapshot().nodes;
        nodes.into_iter().filter(|view| view.reachable).map(|view| view.node.to_string()).collect()
    }

    /// The first neighbour on the way from one node to another.
    pub fn next_hop(&self, from: &str, to: &str) -> Option<String> {
        let nodes = self.mesh(from).snapshot().nodes;
        nodes.into_iter().find(|view| view.node == node(to))?.next_hop.map(|node| node.to_string())
    }

    /// Where an agent is, as a node sees it, and whether it is there now.
    pub fn home(&self, seen_from: &str, agent_name: &str) -> Option<(String, bool)> {
        let agents = self.mesh(seen_from).agents_seen(None);
        let (node, state) = agents.into_iter().find(|(_, state)| state.agent == agent(agent_name))?;
        Some((node.to_string(), state.presence == Presence::Online))
    }

    /// How many nodes have an agent.
    pub fn homes(&self, seen_from: &str, agent_name: &str) -> usize {
        self.mesh(seen_from).directory.everywhere(&agent(agent_name)).count()
    }
}

fn is_for(frame: &Frame, session: SessionNo) -> bool {
    match frame {
        Frame::Deliver(deliver, _) => deliver.to.iter().any(|handing| handing.session == session),
        Frame::Attached(no, _) | Frame::Evict(no, _) | Frame::Told(no, _) | Frame::AgentList(no, ..) => {
            *no == session
        }
        _ => false,
    }
}
