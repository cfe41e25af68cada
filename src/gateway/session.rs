//! One client's life, over any carrier: who it is, as whom it is registered, what it sends and gets, and
//! how it ends (docs/protocol.md).
//!
//! | file | what is in it |
//! |---|---|
//! | this one | the loop: what happens next, and the end |
//! | `frames` | what each frame of the client does |
//! | `notices` | what comes from the node |
//! | `watch` | deadlines: token, registration, signs of life |
//! | `reply` | frames in which the server itself speaks |
//! | `settings` | what an operator decides about it |
//! | `rooms` | rooms: what it asks, and what it is told |
//! | `settle` | durable messages in its hands: written, acknowledged, refused |
//! | `unanswered` | what it has sent and heard nothing of |
//! | `measure` | what the metrics say of its messages |

mod ends;
mod frames;
mod measure;
mod notices;
mod reply;
mod rooms;
mod settings;
mod settle;
mod unanswered;
mod watch;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;

pub use measure::RoomTimes;
pub use settings::Settings;

use ends::{lost_end, refused_end, silent_end, stopping};

use super::auth::{Identity, Verifier};
use super::carrier::{Carrier, Fault, Incoming};
use super::hub::{Arrival, Delivery, End, HubHandle, Notice, Seat};
use super::readers::RoomNews;
use crate::link;
use crate::metrics;
use crate::rt::clock;
use crate::wire::client::{Parsed, Register};
use crate::wire::close::{CloseCode, Code, Refusal};
use crate::wire::frame::Receipt;
use crate::wire::ids::{AgentAddr, MessageId, Namespace, NodeName, Sequence};

/// What the log says when a session has ended, beside who it was, how long it was there, what came and went, and why.
pub const LOGGED_END: &str = "session ended";

/// Refused frames in a row that end a session.
const MAX_BAD_IN_A_ROW: u32 = 32;
/// Deliveries written before the client is read again.
const WRITE_TURNS: u32 = 64;
/// How long a close may take before the connection is dropped.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// How long a connection that takes nothing more is read on.
const HEAR_OUT_WITHIN: Duration = Duration::from_secs(1);

/// How a session begins.
#[derive(Debug, Clone)]
pub struct Opening {
    /// The namespace of the listener.
    pub namespace: Namespace,
    /// Who it is, when a header, a certificate or the operating system has said so already.
    pub identity: Option<Identity>,
    /// Checks its tokens; `None` where none is read.
    pub verifier: Option<Arc<Verifier>>,
    /// The operator's decisions.
    pub settings: Arc<Settings>,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The code it was closed with; `None`: the connection broke.
    pub code: Option<CloseCode>,
    /// In words.
    pub reason: String,
}

impl Ended {
    /// The code's number, or `lost`.
    fn code_text(&self) -> String {
        self.code.map_or_else(|| "lost".into(), |code| code.number().to_string())
    }
}

/// Serves one client until its end.
pub async fn serve<C: Carrier>(carrier: C, opening: Opening, hub: &HubHandle) -> Ended {
    let Ok(seat) = hub.open().await else {
        return Ended { code: Some(CloseCode::Restart), reason: "the process is stopping".into() };
    };
    let gateway = carrier.name();
    metrics::SESSIONS.with_label_values(&[gateway]).inc();
    let mut session = Session::new(carrier, opening, seat);
    let ended = session.run().await;
    metrics::SESSIONS.with_label_values(&[gateway]).dec();
    metrics::SESSIONS_CLOSED.with_label_values(&[gateway, &ended.code_text()]).inc();
    session.log_end(gateway, &ended);
    ended
}

/// Closes a connection that gets no session.
pub async fn turn_away<C: Carrier>(carrier: C, code: CloseCode) {
    close(carrier, code, "").await;
}

