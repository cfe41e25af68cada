//! Loops and floods are stopped with a reason that their sender sees.

use std::collections::BTreeMap;
use std::time::Duration;

use super::table::Known;
use crate::mesh::{Mesh, Time};
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::{Head, MessageKey, Target};
use crate::wire::ids::{AgentAddr, MessageId};

/// Pairs that are followed at once; of more, the idle ones are forgotten.
const MAX_PAIRS: usize = 10_000;
/// A clock of another node that is further ahead is not followed, in milliseconds: a minute.
const MAX_DRIFT_MS: u64 = 60_000;

/// What an operator allows.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Messages that one agent's mailbox holds.
    pub mailbox_messages: usize,
    /// Their bytes.
    pub mailbox_bytes: usize,
    /// Answers to answers, one after the other, before a loop is taken for granted.
    pub reply_depth: u16,
    /// Messages a second of one sender to one recipient, over a longer time.
    pub pair_rate: u32,
    /// How many of them at once.
    pub pair_burst: u32,
    /// Messages that this node keeps in all …
    pub node_messages: usize,
    /// … and the bytes of their payloads: they are in memory as well as on disk.
    pub node_bytes: usize,
    /// What one namespace may have of what clients may fill of both, while there are others here: percent.
    pub namespace_percent: usize,
    /// Receipts kept for one sender that is away; of more, the oldest ends untold.
    pub receipts_of_sender: usize,
    /// Marks of one sender's messages that have ended; of more, the oldest is dropped.
    pub marks_of_sender: usize,
    /// Agents of one namespace that messages have made and as whom nobody has registered.
    pub created_agents: usize,
    /// Recipients of one broadcast.
    pub broadcast_recipients: usize,
    /// A node that stays away for so long is replaced by the one that has the second copy.
    pub takes_over_after: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            mailbox_messages: 10_000,
            mailbox_bytes: 64 << 20,
            reply_depth: 1_000,
            pair_rate: 10_000,
            pair_burst: 100_000,
            node_messages: 200_000,
            node_bytes: 512 << 20,
            namespace_percent: 50,
            receipts_of_sender: 10_000,
            marks_of_sender: 50_000,
            created_agents: 1_000,
            broadcast_recipients: 4096,
            takes_over_after: Duration::from_secs(60),
        }
    }
}

/// A token bucket (RFC 2697, one colour), in thousandths of a message.
#[derive(Debug)]
struct Bucket {
    left: u64,
    at: Time,
}

/// The rates of all pairs, and the hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", OPODIS 2014).
#[derive(Debug, Default)]
pub(super) struct Brakes {
    /// By sender, and whom or what it sends to.
    pairs: BTreeMap<(AgentAddr, Target), Bucket>,
    clock: u64,
}

impl Brakes {
    /// How many pairs are followed.
    pub(super) fn pairs(&self) -> usize {
        self.pairs.len()
    }

    /// Pairs that have been quiet for long have all their tokens again.
    pub(super) fn forget_idle(&mut self, now: Time) {
        if self.pairs.len() > MAX_PAIRS / 2 {
            self.pairs.retain(|_, bucket| now.since(bucket.at) < Duration::from_secs(60));
        }
    }
}

impl Mesh {
    /// Whether a new message may pass.
    pub(in crate::mesh) fn brake(&mut self, head: &Head) -> Result<(), Refusal> {
        let limits = &self.config.limits;
        if head.depth > limits.reply_depth {
            let message = format!(
                "{} answers, each to the one before: {} and those that it talks with are in a loop",
                limits.reply_depth, head.from
            );
            return Err(Refusal::new(Code::LoopStopped, message));
        }
        let (full, rate) = (u64::from(limits.pair_burst) * 1000, u64::from(limits.pair_rate));
        let now = self.now;
        let pairs = &mut self.durable.brakes.pairs;
        let pair = (head.from.clone(), head.to.clone());
        if pairs.len() >= MAX_PAIRS && !pairs.contains_key(&pair) {
            return Ok(());
        }
        let bucket = pairs.entry(pair).or_insert(Bucket { left: full, at: now });
        let earned = (now.since(bucket.at).as_micros() as u64).saturating_mul(rate) / 1000;
        bucket.left = bucket.left.saturating_add(earned).min(full);
        bucket.at = now;
        match bucket.left.checked_sub(1000) {
            Some(left) => {
                bucket.left = left;
                Ok(())
            }
            None => {
                let message = format!("{} sends {} more than {rate} messages a second", head.from, head.to);
                Err(Refusal::new(Code::RateLimited, message))
            }
        }
    }

    /// How deep a message of an agent of this node lies in answers to answers: one deeper than what it answers, which was handed
    /// over here, whoever had sent it. Of a durable message between the same two the mark tells it for longer.
    pub(in crate::mesh) fn depth_of(&self, head: &Head) -> u16 {
        let Some(answered) = &head.reply_to else { return 0 };
        let latest = self.durable.depths.of(&head.from, answered);
        latest.unwrap_or_else(|| self.depth_by_table(head, answered)).saturating_add(1)
    }

    /// A live message is handed to this agent.
    pub(in crate::mesh) fn note_depth(&mut self, to: &AgentAddr, head: &Head) {
        self.durable.depths.note(to, head);
    }

    fn depth_by_table(&self, head: &Head, answered: &MessageId) -> u16 {
        let Target::Agent(to) = &head.to else { return 0 };
        let key = MessageKey { from: to.clone(), id: answered.clone(), to: head.from.clone() };
        match self.durable.table.known(&key) {
            Some(Known::Item(no)) => self.durable.table.get(no).map_or(0, |item| item.head.depth),
            Some(Known::Mark(mark)) => mark.depth,
            None => 0,
        }
    }

    /// The next reading of the hybrid logical clock.
    pub(in crate::mesh) fn next_clock(&mut self) -> u64 {
        let wall = self.wall_ms() << 16;
        let clock = &mut self.durable.brakes.clock;
        *clock = wall.max(*clock + 1);
        *clock
    }

    /// The time by the clock of whichever node is most ahead, as far as its readings are credible: nothing that any of them
    /// took is younger than it seems by this.
    pub(super) fn latest_ms(&self) -> u64 {
        self.wall_ms().max(self.durable.brakes.clock >> 16)
    }

    /// Another node's reading: ours is later from now on, unless that one is far ahead.
    pub(in crate::mesh) fn seen_clock(&mut self, theirs: u64) {
        let limit = (self.wall_ms() + MAX_DRIFT_MS) << 16;
        if theirs <= limit {
            let clock = &mut self.durable.brakes.clock;
            *clock = theirs.max(*clock);
        }
    }
}
