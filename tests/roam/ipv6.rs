//! Machines that have no IPv4.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;
use trishula_wan::{Shape, Star, inside};

use crate::harness::{PATIENCE, TRISHULA, until};
use crate::place::{Family, World};
use crate::wss::{Socket, hear, registered, say};

fn ticket(world: &World, name: &str) -> String {
    let invited = world.machines[0].run(&["invite", name]);
    assert!(invited.status.success(), "{}", String::from_utf8_lossy(&invited.stderr));
    let said = String::from_utf8(invited.stdout).unwrap();
    said.lines().find(|line| line.starts_with("trishula-ticket-1:")).unwrap().to_owned()
}

/// The second machine of a world becomes one of the mesh, as its operator would do it.
fn join(world: &mut World, name: &str) {
    let (ticket, folder) = (ticket(world, name), world.folder.path().join(name));
    let at = format!("{}", world.node_address(1));
    let mut command = Command::new(TRISHULA);
    command.args(["join", &ticket, "--advertise", &at, "--out"]).arg(folder).stdin(Stdio::null());
    let joined = world.star.at(1).enter(|| command.output()).unwrap();
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    world.add(name);
}

#[test]
fn machines_without_ipv4_join_and_pass_messages_also_through_their_edges() {
    // covers Q03, Q01
    inside("ipv6::machines_without_ipv4_join_and_pass_messages_also_through_their_edges", || {
        let star = Star::new(2).unwrap();
        star.set_all(&Shape::delayed(Duration::from_millis(5)));
        for n in 0..2 {
            star.remove_address(n, star.at(n).ipv4().into()).unwrap();
        }
        let mut world = World::within(star, &["dc"], Family::Six);
        world.start_node(0);
        until("dc runs", || world.machines[0].status().is_some());
        join(&mut world, "agni");
        world.start_node(1);
        (0..2).for_each(|n| world.start_edge(n));
        world.wait_whole();
        for machine in &world.machines {
            let status = machine.status().unwrap();
            let remotes = status["links"].as_array().unwrap().iter().filter(|link| link["role"] == "node");
            let all: Vec<&str> = remotes.map(|link| link["remote"].as_str().unwrap()).collect();
            assert!(all.iter().all(|remote| remote.starts_with("[2001:db8::")) && !all.is_empty(), "{all:?}");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(through_edges(&world, "quic"));

        // UDP blocked: the way round through the edge is IPv6 as well.
        world.star.block_udp(1, true);
        until("the link goes through the edge", || {
            world.machines[0].carriers("node").iter().any(|carrier| carrier == "wss")
        });
        runtime.block_on(through_edges(&world, "wss"));
        world.assert_always_dialled();
        let log = fs::read_to_string(world.machines[1].folder.join("edge.log")).unwrap();
        assert!(!log.contains("panicked"), "{log}");
    });
}

/// Each client is on the one machine, and at the edge of the other.
async fn through_edges(world: &World, round: &str) {
    let bob = registered(world, (0, 1), &world.machines[1].token("bob")).await;
    let mut bob = bob.expect("the edge of the second machine takes a client");
    let alice = registered(world, (1, 0), &world.machines[0].token("alice")).await;
    let mut alice = alice.expect("the edge of the first takes one");
    for n in 0..20 {
        let id = format!("{round}-{n}");
        let accepted = async {
            // Until bob is known where alice is.
            while !takes(&mut alice, &id, n).await {}
        };
        timeout(PATIENCE, accepted).await.expect("it is accepted");
        let message = hear(&mut bob).await.expect("the socket is kept");
        assert_eq!((&message["id"], &message["payload"]), (&json!(id), &json!(n)), "{message}");
        say(&mut bob, json!({"type": "ACK", "to": message["from"], "reply_to": message["id"]})).await;
    }
}

/// Sends a message, and answers whether the mesh has taken it.
async fn takes(alice: &mut Socket, id: &str, n: usize) -> bool {
    let frame = json!({"type": "COMMAND", "to": "bob", "id": id, "receipt": "accepted", "payload": n});
    say(alice, frame).await;
    loop {
        let answer = hear(alice).await.expect("the socket is kept");
        if answer["from"] == "mesh" && answer["reply_to"] == id {
            return answer["type"] == "RECEIPT";
        }
    }
}
