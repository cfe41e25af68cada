//! What a node has on disk: the mesh says what is to be written, the store writes it, and reads it back at the next start.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::close::Refusal;
use super::envelope::{Head, MessageKey, State};
use super::frame::AgentState;
use super::ids::{AgentAddr, Incarnation, MessageId, NodeName, Sequence};
use super::room::{Position, RoomKey};

/// What is to be written and fsynced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// This agent is registered here.
    Agent(AgentState),
    /// The same, of one that is forgotten with its last session.
    Transient(AgentState),
    /// This agent is no longer known here.
    Forget(AgentAddr),
    /// News of another node.
    Elsewhere(NodeName, Elsewhere),
    /// This message is kept here; replaces what was known of it.
    Keep(Box<Kept>),
    /// A message that is kept here has moved on.
    Change(MessageKey, Change),
    /// A message is forgotten: its mark is no longer needed.
    Erase(MessageKey),
    /// Marks of this sender were dropped whose messages were sent up to this time, in milliseconds of its own clock:
    /// what it sends again from before can't be recognised any more.
    Horizon(AgentAddr, u64),
    /// Marks of numbered messages were dropped: their numbers are what is left; replaces what was known of the two.
    Numbers(Numbers),
    /// A message of a room is kept here.
    RoomKeep(RoomKey, Box<RoomMessage>),
    /// Of this node's messages in a room those up to this place are kept no more; one with an earlier place than was
    /// known says nothing.
    RoomFloor(RoomKey, NodeName, Position),
    /// Nothing of a room is kept any more.
    RoomGone(RoomKey),
    /// What is known of this node's lives; replaces what was.
    Past(Past),
}

/// What a store knows of its node's lives. With what others have seen of them it tells whether the store is an old one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// The latest life at whose beginning another node knew of none that the store does not; or the first one.
    pub confirmed: Incarnation,
    /// The lives after that one, in order: no other node has said anything yet.
    pub unconfirmed: Vec<Incarnation>,
    /// A life that others have seen and this store has not: the node stands still until its operator has said how to go on.
    pub missing: Option<Incarnation>,
    /// Nothing is lost of what was written since this life began. 0: nothing at all.
    pub whole_since: Incarnation,
}

impl Past {
    /// So many unconfirmed lives are told apart; of more, the oldest counts as confirmed.
    const MAX_UNCONFIRMED: usize = 256;

    /// Of a new store.
    pub fn new(first: Incarnation) -> Past {
        Past { confirmed: first, unconfirmed: Vec::new(), missing: None, whole_since: first }
    }

    /// Of a store that knows no more than its latest life.
    pub fn of(last: Incarnation) -> Past {
        Past { whole_since: Incarnation(0), ..Past::new(last) }
    }

    /// As the next life finds it; `last` is the latest one.
    pub fn then(mut self, last: Incarnation) -> Past {
        if last > self.confirmed && !self.unconfirmed.contains(&last) {
            self.unconfirmed.push(last);
        }
        while self.unconfirmed.len() > Past::MAX_UNCONFIRMED {
            self.confirmed = self.unconfirmed.remove(0);
        }
        self
    }
}

/// A message of a room, as every node that keeps the room has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomMessage {
    /// The node that took it from its sender.
    pub origin: NodeName,
    /// Which one of that node's it is.
    pub at: Position,
    /// The one before it in the room, where another node took it; the least one: there is none, or it is not known.
    pub after: Position,
    /// Who published it.
    pub from: AgentAddr,
    /// What that one calls it.
    pub id: MessageId,
    /// When it was taken, by the hybrid logical clock of its origin.
    pub taken: u64,
    /// The wall clock when it came here, in milliseconds.
    pub kept_ms: u64,
    /// The text that subscribers get.
    pub payload: Bytes,
}

/// What a node knew of a room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownRoom {
    /// See [`Record::RoomFloor`].
    pub floors: BTreeMap<NodeName, Position>,
    /// Its messages, those of each origin in order.
    pub messages: Vec<RoomMessage>,
    /// Of which origins the last messages are lost, and the least place that the last of those can have had.
    pub holes: BTreeMap<NodeName, Position>,
}

impl KnownRoom {
    /// Takes one record about it; [`Record::RoomGone`] leaves nothing.
    pub fn note(&mut self, record: &Record) {
        match record {
            Record::RoomKeep(_, message) => self.messages.push((**message).clone()),
            Record::RoomFloor(_, origin, place) => {
                let floor = self.floors.entry(origin.clone()).or_default();
                *floor = (*floor).max(*place);
                self.messages.retain(|message| message.origin != *origin || message.at > *place);
                self.holes.retain(|other, hole| other != origin || *hole > *place);
            }
            Record::RoomGone(_) => *self = KnownRoom::default(),
            _ => {}
        }
    }
}

