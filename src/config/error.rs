//! Why a configuration is not taken.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::suggest;

/// The first fault of a configuration. Says where it is, what is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file can't be read at all.
    #[error("{path}: cannot be read: {why}; {remedy}", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// Something in the file.
    #[error("{path}:{line}:{column}: {why}", path = path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
        /// The dotted key, as far as there is one.
        key: Option<String>,
        /// What is wrong, what is allowed, what to do.
        why: String,
    },
    /// Something in the environment.
    #[error("environment variable {variable}: {why}")]
    Variable {
        /// Its name.
        variable: String,
        /// What is wrong, what is allowed, what to do.
        why: String,
    },
    /// Something on the command line.
    #[error("the command line's {key}: {why}")]
    Flag {
        /// The dotted key that the flag sets.
        key: String,
        /// What is wrong, what is allowed, what to do.
        why: String,
    },
    /// Each value is good, but they don't go together.
    #[error("{path}: {key}: {why}", path = path.display())]
    Together {
        /// Which file.
        path: PathBuf,
        /// The key to change.
        key: String,
        /// What is wrong and what to do.
        why: String,
    },
}

impl Error {
    pub(super) fn unreadable(path: &Path, error: &io::Error) -> Error {
        let remedy = match error.kind() {
            io::ErrorKind::NotFound => {
                "make one with `trishula init` or `trishula join`, or say where it is with --config FILE"
            }
            io::ErrorKind::PermissionDenied => "run this as the user that the service runs as, or with sudo",
            io::ErrorKind::InvalidData => "it must be UTF-8 text",
            _ => "say where it is with --config FILE",
        };
        Error::Unreadable { path: path.into(), why: error.to_string(), remedy: remedy.into() }
    }

    /// What is wrong, without where.
    pub fn why(&self) -> &str {
        match self {
            Error::Unreadable { why, .. }
            | Error::File { why, .. }
            | Error::Variable { why, .. }
            | Error::Flag { why, .. }
            | Error::Together { why, .. } => why,
        }
    }
}

/// Line and column, both from 1, of a byte in a text.
pub(super) fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Says in our words what serde said in its own. `key` is the dotted key that the fault is at.
pub(super) fn explain(message: &str, key: Option<&str>) -> String {
    let message = message.trim_end();
    if let Some((field, expected)) = parse_unknown(message, "unknown field") {
        return unknown_key(&field, &expected, key);
    }
    if let Some((given, expected)) = parse_unknown(message, "unknown variant") {
        let near = did_you_mean(&given, &expected);
        let key = key.unwrap_or("this");
        return format!("{key} cannot be {given:?}{near}; allowed are {}", expected.join(", "));
    }
    if let Some(field) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        return match key {
            Some(section) => {
                format!("{section}.{field} is missing; add the line `{field} = …` to {}", header(section))
            }
            None => format!("the section [{field}] is missing; add it, see deploy/node.toml for an example"),
        };
    }
    let remedy = match message.rsplit_once("expected ").map_or(message, |(_, wanted)| wanted) {
        "a sequence" => ": a list, such as [\"a\", \"b\"]",
        "a boolean" => ": true or false, without quotes",
        "a string" => ": text in quotes",
        "u8" | "u16" | "u32" | "u64" | "usize" => ": a whole number, 0 or more, without quotes",
        "invalid socket address syntax" => {
            "; write IP:PORT, such as 0.0.0.0:8765 (every address of this machine)"
        }
        "invalid IP address syntax" => "; write it in numbers, such as 192.0.2.7 or 2001:db8::7",
        _ => "",
    };
    match key {
        Some(key) => format!("{key}: {message}{remedy}"),
        None => format!("{message}{remedy}"),
    }
}

/// How a section is written in the file: of a list, each has two brackets.
fn header(section: &str) -> String {
    let names: Vec<&str> = section.split('.').map(|name| name.split('[').next().unwrap_or(name)).collect();
    let name = names.join(".");
    if section.ends_with(']') { format!("[[{name}]]") } else { format!("[{name}]") }
}

fn unknown_key(field: &str, expected: &[String], key: Option<&str>) -> String {
    let near = did_you_mean(field, expected);
    // The key ends in the unknown field itself.
    let section = key.and_then(|key| key.rsplit_once('.')).map(|(section, _)| section);
    match section {
        Some(section) => {
            let header = header(section);
            format!("unknown key {section}.{field}{near}; {header} may hold {}", expected.join(", "))
        }
        None => format!("unknown section [{field}]{near}; there may be {}", expected.join(", ")),
    }
}

fn did_you_mean(given: &str, allowed: &[String]) -> String {
    suggest::nearest(given, allowed).map_or_else(String::new, |near| format!(" (did you mean {near:?}?)"))
}

/// Takes serde's ``unknown field `a`, expected one of `b`, `c` `` apart (`serde::de::Error::unknown_field`).
fn parse_unknown(message: &str, what: &str) -> Option<(String, Vec<String>)> {
    let rest = message.strip_prefix(what)?.trim_start().strip_prefix('`')?;
    let (given, rest) = rest.split_once('`')?;
    let expected = rest.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    Some((given.to_owned(), expected))
}

/// Where a span lies in several texts, one behind the other, each followed by one byte of nothing.
pub(super) fn within(span: &Range<usize>, starts: &[usize]) -> usize {
    starts.partition_point(|start| *start <= span.start).saturating_sub(1)
}
