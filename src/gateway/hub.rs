//! The one task of a process that joins its sessions with the link to their node.
//!
//! Messages towards the node do not pass it: a session writes to the link by itself, with the handle that
//! it is given when the node has registered it. What comes from the node passes it once, on its way to the
//! session's queues. Registrations live here, so that they are made again when the link is renewed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::readers::{Readers, Wish};
use crate::link::inbox::Incoming;
use crate::link::{self, Event, Peer};
use crate::rt::{clock, queue, tasks};
use crate::wire::close::{Code, Refusal};
use crate::wire::frame::{Attach, Frame};
use crate::wire::ids::{AgentAddr, LinkId, MessageId, Namespace, NodeName, SessionNo};
use crate::wire::room::RoomKey;

mod fan_out;
mod moving;
mod outbox;
mod pace;
mod rooms;
mod told;
mod wires;

pub use fan_out::{FanOut, Measure};
use moving::Moving;
use outbox::{Outbox, send_front};
use pace::Pace;
use rooms::Again;
pub use told::{Arrival, Delivery, End, Notice};
use wires::Wires;
pub use wires::{Order, Wire};

/// Messages that may wait for one session. A client that is further behind is closed as slow.
pub const SESSION_QUEUE: usize = 1024;
/// Bytes of large live messages that may wait for one session: the number alone would let one client that does not read
/// take a gigabyte. One message fits always. Of durable ones the node hands out no more than
/// [`MAX_IN_HAND`](crate::wire::frame::MAX_IN_HAND).
pub const SESSION_BYTES: usize = 16 << 20;
/// Requests of sessions that may wait for the hub.
const REQUESTS: usize = 4096;
/// No link has this number.
const NO_LINK: u64 = u64::MAX;
/// Events taken in one turn.
const BATCH: usize = 64;

/// How the hub stands, for `/health`.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The node it is attached to.
    pub node: Option<NodeName>,
    /// Agents with a session here, sorted, each once.
    pub agents: Vec<AgentAddr>,
    /// Open sessions, registered or not.
    pub sessions: usize,
    /// What there is of each namespace.
    pub namespaces: BTreeMap<Namespace, Load>,
}

/// What the sessions of one namespace have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Subscriptions to rooms.
    pub subscriptions: usize,
    /// Messages in their queues.
    pub waiting: usize,
}

/// The hub's task has ended: the process is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the process is stopping")]
pub struct Stopped;

enum Request {
    Open(SessionNo, Wires),
    Attach(Attach),
    Detach(SessionNo, bool),
    Close(SessionNo),
    Snapshot(oneshot::Sender<Snapshot>),
    EndAll(Box<dyn Fn() -> End + Send>),
    WatchSilence(Duration),
    Subscribe(SessionNo, Box<Wish>),
    Unsubscribe(SessionNo, RoomKey, Option<MessageId>),
}

/// To reach the hub; cheap to clone.
#[derive(Clone)]
pub struct HubHandle {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for HubHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HubHandle")
    }
}

struct Shared {
    requests: queue::Sender<Request>,
    next: AtomicU64,
    offered: watch::Receiver<Offered>,
    /// The number of the link in use, or [`NO_LINK`].
    current: Arc<AtomicU64>,
}

/// A revocation list as the node passed it on: number and DER; not verified.
pub type Offered = Option<(u64, Bytes)>;

/// Starts the hub. Whoever makes links reports to `events`' other end; several may come one after another.
pub fn start(events: impl Into<Incoming>) -> (HubHandle, tasks::Task) {
    start_with(events, None)
}

/// The same; `measure` is told of each message for many that sessions here get.
pub fn start_with(events: impl Into<Incoming>, measure: Option<Measure>) -> (HubHandle, tasks::Task) {
    let (requests, inbox) = queue::bounded("hub.requests", REQUESTS);
    let (revocations, offered) = watch::channel(None);
    let current = Arc::new(AtomicU64::new(NO_LINK));
    let shared = Shared { requests, next: AtomicU64::new(1), offered, current: current.clone() };
    let task = tasks::spawn("hub", Hub::new(revocations, current, measure).run(events.into(), inbox));
    (HubHandle { shared: Arc::new(shared) }, task)
}