/// Which of a sender's numbered messages to one recipient have ended and left no mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbers {
    /// Who counts them.
    pub from: AgentAddr,
    /// To whom.
    pub to: AgentAddr,
    /// The sender's count; all that are lower are over.
    pub epoch: u64,
    /// First and last of each range, in order, with a gap between two.
    pub ranges: Vec<(u64, u64)>,
}

/// What a node keeps of another one, to know its agents also when it starts while that one can't be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elsewhere {
    /// This agent is registered there.
    Agent(AgentState),
    /// This agent is no longer known there.
    Forget(AgentAddr),
    /// It was in reach at this time, in milliseconds of the wall clock.
    Heard(u64),
    /// It is forgotten with all its agents.
    Left,
}

/// Where a message that a node knows of lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Here, for an agent whose home is here.
    Mailbox,
    /// Here, on its way to its recipient's home.
    Outbox,
    /// Here as a second copy, for the node that has the first.
    Copy,
    /// At its recipient's home, which has taken it over: only what became of it is known here.
    Handed,
    /// Here as well, for the operator: it died.
    Dead,
    /// Nowhere: it has ended, and this is the mark by which it is recognised.
    Ended,
}

/// From whom a node has a message, and whom it tells what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// Its sender, here.
    Sender,
    /// Another node, which calls it by this number of this life of its own.
    Node(NodeName, Incarnation, Sequence),
}

impl Upstream {
    /// Whether both are of one life of a node, and this one has the higher number: the node gave the message back meanwhile, and took it
    /// again.
    pub fn is_later_than(&self, other: &Upstream) -> bool {
        match (self, other) {
            (Upstream::Node(a, life_a, number_a), Upstream::Node(b, life_b, number_b)) => {
                a == b && life_a == life_b && number_a > number_b
            }
            _ => false,
        }
    }
}

/// All that a node keeps of one message for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub key: MessageKey,
    /// Orders the messages of a node: higher than that of every message taken before.
    pub order: u64,
    /// Where it lies.
    pub place: Place,
    /// From whom it came.
    pub upstream: Upstream,
    /// As it was taken; `ttl_ms` and `not_before_ms` count from `taken_ms`.
    pub head: Head,
    /// Empty where it is not needed any more.
    pub payload: Bytes,
    /// How far it is.
    pub state: State,
    /// Why it ended, where there is something to say.
    pub reason: Option<Refusal>,
    /// The wall clock when it was taken here, in milliseconds.
    pub taken_ms: u64,
    /// When its recipient had registered last at that time, if it was away then: as long as that is so, it can't have
    /// got the message. Milliseconds of the wall clock; 0: it may have got it.
    pub unseen_since: u64,
    /// The node that has the other copy, or that has taken it over.
    pub other: Option<NodeName>,
    /// Whether its end was told to whoever it came from.
    pub told: bool,
}

/// What changes in a message that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where it lies now. For [`Place::Handed`] and [`Place::Ended`] the payload is dropped.
    pub place: Place,
    /// How far it is.
    pub state: State,
    /// Why it ended.
    pub reason: Option<Refusal>,
    /// The wall clock in milliseconds.
    pub at_ms: u64,
    /// See [`Kept::other`].
    pub other: Option<NodeName>,
    /// See [`Kept::told`].
    pub told: bool,
}

/// Another node, as it was known before a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownNode {
    /// When it was in reach, in milliseconds of the wall clock; at most a day earlier than the last time.
    pub heard_ms: u64,
    /// Its agents.
    pub agents: BTreeMap<AgentAddr, AgentState>,
}

impl KnownNode {
    /// Takes one piece of news; [`Elsewhere::Left`] leaves nothing.
    pub fn note(&mut self, news: &Elsewhere) {
        match news {
            Elsewhere::Agent(state) => drop(self.agents.insert(state.agent.clone(), state.clone())),
            Elsewhere::Forget(agent) => drop(self.agents.remove(agent)),
            Elsewhere::Heard(at_ms) => self.heard_ms = *at_ms,
            Elsewhere::Left => *self = KnownNode::default(),
        }
    }
}

/// What a node knew before it was restarted.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Agents registered here.
    pub agents: Vec<AgentState>,
    /// Which of them are forgotten unless their sessions come back soon: see [`Record::Transient`].
    pub transient: BTreeSet<AgentAddr>,
    /// Other nodes and their agents.
    pub elsewhere: BTreeMap<NodeName, KnownNode>,
    /// Messages, by their order; those that have ended without payload.
    pub messages: Vec<Kept>,
    /// See [`Record::Horizon`].
    pub horizons: Vec<(AgentAddr, u64)>,
    /// See [`Record::Numbers`].
    pub numbers: Vec<Numbers>,
    /// Rooms that are kept here.
    pub rooms: BTreeMap<RoomKey, KnownRoom>,
}
