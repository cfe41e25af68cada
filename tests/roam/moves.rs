//! A laptop that changes its network, and one whose lid is closed.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use trishula_wan::{Shape, inside};

use crate::flow::{PACE, Route};
use crate::harness::until;
use crate::place::{Family, World};

const DELAY: Duration = Duration::from_millis(25);
/// Between two messages while one of the two sleeps: what waits for it must be less than a busy machine carries in a second.
const PACE_ASLEEP: Duration = Duration::from_millis(50);
/// How long a process stands still.
const SLEEP: Duration = Duration::from_secs(20);
const SLEEP_LONG: Duration = Duration::from_secs(60);

/// Ten times what is promised.
const CAUGHT_UP: Duration = Duration::from_secs(20);
/// Out of the machine that sleeps, and to it; there also to a client by WebSocket at its edge.
const ASLEEP: [Route; 3] = [
    Route::new((0, "alice"), (1, "bob")),
    Route::new((1, "carol"), (0, "dave")),
    Route::new((1, "erin"), (0, "frank")).by_edge(),
];

/// Which address the first machine's link to the second comes from, as the second sees it.
fn seen_from(world: &World) -> Vec<String> {
    let status = world.machines[1].status().unwrap_or_default();
    let links = status["links"].as_array().cloned().unwrap_or_default();
    let nodes = links.iter().filter(|link| link["role"] == "node");
    nodes.map(|link| link["remote"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The laptop dials out only, as behind NAT: so it is the one whose connection moves.
fn laptop_and_server(family: Family) -> World {
    let mut world = World::init(&["dc", "agni"], family);
    world.star.set_both(0, 1, &Shape::delayed(DELAY));
    let own = world.node_address(0);
    world.configure(0, &format!("advertise = [\"{own}\"]"), "advertise = []");
    world.configure(1, &format!("addresses = [\"{own}\"]"), "addresses = []");
    (0..2).for_each(|n| world.start_node(n));
    world.wait_whole();
    world
}

fn roams(family: Family, networks: [&str; 3]) {
    let world = laptop_and_server(family);
    let moments = OnceLock::new();
    let up = world.metric(1, "trishula_dials_total") + world.metric(0, "trishula_dials_total");
    let flows = world.flows_while(PACE, || {
        sleep(Duration::from_millis(500));
        let mut old = world.address(0);
        let mut at = Vec::new();
        for new in networks {
            let new: IpAddr = new.parse().unwrap();
            world.star.add_address(0, new).unwrap();
            world.star.remove_address(0, old).unwrap();
            at.push(Instant::now());
            until("agni sees the new address", || {
                seen_from(&world).iter().any(|remote| remote.contains(&new.to_string()))
            });
            sleep(Duration::from_secs(1));
            old = new;
        }
        moments.set(at).unwrap();
    });
    let dials = world.metric(1, "trishula_dials_total") + world.metric(0, "trishula_dials_total") - up;
    for flow in &flows {
        for moment in moments.get().unwrap() {
            let gap = flow.longest_gap(*moment);
            let first = flow.first_after(*moment + DELAY);
            eprintln!("{family:?}: a new address: first message {first:?} later, longest silence {gap:?}");
        }
    }
    let replaced = world.metric(0, "trishula_udp_rebinds_total{outcome=\"replaced\"}");
    eprintln!("{family:?}: {replaced} sockets replaced, {dials} further dials");
    assert!(replaced >= 3.0, "each new address is noticed");
    assert_eq!(world.metric(0, "trishula_links_closed_total"), 0.0, "the link has moved; it was not closed");
    world.assert_always_dialled();
}

#[test]
fn a_laptop_gets_new_addresses_and_its_link_moves_with_it() {
    // covers Q03
    inside("moves::a_laptop_gets_new_addresses_and_its_link_moves_with_it", || {
        roams(Family::Four, ["198.51.100.7", "198.51.100.8", "198.51.100.9"]);
    });
}

#[test]
fn a_laptop_gets_new_addresses_and_its_link_moves_with_it_by_ipv6() {
    // covers Q03
    inside("moves::a_laptop_gets_new_addresses_and_its_link_moves_with_it_by_ipv6", || {
        roams(Family::Six, ["2001:db8:7::7", "2001:db8:8::8", "2001:db8:9::9"]);
    });
}

#[test]
fn a_laptop_that_slept_has_caught_up_two_seconds_after_it_woke() {
    // covers Q03
    inside("moves::a_laptop_that_slept_has_caught_up_two_seconds_after_it_woke", || {
        let mut world = laptop_and_server(Family::Four);
        world.start_edge(0);
        world.wait_whole();
        let woke = OnceLock::new();
        let long = std::env::var_os("ROAM_LONG").is_some();
        let flows = world.flows_among(&ASLEEP, PACE_ASLEEP, || {
            sleep(Duration::from_millis(500));
            let laptop = [&world.machines[0].node, &world.machines[0].edge].map(|one| one.as_ref().unwrap());
            laptop.iter().for_each(|program| program.signal("STOP"));
            sleep(if long { SLEEP_LONG } else { SLEEP });
            laptop.iter().for_each(|program| program.signal("CONT"));
            woke.set(Instant::now()).unwrap();
            let linked = until("agni is linked with it again", || world.machines[1].reaches("dc"));
            eprintln!("linked again {linked:?} after waking");
            sleep(Duration::from_secs(2));
        });
        let woke = *woke.get().unwrap();
        for (flow, route) in flows.iter().zip(&ASLEEP) {
            eprintln!(
                "{route:?}: after a sleep with {} messages: the first {:?} after waking, caught up after {:?}",
                flow.came.len(),
                flow.first_after(woke),
                flow.caught_up(woke)
            );
            assert!(flow.caught_up(woke) < CAUGHT_UP);
        }
        assert!(world.metric(0, "trishula_wakes_total{why=\"clock\"}") >= 1.0);
        world.assert_always_dialled();
    });
}
