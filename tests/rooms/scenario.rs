//! A run from beginning to end: a cluster and what happens to it, both drawn from the seed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use trishula::mesh::RoomLimits;

use crate::client::Client;
use crate::clock::{MS, SECOND, Us};
use crate::faults::Fault;
use crate::gate::Gate;
use crate::model::Model;
use crate::rng::{Rng, mix};
use crate::sabotage::Sabotage;
use crate::world::{Event, World};

/// How long faults go on.
const LENGTH: Us = 40 * SECOND;
/// How long the mesh has to bring everything everywhere once it is whole.
const PATIENCE: Us = 45 * SECOND;

/// Runs a seed; answers what is wrong, and the world as it is then.
pub fn run_with(seed: u64, traced: bool, sabotage: Option<Sabotage>) -> (Option<String>, World) {
    let mut rng = Rng::new(mix(seed));
    // In every second run history is short, and readers are told what they missed; in the others it never is.
    let short = seed % 2 == 1;
    let messages = if short { rng.range(4, 40) as usize } else { 100_000 };
    let mut world = World::new(seed, RoomLimits { messages, ..RoomLimits::default() }, traced);
    world.sabotage = sabotage;
    furnish(&mut world, &mut rng);
    for _ in 0..rng.range(2, 12) {
        let at = 4 * SECOND + rng.below(LENGTH - 10 * SECOND);
        let fault = draw(&world, &mut rng);
        world.at(at, Event::Strike(fault));
    }
    world.write_until = LENGTH - SECOND;
    world.run_until(LENGTH);
    heal(&mut world);
    let end = world.now + PATIENCE;
    world.run_until(end);
    world.ask_members();
    world.run_until(end + 2 * SECOND);
    if world.model.broken.is_none() {
        world.check_rest();
    }
    if world.model.broken.is_none() && !short && world.model.lapses > 0 {
        world.model.breaks(format!("{} lapses where all is kept", world.model.lapses));
    }
    (world.model.broken.take(), world)
}

fn furnish(world: &mut World, rng: &mut Rng) {
    for n in 0..[2, 3, 3, 4][rng.index(4)] {
        let skew_ms = rng.range(0, 8_000) as i64 - 4_000;
        world.add_machine(&format!("n{n}"), skew_ms, rng.range(200, 8_000));
    }
    let machines = world.machines.len();
    for gate in 0..rng.range(2, 4) as usize {
        world.gates.push(Gate::new(gate % machines));
        world.at(MS, Event::GateDial(gate));
    }
    for c in 0..rng.range(2, 6) as usize {
        let gate = rng.index(world.gates.len());
        let pause = [200, 600, 1_500][rng.index(3)] * MS;
        world.clients.push(Client::new(c, gate, pause, c < 2 || rng.percent(50)));
        world.at(SECOND + rng.below(8_000) * MS, Event::Act(c));
    }
    world.at(0, Event::Dial);
}

fn draw(world: &World, rng: &mut Rng) -> Fault {
    let count = world.machines.len();
    let (m, gate) = (rng.index(count), rng.index(world.gates.len()));
    let other = (m + 1 + rng.index(count - 1)) % count;
    let lasts = rng.range(100, 15_000) * MS;
    match rng.below(14) {
        0..=2 => Fault::Crash(m, rng.range(50, 8_000) * MS),
        3 | 4 => Fault::GateCrash(gate, rng.range(50, 4_000) * MS),
        5 | 6 => Fault::Break(m, other),
        7 => Fault::OneWay(m, other, lasts),
        8 | 9 => Fault::Partition(rng.below(1 << count) as u32, lasts),
        10 => Fault::Full(m, lasts / 4),
        11 => Fault::FullDisk(m, lasts / 4),
        _ => Fault::Wander(gate),
    }
}

fn heal(world: &mut World) {
    world.note(|| "HEALED".into());
    world.quiet = true;
    world.blocked.clear();
    for m in 0..world.machines.len() {
        world.machines[m].full_until = 0;
        world.machines[m].disk.full_until = 0;
        world.power_on(m);
    }
    for gate in 0..world.gates.len() {
        world.gate_on(gate);
    }
}

/// Runs seeds on all processors; answers those that are broken, and sums.
fn many(seeds: std::ops::Range<u64>) -> (Vec<(u64, String)>, Model, u64) {
    let next = AtomicU64::new(seeds.start);
    let totals = Mutex::new((Vec::new(), Model::default(), 0));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || totals.lock().unwrap().0.len() >= 10 {
                        break;
                    }
                    let run = catch_unwind(AssertUnwindSafe(|| run_with(seed, false, None)));
                    let mut totals = totals.lock().unwrap();
                    match run {
                        Ok((broken, world)) => {
                            totals.0.extend(broken.map(|why| (seed, why)));
                            totals.1.read += world.model.read;
                            totals.1.lapses += world.model.lapses;
                            // Runs with some, where all is kept: a reader that has one often has a burst of them.
                            totals.1.twins += usize::from(seed.is_multiple_of(2) && world.model.twins > 0);
                            totals.2 += world.steps;
                        }
                        Err(_) => totals.0.push((seed, "it panicked".into())),
                    }
                }
            });
        }
    });
    totals.into_inner().unwrap()
}

#[test]
fn every_reader_gets_every_publish_once_or_is_told() {
    // covers B07
    let count = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(200);
    let (broken, Model { read, lapses, twins, .. }, steps) = many(0..count);
    eprintln!(
        "{count} seeds: {read} messages read, {lapses} lapses told, twins in {twins} seeds, {steps} steps"
    );
    for (seed, why) in &broken {
        eprintln!("{why}\n  SEED={seed} cargo test --test rooms replay -- --nocapture");
    }
    assert!(broken.is_empty(), "{} seeds are broken", broken.len());
    assert!(read as u64 > 50 * count && lapses as u64 > count / 20, "too little happens");
    assert!((twins as u64) <= 2 + count / 100, "what is given to two nodes reaches readers twice too often");
}

#[test]
fn replay() {
    let Some(seed) = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) else { return };
    let (broken, _) = run_with(seed, true, None);
    assert_eq!(broken, None);
}
