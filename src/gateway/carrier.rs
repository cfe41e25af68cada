//! What a session needs of a connection. WebSocket, QUIC stream and Unix socket are each one small file.
//!
//! The methods poll, so that one task can read, write and wait for its node at the same time without a
//! lock: reading must go on while a write waits for a slow client.

use std::task::{Context, Poll};

use bytes::Bytes;

use crate::wire::close::{CloseCode, Refusal};

/// What came from a client.
#[derive(Debug)]
pub enum Incoming {
    /// One frame's text.
    Frame(Bytes),
    /// Something that is no frame of this session's form; the session goes on.
    NoFrame(Refusal),
    /// A sign of life without content.
    Alive,
    /// The answer to the ping of this number; those before it count as answered (RFC 6455 section 5.5.3).
    Pong(u64),
    /// The client has closed; in its words for the log.
    Closed(String),
    /// What stands before the session has ended the connection, with this code and reason, and tells the client so.
    Ended(CloseCode, String),
    /// It can't be read any further.
    Failed(Fault),
}

/// Why a connection can't be read any further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A frame over the limit.
    TooLarge(String),
    /// Text that is not UTF-8.
    NotUtf8,
    /// Broke the carrier's own protocol.
    Protocol(String),
    /// The connection is gone.
    Lost(String),
}

/// The connection is gone: nothing can be written any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the connection is gone: {0}")]
pub struct Lost(pub String);

/// One client's connection.
pub trait Carrier: Send {
    /// `wss`, `quic`, `unix`: for logs and metrics.
    fn name(&self) -> &'static str;

    /// Whether it has a ping of its own that a client's library answers. One without is watched by the
    /// transport below it.
    fn has_ping(&self) -> bool;

    /// Whether a close code reaches the client; where it does not, an ERROR goes ahead of the close.
    fn tells_close(&self) -> bool;

    /// The next thing from the client.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming>;

    /// Whether one more frame can be taken without growing beyond the carrier's buffer.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>>;

    /// Takes a frame, after [`Carrier::poll_ready`] said yes. It need not leave before a flush.
    fn send(&mut self, frame: Bytes) -> Result<(), Lost>;

    /// Takes a ping, where there is one; it leaves behind the frames that were taken before.
    fn ping(&mut self, number: u64) -> Result<(), Lost>;

    /// Writes out what was taken.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>>;

    /// Begins to close.
    fn start_close(&mut self, code: CloseCode, reason: &str);

    /// Goes on closing until the client has seen it or is gone. May be left before its end.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}
