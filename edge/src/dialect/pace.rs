//! The rate of one client, by the time that the dialect is told.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::{Clock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::step::Pace;

/// Shows the time that it was told last.
#[derive(Debug, Clone, Default)]
pub struct Told(Arc<AtomicU64>);

impl Told {
    /// It is so late, in microseconds; never earlier than it was.
    pub fn tell(&self, micros: u64) {
        self.0.fetch_max(micros.saturating_mul(1000), Ordering::Relaxed);
    }
}

impl Clock for Told {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.0.load(Ordering::Relaxed))
    }
}

/// So many frames (or bytes) a second, and half as many again at once.
pub struct PerSecond {
    clock: Told,
    limiter: RateLimiter<NotKeyed, InMemoryState, Told, NoOpMiddleware<Nanos>>,
}

impl PerSecond {
    /// `None`: no limit, as the rate is 0.
    pub fn new(rate: u32) -> Option<PerSecond> {
        let burst = NonZeroU32::new(rate.saturating_add(rate / 2))?;
        let quota = Quota::per_second(NonZeroU32::new(rate)?).allow_burst(burst);
        let clock = Told::default();
        Some(PerSecond { limiter: RateLimiter::direct_with_clock(quota, clock.clone()), clock })
    }
}

impl PerSecond {
    /// Takes so many at this time, in [`Now::micros`](super::Now::micros).
    ///
    /// # Errors
    ///
    /// Those are too many; with the time after which they may come.
    pub fn take_units(&mut self, micros: u64, units: NonZeroU32) -> Result<(), Duration> {
        self.clock.tell(micros);
        match self.limiter.check_n(units) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(wait)) => Err(wait.earliest_possible().duration_since(self.clock.now()).into()),
            // More than may ever come at once; the limit of a frame's size stands before that.
            Err(_) => Err(Duration::from_secs(1)),
        }
    }
}

impl Pace for PerSecond {
    fn take(&mut self, micros: u64, _bytes: usize) -> Result<(), Duration> {
        self.take_units(micros, NonZeroU32::MIN)
    }
}

/// No limit.
pub struct Unlimited;

impl Pace for Unlimited {
    fn take(&mut self, _micros: u64, _bytes: usize) -> Result<(), Duration> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_half_as_many_again_and_then_the_rate() {
        // covers B06, B19
        let mut pace = PerSecond::new(10).unwrap();
        let at = 86_400_000_000;
        assert_eq!((0..40).filter(|_| pace.take(at, 1).is_ok()).count(), 15);
        let wait = pace.take(at, 1).unwrap_err();
        assert!(wait > Duration::from_millis(99) && wait <= Duration::from_millis(100), "{wait:?}");
        assert_eq!((0..40).filter(|_| pace.take(at + 1_000_000, 1).is_ok()).count(), 10);
        assert!(PerSecond::new(0).is_none());
    }
}
