//! Messages that the disk of one node has changed.

use std::fs;

use serde_json::{Value, json};

use super::{accepted, goes_away, manual, open_when_it_can, run, told};
use crate::harness::{Machine, Mesh, until};
use crate::wss::Door;

/// A message with a word by which it is found in the file.
fn marked(id: &str, more: Value) -> Value {
    super::command("worker", id, "acked", {
        let mut more = more;
        more["payload"] = json!({"word": format!("mark-{id}")});
        more
    })
}

/// Changes the word of each message in the file of a store that is closed.
fn damage(machine: &Machine) {
    let path = machine.folder.join("data/node.sqlite");
    // What its log has goes into the file.
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(connection);
    let mut bytes = fs::read(&path).unwrap();
    let found: Vec<usize> = (0..bytes.len() - 5).filter(|at| bytes[*at..].starts_with(b"mark-")).collect();
    assert!(found.len() >= 4, "{found:?}");
    found.iter().for_each(|at| bytes[*at] = b'M');
    fs::write(&path, bytes).unwrap();
}

// covers B26, Q04, T09
#[test]
fn a_damaged_message_of_two_copies_comes_back_from_the_other_machine_and_the_rest_is_reported() {
    let mut mesh = Mesh::start(&["dc", "agni"]);
    run(async {
        goes_away(Door::of(mesh.machine("agni"), "worker").must_open(manual()).await).await;
        let mut near = Door::of(mesh.machine("agni"), "near").must_open(json!({})).await;
        let mut far = Door::of(mesh.machine("dc"), "far").must_open(json!({})).await;
        for (id, copies) in [("f-2", 2), ("f-1", 1)] {
            accepted(&mut far, &marked(id, json!({"copies": copies}))).await;
            told(&mut far, id, "stored").await;
        }
        for (id, copies) in [("n-2", 2), ("n-1", 1)] {
            accepted(&mut near, &marked(id, json!({"copies": copies}))).await;
        }
        let agni = mesh.machine("agni");
        assert_eq!(agni.node.as_mut().unwrap().stop(), Some(0));
        damage(agni);
        agni.start_node();

        // Its sender is told of the one that its node had handed over, and that is nowhere any more.
        let answer = told(&mut far, "f-1", "dead").await;
        assert!(answer["payload"]["reason"].as_str().unwrap().contains("agni"), "{answer}");
        let mut worker = open_when_it_can(&Door::of(mesh.machine("agni"), "worker")).await;
        let mut got = Vec::new();
        for _ in 0..2 {
            let message = worker.message().await;
            let id = message["id"].as_str().unwrap().to_owned();
            assert_eq!(message["payload"]["word"], format!("mark-{id}"), "as it was sent");
            assert_eq!(message["redelivered"], true, "the damaged row might have said that it was got");
            worker.ack(&message).await.unwrap();
            got.push(id);
        }
        got.sort();
        assert_eq!(got, ["f-2", "n-2"]);
        told(&mut far, "f-2", "acked").await;
    });
    let agni = mesh.machine("agni");
    let store = agni.status().unwrap()["durable"]["store"].clone();
    assert_eq!((&store["quarantined"], &store["quarantined_alone"]), (&json!(4), &json!(2)));
    let said = |command: &[&str]| String::from_utf8_lossy(&agni.run(command).stdout).into_owned();
    let shown = said(&["status"]);
    assert!(shown.contains("4 damaged messages were put aside; of 2 no other node"), "{shown}");
    let shown = said(&["store", "status"]);
    let line = |id: &str| shown.lines().find(|line| line.contains(id)).unwrap_or_default().to_owned();
    for id in ["f-2", "n-2"] {
        assert!(line(id).contains("node dc holds a copy"), "{shown}");
    }
    for id in ["f-1", "n-1"] {
        assert!(line(id).contains("no other node holds a copy"), "{shown}");
    }
    assert!(agni.node_log().contains("a message is damaged on disk"), "{}", agni.node_log());
    until("dc is done with them", || {
        let status = mesh.machines[0].status();
        status.is_some_and(|status| status["durable"]["copies"] == 0 && status["durable"]["handed"] == 0)
    });
}
