//! permessage-deflate (RFC 7692): compressed messages for clients that offer it.
//!
//! tungstenite has no extensions. So this is a filter below it, between TLS and the WebSocket: it inflates what comes
//! and hands it on as plain frames, and deflates the frames that go. Whoever is above sees an uncompressed WebSocket.
//!
//! | file | what is in it |
//! |---|---|
//! | this one | settings, and what a listener's connections share |
//! | `offer` | the handshake: what a client offers, what is agreed. Pure |
//! | `frame` | heads of frames (RFC 6455 section 5.2). Pure |
//! | `codec` | deflate and inflate with a window that is kept apart. Pure |
//! | `inbound` | compressed messages to plain frames. Pure |
//! | `outbound` | plain frames to compressed messages. Pure |
//! | `io` | the filter: bytes of a connection through both |
//!
//! A connection keeps nothing but the latest bytes of either direction, as many as its windows have. Compressors
//! (about 250 KiB each) and inflaters (about 60 KiB) belong to the listener: one is primed with a connection's bytes
//! when it is needed, which is as good as having kept it, and taken back behind the message.

mod codec;
mod frame;
mod inbound;
mod io;
mod offer;
mod outbound;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::Deserialize;
use trishula::metrics::{self, IntCounter};

pub use io::DeflateIo;
pub use offer::{Agreed, agree};

/// zlib knows no window of 8 bits when it compresses.
const WINDOW_BITS: RangeInclusive<u8> = 9..=15;

/// `[service.deflate]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Whether it is agreed to at all.
    pub enabled: bool,
    /// Messages to clients that are smaller, in bytes, are sent as they are.
    pub min_size: usize,
    /// 1 (fast) to 9 (small).
    pub level: u8,
    /// The window of either direction is 2 to this power bytes at most; a connection keeps as much of each.
    pub window_bits: u8,
    /// How much memory a compressor takes for its codes, 1 to 9; see zlib's `memLevel`.
    pub mem_level: u8,
    /// Whether a message may refer to those before it. Without, a connection keeps nothing between messages.
    pub context_takeover: bool,
    /// A message of more than 1 MiB that is so many times as large as what it came as is refused.
    pub max_ratio: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            min_size: 256,
            level: 1,
            window_bits: 12,
            mem_level: 8,
            context_takeover: true,
            max_ratio: 200,
        }
    }
}

impl Settings {
    /// The key at fault, and why.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let bounds = [
            ("deflate.min_size", self.min_size as u64, 0, 16 << 20),
            ("deflate.level", self.level.into(), 1, 9),
            ("deflate.window_bits", self.window_bits.into(), 9, 15),
            ("deflate.mem_level", self.mem_level.into(), 1, 9),
            // What deflate can't exceed is 1032.
            ("deflate.max_ratio", self.max_ratio.into(), 10, 1032),
        ];
        match bounds.into_iter().find(|(_, value, low, high)| !(*low..=*high).contains(value)) {
            Some((key, value, low, high)) => Err((key, format!("{value} is not from {low} to {high}"))),
            None => Ok(()),
        }
    }
}

/// Why a compressed message was refused: the connection is then closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Inflated, or as it came, it is over the limit.
    #[error("the compressed message has more than the {0} bytes that are taken")]
    TooLarge(u64),
    /// It inflates more than anything that was written for a reader.
    #[error("the compressed message is more than {0} times as large as what came")]
    Ratio(u32),
    /// No deflate (RFC 1951), or cut off.
    #[error("a compressed message that can't be inflated")]
    Garbage,
    /// A message within another.
    #[error("a new message before the end of a compressed one")]
    Interleaved,
}

impl Refused {
    /// The label of the metric.
    fn reason(self) -> &'static str {
        match self {
            Refused::TooLarge(_) => "too_large",
            Refused::Ratio(_) => "ratio",
            Refused::Garbage => "garbage",
            Refused::Interleaved => "interleaved",
        }
    }
}

/// What the connections of one listener share.
#[derive(Debug)]
pub struct Shared {
    settings: Settings,
    /// Largest message, inflated.
    max_message: u64,
    compressors: codec::Compressors,
    inflaters: codec::Inflaters,
    bytes: Bytes,
}

/// Bytes of compressed messages: by direction, as they travelled and as they are read.
#[derive(Debug)]
struct Bytes {
    in_wire: IntCounter,
    in_plain: IntCounter,
    out_wire: IntCounter,
    out_plain: IntCounter,
}

impl Shared {
    /// For a listener that takes messages up to `max_message` bytes; `None`: nothing is compressed there.
    pub fn new(settings: &Settings, max_message: usize) -> Option<Arc<Shared>> {
        let counter = |way, form| metrics::DEFLATE_BYTES.with_label_values(&[way, form]);
        let shared = || {
            Arc::new(Shared {
                settings: settings.clone(),
                max_message: max_message as u64,
                compressors: codec::Compressors::new(settings.level, settings.mem_level),
                inflaters: codec::Inflaters::default(),
                bytes: Bytes {
                    in_wire: counter("in", "wire"),
                    in_plain: counter("in", "plain"),
                    out_wire: counter("out", "wire"),
                    out_plain: counter("out", "plain"),
                },
            })
        };
        settings.enabled.then(shared)
    }

    /// What a request's offers (values of `Sec-WebSocket-Extensions`) come to, and the answer's value.
    pub fn agree<'a>(&self, offers: impl Iterator<Item = &'a str>) -> Option<(Agreed, String)> {
        agree(offers, &self.settings)
    }
}
