//! What the command line and the node say to each other: JSON, as [messages](message) on a stream; one answer to each
//! request, in order.

use std::io;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::identity::enrol::PublicNames;
use crate::node::records::Inquiry;
use crate::rt::message;
use crate::wire::frame::Method;
use crate::wire::ids::{AgentAddr, AgentName, MessageId, Namespace, NodeName};

/// Largest request, in bytes.
pub const MAX_REQUEST: usize = 1 << 20;
/// Largest answer, in bytes: that of `agents` in a large mesh.
pub const MAX_ANSWER: usize = 64 << 20;

/// What is asked of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How this node, or another one, stands: [`crate::node::status::Status`].
    Status {
        /// Another one.
        #[serde(default)]
        node: Option<NodeName>,
    },
    /// Who is there: a list of [`crate::node::status::AgentRow`].
    Agents {
        /// Only of this namespace.
        #[serde(default)]
        namespace: Option<Namespace>,
    },
    /// Are you there: [`Pong`].
    Ping {
        /// Whom to ask.
        node: NodeName,
        /// How long to wait for the answer, in milliseconds.
        within_ms: u64,
    },
    /// Asks another node something: [`Called`].
    Call {
        /// Whom; `None`: the holder of the CA.
        #[serde(default)]
        to: Option<NodeName>,
        /// What.
        method: Method,
        /// With what, base64.
        body: String,
        /// How long to wait, in milliseconds.
        within_ms: u64,
    },
    /// Where a message stands, as all nodes in reach know it: [`crate::node::records::standing::Shown`].
    Show {
        /// Whose; `None`: everybody's of that id.
        #[serde(default)]
        from: Option<AgentAddr>,
        /// What its sender calls it.
        id: MessageId,
    },
    /// The way of a message: [`crate::node::records::trace::Traced`].
    Trace {
        /// Whose; `None`: everybody's of that id.
        #[serde(default)]
        from: Option<AgentAddr>,
        /// What its sender calls it.
        id: MessageId,
    },
    /// Something of one node's disk: see [`Inquiry`].
    Records {
        /// Another one than this.
        #[serde(default)]
        node: Option<NodeName>,
        /// What.
        inquiry: Inquiry,
    },
    /// Lets a node go on whose store is an old one: whether it stood still.
    Resume {
        /// What waits is handed over again; else it goes to the dead letters.
        redeliver: bool,
    },
    /// Second copies of a node's messages go on from here, although it has not been away for long:
    /// [`crate::node::status::TakenOver`].
    Takeover {
        /// The node that stays away.
        node: NodeName,
    },
    /// Makes a ticket: [`Invited`]. Only on the holder of the CA.
    Invite {
        /// For the machine of this name.
        name: NodeName,
        /// For how long, in milliseconds.
        expires_ms: u64,
        /// Where it finds the mesh.
        addresses: Vec<String>,
        /// Also if the name has certificates already.
        again: bool,
        /// Under which names clients may reach its edge; `None`: whichever it chooses.
        #[serde(default)]
        public: Option<PublicNames>,
    },
    /// Takes certificates back: [`Revoked`]. Only on the holder of the CA.
    Revoke {
        /// A name, or a serial number.
        whom: String,
        /// Why.
        reason: String,
    },
    /// Replaces the node's own certificate now: [`Renewed`].
    Renew,
    /// From here on the connection carries a session of an agent of this machine.
    Attach {
        /// Which; `<node>.cli` when absent.
        #[serde(default)]
        agent: Option<AgentName>,
    },
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It was done.
    Ok(serde_json::Value),
    /// It was not, and why.
    Error(String),
}

/// To [`Request::Ping`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pong {
    /// The nodes there and back.
    pub route: Vec<NodeName>,
    /// Round trip in milliseconds.
    pub took_ms: f64,
}

/// To [`Request::Call`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Called {
    /// The nodes there and back.
    pub route: Vec<NodeName>,
    /// Round trip in milliseconds.
    pub took_ms: f64,
    /// What was answered, base64.
    pub body: String,
}

/// To [`Request::Invite`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Invited {
    /// The ticket's text; a secret.
    pub ticket: String,
}

/// To [`Request::Revoke`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Revoked {
    /// Of the new list.
    pub number: u64,
    /// How many certificates are on it.
    pub entries: usize,
}

/// To [`Request::Renew`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Renewed {
    /// Days that the new certificate has.
    pub days_left: i64,
}

/// To [`Request::Attach`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attached {
    /// `namespace/name` of the session's agent.
    pub agent: String,
}

/// Reads one request or answer. `None`: the other side has finished.
pub async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
    max: usize,
) -> io::Result<Option<T>> {
    let Some(body) = message::read(from, max).await? else { return Ok(None) };
    serde_json::from_slice(&body).map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Writes one request or answer.
pub async fn write<T: Serialize>(to: &mut (impl AsyncWrite + Unpin), what: &T) -> io::Result<()> {
    message::write(to, &serde_json::to_vec(what)?).await
}

/// A duration in a request; more than an hour is cut.
pub(super) fn within(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds.clamp(1, 3_600_000))
}
