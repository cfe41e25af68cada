//! The only place that writes to the terminal: answers to stdout, everything else to stderr.

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde::Serialize;

/// Longer than this without an answer, and the user is told what is waited for.
const SILENCE: Duration = Duration::from_secs(1);

/// Nobody reads our answers any more (`| head`): whoever did has what he wanted, so it is no failure.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output")]
pub struct ReaderGone;

/// One line of an answer.
pub fn line(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let written =
        out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => ReaderGone.into(),
        _ => anyhow::Error::new(error).context("cannot write the answer to stdout"),
    })
}

/// An answer for programs: one JSON document, indented for people.
pub fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Columns as wide as their widest cell; the last one is not padded. Without rows there is the heading only.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> anyhow::Result<()> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(heading.get(column).map(|h| h.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let heading: Vec<String> = heading.iter().map(|h| h.to_uppercase()).collect();
    for row in std::iter::once(&heading).chain(rows) {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        line(padded.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// Something the user should know that is not the answer.
pub fn note(text: &str) {
    // Nobody reads stderr any more: then nobody misses it.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Why it did not work.
pub fn error(error: &anyhow::Error) {
    note(&format!("trishula: {}", explain(error)));
}

/// An error with its causes, each said once: many of our errors repeat their cause, as they also go to the log.
pub fn explain(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| match cause.to_string() {
        cause if said.contains(&cause) => said,
        cause if said.is_empty() => cause,
        cause => format!("{said}: {cause}"),
    })
}

/// Waits for some work; after a second it says on stderr what for, and after that how long already.
pub async fn progress<T>(what: impl AsRef<str>, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let mut waited = Duration::ZERO;
    let terminal = io::stderr().is_terminal();
    loop {
        let step = if terminal || waited.is_zero() { SILENCE } else { SILENCE * 10 };
        match tokio::time::timeout(step, &mut work).await {
            Ok(done) => {
                if terminal && !waited.is_zero() {
                    let _ = write!(io::stderr(), "\r\x1b[K");
                }
                return done;
            }
            Err(_) => waited += step,
        }
        let shown = format!("{} … {} s", what.as_ref(), waited.as_secs());
        if terminal {
            let _ = write!(io::stderr(), "\r\x1b[K{shown}");
        } else {
            note(&shown);
        }
    }
}
