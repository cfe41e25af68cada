//! Histories that are told in words: one fault each, at the worst moment that we can think of.

use std::time::Duration;

use trishula::mesh::{GoOn, Input};

use crate::client::Agent;
use crate::clock::{MS, SECOND, Us};
use crate::faults::{Fault, Hurt};
use crate::model::{AgentNo, MessageNo};
use crate::scenario::{Mix, add_agent, finish};
use crate::world::{Event, World};

/// Nothing but what the history itself sends: plain, numbered by nobody, wanting to know the end.
const PLAIN: Mix = Mix { durable: 100, broadcast: 0, ttl: 0, not_before: 0, copies: 0, pause_ms: 1_000 };

/// Machines that all link to each other, with an entrance each, and an agent at each entrance that takes what it gets
/// at once.
pub fn cluster(count: usize, heartbeat: Duration) -> World {
    let mut world = World::new(7, false, PLAIN);
    world.heartbeat = heartbeat;
    for n in 0..count {
        world.add_machine(&format!("n{n}"));
        for a in 0..n {
            world.dials.push((a, n));
        }
    }
    for m in 0..count {
        world.power_on(m);
        let gate = world.add_gate(m);
        world.at(MS, Event::GateDial(gate, 1));
    }
    world.at(MS, Event::Survey);
    let mut rng = world.rng.clone();
    for gate in 0..count {
        let agent = add_agent(&mut world, &mut rng, gate, false);
        let Agent { think, window, settled, .. } = &mut world.agents[agent];
        (*think, *window, *settled) = (2 * MS, 64, true);
    }
    run(&mut world, 3 * SECOND);
    world
}

fn meshed(count: usize) -> World {
    cluster(count, Duration::from_secs(1))
}

pub fn run(world: &mut World, time: Us) {
    world.run_until(world.now + time);
    assert_eq!(world.broken, None);
}

fn strike(world: &mut World, fault: Fault) {
    world.at(world.now, Event::Strike(fault));
    run(world, 0);
}

/// So many messages, one after the other, from an agent to another.
fn send(world: &mut World, from: AgentNo, to: AgentNo, count: usize, copies: u8) -> Vec<MessageNo> {
    let numbers: Vec<MessageNo> = (0..count)
        .map(|_| {
            let number = world.compose(from, to);
            world.model.messages[number].copies = copies;
            number
        })
        .collect();
    for number in &numbers {
        world.again(*number, false);
    }
    numbers
}

fn accepted(world: &World, numbers: &[MessageNo]) -> usize {
    numbers.iter().filter(|number| world.model.messages[**number].accepted.is_some()).count()
}

fn reached(world: &World, numbers: &[MessageNo], to: AgentNo) -> usize {
    let got = |number: &&MessageNo| {
        world.model.messages[**number].parts.get(&to).is_some_and(|part| !part.got.is_empty())
    };
    numbers.iter().filter(got).count()
}

fn cut_off(world: &mut World, m: usize, lasts: Us) {
    strike(world, Fault::Partition { side: 1 << m, lasts });
}

pub fn at_rest(world: World) -> World {
    let outcome = finish(world);
    assert_eq!(outcome.broken, None);
    outcome.world
}

#[test]
fn what_a_node_accepted_while_cut_off_survives_its_loss_of_power() {
    // covers T06, Q02
    let mut world = meshed(3);
    cut_off(&mut world, 0, 60 * SECOND);
    run(&mut world, 5 * SECOND);
    let safe = send(&mut world, 0, 1, 20, 1);
    run(&mut world, SECOND);
    assert_eq!(accepted(&world, &safe), 20);
    // These are on their way to the disk when the power goes.
    strike(&mut world, Fault::SlowDisk { m: 0, lasts: 10 * SECOND });
    let doubtful = send(&mut world, 0, 1, 20, 1);
    run(&mut world, 5 * MS);
    assert_eq!(accepted(&world, &doubtful), 0);
    strike(&mut world, Fault::Crash { m: 0, off: 30 * SECOND, hurt: Hurt::None });
    let others = send(&mut world, 2, 1, 20, 1);
    run(&mut world, 20 * SECOND);
    assert_eq!(reached(&world, &others, 1), 20, "the other two go on");
    run(&mut world, 60 * SECOND);
    assert_eq!(reached(&world, &safe, 1), 20);
    let world = at_rest(world);
    // A node that knows nobody yet refuses; its sender is told, and has the message still.
    let kept: Vec<MessageNo> =
        doubtful.into_iter().filter(|number| !world.model.messages[*number].refused).collect();
    assert_eq!(reached(&world, &kept, 1), kept.len(), "their sender sent them again");
}

#[test]
fn what_one_node_alone_holds_is_delivered_after_its_restart() {
    // covers T06, Q02
    let mut world = meshed(3);
    cut_off(&mut world, 0, 20 * SECOND);
    run(&mut world, 5 * SECOND);
    let numbers = send(&mut world, 0, 1, 50, 1);
    run(&mut world, SECOND);
    assert_eq!((accepted(&world, &numbers), reached(&world, &numbers, 1)), (50, 0));
    strike(&mut world, Fault::Crash { m: 0, off: 5 * SECOND, hurt: Hurt::None });
    run(&mut world, 30 * SECOND);
    assert_eq!(reached(&world, &numbers, 1), 50);
    at_rest(world);
}

