//! Keeps a dialler for every node that there is an address of: those of the configuration, and those that
//! the mesh tells of. A machine that joins later so gets its links without a change anywhere else. Once a second it looks
//! whether each of them is linked or being dialled.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::vigil::{self, Vigil};
use crate::link::dial::{self, Connected, Pulse, Target};
use crate::link::quic::Local;
use crate::link::wss::Outward;
use crate::mesh::topology::MAX_NODES;
use crate::node::Addresses;
use crate::rt::tasks;
use crate::wire::ids::NodeName;
use crate::wire::url::WSS;

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
    /// To dial other machines' edges from.
    pub outward: Arc<Outward>,
}

impl Peers {
    /// Starts the task.
    pub fn start(self) -> tasks::Task {
        tasks::spawn("daemon.peers", self.run())
    }

    async fn run(mut self) {
        let mut dialling: BTreeMap<NodeName, Dialling> = BTreeMap::new();
        let mut looks = interval(vigil::LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let heard = self.heard.borrow_and_update().clone();
            let mut wanted = together(heard, self.configured.clone());
            wanted.remove(&self.me);
            for (name, addresses) in wanted.into_iter().take(MAX_NODES) {
                // A change of addresses is for the next attempt: dropping the old dialler would drop its link.
                let known = dialling.get(&name).is_some_and(|before| before.addresses == addresses);
                let linked = self.connected.borrow().contains(&name);
                if known || (linked && dialling.contains_key(&name)) {
                    continue;
                }
                let begun = self.dial(&name, addresses);
                dialling.insert(name, begun);
            }
            tokio::select! {
                changed = self.heard.changed() => if changed.is_err() { return },
                changed = self.connected.changed() => if changed.is_err() { return },
                _ = looks.tick() => self.look(&mut dialling),
            }
        }
    }

    fn dial(&self, name: &NodeName, addresses: Vec<String>) -> Dialling {
        let pulse = Pulse::default();
        let task = dial::keep_with_fallback(
            self.local.clone(),
            self.endpoint.clone(),
            Target { name: Some(name.clone()), addresses: addresses.clone() },
            self.connected.clone(),
            Some((self.outward.clone(), pulse.clone())),
        );
        Dialling { addresses, pulse, vigil: Vigil::default(), _task: task }
    }

    /// Each of them is linked or being dialled, or is dialled anew.
    fn look(&self, dialling: &mut BTreeMap<NodeName, Dialling>) {
        let (mut down, mut quiet) = (0, 0);
        for (name, peer) in dialling.iter_mut() {
            let linked = self.connected.borrow().contains(name);
            down += usize::from(!linked);
            if peer.vigil.look(linked, &peer.pulse) {
                tracing::error!(peer = %name, "there was no link and nobody dialled; it is dialled anew. Please report this");
                *peer = self.dial(name, std::mem::take(&mut peer.addresses));
            }
            quiet = quiet.max(peer.vigil.quiet());
        }
        vigil::show(down, quiet);
    }
}

/// A node that a link is kept to.
struct Dialling {
    addresses: Vec<String>,
    pulse: Pulse,
    vigil: Vigil,
    _task: tasks::Task,
}

/// Of each kind of address the configured ones win: who configures only where a node is, still takes the word of that
/// node for where its edge is.
fn together(mut heard: Addresses, configured: Addresses) -> Addresses {
    for (name, mut addresses) in configured {
        let told = heard.remove(&name).unwrap_or_default();
        let has = |fallback| addresses.iter().any(|address| address.starts_with(WSS) == fallback);
        let (direct, fallback) = (has(false), has(true));
        addresses.extend(told.into_iter().filter(|a| if a.starts_with(WSS) { !fallback } else { !direct }));
        heard.insert(name, addresses);
    }
    heard
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_configured_wins_over_what_is_heard_for_each_kind_of_address() {
        // covers Q01
        let all = |list: &[(&str, &[&str])]| -> Addresses {
            let owned = |addresses: &[&str]| addresses.iter().map(|a| (*a).to_owned()).collect();
            list.iter().map(|(name, addresses)| (NodeName::new(name).unwrap(), owned(addresses))).collect()
        };
        let heard = all(&[
            ("agni", &["192.0.2.1:1", "wss://192.0.2.1:443/mesh"]),
            ("dc", &["192.0.2.2:1", "wss://192.0.2.2:443/mesh"]),
            ("rushabdev", &["192.0.2.3:1"]),
        ]);
        let configured = all(&[("agni", &["192.0.2.9:9"]), ("dc", &["wss://192.0.2.8:443/mesh"])]);
        let wanted = all(&[
            ("agni", &["192.0.2.9:9", "wss://192.0.2.1:443/mesh"]),
            ("dc", &["wss://192.0.2.8:443/mesh", "192.0.2.2:1"]),
            ("rushabdev", &["192.0.2.3:1"]),
        ]);
        assert_eq!(together(heard, configured), wanted);
    }
}
