//! What is done to UDP alone: a firewall that lets none of it through, or a way that loses much of it, while streams of bytes pass.
//! No machine is parted from another by that.

use std::ops::Range;
use std::time::Duration;

use crate::ledger::MachineNo;
use crate::rng::{Rng, mix};

/// Of which ways.
#[derive(Debug, Clone, Copy)]
enum Ways {
    /// Between these and all others.
    Of(u32),
    /// From these to the others, and not back.
    From(u32),
    /// Between these two.
    Between(MachineNo, MachineNo),
}

/// A while in which datagrams are lost.
#[derive(Debug, Clone)]
pub struct Trouble {
    when: Range<Duration>,
    ways: Ways,
    /// Which share; 1: all.
    share: f64,
}

impl Trouble {
    fn meets(&self, from: MachineNo, to: MachineNo) -> bool {
        match self.ways {
            Ways::Of(side) => side >> from & 1 != side >> to & 1,
            Ways::From(side) => side >> from & 1 == 1 && side >> to & 1 == 0,
            Ways::Between(a, b) => (from, to) == (a, b) || (from, to) == (b, a),
        }
    }
}

/// All that is done to it in a run.
#[derive(Debug, Clone, Default)]
pub struct Troubles(Vec<Trouble>);

impl Troubles {
    /// From the seed, but by dice of its own: what else the seed decides stays as it is. All is well again at the end.
    pub fn draw(seed: u64, machines: usize, end: Duration) -> Troubles {
        let mut rng = Rng::new(mix(seed ^ 0x75_64_70));
        let mut all = Vec::new();
        for _ in 0..rng.range(1, 4) {
            let from = Duration::from_millis(rng.range(4_000, 50_000));
            let lasts = Duration::from_millis(rng.range(1_000, 25_000));
            all.push(Trouble {
                when: from..(from + lasts).min(end),
                ways: ways(&mut rng, machines),
                share: 1.0,
            });
        }
        if rng.percent(40) {
            // Long enough to be noticed as loss.
            let from = Duration::from_millis(rng.range(4_000, 35_000));
            let until = (from + Duration::from_millis(rng.range(14_000, 24_000))).min(end);
            let share = [0.25, 0.3, 0.4][rng.index(3)];
            all.push(Trouble { when: from..until, ways: ways(&mut rng, machines), share });
        }
        Troubles(all)
    }

    /// Which share of the datagrams from one machine to another is lost.
    pub fn lose(&self, now: Duration, from: MachineNo, to: MachineNo) -> f64 {
        let met = self.0.iter().filter(|trouble| trouble.when.contains(&now) && trouble.meets(from, to));
        met.map(|trouble| trouble.share).fold(0.0, f64::max)
    }

    /// Whether it is blocked somewhere.
    pub fn is_blocked(&self, now: Duration) -> bool {
        self.0.iter().any(|trouble| trouble.when.contains(&now) && trouble.share >= 1.0)
    }

    /// Whether no datagram can go from one to the other and back.
    pub fn block(&self, now: Duration, a: MachineNo, b: MachineNo) -> bool {
        a != b && self.lose(now, a, b).max(self.lose(now, b, a)) >= 1.0
    }
}

fn ways(rng: &mut Rng, machines: usize) -> Ways {
    match rng.index(5) {
        0 | 1 => Ways::Of(1 << rng.index(machines)),
        2 => Ways::Of(rng.range(1, (1 << machines) - 2) as u32),
        3 => Ways::From(rng.range(1, (1 << machines) - 2) as u32),
        _ => {
            let a = rng.index(machines);
            Ways::Between(a, (a + 1 + rng.index(machines - 1)) % machines)
        }
    }
}
