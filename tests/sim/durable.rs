//! Durable messages through the whole stack: power that goes, partitions, UDP that is blocked, disks that refuse, clients that
//! leave and move. Nothing that was accepted is lost, doubled without a mark or reordered, and each sender is told an end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use trishula::node::status::DurableStatus;
use trishula::rt::{clock, queue, tasks};

use crate::ledger::{Apart, Ledger, MachineNo};
use crate::net::{SimNet, Step, Tally, Way, Weather};
use crate::node::SimNode;
use crate::rng::{Rng, mix};
use crate::scenario::{address, difference, in_virtual_time, name, plan, seeds};
use crate::store::{Sabotage, SimDisk};
use crate::town::{Errand, link_of, live};
use crate::udp::Troubles;

const MACHINES: usize = 4;
const AGENTS: usize = 6;
/// Until when something is done to machines and clients.
const HEALED: Duration = Duration::from_secs(60);
/// How long the mesh has then to bring everything to an end, and how often that is looked at.
const PATIENCE: Duration = Duration::from_secs(150);
const LOOK: Duration = Duration::from_secs(5);
/// Not before: what was lost with a session is asked for first.
const ASKED: Duration = Duration::from_secs(35);

/// How long a loss of power waits for a write that it can hit.
const AT_WORK_WITHIN: Duration = Duration::from_millis(300);

/// What is done to a machine at a moment.
#[derive(Debug, Clone, Copy)]
enum Act {
    Off(MachineNo),
    On(MachineNo),
    Full(MachineNo, Duration),
    Slow(MachineNo, Duration),
    /// The laptop, which nobody dials, is in another network.
    Roams(u16),
}

/// A while in which what some machines say to others goes a bad way.
#[derive(Debug, Clone)]
struct Bad {
    when: Range<Duration>,
    side: u32,
    way: Way,
}

impl Bad {
    fn at(&self, now: Duration, from: MachineNo, to: MachineNo) -> bool {
        self.when.contains(&now) && self.side >> from & 1 != self.side >> to & 1
    }
}

/// What happens in a run.
struct Fate {
    apart: Vec<Apart>,
    acts: Vec<(Duration, Act)>,
    /// When half of everything is lost.
    gusts: Vec<Range<Duration>>,
    loss: f64,
    twice: f64,
    bad: Vec<Bad>,
    udp: Troubles,
}

/// What came of a run.
struct Outcome {
    broken: Option<String>,
    ledger: Ledger,
    /// Writes refused, records that shared an fsync, records that a loss of power took.
    disks: [u64; 3],
    net: Tally,
    trace: Vec<Step>,
}

struct Machine {
    node: SimNode,
    _writer: tasks::Task,
}

struct Scene {
    seed: u64,
    net: SimNet,
    disks: Vec<SimDisk>,
    machines: Vec<Option<Machine>>,
    lives: [u64; MACHINES],
    events: queue::Sender<trishula::link::Event>,
}

fn draw(seed: u64) -> Fate {
    let mut rng = Rng::new(mix(seed));
    let ms = |rng: &mut Rng, low, high| Duration::from_millis(rng.range(low, high));
    let (mut apart, mut acts) = (Vec::new(), Vec::new());
    for _ in 0..rng.range(1, 3) {
        let from = ms(&mut rng, 5_000, 50_000);
        let until = (from + ms(&mut rng, 500, 20_000)).min(HEALED);
        let side = rng.range(1, (1 << MACHINES) - 2) as u32;
        apart.push(Apart { side, one_way: rng.percent(35), from, until });
    }
    let gusts = (0..rng.range(0, 5))
        .map(|_| {
            let from = ms(&mut rng, 5_000, 55_000);
            from..from + ms(&mut rng, 100, 2_000)
        })
        .collect();
    // One after the other: a machine that is off does not lose its power again.
    let mut at = ms(&mut rng, 6_000, 20_000);
    while at < HEALED - Duration::from_secs(5) {
        let m = rng.index(MACHINES);
        let longest = if rng.percent(60) { 2_000 } else { 15_000 };
        let back = (at + ms(&mut rng, 200, longest)).min(HEALED);
        acts.extend([(at, Act::Off(m)), (back, Act::On(m))]);
        apart.push(Apart { side: 1 << m, one_way: false, from: at, until: back });
        at = back + ms(&mut rng, 200, 20_000);
    }
    for _ in 0..2 {
        let (at, m) = (ms(&mut rng, 5_000, 50_000), rng.index(MACHINES));
        let until = (at + ms(&mut rng, 100, 6_000)).min(HEALED);
        acts.push((at, if rng.percent(50) { Act::Full(m, until) } else { Act::Slow(m, until) }));
    }
    let loss = [0.0, 0.01, 0.02, 0.05][rng.index(4)];
    let twice = [0.0, 0.0, 0.01, 0.05][rng.index(4)];
    let bad = (0..rng.range(0, 3))
        .map(|_| {
            let from = ms(&mut rng, 3_000, 50_000);
            let until = (from + ms(&mut rng, 1_000, 20_000)).min(HEALED);
            let more_us = if rng.percent(60) { rng.range(0, 270_000) } else { 0 };
            let bytes_per_s = [0, 20_000, 60_000, 250_000][rng.index(4)];
            let side = rng.range(1, (1 << MACHINES) - 2) as u32;
            Bad { when: from..until, side, way: Way { more_us, bytes_per_s } }
        })
        .collect();
    for n in 0..rng.range(0, 3) as u16 {
        acts.push((ms(&mut rng, 4_000, 58_000), Act::Roams(n)));
    }
    acts.sort_by_key(|(at, _)| *at);
    let udp = Troubles::draw(seed, MACHINES, HEALED);
    Fate { apart, acts, gusts, loss, twice, bad, udp }
}

