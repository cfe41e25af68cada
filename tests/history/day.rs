//! A day of a small mesh, with a fault twice an hour: at its end every table is as it was in the morning, and nodes have
//! as much memory.

use std::time::Duration;

use trishula::mesh::{DurableView, Limits, RoomsView, Use};

use crate::clock::{SECOND, Us};
use crate::directed::{at_rest, cluster, run};
use crate::faults::{Fault, Hurt};
use crate::memory;
use crate::scenario::{MIX, Mix};
use crate::world::{Event, World};

const HOUR: Us = 3_600 * SECOND;
const HOURS: usize = 24;
/// Marks are kept for seven days. So that a day is enough to see them flat there are fewer of a sender's than it sends in
/// the first six hours.
const MARKS_OF_A_SENDER: usize = 200;
const WARM_UP: usize = 6;
/// Messages of three agents that may be under way when an hour is over.
const UNDER_WAY: usize = 40;
/// By how much memory may differ, in percent, and in bytes: a few messages on their way.
const TOLERANCE: (usize, usize) = (5, 32 << 10);

/// What one node has.
struct Tables {
    durable: DurableView,
    used: Use,
    nodes: usize,
    agents: usize,
    links: usize,
    rooms: RoomsView,
}

/// What all have, when an hour is over.
struct Sample {
    nodes: Vec<Tables>,
    wires: usize,
    bytes: usize,
}

impl Sample {
    fn of(world: &World) -> Sample {
        let tables = |machine: &crate::world::Machine| {
            let mesh = machine.mesh.as_ref().expect("all are on when an hour is over");
            let seen = mesh.snapshot();
            Tables {
                durable: mesh.durable_view(),
                used: mesh.limits_in_use(),
                nodes: seen.nodes.len(),
                agents: seen.agents_known,
                links: seen.links.len(),
                rooms: mesh.rooms_view(),
            }
        };
        let nodes = world.machines.iter().map(tables).collect();
        Sample { nodes, wires: world.net.wires.len(), bytes: memory::of_nodes() }
    }

    /// What is more than it may be, whatever the hour.
    fn check(&self, hour: usize) {
        assert!(self.wires <= 9, "hour {hour}: {} wires", self.wires);
        for (m, node) in self.nodes.iter().enumerate() {
            let DurableView { mailbox, in_hand, outbox, handed, copies, untold, .. } = node.durable;
            let DurableView { held, held_back, counting, unwritten, marks, flows, .. } = node.durable;
            let tables =
                [mailbox, in_hand, outbox, handed, copies, untold, held, held_back, counting, unwritten];
            let shown = format!("hour {hour}, n{m}: {:?}, {:?}", node.durable, node.used);
            assert!(tables.iter().sum::<usize>() <= UNDER_WAY, "{shown}");
            // Three senders, and each of their flows to the two others by one of two nodes, at four priorities.
            assert!(marks <= 3 * MARKS_OF_A_SENDER && node.used.marks <= MARKS_OF_A_SENDER, "{shown}");
            assert!(flows <= 3 * 2 * 2 * 4 && node.used.pairs <= 3 * 2, "{shown}");
            assert_eq!((node.nodes, node.agents), (3, 3), "{shown}");
            // To the two others, a second one that retires, and its own entrance.
            assert!(node.links <= 4, "{shown}: {} links", node.links);
            assert_eq!(node.rooms, RoomsView::default(), "{shown}");
        }
    }
}

/// Something that is over within five minutes: another thing each time, of another machine.
fn fault(n: usize) -> Fault {
    let (m, other) = (n % 3, (n + 1) % 3);
    match n % 11 {
        0 => Fault::Crash { m, off: 30 * SECOND, hurt: Hurt::None },
        1 => Fault::Partition { side: 1 << m, lasts: 200 * SECOND },
        2 => Fault::Break { a: m, b: other, late: [0, 2 * SECOND] },
        3 => Fault::Silence { a: m, b: other, lasts: 100 * SECOND },
        4 => Fault::FullDisk { m, lasts: 60 * SECOND },
        5 => Fault::GateCrash { gate: m, off: 5 * SECOND },
        6 => Fault::Leave { agent: m, away: 120 * SECOND },
        7 => Fault::Move { agent: m, gate: other, deaf: true },
        8 => Fault::FullQueues { m, lasts: 30 * SECOND },
        9 => Fault::OneWay { a: m, b: other, lasts: 100 * SECOND },
        _ => Fault::SlowDisk { m, lasts: 100 * SECOND },
    }
}

/// On average over hours.
fn mean(samples: &[Sample], of: impl Fn(&Sample) -> usize) -> usize {
    samples.iter().map(of).sum::<usize>() / samples.len()
}

#[test]
fn after_a_day_of_faults_every_table_and_the_memory_are_as_before() {
    // covers T06
    let mut world = cluster(3, Duration::from_secs(20));
    (world.mix, world.write_until) = (Mix { pause_ms: 60_000, ..MIX }, HOURS as Us * HOUR);
    world.bounds.limits = Some(Limits { marks_of_sender: MARKS_OF_A_SENDER, ..Limits::default() });
    for m in 0..3 {
        // They take up the limit.
        world.at(
            world.now + m as Us * SECOND,
            Event::Strike(Fault::Crash { m, off: SECOND, hurt: Hurt::None }),
        );
        world.after(SECOND, Event::Write(m));
    }
    for n in 0..2 * HOURS {
        let at = (n as Us / 2) * HOUR + if n % 2 == 0 { HOUR / 6 } else { HOUR / 2 };
        world.at(at, Event::Strike(fault(n)));
    }
    let mut samples = Vec::new();
    for hour in 1..=HOURS {
        let rest = hour as Us * HOUR - world.now;
        run(&mut world, rest);
        // The simulation's own notes share names of messages with the nodes.
        world.numbers.clear();
        let sample = Sample::of(&world);
        sample.check(hour);
        samples.push(sample);
    }
    let (sent, struck) = (world.model.messages.len(), crate::faults::FAULTS);
    let struck: u64 = struck.iter().filter_map(|name| world.trace.counts.get(name)).sum();
    assert!(sent > 3_000 && struck >= 2 * HOURS as u64, "{sent} messages, {struck} faults");
    let quarter = HOURS / 4;
    let (morning, night) = (&samples[WARM_UP..WARM_UP + quarter], &samples[HOURS - quarter..]);
    let bytes = |samples| mean(samples, |sample: &Sample| sample.bytes);
    let marks = |samples| mean(samples, |s: &Sample| s.nodes.iter().map(|node| node.durable.marks).sum());
    eprintln!(
        "{sent} messages, {struck} faults; in the morning and at night {} and {} marks, {} and {} bytes",
        marks(morning),
        marks(night),
        bytes(morning),
        bytes(night)
    );
    assert!(bytes(night) > 100_000, "the nodes' memory is counted");
    let most = bytes(morning) * (100 + TOLERANCE.0) / 100 + TOLERANCE.1;
    assert!(bytes(night) <= most, "{:?}", samples.iter().map(|sample| sample.bytes).collect::<Vec<_>>());
    at_rest(world);
}
