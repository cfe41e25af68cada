//! The envelope of nine keys, read and written. Both ends of old drop a frame in which one of them has another type.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use trishula::wire::client::check_depth;

use crate::dialect::ours;

/// Longest `id`, `correlation_id` and `event`, in bytes: they are kept and repeated.
const MAX_NAME: usize = 512;

/// `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Type {
    Request,
    Subscribe,
    Unsubscribe,
    Ping,
    Response,
    Event,
    Error,
    Pong,
    Ack,
}

/// A frame of the client's.
#[derive(Debug)]
pub(super) struct Envelope<'a> {
    pub(super) kind: Type,
    pub(super) event: Option<String>,
    id: Option<String>,
    correlation_id: Option<String>,
    data: Option<&'a RawValue>,
    room: Option<String>,
    channel: Option<String>,
}

/// Present and `null` are two things here: some keys may be the one and not the other.
#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(rename = "type", default, borrow, deserialize_with = "present")]
    kind: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    correlation_id: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    event: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    timestamp: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    room: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    channel: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    error_code: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    error_message: Option<&'a RawValue>,
}

impl<'a> Envelope<'a> {
    /// Reads a frame.
    ///
    /// # Errors
    ///
    /// What is wrong with it, for DECODE_ERROR.
    pub(super) fn read(frame: &'a [u8]) -> Result<Envelope<'a>, String> {
        let text = std::str::from_utf8(frame).map_err(|e| format!("the frame is not UTF-8: {e}"))?;
        // A list of the values in order would pass for an object.
        if !text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{') {
            return Err("the frame is not a JSON object".into());
        }
        check_depth(text.as_bytes()).map_err(|refusal| refusal.message)?;
        let raw: Raw<'a> = serde_json::from_str(text).map_err(|e| format!("Invalid JSON: {e}"))?;
        let kind = raw.kind.ok_or("type: Field required")?;
        let kind = serde_json::from_str(kind.get()).map_err(|_| {
            "type: Input should be 'request', 'subscribe', 'unsubscribe', 'ping', 'response', 'event', 'error', 'pong' or 'ack'"
        })?;
        if raw.timestamp.is_some_and(|given| matches!(first(given), b'n' | b't' | b'f' | b'{' | b'[')) {
            return Err("timestamp: Input should be a valid string".into());
        }
        if raw.data.is_some_and(|given| first(given) != b'{') {
            return Err("data: Input should be an object".into());
        }
        string("error_code", raw.error_code, true)?;
        string("error_message", raw.error_message, true)?;
        Ok(Envelope {
            kind,
            event: string("event", raw.event, true)?,
            id: string("id", raw.id, false)?,
            correlation_id: string("correlation_id", raw.correlation_id, true)?,
            data: raw.data,
            room: string("room", raw.room, true)?,
            // Not one of the nine, and so never a reason to refuse the frame.
            channel: raw.channel.and_then(|given| serde_json::from_str(given.get()).ok()),
        })
    }

    /// What an answer carries as `correlation_id`. Old servers repeat `correlation_id`; the client of old sends two
    /// UUIDs and waits for its `id`; examples send one of the two.
    pub(super) fn answer_to(&self) -> Option<String> {
        match (&self.id, &self.correlation_id) {
            (Some(id), Some(correlation)) if is_uuid(id) && is_uuid(correlation) => Some(id.clone()),
            (id, correlation) => correlation.as_ref().or(id.as_ref()).cloned(),
        }
    }

    /// `data`; `None`: there is none, which is the same as an empty object.
    pub(super) fn data(&self) -> Option<&'a RawValue> {
        self.data
    }

    /// `room`, as it stands beside `data`.
    pub(super) fn room(&self) -> Option<&str> {
        self.room.as_deref()
    }

    /// An argument that is a string.
    pub(super) fn argument(&self, name: &str) -> Option<String> {
        ours::string_field(self.data?, name)
    }

