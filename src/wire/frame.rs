//! Frames between nodes, and between an edge and its node.
//!
//! On the wire: `kind` (1 byte), length of the head (LEB128, at most 5 bytes), the head (postcard), length
//! of the payload (LEB128), the payload as it is. A kind that is not known is skipped by its lengths, so a
//! node of tomorrow can talk to one of today. The payload is never copied: it is a slice of what arrived.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};

use super::close::Refusal;
use super::envelope::Head;
use super::ids::{AgentAddr, Incarnation, MessageId, NodeName, RoomName, Sequence, SessionNo};
use super::room::RoomKey;

mod codec;
mod coding;
mod message;
mod room;

pub use codec::Reader;
pub use message::{
    Confirm, Deliver, Dest, Forward, Handing, Heard, Inquire, MAX_IN_HAND, Outcome, Receipt, Release,
    Settlement, Withdraw,
};
pub use room::{
    RoomAsk, RoomDigest, RoomEntry, RoomJoined, RoomLapse, RoomList, RoomMember, RoomMessage, RoomQuestion,
    RoomReach, RoomSays, RoomState, RoomSubscribe, RoomThere,
};

/// Largest head, in bytes. The largest there is lists every agent of a node.
pub const MAX_HEAD: usize = 4 << 20;
/// Largest payload, in bytes. Entrances set lower limits of their own, 16 MiB at most: what they add to a client's
/// frame must fit too.
pub const MAX_PAYLOAD: usize = (16 << 20) + 1024;
/// Nodes that a message, its receipt or a call may go through.
pub const MAX_HOPS: u8 = 16;
/// The newest version of this protocol that we speak, and the oldest.
pub const VERSION: u16 = 2;
/// See [`VERSION`].
pub const OLDEST_VERSION: u16 = 2;

/// What a node says in HELLO that knows the frames of rooms: others are sent none.
pub const ROOMS: &str = "rooms";

/// Why bytes are not a frame. The stream they came on can't be read any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A length is over its limit.
    #[error("a frame's {what} of {length} bytes is over the limit of {limit}")]
    TooLarge {
        /// Head or payload.
        what: &'static str,
        /// As announced.
        length: usize,
        /// As allowed.
        limit: usize,
    },
    /// A length is not LEB128 of at most five bytes.
    #[error("a frame's length is malformed")]
    BadLength,
    /// The head does not have the shape of its kind.
    #[error("a frame of kind {kind} has a malformed head: {why}")]
    BadHead {
        /// The kind byte.
        kind: u8,
        /// What postcard said.
        why: String,
    },
    /// A payload came with a kind that has none.
    #[error("a frame of kind {kind} has a payload of {length} bytes; it must have none")]
    UnexpectedPayload {
        /// The kind byte.
        kind: u8,
        /// How much there was.
        length: usize,
    },
}

/// The first frame each way on a link's control lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest version spoken.
    pub version: u16,
    /// The oldest version spoken.
    pub oldest: u16,
    /// Who speaks; must be the name in its certificate.
    pub node: NodeName,
    /// The start of the process that speaks.
    pub incarnation: Incarnation,
    /// What it can beyond its version, by name.
    pub features: Vec<String>,
    /// Program and version, for people.
    pub software: String,
}

impl Hello {
    /// As this release speaks.
    pub fn new(node: NodeName, incarnation: Incarnation, software: impl Into<String>) -> Hello {
        let (version, oldest, features) = (VERSION, OLDEST_VERSION, vec![ROOMS.to_owned()]);
        Hello { version, oldest, node, incarnation, features, software: software.into() }
    }
}

/// One neighbour of a node, as that node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adjacency {
    /// The neighbour.
    pub peer: NodeName,
    /// Smoothed round trip, in microseconds.
    pub rtt_us: u32,
}

/// What a node says of itself to the whole mesh (link-state flooding, as in OSPF, RFC 2328).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkState {
    /// Who says it.
    pub origin: NodeName,
    /// In which life.
    pub incarnation: Incarnation,
    /// Counts up with each change.
    pub version: u64,
    /// Its links to other nodes.
    pub links: Vec<Adjacency>,
    /// Whether it holds the key of the mesh CA.
    pub holds_ca: bool,
    /// Where it can be dialled; empty for a node behind NAT.
    pub addresses: Vec<String>,
    /// Serial number of its certificate at its start, in hex: whose is on the revocation list is forgotten.
    pub serial: String,
}

/// One agent as its node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentState {
    /// Who.
    pub agent: AgentAddr,
    /// Connected now, known but away, or forgotten.
    pub presence: Presence,
    /// Wall-clock milliseconds of its last registration: the newest one is its home.
    pub registered_ms: u64,
    /// Whether several sessions share its messages.
    pub shared: bool,
    /// What it said that it can.
    pub capabilities: Vec<String>,
}

/// Whether an agent is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// At least one session is connected.
    Online,
    /// Known, and not connected.
    Away,
    /// Unregistered, or moved to another node.
    Gone,
}