impl HubHandle {
    /// Takes a seat for a new session.
    pub async fn open(&self) -> Result<Seat, Stopped> {
        let no = SessionNo(self.shared.next.fetch_add(1, Ordering::Relaxed));
        let (wires, notices, messages, end) = Wires::new();
        self.request(Request::Open(no, wires)).await?;
        Ok(Seat { no, notices, messages, end, pace: Pace::default(), hub: self.clone() })
    }

    /// The revocation list that the node passed on last; whoever trusts certificates verifies and keeps it.
    pub fn revocations(&self) -> watch::Receiver<Offered> {
        self.shared.offered.clone()
    }

    /// How the hub stands.
    pub async fn snapshot(&self) -> Result<Snapshot, Stopped> {
        let (answer, wait) = oneshot::channel();
        self.request(Request::Snapshot(answer)).await?;
        wait.await.map_err(|_| Stopped)
    }

    /// Ends every session; `order` is asked once for each, so that its words can differ.
    pub async fn end_all(&self, order: impl Fn() -> End + Send + 'static) -> Result<(), Stopped> {
        self.request(Request::EndAll(Box::new(order))).await
    }

    /// From now on a link on which nothing came for so long counts as broken: its node hangs.
    pub async fn watch_silence(&self, patience: Duration) -> Result<(), Stopped> {
        self.request(Request::WatchSilence(patience)).await
    }

    async fn request(&self, request: Request) -> Result<(), Stopped> {
        self.shared.requests.send(request).await.map_err(|_| Stopped)
    }
}

/// A session's place at the hub; given back when it is dropped.
#[derive(Debug)]
pub struct Seat {
    /// The session's number on links.
    pub no: SessionNo,
    /// What goes ahead of ordinary messages.
    pub notices: Wire<Notice>,
    /// Ordinary messages.
    pub messages: Wire<Arrival>,
    /// The order to end.
    pub end: Order,
    pace: Pace,
    hub: HubHandle,
}

impl Seat {
    /// Registers the session, now and whenever the link is renewed. Answered by [`Notice::Attached`], or
    /// by [`Notice::Down`] when there is no node now: then it is registered as soon as there is one.
    pub async fn attach(&self, attach: Attach) -> Result<(), Stopped> {
        self.hub.request(Request::Attach(attach)).await
    }

    /// Whether a link is the one in use. What another one brought and was to be settled, the node has taken back.
    pub fn is_current(&self, link: LinkId) -> bool {
        self.hub.shared.current.load(Ordering::Relaxed) == link.0
    }

    /// Takes the registration back; `forget`: and the agent is to be forgotten.
    pub async fn detach(&self, forget: bool) -> Result<(), Stopped> {
        self.hub.request(Request::Detach(self.no, forget)).await
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Should the hub's queue be full, it notices the closed queues when it next writes to the session.
        let _ = self.hub.shared.requests.try_send(Request::Close(self.no));
    }
}

/// One session as the hub knows it.
struct Entry {
    wires: Wires,
    attach: Option<Attach>,
    /// Whether a node ever knew of the registration: then a repetition says so.
    known: bool,
    /// Attach frames without an answer: the session hears of the last answer only.
    unanswered: u32,
}

struct Up {
    handle: link::Handle,
    peer: Peer,
    /// When something came last.
    heard: Instant,
}

struct Hub {
    revocations: watch::Sender<Offered>,
    sessions: HashMap<SessionNo, Entry>,
    links: HashMap<LinkId, Up>,
    /// The link in use. Another one is one that the sessions move to, or have left.
    current: Option<LinkId>,
    /// The same for sessions; see [`Seat::is_current`].
    shown: Arc<AtomicU64>,
    outbox: Outbox,
    moving: Moving,
    readers: Readers,
    again: Again,
    measure: Option<Measure>,
    /// When the events came that are being taken, in [`clock::micros`].
    came: u64,
}

impl Hub {
    fn new(revocations: watch::Sender<Offered>, shown: Arc<AtomicU64>, measure: Option<Measure>) -> Hub {
        let (sessions, links) = (HashMap::new(), HashMap::new());
        Hub {
            revocations,
            sessions,
            links,
            current: None,
            shown,
            outbox: Outbox::default(),
            moving: Moving::default(),
            readers: Readers::default(),
            again: Again::default(),
            measure,
            came: 0,
        }
    }

