//! The text of a message that died, as it is sent again.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::wire::ids::MessageId;

/// A message's text under a new name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// The same text, byte for byte, but for the value of `id`.
    pub text: Bytes,
    /// What its sender said of its time to live, in milliseconds.
    pub ttl_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(default)]
    ttl_ms: Option<u64>,
}

/// Gives a message's text, which entered through [`parse`](super::parse), another id. Fails, with why, on what is no such text.
pub fn renamed(text: &Bytes, id: &MessageId) -> Result<Renamed, String> {
    let malformed = |why: &str| format!("its text is not a message's: {why}");
    let read = std::str::from_utf8(text).map_err(|e| malformed(&e.to_string()))?;
    let named: Named<'_> = serde_json::from_str(read).map_err(|e| malformed(&e.to_string()))?;
    let text =
        with_value(read, named.id, id.as_str()).ok_or_else(|| malformed("its id is not a part of it"))?;
    Ok(Renamed { text, ttl_ms: named.ttl_ms })
}

/// The text with another string for one of its values; `word` needs no escaping: it has no quote and no backslash.
fn with_value(text: &str, value: &RawValue, word: &str) -> Option<Bytes> {
    // The value is a slice of the text: where it lies there is the difference of the two addresses.
    let old = value.get();
    let begin = (old.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
    let end = begin.wrapping_add(old.len());
    if text.get(begin..end) != Some(old) {
        return None;
    }
    let mut out = BytesMut::with_capacity(text.len() + word.len() + 2);
    out.put_slice(&text.as_bytes()[..begin]);
    out.put_slice(format!("\"{word}\"").as_bytes());
    out.put_slice(&text.as_bytes()[end..]);
    Some(out.freeze())
}

#[derive(Deserialize)]
struct Typed<'a> {
    #[serde(rename = "type", borrow)]
    kind: &'a RawValue,
}

/// A frame's text with another type; `None`: it has none.
pub(super) fn retyped(text: &[u8], kind: &str) -> Option<Bytes> {
    let read = std::str::from_utf8(text).ok()?;
    let typed: Typed<'_> = serde_json::from_str(read).ok()?;
    with_value(read, typed.kind, kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(text: &'static str) -> Result<String, String> {
        let renamed = renamed(&Bytes::from_static(text.as_bytes()), &MessageId::new("new:1").unwrap())?;
        Ok(String::from_utf8(renamed.text.to_vec()).unwrap())
    }

    #[test]
    fn only_the_messages_own_id_is_another_one() {
        // covers Q04, T04
        for (text, expected) in [
            (r#"{"id":"m-1","type":"COMMAND"}"#, r#"{"id":"new:1","type":"COMMAND"}"#),
            (
                "  {\"payload\": {\"id\":\"m-1\", \"x\":[\"\\\"id\\\":\\\"m-1\\\"\"]},\n\t\"id\" : \"m-1\" , \"n\":1.50}",
                "  {\"payload\": {\"id\":\"m-1\", \"x\":[\"\\\"id\\\":\\\"m-1\\\"\"]},\n\t\"id\" : \"new:1\" , \"n\":1.50}",
            ),
            (r#"{"x":"ä€😀","\u0069d":"m\u002d1"}"#, r#"{"x":"ä€😀","\u0069d":"new:1"}"#),
            (
                r#"{"reply_to":"m-1","id":"i","ttl_ms":null}"#,
                r#"{"reply_to":"m-1","id":"new:1","ttl_ms":null}"#,
            ),
        ] {
            assert_eq!(after(text).as_deref(), Ok(expected), "{text}");
        }
        let text = Bytes::from_static(br#"{"id":"m","ttl_ms":7}"#);
        assert_eq!(renamed(&text, &MessageId::new("n").unwrap()).unwrap().ttl_ms, Some(7));
        for bad in [r#"{"type":"COMMAND"}"#, r#"{"id":"a","id":"b"}"#, "", "[]", "{\"id\":\"a\""] {
            assert!(after(bad).is_err(), "{bad}");
        }
    }
}
