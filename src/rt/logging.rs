//! The log: text for people, or one JSON object a line (T21), on standard error.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

/// By which the filter is changed while the process runs.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Starts the log of this process. `filter` was checked by the configuration; should it be wrong all the
/// same, `info` is used.
pub fn init(filter: &str, json: bool) {
    let (filter, handle) = reload::Layer::new(targets(filter));
    // Colours are for people at a terminal (https://no-color.org).
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let text = fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false);
    // A second start in one process (tests) keeps the first log.
    let started = if json {
        tracing_subscriber::registry().with(text.json().flatten_event(true).with_filter(filter)).try_init()
    } else {
        tracing_subscriber::registry().with(text.with_filter(filter)).try_init()
    };
    if started.is_ok() {
        let _ = FILTER.set(handle);
    }
}

/// Goes by another filter from now on.
pub fn set_filter(filter: &str) {
    if let Some(handle) = FILTER.get() {
        // It fails only when the log is gone.
        let _ = handle.modify(|now| *now = targets(filter));
    }
}

fn targets(filter: &str) -> Targets {
    filter.parse().unwrap_or_else(|_| Targets::new().with_default(tracing::Level::INFO))
}
