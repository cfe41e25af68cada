//! What one direction between two namespaces does to its packets.

use std::time::{Duration, Instant};

/// What one direction does. The default does nothing: no delay, no loss, no limit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shape {
    /// One way.
    pub delay: Duration,
    /// By chance, uniformly, so much more or less than `delay`.
    pub jitter: Duration,
    /// Whether jitter may put one packet before another.
    pub reorder: bool,
    /// Which packets never arrive.
    pub loss: Loss,
    /// `None`: no limit.
    pub rate: Option<Rate>,
    /// Of a whole IP packet, in bytes: what is larger disappears without a word, as where somebody drops the ICMP messages
    /// that would tell. `None`: all that the device takes.
    pub largest: Option<usize>,
    /// Nothing passes, and what is on its way does not arrive.
    pub cut: bool,
}

/// Which packets are lost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Loss {
    /// None.
    #[default]
    None,
    /// This share of them, 0 to 1, each for itself.
    Random(f64),
    /// In bursts.
    Bursts(GilbertElliott),
}

/// Two states that packets change between: chances from 0 to 1, each for one packet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GilbertElliott {
    /// To go from the good to the bad state.
    pub to_bad: f64,
    /// To go back.
    pub to_good: f64,
    /// To be lost in the good state.
    pub lost_in_good: f64,
    /// To be lost in the bad state.
    pub lost_in_bad: f64,
}

/// How fast a direction is, with the queue before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Of whole IP packets.
    pub bits_per_second: f64,
    /// What may wait; a packet for which there is no room is lost (drop-tail).
    pub queue_bytes: usize,
}

impl Shape {
    /// A delay one way, and nothing else.
    pub fn delayed(delay: Duration) -> Shape {
        Shape { delay, ..Shape::default() }
    }

    /// The same with loss by chance: 0 to 1.
    pub fn losing(self, share: f64) -> Shape {
        Shape { loss: Loss::Random(share), ..self }
    }

    /// The same with loss in bursts of so many packets on average: Gilbert-Elliott, where the bad state loses all.
    pub fn losing_bursts(self, share: f64, packets: f64) -> Shape {
        Shape { loss: Loss::Bursts(GilbertElliott::of(share, packets)), ..self }
    }

    /// The same, so fast only.
    pub fn limited(self, bits_per_second: f64, queue_bytes: usize) -> Shape {
        Shape { rate: Some(Rate { bits_per_second, queue_bytes }), ..self }
    }

    /// The same for packets of so many bytes at most.
    pub fn narrow(self, largest: usize) -> Shape {
        Shape { largest: Some(largest), ..self }
    }

    /// The same with so much more or less delay.
    pub fn jittered(self, jitter: Duration) -> Shape {
        Shape { jitter, ..self }
    }
}

impl GilbertElliott {
    /// Loses this share (0 to 1) overall, in bursts of so many packets on average.
    pub fn of(share: f64, packets: f64) -> GilbertElliott {
        let share = share.clamp(0.0, 0.99);
        let to_good = 1.0 / packets.max(1.0);
        let to_bad = (to_good * share / (1.0 - share)).min(1.0);
        GilbertElliott { to_bad, to_good, lost_in_good: 0.0, lost_in_bad: 1.0 }
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives then.
    Arrives(Instant),
    /// By chance it does not.
    Lost,
    /// The queue is full.
    Overflowed,
    /// It is too large.
    TooLarge,
    /// The direction is cut.
    Cut,
}

/// A shape, and how far its queue, its order and its chances are.
#[derive(Debug)]
pub struct Gate {
    pub shape: Shape,
    rng: Rng,
    in_bad: bool,
    free_at: Option<Instant>,
    latest: Option<Instant>,
}

impl Gate {
    /// The same seed loses the same packets.
    pub fn new(seed: u64) -> Gate {
        Gate { shape: Shape::default(), rng: Rng::new(seed), in_bad: false, free_at: None, latest: None }
    }

    /// What becomes of a packet of this length that comes now.
    pub fn pass(&mut self, now: Instant, bytes: usize) -> Fate {
        if self.shape.cut {
            return Fate::Cut;
        }
        if self.shape.largest.is_some_and(|largest| bytes > largest) {
            return Fate::TooLarge;
        }
        if self.loses() {
            return Fate::Lost;
        }
        let Some(sent) = self.through_queue(now, bytes) else { return Fate::Overflowed };
        let mut at = sent + self.shape.delay;
        if !self.shape.jitter.is_zero() {
            let swing = self.shape.jitter.as_secs_f64();
            let early = at.checked_sub(self.shape.jitter).unwrap_or(now).max(now);
            at = early + Duration::from_secs_f64(2.0 * swing * self.rng.unit());
        }
        if !self.shape.reorder {
            at = self.latest.map_or(at, |latest| at.max(latest));
        }
        self.latest = Some(at);
        Fate::Arrives(at)
    }

