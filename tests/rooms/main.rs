//! Rooms under every fault that we know of: the real core, the real frames and the real account of an entrance, on a
//! simulated network, disk and clock, all from one seed and in one thread. A plain model checks that each reader got each
//! accepted publish exactly once, those of one origin in their order, or was told that something is missing.
//!
//! | file | what is in it |
//! |---|---|
//! | `world` | machines, wires, and the loop that lets time pass |
//! | `faults` | what is done to them |
//! | `gate` | entrances and their sessions |
//! | `client` | what readers and publishers do |
//! | `model` | what was accepted and what readers got, and nothing of how |
//! | `scenario` | a run from beginning to end |
//! | `sabotage` | faults planted on purpose, each of which must be found |
//!
//! `SEEDS=100000 cargo test --test rooms` runs more of them; `SEED=123 cargo test --test rooms replay -- --nocapture` runs one
//! again and shows its steps.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod client;
#[allow(dead_code, reason = "shared with tests/history")]
#[path = "../history/clock.rs"]
mod clock;
#[allow(dead_code, reason = "shared with tests/history")]
#[path = "../history/disk.rs"]
mod disk;
mod faults;
mod gate;
mod model;
#[allow(dead_code, reason = "shared with tests/history")]
#[path = "../history/rng.rs"]
mod rng;
mod sabotage;
mod scenario;
mod world;
