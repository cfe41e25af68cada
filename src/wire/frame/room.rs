//! Frames of rooms: between nodes, and between an entrance and its node.

use serde::{Deserialize, Serialize};

use crate::wire::close::Refusal;
use crate::wire::ids::{
    AgentAddr, AgentName, Incarnation, MessageId, NodeName, RoomName, Sequence, SessionNo,
};
use crate::wire::room::{Position, RoomKey, Vector};

/// A change of the rooms that a node keeps, or all of them; flooded like [`Agents`](super::Agents).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomList {
    /// Whose.
    pub origin: NodeName,
    /// In which life.
    pub incarnation: Incarnation,
    /// The version this applies to; `None`: it is the whole list.
    pub base: Option<u64>,
    /// The version after it.
    pub version: u64,
    /// Rooms that changed, or all.
    pub rooms: Vec<RoomThere>,
}

/// One room at one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomThere {
    /// Which.
    pub room: RoomKey,
    /// Whether the node keeps the room: then it is sent all that is published there. `false`: no longer.
    pub kept: bool,
    /// Agents with a session there that has subscribed.
    pub members: Vec<AgentName>,
    /// Of those that are members no more, who left by their own word: the others may only have lost their connection.
    pub parted: Vec<AgentName>,
}

/// What of one node's [`RoomList`]s the sender has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomDigest {
    /// The node.
    pub origin: NodeName,
    /// In which life.
    pub incarnation: Incarnation,
    /// The version.
    pub version: u64,
}

/// A message of a room on its way to nodes that keep the room; each node on the way sends it on once a link. Its payload is
/// the text that subscribers get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomEntry {
    /// The nodes that it goes to.
    pub to: Vec<NodeName>,
    /// The node that sends it: its origin, or another one that keeps it.
    pub by: NodeName,
    /// Nodes it may still go through.
    pub hops_left: u8,
    /// The room.
    pub room: RoomKey,
    /// The node that took it from its sender.
    pub origin: NodeName,
    /// Which one of that node's it is.
    pub at: Position,
    /// The one before it of that node's in this room, as far as the sending node keeps them.
    pub after: Position,
    /// Who published it.
    pub from: AgentAddr,
    /// What that one calls it.
    pub id: MessageId,
    /// When it was taken, by the hybrid logical clock: orders the history of several nodes, nothing else.
    pub taken: u64,
}

/// What a node has of a room, to another one that keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomState {
    /// Whom.
    pub to: NodeName,
    /// Who says it.
    pub from: NodeName,
    /// In which life.
    pub incarnation: Incarnation,
    /// Nodes it may still go through.
    pub hops_left: u8,
    /// The room.
    pub room: RoomKey,
    /// Why.
    pub says: RoomSays,
    /// Of each node whose messages it has or had.
    pub has: Vec<RoomReach>,
}

/// What a [`RoomState`] is to bring about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoomSays {
    /// Say what you have, and send what I lack of your own, and of nodes that can't be reached.
    Ask,
    /// The same, and whoever's it is.
    AskAll,
    /// The answer to either.
    Answer,
    /// So much is on my disk.
    Have,
}

/// How far a node has the messages of one origin: those after `floor` up to `top`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomReach {
    /// Whose messages.
    pub origin: NodeName,
    /// The last one that it has no longer.
    pub floor: Position,
    /// The last one.
    pub top: Position,
}

/// A session subscribes to a room of its namespace, or its entrance does so again for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomSubscribe {
    /// Which session.
    pub session: SessionNo,
    /// The entrance's number for the answer.
    pub number: Sequence,
    /// The room.
    pub room: RoomName,
    /// Where to go on; `None`: from now.
    pub cursor: Option<Vector>,
    /// Without a cursor: begin with so many of the latest messages.
    pub history: u16,
    /// Whether it wants to know who joins and leaves.
    pub presence: bool,
}

/// A session asks something about a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomAsk {
    /// Which session.
    pub session: SessionNo,
    /// Its number for the answer.
    pub number: Sequence,
    /// The room.
    pub room: RoomName,
    /// What.
    pub question: RoomQuestion,
}

/// What a session may ask about a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoomQuestion {
    /// Who is there?
    Members {
        /// Largest answer, in bytes.
        bytes: u32,
    },
    /// What was published?
    History {
        /// So many at most.
        limit: u16,
        /// Only what came before.
        before: Option<Vector>,
        /// Only what came after.
        after: Option<Vector>,
        /// Largest answer, in bytes.
        bytes: u32,
    },
}

/// A session has subscribed, and what it gets before what is new: the payload is the texts, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomJoined {
    /// Which session.
    pub session: SessionNo,
    /// The number of its [`RoomSubscribe`].
    pub number: Sequence,
    /// The room.
    pub room: RoomKey,
    /// Why not; then all that follows is empty.
    pub refusal: Option<Refusal>,
    /// Where it stands before these messages.
    pub cursor: Vector,
    /// Whether nothing is missing between the cursor that it gave and these messages.
    pub recovered: bool,
    /// Who is there, at most [`MAX_MEMBERS`](crate::wire::room::MAX_MEMBERS).
    pub members: Vec<AgentName>,
    /// Origin, place, and length of the text of each message.
    pub messages: Vec<(NodeName, Position, u32)>,
    /// Where the node stands: what is new comes after it.
    pub now: Vector,
}

/// A new message, for all sessions of this entrance that have subscribed; the payload is its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomMessage {
    /// The room.
    pub room: RoomKey,
    /// The node that took it from its sender.
    pub origin: NodeName,
    /// Which one of that node's it is.
    pub at: Position,
    /// The one before it: an entrance that has not had that one has lost something.
    pub after: Position,
    /// The node had the same message from another one before: only the place changes.
    pub known: bool,
}

/// Messages of one origin up to this place can't be had any more: whoever has not got them has missed them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomLapse {
    /// The room.
    pub room: RoomKey,
    /// Whose messages.
    pub origin: NodeName,
    /// The last one that is missing.
    pub to: Position,
    /// Who is there, at most [`MAX_MEMBERS`](crate::wire::room::MAX_MEMBERS).
    pub members: Vec<AgentName>,
}

/// Somebody joined a room or left it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomMember {
    /// The room.
    pub room: RoomKey,
    /// Who.
    pub agent: AgentName,
    /// Joined, or left.
    pub joined: bool,
}
