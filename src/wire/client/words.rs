//! What the files that agents exchanged before say in words: how urgent something is, and when it was written
//! (docs/protocol.md, section 2). Read here, and passed on as they were written.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Longest text of a time, in bytes.
const MAX_TIME: usize = 40;

/// When a message was written, in milliseconds since the epoch: from a number, or from text by RFC 3339.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timestamp(pub f64);

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Timestamp;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("milliseconds since 1970, or a time such as \"2026-01-01T00:00:00Z\"")
            }
            fn visit_f64<E>(self, ms: f64) -> Result<Timestamp, E> {
                Ok(Timestamp(ms))
            }
            fn visit_u64<E>(self, ms: u64) -> Result<Timestamp, E> {
                Ok(Timestamp(ms as f64))
            }
            fn visit_i64<E>(self, ms: i64) -> Result<Timestamp, E> {
                Ok(Timestamp(ms as f64))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
                written(text)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Other("text that is no time"), &self))
            }
        }
        from.deserialize_any(Visitor)
    }
}

/// The time that a text says; without an offset it is UTC.
fn written(text: &str) -> Option<Timestamp> {
    if text.len() > MAX_TIME {
        return None;
    }
    let read = |text: &str| OffsetDateTime::parse(text, &Rfc3339).ok();
    let at = read(text).or_else(|| read(&format!("{text}Z")))?;
    Some(Timestamp((at.unix_timestamp_nanos() / 1_000_000) as f64))
}

/// How urgent a message is: from a number, which need not be in bounds, or from a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Urgency(pub u8);

impl<'de> Deserialize<'de> for Urgency {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Urgency;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer from 1 to 5, or \"urgent\", \"high\", \"normal\", \"low\"")
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Urgency, E> {
                let bad = |_| E::invalid_value(de::Unexpected::Unsigned(number), &self);
                u8::try_from(number).map(Urgency).map_err(bad)
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<Urgency, E> {
                let known = [("urgent", 1), ("high", 2), ("normal", 3), ("low", 4)];
                let found = known.into_iter().find(|(known, _)| word.eq_ignore_ascii_case(known));
                let found = found.map(|(_, number)| Urgency(number));
                found.ok_or_else(|| {
                    E::invalid_value(de::Unexpected::Other("a word that is none of it"), &self)
                })
            }
        }
        from.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_numbers_and_as_text() {
        // covers T04, B19
        let of = |json: &str| serde_json::from_str::<Timestamp>(json).ok().map(|at| at.0);
        for json in [
            "1767225600000",
            "1767225600000.0",
            "\"2026-01-01T00:00:00Z\"",
            "\"2026-01-01T00:00:00\"",
            "\"2026-01-01T01:00:00.000123+01:00\"",
        ] {
            assert_eq!(of(json), Some(1_767_225_600_000.0), "{json}");
        }
        for json in
            ["null", "true", "\"\"", "\"yesterday\"", "\"2026-13-01T00:00:00Z\"", "\"1767225600000\"", "[]"]
        {
            assert_eq!(of(json), None, "{json}");
        }
        assert_eq!(of(&format!("\"2026-01-01T00:00:00.{}Z\"", "0".repeat(100))), None, "too long");
    }

    #[test]
    fn urgency_is_read_as_a_number_and_as_a_word() {
        // covers T04, B19
        let of = |json: &str| serde_json::from_str::<Urgency>(json).ok().map(|urgency| urgency.0);
        assert_eq!([of("1"), of("\"urgent\""), of("\"URGENT\""), of("\"high\"")], [1, 1, 1, 2].map(Some));
        assert_eq!([of("\"normal\""), of("\"low\""), of("9")], [3, 4, 9].map(Some));
        for json in ["\"x\"", "\"1\"", "-1", "256", "2.5", "true", "[]"] {
            assert_eq!(of(json), None, "{json}");
        }
    }
}
