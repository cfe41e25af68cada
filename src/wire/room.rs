//! A place in a room. Each node numbers what it takes for a room; who has read says for every node how far: that is a
//! vector, and as text a cursor.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::ids::{Incarnation, Namespace, NodeName, RoomName};

/// Longest cursor, in characters.
pub const MAX_CURSOR: usize = 4096;
/// Most messages that SUBSCRIBE and HISTORY may ask for.
pub const MAX_HISTORY: u16 = 1000;
/// Most members that are listed.
pub const MAX_MEMBERS: usize = 1000;
/// Rooms that a session may subscribe to at once.
pub const MAX_SUBSCRIPTIONS: usize = 256;

/// A room with its namespace; written `namespace/room:name`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RoomKey {
    /// The wall it lies behind.
    pub namespace: Namespace,
    /// Its name there.
    pub name: RoomName,
}

impl RoomKey {
    /// Puts the two together.
    pub fn new(namespace: Namespace, name: RoomName) -> RoomKey {
        RoomKey { namespace, name }
    }
}

impl fmt::Display for RoomKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/room:{}", self.namespace, self.name)
    }
}

impl fmt::Debug for RoomKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which one of a node's publishes: those of a later life come after all of an earlier one. The least one is before all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Position {
    /// The node's life when it took it.
    pub incarnation: Incarnation,
    /// From 1, in that life.
    pub n: u64,
}

/// How far somebody has read: the last one of each node's publishes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Vector {
    /// By the node that took them.
    pub at: BTreeMap<NodeName, Position>,
    /// It did not fit into a cursor, and says nothing of some nodes.
    pub cut: bool,
}

/// A cursor that is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a cursor that this mesh gave")]
pub struct BadCursor;

impl Vector {
    /// How far it is with one node's publishes.
    pub fn get(&self, origin: &NodeName) -> Position {
        self.at.get(origin).copied().unwrap_or_default()
    }

    /// Whether a publish was read.
    pub fn covers(&self, origin: &NodeName, at: Position) -> bool {
        self.get(origin) >= at
    }

    /// Moves on with one node's publishes; never back.
    pub fn advance(&mut self, origin: &NodeName, at: Position) {
        if at > self.get(origin) {
            self.at.insert(origin.clone(), at);
        }
    }

    /// Moves on to whichever is further, for each node.
    pub fn merge(&mut self, other: &Vector) {
        for (origin, at) in &other.at {
            self.advance(origin, *at);
        }
    }

    /// As text of at most [`MAX_CURSOR`] characters of `[A-Za-z0-9_-]`, which needs no escaping. Of more nodes than fit into it those are left
    /// out whose last publish is of the oldest life; then the vector is [cut](Vector::cut).
    pub fn to_cursor(&self) -> String {
        let text = to_text(self);
        if text.len() <= MAX_CURSOR {
            return text;
        }
        let mut oldest: Vec<(&NodeName, &Position)> = self.at.iter().collect();
        oldest.sort_by_key(|(_, at)| **at);
        // From the newest on, as many as fit; it is written once.
        let mut left = MAX_BYTES;
        let fit = oldest.into_iter().rev().take_while(|entry| {
            let bytes = postcard::to_allocvec(entry).map_or(usize::MAX, |bytes| bytes.len());
            let fits = bytes <= left;
            left = left.saturating_sub(bytes);
            fits
        });
        to_text(&Vector { at: fit.map(|(origin, at)| (origin.clone(), *at)).collect(), cut: true })
    }

    /// Reads a cursor.
    ///
    /// # Errors
    ///
    /// It is none of ours, or longer than [`MAX_CURSOR`].
    pub fn from_cursor(text: &str) -> Result<Vector, BadCursor> {
        if text.len() > MAX_CURSOR {
            return Err(BadCursor);
        }
        let bytes = from_base64(text).ok_or(BadCursor)?;
        let (form, rest) = bytes.split_first().ok_or(BadCursor)?;
        match form {
            &FORM => match postcard::take_from_bytes(rest) {
                Ok((vector, [])) => Ok(vector),
                _ => Err(BadCursor),
            },
            _ => Err(BadCursor),
        }
    }
}

