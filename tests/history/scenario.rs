//! A run from beginning to end: a cluster and what happens to it, both drawn from the seed.

use trishula::wire::ids::{AgentAddr, Namespace};

use std::time::Duration;

use crate::bounds;
use crate::client::Agent;
use crate::clock::{MS, SECOND, Us};
use crate::extras;
use crate::faults::{Fault, Hurt};
use crate::rng::{Rng, mix};
use crate::sabotage::Sabotage;
use crate::world::{Event, World};

/// When agents begin to write.
const BEGIN: Us = 4 * SECOND;
/// How long the mesh has to bring everything to an end once it is whole.
const PATIENCE: Us = 300 * SECOND;

/// How messages are made: shares in percent.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    pub durable: u64,
    pub broadcast: u64,
    pub ttl: u64,
    pub not_before: u64,
    pub copies: u64,
    /// Between two messages of an agent, on average.
    pub pause_ms: u64,
}

pub const MIX: Mix = Mix { durable: 93, broadcast: 5, ttl: 12, not_before: 6, copies: 12, pause_ms: 2_500 };

/// In one run of so many, nodes notice the death of a good link within half a second.
const ATTENTIVE_ONE_IN: u64 = 4;

/// In one run of so many a machine stays away for so long that second holders go on, and messages have second copies more
/// often. None of the seeds that were kept before is among them.
const FAR_GONE_ONE_IN: u64 = 8;
const FAR_GONE: u64 = 70 << 16;

/// What a run came to.
pub struct Outcome {
    pub broken: Option<String>,
    /// How long it took, once all was whole, until every message had its end.
    pub took: Us,
    pub world: World,
}

/// One way between two machines.
pub fn delay_between(seed: u64, a: usize, b: usize) -> Us {
    let (low, high) = (a.min(b) as u64, a.max(b) as u64);
    MS + mix(seed ^ (low << 8) ^ (high << 16)) % (60 * MS)
}

fn is_far_gone(seed: u64) -> bool {
    mix(seed ^ FAR_GONE).is_multiple_of(FAR_GONE_ONE_IN)
}

/// Runs one seed to its end, or to the first thing that is wrong.
pub fn run(seed: u64, traced: bool) -> Outcome {
    run_with(seed, traced, None)
}

/// The same with a fault planted.
pub fn run_with(seed: u64, traced: bool, sabotage: Option<Sabotage>) -> Outcome {
    let mut world = World::new(seed, traced, MIX);
    world.sabotage = sabotage;
    if seed.is_multiple_of(ATTENTIVE_ONE_IN) {
        world.heartbeat = Duration::from_millis(120);
    }
    if bounds::has_them(seed) {
        world.bounds.limits = Some(bounds::small(seed));
    }
    if is_far_gone(seed) {
        world.mix.copies = 50;
    }
    let mut rng = Rng::new(mix(seed));
    furnish(&mut world, &mut rng);
    let end = plan(&mut world, &mut rng);
    if extras::has_them(seed) {
        extras::plan(&mut world, &mut rng, BEGIN, end - BEGIN);
    }
    world.write_until = end - 2 * SECOND;
    world.run_until(end);
    finish(world)
}

/// Makes everything whole, waits until all is done, and looks at what is left.
pub fn finish(mut world: World) -> Outcome {
    world.heal();
    let healed = world.now;
    let last = healed + PATIENCE;
    while world.broken.is_none() && world.now < last {
        world.run_until(world.now + 5 * SECOND);
        if world.outstanding().is_empty() {
            break;
        }
    }
    let took = world.now - healed;
    world.run_until(world.now + 15 * SECOND);
    // What a node lost sight of it asks for twice a minute.
    let last = world.now + 30 * SECOND;
    while world.broken.is_none() && world.now < last && world.anything_queued() {
        world.run_until(world.now + 5 * SECOND);
    }
    if world.broken.is_none() {
        world.check_rest();
    }
    Outcome { broken: world.broken.take(), took, world }
}

/// Machines, who dials whom, entrances, agents.
fn furnish(world: &mut World, rng: &mut Rng) {
    let count = [3, 3, 3, 3, 4, 4, 5, 7][rng.index(8)];
    for n in 0..count {
        let m = world.add_machine(&format!("n{n}"));
        world.machines[m].clock.skew_ms = rng.range(0, 8_000) as i64 - 4_000;
        world.machines[m].disk.fsync = rng.range(200, 8_000);
    }
    let twice = rng.percent(30);
    for a in 0..count {
        for b in a + 1..count {
            // Always a chain, so that all can reach all.
            if b == a + 1 || count == 3 || rng.percent(60) {
                world.dials.push((a, b));
                if twice {
                    world.dials.push((b, a));
                }
            }
        }
    }
    for m in 0..count {
        world.power_on(m);
        for _ in 0..rng.range(1, 2) {
            let gate = world.add_gate(m);
            world.at(MS, Event::GateDial(gate, 1));
        }
    }
    let agents = rng.range(4, 6) as usize;
    let pool = rng.percent(30);
    for n in 0..agents {
        let gate = rng.index(world.gates.len());
        add_agent(world, rng, gate, pool && n == 0);
    }
    world.at(MS, Event::Survey);
}

