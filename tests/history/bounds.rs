//! What a quarter of the histories have besides: limits so low that they are reached. After each input of a node what it
//! keeps is within them, whatever is done to it.

use std::collections::{BTreeMap, btree_map::Entry};

use trishula::mesh::{Limits, Use};
use trishula::wire::close::Code;
use trishula::wire::envelope::{MessageKey, State};
use trishula::wire::frame::Receipt;
use trishula::wire::ids::AgentAddr;
use trishula::wire::record::{Place, Record};

use crate::model::{MachineNo, Message, MessageNo};
use crate::rng::{Rng, mix};
use crate::world::World;

/// Chooses the seeds. None of those that were kept before there were such histories is among them: they stay as they
/// were.
const CHOSEN: u64 = 4_123 << 16;
const ONE_IN: u64 = 4;
/// A limit that is not reached: large messages have a lane of their own, and are not refused everywhere.
const WIDE: usize = 64 << 20;

/// Every name that they are counted by, and how often each must happen in a thousand histories.
pub const COUNTED: &[(&str, u64)] = &[
    ("refused: mailbox full", 3_000),
    ("refused: node full", 500),
    ("refused: too many at once", 2_000),
    ("refused: too old", 500),
    ("receipts dropped", 25),
    ("mailboxes at their limit", 1_500),
    ("nodes at their limit", 120),
    ("marks at their limit", 200),
    ("receipts at their limit", 40),
];

/// The limits of a run, and what is in use of them.
#[derive(Debug, Default)]
pub struct Bounds {
    pub limits: Option<Limits>,
    /// After each node's latest input. What is brought back from the disk may be more than may be taken.
    used: BTreeMap<MachineNo, Use>,
    /// Bytes of what the node whose turn it is has kept in this turn and not before.
    new: usize,
    stamps: BTreeMap<MessageNo, u64>,
}

impl Bounds {
    /// What a message says of when it was sent. Where marks are few that decides whether it is too old, so that it has
    /// to say the same each time, as real ones do.
    pub fn stamp(&mut self, number: MessageNo, sent_ms: u64) -> u64 {
        match (&self.limits, self.stamps.entry(number)) {
            (None, _) => sent_ms,
            (Some(_), Entry::Occupied(first)) => *first.get(),
            (Some(_), Entry::Vacant(first)) => *first.insert(sent_ms),
        }
    }

    /// A node begins, with what is on its disk.
    pub fn begins(&mut self, m: MachineNo) {
        self.used.remove(&m);
    }
}

/// Whether a seed's history has them.
pub fn has_them(seed: u64) -> bool {
    mix(seed ^ CHOSEN).is_multiple_of(ONE_IN)
}

/// Drawn apart from everything else.
pub fn small(seed: u64) -> Limits {
    let mut rng = Rng::new(mix(seed ^ CHOSEN ^ 1));
    let mut size = |low, high| rng.range(low, high) as usize;
    let by_bytes = size(0, 2) == 0;
    Limits {
        mailbox_messages: size(3, 10),
        mailbox_bytes: if by_bytes { size(100, 300) } else { WIDE },
        node_messages: size(12, 40),
        node_bytes: if by_bytes { size(300, 900) } else { WIDE },
        receipts_of_sender: size(1, 3),
        marks_of_sender: size(5, 40),
        broadcast_recipients: size(2, 6),
        pair_rate: size(1, 3) as u32,
        pair_burst: size(4, 12) as u32,
        ..Limits::default()
    }
}

