//! Links over real sockets: one suite for every carrier, then peers that do not keep to the protocol.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod carriers;
mod datagrams;
mod dials;
mod early;
mod ends;
mod lanes;
#[cfg(target_os = "linux")]
mod offload;
mod replaced;
mod resumed;
mod rude_peers;
mod silent;
mod twice;
