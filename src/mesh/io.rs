//! What goes into the mesh and what comes out of it.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::durable::{GoOn, Limits};
use super::rooms::RoomLimits;
use crate::wire::close::{LinkClose, Refusal};
use crate::wire::envelope::{Head, MessageKey};
use crate::wire::frame::{Call, Frame, Method};
use crate::wire::ids::{AgentAddr, Incarnation, LinkId, MessageId, NodeName, Sequence, SessionNo};
use crate::wire::record::{Past, Record};

/// A moment on the driver's monotonic clock, in microseconds. The mesh never asks for it: it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time(pub u64);

impl Time {
    /// This much later.
    pub fn after(self, wait: Duration) -> Time {
        Time(self.0.saturating_add(wait.as_micros() as u64))
    }

    /// How long ago `earlier` was; zero if it is not earlier.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// What a node is before it meets anybody.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name.
    pub node: NodeName,
    /// Its life: persisted before the mesh is made.
    pub incarnation: Incarnation,
    /// What its store knows of its lives before this one; `None`: the store is new.
    pub past: Option<Past>,
    /// Its store is damaged: what of it can't be read is not known, and nothing is written.
    pub damaged: bool,
    /// Whether it holds the key of the mesh CA.
    pub holds_ca: bool,
    /// Where others may dial it.
    pub addresses: Vec<String>,
    /// Serial number of its certificate, in hex.
    pub serial: String,
    /// Between signs of life on a link.
    pub heartbeat: Duration,
    /// A link that is silent for so long is closed, however often it was silent before.
    pub silence: Duration,
    /// What an operator allows.
    pub limits: Limits,
    /// How much is kept of rooms.
    pub rooms: RoomLimits,
}

impl Config {
    /// What a link may be silent that never is: three signs of life.
    pub fn least_silence(&self) -> Duration {
        (self.heartbeat * 3).min(self.silence)
    }

    /// With the default times: a sign of life each second, three seconds of patience.
    pub fn new(node: NodeName, incarnation: Incarnation) -> Config {
        Config {
            node,
            incarnation,
            past: None,
            damaged: false,
            holds_ca: false,
            addresses: Vec::new(),
            serial: String::new(),
            heartbeat: Duration::from_secs(1),
            silence: Duration::from_secs(3),
            limits: Limits::default(),
            rooms: RoomLimits::default(),
        }
    }
}

/// What a peer is to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Another node: routes lead through it.
    Node,
    /// An entrance for clients.
    Entrance,
}

/// Names a record until it is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What happened. One enum, one inbox: what the mesh does depends on nothing else.
#[derive(Debug)]
pub enum Input {
    /// A peer is authenticated and said HELLO.
    LinkUp {
        /// The driver's number for the link.
        link: LinkId,
        /// The peer's machine.
        peer: NodeName,
        /// What it is to us.
        role: Role,
        /// Its life.
        incarnation: Incarnation,
        /// Whether we dialled.
        dialled: bool,
        /// Whether its carrier is for when there is no better one.
        fallback: bool,
        /// Round trip of the handshake in microseconds; 0: not known.
        rtt_us: u32,
    },
    /// A connection with a node that was here before is being resumed: messages may cross it, and nothing else before
    /// [`Input::LinkUp`] or [`Input::LinkDown`] with the same number.
    LinkEarly {
        /// The driver's number for the link.
        link: LinkId,
        /// The peer, as its certificate says.
        peer: NodeName,
        /// Whether we dialled.
        dialled: bool,
    },
    /// A link is over, or a connection did not become one.
    LinkDown(LinkId),
    /// A frame came.
    Frame(LinkId, Frame),
    /// A frame that was to be sent did not fit into the link's queue.
    Unsent(LinkId, Frame),
    /// A record is on disk.
    Persisted(Ticket),
    /// A record could not be written.
    PersistFailed(Ticket, String),
    /// Ask another node something; [`Output::Answered`] has the same number.
    Ask {
        /// The caller's number.
        number: Sequence,
        /// Whom; `None`: the holder of the CA.
        to: Option<NodeName>,
        /// What.
        method: Method,
        /// With what.
        body: Bytes,
        /// How long to wait.
        within: Duration,
    },
    /// The driver's answer to [`Output::Asked`].
    Answer(Call, Result<Bytes, String>),
    /// A revocation list that was verified: its number, its bytes, the serial numbers on it in hex.
    Revocations(u64, Bytes, BTreeSet<String>),
    /// A message that the operator sends for somebody, a retry of one that died; answered by [`Output::Posted`].
    Post(Sequence, Box<Head>, Bytes),
    /// The operator lets a node go on whose store is an old one.
    GoOn(GoOn),
    /// The operator does not want to wait for a node any longer: second copies of its messages go on from here. See
    /// [`Mesh::may_take_over`](super::Mesh::may_take_over).
    TakeOver(NodeName),
    /// A message that died is not wanted any more.
    DropDead(MessageKey),
    /// This node is stopping: tell the peers to come back after so many milliseconds.
    Stop(u64),
    /// Time has passed; with the wall clock in milliseconds.
    Tick(u64),
}

