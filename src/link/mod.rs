//! One authenticated connection to a peer, whatever carries it.
//!
//! A link is known to its owner by events in one inbox and by a [`Handle`] to write to. Frames that must
//! keep their order share a [`Lane`]; lanes never wait for each other.
//!
//! | file | what is in it |
//! |---|---|
//! | [`quic`] | the carrier between machines |
//! | [`socket`] | the UDP port beneath it |
//! | [`segments`] | many packets at once, where the kernel does that |
//! | [`unix`] | the carrier between a node and the edge on the same machine |
//! | [`wss`] | the carrier between machines when UDP is blocked: TLS within a WebSocket, through the peer's edge |
//! | [`memory`] | the carrier between a node and its own gateways |
//! | [`congestion`] | how much of a connection may be under way |
//! | `datagram` | what may be lost, beside the lanes of a QUIC link |
//! | [`dial`] | keeping a link up, for ever |
//! | [`race`] | which carrier it is to be, and when to change it |
//! | [`stream`] | what carriers over one stream of bytes have in common |
//! | `lanes` | what is written next on such a stream |
//! | [`websocket`] | a WebSocket as a stream of bytes |
//! | [`proxy`] | through an HTTP proxy to the outside |
//! | [`inbox`] | where links report |
//! | `lane` | which frames must keep their order, and what goes first |
//! | [`early`] | links that come back with early data (0-RTT) |
//! | `count` | frames, for the metrics |
//! | `room` | how many bytes may wait in a lane |

pub mod congestion;
mod count;
mod datagram;
pub mod dial;
pub mod early;
pub mod inbox;
mod lane;
pub mod memory;
pub mod proxy;
pub mod quic;
pub mod race;
pub mod segments;
pub mod socket;
pub mod stream;
pub mod unix;
pub mod websocket;
pub mod wss;

mod lanes;
mod room;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::identity::tls::Identity;
use crate::rt::queue;
use crate::wire::close::LinkClose;
use crate::wire::frame::{Encoded, Frame, Hello, MAX_HEAD, MAX_PAYLOAD, OLDEST_VERSION, VERSION};
use crate::wire::ids::{Incarnation, LinkId, NodeName};

use congestion::Congestion;
use inbox::Inbox;
pub use lane::{LARGE, Lane, ORDERED_LANES};
use room::Room;

/// How long a peer may take to say HELLO.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// How long what is queued may take to leave when a link is closed in good order.
const DRAIN_WITHIN: Duration = Duration::from_millis(500);
/// Bytes taken from a peer at once.
const CHUNK: usize = 64 * 1024;

/// What a peer is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Another node.
    Node,
    /// An entrance for clients: an edge process, or a gateway within the node.
    Entrance,
}

/// Who is at the other end, as its certificate and its HELLO say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The machine it belongs to.
    pub node: NodeName,
    /// What it is to us.
    pub role: Role,
    /// Its life.
    pub incarnation: Incarnation,
    /// What it can beyond the version.
    pub features: Vec<String>,
    /// Program and version, for people.
    pub software: String,
    /// Serial number of its certificate in hex, empty for a gateway within the process.
    pub serial: String,
}

/// What the owner of links learns, in order for each link: `Up`, any number of `Frame`, `Down`. Before `Up` may come
/// `Early`, and then frames that are messages; and `Down` may follow without `Up`.
#[derive(Debug)]
pub enum Event {
    /// A connection with a peer that was here before is being resumed. Only an owner that has asked for early data
    /// ([`Local::allow_early_data`]) learns of it.
    Early {
        /// Our number for it; the link will have the same.
        link: LinkId,
        /// Which machine it is, by its certificate.
        peer: NodeName,
        /// Whether we dialled.
        dialled: bool,
        /// To write to it: what is no message leaves when the link is up.
        handle: Handle,
    },
    /// The peer is authenticated and said HELLO.
    Up {
        /// Our number for it.
        link: LinkId,
        /// Who it is.
        peer: Peer,
        /// Whether we dialled.
        dialled: bool,
        /// To write to it.
        handle: Handle,
    },
    /// A frame came.
    Frame {
        /// From which link.
        link: LinkId,
        /// What.
        frame: Frame,
    },
    /// The link is over; its handle writes to nobody.
    Down {
        /// Which.
        link: LinkId,
        /// In words for the log and `status`.
        why: String,
    },
}