/// A change of a node's agents, or all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agents {
    /// Whose.
    pub origin: NodeName,
    /// In which life.
    pub incarnation: Incarnation,
    /// The version this applies to; `None`: it is the whole list.
    pub base: Option<u64>,
    /// The version after it.
    pub version: u64,
    /// Agents that changed, or all.
    pub agents: Vec<AgentState>,
}

/// Since when a node's list of agents lacks none for want of memory: goes before the list. Who registered there earlier and is not in
/// the list may have been lost with a disk, and is still known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembers {
    /// Whose list.
    pub origin: NodeName,
    /// In which life.
    pub incarnation: Incarnation,
    /// The life, by which are meant the milliseconds of its beginning.
    pub since: Incarnation,
}

/// What of one node's announcements the sender has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The node.
    pub origin: NodeName,
    /// Its newest life that is known.
    pub incarnation: Incarnation,
    /// Of [`LinkState`].
    pub links_version: u64,
    /// Of [`Agents`].
    pub agents_version: u64,
}

/// A session that an entrance asks to be registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// The entrance's own number for it.
    pub session: SessionNo,
    /// As whom.
    pub agent: AgentAddr,
    /// What it can.
    pub capabilities: Vec<String>,
    /// Whether it takes over from other sessions of the agent, or joins them.
    pub shared: bool,
    /// Wall-clock milliseconds of the registration: kept when an entrance attaches again.
    pub registered_ms: u64,
    /// Whether this is a repetition after the entrance's link to its node was renewed.
    pub resumed: bool,
    /// Messages that it may have in its hands at once; as many again of priority 1. 0 for a session that is attached: it
    /// gets no more, and the answer comes when all that it has is settled.
    pub window: u16,
    /// Whether the agent is forgotten with the last of its sessions, however that ends. Releases that do not know this
    /// neither write nor read it; theirs stay known.
    #[serde(deserialize_with = "written_last")]
    pub transient: bool,
}

/// What stands at the end of a head since some release: one that is older has written nothing there.
fn written_last<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Ok(T::deserialize(from).unwrap_or_default())
}

/// What a call asks of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// Are you there; the answer tells the way.
    Ping,
    /// The node's status, as JSON.
    Status,
    /// A machine with an invitation asks for its certificates (to the holder of the CA).
    Enrol,
    /// A node asks for new leaves before its own end (to the holder of the CA).
    Renew,
    /// What the node's disk knows of a message, as JSON; and its dead letters.
    Records,
}

/// A question to one node, relayed by those between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Who asks.
    pub from: NodeName,
    /// In which life.
    pub incarnation: Incarnation,
    /// Its number for the answer.
    pub number: Sequence,
    /// Who is asked.
    pub to: NodeName,
    /// What.
    pub method: Method,
    /// The nodes it came through, the asking one first.
    pub route: Vec<NodeName>,
}

/// The answer to a [`Call`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Who asked.
    pub to: NodeName,
    /// In which life.
    pub incarnation: Incarnation,
    /// The call's number.
    pub number: Sequence,
    /// Who answers.
    pub from: NodeName,
    /// Whether the payload is the answer or an error text.
    pub ok: bool,
    /// The nodes the call came through and those the answer comes through.
    pub route: Vec<NodeName>,
    /// Nodes it may still go through.
    pub hops_left: u8,
}

