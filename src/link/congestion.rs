//! How much of a connection may be under way at once.
//!
//! Cubic (RFC 9438) takes every loss for a full queue, so on a path that loses one packet in a hundred by itself it leaves
//! a thin flow some 10 KB, and no lane helps (docs/benchmarks.md). Where nothing is lost it fills the queue of the
//! slowest hop, and an urgent message waits behind all of that. So it stands between two bounds here:
//!
//! * a *floor*: loss alone never brings the window below it, and Cubic does not hear of losses while it would send no more than
//!   that. One lost packet of a greeting would otherwise end its slow start at a few KB, and a transfer that comes
//!   later would creep up from there for ten seconds and more. After a silence (RFC 9002 section 7.6) it begins anew at the floor;
//! * a *ceiling* that the delay sets: it grows while round trips are as short as the path allows, and once they are longer it
//!   is what arrives in the shortest round trip and 8 ms, so that no more of our own waits in front of the next packet
//!   (as LEDBAT keeps it, RFC 6817; found as BBR finds it). It may go below the floor, down to a quarter of it: loss may
//!   be noise, a queue is not.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Bbr, BbrConfig, Controller, ControllerFactory, Cubic, CubicConfig};
use quinn_proto::RttEstimator;

/// What our own packets may wait in the queue of the slowest hop.
const QUEUE: Duration = Duration::from_millis(8);
/// A shorter one may be chance: the ceiling grows.
const NO_QUEUE: Duration = Duration::from_millis(2);
/// Of the ceiling, in a round trip without a queue.
const GROWTH: f64 = 1.125;
/// So many acknowledgements in a row that came late are a queue, and no accident (RFC 9406 section 4.2 asks for 8).
const LATE: u32 = 8;
/// The shortest round trip is one of the last so long to twice so long. The path may have become longer.
const MEMORY: Duration = Duration::from_secs(10);
/// A ceiling is far enough above what Cubic would send.
const HEADROOM: u64 = 2;

/// Who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Cubic between a floor and a ceiling by delay.
    Cubic,
    /// quinn's BBR, as it is. It finds the rate of lossy paths better, and fills queues more.
    Bbr,
}

/// The congestion control of a process's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Congestion {
    /// Which.
    pub algorithm: Algorithm,
    /// Bytes that loss always leaves under way; of Cubic only.
    pub floor: u64,
}

impl Default for Congestion {
    fn default() -> Congestion {
        Congestion { algorithm: Algorithm::Cubic, floor: 64 * 1024 }
    }
}

impl Congestion {
    /// For quinn.
    pub fn factory(self) -> Arc<dyn ControllerFactory + Send + Sync> {
        match self.algorithm {
            Algorithm::Cubic => Arc::new(Factory { floor: self.floor }),
            Algorithm::Bbr => Arc::new(BbrConfig::default()),
        }
    }
}

/// Whether a connection's window has room for more than it sends; of BBR nobody knows, and it counts as having some.
pub(super) fn has_room(connection: &quinn::Connection) -> bool {
    let state = connection.congestion_state().into_any();
    state.downcast_ref::<Bounded>().is_none_or(|bounded| bounded.has_room)
}

/// What decides on a connection, as the configuration calls it.
pub(super) fn word(connection: &quinn::Connection) -> Option<&'static str> {
    let state = connection.congestion_state().into_any();
    let cubic = state.is::<Bounded>().then_some("cubic");
    cubic.or_else(|| state.is::<Bbr>().then_some("bbr"))
}

/// How much of what was sent has been acknowledged by now, as a number that says no more than whether there was something new. Of BBR nobody
/// knows: there, whatever comes counts.
pub(super) fn answers(connection: &quinn::Connection) -> u64 {
    let state = connection.congestion_state().into_any();
    let acked = state.downcast_ref::<Bounded>().map(|bounded| bounded.acked);
    acked.unwrap_or_else(|| connection.stats().udp_rx.datagrams)
}

struct Factory {
    floor: u64,
}

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Bounded::new(self.floor, now, current_mtu))
    }
}

/// Cubic between its bounds.
#[derive(Debug, Clone)]
struct Bounded {
    cubic: Cubic,
    floor: u64,
    mtu: u16,
    ceiling: Ceiling,
    /// All that there was to send had been sent when something was acknowledged last.
    has_room: bool,
    /// Packets that were acknowledged.
    acked: u64,
}

impl Bounded {
    fn new(floor: u64, now: Instant, mtu: u16) -> Bounded {
        let (cubic, ceiling) = (Bounded::cubic(floor, now, mtu), Ceiling::new(now, floor));
        Bounded { cubic, floor, mtu, ceiling, has_room: true, acked: 0 }
    }

    fn cubic(floor: u64, now: Instant, mtu: u16) -> Cubic {
        let mut config = CubicConfig::default();
        Cubic::new(Arc::new(config.initial_window(floor).clone()), now, mtu)
    }
}