/// Closes a connection that has none, with a reason, and waits a little for the client to see it.
pub async fn close<C: Carrier>(mut carrier: C, code: CloseCode, reason: &str) {
    carrier.start_close(code, reason);
    let closed = poll_fn(|cx| carrier.poll_closed(cx));
    // A client that does not take part in closing is left.
    let _ = tokio::time::timeout(CLOSE_WITHIN, closed).await;
}

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No token yet.
    Unauthenticated,
    /// Known, and not yet registered: REGISTER may still come.
    Authenticated,
    /// Registered, or under way to it.
    Registered,
    /// Said UNREGISTER.
    Unregistered,
}

/// A registration that the node has not answered yet. Nothing is read from the client meanwhile.
struct Attaching {
    /// In [`clock::micros`].
    deadline: u64,
    /// The REGISTER to answer: its id. `None`: nobody asked.
    answer: Option<Option<MessageId>>,
    /// The frame that came before the session was registered.
    held: Option<Parsed>,
}

/// A question that the node has not answered yet.
struct Asked {
    number: Sequence,
    /// The frame to answer, and its type.
    id: Option<MessageId>,
    word: &'static str,
}

/// A message on its way into a full lane.
type Stalled = Pin<Box<dyn Future<Output = Result<(), link::Closed>> + Send>>;

struct Session<C> {
    carrier: C,
    seat: Seat,
    verifier: Option<Arc<Verifier>>,
    settings: Arc<Settings>,
    namespace: Namespace,
    identity: Option<Identity>,
    phase: Phase,
    /// When the identity was known, in [`clock::micros`].
    authenticated_at: u64,
    agent: Option<AgentAddr>,
    register: Register,
    /// The link to write messages to, while the node knows of the session.
    link: Option<(link::Handle, NodeName)>,
    /// Whether that node serves rooms.
    has_rooms: bool,
    attaching: Option<Attaching>,
    /// A message that waits for room in its lane. Nothing is read from the client meanwhile.
    stalled: Option<Stalled>,
    /// Our own frames that wait for room in the carrier.
    out: VecDeque<Bytes>,
    /// AGENTS and QUERY that the node has not answered yet.
    asked: VecDeque<Asked>,
    asked_last: u64,
    unanswered: unanswered::Unanswered,
    hands: settle::Hands,
    /// Deliveries that were handed to the carrier and not yet flushed, and whom to tell.
    confirms: VecDeque<Receipt>,
    unflushed: bool,
    /// Something found no room in the control lane, and is sent again by the timer.
    again: bool,
    bad_in_a_row: u32,
    turns: u32,
    watch: watch::Watch,
    measured: measure::Measured,
    received: u64,
    sent: u64,
    /// When the last message was written to the link, in [`clock::micros`]; 0: none was.
    submitted_at: u64,
}

/// What happened next.
enum Wake {
    End(End),
    Notice(Notice),
    Message(Delivery),
    Room(RoomNews),
    Client(Incoming),
    LinkClosed,
    Due,
    Lost(String),
}

impl<C: Carrier> Session<C> {
    fn new(carrier: C, opening: Opening, seat: Seat) -> Session<C> {
        let phase = if opening.identity.is_some() { Phase::Authenticated } else { Phase::Unauthenticated };
        Session {
            watch: watch::Watch::new(clock::micros()),
            carrier,
            seat,
            verifier: opening.verifier,
            settings: opening.settings,
            namespace: opening.namespace,
            identity: opening.identity,
            phase,
            authenticated_at: clock::micros(),
            agent: None,
            register: Register::default(),
            link: None,
            has_rooms: true,
            attaching: None,
            stalled: None,
            out: VecDeque::new(),
            asked: VecDeque::new(),
            asked_last: 0,
            unanswered: unanswered::Unanswered::default(),
            hands: settle::Hands::default(),
            confirms: VecDeque::new(),
            unflushed: false,
            again: false,
            bad_in_a_row: 0,
            turns: 0,
            measured: measure::Measured::default(),
            received: 0,
            sent: 0,
            submitted_at: 0,
        }
    }

