//! What clients connect to: the bare server, or our edge with its node.
use crate::process::{Process, Usage};
use std::path::PathBuf;

/// A server that runs. Dropping it ends its processes.
pub struct Server {
    /// On loopback.
    pub port: u16,
    /// What signs the tokens of clients, where they need one: they speak our protocol then.
    pub secret: Option<PathBuf>,
    /// The process at which clients are.
    pub entrance: Process,
    /// The one behind it.
    pub node: Option<Process>,
}

impl Server {
    /// Of both processes, as they are now.
    pub fn usage(&self) -> [Option<Usage>; 2] {
        [self.entrance.usage(), self.node.as_ref().and_then(Process::usage)]
    }
}
