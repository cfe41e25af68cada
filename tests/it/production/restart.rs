//! Class upgrade: 23. What a node has taken it has, whatever is killed.

use serde_json::{Value, json};

use super::{Old, Stage, run};

/// Says it, and waits until the mesh says that it is taken.
async fn taken(client: &mut Old, mut frame: Value, id: &str) {
    frame["id"] = json!(id);
    frame["receipt"] = json!("accepted");
    client.say(frame).await;
    let receipt = client.next("RECEIPT").await;
    assert_eq!(
        (&receipt["payload"]["state"], &receipt["reply_to"]),
        (&json!("accepted"), &json!(id)),
        "{receipt}"
    );
}

fn event(n: u64) -> Value {
    let payload = json!({"event": "pool.scaled", "data": {"n": n}});
    json!({"type": "PUBLISH", "to": "room:pool:p1", "payload": payload})
}

fn command(n: u64) -> Value {
    json!({"type": "COMMAND", "to": "worker", "payload": {"n": n}})
}

/// Waits until the mesh says that a message was acknowledged.
async fn acknowledged(client: &mut Old, id: &str) {
    client.say(json!({"type": "QUERY", "id": "where", "payload": {"message": id}})).await;
    let state = client.next("STATE").await;
    assert_eq!(state["payload"]["state"], "acked", "{state}");
}

// covers B26, T07, B07, B27 23
#[test]
fn what_was_queued_published_and_acknowledged_outlives_a_kill_of_node_and_edge() {
    let mut stage = Stage::start(&["agni"], &["mahavishnu"], "");
    let site = stage.site("agni", "mahavishnu");
    let manual = json!({"ack": "manual"});
    let cursor = run(async {
        let mut service = site.ours("service", &[], json!({})).await;
        let mut worker = site.ours("worker", &[], manual.clone()).await;
        let mut reader = site.ours("reader", &["pool:read"], json!({})).await;
        reader.say(json!({"type": "SUBSCRIBE", "to": "room:pool:p1"})).await;
        reader.next("SUBSCRIBED").await;
        taken(&mut service, event(0), "e-0").await;
        let first = reader.next("STATUS").await;
        // Both go; the one has acknowledged one message, the other has read one event.
        service
            .say(json!({"type": "COMMAND", "to": "worker", "id": "done", "receipt": "acked", "payload": 0}))
            .await;
        let message = worker.next("COMMAND").await;
        worker.say(json!({"type": "ACK", "to": "service", "reply_to": message["id"]})).await;
        while service.next("RECEIPT").await["payload"]["state"] != "acked" {}
        worker.leave().await;
        reader.leave().await;
        for n in 1..4 {
            taken(&mut service, command(n), &format!("c-{n}")).await;
            taken(&mut service, event(n), &format!("e-{n}")).await;
        }
        first["cursor"].clone()
    });

    let machine = stage.machine("agni");
    machine.edge.as_mut().unwrap().kill();
    machine.node.as_mut().unwrap().kill();
    machine.start_node();
    machine.start_edge();
    stage.mesh.wait_whole();

    run(async {
        let mut worker = site.ours("worker", &[], manual).await;
        for n in 1..4 {
            let message = worker.next("COMMAND").await;
            assert_eq!(
                message["id"],
                format!("c-{n}"),
                "what was queued, in order, and not what was done: {message}"
            );
            worker.say(json!({"type": "ACK", "to": "service", "reply_to": message["id"]})).await;
        }
        let mut reader = site.ours("reader", &["pool:read"], json!({})).await;
        reader.say(json!({"type": "SUBSCRIBE", "to": "room:pool:p1", "payload": {"cursor": cursor}})).await;
        let subscribed = reader.next("SUBSCRIBED").await;
        assert_eq!(
            (&subscribed["payload"]["recovered"], &subscribed["payload"]["missed"]),
            (&json!(true), &json!(3))
        );
        for n in 1..4 {
            assert_eq!(reader.next("STATUS").await["id"], format!("e-{n}"));
        }
        // A client of old has no cursor: it asks what there was.
        let mut old = site.greeted("u1", &["pool:read"]).await;
        let recent = old.ask("get_recent", json!({"channel": "pool:p1", "limit": 10})).await;
        let messages = recent["data"]["messages"].as_array().unwrap();
        let numbers: Vec<&Value> = messages.iter().map(|message| &message["data"]["n"]).collect();
        assert_eq!(numbers, [0, 1, 2, 3], "{recent}");
        let mut service = site.ours("service", &[], json!({})).await;
        acknowledged(&mut service, "done").await;
    });
}
