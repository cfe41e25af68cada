//! `[log]`: the same section in both programs' files.

use serde::{Deserialize, Deserializer, de};

/// `[log]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,trishula::mesh=debug`.
    #[serde(deserialize_with = "level")]
    pub level: String,
    /// How a line is written.
    pub format: LogFormat,
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
        Self { level: "info".into(), format: LogFormat::Text }
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
