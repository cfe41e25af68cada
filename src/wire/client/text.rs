//! JSON text as it lies there: strings that are borrowed, and how deep it is nested.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer};

use super::MAX_DEPTH;
use crate::wire::close::{Code, Refusal};

/// A string of the frame, borrowed from it unless it has escapes.
pub(super) struct Str<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Str<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Str<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, s: &'de str) -> Result<Str<'de>, E> {
                Ok(Str(Cow::Borrowed(s)))
            }
            fn visit_str<E>(self, s: &str) -> Result<Str<'de>, E> {
                Ok(Str(Cow::Owned(s.to_owned())))
            }
        }
        from.deserialize_str(Visitor)
    }
}

/// Counts brackets outside strings: serde's own limit does not reach into what it only skips.
///
/// # Errors
///
/// The text is nested deeper than [`MAX_DEPTH`].
pub fn check_depth(text: &[u8]) -> Result<(), Refusal> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for &byte in text {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    let message = format!("the frame is nested deeper than {MAX_DEPTH} levels");
                    return Err(Refusal::new(Code::TooDeep, message));
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}