    async fn run(&mut self) -> Ended {
        self.watch_identity();
        loop {
            let wake = poll_fn(|cx| self.poll_wake(cx)).await;
            // What is rare is boxed: a silent session keeps no room for it.
            let step = match wake {
                Wake::Message(delivery) => self.deliver(delivery),
                Wake::Room(news) => {
                    self.room_news(news);
                    Ok(())
                }
                Wake::Client(incoming) => self.incoming(incoming).await,
                Wake::Notice(notice) => self.notice(notice).await,
                Wake::Due => Box::pin(self.due()).await,
                Wake::LinkClosed => self.stalled_in_vain(),
                Wake::Lost(why) => Err(Box::pin(self.hear_out(why)).await),
                Wake::End(end) => Err(end),
            };
            if let Err(end) = step {
                return Box::pin(self.close(end)).await;
            }
        }
    }

    /// Nothing more can be written. A client that says its last and closes breaks what we are about to write: what it
    /// said counts, and is read to its end.
    async fn hear_out(&mut self, why: String) -> End {
        let read_on = async {
            loop {
                self.out.clear();
                let wake = poll_fn(|cx| self.poll_last_words(cx)).await;
                let step = match wake {
                    Wake::Client(incoming) => self.incoming(incoming).await,
                    Wake::Notice(notice) => self.notice(notice).await,
                    Wake::LinkClosed => self.stalled_in_vain(),
                    _ => return,
                };
                if step.is_err() {
                    return;
                }
            }
        };
        // One that closes only its own reading is not read for ever.
        let _ = tokio::time::timeout(HEAR_OUT_WITHIN, read_on).await;
        lost_end(why)
    }

    fn poll_last_words(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        if let Poll::Ready(end) = self.poll_end(cx) {
            return Poll::Ready(end);
        }
        if let Poll::Ready(Some(notice)) = self.seat.notices.poll_recv(cx) {
            return Poll::Ready(Wake::Notice(*notice));
        }
        self.poll_read(cx)
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        let end = ready!(Pin::new(&mut self.seat.end).poll(cx));
        Poll::Ready(Wake::End(end.map_or_else(|_| stopping(), |end| *end)))
    }