/// Every frame of a link. [`Frame::Unknown`] stands for one that a newer peer sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// See [`Hello`].
    Hello(Hello),
    /// Time of the sender's own clock, in microseconds; comes back in [`Frame::Pong`].
    Ping(u64),
    /// See [`Frame::Ping`]; with the wall clock of the one who answers, in milliseconds since the epoch.
    Pong(u64, u64),
    /// The sender is stopping: use other ways, come back after so many milliseconds.
    Goodbye(u64),
    /// See [`LinkState`].
    LinkState(LinkState),
    /// See [`Agents`].
    Agents(Agents),
    /// See [`Remembers`].
    Remembers(Remembers),
    /// What the sender has of everybody's announcements: on a new link, then every ten seconds.
    Digest(Vec<Known>),
    /// The mesh's revocation list with its number; the payload is the DER of an X.509 CRL (RFC 5280).
    Revocations(u64, Bytes),
    /// See [`Call`].
    Call(Call, Bytes),
    /// See [`Reply`].
    Reply(Reply, Bytes),
    /// See [`Forward`].
    Forward(Forward, Bytes),
    /// See [`Receipt`].
    Receipt(Receipt),
    /// See [`Confirm`].
    Confirm(Confirm),
    /// See [`Inquire`].
    Inquire(Inquire),
    /// Keep this as a second copy; see [`Forward`].
    Hold(Forward, Bytes),
    /// See [`Release`].
    Release(Release),
    /// See [`Withdraw`].
    Withdraw(Withdraw),
    /// See [`Heard`].
    Heard(Heard),
    /// Entrance to node: see [`Attach`].
    Attach(Attach),
    /// Node to entrance: this session is registered; the time that counts for it, in milliseconds since the epoch.
    Attached(SessionNo, u64),
    /// Entrance to node: this session is over; `true`: and the agent is to be forgotten.
    Detach(SessionNo, bool),
    /// Node to entrance: close this session.
    Evict(SessionNo, Refusal),
    /// Entrance to node: a message of this session.
    Submit(SessionNo, Head, Bytes),
    /// Node to entrance: what became of a message of this session.
    Told(SessionNo, Receipt),
    /// Node to entrance: see [`Deliver`].
    Deliver(Deliver, Bytes),
    /// Entrance to node: what became of messages in this session's hands, by their tags.
    Settle(SessionNo, Vec<(u64, Settlement)>),
    /// Entrance to node: where does a message of this sender stand? The number comes back with the answer.
    Query(SessionNo, Sequence, AgentAddr, MessageId),
    /// Node to entrance: the answer, the payload of STATE as JSON; or that of ERROR, where it is refused.
    Answer(SessionNo, Sequence, Bytes),
    /// Entrance to node: who is there in this session's namespace? The number comes back with the list.
    AskAgents(SessionNo, Sequence),
    /// Node to entrance: the agents, with the node of each.
    AgentList(SessionNo, Sequence, Vec<(AgentState, NodeName)>),
    /// See [`RoomList`].
    RoomList(RoomList),
    /// Which of everybody's [`RoomList`]s the sender has: on a new link, then every ten seconds.
    RoomDigest(Vec<RoomDigest>),
    /// See [`RoomEntry`].
    RoomEntry(RoomEntry, Bytes),
    /// See [`RoomState`].
    RoomState(RoomState),
    /// Entrance to node: see [`RoomSubscribe`].
    RoomSubscribe(RoomSubscribe),
    /// Entrance to node: this session leaves the room.
    RoomUnsubscribe(SessionNo, RoomName),
    /// Entrance to node: see [`RoomAsk`]; answered by [`Frame::Answer`].
    RoomAsk(RoomAsk),
    /// Node to entrance: see [`RoomJoined`].
    RoomJoined(RoomJoined, Bytes),
    /// Node to entrance: see [`RoomMessage`].
    RoomMessage(RoomMessage, Bytes),
    /// Node to entrance: see [`RoomLapse`].
    RoomLapse(RoomLapse),
    /// Node to entrance: see [`RoomMember`].
    RoomMember(RoomMember),
    /// Node to entrance: something of this room found no room on its way; its sessions subscribe again.
    RoomAgain(RoomKey),
    /// Entrance to node: the rooms that this session joins from now on take no more than so many agents. A node that does
    /// not know it has no such limit.
    RoomMost(SessionNo, u32),
    /// A kind that this version does not know.
    Unknown(u8),
}

macro_rules! kinds {
    ($($name:ident = $number:literal),* $(,)?) => {
        mod kind { $(#[allow(non_upper_case_globals)] pub const $name: u8 = $number;)* }

        impl Frame {
            /// The frame's name, for logs and metrics: a closed list.
            pub fn name(&self) -> &'static str {
                Frame::name_of(self.kind())
            }

            /// The name of the frames of a kind; `Unknown` for all that this version does not know.
            pub fn name_of(kind: u8) -> &'static str {
                match kind { $($number => stringify!($name),)* _ => "Unknown" }
            }

            /// The frame's first byte on the wire.
            pub fn kind(&self) -> u8 {
                match self { $(Frame::$name { .. } => $number,)* Frame::Unknown(kind) => *kind }
            }
        }
    };
}

// A number is never used for another kind again.
kinds! {
    Hello = 1, Ping = 2, Pong = 3, Goodbye = 4,
    LinkState = 8, Agents = 9, Digest = 10, Revocations = 11, RoomList = 12, RoomDigest = 13, Remembers = 14,
    Call = 16, Reply = 17,
    Forward = 24, Receipt = 25, Confirm = 26, Inquire = 27, Hold = 28, Release = 29, Heard = 30, Withdraw = 31,
    Attach = 32, Attached = 33, Detach = 34, Evict = 35,
    Submit = 40, Told = 41, Deliver = 42, AskAgents = 43, AgentList = 44, Settle = 45, Query = 46, Answer = 47,
    RoomEntry = 48, RoomState = 49,
    RoomSubscribe = 56, RoomUnsubscribe = 57, RoomAsk = 58, RoomJoined = 59, RoomMessage = 60, RoomLapse = 61,
    RoomMember = 62, RoomAgain = 63, RoomMost = 64,
}

impl Frame {
    /// Whether it goes only to a peer that said [`ROOMS`] in HELLO.
    pub fn is_of_rooms(&self) -> bool {
        matches!(self.kind(), kind::RoomList | kind::RoomDigest | kind::RoomEntry..=kind::RoomState)
            || (kind::RoomSubscribe..=kind::RoomMost).contains(&self.kind())
    }
}

/// A frame as it goes to a socket: two buffers, the second being the payload itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Kind, lengths and head.
    pub head: Bytes,
    /// The payload; often empty.
    pub payload: Bytes,
}

impl Encoded {
    /// Bytes on the wire.
    pub fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    /// Whether there is nothing in it (never, for an encoded frame).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
