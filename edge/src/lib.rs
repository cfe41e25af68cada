//! The edge: a front process that serves standard WebSocket clients and carries their frames to its node.
//! It holds no durable state; a crash of it loses connections, never an accepted message.
//!
//! | module | what is in it |
//! |---|---|
//! | [`cli`] | `trishula-edge run\|check` |
//! | [`config`] | the file `edge.toml` |
//! | [`prepare`] | what a configuration needs to run: secrets, certificates, identity, ports |
//! | [`taken`] | whose a port is that can't be taken |
//! | [`trust`] | secrets, public keys and revoked tokens, read again when their files change |
//! | [`print`](mod@print) | what the commands show; nothing else writes to the terminal |
//! | [`run`] | everything in the right order, once |
//! | [`listener`] | sockets, TLS, and the limits on both |
//! | [`front`] | proxies before us, TLS, pages, reload: what stands between a connection and its session |
//! | [`http`] | requests: upgrades, `/health`, `/metrics` |
//! | [`shown`] | what a request shows of its client: subprotocols, a token |
//! | [`relay`] | other nodes' connections, passed on to the own node |
//! | [`access`] | who may do what in which rooms |
//! | [`door`] | who comes in, and how others are refused |
//! | [`addresses`] | what is remembered of addresses |
//! | [`site`] | services that share a port |
//! | [`client`] | a client that came in: what it speaks, and its session |
//! | [`speech`] | what clients of a service speak |
//! | [`dialect`] | what old clients speak, translated |
//! | [`msgpack`] | frames as MessagePack |
//! | [`wss`] | a WebSocket as a session's carrier |
//! | [`deflate`] | compressed messages (permessage-deflate), as a filter below the WebSocket |
//! | [`echo`] | `/echo`: every message comes back as it came |
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod access;
pub mod addresses;
pub mod cli;
pub mod client;
pub mod config;
pub mod deflate;
pub mod dialect;
pub mod door;
pub mod echo;
pub mod front;
pub mod http;
pub mod listener;
pub mod msgpack;
pub mod prepare;
pub mod print;
pub mod relay;
pub mod run;
pub mod shown;
pub mod site;
pub mod speech;
pub mod stamp;
pub mod taken;
pub mod trust;
pub mod wss;