/// An agent that connects at the beginning.
pub fn add_agent(world: &mut World, rng: &mut Rng, gate: usize, shared: bool) -> usize {
    let agent = world.agents.len();
    let namespace = Namespace::new("trishula").unwrap();
    world.agents.push(Agent {
        addr: AgentAddr::parse(&format!("a{agent}"), &namespace).unwrap(),
        shared,
        wants: if shared { 2 } else { 1 },
        gate,
        settled: false,
        home: None,
        pending: Default::default(),
        think: [5, 50, 300, 1_500][rng.index(4)] * MS,
        lag_until: 0,
        window: [1, 2, 8, 64][rng.index(4)],
        away_until: 0,
    });
    world.at(500 * MS + rng.below(1_500) * MS, Event::Mind(agent));
    world.at(BEGIN + rng.below(2_000) * MS, Event::Write(agent));
    agent
}

/// What happens to them; answers when it is over.
fn plan(world: &mut World, rng: &mut Rng) -> Us {
    let long = rng.percent(12) || is_far_gone(world.seed);
    let length = (if long { 110 } else { 60 }) * SECOND;
    let faults = rng.range(3, 14);
    for _ in 0..faults {
        let at = BEGIN + rng.below(length - 20 * SECOND);
        let most = BEGIN + length - at;
        let fault = draw(world, rng, most);
        world.at(at, Event::Strike(fault));
    }
    if long {
        let m = rng.index(world.machines.len());
        world.long_outage = true;
        let (off, hurt) = (80 * SECOND, if rng.percent(40) { Hurt::Wiped } else { Hurt::None });
        world.at(BEGIN + 10 * SECOND, Event::Strike(Fault::Crash { m, off, hurt }));
        // What lies there for them when it goes off is what a second machine has to go on with.
        for agent in 0..world.agents.len() {
            if world.gates[world.agents[agent].gate].machine == m && rng.percent(70) {
                let leaves = Fault::Leave { agent, away: rng.range(8, 30) * SECOND };
                world.at(BEGIN + rng.range(2, 8) * SECOND, Event::Strike(leaves));
            }
        }
    }
    BEGIN + length
}

fn draw(world: &World, rng: &mut Rng, most: Us) -> Fault {
    let count = world.machines.len();
    let m = rng.index(count);
    let (a, b) = world.dials[rng.index(world.dials.len())];
    let agent = rng.index(world.agents.len());
    let gate = rng.index(world.gates.len());
    let short = rng.range(50, 4_000) * MS;
    let lasts = (rng.range(200, 25_000) * MS).min(most);
    let hurt = match rng.below(10) {
        0 => Hurt::Corrupt,
        1 => Hurt::Wiped,
        _ => Hurt::None,
    };
    match rng.below(22) {
        0 => Fault::Break { a, b, late: [0, 0] },
        1 => Fault::Break { a, b, late: [0, short] },
        2 => Fault::Break { a, b, late: [short, 0] },
        3 => Fault::Silence { a, b, lasts },
        4 => match rng.percent(50) {
            true => Fault::OneWay { a, b, lasts },
            false => Fault::OneWay { a: b, b: a, lasts },
        },
        5 | 6 => Fault::Partition { side: 1 << m, lasts },
        7 => Fault::Partition { side: rng.below(1 << count) as u32, lasts },
        8 => Fault::Twin { a, b },
        9 => Fault::FullQueues { m, lasts: lasts / 4 },
        10 => Fault::SlowDisk { m, lasts },
        11 => Fault::FullDisk { m, lasts: lasts / 2 },
        12..=15 => Fault::Crash { m, off: if rng.percent(60) { short } else { lasts }, hurt },
        16 => Fault::Sleep { m, lasts },
        17 => Fault::Jump { m, ms: rng.range(0, 240_000) as i64 - 120_000 },
        18 => Fault::GateCrash { gate, off: short },
        19 | 20 => Fault::Move { agent, gate, deaf: rng.percent(60) },
        _ if rng.percent(60) => Fault::Leave { agent, away: lasts },
        _ => Fault::Slow { agent, lasts },
    }
}
