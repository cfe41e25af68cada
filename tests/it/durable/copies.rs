//! Clients that want two copies of all that they send, and say so once.

use serde_json::{Value, json};
use trishula::client::{Client, Options, Outgoing};
use trishula::wire::envelope::State;

use super::{accepted, command, goes_away, manual, run, told};
use crate::harness::{Machine, Mesh, PATIENCE, until};
use crate::wss::{Door, issue, native};

/// Where a message lies, as this machine sees it: its recipient's home, and where second copies are.
fn lies(machine: &Machine, id: &str) -> (Value, Value) {
    let output = machine.run(&["show", id, "--json"]);
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let row = &shown["messages"][0]["recipients"][0];
    (row["node"].clone(), row["copies"].clone())
}

// covers T04, T09
#[test]
fn a_client_that_registers_with_copies_has_each_durable_message_on_two_machines() {
    let mut mesh = Mesh::start(&["dc", "agni"]);
    run(async {
        goes_away(Door::of(mesh.machine("agni"), "worker").must_open(manual()).await).await;
        goes_away(Door::of(mesh.machine("dc"), "neighbour").must_open(manual()).await).await;
        let dc = mesh.machine("dc");
        let mut sender = Door::of(dc, "sender").must_open(json!({"copies": 2})).await;
        accepted(&mut sender, &command("worker", "far", "stored", json!({}))).await;
        told(&mut sender, "far", "stored").await;
        accepted(&mut sender, &command("neighbour", "near", "accepted", json!({}))).await;
        accepted(&mut sender, &command("worker", "own-word", "stored", json!({"copies": 1}))).await;
        told(&mut sender, "own-word", "stored").await;
        // Accepted means: on both.
        assert_eq!(lies(dc, "near"), (json!("dc"), json!(["agni"])));
        until("dc has kept its own copy", || lies(dc, "far") == (json!("agni"), json!(["dc"])));
        assert_eq!(lies(dc, "own-word"), (json!("agni"), json!([])));

        // What can't have a second copy is not refused for it, and another REGISTER is another word.
        let mut here = Door::of(dc, "here").must_open(json!({})).await;
        let live =
            json!({"type": "STATUS", "to": "here", "id": "live", "class": "live", "receipt": "delivered"});
        sender.say(live).await.unwrap();
        told(&mut sender, "live", "delivered").await;
        assert_eq!(here.message().await["id"], "live");
        sender.say(json!({"type": "REGISTER", "id": "again", "payload": {}})).await.unwrap();
        let registered = sender.until("it is registered", |frame| frame["reply_to"] == "again").await;
        assert_eq!(registered["payload"]["copies"], 1, "{registered}");
        sender.say(json!({"type": "REGISTER", "id": "short", "copies": 2})).await.unwrap();
        let registered = sender.until("it is registered", |frame| frame["reply_to"] == "short").await;
        assert_eq!(registered["payload"]["copies"], 2, "{registered}");

        let identity = issue(dc, "robot");
        let how = native(&identity, &[mesh.base]);
        let options = Options { copies: Some(2), ..Options::default() };
        let robot = Client::connect(how, options).await.unwrap();
        let message = Outgoing { id: "by-quic".into(), ..Outgoing::command("worker", json!({})) };
        robot.send_and_wait(message, State::Stored, PATIENCE).await.unwrap();
        let dc = mesh.machine("dc");
        until("both have it", || lies(dc, "by-quic") == (json!("agni"), json!(["dc"])));
    });
}
