//! Trishula: a real-time message mesh for agents. This is the map of the library.
//!
//! | module | what it is for | may use |
//! |---|---|---|
//! | [`wire`] | bytes ↔ types: ids, envelope, frames, client frames, close codes. Pure | – |
//! | [`mesh`] | the core: members, routes, agents, sessions, delivery, calls. Pure | `wire` |
//! | [`identity`] | the mesh's CA, certificates, TLS configurations, revocation, tickets | `wire` |
//! | [`metrics`] | every metric, in one file | – |
//! | [`rt`] | the one clock, supervised tasks, bounded queues, connections, back-off, signals, the log | `metrics` |
//! | [`store`] | the disk: one writer thread, one SQLite file, group commit | `wire`, `rt`, `metrics` |
//! | [`link`] | one connection to a peer: QUIC, Unix socket or memory; lanes; dialling | `wire`, `identity`, `rt`, `metrics` |
//! | [`gateway`] | entrances for clients: tokens, sessions, the hub that joins them with their node | `wire`, `link`, `identity`, `rt`, `metrics`; enrolment also `node` |
//! | [`client`] | the client of native agents, of tools and of tests | `wire`, `rt` |
//! | [`node`] | the one task that owns the mesh, and what executes its outputs | `wire`, `mesh`, `link`, `store`, `identity`, `rt`, `metrics` |
//! | [`admin`] | the admin socket, health and metrics of a node | `wire`, `node`, `identity`, `rt`, `metrics` |
//! | [`config`] | file < environment < flags; every fault with its place | `wire`, `rt` |
//! | [`daemon`] | the node as a process: everything in the right order, once | all but `client` and `cli` |
//! | [`cli`] | the command line | `daemon`, `config`, `client`, `admin`, `node`, `gateway`, `store`, `identity`, `rt`, `wire` |
//!
//! A message's way through them, and the reasons, are in `ARCHITECTURE.md`; a test holds the last column. **A new
//! entrance for clients** is a [`gateway::carrier::Carrier`], handed to [`gateway::session::serve`].
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