    /// Finds what is to be done next. Orders to end come first; then writing, so that what is queued goes
    /// out in as few system calls as possible; then reading, unless something that was read must wait.
    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        if let Poll::Ready(end) = self.poll_end(cx) {
            return Poll::Ready(end);
        }
        if self.turns >= WRITE_TURNS {
            self.turns = 0;
            if let Poll::Ready(wake) = self.poll_read(cx) {
                return Poll::Ready(wake);
            }
        }
        if let Poll::Ready(wake) = self.poll_write(cx) {
            self.turns += 1;
            return Poll::Ready(wake);
        }
        self.turns = 0;
        if let Poll::Ready(wake) = self.poll_read(cx) {
            self.tell_gathered(false);
            return Poll::Ready(wake);
        }
        self.tell_gathered(true);
        self.watch.poll_due(cx).map(|()| Wake::Due)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        loop {
            match self.carrier.poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(lost)) => return Poll::Ready(Wake::Lost(lost.0)),
                Poll::Pending => return Poll::Pending,
            }
            let Some(frame) = self.out.pop_front() else { break };
            self.unflushed = true;
            if let Err(lost) = self.carrier.send(frame) {
                return Poll::Ready(Wake::Lost(lost.0));
            }
        }
        // A queue whose writer is gone is followed by an order to end, or by the end of the hub.
        if let Poll::Ready(Some(notice)) = self.seat.notices.poll_recv(cx) {
            return Poll::Ready(Wake::Notice(*notice));
        }
        if let Poll::Ready(Some(arrival)) = self.seat.messages.poll_recv(cx) {
            return Poll::Ready(match *arrival {
                Arrival::Message(delivery) => Wake::Message(delivery),
                Arrival::Room(news, _) => Wake::Room(news),
            });
        }
        if let Some(number) = self.ack_ping() {
            self.unflushed = true;
            if let Err(lost) = self.carrier.ping(number) {
                return Poll::Ready(Wake::Lost(lost.0));
            }
        }
        if self.unflushed {
            match self.carrier.poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    self.unflushed = false;
                    self.confirm();
                    self.written();
                }
                Poll::Ready(Err(lost)) => return Poll::Ready(Wake::Lost(lost.0)),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        if let Some(stalled) = &mut self.stalled {
            match stalled.as_mut().poll(cx) {
                Poll::Ready(sent) => {
                    self.stalled = None;
                    if sent.is_err() {
                        return Poll::Ready(Wake::LinkClosed);
                    }
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        // Whoever does not read our answers is not read either.
        if self.attaching.is_some() || !self.out.is_empty() {
            return Poll::Pending;
        }
        self.carrier.poll_recv(cx).map(Wake::Client)
    }

    async fn incoming(&mut self, incoming: Incoming) -> Result<(), End> {
        if self.watch.alive(clock::micros()) {
            self.rearm();
        }
        match incoming {
            Incoming::Frame(text) => self.frame(text).await,
            // Only its JSON form is too large: what comes next can be read.
            Incoming::NoFrame(refusal) if refusal.code == Code::TooLarge => {
                self.error(None, None, &refusal);
                Ok(())
            }
            Incoming::NoFrame(refusal) => self.refused(None, None, refusal),
            Incoming::Alive => Ok(()),
            Incoming::Pong(number) => {
                self.pong(number);
                Ok(())
            }
            Incoming::Closed(reason) => Err(silent_end(CloseCode::Normal, reason)),
            Incoming::Ended(code, reason) => Err(silent_end(code, reason)),
            Incoming::Failed(Fault::TooLarge(message)) => {
                Err(refused_end(Refusal::new(Code::TooLarge, message)))
            }
            Incoming::Failed(Fault::NotUtf8) => {
                Err(silent_end(CloseCode::InvalidData, "text that is not UTF-8".into()))
            }
            Incoming::Failed(Fault::Protocol(why)) => Err(silent_end(CloseCode::Protocol, why)),
            Incoming::Failed(Fault::Lost(why)) => Err(lost_end(why)),
        }
    }

    /// Says why, where there is something to say, closes and waits a little for the client to see it.
    async fn close(&mut self, end: End) -> Ended {
        self.tell_settled();
        // It takes nothing more: its node need not wait for a client that does not close, nor for the end of this process.
        // Where the hub has ended, so have all.
        let _ = self.seat.detach(false).await;
        let Some(code) = end.code else { return Ended { code: None, reason: end.reason } };
        if let Some(refusal) = &end.refusal
            && (!self.carrier.tells_close() || told_by_error(refusal.code))
        {
            self.error(None, None, refusal);
        }
        let out = std::mem::take(&mut self.out);
        let farewell = async {
            for frame in out {
                poll_fn(|cx| self.carrier.poll_ready(cx)).await?;
                self.carrier.send(frame)?;
            }
            self.carrier.start_close(code, &end.reason);
            poll_fn(|cx| self.carrier.poll_closed(cx)).await;
            Ok::<(), super::carrier::Lost>(())
        };
        // A client that does not take part in closing is left.
        let _ = tokio::time::timeout(self.settings.close_within, farewell).await;
        Ended { code: end.code, reason: end.reason }
    }

    fn log_end(&self, gateway: &'static str, ended: &Ended) {
        let agent = self.agent.as_ref().map(AgentAddr::to_string).unwrap_or_default();
        tracing::info!(
            gateway,
            session = self.label(),
            agent,
            namespace = %self.namespace,
            duration_ms = self.watch.age_ms(clock::micros()),
            received = self.received,
            sent = self.sent,
            code = ended.code_text(),
            reason = ended.reason,
            "{LOGGED_END}"
        );
    }

    /// The session's name in logs and in REGISTERED.
    fn label(&self) -> String {
        format!("s-{:x}", self.seat.no.0)
    }
}

/// Whether a client that is closed for this is told by ERROR too. One that was taken over or is slow has
/// sent nothing wrong, and an envelope-only client is told of nothing else.
fn told_by_error(code: Code) -> bool {
    !matches!(code, Code::TakenOver | Code::Slow | Code::Unavailable)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
