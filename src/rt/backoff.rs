//! How long to wait before trying again: exponential, capped, with full jitter, so that many who lost the
//! same peer do not come back together (Brooker, "Exponential Backoff And Jitter", AWS 2015).

use std::time::Duration;

use super::random;

/// Counts failures and says how long to wait.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits up to `first` after the first failure, up to `cap` after many.
    pub fn new(first: Duration, cap: Duration) -> Backoff {
        Backoff { first, cap, failures: 0 }
    }

    /// The next wait: between half and all of the exponential step, so that it never comes down to none.
    pub fn next_wait(&mut self) -> Duration {
        let step = self.first.saturating_mul(1u32.checked_shl(self.failures.min(16)).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        let step = step.min(self.cap);
        step.mul_f64(random::between(0.5..=1.0))
    }

    /// It worked: start from the beginning next time.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_never_past_it() {
        // covers T09
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let waits: Vec<Duration> = (0..20).map(|_| backoff.next_wait()).collect();
        assert!(waits[0] <= Duration::from_millis(100) && waits[0] >= Duration::from_millis(50));
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(5)));
        assert!(waits[19] >= Duration::from_millis(2500));
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }
}
