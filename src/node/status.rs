//! What a node says of itself; the field names are what `--json` prints, and stay.

use serde::{Deserialize, Serialize};

use crate::store;
use crate::wire::ids::{Incarnation, NodeName};

/// `trishula status --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// This node.
    pub node: NodeName,
    /// Its life.
    pub incarnation: Incarnation,
    /// Program and version.
    pub software: String,
    /// Seconds since its start.
    pub uptime_seconds: u64,
    /// Whether every node that is known can be reached.
    pub whole: bool,
    /// Every node that is known, this one first.
    pub nodes: Vec<NodeStatus>,
    /// Links of this node.
    pub links: Vec<LinkStatus>,
    /// Agents connected in the whole mesh; one that is connected at two nodes counts at both.
    pub agents_online: usize,
    /// Agents that are known.
    pub agents_known: usize,
    /// Number of the revocation list in force; 0: none yet.
    pub revocation_list: u64,
    /// Days until this node's own certificate ends.
    pub certificate_days_left: Option<i64>,
    /// What it keeps; absent: it is of a release that keeps nothing.
    #[serde(default)]
    pub durable: Option<DurableStatus>,
    /// How often links came back with early data; absent: it is of a release that sends none.
    #[serde(default)]
    pub early: Option<EarlyStatus>,
    /// Links that are down; absent: it is of a release that does not count them.
    #[serde(default)]
    pub down: Option<DownStatus>,
    /// The UDP socket; absent: there is none, or it is of a release that does not look.
    #[serde(default)]
    pub udp: Option<UdpStatus>,
}

/// Nodes that there is an address of and no link to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownStatus {
    /// How many there are.
    pub links: u64,
    /// The longest that nothing has been done about one of them, in seconds: at most five, or there is a fault in the program.
    pub idle_seconds: u64,
    /// How often one was not being dialled for ten seconds, and was dialled anew: 0, or there is a fault in the program.
    pub not_dialled: u64,
}

/// What the system gives the UDP socket, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpStatus {
    /// Asked for, each way.
    pub wanted: usize,
    /// For what came and was not read yet.
    pub receive: usize,
    /// For what was sent and has not left yet.
    pub send: usize,
    /// The command that has the system give what was asked for; absent: it does.
    pub mend: Option<String>,
}

/// Links that came back with early data (0-RTT) since the node's start, and what came that way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlyStatus {
    /// Connections that this node began with early data.
    pub offered: u64,
    /// Of those, where the peer took it.
    pub accepted: u64,
    /// Of those, where the peer had forgotten the session; it was sent again.
    pub rejected: u64,
    /// Of those, such as ended before the peer answered: nobody was there, or another try came through. What is neither is
    /// under way.
    #[serde(default)]
    pub dropped: u64,
    /// Connections of peers that began with early data.
    pub received: u64,
    /// Messages that came that way.
    pub messages: u64,
    /// Of those, such as had come before and were recognised.
    pub repeated: u64,
}

/// What a node keeps of durable messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DurableStatus {
    /// Messages in mailboxes of its agents, those in hands included.
    pub mailbox: usize,
    /// In the hands of sessions.
    pub in_hand: usize,
    /// On the way to other nodes, or waiting for one.
    pub outbox: usize,
    /// Taken over by other nodes: what becomes of them is not known yet.
    pub handed: usize,
    /// Second copies.
    pub copies: usize,
    /// Ended, and their senders are still to be told.
    pub untold: usize,
    /// From other nodes, waiting for an earlier one.
    pub held: usize,
    /// Of those on the way, refused by the recipient's node for want of room, and tried again.
    #[serde(default)]
    pub no_room: usize,
    /// Refused by the disk, and written again.
    pub unwritten: usize,
    /// Marks of messages that have ended.
    pub marks: usize,
    /// Bytes of payloads.
    pub bytes: usize,
    /// The store is an old one, and this node stands still: others have seen this later life of it.
    #[serde(default)]
    pub rolled_back: Option<Incarnation>,
    /// Messages that died: `trishula dlq list`.
    pub dead_letters: u64,
    /// How near it is to each limit of `[limits]` that fills up.
    #[serde(default)]
    pub limits: Vec<LimitStatus>,
    /// The disk; absent: it has none.
    pub store: Option<StoreStatus>,
}

