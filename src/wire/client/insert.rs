//! What a server puts into a frame's text, right behind the opening brace. None of it needs escaping: names and ids
//! have no quote and no backslash.

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::ids::{AgentName, MessageId};

/// What the client left out and a recipient may rely on.
pub(super) struct Missing<'a> {
    pub(super) from: Option<&'a AgentName>,
    pub(super) id: Option<&'a MessageId>,
    pub(super) timestamp: Option<u64>,
}

impl Missing<'_> {
    pub(super) fn insert_into(&self, text: &Bytes) -> Bytes {
        if self.from.is_none() && self.id.is_none() && self.timestamp.is_none() {
            return text.clone();
        }
        let mut fields = String::with_capacity(160);
        if let Some(from) = self.from {
            fields.push_str(&format!("\"from\":\"{from}\","));
        }
        if let Some(id) = self.id {
            fields.push_str(&format!("\"id\":\"{id}\","));
        }
        if let Some(timestamp) = self.timestamp {
            fields.push_str(&format!("\"timestamp\":{timestamp},"));
        }
        behind_the_brace(text, &fields)
    }
}

/// A message's text as one recipient gets it this time, with what only the server may say of it. Without anything to
/// say it is the same text, shared.
pub fn marked(text: &Bytes, redelivered: bool, retry_of: Option<&MessageId>) -> Bytes {
    let mut marks = String::new();
    if redelivered {
        marks.push_str("\"redelivered\":true,");
    }
    if let Some(id) = retry_of {
        marks.push_str(&format!("\"retry_of\":\"{id}\","));
    }
    if marks.is_empty() { text.clone() } else { behind_the_brace(text, &marks) }
}

/// A room's message as one reader gets it: with its place in the room. A cursor needs no escaping.
pub fn placed(text: &[u8], cursor: &str) -> Bytes {
    behind_the_brace(text, &format!("\"cursor\":\"{cursor}\","))
}

fn behind_the_brace(text: &[u8], fields: &str) -> Bytes {
    let open = text.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
    let mut out = BytesMut::with_capacity(text.len() + fields.len());
    out.put_slice(&text[..open]);
    out.put_slice(fields.as_bytes());
    out.put_slice(&text[open..]);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_stand_at_the_very_front_and_nothing_else_changes() {
        // covers T04, T07
        let text = Bytes::from_static(b" {\"from\":\"dc\", \"type\":\"STATUS\",\"x\":{}}");
        let id = MessageId::new("m-9").unwrap();
        let shared = marked(&text, false, None);
        assert_eq!(shared.as_ptr(), text.as_ptr());
        let both = marked(&text, true, Some(&id));
        let expected: &[u8] =
            b" {\"redelivered\":true,\"retry_of\":\"m-9\",\"from\":\"dc\", \"type\":\"STATUS\",\"x\":{}}";
        assert_eq!(&both[..], expected);
        assert_eq!(&marked(&text, false, Some(&id))[..18], b" {\"retry_of\":\"m-9\"");
    }
}
