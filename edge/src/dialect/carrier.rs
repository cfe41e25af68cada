//! A WebSocket whose client speaks a dialect, as a session's carrier: the session behind knows nothing of it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Sleep;
use trishula::gateway::carrier::{Carrier, Incoming, Lost};
use trishula::metrics;
use trishula::rt::clock;
use trishula::wire::close::CloseCode;

use super::step::{Note, Now, Step, Steps};
use super::{Dialect, MAX_FRAME};

/// Frames for the client, and bytes of them, beyond which it is not read: it has to take its answers first.
const MAX_OUT: (usize, usize) = (256, MAX_FRAME);
/// Longest sleep of the timer.
const LONGEST: Duration = Duration::from_secs(3600);

/// What goes to the client, in order.
enum Out {
    Frame(Bytes),
    Ping(u64),
}

/// Something of a client's that an operator may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// What its dialect noted.
    Note(Note),
    /// Its dialect, or its silence, has ended the connection so; not the session, which tells of its ends itself.
    Closed(CloseCode),
}

/// Hears of it.
pub type Watcher = Box<dyn FnMut(Seen) + Send>;

/// A carrier with a dialect before it.
pub struct Translated<C> {
    inner: C,
    dialect: Dialect,
    steps: Steps,
    to_session: VecDeque<Bytes>,
    /// What the session is told when all of `to_session` is read.
    last: Option<Incoming>,
    to_client: VecDeque<Out>,
    bytes: usize,
    /// Something was handed on that the session does not know of, and so does not flush.
    unflushed: bool,
    /// How the connection ends, once all of `to_client` is written.
    close: Option<(CloseCode, String)>,
    /// The dialect has ended the connection.
    ended: bool,
    /// The session ends it.
    closing: bool,
    timer: Pin<Box<Sleep>>,
    /// What the timer is set to.
    due: Option<u64>,
    /// How long nothing may be said, in microseconds, and when something was last; 0: for ever.
    idle: u64,
    said_at: u64,
    watcher: Option<Watcher>,
}

impl<C: Carrier> Translated<C> {
    /// A connection whose upgrade was just granted.
    pub fn new(inner: C, mut dialect: Dialect) -> Translated<C> {
        let mut steps = Steps::new();
        dialect.start(now(), &mut steps);
        let mut carrier = Translated {
            inner,
            dialect,
            steps,
            to_session: VecDeque::new(),
            last: None,
            to_client: VecDeque::new(),
            bytes: 0,
            unflushed: false,
            close: None,
            ended: false,
            closing: false,
            timer: Box::pin(tokio::time::sleep(LONGEST)),
            due: None,
            idle: 0,
            said_at: now().micros,
            watcher: None,
        };
        carrier.follow();
        carrier
    }

    /// Closes the connection when nobody has said anything for so long; zero: never.
    pub fn closing_after(mut self, idle: Duration) -> Translated<C> {
        self.idle = u64::try_from(idle.as_micros()).unwrap_or(u64::MAX);
        self
    }

    /// Tells `watcher` what an operator may want to know, from now on.
    pub fn watched(mut self, watcher: Watcher) -> Translated<C> {
        self.watcher = Some(watcher);
        self
    }

    /// Gives the dialect a frame that was read already.
    pub fn having_read(mut self, frame: &Bytes) -> Translated<C> {
        self.dialect.client(now(), frame, &mut self.steps);
        self.follow();
        self
    }

