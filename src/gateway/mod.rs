//! Entrances for clients.
//!
//! | file | what is in it |
//! |---|---|
//! | [`auth`] | tokens, and what an identity may do |
//! | [`secret`] | the secret that signs tokens |
//! | [`enrol`] | the way in for a machine with a ticket |
//! | [`hub`] | the one task of a process that joins its sessions with the link to their node |
//! | [`readers`] | what sessions have subscribed to, and how far each has read |
//! | [`rules`] | who may do what in which room |
//! | [`carrier`] | what a session needs of a connection, whatever carries it |
//! | [`session`] | one client's life |
//! | [`native`] | sessions over a stream: QUIC for native agents, a Unix socket for tools on the machine |

pub mod auth;
pub mod carrier;
pub mod enrol;
pub mod hub;
pub mod native;
pub mod readers;
pub mod rules;
pub mod secret;
pub mod session;

#[cfg(test)]
pub(crate) mod testing;
