//! The core without a runtime: whole clusters of it in one thread, in virtual time.

mod agents;
mod calls;
mod cluster;
mod durable;
mod forming;
mod hostile;
mod messages;
