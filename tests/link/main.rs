//! Links over real sockets: one suite for every carrier, then peers that do not keep to the protocol.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod carriers;
mod early;
mod ends;
mod lanes;
mod rude_peers;