/// What is to be done. The driver does it and says what came of it by an [`Input`].
#[derive(Debug)]
pub enum Output {
    /// Queue this frame; if it does not fit, say [`Input::Unsent`].
    Send(LinkId, Frame),
    /// Close the link; [`Input::LinkDown`] follows.
    Close(LinkId, LinkClose, String),
    /// Write and fsync, then say [`Input::Persisted`].
    Persist(Ticket, Record),
    /// Somebody asks this node something.
    Asked(Call, Bytes),
    /// What came of an [`Input::Ask`]: the way it took, and the answer.
    Answered(Sequence, Result<(Vec<NodeName>, Bytes), AskFailed>),
    /// A newer revocation list came: verify it, then say [`Input::Revocations`].
    Revocations(u64, Bytes),
    /// A session asks where a message stands: answer by [`Frame::Answer`] on this link. It may ask.
    Query(LinkId, SessionNo, Sequence, Queried),
    /// What came of an [`Input::Post`]: it was taken, and is being written; or not.
    Posted(Sequence, Result<(), Refusal>),
    /// For the log and the metrics.
    Event(Event),
}

/// Which message is asked about, and who asks: only what that agent sent or got may be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queried {
    /// Who asks.
    pub asker: AgentAddr,
    /// Who sent it.
    pub from: AgentAddr,
    /// What that one calls it.
    pub id: MessageId,
}

/// One step of a message at this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Which.
    pub key: MessageKey,
    /// When it was taken, by the hybrid logical clock.
    pub taken: u64,
    /// What happened.
    pub step: Step,
    /// The other node, where there is one.
    pub node: Option<NodeName>,
    /// The link it went over, or the one of the session.
    pub link: Option<LinkId>,
}

/// What happens to a message at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Taken from a session.
    Taken,
    /// Came from the node that has it.
    Arrived,
    /// Came before: recognised.
    Recognised,
    /// On this node's disk.
    Kept,
    /// Sent to its recipient's home.
    Sent,
    /// Sent there again.
    SentAgain,
    /// Refused there for want of room: it waits, and is tried again.
    NoRoom,
    /// Passed on by a node between.
    Relayed,
    /// Stored at its recipient's home.
    Stored,
    /// Put into a session's hands.
    HandedOver,
    /// The same, and its recipient may have got it before.
    HandedOverAgain,
    /// Written to its recipient's socket.
    Written,
    /// Its recipient wants it later.
    Requeued,
    /// The session ended before it was done with.
    TakenBack,
    /// Acknowledged.
    Acked,
    /// Refused by its recipient.
    Nacked,
    /// Its time was over.
    Expired,
    /// Died.
    Dead,
    /// Its first holder stays away: it goes on from here.
    TookOver,
}

impl Step {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Taken => "taken",
            Step::Arrived => "arrived",
            Step::Recognised => "recognised",
            Step::Kept => "kept",
            Step::Sent => "sent",
            Step::SentAgain => "sent again",
            Step::NoRoom => "no room there",
            Step::Relayed => "relayed",
            Step::Stored => "stored",
            Step::HandedOver => "handed over",
            Step::HandedOverAgain => "handed over again",
            Step::Written => "written",
            Step::Requeued => "requeued",
            Step::TakenBack => "taken back",
            Step::Acked => "acked",
            Step::Nacked => "nacked",
            Step::Expired => "expired",
            Step::Dead => "dead",
            Step::TookOver => "took over",
        }
    }
}

/// Why an [`Input::Ask`] has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskFailed {
    /// No such node was ever seen.
    UnknownNode(NodeName),
    /// Nobody in reach holds the CA.
    NoHolder,
    /// No way leads there now.
    NoRoute(NodeName),
    /// No answer in time.
    TimedOut(NodeName),
    /// It answered with an error.
    Refused(NodeName, String),
    /// Too many wait already.
    Busy,
}

/// Something worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A way to this node exists now.
    Reachable(NodeName),
    /// No way leads to this node any more.
    Unreachable(NodeName),
    /// A second connection of the same two nodes was closed.
    Settled {
        /// The peer.
        peer: NodeName,
        /// The link that is kept.
        kept: LinkId,
        /// The link that is closed.
        closed: LinkId,
    },
    /// A message was handed to an entrance.
    HandedOver,
    /// A message was refused.
    Refused(&'static str),
    /// The store is older than what others have seen of this node: it stands still.
    RolledBack {
        /// The latest life in the store.
        previous: Incarnation,
        /// The latest life that others have seen.
        seen: Incarnation,
    },
    /// A step of a durable message.
    Hop(Box<Hop>),
    /// A message that came before its connection's handshake was confirmed had come before.
    EarlyRepeated,
    /// A frame that says nothing to this node was left alone.
    Stray(&'static str),
    /// Another process calls itself by this node's name.
    NameClash(LinkId),
    /// A frame that makes no sense on this link was ignored.
    Ignored(LinkId, &'static str),
}

impl fmt::Display for AskFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AskFailed::UnknownNode(node) => write!(f, "no node {node} is known"),
            AskFailed::NoHolder => f.write_str("no node in reach holds the CA"),
            AskFailed::NoRoute(node) => write!(f, "no way leads to {node}"),
            AskFailed::TimedOut(node) => write!(f, "{node} did not answer in time"),
            AskFailed::Refused(node, why) => write!(f, "{node} refused: {why}"),
            AskFailed::Busy => f.write_str("too many calls are under way"),
        }
    }
}
