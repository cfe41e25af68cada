//! Compressed messages of a client to plain frames.

use std::sync::Arc;

use bytes::{Buf, BytesMut};

use super::codec::{Inflater, TAIL, Window};
use super::frame::{self, CONTINUATION, FIN, Head, RSV1};
use super::{Agreed, Refused, Shared};

/// Output beyond which nothing more is inflated before it is read.
const HIGH: usize = 64 * 1024;
/// Bytes that are unmasked at once.
const STEP: usize = 4096;
/// Up to this size nobody asks how well a message was compressed: so much any client may have us hold without compression, and
/// snapshots of grids and pixels are as much alike as a bomb is.
const RATIO_FROM: u64 = 1024 * 1024;
/// What a message may take on the wire beyond twice its limit: heads of fragments, and blocks that did not get smaller.
const WIRE_BEYOND: u64 = 64 * 1024;

/// The way in of one connection.
#[derive(Debug)]
pub(super) struct Inbound {
    shared: Arc<Shared>,
    window: Window,
    takeover: bool,
    state: State,
    message: Option<Message>,
    /// As it came.
    raw: BytesMut,
    /// As it is passed on.
    cooked: BytesMut,
}

/// A compressed message that is under way.
#[derive(Debug)]
struct Message {
    inflater: Inflater,
    /// Until its first frame is passed on.
    opcode: Option<u8>,
    /// Bytes of frames so far.
    wire: u64,
    /// Bytes of payload among them.
    packed: u64,
    /// Bytes inflated and passed on.
    plain: u64,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Head,
    /// So many bytes go on as they are.
    Pass {
        left: u64,
    },
    /// A frame of a compressed message.
    Inflate {
        left: u64,
        mask: [u8; 4],
        at: usize,
        fin: bool,
    },
    /// It is over but for what does not travel, of which the inflater has so many bytes.
    Finish {
        fed: usize,
    },
}

impl Inbound {
    pub fn new(shared: Arc<Shared>, agreed: &Agreed) -> Inbound {
        Inbound {
            shared,
            // zlib compresses with 9 bits when it is told 8.
            window: Window::new(agreed.client_bits.max(9)),
            takeover: agreed.client_takeover,
            state: State::Head,
            message: None,
            raw: BytesMut::new(),
            cooked: BytesMut::new(),
        }
    }

