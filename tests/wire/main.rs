//! The wire format: what is written can be read, today's frames by tomorrow's release, and nothing that a peer
//! sends does harm.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod any;
mod client_vectors;
mod frames;
mod golden;
mod rooms;
mod samples;
