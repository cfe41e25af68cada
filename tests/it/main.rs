//! The real programs, as real processes on loopback: nodes, edges, and clients that know nothing but WebSocket.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attacks;
mod bad_peers;
mod browser;
mod buddy;
mod chaos;
mod clients;
mod deflate;
mod durable;
mod early;
mod envelope;
mod failover;
mod fallback;
mod feed;
mod harness;
mod hostile;
mod membership;
mod production;
mod proxies;
mod python;
mod records;
mod rollback;
mod rooms;
mod services;
mod survival;
mod wss;
