//! Durable messages: kept from the moment they are taken until their end is known.
//!
//! Every durable message that a node knows of is one item in one [`table`](table::Table), whatever part the node plays
//! for it. Where its recipient's home is decides what happens next, and is looked at again whenever that changes:
//!
//! | place | what the node does |
//! |---|---|
//! | mailbox | the recipient's home is here: hand it to a session, as soon as one has room |
//! | outbox | the home is elsewhere: send it there until that node says that it has stored it |
//! | handed | the home has it: wait for what becomes of it, ask now and then |
//! | copy | a second copy of what lies elsewhere: step in when that node stays away |
//! | ended | only the mark is left, by which the message is recognised |
//!
//! | file | what is in it |
//! |---|---|
//! | [`table`] | the items, the marks, and their indexes |
//! | `taking` | a message from a session of this node |
//! | `counting` | a broadcast's one answer |
//! | `placing` | where an item belongs now |
//! | `outbox` | on the way to other nodes: windows, order, sending again |
//! | `arrivals` | from other nodes: order, and recognising what came before |
//! | `order` | what waits for an earlier message that lies elsewhere |
//! | `mailbox` | in the hands of sessions |
//! | `room` | what waits as its recipient's home is full |
//! | `shares` | what each namespace may have of a node's room |
//! | `writing` | what the disk is given, and what it refuses |
//! | `receipts` | what upstream is told, and the end |
//! | `copies` | the second machine |
//! | `takeover` | it steps in for the first one |
//! | `timing` | what happens because time passes |
//! | `brakes` | loops and floods |
//! | `depths` | answers to answers, as far as they are remembered |
//! | `restore` | what was on disk at the start |
//! | `rollback` | an old store brought back |

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Mesh, Ticket, Time};
use crate::wire::close::Refusal;
use crate::wire::envelope::{MessageKey, State};
use crate::wire::frame::Outcome;
use crate::wire::ids::{AgentAddr, Incarnation, NodeName, Sequence};
use crate::wire::record::{Change, Past, Place};

mod arrivals;
mod brakes;
mod copies;
mod counting;
mod depths;
mod mailbox;
mod numbers;
mod order;
mod outbox;
mod placing;
mod receipts;
mod restore;
mod rollback;
mod room;
mod shares;
mod table;
mod takeover;
mod taking;
mod timing;
mod view;
mod writing;

pub use brakes::Limits;
pub use rollback::GoOn;
pub use takeover::{NoTakeOver, TakeOver};
pub use view::{DurableView, Use};

use arrivals::Arrivals;
use brakes::Brakes;
use counting::Counts;
use depths::Depths;
use mailbox::Mailboxes;
use order::Order;
use outbox::Peer;
use table::{Flow, Hand, InHand, No, Table};

/// A message without a time to live has this, in milliseconds: 30 days.
const LONGEST_MS: u64 = 30 * 24 * 3600 * 1000;

/// What the disk has been asked for.
#[derive(Debug)]
enum Waiting {
    Kept(No, Place),
    End(No, State, Option<Refusal>),
    Changed(Box<(MessageKey, Change)>),
    Erased(Box<MessageKey>),
    Past(Box<Past>),
}

/// Reports to another node that wait to be sent together.
type Reports = BTreeMap<(NodeName, Incarnation), Vec<(Sequence, Outcome)>>;

/// All that a node has of durable messages.
#[derive(Debug, Default)]
pub(super) struct Durable {
    table: Table,
    waiting: BTreeMap<Ticket, Waiting>,
    /// Items that could not be written, and are written again; with their end, if that is what failed.
    unwritten: BTreeMap<No, Option<(State, Option<Refusal>)>>,
    /// Of what the disk has refused that which is on none yet, by its flow: what comes behind it is written behind it.
    refused: BTreeMap<Flow, BTreeSet<No>>,
    /// Changes that could not be written: the latest of each message.
    rewrites: BTreeMap<MessageKey, Change>,
    /// Messages that could not be erased.
    unerased: BTreeSet<MessageKey>,
    /// What could not be written of this store's lives.
    unwritten_past: Option<Past>,
    mailboxes: Mailboxes,
    hands: BTreeMap<Hand, InHand>,
    last_tag: u64,
    peers: BTreeMap<NodeName, Peer>,
    /// Items on the way to other nodes, in the order of each flow.
    flows: BTreeMap<Flow, BTreeSet<No>>,
    order: Order,
    counts: Counts,
    arrivals: Arrivals,
    reports: Reports,
    /// Nodes that can't be reached, since when.
    away: BTreeMap<NodeName, Time>,
    /// Those of them that the operator does not wait for any longer.
    given_up: BTreeSet<NodeName>,
    brakes: Brakes,
    depths: Depths,
    next_round: Time,
    /// When a peer whose queue was full is tried again.
    pump_at: Option<Time>,
    /// When this life began.
    started: Time,
    /// Agents whose home is here, since when.
    here: BTreeMap<AgentAddr, Time>,
    /// When some node could not be reached last: it may have been the home of any agent.
    dark_until: Time,
    /// When this node had its first turn after it had stood still for long.
    woke: Option<Time>,
    /// When a message was last given back to its sender that was on its way already.
    gave_back: Time,
    /// What senders here were told lately by other nodes: how far each message is.
    heard_here: BTreeMap<MessageKey, (State, Time)>,
    /// Senders that are to be told something and whom nobody knows, since when.
    nowhere: BTreeMap<AgentAddr, Time>,
    /// Items of which it is not sure any more that a second machine has them, as was asked.
    seconds: BTreeSet<No>,
    /// The lives of other nodes, as they were when second copies were last asked about.
    lives: BTreeMap<NodeName, Incarnation>,
    /// Items whose second copy lies at a node that was started again, and has not said yet that it still has it.
    doubted: BTreeMap<NodeName, BTreeSet<No>>,
    /// When those machines are asked again.
    next_seconds: Time,
    /// See [`Mesh::rolled_back`].
    rolled_back: Option<Incarnation>,
    /// Nobody has got these, unless the store is an old one: they are marked until another node has said that it is not.
    doubtful: BTreeSet<No>,
    /// Since when nothing is lost of what was written.
    whole_since: Incarnation,
    /// The operator has said how to go on.
    went_on: bool,
    /// Another node has said that the store is not an old one, or the operator how to go on, and nobody another thing since: that
    /// is on its way to the disk.
    confirmed: bool,
    /// Items whose recipient's home is looked at again in the next round.
    unplaced: BTreeSet<No>,
}