#[test]
fn messages_with_two_copies_survive_a_wiped_disk() {
    // covers T06, Q02
    let mut world = meshed(3);
    cut_off(&mut world, 2, 20 * SECOND);
    run(&mut world, 5 * SECOND);
    let numbers = send(&mut world, 0, 2, 50, 2);
    run(&mut world, 2 * SECOND);
    assert_eq!((accepted(&world, &numbers), reached(&world, &numbers, 2)), (50, 0));
    world.long_outage = true;
    strike(&mut world, Fault::Crash { m: 0, off: 90 * SECOND, hurt: Hurt::Wiped });
    run(&mut world, 100 * SECOND);
    assert_eq!(reached(&world, &numbers, 2), 50);
    at_rest(world);
}

#[test]
fn a_recipient_that_moves_while_its_home_is_cut_off_is_told_what_comes_twice() {
    // covers T06, Q02
    let mut world = meshed(3);
    // It takes long for each message, so that some are in its hands when it leaves.
    world.agents[1].think = 3 * SECOND;
    let numbers = send(&mut world, 0, 1, 30, 1);
    run(&mut world, SECOND);
    cut_off(&mut world, 1, 40 * SECOND);
    strike(&mut world, Fault::Move { agent: 1, gate: 2, deaf: true });
    let later = send(&mut world, 0, 1, 30, 1);
    run(&mut world, 30 * SECOND);
    assert_eq!(reached(&world, &later, 1), 30, "its new home delivers");
    run(&mut world, 30 * SECOND);
    let world = at_rest(world);
    assert_eq!(reached(&world, &numbers, 1), 30);
}

#[test]
fn an_old_store_brought_back_sends_nothing_until_its_operator_says_how() {
    // covers B26, T06, Q02
    for (how, times) in [(GoOn::Redeliver, 2..=3), (GoOn::Bury, 1..=2)] {
        let mut world = meshed(3);
        strike(&mut world, Fault::Leave { agent: 1, away: 10 * SECOND });
        let old = send(&mut world, 0, 1, 20, 1);
        run(&mut world, 2 * SECOND);
        let backup = world.machines[1].disk.platter.clone();
        strike(&mut world, Fault::Crash { m: 1, off: SECOND, hurt: Hurt::None });
        run(&mut world, 20 * SECOND);
        assert_eq!(reached(&world, &old, 1), 20);
        // What was acknowledged is not in the copy.
        strike(&mut world, Fault::Crash { m: 1, off: SECOND, hurt: Hurt::None });
        world.machines[1].disk.platter = backup;
        run(&mut world, 10 * SECOND);
        let stands_still = |world: &World| world.machines[1].mesh.as_ref().unwrap().rolled_back().is_some();
        assert!(stands_still(&world));
        let new = send(&mut world, 0, 1, 20, 1);
        run(&mut world, 10 * SECOND);
        assert_eq!((accepted(&world, &new), reached(&world, &new, 1)), (20, 0));
        world.input(1, Input::GoOn(how));
        run(&mut world, 20 * SECOND);
        assert!(!stands_still(&world));
        let world = at_rest(world);
        assert_eq!(reached(&world, &new, 1), 20);
        for number in &old {
            let part = &world.model.messages[*number].parts[&1];
            let got = &part.got;
            // Once more, if its recipient was back before any other node: what comes twice is marked in any case.
            assert!(times.contains(&(got.len() - part.requeued as usize)), "{how:?}: {got:?}");
        }
    }
}

#[test]
fn after_a_night_a_machine_has_what_it_missed_within_two_seconds() {
    // covers Q02, Q03
    let night = 8 * 3_600 * SECOND;
    let mut world = meshed(3);
    strike(&mut world, Fault::Sleep { m: 0, lasts: night });
    run(&mut world, 60 * SECOND);
    let missed = send(&mut world, 1, 0, 50, 1);
    run(&mut world, 10 * SECOND);
    assert_eq!((accepted(&world, &missed), reached(&world, &missed, 0)), (50, 0));
    run(&mut world, night - 70 * SECOND - 1);
    let status = world.machines[1].mesh.as_ref().map(|mesh| mesh.snapshot().links.len());
    assert_eq!(status, Some(2), "its links to the sleeper are gone: n2 and its own entrance are left");
    let woke = world.now;
    run(&mut world, 1);
    world.trusts_no_link(0);
    while reached(&world, &missed, 0) < missed.len() && world.now < woke + 60 * SECOND {
        run(&mut world, 10 * MS);
    }
    let took = (world.now - woke) / MS;
    eprintln!("50 messages were there {took} ms after the machine woke");
    assert!(took <= 2_000, "{took} ms");
    at_rest(world);
}
