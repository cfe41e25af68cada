//! A recipient whose node is gone: no more waits for it elsewhere than in its mailbox, and messages to others go on.

use std::fs;

use serde_json::json;

use super::{accepted, command, goes_away, manual, run, said};
use crate::harness::{Machine, Mesh};
use crate::wss::Door;

/// As few as an operator may set.
const MAILBOX: usize = 10;

// covers T04, T06
#[test]
fn what_waits_for_a_node_that_is_gone_is_bounded_for_each_recipient() {
    let mut mesh = Mesh::init(&["agni", "dc"]);
    for machine in &mut mesh.machines {
        let path = machine.config();
        let limits = format!("\n[limits]\nmailbox_messages = {MAILBOX}\n");
        fs::write(&path, fs::read_to_string(&path).unwrap() + &limits).unwrap();
        machine.start_node();
    }
    mesh.machines.iter_mut().for_each(Machine::start_edge);
    mesh.wait_whole();
    run(async {
        for agent in ["worker", "other"] {
            goes_away(Door::of(mesh.machine("agni"), agent).must_open(manual()).await).await;
        }
        let mut sender = Door::of(mesh.machine("dc"), "sender").must_open(json!({})).await;
        for agent in ["worker", "other"] {
            let first = command(agent, &format!("{agent}-first"), "accepted", json!({"ttl_ms": 1}));
            accepted(&mut sender, &first).await;
        }
        mesh.machine("agni").node.as_mut().unwrap().kill();
        let mut taken = 0;
        let last = loop {
            let word =
                said(&mut sender, command("worker", &format!("m-{taken}"), "accepted", json!({}))).await;
            if word != "accepted" {
                break word;
            }
            taken += 1;
            assert!(taken <= MAILBOX, "more than {MAILBOX} are taken");
        };
        // The first one may still be there.
        assert!((MAILBOX - 1..=MAILBOX).contains(&taken), "{taken} were taken");
        assert_eq!(last, "mailbox_full");
        accepted(&mut sender, &command("other", "o-1", "accepted", json!({}))).await;

        mesh.machine("agni").start_node();
        mesh.wait_whole();
        let mut worker = Door::of(mesh.machine("agni"), "worker").must_open(manual()).await;
        for n in 0..taken {
            let message = worker.message().await;
            assert_eq!(message["id"], format!("m-{n}"));
            worker.ack(&message).await.unwrap();
        }
    });
}
