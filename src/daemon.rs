//! The node as a process: everything in the right order, once.

pub mod authority;
mod register;

use crate::config::node::NodeConfig;

/// Why the node ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not there yet.
    #[error("the node cannot run yet")]
    Missing,
}

/// Runs the node until it is told to stop.
pub async fn run(_config: NodeConfig) -> Result<(), Error> {
    Err(Error::Missing)
}