/// The first byte of a cursor: another form gets another one.
const FORM: u8 = 1;
/// Bytes of entries that fit into a cursor: beside them stand the form, their number (3 bytes at most) and whether it is cut.
const MAX_BYTES: usize = MAX_CURSOR / 4 * 3 - 5;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn to_text(vector: &Vector) -> String {
    // Postcard fails on types without a known shape only.
    let mut bytes = vec![FORM];
    bytes.extend(postcard::to_allocvec(vector).unwrap_or_default());
    let mut text = String::with_capacity(bytes.len() * 4 / 3 + 3);
    for three in bytes.chunks(3) {
        let word = three.iter().enumerate().fold(0u32, |w, (i, b)| w | u32::from(*b) << (16 - 8 * i));
        for i in 0..=three.len() {
            text.push(char::from(ALPHABET[(word >> (18 - 6 * i)) as usize & 63]));
        }
    }
    text
}

/// Base64 for URLs, without padding (RFC 4648 section 5).
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    for four in text.as_bytes().chunks(4) {
        let mut word = 0u32;
        for (i, byte) in four.iter().enumerate() {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'-' => 62,
                b'_' => 63,
                _ => return None,
            };
            word |= u32::from(value) << (18 - 6 * i);
        }
        let count = four.len().checked_sub(1).filter(|count| *count > 0)?;
        out.extend(&word.to_be_bytes()[1..=count]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn at(incarnation: u64, n: u64) -> Position {
        Position { incarnation: Incarnation(incarnation), n }
    }

    #[test]
    fn a_cursor_says_what_its_vector_said() {
        // covers B07
        let mut vector = Vector::default();
        assert_eq!(Vector::from_cursor(&vector.to_cursor()), Ok(vector.clone()));
        for (name, place) in [("dc", at(1_767_225_600_000, 1)), ("agni", at(7, 300)), ("a", at(u64::MAX, 0))]
        {
            vector.advance(&node(name), place);
            let text = vector.to_cursor();
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{text}");
            assert_eq!(Vector::from_cursor(&text), Ok(vector.clone()));
        }
        vector.advance(&node("agni"), at(6, 900));
        assert_eq!(vector.get(&node("agni")), at(7, 300), "an earlier life is no progress");
        assert!(vector.covers(&node("agni"), at(6, 900)) && !vector.covers(&node("b"), at(0, 1)));
    }

    #[test]
    fn what_is_no_cursor_is_said_to_be_none() {
        // covers B19
        let long = "A".repeat(MAX_CURSOR + 1);
        for bad in ["", "A", "AAEC", "=", "ä", "AQ", "____", "AQEC", long.as_str()] {
            assert_eq!(Vector::from_cursor(bad), Err(BadCursor), "{bad}");
        }
        // Of one that was good: cut off, with more behind it, and each character replaced. Nothing else than this error comes of it.
        let good = Vector { at: [(node("dc"), at(7, 300)), (node("agni"), at(9, 1))].into(), cut: false };
        let text = good.to_cursor();
        for end in 0..text.len() {
            assert_eq!(Vector::from_cursor(&text[..end]), Err(BadCursor), "{end}");
        }
        assert_eq!(Vector::from_cursor(&format!("{text}AAAA")), Err(BadCursor));
        for place in 0..text.len() {
            for character in ALPHABET {
                let other =
                    [&text[..place], &char::from(*character).to_string(), &text[place + 1..]].concat();
                if let Ok(read) = Vector::from_cursor(&other) {
                    assert!(read.at.len() <= 2, "{other}");
                }
            }
        }
    }

    #[test]
    fn a_cursor_is_never_longer_than_its_bound() {
        // covers B07
        let mut vector = Vector::default();
        for n in 0..256 {
            vector.advance(&node(&format!("{n:0>63}")), at(1_767_225_600_000 + n, 1 << 40));
        }
        let text = vector.to_cursor();
        assert!(text.len() <= MAX_CURSOR);
        let read = Vector::from_cursor(&text).unwrap();
        assert!(read.cut && read.at.len() > 30);
        assert!(read.at.iter().all(|(origin, place)| vector.get(origin) == *place));
        assert!(read.at.contains_key(&node(&format!("{:0>63}", 255))), "the newest is in it");
    }
}
