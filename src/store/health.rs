//! How the disk is: what the writer tells whoever shows it.

use std::path::Path;

use tokio::sync::watch;

use super::file;
use super::row::place_word;
use super::writes::{Count, Tally};
use crate::metrics;
use crate::rt::clock;
use crate::wire::record::Place;

/// The slowest commit is that of the last one to two minutes.
const SPELL_MS: u64 = 60_000;
/// A commit longer than this is said in the log, once a spell, and in `trishula status` and `/health`.
pub const SLOW_SECONDS: f64 = 1.0;

/// How the store is. Times are milliseconds of the wall clock.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Health {
    /// Whether what is given to it is written: the last group was, and one as large as what a full disk has refused would be.
    pub writable: bool,
    /// Since when that is so.
    pub since_ms: u64,
    /// What the disk said last, while it is not writable.
    pub error: Option<String>,
    /// The file is damaged, and this is what is wrong: it is read, never written.
    pub damaged: Option<String>,
    /// Seconds of the slowest commit of the last one to two minutes.
    pub slowest_seconds: f64,
    /// Records that waited after the last commit.
    pub waiting: usize,
    /// Messages by place, with the bytes of their payloads.
    #[serde(serialize_with = "by_word")]
    pub places: Vec<(Place, Count)>,
    /// Damaged messages that were put aside, now and at earlier starts.
    pub quarantined: u64,
    /// Those of which no other node is known to hold a copy.
    pub quarantined_alone: u64,
    /// What the full check of this start found; `None`: it still runs, or the file is damaged and there is none.
    pub checked: Option<Checked>,
}

/// The end of a full check.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub enum Checked {
    /// Nothing was found.
    Whole,
    /// This was.
    Damaged(String),
    /// It could not be done.
    Failed(String),
}

impl Checked {
    /// `whole`, `damaged` or `failed`.
    pub fn word(&self) -> &'static str {
        match self {
            Checked::Whole => "whole",
            Checked::Damaged(_) => "damaged",
            Checked::Failed(_) => "failed",
        }
    }
}

/// What every job is told while the file is damaged.
pub(super) fn damaged_words(file: &Path, damage: &str) -> String {
    format!(
        "{}: the store is damaged and is not written any more ({damage}); stop the node and see what can be saved with: trishula store salvage",
        file.display()
    )
}

/// The file is damaged: from now on it is read, never written. Who found it first is believed.
pub(super) fn found_damaged(health: &watch::Sender<Health>, file: &Path, damage: &str) {
    let is_news = health.send_if_modified(|health| {
        if health.damaged.is_some() {
            return false;
        }
        if health.writable {
            metrics::STORE_WRITABLE.set(0);
            (health.writable, health.since_ms) = (false, clock::wall_ms());
        }
        health.damaged = Some(damage.to_owned());
        health.error = Some(damaged_words(file, damage));
        true
    });
    if is_news {
        tracing::error!(
            file = %file.display(),
            damage,
            "the store is damaged: nothing is accepted any more, and where messages stand can be asked; stop the node and see: trishula store salvage"
        );
        file::note_damage(file, damage);
    }
}

pub(super) fn by_word<S: serde::Serializer>(places: &[(Place, Count)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(places.iter().map(|(place, count)| (place_word(*place), count)))
}

/// The writer's pen for it.
pub(super) struct Report {
    sender: watch::Sender<Health>,
    spell_began_ms: u64,
    slowest: [f64; 2],
    slow_said: bool,
}

impl Report {
    pub fn new(health: Health) -> (Report, watch::Receiver<Health>) {
        metrics::STORE_WRITABLE.set(health.writable.into());
        metrics::STORE_QUARANTINED.set(health.quarantined as i64);
        let (sender, receiver) = watch::channel(health);
        (Report { sender, spell_began_ms: 0, slowest: [0.0; 2], slow_said: false }, receiver)
    }

    pub fn is_writable(&self) -> bool {
        self.sender.borrow().writable
    }

    /// What is wrong with the file, since the writer or the full check has found it.
    pub fn damage(&self) -> Option<String> {
        self.sender.borrow().damaged.clone()
    }

    /// A second pen, for the full check.
    pub fn sender(&self) -> watch::Sender<Health> {
        self.sender.clone()
    }

    /// A group is on disk; `enough`: what was refused would be written now as well.
    pub fn committed(&mut self, seconds: f64, waiting: usize, tally: &Tally, enough: bool) {
        metrics::STORE_COMMIT.observe(seconds);
        let now = clock::wall_ms();
        self.slow(seconds, now);
        let slowest_seconds = self.slowest[0].max(self.slowest[1]);
        self.sender.send_modify(|health| {
            // The full check may have found damage meanwhile.
            if enough && !health.writable && health.damaged.is_none() {
                metrics::STORE_WRITABLE.set(1);
                let seconds = now.saturating_sub(health.since_ms) / 1000;
                tracing::info!(after_seconds = seconds, "the store writes again");
                (health.writable, health.since_ms, health.error) = (true, now, None);
            }
            health.waiting = waiting;
            health.slowest_seconds = slowest_seconds;
            health.places = tally.counts();
        });
    }

    /// A group is not. Said once for as long as it stays so; the node says of each message that it was refused.
    pub fn failed(&mut self, why: &str, file: &Path, waiting: usize) {
        let now = clock::wall_ms();
        self.sender.send_modify(|health| {
            if health.writable {
                metrics::STORE_WRITABLE.set(0);
                tracing::error!(file = %file.display(), why, "the store can't write; what comes is refused until it can");
                (health.writable, health.since_ms) = (false, now);
            }
            health.waiting = waiting;
            health.error = Some(why.to_owned());
        });
    }

    /// The file itself is damaged.
    pub fn damaged(&mut self, file: &Path, why: &str) {
        found_damaged(&self.sender, file, why);
    }

    fn slow(&mut self, seconds: f64, now: u64) {
        if now.saturating_sub(self.spell_began_ms) > SPELL_MS {
            self.spell_began_ms = now;
            self.slowest = [0.0, self.slowest[0]];
        }
        self.slowest[0] = self.slowest[0].max(seconds);
        let slow = seconds > SLOW_SECONDS;
        if slow && !self.slow_said {
            tracing::warn!(
                seconds,
                "the disk was slow to write; senders wait for their receipts as long: see trishula_store_commit_seconds"
            );
        }
        // The spell is over when two minutes were fast.
        self.slow_said = slow || (self.slow_said && self.slowest[0].max(self.slowest[1]) > SLOW_SECONDS);
    }
}
