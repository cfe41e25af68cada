//! What the hub tells a session.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::gateway::readers::RoomNews;
use crate::link;
use crate::wire::close::{CloseCode, Refusal};
use crate::wire::frame::{AgentState, Deliver, Handing, Receipt};
use crate::wire::ids::{LinkId, NodeName, Sequence};

/// A message on its way to a session; its parts are shared by all sessions that get it.
#[derive(Debug)]
pub struct Delivery {
    /// The message's head and who wants to know.
    pub deliver: Arc<Deliver>,
    /// What the node calls this session's share of it.
    pub handing: Handing,
    /// The link that it came by: its tag means nothing on another one.
    pub link: LinkId,
    /// The frame as its sender wrote it.
    pub payload: Bytes,
    /// What it takes of the session's [`SESSION_BYTES`](super::SESSION_BYTES), if it is large.
    pub place: Option<OwnedSemaphorePermit>,
}

/// What comes to a session in order.
#[derive(Debug)]
pub enum Arrival {
    /// A message to its agent.
    Message(Delivery),
    /// Something about a room, with what it takes of the session's [`SESSION_BYTES`](super::SESSION_BYTES), if it is large.
    Room(RoomNews, Option<OwnedSemaphorePermit>),
}

/// What a session learns besides ordinary messages; it goes ahead of those.
#[derive(Debug)]
pub enum Notice {
    /// The node has registered the session: messages may be written to this link.
    Attached {
        /// The link to the node.
        link: link::Handle,
        /// The node.
        node: NodeName,
        /// Whether it serves rooms.
        rooms: bool,
    },
    /// There is no node now.
    Down,
    /// The link was replaced: the session is being registered over the new one.
    Moved,
    /// What became of a message of this session.
    Told(Receipt),
    /// The answer to AGENTS.
    Agents(Sequence, Vec<(AgentState, NodeName)>),
    /// The answer to QUERY.
    Answer(Sequence, Bytes),
    /// A message of priority 1.
    Urgent(Delivery),
}

/// An order to end a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// With which close code; `None`: the connection is gone already.
    pub code: Option<CloseCode>,
    /// What the client is told in an ERROR, where there is something to tell.
    pub refusal: Option<Refusal>,
    /// The close frame's reason.
    pub reason: String,
}

impl End {
    pub(super) fn refused(refusal: Refusal) -> End {
        let reason = refusal.message.clone();
        End { code: Some(CloseCode::for_refusal(refusal.code)), refusal: Some(refusal), reason }
    }
}
