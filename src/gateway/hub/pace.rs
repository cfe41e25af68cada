//! How fast one session may come and go in rooms. Each SUBSCRIBE and each UNSUBSCRIBE costs the node the work of many
//! messages, and all sessions share one way to it: without a pace, one that does nothing else would keep all others waiting.
//! A session that is too fast is not refused: it waits, and what its client sends meanwhile waits in that client's own connection.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::rt::clock;

/// Subscriptions that may come and go at once: all that a session may have, twice.
const BURST: u64 = 512;
/// And then so long for each, in microseconds: 500 a second.
const EACH: u64 = 2_000;

/// One session's pace: the generic cell rate algorithm (ITU-T I.371), which needs one number.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When all that came so far would have come at an even pace, in [`clock::micros`].
    even: AtomicU64,
}

impl Pace {
    /// Waits for the turn of one more.
    pub(super) async fn turn(&self) {
        let now = clock::micros();
        // One session asks for one turn at a time.
        let even = self.even.load(Ordering::Relaxed).max(now) + EACH;
        self.even.store(even, Ordering::Relaxed);
        let early = (even - now).saturating_sub(BURST * EACH);
        if early > 0 {
            tokio::time::sleep(Duration::from_micros(early)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_rooms_of_a_session_at_once_and_then_one_after_the_other() {
        // covers B09, B19
        let (pace, begun) = (Pace::default(), clock::micros());
        for _ in 0..BURST {
            pace.turn().await;
        }
        assert_eq!(clock::micros(), begun);
        for _ in 0..500 {
            pace.turn().await;
        }
        let took = clock::micros() - begun;
        assert!((1_000_000..1_600_000).contains(&took), "{took} us: a timer counts whole milliseconds");
        // Who pauses may be fast again.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let begun = clock::micros();
        for _ in 0..BURST {
            pace.turn().await;
        }
        assert_eq!(clock::micros(), begun);
    }
}
