//! The UDP socket and the packets beneath a link.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use trishula::client::Outgoing;
use trishula::wire::envelope::State;
use trishula_wan::{Shape, inside};

use crate::flow::{client, knows};
use crate::harness::{Machine, PATIENCE, until};
use crate::place::{Family, World};

/// IPv6 promises this much on every path (RFC 8200 section 5), and tunnels often leave no more.
const NARROW: usize = 1280;
const LARGE: usize = 200 * 1024;

/// What `check` finds of the buffers.
fn finding(world: &World) -> Value {
    let checked = world.star.at(0).enter(|| Ok(world.machines[0].run(&["check", "--json"]))).unwrap();
    let said: Value = serde_json::from_slice(&checked.stdout).unwrap();
    let found = said["findings"].as_array().unwrap().iter().find(|finding| finding["what"] == "UDP buffers");
    found.unwrap_or_else(|| panic!("{said}")).clone()
}

#[test]
fn short_udp_buffers_are_told_with_the_command_that_mends_them() {
    // covers Q06, Q03
    inside("sockets::short_udp_buffers_are_told_with_the_command_that_mends_them", || {
        let mut world = World::init(&["dc"], Family::Four);
        // More than any system gives unasked; and what each gives.
        for (kib, short) in [(1_048_576, true), (64, false)] {
            world.configure(0, "[mesh]\n", &format!("[mesh]\nudp_buffer_kib = {kib}\n"));
            let mend = format!("sudo sysctl -w net.core.rmem_max={0} net.core.wmem_max={0}", kib << 10);
            let mend = if short { json!(mend) } else { Value::Null };
            let found = finding(&world);
            assert_eq!(
                (&found["level"], &found["mend"]),
                (&json!(if short { "warning" } else { "ok" }), &mend)
            );

            world.start_node(0);
            let mut status = Value::Null;
            until("the node answers", || {
                status = world.machines[0].status().unwrap_or_default();
                !status.is_null()
            });
            let udp = &status["udp"];
            eprintln!("{kib} KiB asked for: {udp}");
            assert_eq!((&udp["wanted"], &udp["mend"]), (&json!(kib << 10), &mend));
            let got = udp["receive"].as_u64().unwrap();
            assert_eq!(got < kib << 10, short, "{udp}");
            assert_eq!(world.metric(0, "trishula_udp_buffer_bytes{what=\"receive\"}"), got as f64);
            let told = String::from_utf8(world.machines[0].run(&["status"]).stdout).unwrap();
            assert_eq!(told.contains("to mend: sudo sysctl"), short, "{told}");
            world.machines[0].node.as_mut().unwrap().stop();
            world.configure(0, &format!("[mesh]\nudp_buffer_kib = {kib}\n"), "[mesh]\n");
        }
        assert_eq!(world.machines[0].node_log().matches("less room than is good").count(), 1);
    });
}

/// Sends one large message, and answers how long it took until it was acknowledged.
fn carry(here: &Machine, there: &Machine) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut bob, alice) = (client(there, "bob").await, client(here, "alice").await);
        knows(&alice, "bob").await;
        let began = Instant::now();
        let message = Outgoing::command("bob", json!("x".repeat(LARGE)));
        let receiving = async {
            let message = bob.next().await.unwrap();
            assert_eq!(message.read::<String>().unwrap().len(), LARGE);
            // Asking for the next one acknowledges it.
            let _ = tokio::time::timeout(Duration::from_millis(1), bob.next()).await;
        };
        let (sent, ()) = tokio::join!(alice.send_and_wait(message, State::Acked, PATIENCE), receiving);
        sent.unwrap();
        began.elapsed()
    })
}

fn narrow_paths(family: Family) {
    let wide = Shape::delayed(Duration::from_millis(10));
    let mut world = World::init(&["dc", "agni"], family);
    world.star.set_both(0, 1, &wide.clone().narrow(NARROW));
    (0..2).for_each(|n| world.start_node(n));
    world.wait_whole();
    let took = carry(&world.machines[0], &world.machines[1]);
    let dropped = world.star.counters(0, 1).too_large;
    eprintln!(
        "{family:?}: {LARGE} bytes on a path of {NARROW} took {took:?}; {dropped} larger packets had been tried"
    );
    assert!(dropped > 0, "nobody looked for a larger size");

    // A new connection finds the path wide, and then it is not any more.
    world.star.set_both(0, 1, &wide);
    for n in 0..2 {
        world.machines[n].node.as_mut().unwrap().stop();
        world.start_node(n);
    }
    world.wait_whole();
    let before = carry(&world.machines[0], &world.machines[1]);
    world.star.set_both(0, 1, &wide.narrow(NARROW));
    let dropped = world.star.counters(0, 1).too_large;
    let after = carry(&world.machines[0], &world.machines[1]);
    let dropped = world.star.counters(0, 1).too_large - dropped;
    eprintln!(
        "{family:?}: on a wide one {before:?}; when it had become narrow {after:?}, with {dropped} packets in vain"
    );
    assert!(dropped > 0, "the larger size was not in use");
    world.assert_always_dialled();
}

#[test]
fn a_path_that_drops_large_packets_carries_large_messages() {
    // covers Q03
    inside("sockets::a_path_that_drops_large_packets_carries_large_messages", || narrow_paths(Family::Four));
}

#[test]
fn a_path_that_drops_large_packets_carries_large_messages_by_ipv6() {
    // covers Q03
    inside("sockets::a_path_that_drops_large_packets_carries_large_messages_by_ipv6", || {
        narrow_paths(Family::Six);
    });
}
