//! The plain reference: what each sender submitted and was told, and what each recipient got. It knows nothing of how
//! the mesh does it.

use std::collections::{BTreeMap, BTreeSet};

use trishula::wire::close::Code;
use trishula::wire::envelope::{Class, MessageKey, Priority, State};
use trishula::wire::ids::MessageId;
use trishula::wire::record::Place;

use crate::clock::Us;

/// Places in the lists of the world.
pub type AgentNo = usize;
pub type MachineNo = usize;
/// A message's place in [`Model::messages`]; its id is `m` and this.
pub type MessageNo = usize;

/// A message that a node was given by its sender.
#[derive(Debug, Clone)]
pub struct Submit {
    pub at: Us,
    pub machine: MachineNo,
    /// Rises with everything that is submitted anywhere.
    pub turn: u64,
    /// For a broadcast: whom that node knew.
    pub known: BTreeSet<AgentNo>,
}

/// What a sender was told.
#[derive(Debug, Clone)]
pub struct Told {
    pub at: Us,
    pub state: State,
    pub code: Option<Code>,
    /// The node that took the message, as the receipt says.
    pub origin: MachineNo,
    /// The node that tells it: each to which the sender has given the message does, in its own time.
    pub keeper: MachineNo,
    /// Through which of its sessions.
    pub session: usize,
    /// How many times a node had lost its power by then.
    pub crashes: u64,
}

/// A delivery that reached its recipient.
#[derive(Debug, Clone)]
pub struct Got {
    /// Rises with everything that is handed out or delivered anywhere.
    pub turn: u64,
    pub machine: MachineNo,
    /// The entrance by which it came.
    pub gate: usize,
    pub redelivered: bool,
}

/// Why the promises do not hold for a message, by what was done to disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Excuse {
    /// No disk had it any more.
    Lost,
    /// A disk lost the mark by which it is recognised.
    Unmarked,
}

/// One message as it concerns one recipient.
#[derive(Debug, Clone, Default)]
pub struct Part {
    pub told: Vec<Told>,
    pub got: Vec<Got>,
    /// When a node gave it to an entrance first, and the turn of that.
    pub handed: Option<(Us, u64)>,
    /// How the recipient settled it last; it decides the same way each time.
    pub settled: Option<(Us, State)>,
    /// What was on which disk at some time.
    pub on_disk: BTreeSet<(MachineNo, Place, State)>,
    /// Nodes that wanted it on disk as another one's, or as a second copy.
    pub elsewhere: BTreeSet<MachineNo>,
    pub requeued: u32,
    pub excuses: BTreeSet<Excuse>,
    /// A node told an end of it to an entrance of its sender: what is lost from there on is lost with a session.
    pub end_sent: bool,
}

impl Part {
    pub fn last_end(&self) -> Option<&Told> {
        self.told.iter().rev().find(|told| told.state.is_end() && told.state != State::Refused)
    }
}

#[derive(Debug, Clone)]
pub struct Message {
    pub from: AgentNo,
    /// `None`: a broadcast.
    pub to: Option<AgentNo>,
    pub id: MessageId,
    pub class: Class,
    pub priority: Priority,
    pub ttl_ms: Option<u64>,
    pub not_before_ms: Option<u64>,
    pub copies: u8,
    pub wish: Option<State>,
    pub first_sent: Us,
    pub submits: Vec<Submit>,
    pub accepted: Option<Us>,
    /// The turn of the last submission by the time it was told accepted.
    pub accepted_turn: u64,
    pub refused: bool,
    /// Of a broadcast: not for all of its recipients.
    pub partly_refused: bool,
    /// A recipient that was never seen gets a mailbox.
    pub create: bool,
    /// The dead letter that the operator sent again by it.
    pub retry_of: Option<MessageKey>,
    pub parts: BTreeMap<AgentNo, Part>,
}

impl Message {
    pub fn is_durable(&self) -> bool {
        self.class == Class::Durable
    }

    /// Whether its sender needs to send it no more.
    pub fn is_settled(&self) -> bool {
        self.accepted.is_some() || self.refused
    }

    /// The recipients that it must reach: for a broadcast those that every node knew that may have accepted it.
    pub fn recipients(&self) -> BTreeSet<AgentNo> {
        if let Some(to) = self.to {
            return BTreeSet::from([to]);
        }
        let mut known = self.submits.iter().map(|submit| &submit.known);
        let first = known.next().cloned().unwrap_or_default();
        known.fold(first, |all, more| all.intersection(more).copied().collect())
    }
}

#[derive(Debug, Default)]
pub struct Model {
    pub messages: Vec<Message>,
    pub turn: u64,
    pub delivered: u64,
    /// When a recipient's home changed: from where, to where.
    pub moves: BTreeMap<AgentNo, Vec<(Us, MachineNo, MachineNo)>>,
    /// Who was not known to every node all the time: late to come, unregistered for a while, or at home where a disk was lost.
    pub unknown: BTreeSet<AgentNo>,
    /// When two machines could not reach each other last.
    pub apart: BTreeMap<(MachineNo, MachineNo), Us>,
}

impl Model {
    pub fn number_of(id: &MessageId) -> Option<MessageNo> {
        id.as_str().strip_prefix('m')?.parse().ok()
    }

    pub fn get(&mut self, id: &MessageId) -> Option<&mut Message> {
        self.messages.get_mut(Model::number_of(id)?)
    }

    /// Whether the recipient moved while the home it left could not be reached, or could not be reached for some time
    /// after, and that was not over by `since`: what waits there may come later than what was sent after it.
    pub fn moved_in_the_dark(&self, agent: AgentNo, since: Us) -> bool {
        self.moves.get(&agent).into_iter().flatten().any(|(at, from, to)| {
            let pair = (*from.min(to), *from.max(to));
            let apart = self.apart.get(&pair).copied().unwrap_or(0);
            (*at).max(apart) >= since && apart + crate::clock::SECOND >= *at
        })
    }
}
