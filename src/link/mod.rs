//! One authenticated connection to a peer, whatever carries it.
//!
//! A link is known to its owner by events in one inbox and by a [`Handle`] to write to. Frames that must
//! keep their order share a [`Lane`]; lanes never wait for each other.
//!
//! | file | what is in it |
//! |---|---|
//! | [`quic`] | the carrier between machines |
//! | [`socket`] | the UDP port beneath it |
//! | [`segments`] | the socket beneath QUIC: many packets at once where the kernel does that, and another one in its place |
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
//! | [`network`] | how a stream of bytes to another machine is opened |
//! | [`proxy`] | through an HTTP proxy to the outside |
//! | `handle` | the writing end, and the queues that a carrier serves |
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
mod handle;
pub mod inbox;
mod lane;
pub mod memory;
pub mod network;
pub mod proxy;
pub mod quic;
pub mod race;
pub mod segments;
pub mod socket;
pub mod stream;
mod twice;
pub mod unix;
pub mod websocket;
pub mod wss;

mod lanes;
mod room;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::identity::tls::Identity;
use crate::wire::close::LinkClose;
use crate::wire::frame::{Frame, Hello, OLDEST_VERSION, VERSION};
use crate::wire::ids::{Incarnation, LinkId, NodeName};

use congestion::Congestion;
use handle::Backlog;
pub use handle::{Handle, Outlets};
use inbox::Inbox;
pub use lane::{LARGE, Lane, ORDERED_LANES};

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
