//! Whether a client has authenticated, and who has ended its connection: what is counted of it hangs on that, and what it
//! means when it is refused, and what it was refused.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use serde::Deserialize;
use trishula::gateway::carrier::{Carrier, Incoming, Lost};
use trishula::metrics::IntCounter;
use trishula::wire::close::CloseCode;

use super::glance;
use super::refusing::{self, Spoken};
use crate::door::{Door, Turned};

/// What everything around one session knows of its client.
#[derive(Debug, Clone)]
pub struct Known(Arc<State>);

#[derive(Debug)]
struct State {
    known: AtomicBool,
    /// What counts it once it is known.
    counter: Option<IntCounter>,
    ended: AtomicBool,
    /// That its token was wrong counts against its address already.
    failed: AtomicBool,
    /// Tokens of its that were wrong since the last good one, once it was in.
    wrong: AtomicU32,
    /// The code of the close that was begun; 0: none was.
    closed_with: AtomicU16,
}

impl Known {
    /// `already`: its request or its certificate has said who it is; `counter`: counts it when a token does.
    pub fn new(already: bool, counter: Option<IntCounter>) -> Known {
        let known = AtomicBool::new(already);
        let (ended, failed) = (AtomicBool::new(false), AtomicBool::new(false));
        let (wrong, closed_with) = (AtomicU32::new(0), AtomicU16::new(0));
        Known(Arc::new(State { known, counter, ended, failed, wrong, closed_with }))
    }

    /// Whether it is known who it is.
    pub fn is_known(&self) -> bool {
        self.0.known.load(Ordering::Relaxed)
    }

    /// Whether what stands before its session has ended the connection.
    pub fn was_ended(&self) -> bool {
        self.0.ended.load(Ordering::Relaxed)
    }

    /// Whether it counts against its address already that its token was wrong.
    pub fn has_failed(&self) -> bool {
        self.0.failed.load(Ordering::Relaxed)
    }

    /// A token that was to replace its good one was wrong.
    pub fn refresh_failed(&self) {
        self.0.wrong.fetch_add(1, Ordering::Relaxed);
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
        self.0.wrong.store(0, Ordering::Relaxed);
        if !self.0.known.swap(true, Ordering::Relaxed)
            && let Some(counter) = &self.0.counter
        {
            counter.inc();
        }
    }
}

