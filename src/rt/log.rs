//! The process's log: lines on stderr, for people or as JSON.

use std::io;

use tracing_subscriber::EnvFilter;

/// Starts it. `level` is as in `[log] level`, checked when the configuration was read; a second call changes nothing.
pub fn init(level: &str, json: bool) {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // An error means that there is one already, as in tests.
    let _ = if json { lines.json().flatten_event(true).try_init() } else { lines.with_target(false).try_init() };
}
