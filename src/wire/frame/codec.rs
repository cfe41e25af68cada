//! Lengths and heads as bytes, and a stream of bytes cut into frames.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};

use super::{Encoded, Error, Frame, MAX_HEAD, MAX_PAYLOAD};

/// Where the parts of the next frame lie.
pub(super) struct Parts {
    pub(super) kind: u8,
    pub(super) head_at: usize,
    pub(super) head: usize,
    pub(super) payload_at: usize,
    pub(super) payload: usize,
}

impl Parts {
    pub(super) fn find(buffer: &[u8]) -> Result<Option<Parts>, Error> {
        let Some(&kind) = buffer.first() else { return Ok(None) };
        let Some((head, head_at)) = length_at(buffer, 1, "head", MAX_HEAD)? else { return Ok(None) };
        let Some((payload, payload_at)) = length_at(buffer, head_at + head, "payload", MAX_PAYLOAD)? else {
            return Ok(None);
        };
        let whole = buffer.len() >= payload_at + payload;
        Ok(whole.then_some(Parts { kind, head_at, head, payload_at, payload }))
    }
}

/// Reads a length at `at`; answers it and where what it measures begins.
fn length_at(
    buffer: &[u8],
    at: usize,
    what: &'static str,
    limit: usize,
) -> Result<Option<(usize, usize)>, Error> {
    let mut length = 0usize;
    for i in 0..5 {
        let Some(&byte) = buffer.get(at + i) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            if length > limit {
                return Err(Error::TooLarge { what, length, limit });
            }
            return Ok(Some((length, at + i + 1)));
        }
    }
    Err(Error::BadLength)
}

fn put_length(out: &mut BytesMut, mut length: usize) {
    while length >= 0x80 {
        out.put_u8(length as u8 | 0x80);
        length >>= 7;
    }
    out.put_u8(length as u8);
}

pub(super) fn pack<T: Serialize>(kind: u8, head: &T, payload: Bytes) -> Encoded {
    // Postcard fails on types without a known shape only; ours all have one, and a test encodes each.
    let head = postcard::to_allocvec(head).unwrap_or_default();
    let mut out = BytesMut::with_capacity(head.len() + 11);
    out.put_u8(kind);
    put_length(&mut out, head.len());
    out.put_slice(&head);
    put_length(&mut out, payload.len());
    Encoded { head: out.freeze(), payload }
}

// What follows the fields that we know is left alone: a newer peer may have written more.
pub(super) fn unpack<T: DeserializeOwned>(kind: u8, head: &[u8]) -> Result<T, Error> {
    postcard::take_from_bytes(head)
        .map(|(head, _rest)| head)
        .map_err(|e| Error::BadHead { kind, why: e.to_string() })
}

/// Cuts a stream of bytes, as it arrives in chunks, into frames. A frame that lies within one chunk is not
/// copied; one that does not is put together once.
#[derive(Debug, Default)]
pub struct Reader {
    chunk: Bytes,
    partial: BytesMut,
}

impl Reader {
    /// Takes what arrived.
    pub fn push(&mut self, chunk: Bytes) {
        if self.partial.is_empty() && self.chunk.is_empty() {
            self.chunk = chunk;
        } else {
            self.partial.extend_from_slice(&self.chunk);
            self.partial.extend_from_slice(&chunk);
            self.chunk = Bytes::new();
        }
    }

    /// The next whole frame, if there is one.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Error> {
        if !self.partial.is_empty() {
            if Parts::find(&self.partial)?.is_none() {
                return Ok(None);
            }
            self.chunk = self.partial.split().freeze();
        }
        Frame::decode(&mut self.chunk)
    }
}
