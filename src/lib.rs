//! Trishula: a real-time message mesh for agents. This is the map of the library.
//!
//! | module | what it is for | may use |
//! |---|---|---|
//! | [`wire`] | bytes ↔ types: ids, envelope, frames, client frames, close codes. Pure | nothing |
//! | [`identity`] | the mesh's CA, certificates, TLS configurations, revocation, tickets | `wire` |
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod admin;
pub mod config;
pub mod daemon;
pub mod identity;
pub mod link;
pub mod metrics;
pub mod node;
pub mod rt;
pub mod wire;
