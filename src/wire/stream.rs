//! Client frames on a stream of bytes: each is preceded by its length, four bytes big-endian.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of the length.
const PREFIX: usize = 4;

/// A frame is longer than is taken; the stream can't be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the frame has {length} bytes; at most {limit} are taken")]
pub struct TooLarge {
    /// As announced.
    pub length: usize,
    /// As allowed.
    pub limit: usize,
}

/// Takes one whole frame from the front; `None`: it is not all there yet, and nothing was taken.
pub fn take(buffer: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, TooLarge> {
    let Some(prefix) = buffer.first_chunk::<PREFIX>() else { return Ok(None) };
    let length = u32::from_be_bytes(*prefix) as usize;
    if length > limit {
        return Err(TooLarge { length, limit });
    }
    if buffer.len() < PREFIX + length {
        // Room for the rest at once, rather than by doubling.
        buffer.reserve(PREFIX + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(PREFIX);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Puts one frame to the end. Ours are far below 4 GiB; a longer one would be cut off by the length.
pub fn put(buffer: &mut BytesMut, frame: &[u8]) {
    buffer.reserve(PREFIX + frame.len());
    buffer.put_u32(u32::try_from(frame.len()).unwrap_or(u32::MAX));
    buffer.put_slice(frame);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        // covers T04
        let mut whole = BytesMut::new();
        for frame in [&b"{}"[..], b"", b"{\"type\":\"STATUS\"}"] {
            put(&mut whole, frame);
        }
        let mut buffer = BytesMut::new();
        let mut got = Vec::new();
        for byte in whole {
            buffer.put_u8(byte);
            got.extend(take(&mut buffer, 100).unwrap());
        }
        assert_eq!(got, [&b"{}"[..], b"", b"{\"type\":\"STATUS\"}"]);
        let mut long = BytesMut::from(&[0xff; 4][..]);
        assert_eq!(take(&mut long, 100).unwrap_err().limit, 100);
    }
}
