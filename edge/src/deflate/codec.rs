//! Deflate and inflate (RFC 1951) with a window that is kept apart, so that neither need belong to a connection.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Inflate, InflateFlush, Status};

use super::{Refused, WINDOW_BITS};

/// What ends a message's data and does not travel (RFC 7692 section 7.2.1): an empty stored block without its head.
pub(super) const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// An empty stored block that is the last: an inflater takes it only where a block may begin.
const LAST_BLOCK: [u8; 5] = [1, 0, 0, 0xff, 0xff];
/// Bytes that an inflater gathers before they are passed on.
pub(super) const PIECE: usize = 16 * 1024;
/// Compressors of one window, and inflaters, that are kept for the next message.
const SPARE: usize = 4;
/// Window of every inflater: one that is wider than agreed reads the same.
const INFLATE_BITS: u8 = 15;

/// The latest bytes of one direction: what its next message may refer to.
#[derive(Debug)]
pub(super) struct Window {
    bytes: Vec<u8>,
    limit: usize,
}

impl Window {
    pub fn new(bits: u8) -> Window {
        Window { bytes: Vec::new(), limit: 1 << bits }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(self.limit)..];
        let over = (self.bytes.len() + bytes.len()).saturating_sub(self.limit);
        self.bytes.drain(..over);
        let need = self.bytes.len() + bytes.len();
        if need > self.bytes.capacity() {
            let room = need.next_power_of_two().min(self.limit);
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Nothing may be referred to any more; its memory is given back.
    pub fn forget(&mut self) {
        self.bytes = Vec::new();
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Compressors, by window.
pub(super) struct Compressors {
    level: u8,
    mem_level: u8,
    spare: [Mutex<Vec<Deflate>>; 7],
}

impl fmt::Debug for Compressors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressors").field("level", &self.level).finish_non_exhaustive()
    }
}

impl Compressors {
    pub fn new(level: u8, mem_level: u8) -> Compressors {
        Compressors { level, mem_level, spare: Default::default() }
    }

    /// Appends `plain`, compressed, to `out`: it ends with [`TAIL`], and may refer to what is in the window. `false`: it
    /// would not get smaller, and `out` is as it was.
    pub fn compress(&self, plain: &[u8], window: &Window, bits: u8, out: &mut Vec<u8>) -> bool {
        let from = out.len();
        let spare = &self.spare[usize::from(bits - WINDOW_BITS.start())];
        let kept = spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut deflate = kept.unwrap_or_else(|| self.make(bits));
        // The window is empty at a connection's first message, and then there is nothing to say.
        let primed = window.bytes().is_empty() || deflate.set_dictionary(window.bytes()).is_ok();
        // Room for what does not get smaller as well: codes of a fixed table have nine bits at most.
        out.resize(from + plain.len() + plain.len() / 8 + 64, 0);
        let made = deflate.compress(plain, &mut out[from..], DeflateFlush::SyncFlush);
        let all = deflate.total_in() == plain.len() as u64;
        out.truncate(from + deflate.total_out() as usize);
        let good = primed && made == Ok(Status::Ok) && all && out.ends_with(&TAIL);
        let smaller = out.len() < from + plain.len() + TAIL.len();
        if !(good && smaller) {
            out.truncate(from);
        }
        // One that was stopped amid a block does not begin anew by a reset (zlib-rs 0.6).
        if good {
            deflate.reset();
            let mut spare = spare.lock().unwrap_or_else(PoisonError::into_inner);
            if spare.len() < SPARE {
                spare.push(deflate);
            }
        }
        good && smaller
    }

    fn make(&self, bits: u8) -> Deflate {
        Deflate::new_with_config(DeflateConfig {
            level: self.level.into(),
            // Negative: without a head and a checksum of zlib's.
            window_bits: -i32::from(bits),
            mem_level: self.mem_level.into(),
            ..DeflateConfig::default()
        })
    }
}

/// Inflaters for messages that are under way.
#[derive(Default)]
pub(super) struct Inflaters(Mutex<Vec<Inflater>>);

impl fmt::Debug for Inflaters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inflaters")
    }
}

impl Inflaters {
    /// One for a message that may refer to what is in the window.
    pub fn take(&self, window: &Window) -> Result<Inflater, Refused> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut inflater = kept.unwrap_or_else(Inflater::new);
        inflater.prime(window)?;
        Ok(inflater)
    }

    pub fn give_back(&self, mut inflater: Inflater) {
        inflater.reset();
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE {
            spare.push(inflater);
        }
    }
}

/// Inflates one message, piece by piece.
pub(super) struct Inflater {
    state: Inflate,
    piece: Box<[u8]>,
    filled: usize,
    ended: bool,
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").field("filled", &self.filled).finish_non_exhaustive()
    }
}

impl Inflater {
    fn new() -> Inflater {
        let state = Inflate::new(false, INFLATE_BITS);
        Inflater { state, piece: vec![0; PIECE].into(), filled: 0, ended: false }
    }