impl World {
    /// A node has done something.
    pub fn check_bounds(&mut self, m: MachineNo) {
        let new = std::mem::take(&mut self.bounds.new);
        let (Some(limits), Some(mesh)) = (&self.bounds.limits, &self.machines[m].mesh) else { return };
        let used = mesh.limits_in_use();
        let Some(before) = self.bounds.used.insert(m, used.clone()) else { return };
        let (agent, messages, bytes) = fullest(&used);
        let (agent_before, messages_before, bytes_before) = fullest(&before);
        let same = |value: usize| if agent == agent_before { value } else { 0 };
        let all = [
            (used.messages, before.messages, limits.node_messages, "nodes at their limit"),
            (used.bytes, before.bytes, limits.node_bytes, "bytes of nodes at their limit"),
            (messages, same(messages_before), limits.mailbox_messages, "mailboxes at their limit"),
            (bytes, same(bytes_before), limits.mailbox_bytes, "bytes of mailboxes at their limit"),
            (used.receipts, before.receipts, limits.receipts_of_sender, "receipts at their limit"),
            (used.marks, before.marks, limits.marks_of_sender, "marks at their limit"),
        ];
        // A message that was given away and came back is no new one; one that came in order may bring it with it.
        let came_back = new == 0 || before.bytes + new <= limits.node_bytes;
        let mut over = None;
        for (used, before, most, what) in all {
            if used == most && before < most {
                self.trace.count(what);
            }
            if used > most && used > before && !(came_back && what == "bytes of nodes at their limit") {
                over.get_or_insert((what, used, most));
            }
        }
        if let Some((what, used, most)) = over
            && !(what.contains("mailboxes") && used - most <= size_of(what) * self.came_unasked(m, agent))
        {
            self.fail(|| format!("n{m} has {used} of {most}: {what} (the fullest mailbox is {agent:?})"));
        }
    }

    /// A node gives its disk a message that is not there.
    pub fn is_kept(&mut self, m: MachineNo, record: &Record) {
        if let Record::Keep(kept) = record
            && !self.machines[m].disk.platter.messages.contains_key(&kept.key)
        {
            self.bounds.new += kept.payload.len();
        }
    }

    /// A node gives its disk something of a message; whether the disk takes it is another matter.
    pub fn is_put_elsewhere(&mut self, m: MachineNo, record: &Record) {
        let (key, place) = match record {
            Record::Keep(kept) => (&kept.key, kept.place),
            Record::Change(key, change) => (key, change.place),
            _ => return,
        };
        if !matches!(place, Place::Copy | Place::Handed) {
            return;
        }
        let Some(agent) = self.agent_called(&key.to) else { return };
        if let Some(message) = self.model.get(&key.id) {
            message.parts.entry(agent).or_default().elsewhere.insert(m);
        }
    }

    /// How many messages that wait for an agent were taken as something else: as another node's, as second copies, or before the
    /// agent was known anywhere. They may be more than a mailbox takes.
    fn came_unasked(&self, m: MachineNo, agent: Option<&AgentAddr>) -> usize {
        let Some(agent) = agent.and_then(|agent| self.agent_called(agent)) else { return 0 };
        let unasked = |message: &&Message| {
            message.parts.get(&agent).is_some_and(|part| {
                let elsewhere = part.elsewhere.contains(&m);
                // What was settled goes on where nobody remembers it.
                let key = || MessageKey {
                    from: self.agents[message.from].addr.clone(),
                    id: message.id.clone(),
                    to: self.agents[agent].addr.clone(),
                };
                let kept = || self.machines[m].disk.platter.messages.get(&key());
                let goes_on = || kept().is_some_and(|kept| !matches!(kept.place, Place::Ended | Place::Dead));
                (message.create || elsewhere) && (part.settled.is_none() || goes_on())
            })
        };
        self.model.messages.iter().filter(unasked).count()
    }

    /// A sender is told something that a limit may be the reason of.
    pub fn count_limit(&mut self, receipt: &Receipt) {
        let Some(refusal) = &receipt.refusal else { return };
        let what = match (receipt.state, refusal.code) {
            (State::Refused, Code::MailboxFull) => "refused: mailbox full",
            (State::Refused, Code::RateLimited) => "refused: too many at once",
            (State::Refused, Code::TooOld) => "refused: too old",
            (State::Refused, _) if refusal.message.contains("[limits]") => "refused: node full",
            _ => return,
        };
        self.trace.count(what);
    }
}

/// What one message more is at most.
fn size_of(what: &str) -> usize {
    if what.starts_with("bytes") { "the content of m1000".len() } else { 1 }
}

fn fullest(used: &Use) -> (Option<&AgentAddr>, usize, usize) {
    match &used.fullest {
        Some((agent, messages, bytes)) => (Some(agent), *messages, *bytes),
        None => (None, 0, 0),
    }
}