    async fn run(mut self, mut events: Incoming, mut requests: queue::Receiver<Request>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let blocked = self.current_handle().filter(|_| !self.outbox.is_empty()).cloned();
            tokio::select! {
                biased;
                request = requests.recv(), if !self.outbox.is_full() => match request {
                    Some(request) => self.request(request),
                    None => return,
                },
                sent = send_front(blocked.as_ref(), self.outbox.front()), if blocked.is_some() => {
                    self.front_sent(sent);
                }
                () = self.moving.wait() => self.look(),
                () = self.again.wait() => self.ask_again(),
                count = events.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    self.came = clock::micros();
                    let mut heard = None;
                    for event in batch.drain(..) {
                        if let Event::Frame { link, .. } = &event
                            && heard.replace(*link) != Some(*link)
                        {
                            self.hears(*link);
                        }
                        self.event(event);
                    }
                    if count == BATCH {
                        // Or a burst would fill the queue of a session that shares this thread and had no turn.
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Open(no, wires) => {
                self.sessions.insert(no, Entry { wires, attach: None, known: false, unanswered: 0 });
            }
            Request::Attach(attach) => self.attach(attach),
            Request::Detach(no, forget) => {
                self.detach(no, forget);
                self.settled(no);
            }
            Request::Close(no) => {
                self.detach(no, false);
                self.sessions.remove(&no);
                self.settled(no);
            }
            Request::Snapshot(answer) => {
                // Whoever asked may have gone.
                let _ = answer.send(self.snapshot());
            }
            Request::WatchSilence(patience) => self.watch_silence(patience),
            Request::Subscribe(no, wish) => self.subscribe(no, *wish),
            Request::Unsubscribe(no, room, id) => self.unsubscribe(no, &room, id),
            Request::EndAll(order) => {
                for entry in self.sessions.values_mut() {
                    entry.wires.end(order());
                }
            }
        }
    }

    fn attach(&mut self, attach: Attach) {
        let up = self.current.is_some();
        let no = attach.session;
        let Some(entry) = self.sessions.get_mut(&no) else { return };
        if entry.attach.as_ref().is_some_and(|earlier| earlier.agent != attach.agent) {
            self.detach(no, false);
        }
        let Some(entry) = self.sessions.get_mut(&no) else { return };
        entry.attach = Some(attach.clone());
        if up {
            entry.unanswered += 1;
            entry.known = true;
            self.control(Frame::Attach(attach));
        } else {
            self.notice(no, Notice::Down);
        }
    }

    fn detach(&mut self, no: SessionNo, forget: bool) {
        self.readers.leave(no);
        let Some(entry) = self.sessions.get_mut(&no) else { return };
        if entry.attach.take().is_some() && self.current.is_some() {
            self.control(Frame::Detach(no, forget));
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Up { link, peer, handle, .. } => self.up(link, Up { handle, peer, heard: clock::now() }),
            Event::Down { link, why } => self.down(link, &why),
            Event::Frame { link, frame } => self.frame(link, frame),
            // Only nodes ask for early data: what an entrance sends is not safe to repeat.
            Event::Early { .. } => {}
        }
    }

    fn up(&mut self, link: LinkId, up: Up) {
        tracing::info!(node = %up.peer.node, carrier = up.handle.carrier(), "attached to the node");
        self.links.insert(link, up);
        match self.current {
            Some(_) => self.begin_move(link),
            None => self.make_current(link),
        }
    }

    fn make_current(&mut self, link: LinkId) {
        self.use_link(Some(link));
        let attached = self.sessions.iter().filter(|(_, entry)| entry.attach.is_some());
        for no in attached.map(|(no, _)| *no).collect::<Vec<_>>() {
            self.notice(no, Notice::Moved);
        }
        for entry in self.sessions.values_mut() {
            entry.unanswered = 0;
            let Some(attach) = &entry.attach else { continue };
            entry.unanswered = 1;
            let attach = Attach { resumed: entry.known, ..attach.clone() };
            entry.known = true;
            self.outbox.push(Frame::Attach(attach));
        }
    }

    fn use_link(&mut self, link: Option<LinkId>) {
        self.current = link;
        self.shown.store(link.map_or(NO_LINK, |link| link.0), Ordering::Relaxed);
        self.outbox.clear();
        self.readers.part();
        self.again = Again::default();
    }

    fn frame(&mut self, link: LinkId, frame: Frame) {
        match frame {
            Frame::Deliver(deliver, payload) => self.deliver(link, deliver, payload),
            Frame::Told(no, receipt) => self.notice(no, Notice::Told(receipt)),
            Frame::Attached(no, registered_ms) => self.attached(link, no, registered_ms),
            Frame::Evict(no, refusal) => self.evict(link, no, refusal),
            Frame::AgentList(no, number, list) => self.notice(no, Notice::Agents(number, list)),
            Frame::Answer(no, number, state) => self.notice(no, Notice::Answer(number, state)),
            Frame::Ping(sent) => {
                if let Some(up) = self.links.get(&link) {
                    // A pong that finds no room comes too late to measure anything.
                    let _ = up.handle.try_send(&Frame::Pong(sent, clock::wall_ms()));
                }
            }
            Frame::Revocations(number, der) => {
                // Whoever verifies it may have gone: the process is stopping.
                let _ = self.revocations.send(Some((number, der)));
            }
            Frame::Goodbye(back_in_ms) => tracing::info!(back_in_ms, "the node is stopping"),
            other => self.room_frame(link, other),
        }
    }

    /// The time that counts for a registration is the node's word: with it the session attaches again, to whichever node.
    fn attached(&mut self, link: LinkId, no: SessionNo, registered_ms: u64) {
        if self.current != Some(link) {
            return;
        }
        let Some(up) = self.links.get(&link) else { return };
        let Some(entry) = self.sessions.get_mut(&no) else { return };
        entry.unanswered = entry.unanswered.saturating_sub(1);
        if let Some(attach) = entry.attach.as_mut().filter(|_| entry.unanswered == 0) {
            attach.registered_ms = registered_ms;
        }
        if entry.unanswered == 0 {
            let (link, node) = (up.handle.clone(), up.peer.node.clone());
            let notice = Notice::Attached { link, node, rooms: up.serves_rooms() };
            self.notice(no, notice);
            self.settled(no);
            self.subscribe_again(no);
        }
    }

    fn evict(&mut self, link: LinkId, no: SessionNo, refusal: Refusal) {
        // A node that the sessions have left has no say.
        if self.current == Some(link) {
            self.readers.leave(no);
        }
        if self.current == Some(link)
            && let Some(mut entry) = self.sessions.remove(&no)
        {
            entry.wires.end(End::refused(refusal));
        }
    }

    fn notice(&mut self, no: SessionNo, notice: Notice) {
        if let Some(entry) = self.sessions.get(&no)
            && let Err(slow) = entry.wires.notice(notice)
        {
            self.unreachable(no, slow);
        }
    }

    /// A session that takes nothing more: it alone goes.
    fn unreachable(&mut self, no: SessionNo, slow: bool) {
        self.detach(no, false);
        if let Some(mut entry) = self.sessions.remove(&no)
            && slow
        {
            let message =
                format!("{SESSION_QUEUE} messages or {SESSION_BYTES} bytes wait unread by the client");
            entry.wires.end(End::refused(Refusal::new(Code::Slow, message)));
        }
    }

    fn current_handle(&self) -> Option<&link::Handle> {
        self.current.and_then(|id| self.links.get(&id)).map(|up| &up.handle)
    }

    fn snapshot(&self) -> Snapshot {
        let attached = self.sessions.values().filter_map(|entry| entry.attach.as_ref());
        let mut agents: Vec<AgentAddr> = attached.map(|attach| attach.agent.clone()).collect();
        agents.sort();
        agents.dedup();
        let node = self.current.and_then(|id| self.links.get(&id)).map(|up| up.peer.node.clone());
        Snapshot { node, agents, sessions: self.sessions.len(), namespaces: self.loads() }
    }
}
