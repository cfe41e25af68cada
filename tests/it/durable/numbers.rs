//! Messages that are sent again when their marks are gone.

use std::fs;
use std::time::Instant;

use serde_json::{Value, json};

use super::{accepted, command, goes_away, manual, run, said, told};
use crate::harness::{Machine, Mesh, PATIENCE, until};
use crate::wss::{Door, Wss};

/// Marks of a sender that the node keeps.
const MARKS: u64 = 10;

/// One that says when it was sent, as a resend does.
fn sent_at(to: &str, n: u64, more: Value) -> Value {
    let mut frame = command(to, &format!("m-{n}"), "acked", more);
    frame["timestamp"] = json!(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64);
    frame
}

// covers Q04, T10
#[test]
fn a_numbered_message_is_recognised_when_its_mark_is_gone_also_after_a_kill() {
    let mut mesh = Mesh::init(&["agni"]);
    let agni = mesh.machine("agni");
    let config = fs::read_to_string(agni.config()).unwrap();
    fs::write(agni.config(), format!("{config}\n[limits]\nmarks_of_sender = {MARKS}\n")).unwrap();
    agni.start_node();
    agni.start_edge();
    mesh.wait_whole();
    let agni = mesh.machine("agni");
    let (first, plain) = run(async {
        let mut worker = Door::of(agni, "worker").must_open(manual()).await;
        let mut counts = Door::of(agni, "counts").must_open(json!({})).await;
        let mut plain = Door::of(agni, "plain").must_open(json!({})).await;
        let mut firsts = Vec::new();
        for (sender, numbered) in [(&mut counts, true), (&mut plain, false)] {
            for n in 1..=MARKS + 2 {
                let number = if numbered { json!({"number": {"epoch": 7, "n": n}}) } else { json!({}) };
                let frame = sent_at("worker", n, number);
                accepted(sender, &frame).await;
                let message = worker.message().await;
                assert_eq!(message["id"], frame["id"]);
                worker.ack(&message).await.unwrap();
                told(sender, frame["id"].as_str().unwrap(), "acked").await;
                if n == 1 {
                    firsts.push(frame);
                }
            }
        }
        assert_eq!(said(&mut counts, firsts[0].clone()).await, "duplicate");
        assert_eq!(said(&mut plain, firsts[1].clone()).await, "too_old");
        let plain = firsts.pop().unwrap();
        (firsts.pop().unwrap(), plain)
    });
    agni.node.as_mut().unwrap().kill();
    agni.start_node();
    until("agni's edge is attached again", || agni.sees_whole(1));
    run(async {
        let mut worker = Door::of(agni, "worker").must_open(manual()).await;
        let mut counts = Door::of(agni, "counts").must_open(json!({})).await;
        assert_eq!(said(&mut counts, first).await, "duplicate");
        let mut sender = Door::of(agni, "plain").must_open(json!({})).await;
        assert_eq!(said(&mut sender, plain).await, "too_old");
        // The next one that is delivered is a new one.
        accepted(&mut counts, &sent_at("worker", 100, json!({"number": {"epoch": 7, "n": 100}}))).await;
        assert_eq!(worker.message().await["id"], "m-100");
        let wrong = json!({"number": {"epoch": 0, "n": 1}});
        assert_eq!(said(&mut counts, sent_at("worker", 101, wrong)).await, "bad_frame");
    });
}

/// Gives all of them again: none is a new one, and the first, whose mark is gone, is known by its number.
async fn repeat(sender: &mut Wss, frames: &[Value]) {
    for (i, frame) in frames.iter().enumerate() {
        let began = Instant::now();
        loop {
            match said(sender, frame.clone()).await.as_str() {
                "duplicate" => break,
                "acked" if i > 0 => break,
                // Marks go a moment after the messages have ended; an edge may still be without its node.
                "acked" | "unavailable" if began.elapsed() < PATIENCE => {}
                other => panic!("{frame} is {other}"),
            }
        }
    }
}

// covers Q04, T09, T10
#[test]
fn numbers_are_known_at_both_nodes_of_a_message_through_a_kill_of_the_home_and_a_move_of_its_recipient() {
    let mut mesh = Mesh::init(&["dc", "agni"]);
    for machine in &mut mesh.machines {
        let config = fs::read_to_string(machine.config()).unwrap();
        fs::write(machine.config(), format!("{config}\n[limits]\nmarks_of_sender = {MARKS}\n")).unwrap();
        machine.start_node();
    }
    mesh.machines.iter_mut().for_each(Machine::start_edge);
    mesh.wait_whole();
    let numbered = |n| sent_at("worker", n, json!({"number": {"epoch": 7, "n": n}}));
    run(async {
        let mut worker = Door::of(mesh.machine("agni"), "worker").must_open(manual()).await;
        let mut counts = Door::of(mesh.machine("dc"), "counts").must_open(json!({})).await;
        let mut frames = Vec::new();
        for n in 1..=MARKS + 2 {
            frames.push(numbered(n));
            accepted(&mut counts, &frames[n as usize - 1]).await;
            let message = worker.message().await;
            worker.ack(&message).await.unwrap();
            told(&mut counts, &format!("m-{n}"), "acked").await;
        }
        repeat(&mut counts, &frames).await;

        let agni = mesh.machine("agni");
        agni.node.as_mut().unwrap().kill();
        agni.start_node();
        mesh.wait_whole();
        goes_away(counts).await;
        goes_away(worker).await;
        let mut worker = Door::of(mesh.machine("agni"), "worker").must_open(manual()).await;
        // Through the node that took them, and through the one that handed them over.
        for node in ["dc", "agni"] {
            let mut counts = Door::of(mesh.machine(node), "counts").must_open(json!({})).await;
            repeat(&mut counts, &frames).await;
        }
        let mut counts = Door::of(mesh.machine("dc"), "counts").must_open(json!({})).await;
        accepted(&mut counts, &numbered(50)).await;
        let message = worker.message().await;
        assert_eq!((&message["id"], message.get("redelivered")), (&json!("m-50"), None));
        worker.ack(&message).await.unwrap();
        told(&mut counts, "m-50", "acked").await;

        goes_away(worker).await;
        let mut worker = Door::of(mesh.machine("dc"), "worker").must_open(manual()).await;
        for node in ["agni", "dc"] {
            let mut counts = Door::of(mesh.machine(node), "counts").must_open(json!({})).await;
            repeat(&mut counts, &frames).await;
        }
        let mut counts = Door::of(mesh.machine("dc"), "counts").must_open(json!({})).await;
        accepted(&mut counts, &numbered(51)).await;
        assert_eq!(worker.message().await["id"], "m-51", "nothing came twice in between");
    });
}