    /// When its last bit has left; `None`: there was no room.
    fn through_queue(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let Some(rate) = self.shape.rate else {
            self.free_at = None;
            return Some(now);
        };
        let free_at = self.free_at.map_or(now, |at| at.max(now));
        let waiting = (free_at - now).as_secs_f64() * rate.bits_per_second / 8.0;
        if waiting + bytes as f64 > rate.queue_bytes as f64 {
            return None;
        }
        let sent = free_at + Duration::from_secs_f64(bytes as f64 * 8.0 / rate.bits_per_second.max(1.0));
        self.free_at = Some(sent);
        Some(sent)
    }

    fn loses(&mut self) -> bool {
        match self.shape.loss {
            Loss::None => false,
            Loss::Random(share) => self.rng.unit() < share,
            Loss::Bursts(model) => {
                let leave = if self.in_bad { model.to_good } else { model.to_bad };
                self.in_bad ^= self.rng.unit() < leave;
                let lost = if self.in_bad { model.lost_in_bad } else { model.lost_in_good };
                self.rng.unit() < lost
            }
        }
    }
}

/// xorshift64*: small, repeatable, good enough to lose packets by.
#[derive(Debug)]
struct Rng(u64);

impl Rng {
    fn new(seed: u64) -> Rng {
        // Neighbouring seeds begin alike: mixed, and never zero.
        Rng(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(shape: Shape) -> Gate {
        Gate { shape, ..Gate::new(7) }
    }

    fn lost(gate: &mut Gate, packets: usize) -> Vec<bool> {
        let now = Instant::now();
        (0..packets).map(|_| gate.pass(now, 100) == Fate::Lost).collect()
    }

    #[test]
    fn a_delay_is_kept_to_and_a_cut_lets_nothing_pass() {
        // covers T25
        let (now, delay) = (Instant::now(), Duration::from_millis(25));
        let mut gate = gate(Shape::delayed(delay));
        assert_eq!(gate.pass(now, 1500), Fate::Arrives(now + delay));
        gate.shape.largest = Some(1280);
        assert_eq!(gate.pass(now, 1280), Fate::Arrives(now + delay));
        assert_eq!(gate.pass(now, 1281), Fate::TooLarge);
        gate.shape.cut = true;
        assert_eq!(gate.pass(now, 1500), Fate::Cut);
    }

    #[test]
    fn jitter_stays_within_its_swing_and_keeps_the_order() {
        // covers T25
        let now = Instant::now();
        let (delay, swing) = (Duration::from_millis(50), Duration::from_millis(10));
        let shape = Shape::delayed(delay).jittered(swing);
        for reorder in [false, true] {
            let mut gate = gate(Shape { reorder, ..shape.clone() });
            let fates = (0..1000).map(|_| gate.pass(now, 100));
            let at: Vec<Instant> = fates
                .map(|fate| if let Fate::Arrives(at) = fate { at } else { panic!("{fate:?}") })
                .collect();
            assert!(at.iter().all(|at| *at >= now + delay - swing && *at <= now + delay + swing));
            assert_eq!(at.is_sorted(), !reorder);
        }
    }

    #[test]
    fn loss_by_chance_has_its_share_and_bursts_have_their_length() {
        // covers T25
        let share = |lost: &[bool]| lost.iter().filter(|lost| **lost).count() as f64 / lost.len() as f64;
        let random = lost(&mut gate(Shape::default().losing(0.05)), 100_000);
        assert!((0.045..0.055).contains(&share(&random)), "{}", share(&random));
        let bursts = lost(&mut gate(Shape::default().losing_bursts(0.05, 8.0)), 400_000);
        assert!((0.04..0.06).contains(&share(&bursts)), "{}", share(&bursts));
        let begun = bursts.windows(2).filter(|pair| !pair[0] && pair[1]).count();
        let length = share(&bursts) * bursts.len() as f64 / begun as f64;
        assert!((7.0..9.0).contains(&length), "{length}");
    }

    #[test]
    fn a_limited_direction_takes_its_time_and_its_queue_ends() {
        // covers T25
        let now = Instant::now();
        let mut gate = gate(Shape::default().limited(8e6, 3000));
        let ms = Duration::from_millis(1);
        assert_eq!(gate.pass(now, 1000), Fate::Arrives(now + ms));
        assert_eq!(gate.pass(now, 1000), Fate::Arrives(now + 2 * ms));
        assert_eq!(gate.pass(now, 1000), Fate::Arrives(now + 3 * ms));
        assert_eq!(gate.pass(now, 1000), Fate::Overflowed);
        assert_eq!(gate.pass(now + ms, 1000), Fate::Arrives(now + 4 * ms));
        assert_eq!(gate.pass(now + 10 * ms, 1000), Fate::Arrives(now + 11 * ms));
    }
}
