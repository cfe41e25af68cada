//! Class cross-service: 13 and 14. Two machines, and a client at each.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Old, SOON, Site, Stage, run, token, within};

/// What one service may ask of another.
const RULE: &str = "\n[[rule]]\nfrom = \"akosha\"\nto = \"crackerjack\"\npermissions = [\"service:communicate\"]\n\
                    grants = [\"service:communicate\", \"crackerjack:read\"]\n";

/// Asks until the service at the other machine is known here: that there is one takes its time to get about.
async fn asked_at_last(site: &Site, token: &str, message: &Value) -> Value {
    let began = Instant::now();
    let mut client = site.connect().await;
    client.log_in(token).await;
    loop {
        let answer = client.ask("service_message", message.clone()).await;
        if answer["type"] == "response" {
            return answer;
        }
        assert_eq!(answer["error_code"], "SERVER_ERROR", "{answer}");
        assert!(began.elapsed() < SOON, "{answer}");
    }
}

/// The service itself: it answers who asked, and what.
async fn answers(mut service: Old) {
    loop {
        let asked = service.next("COMMAND").await;
        let data = json!({"asked_by": asked["from"], "asked": asked["payload"]});
        let (to, id, payload) = (&asked["from"], &asked["id"], json!({"data": data}));
        service.say(json!({"type": "RESULT", "to": to, "reply_to": id, "payload": payload})).await;
    }
}

// covers B15, B27 13
#[test]
fn a_service_asks_another_through_the_edges_of_two_machines() {
    let stage = Stage::start(&["dc", "agni"], &["akosha", "crackerjack"], RULE);
    let (here, there) = (stage.site("dc", "crackerjack"), stage.site("agni", "crackerjack"));
    run(async {
        let service = there.ours("service", &[], json!({})).await;
        tokio::spawn(answers(service));
        // akosha's own secret, and permissions of which nobody here has heard.
        let akosha = token("akosha", "indexer", &["service:communicate", "x:unheard-of"], 600);
        let message = json!({"from": "akosha", "data": {"pattern": "p1"}});
        let began = Instant::now();
        let answer = asked_at_last(&here, &akosha, &message).await;
        eprintln!("B27 13: logged in, asked and answered through two edges after {:?}", began.elapsed());
        let asked = json!({"event": "service_message", "data": message});
        assert_eq!(answer["data"]["asked"], asked, "as it was written: {answer}");
        assert!(answer["data"]["asked_by"].as_str().unwrap().starts_with("akosha.indexer."), "{answer}");

        // Without the permission it has no business here.
        let mut client = here.connect().await;
        let answer =
            client.ask("auth", json!({"token": token("akosha", "indexer", &["x:unheard-of"], 600)})).await;
        assert_eq!(answer["error_code"], "AUTH_FAILED", "{answer}");
    });
}

// covers B07, B27 14
#[test]
fn an_event_of_one_machine_reaches_an_authenticated_subscriber_at_another_and_no_other_client() {
    let stage = Stage::start(&["dc", "agni"], &["crackerjack"], "");
    let (here, there) = (stage.site("dc", "crackerjack"), stage.site("agni", "crackerjack"));
    run(async {
        let mut reader = here.greeted("u1", &["crackerjack:read"]).await;
        let mut stranger = here.greeted("u2", &["read"]).await;
        reader.must_subscribe("test:channel").await;
        assert_eq!(stranger.subscribe("test:channel").await["error_code"], "FORBIDDEN");
        let mut service = there.ours("service", &[], json!({})).await;
        let began = Instant::now();
        let payload = json!({"event": "test.event", "data": {"message": "hello"}});
        service.say(json!({"type": "PUBLISH", "to": "room:test:channel", "payload": payload})).await;
        let event = reader.hear().await;
        let what = "B27 14: published at one machine, at the other's subscriber after";
        within(what, began.elapsed(), Duration::from_secs(1));
        assert_eq!((&event["type"], &event["event"]), (&json!("event"), &json!("test.event")), "{event}");
        assert_eq!((&event["room"], &event["data"]), (&json!("test:channel"), &json!({"message": "hello"})));
        // The next frame that the other client gets is the answer to its own.
        stranger.is_answered().await;
    });
}
