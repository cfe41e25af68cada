//! `[limits]`: what a node keeps and lets pass of durable messages.

use serde::{Deserialize, Deserializer, de};

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Messages that one agent's mailbox holds.
    #[serde(deserialize_with = "range::<10, 1_000_000, _>")]
    pub mailbox_messages: u64,
    /// Their payloads, in MiB. At least one payload of the largest size has room.
    #[serde(deserialize_with = "range::<16, 65_536, _>")]
    pub mailbox_mib: u64,
    /// Messages that the node keeps in all; marks of those that have ended do not count.
    #[serde(deserialize_with = "range::<100, 2_000_000, _>")]
    pub node_messages: u64,
    /// Their payloads, in MiB. They are in memory as well as on disk.
    #[serde(deserialize_with = "range::<16, 65_536, _>")]
    pub node_mib: u64,
    /// What one namespace may have of what clients may fill of both, while the node has agents of others: percent.
    #[serde(deserialize_with = "range::<1, 100, _>")]
    pub namespace_percent: u64,
    /// Receipts that are kept for one sender while it is away.
    #[serde(deserialize_with = "range::<10, 1_000_000, _>")]
    pub receipts_of_sender: u64,
    /// Marks of one sender's messages that have ended, by which one that is sent again is recognised.
    #[serde(deserialize_with = "range::<10, 200_000, _>")]
    pub marks_of_sender: u64,
    /// Agents of one namespace that messages with `create` have made and as whom nobody has registered.
    #[serde(deserialize_with = "range::<1, 10_000, _>")]
    pub created_agents: u64,
    /// Recipients of one durable broadcast.
    #[serde(deserialize_with = "range::<1, 20_000, _>")]
    pub broadcast_recipients: u64,
    /// Answers to answers, one after the other, before two agents are taken to be in a loop.
    #[serde(deserialize_with = "range::<2, 60_000, _>")]
    pub reply_depth: u64,
    /// Messages a second of one sender to one recipient, over a longer time.
    #[serde(deserialize_with = "range::<1, 1_000_000, _>")]
    pub pair_per_second: u64,
    /// How many of them at once.
    #[serde(deserialize_with = "range::<1, 10_000_000, _>")]
    pub pair_burst: u64,
    /// The first machine of a message with `copies: 2` may stay away for so many seconds before the second takes over.
    #[serde(deserialize_with = "range::<5, 604_800, _>")]
    pub takeover_seconds: u64,
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            mailbox_messages: 10_000,
            mailbox_mib: 64,
            node_messages: 200_000,
            node_mib: 512,
            namespace_percent: 50,
            receipts_of_sender: 10_000,
            marks_of_sender: 50_000,
            created_agents: 1_000,
            broadcast_recipients: 4_096,
            reply_depth: 1_000,
            pair_per_second: 10_000,
            pair_burst: 100_000,
            takeover_seconds: 60,
        }
    }
}

/// For serde: a whole number within bounds, both included.
pub(super) fn range<'de, const MIN: i64, const MAX: i64, D: Deserializer<'de>>(
    from: D,
) -> Result<u64, D::Error> {
    let given = i64::deserialize(from)?;
    match u64::try_from(given) {
        Ok(good) if (MIN..=MAX).contains(&given) => Ok(good),
        _ => {
            Err(de::Error::custom(format!("{given} is not from {MIN} to {MAX}; give a whole number between")))
        }
    }
}
