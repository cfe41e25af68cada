//! What every driver stands on: the one clock, supervised tasks, bounded queues with names, back-off,
//! jitter and signals. No other module spawns a task, reads a clock or makes a channel between tasks.

pub mod backoff;
pub mod clock;
pub mod logging;
pub mod platform;
pub mod queue;
pub mod random;
pub mod sdnotify;
pub mod signals;
pub mod tasks;