fn run(seed: u64, sabotage: Option<Sabotage>) -> Outcome {
    in_virtual_time(seed, history(seed, sabotage))
}

async fn history(seed: u64, sabotage: Option<Sabotage>) -> Outcome {
    let fate = draw(seed);
    let apart = fate.apart.clone();
    let (cuts, gusts, loss) = (fate.apart.clone(), fate.gusts.clone(), fate.loss);
    let of = |address: SocketAddr| usize::from(address.port() - 4000);
    let lost = move |now: Duration, from: SocketAddr, to: SocketAddr| {
        let [a, b] = [from, to].map(of);
        if cuts.iter().any(|apart| (apart.from..apart.until).contains(&now) && apart.cuts(a, b)) {
            return 1.0;
        }
        if gusts.iter().any(|gust| gust.contains(&now)) { 0.5 } else { loss }
    };
    let bad = fate.bad;
    let ways = move |now: Duration, from: SocketAddr, to: SocketAddr| {
        bad.iter().find(|bad| bad.at(now, of(from), of(to))).map_or(Way::default(), |bad| bad.way)
    };
    let (lost, ways, udp) = (Box::new(lost), Box::new(ways), fate.udp.clone());
    let udp_lost = Box::new(move |now, from, to| udp.lose(now, of(from), of(to)));
    let weather = Weather { delay_us: (5_000, 30_000), lost, udp_lost, twice: fate.twice, ways };
    let (net, _courier) = SimNet::start(seed, weather);
    net.note(format!("{:?}", fate.udp));
    let fsync = |m| [500, 5_000, 20_000, 80_000][(mix(seed + m) % 4) as usize];
    let disk = |m| SimDisk::new(&net, name(m as usize), mix(seed ^ m), fsync(m), sabotage);
    let disks: Vec<SimDisk> = (0..MACHINES as u64).map(disk).collect();
    let crash = |(at, act): &(Duration, Act)| matches!(act, Act::Off(_)).then_some(*at);
    let crashes = fate.acts.iter().filter_map(crash).collect();
    let ledger = Arc::new(Mutex::new(Ledger { apart, crashes, udp: fate.udp, ..Ledger::default() }));
    let (events, heard) = queue::bounded("sim.entrances", 16_384);
    let errand = Errand { machines: MACHINES, agents: AGENTS, until: HEALED, seed };
    let _town = live(net.clone(), ledger.clone(), disks.clone(), errand, heard);
    let machines = (0..MACHINES).map(|_| None).collect();
    let mut scene = Scene { seed, net, disks, machines, lives: [0; MACHINES], events };
    (0..MACHINES).for_each(|m| scene.power_on(m));
    for (at, act) in fate.acts {
        scene.net.wait_until(at).await;
        scene.net.note(format!("{act:?}"));
        match act {
            Act::Off(m) => scene.power_off(m).await,
            Act::On(m) => scene.power_on(m),
            Act::Full(m, until) => scene.disks[m].is_full_until(until),
            Act::Slow(m, until) => scene.disks[m].is_slow_until(until),
            Act::Roams(n) => {
                scene.net.moves(address(MACHINES - 1), SocketAddr::from(([10, 9, 9, 9], 5_000 + n)))
            }
        }
    }
    scene.comes_to_rest(&ledger).await
}

