//! A WebSocket whose client speaks MessagePack, as a session's carrier.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use trishula::gateway::carrier::{Carrier, Incoming, Lost};
use trishula::wire::close::CloseCode;

use super::{decode, encode};

/// A carrier whose frames are MessagePack on the client's side, and JSON on the session's.
pub struct Packed<C> {
    inner: C,
    /// Largest JSON form of a frame, in bytes.
    max_frame: usize,
}

impl<C: Carrier> Packed<C> {
    /// Around a carrier that takes binary messages and sends such.
    pub fn new(inner: C, max_frame: usize) -> Packed<C> {
        Packed { inner, max_frame }
    }
}

impl<C: Carrier> Carrier for Packed<C> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn has_ping(&self) -> bool {
        self.inner.has_ping()
    }

    fn tells_close(&self) -> bool {
        self.inner.tells_close()
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        Poll::Ready(match ready!(self.inner.poll_recv(cx)) {
            Incoming::Frame(packed) => match decode::to_json(&packed, self.max_frame) {
                Ok(text) => Incoming::Frame(text),
                Err(refusal) => Incoming::NoFrame(refusal),
            },
            other => other,
        })
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        self.inner.poll_ready(cx)
    }

    fn send(&mut self, frame: Bytes) -> Result<(), Lost> {
        match encode::from_json(&frame) {
            Some(packed) => self.inner.send(packed),
            // Every entrance checks what it takes: there is no such frame but by a fault of ours.
            None => {
                tracing::error!(
                    bytes = frame.len(),
                    "a frame that is no JSON was not passed on to a MessagePack client"
                );
                Ok(())
            }
        }
    }

    fn ping(&mut self, number: u64) -> Result<(), Lost> {
        self.inner.ping(number)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        self.inner.poll_flush(cx)
    }

    fn start_close(&mut self, code: CloseCode, reason: &str) {
        self.inner.start_close(code, reason);
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.inner.poll_closed(cx)
    }
}
