//! Whether a client has authenticated: what is counted of it hangs on that, and what it means when it is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use trishula::gateway::carrier::{Carrier, Incoming, Lost};
use trishula::wire::close::CloseCode;

use super::glance;

/// What everything around one session knows of its client.
#[derive(Debug, Clone)]
pub struct Known(Arc<AtomicBool>);

impl Known {
    /// `already`: its request or its certificate has said who it is.
    pub fn new(already: bool) -> Known {
        Known(Arc::new(AtomicBool::new(already)))
    }

    /// Whether it is known who it is.
    pub fn is_known(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A session's carrier that hears when a token is good.
pub struct Hearing<C> {
    inner: C,
    /// `None`: the session reads no tokens, and says the same to everybody.
    known: Option<Known>,
}

impl<C: Carrier> Hearing<C> {
    /// Around a carrier of our own frames; `reads`: whether the session reads tokens.
    pub fn new(inner: C, known: Known, reads: bool) -> Hearing<C> {
        Hearing { inner, known: reads.then_some(known) }
    }
}

impl<C: Carrier> Carrier for Hearing<C> {
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
        self.inner.poll_recv(cx)
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        self.inner.poll_ready(cx)
    }

    fn send(&mut self, frame: Bytes) -> Result<(), Lost> {
        // Only the session itself says so: other agents' frames have types of their own.
        if let Some(known) = self.known.as_ref().filter(|known| !known.is_known())
            && glance::at(&frame).kind == Some("AUTHENTICATED")
        {
            known.0.store(true, Ordering::Relaxed);
        }
        self.inner.send(frame)
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
