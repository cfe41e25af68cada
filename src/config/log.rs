//! `[log]`: the same section in both programs' files.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, de};

use super::limits::range;
use crate::rt::logging::{self, Rotation, Running};

/// `[log]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,trishula::mesh=debug`.
    #[serde(deserialize_with = "level")]
    pub level: String,
    /// How a line is written.
    pub format: LogFormat,
    /// Where the lines go; `None`: to standard error.
    pub file: Option<PathBuf>,
    /// How large the file may get, in MiB; then it is renamed, and another one begun.
    #[serde(deserialize_with = "range::<1, 65_536, _>")]
    pub max_mib: u64,
    /// How many of those that were renamed stay.
    #[serde(deserialize_with = "range::<0, 1_000, _>")]
    pub keep: u64,
}

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for LogSection {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text, file: None, max_mib: 64, keep: 5 }
    }
}

impl LogSection {
    /// Starts the log of this process; what it answers is to be held until the process ends.
    ///
    /// # Errors
    ///
    /// The file can't be written, or not be rotated; says what to do.
    pub fn start(&self) -> Result<Running, logging::Error> {
        logging::start(&self.level, self.format == LogFormat::Json, self.rotation().as_ref())
    }

    /// The same without starting it: leaves nothing behind.
    ///
    /// # Errors
    ///
    /// As [`LogSection::start`].
    pub fn check(&self) -> Result<(), logging::Error> {
        self.rotation().map_or(Ok(()), |rotation| rotation.check())
    }

    fn rotation(&self) -> Option<Rotation> {
        let path = self.file.clone()?;
        Some(Rotation { path, max_bytes: self.max_mib << 20, keep: self.keep })
    }
}

/// For serde: checks that a text can be a log filter.
pub fn level<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    // A bare word that is no level would be taken for the name of a module, and silence everything else.
    let is_level = |word: &str| {
        let word = word.trim().to_ascii_lowercase();
        ["off", "error", "warn", "info", "debug", "trace"].contains(&word.as_str())
    };
    let given = String::deserialize(from)?;
    let is_directive = |part: &str| part.split_once('=').map_or_else(|| is_level(part), |(_, l)| is_level(l));
    if given.split(',').all(is_directive) && given.parse::<tracing_subscriber::filter::Targets>().is_ok() {
        return Ok(given);
    }
    Err(de::Error::custom(format!(
        "{given:?} is not a log level; allowed are off, error, warn, info, debug, trace, or a list such as \"info,trishula::mesh=debug\""
    )))
}
