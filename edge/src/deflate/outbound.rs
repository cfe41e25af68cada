//! Plain frames of ours to compressed messages.

use std::sync::Arc;

use bytes::BytesMut;

use super::codec::{TAIL, Window};
use super::frame::{self, CONTINUATION, FIN, Head, LONGEST, RSV1};
use super::{Agreed, Shared};

/// Output beyond which no more is taken before it is written.
pub(super) const HIGH: usize = 64 * 1024;
/// A longer message leaves in frames of so much of it: each is compressed at one go, and held for no longer.
const PIECE: usize = 64 * 1024;

/// The way out of one connection.
#[derive(Debug)]
pub(super) struct Outbound {
    shared: Arc<Shared>,
    window: Window,
    bits: u8,
    takeover: bool,
    state: State,
    /// What of a head, or of a piece, has come.
    held: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Head,
    /// So many bytes go as they are.
    Pass {
        left: u64,
    },
    /// So many bytes of a message are to be compressed; nothing of it has left when it has a first byte.
    Compress {
        left: u64,
        first: Option<u8>,
    },
}

impl Outbound {
    pub fn new(shared: Arc<Shared>, agreed: &Agreed) -> Outbound {
        Outbound {
            shared,
            window: Window::new(agreed.server_bits),
            bits: agreed.server_bits,
            takeover: agreed.server_takeover,
            state: State::Head,
            held: Vec::new(),
        }
    }

    /// Takes frames, until there is enough output; answers how many bytes of them.
    pub fn take(&mut self, bytes: &[u8], out: &mut BytesMut) -> usize {
        let mut left = bytes;
        while !left.is_empty() && out.len() < HIGH {
            match self.state {
                State::Head => self.head(&mut left, out),
                State::Pass { left: of } => {
                    let n = at_most(of, left.len());
                    out.extend_from_slice(&left[..n]);
                    left = &left[n..];
                    self.pass(of - n as u64);
                }
                State::Compress { left: of, first } => self.piece(&mut left, of, first, out),
            }
        }
        bytes.len() - left.len()
    }

    fn pass(&mut self, left: u64) {
        self.state = if left == 0 { State::Head } else { State::Pass { left } };
    }

    fn head(&mut self, left: &mut &[u8], out: &mut BytesMut) {
        let n = (LONGEST - self.held.len()).min(left.len());
        let before = self.held.len();
        self.held.extend_from_slice(&left[..n]);
        let Some(head) = Head::read(&self.held) else {
            *left = &left[n..];
            return;
        };
        *left = &left[head.length - before..];
        // Whole messages only: whoever fragments has begun to send it already.
        let whole = head.is_final() && head.begins() && head.reserved() == 0 && head.mask.is_none();
        if whole && head.payload >= self.shared.settings.min_size.max(1) as u64 {
            self.state = State::Compress { left: head.payload, first: Some(head.first) };
        } else {
            out.extend_from_slice(&self.held[..head.length]);
            self.pass(head.payload);
        }
        self.held.clear();
    }

    /// One piece of a message, as soon as all of it is there.
    fn piece(&mut self, left: &mut &[u8], of: u64, first: Option<u8>, out: &mut BytesMut) {
        let size = at_most(of, PIECE);
        let need = size - self.held.len();
        if left.len() < need {
            self.held.extend_from_slice(left);
            *left = &[];
            return;
        }
        let held = std::mem::take(&mut self.held);
        let (rest, behind) = left.split_at(need);
        *left = behind;
        if held.is_empty() {
            self.compress(rest, of, first, out);
        } else {
            self.compress(&[&held, rest].concat(), of, first, out);
        }
    }

    fn compress(&mut self, plain: &[u8], of: u64, first: Option<u8>, out: &mut BytesMut) {
        let shared = self.shared.clone();
        let last = of == plain.len() as u64;
        let mut packed = Vec::new();
        let smaller = shared.compressors.compress(plain, &self.window, self.bits, &mut packed);
        let fin = if last { FIN } else { 0 };
        match first {
            // Sent as it is, and so nothing that a later message may refer to.
            Some(first) if !smaller => {
                frame::put(out, first, of, false);
                out.extend_from_slice(plain);
                return self.pass(of - plain.len() as u64);
            }
            Some(first) => self.put(out, fin | (first & 0x0f) | RSV1, &mut packed, last),
            None if smaller => self.put(out, fin | CONTINUATION, &mut packed, last),
            // Amid a message that is compressed: as stored blocks, which any inflater reads.
            None => self.put(out, fin | CONTINUATION, &mut stored(plain), last),
        }
        shared.bytes.out_plain.inc_by(plain.len() as u64);
        if last && !self.takeover {
            self.window.forget();
        } else {
            self.window.push(plain);
        }
        self.state = match of - plain.len() as u64 {
            0 => State::Head,
            left => State::Compress { left, first: None },
        };
    }

    fn put(&self, out: &mut BytesMut, first: u8, packed: &mut Vec<u8>, last: bool) {
        if last {
            packed.truncate(packed.len() - TAIL.len());
        }
        frame::put(out, first, packed.len() as u64, false);
        out.extend_from_slice(packed);
        self.shared.bytes.out_wire.inc_by(packed.len() as u64);
    }
}

/// Uncompressed blocks (RFC 1951 section 3.2.4), ending as a compressor's output does.
fn stored(plain: &[u8]) -> Vec<u8> {
    let mut blocks = Vec::with_capacity(plain.len() + 16);
    for block in plain.chunks(usize::from(u16::MAX)) {
        let length = block.len() as u16;
        blocks.push(0);
        blocks.extend_from_slice(&length.to_le_bytes());
        blocks.extend_from_slice(&(!length).to_le_bytes());
        blocks.extend_from_slice(block);
    }
    blocks.push(0);
    blocks.extend_from_slice(&TAIL);
    blocks
}

fn at_most(left: u64, most: usize) -> usize {
    usize::try_from(left).map_or(most, |left| left.min(most))
}
