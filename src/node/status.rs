//! What a node says of itself; the field names are what `--json` prints, and stay.

use serde::{Deserialize, Serialize};

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
    /// Agents connected in the whole mesh.
    pub agents_online: usize,
    /// Agents that are known.
    pub agents_known: usize,
    /// Number of the revocation list in force; 0: none yet.
    pub revocation_list: u64,
    /// Days until this node's own certificate ends.
    pub certificate_days_left: Option<i64>,
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
    /// The peer's address.
    pub remote: String,
    /// Whether this node dialled.
    pub dialled: bool,
    /// Smoothed round trip in milliseconds; absent: not measured yet.
    pub rtt_ms: Option<f64>,
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