impl DurableStatus {
    /// Why it takes nothing, though it runs, and what to do where that is known.
    pub fn trouble(&self) -> Option<String> {
        let stands_still = |seen| {
            format!(
                "it stands still: its store is an old copy, the mesh has seen life {seen} of this node; say how to go on: {RESUME}"
            )
        };
        let store = || self.store.as_ref().and_then(StoreStatus::trouble).map(str::to_owned);
        self.rolled_back.map(stands_still).or_else(store)
    }
}

/// How an operator lets a node go on that stands still.
pub const RESUME: &str = "trishula store resume --redeliver, or --bury";

/// One limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LimitStatus {
    /// Its key in `[limits]`.
    pub key: String,
    /// How much of it is used, in the key's unit, rounded down.
    pub used: u64,
    /// What is allowed.
    pub most: u64,
    /// Whose, where it is one agent's: the one that is nearest.
    pub agent: Option<String>,
}

/// How a node's disk is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Whether what is given to it is written.
    pub writable: bool,
    /// Since when that is so, in milliseconds since the epoch.
    pub since_ms: u64,
    /// What the disk said last, while it is not writable.
    pub error: Option<String>,
    /// What is wrong with the file: it is read, never written.
    pub damaged: Option<String>,
    /// The slowest commit of the last one to two minutes.
    pub slowest_commit_ms: f64,
    /// Records that waited after the last commit.
    pub waiting: usize,
    /// Damaged messages that were put aside.
    pub quarantined: u64,
    /// Those of which no other node is known to hold a copy.
    #[serde(default)]
    pub quarantined_alone: u64,
    /// The full check of this start: `running`, `whole`, `damaged` or `failed`; absent: the file was damaged before, or it
    /// is of a release that does not tell.
    #[serde(default)]
    pub full_check: Option<String>,
}

impl StoreStatus {
    /// Whether senders wait long for their receipts.
    pub fn is_slow(&self) -> bool {
        self.slowest_commit_ms > store::SLOW_SECONDS * 1e3
    }

    /// What is wrong with it, and what to do where that is known.
    pub fn trouble(&self) -> Option<&str> {
        let refused = (!self.writable).then_some("the disk refuses to write");
        self.error.as_deref().filter(|_| !self.writable).or(self.damaged.as_deref()).or(refused)
    }
}

/// One node as this one sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Which.
    pub node: NodeName,
    /// Its life, as far as known.
    pub incarnation: Option<Incarnation>,
    /// Whether a way leads there.
    pub reachable: bool,
    /// The neighbour that messages to it go to first.
    pub next_hop: Option<NodeName>,
    /// Measured round trip along the way, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Agents connected there.
    pub agents_online: usize,
    /// Whether it holds the key of the mesh CA.
    pub holds_ca: bool,
}

/// One link of this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The peer's machine.
    pub peer: NodeName,
    /// `node`, `edge` or `gateway`.
    pub role: String,
    /// `quic` or `memory`.
    pub carrier: String,
    /// The congestion control of its connection, `cubic` or `bbr`; absent: it has none of its own.
    #[serde(default)]
    pub congestion: Option<String>,
    /// The peer's address.
    pub remote: String,
    /// Whether this node dialled.
    pub dialled: bool,
    /// Smoothed round trip in milliseconds; absent: not measured yet.
    pub rtt_ms: Option<f64>,
    /// By how much the peer's wall clock is ahead of this node's, in milliseconds, smoothed; absent: not measured yet.
    #[serde(default)]
    pub skew_ms: Option<f64>,
    /// Seconds since it came up.
    pub up_seconds: u64,
    /// Sessions of clients behind it.
    pub sessions: usize,
}

/// One row of `trishula agents`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentRow {
    /// `namespace/name`.
    pub agent: String,
    /// Whether a session is connected.
    pub online: bool,
    /// Its home.
    pub node: NodeName,
    /// What it said that it can.
    pub capabilities: Vec<String>,
    /// Wall-clock milliseconds of its last registration.
    pub registered_ms: u64,
}

/// The answer to a ping of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallAnswer {
    /// The nodes it went through there and back, the asking one first and last.
    pub route: Vec<NodeName>,
    /// Round trip in milliseconds.
    pub took_ms: f64,
    /// What the node answered.
    #[serde(skip)]
    pub body: bytes::Bytes,
}

/// What came of the operator's word that a node is not to be waited for: `trishula takeover --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenOver {
    /// Which.
    pub node: NodeName,
    /// Messages that go on from here.
    pub taken_over: usize,
    /// Messages whose recipients have not registered elsewhere: each goes on as soon as its recipient has.
    pub waiting: usize,
}