impl Scene {
    fn power_on(&mut self, m: MachineNo) {
        self.lives[m] += 1;
        let (incarnation, store, writer) = self.disks[m].start(clock::wall_ms());
        let sessions = self.disks[m].tls_sessions();
        let mut plan = plan(m, MACHINES, self.seed, self.lives[m]);
        plan.incarnation = incarnation;
        plan.edges = true;
        let mut node = SimNode::start(&self.net, &plan, store);
        if let Some(sessions) = sessions {
            node.sessions().restore(&sessions).expect("the same are trusted");
        }
        node.entrance_to(link_of(m, self.lives[m]), self.events.clone());
        self.machines[m] = Some(Machine { node, _writer: writer });
    }

    /// At the worst moment that comes soon: while something is being written.
    async fn power_off(&mut self, m: MachineNo) {
        let last = self.net.elapsed() + AT_WORK_WITHIN;
        while !self.disks[m].is_at_work() && self.net.elapsed() < last {
            self.net.wait_until(self.net.elapsed() + Duration::from_millis(1)).await;
        }
        if let Some(machine) = &self.machines[m] {
            self.disks[m].keep_tls_sessions(machine.node.sessions().snapshot());
        }
        self.net.unplug(address(m));
        self.machines[m] = None;
        self.disks[m].lose_power();
        let (link, why) = (link_of(m, self.lives[m]), "the power is gone".to_owned());
        let _ = self.events.send(trishula::link::Event::Down { link, why }).await;
    }

    /// Waits until all is done, and looks at what is left.
    async fn comes_to_rest(self, ledger: &Mutex<Ledger>) -> Outcome {
        let (mut at, last) = (HEALED + ASKED, HEALED + PATIENCE);
        let mut left;
        loop {
            self.net.wait_until(at).await;
            left = self.queued().await;
            let ledger = ledger.lock().unwrap();
            let done = ledger.open().is_empty() && left.is_none() && self.on_disks().is_none();
            if ledger.broken.is_some() || at >= last || done {
                break;
            }
            at += LOOK;
        }
        let mut ledger = std::mem::take(&mut *ledger.lock().unwrap());
        let findings = [ledger.open().into_iter().next(), ledger.wrong_order(), left, self.on_disks()];
        findings.into_iter().flatten().for_each(|why| ledger.fail(why));
        let mut disks = [0; 3];
        for counts in self.disks.iter().map(SimDisk::counts) {
            (0..3).for_each(|n| disks[n] += counts[n]);
        }
        ledger.counts.extend(self.net.counts());
        let (net, trace) = self.net.finish();
        Outcome { broken: ledger.broken.take(), ledger, disks, net, trace }
    }

    /// What is still in the queues of a node, besides marks.
    async fn queued(&self) -> Option<String> {
        for (m, machine) in self.machines.iter().enumerate() {
            let Some(machine) = machine else { return Some(format!("n{m} is off")) };
            let Ok(status) = machine.node.handle.status().await else {
                return Some(format!("the task of n{m} is gone"));
            };
            let Some(durable) = status.durable else { return Some(format!("n{m} keeps nothing")) };
            let old = durable.rolled_back;
            let DurableStatus { mailbox, in_hand, outbox, handed, copies, untold, held, unwritten, .. } =
                durable;
            let queues = [mailbox, in_hand, outbox, handed, copies, untold, held, unwritten];
            if !status.whole || old.is_some() || queues != [0; 8] {
                let whole = status.whole;
                return Some(format!("n{m} is not empty: whole {whole}, rolled back {old:?}, {queues:?}"));
            }
        }
        None
    }

    /// What is on a disk though it has ended.
    fn on_disks(&self) -> Option<String> {
        let left = self.disks.iter().map(SimDisk::left).enumerate().find(|(_, left)| !left.is_empty())?;
        Some(format!("n{} has on disk what has ended: {:?}", left.0, left.1))
    }
}

fn show(seed: u64, outcome: &Outcome) {
    eprintln!(
        "seed {seed}: {:?}; {} writes refused, {} records in groups, {} lost with the power; {:?}",
        outcome.ledger.counts, outcome.disks[0], outcome.disks[1], outcome.disks[2], outcome.net
    );
}

fn replay_line(seed: u64) -> String {
    format!("SIM_SEED={seed} cargo test --test sim replay -- --nocapture")
}

