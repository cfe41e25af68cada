//! What every driver stands on. No other module spawns a task, reads a clock or makes a queue between tasks.
//!
//! | file | what is in it |
//! |---|---|
//! | [`clock`] | the one clock: monotonic, wall, and for TLS |
//! | [`tasks`] | supervised tasks, and bounded sets of them |
//! | [`queue`] | queues between tasks: bounded, named, counted |
//! | [`accept`] | connections of a listener, each in a task of its own |
//! | [`message`] | one message on a stream of bytes |
//! | [`backoff`], [`random`] | how long to wait before another try |
//! | [`gone`] | whether the process at the other end of a QUIC connection is there at all |
//! | [`places`] | several that would do: which to try, and when to go back to a better one |
//! | [`wake`] | that the machine has slept, or is on another network |
//! | [`signals`], [`sdnotify`] | what the system asks of a process, and what it is told |
//! | [`logging`] | the log |
//! | [`platform`] | what differs between Linux and macOS |

pub mod accept;
pub mod backoff;
pub mod clock;
pub mod gone;
pub mod logging;
pub mod message;
pub mod places;
pub mod platform;
pub mod queue;
pub mod random;
pub mod sdnotify;
pub mod signals;
pub mod tasks;
pub mod wake;
