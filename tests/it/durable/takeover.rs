//! Messages of two copies whose first machine stays away: the second one goes on with them.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{accepted, command, goes_away, manual, run, told};
use crate::harness::{Machine, Mesh, until};
use crate::wss::Door;

/// Shorter than the default, so that nobody waits for a minute.
const TAKEOVER: Duration = Duration::from_secs(5);

/// A mesh of machines that take over after so long.
fn start(names: &[&str], after: Duration) -> Mesh {
    let mut mesh = Mesh::init(names);
    for machine in &mut mesh.machines {
        let path = machine.config();
        let limits = format!("\n[limits]\ntakeover_seconds = {}\n", after.as_secs());
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
    let mut mesh = start(&["agni", "dc", "rushabdev"], TAKEOVER);
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

/// What `trishula takeover` says: its exit code, its words, and its complaint.
fn takeover(machine: &Machine, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = machine.run(&[&["takeover"], arguments].concat());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Whether this machine knows that the agent's home is there.
fn lives(machine: &Machine, agent: &str, node: &str) -> bool {
    let agents = machine.run(&["agents", "--json"]).stdout;
    let agents: Value = serde_json::from_slice(&agents).unwrap();
    agents.as_array().unwrap().iter().any(|row| row["agent"] == agent && row["node"] == node)
}

// covers Q02, Q04, Q08, T09
#[test]
fn the_second_machine_delivers_at_once_when_its_operator_says_so_and_hands_back() {
    // Longer than anybody waits here.
    let mut mesh = start(&["agni", "dc", "rushabdev"], Duration::from_secs(3600));
    run(async {
        for name in ["worker", "sleeper"] {
            goes_away(Door::of(mesh.machine("agni"), name).must_open(manual()).await).await;
        }
        let mut sender = Door::of(mesh.machine("dc"), "sender").must_open(json!({})).await;
        for (to, id) in [("worker", "w-1"), ("worker", "w-2"), ("sleeper", "s-1")] {
            accepted(&mut sender, &command(to, id, "acked", json!({"copies": 2}))).await;
            told(&mut sender, id, "stored").await;
        }
        let dc = mesh.machine("dc");
        for (name, why) in
            [("agni", "is in reach"), ("dc", "this node itself"), ("nobody", "no node of this")]
        {
            let (code, _, said) = takeover(dc, &[name]);
            assert!(code == Some(1) && said.contains(why), "{name}: {code:?} {said}");
        }

        mesh.machine("agni").node.as_mut().unwrap().kill();
        until("dc sees that agni is gone", || !mesh.machine("dc").reaches("agni"));
        let mut worker = Door::of(mesh.machine("rushabdev"), "worker").must_open(manual()).await;
        let dc = mesh.machine("dc");
        until("dc knows where the worker is", || lives(dc, "trishula/worker", "rushabdev"));
        let (code, said, complaint) = takeover(dc, &["agni", "--json"]);
        assert_eq!(code, Some(0), "{complaint}");
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said, json!({"node": "agni", "taken_over": 2, "waiting": 1}));
        for id in ["w-1", "w-2"] {
            let message = worker.message().await;
            assert_eq!(name_of(&message), (id, true), "in order; the first machine may have delivered it");
            worker.ack(&message).await.unwrap();
            told(&mut sender, id, "acked").await;
        }
        // The word holds for one that comes later.
        let mut sleeper = Door::of(mesh.machine("dc"), "sleeper").must_open(manual()).await;
        let message = sleeper.message().await;
        assert_eq!(name_of(&message), ("s-1", true));
        sleeper.ack(&message).await.unwrap();
        told(&mut sender, "s-1", "acked").await;
        let (code, said, _) = takeover(mesh.machine("dc"), &["agni"]);
        assert!(code == Some(0) && said == "messages of agni that go on from here: 0\n", "{code:?} {said}");

        // The first machine has all three in mailboxes, and learns better.
        mesh.machine("agni").start_node();
        mesh.wait_whole();
        accepted(&mut sender, &command("worker", "w-3", "acked", json!({}))).await;
        let next = worker.message().await;
        assert_eq!(name_of(&next), ("w-3", false), "nothing came twice in between");
        worker.ack(&next).await.unwrap();
        told(&mut sender, "w-3", "acked").await;
    });
    until("every node is done with them", || mesh.machines.iter().all(is_empty));
}
