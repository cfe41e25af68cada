//! The real programs on machines that move: network namespaces joined by the emulator of `tests/wan`. Narrow paths, IPv6
//! only, new addresses, sleep, loss, changing weather, ways round, and peers that are not there.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::print_stderr, reason = "figures that are reported")]

#[path = "../it/harness.rs"]
#[allow(dead_code, reason = "what else it has is for machines on loopback")]
mod harness;

mod clock;
mod dead;
mod firewall;
mod flow;
mod ipv6;
mod moves;
mod offline;
mod place;
mod ports;
mod round;
mod sockets;
mod steady;
mod weather;
mod wss;
