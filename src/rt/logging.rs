//! The log: text for people, or one JSON object a line (T21), on standard error or in a file of its own.

mod file;

use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

pub use file::{Error, Rotation};

/// By which the filter is changed while the process runs.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();
/// The file that the log goes to, if it does.
static FILE: OnceLock<file::Lines> = OnceLock::new();

/// A log that was started. When this is dropped, what waits for its file is written: to be held until the process ends.
#[derive(Debug, Default)]
#[must_use = "what waits for the file is lost when the process ends without dropping this"]
pub struct Running {
    _file: Option<file::Running>,
}

/// Starts the log of this process, in a file if there is one. `filter` was checked by the configuration; should it be wrong
/// all the same, `info` is used.
///
/// # Errors
///
/// The file can't be written, or not be rotated; says what to do.
pub fn start(filter: &str, json: bool, file: Option<&Rotation>) -> Result<Running, Error> {
    let Some(rotation) = file else {
        init(filter, json);
        return Ok(Running::default());
    };
    let (lines, running) = file::open(rotation)?;
    let each = lines.clone();
    if subscribe(filter, json, BoxMakeWriter::new(move || each.clone()), false) {
        let _ = FILE.set(lines);
    }
    Ok(Running { _file: Some(running) })
}

/// The same on standard error.
pub fn init(filter: &str, json: bool) {
    // Colours are for people at a terminal (https://no-color.org).
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    subscribe(filter, json, BoxMakeWriter::new(io::stderr), colours);
}

/// Goes by another filter from now on.
pub fn set_filter(filter: &str) {
    if let Some(handle) = FILTER.get() {
        // It fails only when the log is gone.
        let _ = handle.modify(|now| *now = targets(filter));
    }
}

/// Looks at once whether the log's file was moved or cut, and goes on in one of its name. Without this that is noticed within a
/// second.
pub fn reopen() {
    if let Some(lines) = FILE.get() {
        lines.look();
    }
}

/// Whether this is the log now: a second start in one process (tests) keeps the first one.
fn subscribe(filter: &str, json: bool, to: BoxMakeWriter, colours: bool) -> bool {
    let (filter, handle) = reload::Layer::new(targets(filter));
    let text = fmt::layer().with_writer(to).with_ansi(colours).with_target(false);
    let started = if json {
        tracing_subscriber::registry().with(text.json().flatten_event(true).with_filter(filter)).try_init()
    } else {
        tracing_subscriber::registry().with(text.with_filter(filter)).try_init()
    };
    if started.is_ok() {
        let _ = FILTER.set(handle);
    }
    started.is_ok()
}

fn targets(filter: &str) -> Targets {
    filter.parse().unwrap_or_else(|_| Targets::new().with_default(tracing::Level::INFO))
}
