//! What is logged, in the configuration of every program.

use serde::{Deserialize, Deserializer, de};

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
