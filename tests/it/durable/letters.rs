//! Dead letters whose senders are away.

use serde_json::{Value, json};

use super::{accepted, command, goes_away, manual, run, told};
use crate::harness::{Machine, Mesh, until};
use crate::wss::Door;

fn letters(machine: &Machine) -> Vec<Value> {
    let output = machine.run(&["dlq", "list", "--json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

// covers Q04, T23
#[test]
fn a_dead_letter_is_dropped_while_its_sender_is_away_which_is_told_when_it_comes_back() {
    let mut mesh = Mesh::start(&["agni"]);
    run(async {
        let agni = mesh.machine("agni");
        goes_away(Door::of(agni, "worker").must_open(manual()).await).await;
        let mut sender = Door::of(agni, "sender").must_open(json!({})).await;
        accepted(&mut sender, &command("worker", "d-1", "acked", json!({}))).await;
        goes_away(sender).await;
        let mut worker = Door::of(agni, "worker").must_open(manual()).await;
        worker.say(json!({"type": "UNREGISTER", "id": "u"})).await.unwrap();
        worker.until("it is unregistered", |frame| frame["type"] == "UNREGISTERED").await;
        until("its message is dead", || letters(agni).len() == 1);

        let dropped = agni.run(&["dlq", "drop", "d-1"]);
        let said = String::from_utf8_lossy(&dropped.stdout).into_owned();
        assert!(dropped.status.success() && said.contains("dropped"), "{said}");
        assert_eq!(letters(agni), Vec::<Value>::new());
        let status = agni.status().unwrap();
        assert_eq!(
            (&status["durable"]["dead_letters"], &status["durable"]["untold"]),
            (&json!(0), &json!(1))
        );

        agni.node.as_mut().unwrap().kill();
        agni.start_node();
        // A session that its client leaves before it hears of it would be told in its place.
        until("agni's edge is attached again", || agni.sees_whole(1));
        let mut sender = Door::of(agni, "sender").must_open(json!({})).await;
        let answer = told(&mut sender, "d-1", "dead").await;
        assert_eq!(answer["payload"]["reason"], "trishula/worker was unregistered", "{answer}");
        assert_eq!(letters(agni), Vec::<Value>::new());
    });
}
