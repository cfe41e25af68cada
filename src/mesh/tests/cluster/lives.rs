//! Lives of nodes: what is on their disks, and starting again with that or with something else.

use super::{Cluster, node};
use crate::wire::ids::Incarnation;
use crate::wire::record::{Memory, Past};

impl Cluster {
    pub fn life(&self, name: &str) -> Incarnation {
        self.mesh(name).config.incarnation
    }

    /// A copy of what a node has on disk, with what that knows of the node's lives.
    pub fn backup(&self, name: &str) -> (Past, Memory) {
        let machine = &self.machines[&node(name)];
        let life = machine.mesh.config.incarnation;
        let past = machine.past.clone().or_else(|| machine.mesh.config.past.clone());
        (past.unwrap_or_else(|| Past::new(life)).then(life), machine.on_disk())
    }

    /// Starts a node with a copy instead of what it has on disk.
    pub fn restore(&mut self, name: &str, (past, memory): (Past, Memory)) {
        let mut config = self.machines[&node(name)].mesh.config.clone();
        config.past = Some(past);
        config.incarnation.0 += 1;
        self.boot(config, memory);
    }

    /// Starts a node again with what it has on disk.
    pub fn restart(&mut self, name: &str) {
        let backup = self.backup(name);
        self.restore(name, backup);
    }
}
