//! What the programs write into their logs, and where.

use std::fs;
use std::time::Instant;

use serde_json::{Value, json};
use trishula::gateway::session::LOGGED_END;

use crate::harness::{Machine, Mesh, until};
use crate::wss::{Door, Wss};

// covers B29
#[test]
fn a_node_logs_into_its_file_and_renames_one_that_is_full() {
    let mut mesh = Mesh::init(&["dc"]);
    let machine = mesh.machine("dc");
    // Counts from the folder of the configuration.
    let log = machine.folder.join("logs/node.log");
    fs::create_dir(log.parent().unwrap()).unwrap();
    fs::write(&log, vec![b'\n'; 1 << 20]).unwrap();
    let file = ("TRISHULA_LOG_FILE", "logs/node.log");
    machine.start_node_in(&[file, ("TRISHULA_LOG_MAX_MIB", "1"), ("TRISHULA_LOG_KEEP", "1")]);
    until("the node answers", || machine.status().is_some());
    assert_eq!(machine.node.as_mut().unwrap().stop(), Some(0));
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains("stopping"), "written before the process has ended: {said}");
    assert_eq!(fs::metadata(log.with_extension("log.1")).unwrap().len(), 1 << 20);
    assert_eq!(machine.node_log(), "", "nothing on standard error");
}

/// What the edge says of the end of an agent's sessions, in JSON.
fn ended(machine: &Machine, agent: &str) -> Vec<Value> {
    let log = fs::read_to_string(machine.folder.join("edge.log")).unwrap();
    // The last line may be under way.
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter(|line| line["message"] == LOGGED_END && line["agent"] == format!("trishula/{agent}"))
        .collect()
}

/// The same, when there are so many: the last one.
fn told(machine: &Machine, agent: &str, so_many: usize) -> Value {
    until("the end of the session is in the log", || ended(machine, agent).len() == so_many);
    ended(machine, agent).remove(so_many - 1)
}

/// A live COMMAND, which is not kept for a later session.
async fn deliver(from: &mut Wss, to: &mut Wss, id: &str) {
    let frame = json!({"type": "COMMAND", "to": "worker", "id": id, "class": "live", "receipt": "delivered"});
    from.say(frame).await.unwrap();
    assert_eq!(to.message().await["id"], id);
    assert_eq!(from.answer(id).await["payload"]["state"], "delivered");
}

// covers T05
#[test]
fn the_end_of_a_session_is_logged_with_its_length_its_counts_and_the_reason() {
    let mut mesh = Mesh::init(&["dc"]);
    let machine = mesh.machine("dc");
    let file = machine.folder.join("edge.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("format = \"text\"", "format = \"json\"")).unwrap();
    machine.start_node();
    machine.start_edge();
    mesh.wait_whole();
    let machine = &mesh.machines[0];
    let clients = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let began = Instant::now();
    let (mut asker, mut worker) = clients.block_on(async {
        let asker = Door::of(machine, "asker").must_open(json!({})).await;
        (asker, Door::of(machine, "worker").must_open(json!({})).await)
    });

    // One that its client closes.
    let opened = Instant::now();
    clients.block_on(async {
        deliver(&mut asker, &mut worker, "c-1").await;
        deliver(&mut asker, &mut worker, "c-2").await;
        worker
            .say(json!({"type": "RESULT", "to": "asker", "id": "r-1", "class": "live", "reply_to": "c-1"}))
            .await
            .unwrap();
        assert_eq!(asker.message().await["id"], "r-1");
    });
    let (at_least, none) = (opened.elapsed().as_millis() as u64, ended(machine, "asker"));
    assert!(none.is_empty(), "{none:?}");
    clients.block_on(asker.close());
    let line = told(machine, "asker", 1);
    let lasted = line["duration_ms"].as_u64().unwrap();
    assert!((at_least..=began.elapsed().as_millis() as u64).contains(&lasted), "{at_least} ms: {line}");
    // REGISTER and two messages; what the mesh itself says is none.
    assert_eq!((&line["received"], &line["sent"]), (&json!(3), &json!(1)), "{line}");
    assert_eq!((&line["code"], &line["gateway"]), (&json!("1000"), &json!("wss")), "{line}");
    assert_eq!((&line["level"], &line["namespace"]), (&json!("INFO"), &json!("trishula")), "{line}");
    assert!(line["session"].as_str().unwrap().starts_with("s-") && line["reason"].is_string(), "{line}");

    // One that the edge ends.
    let newer = clients.block_on(Door::of(machine, "worker").must_open(json!({})));
    let line = told(machine, "worker", 1);
    assert_eq!((&line["received"], &line["sent"]), (&json!(2), &json!(2)), "{line}");
    assert_eq!(line["code"], "4409", "{line}");
    assert!(line["reason"].as_str().unwrap().contains("newer session"), "{line}");

    // One whose client is gone without a word.
    drop(newer);
    let line = told(machine, "worker", 2);
    assert_eq!(
        (&line["received"], &line["sent"], &line["code"]),
        (&json!(1), &json!(0), &json!("lost")),
        "{line}"
    );
    assert_ne!(line["reason"], "", "{line}");
}
