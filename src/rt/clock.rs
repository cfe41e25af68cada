//! The one clock. Monotonic time comes from tokio, so a paused runtime (tests, the simulation) is virtual
//! time for everything of ours.

use std::cell::Cell;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use tokio::time::Instant;

/// See [`micros`].
const MARGIN: Duration = Duration::from_secs(24 * 3600);

thread_local! {
    static SIMULATED: Cell<Option<(SystemTime, Instant)>> = const { Cell::new(None) };
}

/// From now on, this thread's wall clock shows this and goes on as its monotonic clock does. For simulations: a time to
/// live must end in virtual time as well.
pub fn simulate_wall_on_this_thread(shows: SystemTime) {
    SIMULATED.set(Some((shows, Instant::now())));
}

/// Now, by the monotonic clock: for intervals within this process.
pub fn now() -> Instant {
    Instant::now()
}

/// How long ago `earlier` was.
pub fn since(earlier: Instant) -> Duration {
    Instant::now().saturating_duration_since(earlier)
}

/// Measures work in real time, also where the clock is virtual: for metrics, never for a decision.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(std::time::Instant);

impl Stopwatch {
    /// Begins now.
    pub fn start() -> Stopwatch {
        Stopwatch(std::time::Instant::now())
    }

    /// Seconds since it began.
    pub fn seconds(self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

/// Microseconds since a moment before this process began; never goes back.
pub fn micros() -> u64 {
    static START: OnceLock<std::time::Instant> = OnceLock::new();
    // A paused tokio clock is an offset to the system's, so one origin serves all. Of several paused runtimes
    // another may be ahead of this one: with a margin no time is before the origin.
    let start = *START.get_or_init(|| Instant::now().into_std());
    (Instant::now().into_std() + MARGIN).saturating_duration_since(start).as_micros() as u64
}

/// Milliseconds since the epoch by the machine's own wall clock; may jump.
pub fn wall_ms() -> u64 {
    wall().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as u64
}

/// The same in microseconds.
pub fn wall_us() -> u64 {
    wall().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_micros() as u64
}

/// The wall clock as certificates want it.
pub fn wall() -> SystemTime {
    match SIMULATED.get() {
        Some((shows, at)) => shows + Instant::now().saturating_duration_since(at),
        None => SystemTime::now(),
    }
}

/// The wall clock as TLS asks for it.
pub fn for_tls() -> Arc<dyn TimeProvider> {
    Arc::new(WallClock)
}

#[derive(Debug)]
struct WallClock;

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(wall_ms())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_simulated_wall_clock_goes_as_virtual_time_does() {
        let epoch = UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        simulate_wall_on_this_thread(epoch);
        let day = Duration::from_secs(24 * 3600);
        tokio::time::advance(day).await;
        assert_eq!(wall(), epoch + day);
        assert_eq!(wall_us(), 1_000 * wall_ms());
    }
}
