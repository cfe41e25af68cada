//! Trishula: a real-time message mesh for agents. This is the map of the library.
//!
//! | module | what it is for | may use |
//! |---|---|---|
//! | [`wire`] | bytes ↔ types: ids, envelope, frames, client frames, close codes. Pure | nothing |
//! | [`identity`] | the mesh's CA, certificates, TLS configurations, revocation, tickets | `wire` |
//! | [`config`] | file < environment < flags; every fault with its place | `wire`, `rt` |
//! | [`admin`] | the admin socket, health and metrics of a node | `wire`, `node`, `rt`, `metrics` |
//! | [`daemon`] | the node as a process: everything in the right order, once | everything |
//! | [`cli`] | the command line | everything |
//! | [`gateway`] | entrances for clients: tokens, sessions, the hub that joins them with their node | `wire`, `link`, `rt`, `metrics` |
//! | [`client`] | the client of native agents, of tools and of tests | `wire`, `rt` |
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod admin;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod gateway;
pub mod identity;
pub mod link;
pub mod mesh;
pub mod metrics;
pub mod node;
pub mod rt;
pub mod store;
pub mod wire;