    /// Takes some of the input; answers how much. It takes none when the piece is full, or behind a block that said it
    /// was the last.
    pub fn step(&mut self, input: &[u8]) -> Result<usize, Refused> {
        if self.is_full() || self.ended {
            return Ok(0);
        }
        let (took, gave) = (self.state.total_in(), self.state.total_out());
        let room = &mut self.piece[self.filled..];
        let status =
            self.state.decompress(input, room, InflateFlush::SyncFlush).map_err(|_| Refused::Garbage)?;
        self.filled += (self.state.total_out() - gave) as usize;
        self.ended = status == Status::StreamEnd;
        let took = (self.state.total_in() - took) as usize;
        if took < input.len() && !self.is_full() && !self.ended {
            return Err(Refused::Garbage);
        }
        Ok(took)
    }

    pub fn is_full(&self) -> bool {
        self.filled == self.piece.len()
    }

    /// Whether a block said it was the last (RFC 7692 section 7.2.3.4): what comes behind it begins anew.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// What is inflated and was not taken yet.
    pub fn piece(&self) -> &[u8] {
        &self.piece[..self.filled]
    }

    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// Goes on behind a last block, with what has been inflated so far as its window.
    pub fn go_on(&mut self, window: &Window) -> Result<(), Refused> {
        self.state.reset(false);
        self.ended = false;
        self.prime(window)
    }

    /// Whether the input is over where it may be: between two blocks.
    pub fn is_between_blocks(&mut self) -> bool {
        if self.ended {
            return true;
        }
        let mut none = [0; 1];
        let (took, gave) = (self.state.total_in(), self.state.total_out());
        let status = self.state.decompress(&LAST_BLOCK, &mut none, InflateFlush::SyncFlush);
        status == Ok(Status::StreamEnd)
            && self.state.total_out() == gave
            && self.state.total_in() == took + LAST_BLOCK.len() as u64
    }

    fn prime(&mut self, window: &Window) -> Result<(), Refused> {
        match window.bytes() {
            [] => Ok(()),
            bytes => self.state.set_dictionary(bytes).map(drop).map_err(|_| Refused::Garbage),
        }
    }

    fn reset(&mut self) {
        self.state.reset(false);
        self.filled = 0;
        self.ended = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inflate(inflaters: &Inflaters, window: &Window, data: &[u8]) -> Vec<u8> {
        let mut inflater = inflaters.take(window).unwrap();
        assert_eq!(inflater.step(data).unwrap(), data.len());
        assert!(inflater.is_between_blocks());
        let plain = inflater.piece().to_vec();
        inflaters.give_back(inflater);
        plain
    }

    #[test]
    fn what_a_compressor_refers_to_is_what_the_window_has() {
        // covers T16
        let (compressors, inflaters) = (Compressors::new(1, 8), Inflaters::default());
        for bits in 9..=15 {
            let (mut ours, mut theirs) = (Window::new(bits), Window::new(bits));
            let mut sizes = Vec::new();
            for i in 0..40u32 {
                let text = format!(
                    "{{\"type\":\"STATUS\",\"from\":\"dc\",\"to\":\"agni\",\"id\":\"s-{i}\",\"payload\":{{\"load\":{}}}}}",
                    i.wrapping_mul(2_654_435_761)
                );
                let mut out = Vec::new();
                assert!(compressors.compress(text.as_bytes(), &ours, bits, &mut out));
                assert_eq!(inflate(&inflaters, &theirs, &out), text.as_bytes());
                ours.push(text.as_bytes());
                theirs.push(text.as_bytes());
                sizes.push(out.len());
            }
            assert!(sizes[39] * 2 < sizes[0], "the window serves at {bits} bits: {sizes:?}");
            assert!(ours.bytes.capacity() <= 1 << bits);
        }
    }

    #[test]
    fn what_does_not_get_smaller_is_told_and_leaves_nothing_behind() {
        // covers T16
        let compressors = Compressors::new(1, 8);
        let noise = super::super::tests::noise(5000);
        let mut out = vec![7];
        assert!(!compressors.compress(&noise, &Window::new(12), 12, &mut out));
        assert_eq!(out, [7]);
        let window = Window::new(12);
        let mut text = Vec::new();
        assert!(compressors.compress(&[b'a'; 500], &window, 12, &mut text));
        assert_eq!(inflate(&Inflaters::default(), &window, &text), [b'a'; 500]);
    }

    #[test]
    fn a_message_that_is_cut_off_within_a_block_is_noticed() {
        // covers T16
        let mut data = Vec::new();
        let window = Window::new(12);
        assert!(Compressors::new(6, 8).compress(
            &b"seven seas, seven skies. ".repeat(9),
            &window,
            12,
            &mut data
        ));
        let mut inflater = Inflaters::default().take(&window).unwrap();
        inflater.step(&data[..data.len() / 2]).unwrap();
        assert!(!inflater.is_between_blocks());
    }
}
