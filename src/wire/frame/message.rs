//! Frames that carry messages, and those that say what became of them.

use serde::{Deserialize, Serialize};

use crate::wire::close::Refusal;
use crate::wire::envelope::{Class, Head, MessageKey, State, Target};
use crate::wire::ids::{AgentAddr, Incarnation, MessageId, NodeName, Sequence, SessionNo};

/// A message between nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// The node that took it from its sender.
    pub origin: NodeName,
    /// In which life.
    pub incarnation: Incarnation,
    /// Where it goes: one place, or for a broadcast all that have recipients. Each node on the way sends
    /// it on once a link, with those that lie behind it (explicit multicast, RFC 5058).
    pub to: Vec<Dest>,
    /// Nodes it may still go through.
    pub hops_left: u8,
    /// Whether its recipient may have got it before, from another node or an earlier life of this one.
    pub redelivered: bool,
    /// Whether its node knows that nobody has got it; that holds for the life of the home it was meant for ([`Dest::life`]).
    pub unseen: bool,
    /// How long ago its sender sent it, in milliseconds, as far as the node knows that took it.
    pub age_ms: u64,
    /// The message; the times in it are those that are left.
    pub head: Head,
}

impl Forward {
    /// Whether nothing happens twice if it comes twice: its recipients' homes recognise it. A live message is recognised by
    /// nobody.
    pub fn is_safe_to_repeat(&self) -> bool {
        self.head.class == Class::Durable
    }

    /// What the message is called at one of its places; `None`: that does not say for whom it is there.
    pub fn key_at(&self, dest: &Dest) -> Option<MessageKey> {
        let to = match (&dest.agent, &self.head.to) {
            (Some(agent), _) | (None, Target::Agent(agent)) => agent.clone(),
            (None, Target::Broadcast(_) | Target::Room(..)) => return None,
        };
        Some(MessageKey { from: self.head.from.clone(), id: self.head.id.clone(), to })
    }
}

/// One place that a message goes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dest {
    /// The node.
    pub node: NodeName,
    /// For which agent there, when the message is for several. `None`: for the one that its head names, or, if it is
    /// live, for all that are connected.
    pub agent: Option<AgentAddr>,
    /// Which message of the sending node's life; 0: it is live, and nothing is said about it.
    pub number: Sequence,
    /// The message before it in the same flow, as long as the sending node is not sure that it was stored; 0: none.
    pub after: Sequence,
    /// The life of that node that it is meant for; 0: that is not known.
    pub life: Incarnation,
    /// The recipient's registration there that it is meant for, by its time; 0: none is known.
    pub registered_ms: u64,
}

impl Dest {
    /// Of a live message.
    pub fn live(node: NodeName) -> Dest {
        let (number, after, life) = (Sequence(0), Sequence(0), Incarnation(0));
        Dest { node, agent: None, number, after, life, registered_ms: 0 }
    }
}

/// What a node says of messages that another one sent it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirm {
    /// The node that sent them.
    pub to: NodeName,
    /// In which life.
    pub incarnation: Incarnation,
    /// The node that speaks.
    pub node: NodeName,
    /// By the numbers that the sending node gave them.
    pub reports: Vec<(Sequence, Outcome)>,
    /// Nodes it may still go through.
    pub hops_left: u8,
}

/// Where a message stands at the node that was sent it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It has reached this state; with the reason, when that is an end.
    Reached(State, Option<Refusal>),
    /// It is on disk as a second copy.
    Held,
    /// It is not known: it never came, or the disk that knew it is lost. Where its sender's marks had to go, that is not said, but
    /// that it is refused as too old.
    Unknown,
    /// Its recipient lives elsewhere, as far as this node knows.
    Elsewhere,
    /// It was here, and lies at this node now, where its recipient has moved.
    PassedOn(NodeName),
}

/// Asks where messages stand; answered by [`Confirm`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inquire {
    /// The node that is asked.
    pub to: NodeName,
    /// The node that asks.
    pub from: NodeName,
    /// In which life.
    pub incarnation: Incarnation,
    /// Which messages, with their numbers for the answer.
    pub asked: Vec<(Sequence, MessageKey)>,
    /// Nodes it may still go through.
    pub hops_left: u8,
}

/// Second copies that are not needed any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The node that has them.
    pub to: NodeName,
    /// Which messages, how they ended, and why.
    pub messages: Vec<(MessageKey, State, Option<Refusal>)>,
    /// Nodes it may still go through.
    pub hops_left: u8,
}

/// Second copies of messages that were given back to their senders. A sender may have given its message again meanwhile, and that one
/// overtakes: only the copies of these attempts are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdraw {
    /// The node that has them.
    pub to: NodeName,
    /// The node that asked for them.
    pub from: NodeName,
    /// In which life.
    pub incarnation: Incarnation,
    /// Which messages, with the numbers that [`super::Frame::Hold`] gave them.
    pub messages: Vec<(Sequence, MessageKey)>,
    /// Nodes it may still go through.
    pub hops_left: u8,
}

/// What became of a message, on its way back to the node that took it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The node that took the message.
    pub to: NodeName,
    /// Who sent the message.
    pub sender: AgentAddr,
    /// What the sender calls it.
    pub id: MessageId,
    /// Its recipient; for the counts of a broadcast its sender.
    pub recipient: AgentAddr,
    /// Of a broadcast: for how many recipients it was accepted, and for how many not.
    pub counts: Option<(u32, u32)>,
    /// The node that speaks.
    pub node: NodeName,
    /// The state reached.
    pub state: State,
    /// Why, when it is `dead` or `nacked`.
    pub refusal: Option<Refusal>,
    /// Whether the sender asked for receipts as far as this one.
    pub asked: bool,
    /// The node that keeps the receipt until it is told that the sender has got it ([`Heard`]).
    pub keeper: NodeName,
    /// Nodes it may still go through.
    pub hops_left: u8,
}

/// A sender was told how its message ended: the receipt need not be kept any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// The node that keeps the receipt.
    pub to: NodeName,
    /// Which message.
    pub message: MessageKey,
    /// What was told.
    pub state: State,
    /// Nodes it may still go through.
    pub hops_left: u8,
}

/// A message for sessions of one entrance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deliver {
    /// To which of its sessions.
    pub to: Vec<Handing>,
    /// The message.
    pub head: Head,
    /// Where to say that a live message was written; `None`: nobody asked.
    pub confirm: Option<NodeName>,
}

/// Bytes of payload that a node puts into one session's hands at most, and as many again of priority 1; one message
/// always fits. More would be bounded by the window's number alone.
pub const MAX_IN_HAND: usize = 8 << 20;

/// A message in one session's hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handing {
    /// The session.
    pub session: SessionNo,
    /// What the node calls this handing; the session settles it by [`Frame::Settle`](super::Frame::Settle). 0: nothing is to be settled.
    pub tag: u64,
    /// Whether the recipient may have got it before.
    pub redelivered: bool,
}

impl Handing {
    /// Of a live message.
    pub fn live(session: SessionNo) -> Handing {
        Handing { session, tag: 0, redelivered: false }
    }
}

/// What became of a message in a session's hands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Settlement {
    /// Written to its socket. More is to come.
    Written,
    /// The recipient has done with it.
    Acked,
    /// The recipient refused it, with its reason.
    Nacked(String),
    /// The recipient wants it again later, with its reason.
    Requeued(String),
}
