//! Clients of the envelope and their rooms: while no node is there, and what somebody else writes to them.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::runtime;
use crate::harness::until;
use crate::production::{Old, Site, Stage};

const SERVICE: &str = "mahavishnu";

/// A client with permissions for nothing, of our own protocol.
async fn stranger(site: &Site) -> Old {
    site.ours("mallory", &[], json!({})).await
}

/// The next event that is not the greeting.
async fn event(client: &mut Old) -> Value {
    loop {
        let frame = client.hear().await;
        if frame["type"] == "event" {
            return frame;
        }
    }
}

// covers B06, B23
#[test]
fn who_subscribes_while_no_node_is_there_gets_what_is_published_after_it_has_come() {
    let mut stage = Stage::prepare(&["dc"], &[SERVICE], "");
    stage.machine("dc").start_edge();
    let site = stage.site("dc", SERVICE);
    let port = site.port;
    until("the edge listens", || crate::harness::answers(port));
    let clients = runtime();
    let mut client = clients.block_on(async {
        let mut client = site.greeted("u1", &["pool:read"]).await;
        client.say(json!({"type": "event", "event": "subscribe", "data": {"room": "pool:e"}})).await;
        client
            .say(json!({"type": "request", "event": "subscribe", "data": {"channel": "pool:r"}, "id": "r"}))
            .await;
        // Long enough to be refused more than once.
        sleep(Duration::from_millis(500)).await;
        client
    });
    stage.machine("dc").start_node();
    clients.block_on(async {
        let answer = client.hear().await;
        assert_eq!((&answer["status"], &answer["correlation_id"]), (&json!("subscribed"), &json!("r")));
        // Who asked by the event is told nothing: the room has it when its presence says so.
        loop {
            let answer = client.ask("get_presence", json!({"channel": "pool:e"})).await;
            if answer["data"]["members"][0].is_string() {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        let mut service = site.ours("service", &[], json!({})).await;
        for room in ["pool:e", "pool:r"] {
            let payload = json!({"event": "pool.scaled", "data": {"pool_id": room}});
            service
                .say(json!({"type": "PUBLISH", "to": format!("room:{room}"), "id": room, "payload": payload}))
                .await;
            let heard = event(&mut client).await;
            assert_eq!((&heard["event"], &heard["room"]), (&json!("pool.scaled"), &json!(room)), "{heard}");
        }
    });
}

// covers B05, B19
#[test]
fn nobody_but_its_service_writes_events_to_a_client_past_the_rules_of_its_rooms() {
    let stage = Stage::start(&["dc"], &[SERVICE, "session-buddy"], "");
    let (site, buddies) = (stage.site("dc", SERVICE), stage.site("dc", "session-buddy"));
    runtime().block_on(async {
        let mut victim = site.greeted("u1", &["workflow:read"]).await;
        victim.must_subscribe("workflow:w1").await;
        let mut mallory = stranger(&site).await;
        let members = victim.ask("get_presence", json!({"channel": "workflow:w1"})).await;
        let own = members["data"]["members"][0].clone();
        let forged = json!({"event": "workflow.completed", "data": {"forged": true}, "room": "workflow:w1"});
        for (n, to) in [json!("broadcast"), own.clone()].into_iter().enumerate() {
            for kind in ["STATUS", "COMMAND", "RESULT"] {
                let id = format!("f-{n}-{kind}");
                mallory.say(json!({"type": kind, "to": to, "id": id, "receipt": "accepted", "reply_to": "q-1", "payload": forged})).await;
                let answer = mallory.hear().await;
                assert_eq!((&answer["type"], &answer["reply_to"]), (&json!("RECEIPT"), &json!(id)), "{answer}");
            }
        }
        let publish = json!({"type": "PUBLISH", "to": "room:workflow:w1", "id": "p", "payload": forged});
        mallory.say(publish).await;
        let refused = mallory.hear().await;
        assert_eq!((&refused["type"], &refused["payload"]["code"]), (&json!("ERROR"), &json!("forbidden")));
        // The service may, in the room and beside it; and nothing of all the others came before it.
        let mut service = site.ours("service", &[], json!({})).await;
        let payload = |n: u64| json!({"event": "workflow.completed", "data": {"n": n}});
        service.say(json!({"type": "STATUS", "to": own, "id": "s-1", "payload": payload(1)})).await;
        let first = event(&mut victim).await;
        assert_eq!((&first["data"]["n"], &first["room"]), (&json!(1), &Value::Null), "{first}");
        service.say(json!({"type": "PUBLISH", "to": "room:workflow:w1", "id": "s-2", "payload": payload(2)})).await;
        assert_eq!(event(&mut victim).await["data"]["n"], 2);

        let mut buddy = buddies.connect().await;
        let token = crate::production::token("session-buddy", "bob", &[], 600);
        buddy.say(json!({"token": token})).await;
        assert_eq!(buddy.hear().await["type"], "connected");
        let mut mallory = stranger(&buddies).await;
        let forged = json!({"event": "metrics_update", "data": {"top_skills": [], "anomalies": []}});
        let id = json!({"type": "STATUS", "to": "broadcast", "id": "b", "receipt": "accepted", "payload": forged});
        mallory.say(id).await;
        assert_eq!(mallory.hear().await["type"], "RECEIPT");
        buddy.say(json!({"type": "ping"})).await;
        assert_eq!(buddy.hear().await["type"], "pong");
    });
    let machine = &stage.mesh.machines[0];
    let dropped = "trishula_dialect_notes_total{what=\"not_of_service\"} 6";
    until("all that was forged is dropped and counted", || machine.edge_metrics().contains(dropped));
}
