//! Messages of two copies whose first machine stays away: the second one goes on with them.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{accepted, command, goes_away, manual, run, told};
use crate::harness::{Machine, Mesh, until};
use crate::wss::Door;

/// Shorter than the default, so that nobody waits for a minute.
const TAKEOVER: Duration = Duration::from_secs(5);

/// A mesh of machines that take over so soon.
fn start(names: &[&str]) -> Mesh {
    let mut mesh = Mesh::init(names);
    for machine in &mut mesh.machines {
        let path = machine.config();
        let limits = format!("\n[limits]\ntakeover_seconds = {}\n", TAKEOVER.as_secs());
        fs::write(&path, fs::read_to_string(&path).unwrap() + &limits).unwrap();
        machine.start_node();
    }
    mesh.machines.iter_mut().for_each(Machine::start_edge);
    mesh.wait_whole();
    mesh
}

/// Nothing is left but marks.
fn is_empty(machine: &Machine) -> bool {
    let Some(status) = machine.status() else { return false };
    let places = ["mailbox", "in_hand", "outbox", "handed", "copies", "untold"];
    places.iter().all(|place| status["durable"][place] == 0)
}

fn name_of(message: &Value) -> (&str, bool) {
    (message["id"].as_str().unwrap(), message["redelivered"] == true)
}

// covers Q02, Q04, T09
#[test]
fn the_second_machine_delivers_when_the_first_stays_away_and_hands_back_when_it_returns() {
    let mut mesh = start(&["agni", "dc", "rushabdev"]);
    run(async {
        goes_away(Door::of(mesh.machine("agni"), "worker").must_open(manual()).await).await;
        // One was taken at the recipient's home itself, the other elsewhere: the home is the first machine of both.
        let mut near = Door::of(mesh.machine("agni"), "near").must_open(json!({})).await;
        let mut far = Door::of(mesh.machine("dc"), "far").must_open(json!({})).await;
        let two = || json!({"copies": 2});
        accepted(&mut near, &command("worker", "n-1", "acked", two())).await;
        accepted(&mut far, &command("worker", "f-1", "acked", two())).await;
        told(&mut far, "f-1", "stored").await;

        mesh.machine("agni").node.as_mut().unwrap().kill();
        let killed = Instant::now();
        let mut worker = Door::of(mesh.machine("rushabdev"), "worker").must_open(manual()).await;
        let (one, other) = (worker.message().await, worker.message().await);
        assert!(killed.elapsed() >= TAKEOVER, "{:?}: it might still have come back", killed.elapsed());
        let mut got = [name_of(&one), name_of(&other)];
        got.sort_unstable();
        assert_eq!(got, [("f-1", true), ("n-1", true)], "the first machine may have delivered them");
        let (near_one, far_one) = if one["id"] == "n-1" { (one, other) } else { (other, one) };
        worker.ack(&near_one).await.unwrap();

        // The first machine has both in a mailbox, and learns better.
        mesh.machine("agni").start_node();
        mesh.wait_whole();
        // Its edge has kept the sender's connection.
        told(&mut near, "n-1", "acked").await;
        accepted(&mut far, &command("worker", "f-2", "acked", json!({}))).await;
        let next = worker.message().await;
        assert_eq!(name_of(&next), ("f-2", false), "nothing came twice in between");
        worker.ack(&next).await.unwrap();
        told(&mut far, "f-2", "acked").await;

        // Its recipient lives at the first machine again: what it had in hand comes with it, marked.
        let mut worker = Door::of(mesh.machine("agni"), "worker").must_open(manual()).await;
        let again = worker.message().await;
        assert_eq!(name_of(&again), ("f-1", true));
        assert_eq!(again["payload"], far_one["payload"]);
        worker.ack(&again).await.unwrap();
        told(&mut far, "f-1", "acked").await;
    });
    let limits = mesh.machines[0].status().unwrap()["durable"]["limits"].clone();
    let keys: Vec<&str> = limits.as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["node_messages", "node_mib", "mailbox_messages", "mailbox_mib", "receipts_of_sender"]);
    until("every node is done with them", || mesh.machines.iter().all(is_empty));
}