impl Event {
    /// A frame came: it is counted here, whatever carried it.
    fn frame(link: LinkId, frame: Frame) -> Event {
        count::received(&frame);
        Event::Frame { link, frame }
    }
}

/// Why a link is to be closed, in the peer's words too.
#[derive(Debug, Clone)]
pub struct CloseOrder {
    /// The code on the wire.
    pub code: LinkClose,
    /// Words for its log.
    pub why: String,
}

/// What all links of a process share.
#[derive(Debug)]
pub struct Local {
    /// What we say first.
    pub hello: Hello,
    /// Who we are, and whom we believe.
    pub identity: Identity,
    /// Where links report.
    pub events: Inbox,
    /// Of the connections that are dialled.
    pub congestion: Congestion,
    next: AtomicU64,
    stopping: AtomicBool,
    early_data: AtomicBool,
    known: early::Memory,
    streams: AtomicU32,
}

impl Local {
    /// For a process that is to have links.
    pub fn new(hello: Hello, identity: Identity, events: impl Into<Inbox>) -> Arc<Local> {
        Local::with_congestion(hello, identity, events, Congestion::default())
    }

    /// The same, with this congestion control.
    pub fn with_congestion(
        hello: Hello,
        identity: Identity,
        events: impl Into<Inbox>,
        congestion: Congestion,
    ) -> Arc<Local> {
        let (next, stopping, early_data) =
            (AtomicU64::new(1), AtomicBool::new(false), AtomicBool::new(false));
        let (events, known, streams) = (events.into(), early::Memory::default(), AtomicU32::new(0));
        Arc::new(Local { hello, identity, events, congestion, next, stopping, early_data, known, streams })
    }

    /// From now on nobody dials: the process is stopping.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Links between nodes may begin with early data from now on: whoever takes the events knows what that means.
    pub fn allow_early_data(&self) {
        self.early_data.store(true, Ordering::Relaxed);
    }

    fn has_early_data(&self) -> bool {
        self.early_data.load(Ordering::Relaxed)
    }