/// Is told what a session refuses, by the word that metrics have for it.
pub type Refusals = Box<dyn FnMut(&'static str) + Send>;

/// How a session's own frames begin that refuse something. An agent's may as well: it shows by `from` who speaks.
const REFUSAL: &[u8] = b"{\"type\":\"ERROR\"";
/// And those that say that a token is good, of which agents have none.
const WELCOME: &[u8] = b"{\"type\":\"AUTHENTICATED\"";

/// Whether tokens of a client are looked at, and who hears of those that were wrong.
pub struct Gate {
    /// The service's.
    pub door: Arc<Door>,
    /// Where the client is.
    pub from: SocketAddr,
    /// Whether it is told here what the session says of them; an older dialect notes it by itself.
    pub counts: bool,
}

/// A session's carrier that hears when a token is good, and when the connection is ended before the session does it. And it
/// asks at each token whether those of this address are looked at.
pub struct Hearing<C> {
    inner: C,
    known: Known,
    /// `None`: the session reads no tokens, and says the same to everybody.
    gate: Option<Gate>,
    refused: Option<Refusals>,
    /// What the client is told here, before it is read any further.
    answer: Option<Bytes>,
    unflushed: bool,
}

/// What it takes to know AUTH where a glance is not enough.
#[derive(Deserialize)]
struct Typed<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

/// Whether a session will take this frame for AUTH.
fn is_auth(frame: &[u8]) -> bool {
    let is = |kind: &str| kind.eq_ignore_ascii_case("AUTH");
    match glance::at(frame).kind {
        Some(kind) if !kind.contains('\\') => is(kind),
        // Far behind, or written with escapes.
        _ => serde_json::from_slice::<Typed<'_>>(frame).is_ok_and(|typed| is(&typed.kind)),
    }
}

impl<C: Carrier> Hearing<C> {
    /// Around a carrier of our own frames; `gate`: for a session that reads tokens; `refused`: who is told what it refuses.
    pub fn new(inner: C, known: Known, gate: Option<Gate>, refused: Option<Refusals>) -> Hearing<C> {
        Hearing { inner, known, gate, refused, answer: None, unflushed: false }
    }

    /// Why it is not looked at, if that is a token of an address whose tokens are not looked at now.
    fn turned(&self, frame: &[u8]) -> Option<Turned> {
        let gate = self.gate.as_ref().filter(|_| is_auth(frame))?;
        gate.door.hears_tokens(gate.from).err()
    }

    /// What becomes of that. Who is in has shown a good token, and its address may be many people's: it stays until
    /// it has itself guessed as often as an address may.
    fn turn(&mut self, frame: &[u8], turned: &Turned) -> Option<Incoming> {
        let own = self.known.0.wrong.load(Ordering::Relaxed);
        let may_stay = self.gate.as_ref().is_some_and(|gate| own <= gate.door.tries());
        if let Turned::Failed(wait) = turned
            && may_stay
            && self.known.is_known()
        {
            self.answer = Some(refusing::not_now(frame, &turned.refusal(), *wait));
            return None;
        }
        self.known.0.ended.store(true, Ordering::Relaxed);
        Some(Incoming::Ended(turned.close(), turned.refusal().message))
    }

    /// Tells the client what it is told here.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        if self.answer.is_some() {
            ready!(self.inner.poll_ready(cx))?;
            if let Some(answer) = self.answer.take() {
                self.inner.send(answer)?;
                self.unflushed = true;
            }
        }
        if self.unflushed {
            ready!(self.inner.poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// The session has refused something, or an agent's message looks so.
    fn refusing(&mut self, frame: &[u8]) {
        let spoken = Spoken::read(frame);
        let Some(about) = spoken.as_ref().and_then(Spoken::of_mesh) else { return };
        if let Some(gate) = self.gate.as_ref().filter(|gate| gate.counts && about.refuses_token()) {
            // At once: others of this address show theirs at this moment. And each of them: where none is needed, the
            // connection stays.
            if self.known.is_known() {
                self.known.refresh_failed();
                gate.door.refresh_failed(gate.from);
            } else {
                self.known.0.failed.store(true, Ordering::Relaxed);
                gate.door.failed(gate.from);
            }
        }
        if let Some(told) = &mut self.refused
            && let Some(what) = about.word()
        {
            told(what);
        }
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
        loop {
            if ready!(self.poll_answer(cx)).is_err() {
                // The session will find that out, and reads on until then.
                (self.answer, self.unflushed) = (None, false);
            }
            let incoming = ready!(self.inner.poll_recv(cx));
            match &incoming {
                Incoming::Ended(..) => self.known.0.ended.store(true, Ordering::Relaxed),
                Incoming::Frame(frame) => {
                    if let Some(turned) = self.turned(frame) {
                        match self.turn(frame, &turned) {
                            Some(ended) => return Poll::Ready(ended),
                            None => continue,
                        }
                    }
                }
                _ => {}
            }
            return Poll::Ready(incoming);
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        self.inner.poll_ready(cx)
    }

    fn send(&mut self, frame: Bytes) -> Result<(), Lost> {
        if self.gate.is_some() && frame.starts_with(WELCOME) {
            self.known.learn();
        }
        if frame.starts_with(REFUSAL) {
            self.refusing(&frame);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_however_it_is_written() {
        // covers B09
        let far = format!(r#"{{"x":"{}","type":"AUTH","token":"t"}}"#, "x".repeat(5000));
        for frame in [
            r#"{"type":"AUTH","token":"t"}"#,
            r#"{ "token" : "t", "type" : "auth" }"#,
            r#"{"type":"A\u0055TH","token":"t"}"#,
            r#"{"t\u0079pe":"AUTH","to":"x"}"#,
            &far,
        ] {
            assert!(is_auth(frame.as_bytes()), "{frame}");
        }
        for frame in ["", "[]", r#"{"type":"STATUS","to":"x","payload":{"type":"AUTH"}}"#, r#"{"type":1}"#] {
            assert!(!is_auth(frame.as_bytes()), "{frame}");
        }
    }
}
