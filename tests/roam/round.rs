//! A way round: a relay that dies, and a direct link that becomes much slower.

use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use trishula_wan::{Shape, inside};

use crate::dead::QUIET;
use crate::flow::{PACE, Route};
use crate::harness::until;
use crate::place::{Family, World};

/// Between any two machines, one way.
const NEAR: Duration = Duration::from_millis(10);
/// What the direct link takes more, one way.
const SLOWER: Duration = Duration::from_millis(200);
/// Ten times what is promised.
const GENEROUS: Duration = Duration::from_secs(10);
/// How often the relay is killed.
const KILLS: usize = 2;
/// The last machine is at the end of all ways here; the names are the machines' in their order.
const NAMES: [&str; 4] = ["dc", "agni", "rushabdev", "vps"];
const LAST: usize = 3;
const ROUTES: [Route; 2] =
    [Route::new((0, "alice"), (LAST, "bob")), Route::new((LAST, "carol"), (0, "dave"))];

fn four_machines() -> World {
    let world = World::init(&NAMES, Family::Four);
    world.star.set_all(&Shape::delayed(NEAR));
    world
}

/// To which machine the first one gives what is for the last, and the other way round.
fn hops(world: &World) -> [Option<usize>; 2] {
    [(0, LAST), (LAST, 0)].map(|(from, to)| {
        let hop = world.machines[from].next_hop(NAMES[to])?;
        NAMES.iter().position(|name| *name == hop)
    })
}

/// Frames with messages that the two machines between have passed on: no agent is at one of them.
fn passed_on(world: &World) -> usize {
    [1, 2].map(|n| world.metric(n, "trishula_frames_sent_total{kind=\"Forward\"}") as usize).iter().sum()
}

#[test]
fn a_relay_is_killed_and_messages_go_by_the_other_one() {
    // covers T01, Q02
    inside("round::a_relay_is_killed_and_messages_go_by_the_other_one", || {
        let mut world = four_machines();
        world.star.link(0, LAST, false);
        (0..NAMES.len()).for_each(|n| world.start_node(n));
        for _ in 0..KILLS {
            world.wait_whole();
            let mut relay = 0;
            until("both ends have the same relay", || match hops(&world) {
                [Some(one), Some(other)] => {
                    relay = one;
                    one == other && [1, 2].contains(&one)
                }
                _ => false,
            });
            let (killed, round) = (OnceLock::new(), OnceLock::new());
            let flows = world.flows_among(&ROUTES, PACE, || {
                sleep(QUIET);
                world.machines[relay].node.as_ref().unwrap().signal("KILL");
                killed.set(Instant::now()).unwrap();
                let other = [Some(3 - relay); 2];
                let took = until("both ends use the other relay", || hops(&world) == other);
                round.set(took).unwrap();
                sleep(Duration::from_secs(1));
            });
            let (killed, round) = (*killed.get().unwrap(), round.get().unwrap());
            let gaps = [0, 1].map(|n| flows[n].longest_gap(killed));
            eprintln!(
                "{} killed: the other way is shown {round:?} later, longest silence {gaps:?}",
                NAMES[relay]
            );
            assert!(gaps.iter().all(|gap| *gap < GENEROUS), "{gaps:?}");
            world.start_node(relay);
        }
    });
}

#[test]
fn a_direct_link_becomes_much_slower_and_messages_go_round_it_until_it_is_good() {
    // covers T01, Q02
    inside("round::a_direct_link_becomes_much_slower_and_messages_go_round_it_until_it_is_good", || {
        let mut world = four_machines();
        (0..NAMES.len()).for_each(|n| world.start_node(n));
        world.wait_whole();
        let direct = [Some(LAST), Some(0)];
        until("the direct way is taken", || hops(&world) == direct);
        assert_eq!(passed_on(&world), 0, "nothing goes round yet");
        let moments = OnceLock::new();
        let flows = world.flows_among(&ROUTES, PACE, || {
            sleep(Duration::from_secs(2));
            let slower = Instant::now();
            world.star.set_both(0, LAST, &Shape::delayed(NEAR + SLOWER));
            until("a way round is taken", || {
                hops(&world).into_iter().zip(direct).all(|(hop, not)| hop != not)
            });
            let (round, before) = (Instant::now(), passed_on(&world));
            sleep(Duration::from_secs(3));
            let good = Instant::now();
            world.star.set_both(0, LAST, &Shape::delayed(NEAR));
            until("the direct way is taken again", || hops(&world) == direct);
            let back = Instant::now();
            sleep(Duration::from_secs(2));
            moments.set(([slower, round, good, back, Instant::now()], before)).unwrap();
        });
        let ([slower, round, good, back, end], before) = *moments.get().unwrap();
        eprintln!(
            "{SLOWER:?} more: a way round {:?} later; good again: back {:?} later",
            round - slower,
            back - good
        );
        let passed = passed_on(&world);
        let went_round = passed - before;
        let meant: usize = flows.iter().map(|flow| flow.sent_between(round, good)).sum();
        eprintln!("{went_round} went round, {meant} were sent while that was shown");
        // Not how long they took: a machine without time makes every way slow.
        assert!(went_round >= meant / 2, "what is sent while there is a better way round takes it");
        for flow in &flows {
            let [changing, around, returned] =
                [(slower, round), (round, good), (back, end)].map(|(since, until)| flow.took(since, until));
            eprintln!(
                "median and longest: {changing:?} until it went round, {around:?} then, {returned:?} back on \
                 the direct way; longest silence {:?}",
                flow.longest_gap(slower)
            );
            assert!(flow.longest_gap(slower) < GENEROUS);
        }
        let more: usize = world.flows_among(&ROUTES, PACE, || ()).iter().map(|flow| flow.came.len()).sum();
        let gone_round = passed_on(&world) - passed;
        assert!(
            gone_round < more / 2,
            "{gone_round} of {more} went round when the direct way was good again"
        );
        world.assert_always_dialled();
    });
}
