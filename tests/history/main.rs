//! Histories of small clusters under every fault that we know of: the real core and the real frames, on a simulated
//! network, disk and clock, all from one seed and in one thread.
//!
//! | file | what is in it |
//! |---|---|
//! | `world`, `wires` | what there is, and the loop that lets time pass |
//! | `net` | wires: delay, order of a lane, what is under way is lost with them |
//! | `early` | connections that are resumed, and recordings of them that are sent again |
//! | `disk` | fsync by batch, loss of power, records that can't be read |
//! | `clock` | monotonic and wall clocks that are wrong, and sleep |
//! | `client`, `sender` | entrances, sessions, and what agents do |
//! | `faults` | what is done to all of them |
//! | `bounds` | limits that are reached, and kept |
//! | `extras` | agents that come late or unregister, and dead letters that are sent again |
//! | `model` | what senders were told and recipients got, and nothing of how |
//! | `invariants` | what must hold |
//! | `routes` | ways that lead from each node to each other one |
//! | `scenario` | a run from beginning to end |
//! | `runs` | many seeds, on all processors |
//! | `sabotage` | faults planted on purpose, each of which must be found |
//! | `directed` | histories that are told in words |
//! | `day`, `memory` | one of a whole day, and what nodes have in memory meanwhile |
//!
//! `SEEDS=100000 cargo test --test history` runs more of them, `FIRST=1000000` others;
//! `SEED=123 cargo test --test history replay -- --nocapture` runs one again and shows its last steps, and with
//! `ABOUT='"m7",m7 '` those about a message. `BROKEN=1000` goes on until so many seeds are broken; `IGNORE=word,word`
//! passes over findings with these words, to see what else there is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod bounds;
mod client;
mod clock;
mod day;
mod directed;
mod disk;
mod early;
mod extras;
mod faults;
mod invariants;
mod memory;
mod model;
mod net;
mod rng;
mod routes;
mod runs;
mod sabotage;
mod scenario;
mod sender;
mod trace;
mod wires;
mod world;
