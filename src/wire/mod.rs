//! Bytes ↔ types. Pure: no socket, no disk, no clock, no random source, and no other module of ours.
//!
//! | file | what is in it |
//! |---|---|
//! | [`ids`] | names and numbers, each a type of its own, checked where they enter |

pub mod ids;
