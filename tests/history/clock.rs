//! What a machine believes of time: a monotonic clock that stands still while it sleeps, and a wall clock that is
//! wrong by its own amount.

use trishula::mesh::Time;

/// True time since the beginning of a run, in microseconds.
pub type Us = u64;

pub const MS: Us = 1_000;
pub const SECOND: Us = 1_000_000;
/// Wall clock at the beginning, in milliseconds: the first of January 2026.
const EPOCH_MS: i64 = 1_767_225_600_000;

#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// How far the wall clock is ahead.
    pub skew_ms: i64,
    slept: Us,
    asleep_since: Option<Us>,
}

impl Clock {
    pub fn monotonic(&self, now: Us) -> Time {
        Time(self.asleep_since.unwrap_or(now) - self.slept)
    }

    pub fn wall_ms(&self, now: Us) -> u64 {
        (EPOCH_MS + (now / MS) as i64 + self.skew_ms) as u64
    }

    /// When its monotonic clock will show this, if it does not sleep before.
    pub fn true_time(&self, shown: Time) -> Us {
        shown.0.saturating_add(self.slept)
    }

    pub fn falls_asleep(&mut self, now: Us) {
        self.asleep_since = Some(now);
    }

    pub fn wakes(&mut self, now: Us) {
        if let Some(since) = self.asleep_since.take() {
            self.slept += now - since;
        }
    }
}