impl Controller for Bounded {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.has_room = app_limited;
        self.acked = self.acked.wrapping_add(1);
        // What the ceiling did not let it use tells Cubic nothing.
        let unused = app_limited || self.cubic.window() > self.ceiling.bytes();
        self.cubic.on_ack(now, sent, bytes, unused, rtt);
        let most = self.cubic.window().max(self.floor).saturating_mul(HEADROOM);
        self.ceiling.on_ack(now, sent, bytes, app_limited, most);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, lost: u64) {
        if is_persistent {
            self.cubic = Bounded::cubic(self.floor, now, self.mtu);
        } else if lost == 0 || self.cubic.window() > self.floor {
            // Nothing lost: a router marked what it would have dropped (RFC 3168), and that is no accident.
            self.cubic.on_congestion_event(now, sent, is_persistent, lost);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window().max(self.floor).min(self.ceiling.bytes())
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.floor.max(self.cubic.initial_window())
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// What the delay allows.
#[derive(Debug, Clone)]
struct Ceiling {
    bytes: f64,
    least: f64,
    /// Until the first queue was seen: it doubles.
    starting: bool,
    /// Acknowledgements in a row that came late.
    late: u32,
    shortest: Shortest,
    round: Round,
}

/// The time in which a packet and its acknowledgement travel once.
#[derive(Debug, Clone)]
struct Round {
    began: Instant,
    /// Bytes that arrived in it.
    arrived: u64,
    /// The shortest time to an acknowledgement: of many, one met no accident.
    took: Option<Duration>,
    /// Whether there was ever nothing to send: then what waits is not ours.
    unused: bool,
    /// For its length half the ceiling is used, so that a queue of our own making runs dry and the path is seen.
    drains: bool,
}

impl Round {
    fn new(began: Instant, drains: bool) -> Round {
        Round { began, arrived: 0, took: None, unused: false, drains }
    }
}

impl Ceiling {
    fn new(now: Instant, floor: u64) -> Ceiling {
        let (shortest, round) = (Shortest::new(now), Round::new(now, false));
        let (bytes, least) = (floor as f64, floor as f64 / 4.0);
        Ceiling { bytes, least, starting: true, late: 0, shortest, round }
    }

    fn bytes(&self) -> u64 {
        let bytes = if self.round.drains { self.bytes / 2.0 } else { self.bytes };
        bytes.max(self.least) as u64
    }

    /// `most`: it needs to be no larger.
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, most: u64) {
        let took = now.saturating_duration_since(sent);
        self.shortest.saw(took);
        self.round.arrived += bytes;
        self.round.took = Some(self.round.took.map_or(took, |before| before.min(took)));
        self.round.unused |= app_limited;
        let path = self.shortest.get().unwrap_or(took);
        self.late = if took > path + QUEUE && !app_limited { self.late + 1 } else { 0 };
        if self.starting && self.late >= LATE {
            // One doubling too many.
            self.starting = false;
            self.bytes = (self.bytes / 2.0).max(self.least);
        }
        if sent >= self.round.began {
            self.end_round(now, path, most);
        }
    }

    fn end_round(&mut self, now: Instant, path: Duration, most: u64) {
        let Round { began, arrived, took, unused, drains } = self.round;
        let queue = took.map_or(Duration::ZERO, |took| took.saturating_sub(path));
        if unused || drains {
            // What was not full tells nothing.
        } else if queue < NO_QUEUE {
            let factor = if self.starting { 2.0 } else { GROWTH };
            self.bytes = if self.bytes > most as f64 { self.bytes } else { self.bytes * factor };
        } else {
            // The slowest hop was busy all the time: its rate is what arrived.
            let rate = arrived as f64 / now.saturating_duration_since(began).as_secs_f64();
            let full = rate * (path + QUEUE).as_secs_f64();
            (self.starting, self.bytes) = (false, full.min(self.bytes * GROWTH).max(self.least));
        }
        let drains = self.shortest.turn(now, unused);
        self.round = Round::new(now, drains);
    }
}

/// The shortest round trip of late.
#[derive(Debug, Clone)]
struct Shortest {
    before: Option<Duration>,
    now: Option<Duration>,
    since: Instant,
    /// Whether the queue may have run dry since then.
    ran_dry: bool,
}

impl Shortest {
    fn new(now: Instant) -> Shortest {
        Shortest { before: None, now: None, since: now, ran_dry: false }
    }

    fn get(&self) -> Option<Duration> {
        [self.before, self.now].into_iter().flatten().min()
    }

    fn saw(&mut self, took: Duration) {
        self.now = Some(self.now.map_or(took, |before| before.min(took)));
    }

    /// At the end of a round; `true`: for one round the queue is to run dry, or our own would soon count as the path.
    fn turn(&mut self, now: Instant, unused: bool) -> bool {
        self.ran_dry |= unused;
        if now.saturating_duration_since(self.since) < MEMORY {
            return false;
        }
        let drain = !self.ran_dry;
        (self.before, self.now, self.since, self.ran_dry) = (self.now, None, now, false);
        drain
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const PACKET: u64 = 1200;

    /// A sender that always has something to send, and a path with one slow hop whose queue has no end.
    struct Path {
        now: Instant,
        free: Instant,
        /// When each packet was sent, and when its acknowledgement comes.
        under_way: VecDeque<(Instant, Instant)>,
        ceiling: Ceiling,
        round_trip: Duration,
        bytes_a_second: u64,
    }

    impl Path {
        fn new(round_trip: Duration, bytes_a_second: u64) -> Path {
            let now = Instant::now();
            let ceiling = Ceiling::new(now, 64 * 1024);
            Path { now, free: now, under_way: VecDeque::new(), ceiling, round_trip, bytes_a_second }
        }

        /// The share of the hop's rate that was used, and the median of the queue in front of it.
        fn run(&mut self, time: Duration) -> (f64, Duration) {
            let (until, mut queues) = (self.now + time, Vec::new());
            while self.now < until {
                while (self.under_way.len() as u64 + 1) * PACKET <= self.ceiling.bytes() {
                    let queue = self.free.saturating_duration_since(self.now);
                    self.free =
                        self.free.max(self.now) + Duration::from_secs(PACKET) / self.bytes_a_second as u32;
                    self.under_way.push_back((self.now, self.free + self.round_trip));
                    queues.push(queue);
                }
                let (sent, acknowledged) = self.under_way.pop_front().unwrap();
                self.now = acknowledged;
                self.ceiling.on_ack(self.now, sent, PACKET, false, u64::MAX);
            }
            queues.sort();
            let used =
                queues.len() as f64 * PACKET as f64 / (self.bytes_a_second as f64 * time.as_secs_f64());
            (used, queues[queues.len() / 2])
        }
    }

    #[test]
    fn a_loss_within_the_floor_does_not_end_slow_start_and_one_above_it_does() {
        // covers T25
        let (now, floor) = (Instant::now(), 64 * 1024);
        let later = |n| now + Duration::from_secs(n);
        let slow_start = |bounded: &Bounded| bounded.cubic.metrics().ssthresh == Some(u64::MAX);
        let mut bounded = Bounded::new(floor, now, 1200);
        bounded.on_congestion_event(later(2), later(1), false, 2400);
        assert!(slow_start(&bounded) && bounded.cubic.window() == floor, "a greeting that was lost");
        bounded.cubic = Bounded::cubic(2 * floor, now, 1200);
        bounded.on_congestion_event(later(4), later(3), false, 2400);
        assert!(
            !slow_start(&bounded) && bounded.cubic.window() < 2 * floor,
            "more than the floor was under way"
        );
        bounded.on_congestion_event(later(6), later(5), true, 2400);
        assert!(slow_start(&bounded) && bounded.cubic.window() == floor, "a silence");
        bounded.on_congestion_event(later(8), later(7), false, 0);
        assert!(!slow_start(&bounded), "a router's mark");
    }

    #[test]
    fn a_full_path_is_used_and_its_queue_stays_short() {
        // covers T26
        for (round_trip, mbit) in [(50, 20), (10, 100), (150, 20), (30, 5)] {
            let mut path = Path::new(Duration::from_millis(round_trip), mbit * 125_000);
            path.run(Duration::from_secs(3));
            let (used, queue) = path.run(Duration::from_secs(60));
            let what = format!("{round_trip} ms, {mbit} Mbit/s: {used:.2} used, queue {queue:?}");
            assert!(used > 0.8, "{what}");
            assert!(queue < Duration::from_millis(12), "{what}");
        }
    }

    #[test]
    fn a_path_that_became_longer_is_found_out() {
        // covers T26
        let mut path = Path::new(Duration::from_millis(20), 2_500_000);
        path.run(Duration::from_secs(10));
        path.round_trip = Duration::from_millis(120);
        path.run(Duration::from_secs(30));
        let (used, queue) = path.run(Duration::from_secs(30));
        assert!(used > 0.8 && queue < Duration::from_millis(12), "{used:.2} used, queue {queue:?}");
    }

    #[test]
    fn who_sends_little_keeps_its_window_whatever_the_delay() {
        // covers T25
        let now = Instant::now();
        let mut ceiling = Ceiling::new(now, 64 * 1024);
        for n in 0..1000u64 {
            let sent = now + Duration::from_millis(20 * n);
            ceiling.on_ack(sent + Duration::from_millis(20 + n % 90), sent, PACKET, true, u64::MAX);
        }
        assert_eq!(ceiling.bytes(), 64 * 1024);
    }
}