    /// An argument that is a whole number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        serde_json::from_str(ours::field(self.data?, name)?.get()).ok()
    }

    /// Whether an argument is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.data.is_some_and(|data| ours::field(data, name).is_some_and(|value| value.get() != "null"))
    }

    /// The channel, under whichever name it is given.
    pub(super) fn channel(&self, aliases: &[(&str, &str)]) -> Option<String> {
        let alias = |(key, prefix): &(&str, &str)| self.argument(key).map(|value| format!("{prefix}{value}"));
        let given = self.argument("channel").or_else(|| self.argument("room"));
        given
            .or_else(|| self.room.clone())
            .or_else(|| self.channel.clone())
            .or_else(|| aliases.iter().find_map(alias))
    }
}

fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(from).map(Some)
}

fn first(raw: &RawValue) -> u8 {
    raw.get().bytes().next().unwrap_or(b' ')
}

fn string(name: &str, given: Option<&RawValue>, nullable: bool) -> Result<Option<String>, String> {
    let Some(given) = given else { return Ok(None) };
    if nullable && given.get() == "null" {
        return Ok(None);
    }
    let wrong = || format!("{name}: Input should be a valid string");
    let text: Cow<'_, str> = serde_json::from_str(given.get()).map_err(|_| wrong())?;
    if text.len() > MAX_NAME {
        return Err(format!("{name}: String should have at most {MAX_NAME} bytes"));
    }
    Ok(Some(text.into_owned()))
}

/// Whether this has the canonical form of a UUID.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// A frame for the client. All nine keys are always there, and none of them is `null` that must not be.
#[derive(Debug, Serialize)]
pub(super) struct Out<'a, D: Serialize> {
    pub(super) id: String,
    pub(super) correlation_id: Option<&'a str>,
    #[serde(rename = "type")]
    pub(super) kind: Type,
    pub(super) event: Option<&'a str>,
    pub(super) data: D,
    pub(super) timestamp: String,
    pub(super) room: Option<&'a str>,
    pub(super) error_code: Option<&'a str>,
    pub(super) error_message: Option<&'a str>,
    /// What clients by the examples look for beside `data`; others ignore it.
    #[serde(flatten)]
    pub(super) beside: Beside<'a>,
}

/// Copies of what is in `data`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Beside<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<&'a str>,
}

/// `data` without anything in it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Empty {}

impl<D: Serialize> Out<'_, D> {
    pub(super) fn text(&self) -> Bytes {
        ours::text(self)
    }
}

/// A time as old servers write it: ISO 8601 in UTC, with microseconds and the offset.
pub(in crate::dialect) fn iso(wall_ms: u64) -> String {
    let nanos = i128::from(wall_ms) * 1_000_000;
    let at = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (date, micro) = (at.date(), at.microsecond());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{micro:06}+00:00",
        date.year(),
        u8::from(date.month()),
        date.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_carry_what_their_client_waits_for() {
        // covers B06: checklist 4
        let (a, b) = ("114c7c5e-0000-4000-8000-00000000000a", "5592aaaa-0000-4000-8000-00000000000b");
        let to = |keys: &str| {
            let text = format!(r#"{{"type":"request"{keys}}}"#);
            Envelope::read(text.as_bytes()).unwrap().answer_to()
        };
        assert_eq!(to(r#","id":"sub_001""#).as_deref(), Some("sub_001"));
        assert_eq!(to(r#","id":"sub_001","correlation_id":null"#).as_deref(), Some("sub_001"));
        assert_eq!(to(r#","correlation_id":"c2""#).as_deref(), Some("c2"));
        assert_eq!(to(&format!(r#","id":"{a}","correlation_id":"{b}""#)).as_deref(), Some(a));
        assert_eq!(to(&format!(r#","id":"{a}","correlation_id":"c2""#)).as_deref(), Some("c2"));
        assert_eq!(to(r#","id":"x","correlation_id":"c2""#).as_deref(), Some("c2"));
        assert_eq!(to(""), None);
    }

    #[test]
    fn a_time_has_microseconds_and_an_offset() {
        // covers B06
        assert_eq!(iso(1_767_225_600_012), "2026-01-01T00:00:00.012000+00:00");
        assert_eq!(iso(0), "1970-01-01T00:00:00.000000+00:00");
        assert_eq!(iso(u64::MAX), "1970-01-01T00:00:00.000000+00:00");
    }
}