    /// Links over streams of bytes that have not ended yet.
    pub fn open_streams(&self) -> u32 {
        self.streams.load(Ordering::Relaxed)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// A number that no other link of this process has.
    pub fn next_id(&self) -> LinkId {
        LinkId(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

impl CloseOrder {
    fn broken(why: &str) -> CloseOrder {
        CloseOrder { code: LinkClose::Silent, why: why.to_owned() }
    }

    fn protocol(why: &str) -> CloseOrder {
        CloseOrder { code: LinkClose::Protocol, why: why.to_owned() }
    }

    fn stopping() -> CloseOrder {
        CloseOrder { code: LinkClose::Stopping, why: "this process is stopping".to_owned() }
    }

    fn no_hello() -> CloseOrder {
        CloseOrder::broken(&format!("the peer said no HELLO within {HELLO_WITHIN:?}"))
    }
}

/// Whether the peer and we have a version in common.
fn check_version(hello: &Hello) -> Result<(), CloseOrder> {
    if hello.version >= OLDEST_VERSION && hello.oldest <= VERSION {
        return Ok(());
    }
    let why = format!(
        "{} ({}) speaks versions {} to {}, we speak {OLDEST_VERSION} to {VERSION}: update the older of the two",
        hello.node, hello.software, hello.oldest, hello.version
    );
    Err(CloseOrder { code: LinkClose::Version, why })
}

/// The writing end of a link; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: LinkId,
    lanes: Vec<queue::Sender<Encoded>>,
    rooms: Vec<Room>,
    /// For what may be lost.
    datagrams: datagram::Outlet,
    close: queue::Sender<CloseOrder>,
    /// Smoothed round trip in microseconds, as the carrier measures it; 0: not known.
    rtt_us: AtomicU32,
    carrier: &'static str,
    remote: Mutex<String>,
}

/// The reading end that a carrier serves.
pub struct Outlets {
    /// One queue for each lane, by [`Lane::index`].
    pub lanes: Vec<queue::Receiver<Encoded>>,
    /// What may be lost; nothing comes here unless the carrier says that it has datagrams.
    pub datagrams: Option<datagram::Waiting>,
    /// At most one order comes.
    pub close: queue::Receiver<CloseOrder>,
}

/// Frames that may wait in one lane of one link; their bytes are bounded too.
const LANE_BOUND: usize = 4096;
/// The same for the control lane: an answer to every frame of an entrance that the node can have taken in by the time
/// it stops reading from there ([`Backlog`]).
const CONTROL_BOUND: usize = 16_384;
/// How soon an entrance that was not read is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

impl Handle {
    /// Makes both ends for a carrier.
    pub fn new(id: LinkId, carrier: &'static str, remote: String) -> (Handle, Outlets) {
        let (mut senders, mut receivers) = (Vec::new(), Vec::new());
        for lane in 0..Lane::COUNT {
            let name = match lane {
                0 => "link.control",
                1 => "link.urgent",
                n if n == Lane::Bulk.index() => "link.bulk",
                _ => "link.ordered",
            };
            let bound = if lane == Lane::Control.index() { CONTROL_BOUND } else { LANE_BOUND };
            let (sender, receiver) = queue::bounded(name, bound);
            senders.push(sender);
            receivers.push(receiver);
        }
        let (close, close_orders) = queue::bounded("link.close", 1);
        let rooms = (0..Lane::COUNT).map(|_| Room::default()).collect();
        let (datagrams, waiting) = datagram::outlet();
        let (rtt_us, remote) = (AtomicU32::new(0), Mutex::new(remote));
        let inner = Inner { id, lanes: senders, rooms, datagrams, close, rtt_us, carrier, remote };
        let outlets = Outlets { lanes: receivers, datagrams: Some(waiting), close: close_orders };
        (Handle { inner: Arc::new(inner) }, outlets)
    }

    /// Our number for the link.
    pub fn id(&self) -> LinkId {
        self.inner.id
    }

    /// `quic`, `wss`, `unix` or `memory`.
    pub fn carrier(&self) -> &'static str {
        self.inner.carrier
    }

    /// Whether the carrier is for when there is no better one.
    pub fn is_fallback(&self) -> bool {
        self.inner.carrier == wss::CARRIER
    }

    /// The peer's address, for people: where it is now.
    pub fn remote(&self) -> String {
        self.inner.remote.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For the carrier: the peer may have moved. Answers whether it has.
    fn moved_to(&self, remote: String) -> bool {
        let mut known = self.inner.remote.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = *known != remote;
        *known = remote;
        moved
    }

    /// Smoothed round trip in microseconds; 0: not known yet.
    pub fn rtt_us(&self) -> u32 {
        self.inner.rtt_us.load(Ordering::Relaxed)
    }

    /// For the carrier: what it measured.
    pub fn set_rtt_us(&self, rtt: u32) {
        self.inner.rtt_us.store(rtt, Ordering::Relaxed);
    }

    /// Queues a frame if its lane has room.
    pub fn try_send(&self, frame: &Frame) -> Result<(), queue::Refused<()>> {
        let lane = Lane::for_frame(frame).index();
        let sender = &self.inner.lanes[lane];
        let encoded = frame.encode();
        if !is_readable(&encoded, frame) {
            return Err(queue::Refused::Full(()));
        }
        if self.inner.datagrams.takes(frame, &encoded) {
            count::sent(frame);
            return Ok(());
        }
        let Some(encoded) = self.inner.rooms[lane].try_take(encoded) else {
            sender.count_full();
            return Err(queue::Refused::Full(()));
        };
        sender.try_send(encoded).map_err(|refused| match refused {
            queue::Refused::Full(_) => queue::Refused::Full(()),
            queue::Refused::Closed(_) => queue::Refused::Closed(()),
        })?;
        count::sent(frame);
        Ok(())
    }

    /// Waits until the frame's lane has room; `Err`: the link is over.
    pub async fn send(&self, frame: &Frame) -> Result<(), Closed> {
        let lane = Lane::for_frame(frame).index();
        let sender = &self.inner.lanes[lane];
        let encoded = frame.encode();
        if !is_readable(&encoded, frame) {
            return Ok(());
        }
        if self.inner.datagrams.takes(frame, &encoded) {
            count::sent(frame);
            return Ok(());
        }
        let encoded = tokio::select! {
            encoded = self.inner.rooms[lane].take(encoded) => encoded,
            () = sender.closed() => return Err(Closed),
        };
        sender.send(encoded).await.map_err(|_| Closed)?;
        count::sent(frame);
        Ok(())
    }

    /// For the carrier's reader.
    fn backlog(&self, peer: Role) -> Backlog {
        Backlog(if peer == Role::Entrance { Arc::downgrade(&self.inner) } else { Weak::new() })
    }

    /// Asks the carrier to close; what is queued may be lost.
    pub fn close(&self, code: LinkClose, why: impl Into<String>) {
        // A second order changes nothing: the first is on its way.
        let _ = self.inner.close.try_send(CloseOrder { code, why: why.into() });
    }

    /// Whether the link is over.
    pub fn is_closed(&self) -> bool {
        self.inner.close.is_closed()
    }

    /// Waits until the link is over.
    pub async fn closed(&self) {
        self.inner.close.closed().await;
    }
}

/// Whether the peer can take a frame. One that it must refuse would cost the link, and all who use it, instead of
/// the one frame; somebody made it so large.
fn is_readable(encoded: &Encoded, frame: &Frame) -> bool {
    let fits = encoded.head.len() <= MAX_HEAD && encoded.payload.len() <= MAX_PAYLOAD;
    if !fits {
        tracing::error!(frame = frame.name(), bytes = encoded.len(), "a frame is too large to be sent");
    }
    fits
}

/// Whether an entrance takes what it is told. One that does not is not read either: else a flood of its clients
/// would fill the control lane with refusals, and what all its other clients wait for would be dropped.
/// A node is always read: two that wait for each other would wait for ever.
#[derive(Debug, Clone)]
struct Backlog(Weak<Inner>);

impl Backlog {
    /// Waits while the control lane is more than half full.
    async fn passes(&self) {
        let control = Lane::Control.index();
        while self.0.upgrade().is_some_and(|link| link.lanes[control].depth() > CONTROL_BOUND / 2) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Why there is no link. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer is not let in.
    #[error("not admitted: {0}")]
    NotAdmitted(crate::identity::Refusal),
    /// The peer is of this mesh, but not what was dialled.
    #[error("{0} answered where a node was expected; check the address")]
    WrongRole(String),
    /// This process stops: its endpoint is closed.
    #[error("this process is stopping")]
    Stopping,
    /// There is nothing to dial.
    #[error("no address is configured")]
    NoAddress,
    /// An address did not answer, or not well.
    #[error("{address}: {why}")]
    Dial {
        /// `host:port`.
        address: String,
        /// What happened.
        why: String,
    },
    /// TLS did not come up.
    #[error("{0}")]
    Handshake(String),
    /// Neither by QUIC nor through the peer's edge.
    #[error("{0}; and {1}")]
    Both(Box<Error>, Box<Error>),
    /// Another way to reach the node is down.
    #[error("{path}: {why}; is the node running, and may this user write to its socket?")]
    Unix {
        /// The socket.
        path: String,
        /// What the system said.
        why: std::io::Error,
    },
    /// A stream broke; the connection says why.
    #[error("a stream broke: {0}")]
    Stream(String),
    /// The peer sent what is no frame.
    #[error(transparent)]
    Frame(#[from] crate::wire::frame::Error),
}

/// The link is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the link is closed")]
pub struct Closed;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::close::{Code, Refusal};
    use crate::wire::ids::SessionNo;

    fn evict(words: usize) -> Frame {
        let refusal = Refusal { code: Code::Internal, message: "x".repeat(words) };
        Frame::Evict(SessionNo(1), refusal)
    }

    #[tokio::test]
    async fn a_frame_that_the_peer_would_have_to_refuse_is_not_sent() {
        // covers B19
        let (handle, mut outlets) = Handle::new(LinkId(1), "test", String::new());
        assert!(matches!(handle.try_send(&evict(MAX_HEAD)), Err(queue::Refused::Full(()))));
        handle.send(&evict(MAX_HEAD)).await.unwrap();
        handle.try_send(&evict(1)).unwrap();
        let control = &mut outlets.lanes[Lane::Control.index()];
        assert_eq!(control.try_recv().unwrap(), evict(1).encode());
        assert!(control.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_entrance_that_does_not_take_what_it_is_told_is_not_read() {
        // covers B09
        for (role, waits) in [(Role::Entrance, true), (Role::Node, false)] {
            let (handle, mut outlets) = Handle::new(LinkId(1), "test", String::new());
            let backlog = handle.backlog(role);
            for _ in 0..=CONTROL_BOUND / 2 {
                handle.try_send(&Frame::Ping(1)).unwrap();
            }
            let passes = tokio::time::timeout(Duration::from_secs(3600), backlog.passes());
            assert_eq!(passes.await.is_err(), waits);
            assert!(outlets.lanes[Lane::Control.index()].try_recv().is_ok());
            backlog.passes().await;
        }
    }
}
