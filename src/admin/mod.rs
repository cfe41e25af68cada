//! The operator's way into a running node.
//!
//! | file | what is in it |
//! |---|---|
//! | [`protocol`] | what the command line and the node say to each other |
//! | [`socket`] | the node's side: a Unix socket |
//! | [`client`] | the command line's side |
//! | [`http`] | `/health` and `/metrics`, on loopback |

pub mod client;
pub mod http;
pub mod protocol;
pub mod socket;