/// A node that stood still for so long may have missed that an agent was elsewhere and came back …
const LONG_STILL: Duration = Duration::from_secs(1);
/// … and what was sent to it meanwhile is taken in for so long.
const LATE_FOR: Duration = Duration::from_secs(15);
/// Between two rounds over what was sent and not confirmed.
const ROUND: Duration = Duration::from_secs(1);

impl Mesh {
    /// The wall clock now, in milliseconds, from the latest tick.
    pub(super) fn wall_ms(&self) -> u64 {
        let (at, wall_ms) = self.wall;
        wall_ms.saturating_add(self.now.since(at).as_millis() as u64)
    }

    /// Notes whether some node can't be reached now.
    pub(super) fn look_into_the_dark(&mut self) {
        if self.is_dark() {
            self.durable.dark_until = self.now;
        }
    }

    /// Whether some node can't be reached now: one that was heard in this life, or that an earlier life knew.
    pub(super) fn is_dark(&self) -> bool {
        let me = &self.config.node;
        let mut others = self.topology.all().map(|state| &state.origin).filter(|node| *node != me);
        let dark = |node: &NodeName| self.topology.route(node).is_none();
        others.any(dark) || self.directory.others().any(dark)
    }

    /// This node heard of nothing since its last turn: whatever others said meanwhile it has yet to learn.
    pub(super) fn stood_still(&mut self, until: Time) {
        self.durable.dark_until = until;
        if until.since(self.now) >= LONG_STILL {
            self.durable.woke = Some(until);
        }
    }

    /// Whether what others sent while this node stood still may be coming in only now.
    fn hears_late(&self) -> bool {
        self.durable.woke.is_some_and(|woke| self.now.since(woke) < LATE_FOR)
    }

    /// An agent registered here. What came for it late may be old: if it was elsewhere in between, it may have got it there, and
    /// be back before this node has heard of that.
    pub(super) fn doubt_what_came_late(&mut self, agent: &AgentAddr) {
        if !self.hears_late() {
            return;
        }
        for no in self.durable.table.of_recipient(agent) {
            if let Some(item) = self.durable.table.get_mut(no) {
                let waits = item.place == Place::Mailbox && item.hand.is_none();
                item.redelivered |= waits && item.is_of_another_node();
            }
        }
    }

    /// Whether no message waits here for this agent.
    pub(super) fn has_no_mail(&self, agent: &AgentAddr) -> bool {
        let waits = |no: &No| self.durable.table.get(*no).is_some_and(table::Item::is_ours);
        !self.durable.table.of_recipient(agent).iter().any(waits)
    }

    /// Whether a message waits here for this agent, or it is to be told of one of its own.
    pub(super) fn something_waits_for(&self, agent: &AgentAddr) -> bool {
        !self.has_no_mail(agent) || self.durable.table.untold_count(agent) > 0
    }

    /// When [`Mesh::durable_tick`] has something to do.
    pub(super) fn next_durable(&self) -> Time {
        let round = self.durable.next_round;
        let round = self.durable.pump_at.map_or(round, |when| when.min(round));
        match self.durable.table.next_deadline() {
            None => round,
            Some(wall_ms) => {
                let wait = Duration::from_millis(wall_ms.saturating_sub(self.wall_ms()));
                round.min(self.now.after(wait.max(Duration::from_millis(1))))
            }
        }
    }
}
