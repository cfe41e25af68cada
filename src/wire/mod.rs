//! Bytes ↔ types. Pure: no socket, no disk, no clock, no random source, and no other module of ours.
//!
//! | file | what is in it |
//! |---|---|
//! | [`ids`] | names and numbers, each a type of its own, checked where they enter |
//! | [`envelope`] | what travels: a typed head and an opaque payload |
//! | [`frame`] | the frames between nodes, and between an edge and its node |
//! | [`client`] | the JSON frames that clients send and get (docs/protocol.md) |
//! | [`close`] | why something is refused or closed |
//! | [`record`] | what a node has on disk |
//! | [`room`] | a place in a room: positions, vectors, cursors |
//! | [`stream`] | client frames on a stream of bytes |
//! | [`url`] | where a node can be reached when UDP is blocked |

pub mod client;
pub mod close;
pub mod envelope;
pub mod frame;
pub mod ids;
pub mod record;
pub mod room;
pub mod stream;
pub mod url;
