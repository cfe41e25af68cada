//! The log: text for people, or one JSON object a line (T21), on standard error.

use std::io::IsTerminal;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// Starts the log of this process. `filter` was checked by the configuration; should it be wrong all the
/// same, `info` is used.
pub fn init(filter: &str, json: bool) {
    let filter: Targets =
        filter.parse().unwrap_or_else(|_| Targets::new().with_default(tracing::Level::INFO));
    // Colours are for people at a terminal (https://no-color.org).
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let text = fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false);
    // A second start in one process (tests) keeps the first log.
    let _ = if json {
        tracing_subscriber::registry().with(text.json().flatten_event(true).with_filter(filter)).try_init()
    } else {
        tracing_subscriber::registry().with(text.with_filter(filter)).try_init()
    };
}
