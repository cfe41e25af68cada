//! The core without a runtime: whole clusters of it in one thread, in virtual time.

mod agents;
mod broadcasts;
mod calls;
mod clock;
pub(in crate::mesh) mod cluster;
mod copies;
mod durable;
mod early;
mod elsewhere;
mod forgotten;
mod forming;
mod hostile;
mod letters;
mod limits;
mod loops;
mod marks;
mod messages;
mod moves;
mod numbers;
mod parting;
mod rollback;
mod shares;
mod silence;
mod takeover;
mod transient;