    /// Takes what came.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
    }

    /// Takes out at most so many bytes to be read, and answers them.
    pub fn read(&mut self, most: usize, into: impl FnOnce(&[u8])) -> bool {
        if self.cooked.is_empty() {
            return false;
        }
        let n = most.min(self.cooked.len());
        into(&self.cooked[..n]);
        self.cooked.advance(n);
        if self.cooked.is_empty() {
            self.cooked = BytesMut::new();
        }
        true
    }

    /// Goes on with what came, until there is enough to be read or more must come.
    ///
    /// # Errors
    ///
    /// The connection can't be read any further.
    pub fn cook(&mut self) -> Result<(), Refused> {
        while self.cooked.len() < HIGH {
            let goes_on = match self.state {
                State::Head => self.head()?,
                State::Pass { left } => self.pass(left),
                State::Inflate { left, mask, at, fin } => self.inflate(left, mask, at, fin)?,
                State::Finish { fed } => self.finish(fed)?,
            };
            if !goes_on {
                // Between messages a connection holds nothing.
                if self.raw.is_empty() {
                    self.raw = BytesMut::new();
                }
                return Ok(());
            }
        }
        Ok(())
    }

    fn head(&mut self) -> Result<bool, Refused> {
        let Some(head) = Head::read(&self.raw) else { return Ok(false) };
        let begins = head.begins() && head.reserved() == RSV1 && self.message.is_none();
        let goes_on = head.opcode() == CONTINUATION && head.reserved() == 0 && self.message.is_some();
        let Some(mask) = head.mask.filter(|_| begins || goes_on) else {
            if head.begins() && self.message.is_some() {
                return Err(self.refuse(Refused::Interleaved));
            }
            // Control frames, plain messages, and what breaks the rules: tungstenite says so.
            self.cooked.extend_from_slice(&self.raw[..head.length]);
            self.raw.advance(head.length);
            self.state = State::Pass { left: head.payload };
            return Ok(true);
        };
        if begins {
            let inflater = self.shared.inflaters.take(&self.window)?;
            let opcode = Some(head.opcode());
            self.message = Some(Message { inflater, opcode, wire: 0, packed: 0, plain: 0 });
        }
        self.raw.advance(head.length);
        let limit = self.shared.max_message;
        if let Some(message) = &mut self.message {
            message.wire = message.wire.saturating_add(head.payload).saturating_add(head.length as u64);
            message.packed = message.packed.saturating_add(head.payload);
            if message.wire > 2 * limit + WIRE_BEYOND {
                return Err(self.refuse(Refused::TooLarge(limit)));
            }
        }
        self.state = State::Inflate { left: head.payload, mask, at: 0, fin: head.is_final() };
        Ok(true)
    }

    fn pass(&mut self, left: u64) -> bool {
        let n = at_most(left, self.raw.len());
        self.cooked.extend_from_slice(&self.raw[..n]);
        self.raw.advance(n);
        let left = left - n as u64;
        self.state = if left == 0 { State::Head } else { State::Pass { left } };
        left == 0
    }

    fn inflate(&mut self, left: u64, mask: [u8; 4], at: usize, fin: bool) -> Result<bool, Refused> {
        if left == 0 {
            self.state = if fin { State::Finish { fed: 0 } } else { State::Head };
            return Ok(true);
        }
        let n = at_most(left, self.raw.len()).min(STEP);
        if n == 0 {
            return Ok(false);
        }
        let mut clear = [0; STEP];
        frame::unmask(&self.raw[..n], mask, at, &mut clear[..n]);
        let took = self.step(&clear[..n])?;
        self.raw.advance(took);
        self.state = State::Inflate { left: left - took as u64, mask, at: (at + took) & 3, fin };
        Ok(true)
    }

    /// The end of a message's data, which its sender has cut off (RFC 7692 section 7.2.2).
    fn finish(&mut self, fed: usize) -> Result<bool, Refused> {
        let Some(message) = &mut self.message else { return Err(Refused::Garbage) };
        // A message whose last block said so may end there, and one of no bytes at all is empty.
        if fed < TAIL.len() && message.packed > 0 && !message.inflater.has_ended() {
            let took = self.step(&TAIL[fed..])?;
            self.state = State::Finish { fed: fed + took };
            return Ok(true);
        }
        let whole = message.packed == 0 || message.inflater.is_between_blocks();
        if !whole {
            return Err(self.refuse(Refused::Garbage));
        }
        self.emit(true)?;
        self.state = State::Head;
        if let Some(message) = self.message.take() {
            self.shared.bytes.in_wire.inc_by(message.packed);
            self.shared.bytes.in_plain.inc_by(message.plain);
            self.shared.inflaters.give_back(message.inflater);
        }
        if !self.takeover {
            self.window.forget();
        }
        Ok(true)
    }

    /// Inflates some of the input; answers how much of it.
    fn step(&mut self, input: &[u8]) -> Result<usize, Refused> {
        let Some(message) = &mut self.message else { return Err(Refused::Garbage) };
        if message.inflater.has_ended() {
            self.emit(false)?;
            let Some(message) = &mut self.message else { return Err(Refused::Garbage) };
            message.inflater.go_on(&self.window)?;
            return Ok(0);
        }
        let took = message.inflater.step(input);
        let full = message.inflater.is_full();
        let took = took.map_err(|why| self.refuse(why))?;
        if full {
            self.emit(false)?;
        }
        Ok(took)
    }

    /// Passes on what is inflated, as a frame of its own, unless it is too much.
    fn emit(&mut self, fin: bool) -> Result<(), Refused> {
        let Some(message) = &mut self.message else { return Ok(()) };
        let piece = message.inflater.piece();
        if piece.is_empty() && !fin {
            return Ok(());
        }
        message.plain += piece.len() as u64;
        let (limit, ratio) = (self.shared.max_message, self.shared.settings.max_ratio);
        if message.plain > limit {
            return Err(self.refuse(Refused::TooLarge(limit)));
        }
        if message.plain > RATIO_FROM && message.plain / message.wire.max(1) >= u64::from(ratio) {
            return Err(self.refuse(Refused::Ratio(ratio)));
        }
        let opcode = message.opcode.take().unwrap_or(CONTINUATION);
        let first = if fin { FIN | opcode } else { opcode };
        frame::put(&mut self.cooked, first, piece.len() as u64, true);
        self.cooked.extend_from_slice(piece);
        self.window.push(piece);
        message.inflater.clear();
        Ok(())
    }

    /// Lets go of what is under way: nothing more is read.
    fn refuse(&mut self, why: Refused) -> Refused {
        self.message = None;
        self.window.forget();
        (self.raw, self.cooked) = (BytesMut::new(), BytesMut::new());
        why
    }
}

fn at_most(left: u64, most: usize) -> usize {
    usize::try_from(left).map_or(most, |left| left.min(most))
}