/// What came of several runs.
#[derive(Default)]
struct Sum {
    counts: BTreeMap<&'static str, u64>,
    disks: [u64; 3],
    /// Datagrams that came twice, that waited before a narrow way, that found no room there, that went astray, that were
    /// blocked; and how often a stream said something again.
    net: [u64; 6],
    broken: Vec<String>,
}

impl Sum {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        if outcome.broken.is_some() {
            show(seed, &outcome);
        }
        self.broken.extend(outcome.broken.map(|why| format!("{}\n    {why}", replay_line(seed))));
        for (what, count) in outcome.ledger.counts {
            *self.counts.entry(what).or_default() += count;
        }
        (0..3).for_each(|n| self.disks[n] += outcome.disks[n]);
        let Tally { twice, waited, dropped, astray, blocked, again, .. } = outcome.net;
        let net = [twice, waited, dropped, astray, blocked, again];
        (0..6).for_each(|n| self.net[n] += net[n]);
    }
}

/// Every processor has a run at a time.
fn run_all(seeds: Range<u64>) -> Sum {
    let (next, sum) = (AtomicU64::new(seeds.start), Mutex::new(Sum::default()));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = run(seed, None);
                    sum.lock().unwrap().add(seed, outcome);
                }
            });
        }
    });
    sum.into_inner().unwrap()
}

#[test]
fn nothing_accepted_is_lost_doubled_or_reordered() {
    // covers T06, Q02, Q04
    let seeds = seeds(1, 8);
    let Sum { counts: totals, disks, net, broken } = run_all(seeds.clone());
    eprintln!(
        "seeds {seeds:?}: {totals:?}; writes refused, in groups, lost with the power: {disks:?}; twice, waited, without room, astray, \
         blocked, again: {net:?}"
    );
    assert!(broken.is_empty(), "{} seeds broke:\n{}", broken.len(), broken.join("\n"));
    // Runs that met too little show nothing.
    let least = [
        ("messages", 1_500),
        ("accepted", 1_500),
        ("acked", 1_000),
        ("nacked", 30),
        ("expired", 10),
        ("deliveries marked", 100),
        ("resends", 100),
        ("timed out", 20),
        ("homes moved", 10),
        ("sessions lost", 30),
        ("sessions closed by their node", 5),
        ("links on WSS from the first", 5),
        ("links from QUIC to WSS", 5),
        ("links from WSS to QUIC", 5),
        ("accepted while UDP was blocked", 50),
        ("delivered across blocked UDP", 20),
    ];
    for (what, least) in least {
        let count = totals.get(what).copied().unwrap_or(0);
        assert!(count >= least, "{what}: {count} times; at least {least} are wanted");
    }
    assert!(
        net.iter().all(|count| *count >= 5),
        "twice, waited, without room, astray, blocked, again: {net:?}"
    );
    assert!(disks.iter().all(|count| *count >= 5), "refused, in groups, lost with the power: {disks:?}");
}

#[test]
fn a_run_with_disks_is_the_same_for_the_same_seed() {
    let (first, second) = (run(3, None), run(3, None));
    if let Some(difference) = difference(&first.trace, &second.trace) {
        panic!("seed 3 gave two runs: {difference}");
    }
    let segments = first.trace.iter().filter(|step| matches!(step, Step::Segment(..))).count();
    assert!(first.net.sent > 5_000 && segments > 1_000, "{} datagrams, {segments} segments", first.net.sent);
}

#[test]
fn a_disk_that_lies_is_found_out() {
    for sabotage in [Sabotage::AcceptsTooEarly, Sabotage::AcknowledgesTooEarly, Sabotage::ForgetsToPersist] {
        let found = (1..=20).find_map(|seed| run(seed, Some(sabotage)).broken.map(|why| (seed, why)));
        let (seed, why) = found.unwrap_or_else(|| panic!("{sabotage:?} was not found"));
        let why: String = why.chars().take(160).collect();
        eprintln!("{sabotage:?}: found by seed {seed}: {why}");
    }
}

#[test]
fn replay() {
    let Ok(seed) = std::env::var("SIM_SEED") else { return };
    let seed = seed.parse().expect("SIM_SEED is a number");
    let outcome = run(seed, None);
    let about = std::env::var("ABOUT").unwrap_or_default();
    for step in &outcome.trace {
        if let Step::Agent(at, what) = step
            && about.split(',').any(|word| what.contains(word))
        {
            eprintln!("{:>12.6} {what}", *at as f64 / 1e9);
        }
    }
    show(seed, &outcome);
    assert_eq!(outcome.broken, None, "seed {seed}");
}
