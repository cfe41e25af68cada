//! The whole stack in virtual time: real node tasks, real links, real quinn and rustls, over a simulated
//! network. A minute passes in seconds, and the same seed gives the same minute.
//!
//! | file | what is in it |
//! |---|---|
//! | `net` | datagrams with delay, loss and partitions, and the trace of them all |
//! | `pki` | identities, made once, with signatures of one length |
//! | `node` | a node as the daemon runs it: endpoint, accept loop, diallers, an entrance |
//! | `agents` | clients that ask and answer, and the book of every message |
//! | `scenario` | a run from beginning to end, and what came of it |

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod agents;
mod net;
mod node;
mod partition;
mod pki;
mod restart;
mod scenario;
