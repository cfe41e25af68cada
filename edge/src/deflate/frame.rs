//! Heads of frames (RFC 6455 section 5.2).

use bytes::{BufMut, BytesMut};

/// The first bit: a message's last frame.
pub(super) const FIN: u8 = 0x80;
/// The second bit of the first frame: the message is compressed (RFC 7692 section 6).
pub(super) const RSV1: u8 = 0x40;
/// The three bits that extensions may use.
pub(super) const RSV: u8 = 0x70;
/// The first byte's other half: goes on with a message.
pub(super) const CONTINUATION: u8 = 0;
/// Longest head: two bytes, eight of length, four of mask.
pub(super) const LONGEST: usize = 14;

/// One frame's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// The first byte.
    pub first: u8,
    pub mask: Option<[u8; 4]>,
    /// Bytes that follow the head.
    pub payload: u64,
    /// Bytes of the head itself.
    pub length: usize,
}

impl Head {
    /// At the front of some bytes; `None`: more of them are needed.
    pub fn read(bytes: &[u8]) -> Option<Head> {
        let (&[first, second], rest) = bytes.split_first_chunk()?;
        let (payload, rest) = match second & 0x7f {
            126 => rest.split_first_chunk().map(|(len, rest)| (u16::from_be_bytes(*len).into(), rest))?,
            127 => rest.split_first_chunk().map(|(len, rest)| (u64::from_be_bytes(*len), rest))?,
            short => (u64::from(short), rest),
        };
        let (mask, rest) = match second & 0x80 {
            0 => (None, rest),
            _ => rest.split_first_chunk().map(|(mask, rest)| (Some(*mask), rest))?,
        };
        Some(Head { first, mask, payload, length: bytes.len() - rest.len() })
    }

    pub fn is_final(&self) -> bool {
        self.first & FIN != 0
    }

    pub fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    /// Text or binary: it begins a message.
    pub fn begins(&self) -> bool {
        matches!(self.opcode(), 1 | 2)
    }

    pub fn reserved(&self) -> u8 {
        self.first & RSV
    }
}

/// Writes a head. One that is masked has the mask of zeros: what follows is as it is.
pub(super) fn put(out: &mut BytesMut, first: u8, payload: u64, masked: bool) {
    let mask = if masked { 0x80 } else { 0 };
    out.put_u8(first);
    match payload {
        0..=125 => out.put_u8(mask | payload as u8),
        126..=0xffff => {
            out.put_u8(mask | 126);
            out.put_u16(payload as u16);
        }
        _ => {
            out.put_u8(mask | 127);
            out.put_u64(payload);
        }
    }
    if masked {
        out.put_u32(0);
    }
}

/// Takes the mask off; `at` is how many bytes of the payload lie before these.
pub(super) fn unmask(from: &[u8], mask: [u8; 4], at: usize, into: &mut [u8]) {
    let turned = [0, 1, 2, 3].map(|i| mask[(at + i) & 3]);
    for (i, (to, byte)) in into.iter_mut().zip(from).enumerate() {
        *to = byte ^ turned[i & 3];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_they_are_written_and_not_before_they_are_whole() {
        // covers T16
        for payload in [0, 1, 125, 126, 0xffff, 0x1_0000, 1 << 40] {
            for masked in [false, true] {
                let mut out = BytesMut::new();
                put(&mut out, FIN | RSV1 | 2, payload, masked);
                let head = Head::read(&out).unwrap();
                assert_eq!((head.payload, head.length, head.first), (payload, out.len(), 0xc2));
                assert_eq!(head.mask, masked.then_some([0; 4]));
                assert!(head.is_final() && head.begins() && head.reserved() == RSV1);
                assert!((0..out.len()).all(|short| Head::read(&out[..short]).is_none()));
                assert!(out.len() <= LONGEST);
            }
        }
    }

    #[test]
    fn a_mask_comes_off_piece_by_piece() {
        // covers T16
        let mask = [1, 2, 3, 4];
        let masked: Vec<u8> = (0..10u8).map(|i| i ^ mask[usize::from(i) & 3]).collect();
        let mut plain = [0; 10];
        unmask(&masked[..3], mask, 0, &mut plain[..3]);
        unmask(&masked[3..], mask, 3, &mut plain[3..]);
        assert_eq!(plain, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }
}