    /// Waits until the client has shown what it speaks, which its silence does as well, or is gone.
    pub async fn shown(&mut self) {
        poll_fn(|cx| {
            let mut gone = false;
            while !gone && self.dialect.is_undecided() {
                match self.poll_recv(cx) {
                    Poll::Pending if self.dialect.is_undecided() => return Poll::Pending,
                    Poll::Pending => {}
                    Poll::Ready(incoming) => {
                        gone = matches!(
                            incoming,
                            Incoming::Closed(_) | Incoming::Ended(..) | Incoming::Failed(_)
                        );
                    }
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    fn saw(&mut self, seen: Seen) {
        if let Some(watcher) = &mut self.watcher {
            watcher(seen);
        }
    }

    /// When something is due, of the dialect or of the connection.
    fn next_due(&self) -> Option<u64> {
        let idle = (self.idle > 0).then(|| self.said_at.saturating_add(self.idle));
        [self.dialect.next_due(), idle].into_iter().flatten().min()
    }

    fn close_if_idle(&mut self, micros: u64) {
        if self.idle > 0 && micros >= self.said_at.saturating_add(self.idle) {
            self.ended = true;
            self.close.get_or_insert((CloseCode::GoingAway, "idle".into()));
            self.saw(Seen::Closed(CloseCode::GoingAway));
        }
    }

    /// Does what the dialect said.
    fn follow(&mut self) {
        let steps: Vec<Step> = self.steps.take().collect();
        for step in steps {
            match step {
                Step::ToSession(frame) => self.to_session.push_back(frame),
                Step::ToClient(frame) => {
                    self.bytes += frame.len();
                    self.to_client.push_back(Out::Frame(frame));
                }
                Step::Close(code, reason) => {
                    self.ended = true;
                    self.close.get_or_insert((code, reason));
                    if !self.closing {
                        self.saw(Seen::Closed(code));
                    }
                }
                Step::Note(note) => {
                    metrics::DIALECT_NOTES.with_label_values(&[note.as_str()]).inc();
                    tracing::debug!(note = note.as_str(), "a client of an older dialect");
                    self.saw(Seen::Note(note));
                }
            }
        }
    }

    /// Hands on what waits for the client, as far as there is room.
    fn poll_pump(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        while !self.to_client.is_empty() {
            ready!(self.inner.poll_ready(cx))?;
            match self.to_client.pop_front() {
                Some(Out::Frame(frame)) => {
                    self.bytes -= frame.len();
                    self.inner.send(frame)?;
                }
                Some(Out::Ping(number)) => self.inner.ping(number)?,
                None => {}
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The same, written out.
    fn poll_own(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        self.unflushed |= !self.to_client.is_empty();
        ready!(self.poll_pump(cx))?;
        if self.unflushed {
            ready!(self.inner.poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Lets the dialect do what is due, and sets the timer to the next thing.
    fn poll_due(&mut self, cx: &mut Context<'_>) {
        loop {
            let Some(at) = self.next_due().filter(|_| !self.ended && self.close.is_none()) else {
                self.due = None;
                return;
            };
            let time = now();
            if at <= time.micros {
                self.dialect.due(time, &mut self.steps);
                self.follow();
                self.close_if_idle(time.micros);
                continue;
            }
            if self.due != Some(at) {
                self.due = Some(at);
                // The timer counts in milliseconds and rounds up; so do we, or it would fire once too early.
                let wait = Duration::from_micros((at - time.micros).div_ceil(1000) * 1000).min(LONGEST);
                self.timer.set(tokio::time::sleep(wait));
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return;
            }
            self.due = None;
        }
    }

    /// Whether one more frame of the client's finds room behind what it has not taken yet.
    fn has_room(&self) -> bool {
        self.to_client.len() < MAX_OUT.0 && self.bytes < MAX_OUT.1
    }

    /// The client is not heard any more: the dialect's last words for the session go ahead of that.
    fn gone(&mut self, incoming: Incoming) {
        self.dialect.client_gone(&mut self.steps);
        self.follow();
        self.last = Some(incoming);
    }
}

impl<C: Carrier> Carrier for Translated<C> {
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
            self.poll_due(cx);
            // What the dialect says of its own accord goes out here, as the session knows nothing of it.
            if let Poll::Ready(Err(lost)) = self.poll_own(cx) {
                self.to_client.clear();
                self.gone(Incoming::Closed(lost.0));
            }
            if let Some(frame) = self.to_session.pop_front() {
                return Poll::Ready(Incoming::Frame(frame));
            }
            if let Some(last) = self.last.take() {
                return Poll::Ready(last);
            }
            if std::mem::take(&mut self.ended) {
                let (code, reason) = self.close.clone().unwrap_or((CloseCode::Normal, String::new()));
                return Poll::Ready(Incoming::Ended(code, reason));
            }
            if self.close.is_some() || !self.dialect.hears_client() || !self.has_room() {
                return Poll::Pending;
            }
            match ready!(self.inner.poll_recv(cx)) {
                Incoming::Frame(frame) => {
                    let time = now();
                    self.said_at = time.micros;
                    self.dialect.client(time, &frame, &mut self.steps);
                    self.follow();
                }
                end @ (Incoming::Closed(_) | Incoming::Ended(..) | Incoming::Failed(_)) => self.gone(end),
                sign @ (Incoming::NoFrame(_) | Incoming::Alive | Incoming::Pong(_)) => {
                    return Poll::Ready(sign);
                }
            }
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        ready!(self.poll_own(cx))?;
        self.inner.poll_ready(cx)
    }

    fn send(&mut self, frame: Bytes) -> Result<(), Lost> {
        let time = now();
        self.said_at = time.micros;
        self.dialect.session(time, &frame, &mut self.steps);
        self.follow();
        Ok(())
    }

    fn ping(&mut self, number: u64) -> Result<(), Lost> {
        self.to_client.push_back(Out::Ping(number));
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        ready!(self.poll_pump(cx))?;
        ready!(self.inner.poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn start_close(&mut self, code: CloseCode, reason: &str) {
        self.closing = true;
        self.dialect.session_closes(now(), code, reason, &mut self.steps);
        self.follow();
        self.close.get_or_insert_with(|| (code, reason.to_owned()));
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Whether all could be written or not, nothing more can be done for it.
        let _ = ready!(self.poll_pump(cx));
        self.to_client.clear();
        if let Some((code, reason)) = self.close.take() {
            self.inner.start_close(code, &reason);
        }
        self.inner.poll_closed(cx)
    }
}

fn now() -> Now {
    Now { micros: clock::micros(), wall_ms: clock::wall_ms() }
}
