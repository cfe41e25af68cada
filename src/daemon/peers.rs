//! Keeps a dialler for every node that there is an address of: those of the configuration, and those that
//! the mesh tells of. A machine that joins later so gets its links without a change anywhere else.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::link::dial::{self, Connected, Target};
use crate::link::quic::Local;
use crate::mesh::topology::MAX_NODES;
use crate::node::Addresses;
use crate::rt::tasks;
use crate::wire::ids::NodeName;

/// What the task needs.
pub struct Peers {
    /// This node: never dialled.
    pub me: NodeName,
    /// Nodes of the configuration; their addresses win over what the mesh tells.
    pub configured: Addresses,
    /// What the mesh tells.
    pub heard: watch::Receiver<Addresses>,
    /// Nodes that there is a link to.
    pub connected: Connected,
    /// For the links.
    pub local: Arc<Local>,
    /// To dial from.
    pub endpoint: quinn::Endpoint,
}

impl Peers {
    /// Starts the task.
    pub fn start(self) -> tasks::Task {
        tasks::spawn("daemon.peers", self.run())
    }

    async fn run(mut self) {
        let mut dialling: BTreeMap<NodeName, (Vec<String>, tasks::Task)> = BTreeMap::new();
        loop {
            let mut wanted = self.heard.borrow_and_update().clone();
            wanted.extend(self.configured.clone());
            wanted.remove(&self.me);
            for (name, addresses) in wanted.into_iter().take(MAX_NODES) {
                // A change of addresses is for the next attempt: dropping the old dialler would drop its link.
                let known = dialling.get(&name).is_some_and(|(before, _)| *before == addresses);
                let linked = self.connected.borrow().contains(&name);
                if known || (linked && dialling.contains_key(&name)) {
                    continue;
                }
                let target = Target { name: Some(name.clone()), addresses: addresses.clone() };
                let task =
                    dial::keep(self.local.clone(), self.endpoint.clone(), target, self.connected.clone());
                dialling.insert(name, (addresses, task));
            }
            tokio::select! {
                changed = self.heard.changed() => if changed.is_err() { return },
                changed = self.connected.changed() => if changed.is_err() { return },
            }
        }
    }
}
