//! Clients of the envelope at a real edge, frame by frame: what the package's own client does not say, and what it does not show.

use serde_json::{Value, json};

use crate::production::{Old, Site, Stage, run};

const SERVICE: &str = "mahavishnu";
const ROOM: &str = "pool:p1";

/// An edge whose clients may be as fast as they like.
fn serving() -> (Stage, Site) {
    let stage = Stage::start(&["agni"], &[SERVICE], "message_rate_limit = 0\n");
    let site = stage.site("agni", SERVICE);
    (stage, site)
}

fn event(data: Value) -> Value {
    json!({"type": "PUBLISH", "to": format!("room:{ROOM}"), "payload": {"event": "pool.scaled", "data": data}})
}

/// Publishes this number, and waits until the mesh has it.
async fn publish(service: &mut Old, n: u64) {
    let mut frame = event(json!({"n": n}));
    frame["id"] = json!(format!("e-{n}"));
    frame["receipt"] = json!("accepted");
    service.say(frame).await;
    assert_eq!(service.next("RECEIPT").await["payload"]["state"], "accepted");
}

/// The next frame is an event of the room with this.
async fn hears(client: &mut Old, data: &Value) {
    let heard = client.hear().await;
    assert_eq!((&heard["type"], &heard["event"]), (&json!("event"), &json!("pool.scaled")), "{heard}");
    assert_eq!((&heard["room"], &heard["data"]), (&json!(ROOM), data), "{heard}");
}

/// Says it, and has this status if it is answered at all.
async fn says(client: &mut Old, mut frame: Value, status: Option<&str>) {
    frame["id"] = json!("form");
    client.say(frame.clone()).await;
    if let Some(status) = status {
        let answer = client.hear().await;
        assert_eq!(
            (&answer["type"], &answer["correlation_id"]),
            (&json!("response"), &json!("form")),
            "{answer}"
        );
        assert_eq!(answer["data"], json!({"status": status, "channel": ROOM}), "{frame}");
    }
    // What is not answered was done before what came behind it.
    client.ask("get_presence", json!({"channel": ROOM})).await;
}

// covers B05, B06, B07
#[test]
fn a_room_is_joined_and_left_in_every_form() {
    let (_stage, site) = serving();
    let forms = |word: &str| {
        let data = json!({"channel": ROOM});
        [
            (json!({"type": word, "channel": ROOM}), true),
            (json!({"type": word, "room": ROOM}), true),
            (json!({"type": word, "data": data}), true),
            (json!({"type": "request", "event": word, "data": data}), true),
            (json!({"type": "event", "event": word, "data": {"room": ROOM}}), false),
        ]
    };
    run(async {
        let mut service = site.ours("service", &[], json!({})).await;
        let mut witness = site.greeted("u2", &["pool:read"]).await;
        witness.must_subscribe(ROOM).await;
        let mut client = site.greeted("u1", &["pool:read"]).await;
        for (n, ((join, answered), (leave, _))) in
            forms("subscribe").into_iter().zip(forms("unsubscribe")).enumerate()
        {
            says(&mut client, join.clone(), answered.then_some("subscribed")).await;
            let inside = json!({"n": n, "inside": true});
            service.say(event(inside.clone())).await;
            hears(&mut client, &inside).await;
            hears(&mut witness, &inside).await;
            says(&mut client, leave, answered.then_some("unsubscribed")).await;
            let outside = json!({"n": n, "inside": false});
            service.say(event(outside.clone())).await;
            hears(&mut witness, &outside).await;
            // It came to who is there, and not to who has left: the next frame is the answer.
            client.is_answered().await;
        }
        // Who may not is told, in this form as in the others.
        client.say(json!({"type": "subscribe", "channel": "workflow:w1", "id": "no"})).await;
        let answer = client.hear().await;
        assert_eq!((&answer["error_code"], &answer["correlation_id"]), (&json!("FORBIDDEN"), &json!("no")));
    });
}

// covers B06, B07
#[test]
fn a_subscription_is_confirmed_before_its_first_event_while_events_come_all_the_time() {
    let (_stage, site) = serving();
    run(async {
        let mut service = site.ours("service", &[], json!({})).await;
        let feeding = async {
            for n in 0u64.. {
                publish(&mut service, n).await;
            }
        };
        let reading = async {
            for turn in 0..20 {
                let mut client = site.greeted(&format!("u{turn}"), &["pool:read"]).await;
                client.say(json!({"type": "subscribe", "channel": ROOM, "id": "s"})).await;
                let first = client.hear().await;
                assert_eq!(
                    (&first["type"], &first["correlation_id"]),
                    (&json!("response"), &json!("s")),
                    "{first}"
                );
                let mut before = None;
                for _ in 0..3 {
                    let heard = client.hear().await;
                    let n = heard["data"]["n"].as_u64().unwrap_or_else(|| panic!("{heard}"));
                    assert!(before.is_none_or(|before| n == before + 1), "{n} behind {before:?}");
                    before = Some(n);
                }
            }
        };
        tokio::select! {
            () = feeding => {}
            () = reading => {}
        }
    });
}

// covers B06, B19
#[test]
fn an_event_that_an_old_client_could_not_take_is_an_error_in_its_place_and_the_next_one_comes() {
    const LIMIT: usize = 1 << 20;
    let (_stage, site) = serving();
    run(async {
        let mut service = site.ours("service", &[], json!({})).await;
        let mut client = site.greeted("u1", &["pool:read"]).await;
        client.must_subscribe(ROOM).await;
        // As large as a frame may be; what is around it in the envelope is longer than what is around it in ours.
        let around = event(json!({"text": ""})).to_string().len();
        for (less, fits) in [(0, false), (1000, true), (0, false)] {
            let data = json!({"text": "x".repeat(LIMIT - around - less)});
            service.say(event(data.clone())).await;
            if fits {
                hears(&mut client, &data).await;
                continue;
            }
            let told = client.hear().await;
            assert_eq!(
                (&told["type"], &told["error_code"]),
                (&json!("error"), &json!("SERVER_ERROR")),
                "{told}"
            );
            let why = told["error_message"].as_str().unwrap();
            assert!(why.starts_with("An event for pool:p1 has 1048"), "{why}");
            client.is_answered().await;
        }
    });
}
