//! Whether a client has authenticated, and who has ended its connection: what is counted of it hangs on that, and what it
//! means when it is refused, and what it was refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use trishula::gateway::carrier::{Carrier, Incoming, Lost};
use trishula::metrics::IntCounter;
use trishula::wire::close::CloseCode;

use super::{glance, measured};

/// What everything around one session knows of its client.
#[derive(Debug, Clone)]
pub struct Known(Arc<State>);

#[derive(Debug)]
struct State {
    known: AtomicBool,
    /// What counts it once it is known.
    counter: Option<IntCounter>,
    ended: AtomicBool,
    /// The code of the close that was begun; 0: none was.
    closed_with: AtomicU16,
}

impl Known {
    /// `already`: its request or its certificate has said who it is; `counter`: counts it when a token does.
    pub fn new(already: bool, counter: Option<IntCounter>) -> Known {
        let (known, ended, closed_with) =
            (AtomicBool::new(already), AtomicBool::new(false), AtomicU16::new(0));
        Known(Arc::new(State { known, counter, ended, closed_with }))
    }

    /// Whether it is known who it is.
    pub fn is_known(&self) -> bool {
        self.0.known.load(Ordering::Relaxed)
    }

    /// Whether what stands before its session has ended the connection.
    pub fn was_ended(&self) -> bool {
        self.0.ended.load(Ordering::Relaxed)
    }

    /// The client is told this code.
    pub fn closing(&self, code: CloseCode) {
        self.0.closed_with.store(code.number(), Ordering::Relaxed);
    }

    /// The code that the client was told, which may be another than its session's.
    pub fn closed_with(&self) -> Option<u16> {
        Some(self.0.closed_with.load(Ordering::Relaxed)).filter(|code| *code != 0)
    }

    fn learn(&self) {
        if !self.0.known.swap(true, Ordering::Relaxed)
            && let Some(counter) = &self.0.counter
        {
            counter.inc();
        }
    }
}

/// Is told what a session refuses, by the word that metrics have for it.
pub type Refusals = Box<dyn FnMut(&'static str) + Send>;

/// How a session's own frames begin that refuse something; those of agents have other fields there, or are looked at in vain.
const REFUSAL: &[u8] = b"{\"type\":\"ERROR\"";

/// A session's carrier that hears when a token is good, and when the connection is ended before the session does it.
pub struct Hearing<C> {
    inner: C,
    known: Known,
    /// Otherwise it says the same to everybody.
    reads: bool,
    refused: Option<Refusals>,
}

impl<C: Carrier> Hearing<C> {
    /// Around a carrier of our own frames; `reads`: whether the session reads tokens; `refused`: who is told what it refuses.
    pub fn new(inner: C, known: Known, reads: bool, refused: Option<Refusals>) -> Hearing<C> {
        Hearing { inner, known, reads, refused }
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
        let incoming = self.inner.poll_recv(cx);
        if matches!(incoming, Poll::Ready(Incoming::Ended(..))) {
            self.known.0.ended.store(true, Ordering::Relaxed);
        }
        incoming
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        self.inner.poll_ready(cx)
    }

    fn send(&mut self, frame: Bytes) -> Result<(), Lost> {
        // Only the session itself says so: other agents' frames have types of their own.
        if self.reads && !self.known.is_known() && glance::at(&frame).kind == Some("AUTHENTICATED") {
            self.known.learn();
        }
        if let Some(told) = &mut self.refused
            && frame.starts_with(REFUSAL)
            && let Some(what) = measured::error_type(&frame)
        {
            told(what);
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
