//! The whole stack in virtual time: real node tasks, real links, real quinn and rustls, over a simulated
//! network. A minute passes in seconds, and the same seed gives the same minute.
//!
//! | file | what is in it |
//! |---|---|
//! | `net` | datagrams with delay, loss and partitions, and the trace of them all |
//! | `net/stream` | streams of bytes on the same network, as TCP gives them |
//! | `streams` | what is asked of those |
//! | `edge` | what passes other machines' streams on to a node where UDP is blocked |
//! | `pki` | identities, made once, with signatures of one length |
//! | `node` | a node as the daemon runs it: endpoint, accept loop, diallers, an entrance |
//! | `agents` | clients that ask and answer live, and the book of every message |
//! | `scenario` | a run from beginning to end, and what came of it |
//! | `partition`, `restart` | what is asked of live messages |
//! | `early` | links that come back with early data |
//! | `store` | a disk with a writer: delay, groups, refusal, loss of power |
//! | `town` | clients of durable messages, which outlive the nodes |
//! | `ledger` | what they sent, were told and got, and what must hold of it |
//! | `blocked` | links that change their carrier under load |
//! | `udp` | what is done to datagrams while streams pass |
//! | `durable` | runs with durable messages: crashes, partitions, blocked UDP, disks that fail |
//!
//! `SIM_SEEDS=200 cargo test --test sim` tries 200 other seeds; `SIM_SEED=1007 cargo test --test sim replay -- --nocapture`
//! runs one with durable messages again and shows what clients did.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod agents;
mod blocked;
// The model of a disk is that of the histories; not all of it is needed here.
#[allow(dead_code)]
#[path = "../history/clock.rs"]
mod clock;
#[allow(dead_code)]
#[path = "../history/disk.rs"]
mod disk;
mod durable;
mod early;
mod edge;
mod ledger;
mod net;
mod node;
mod partition;
mod pki;
mod restart;
#[allow(dead_code)]
#[path = "../history/rng.rs"]
mod rng;
mod scenario;
mod store;
mod streams;
mod town;
mod udp;
