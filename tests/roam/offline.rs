//! Peers that can't be reached when a node starts.

use std::thread::sleep;
use std::time::{Duration, Instant};

use trishula_wan::{Shape, inside};

use crate::harness::until;
use crate::place::{Family, World};

/// Some attempts, and longer than any dialler may do nothing.
const OFFLINE: Duration = Duration::from_secs(12);

#[test]
fn both_ends_start_offline_and_the_link_forms_when_there_is_a_way() {
    // covers Q03, T09
    inside("offline::both_ends_start_offline_and_the_link_forms_when_there_is_a_way", || {
        let mut world = World::init(&["dc", "agni"], Family::Four);
        world.star.set_both(0, 1, &Shape::delayed(Duration::from_millis(25)));
        world.star.link(0, 1, false);
        (0..2).for_each(|n| world.start_node(n));
        for machine in &world.machines {
            until("both run", || machine.status().is_some());
        }
        let began = Instant::now();
        let mut longest = 0;
        while began.elapsed() < OFFLINE {
            for machine in &world.machines {
                let down = machine.status().unwrap()["down"].clone();
                assert_eq!(down["not_dialled"], 0, "{down}");
                longest = longest.max(down["idle_seconds"].as_u64().unwrap());
            }
            sleep(Duration::from_millis(200));
        }
        for (n, machine) in world.machines.iter().enumerate() {
            assert_eq!(machine.status().unwrap()["down"]["links"], 1, "{}", machine.name);
            assert!(world.metric(n, "trishula_dials_total{carrier=\"quic\",outcome=\"failed\"}") >= 1.0);
        }
        world.star.link(0, 1, true);
        let since = Instant::now();
        world.wait_whole();
        eprintln!(
            "both began offline: linked {:?} after there was a way; idle for {longest} s at most",
            since.elapsed()
        );
        for machine in &world.machines {
            until("nothing is down", || machine.status().unwrap()["down"]["links"] == 0);
        }
        world.assert_always_dialled();
    });
}

#[test]
fn a_peer_that_does_not_run_yet_is_dialled_until_it_does() {
    // covers Q03, T09
    inside("offline::a_peer_that_does_not_run_yet_is_dialled_until_it_does", || {
        let mut world = World::init(&["dc", "agni"], Family::Six);
        // Only the first dials: it has to be the one that finds the other.
        let own = world.node_address(0);
        world.configure(0, &format!("advertise = [\"{own}\"]"), "advertise = []");
        world.configure(1, &format!("addresses = [\"{own}\"]"), "addresses = []");
        world.start_node(0);
        until("dc tries", || {
            world.machines[0].status().is_some()
                && world.metric(0, "trishula_dials_total{carrier=\"quic\",outcome=\"failed\"}") >= 1.0
        });
        sleep(Duration::from_secs(3));
        world.start_node(1);
        let since = Instant::now();
        world.wait_whole();
        eprintln!("the peer was started: linked {:?} later", since.elapsed());
        world.machines[1].node.as_mut().unwrap().kill();
        until("dc has noticed", || !world.machines[0].reaches("agni"));
        sleep(Duration::from_secs(2));
        world.start_node(1);
        let since = Instant::now();
        world.wait_whole();
        eprintln!("the peer was started again: linked {:?} later", since.elapsed());
        world.assert_always_dialled();
    });
}
