//! A node that starts while no other one can be reached.

use serde_json::json;

use super::{accepted, command, goes_away, manual, run, said, told};
use crate::harness::{Machine, Mesh, until};
use crate::wss::Door;

/// Whether this machine has these words of its node about an agent.
fn knows(machine: &Machine, agent: &str, words: &str) -> bool {
    let said = machine.run(&["agents"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    said.lines().any(|line| line.contains(agent) && line.contains(words))
}

// covers T05, Q02, Q04
#[test]
fn a_node_that_starts_cut_off_takes_messages_for_agents_it_knew_and_brings_them_later() {
    let mut mesh = Mesh::start(&["dc", "agni"]);
    run(async {
        goes_away(Door::of(mesh.machine("agni"), "worker").must_open(manual()).await).await;
        until("dc knows the worker", || knows(mesh.machine("dc"), "worker", "agni"));
        mesh.machine("agni").node.as_mut().unwrap().kill();
        let dc = mesh.machine("dc");
        dc.node.as_mut().unwrap().kill();
        dc.start_node();
        until("dc's edge is attached again", || !dc.carriers("edge").is_empty());
        assert!(knows(dc, "worker", "agni"), "also while nobody tells it");

        let mut sender = Door::of(dc, "sender").must_open(json!({})).await;
        accepted(&mut sender, &command("worker", "m-1", "acked", json!({}))).await;
        assert_eq!(
            said(&mut sender, command("nobody", "m-2", "acked", json!({}))).await,
            "unknown_recipient"
        );
        assert_eq!(dc.status().unwrap()["durable"]["outbox"], 1, "it waits where it was taken");

        mesh.machine("agni").start_node();
        mesh.wait_whole();
        told(&mut sender, "m-1", "stored").await;
        let mut worker = Door::of(mesh.machine("agni"), "worker").must_open(manual()).await;
        let message = worker.message().await;
        assert_eq!(message["id"], "m-1");
        worker.ack(&message).await.unwrap();
        told(&mut sender, "m-1", "acked").await;
    });
}
