//! Clients over real TLS sockets, with a mesh in miniature behind the edge.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use futures_util::StreamExt;
use serde_json::json;
use support::{World, soon, token, token_with};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

#[tokio::test]
async fn a_command_gets_its_result_between_two_plain_clients() {
    // covers T03, T04, T05
    let world = World::start().await;
    let mut agni = world.registered("agni").await;
    let mut dc = world.client("dc").await;
    let sent = r#"{"type":"COMMAND","to":"agni","id":"c-1","timestamp":1767225600000, "payload":{"run":"uptime"},"x-own":[1]}"#;
    dc.send(Message::text(sent)).await;
    // What arrives is what was sent, byte for byte, with the missing field in front.
    assert_eq!(agni.hear_text().await, format!("{{\"from\":\"dc\",{}", &sent[1..]));
    agni.say(json!({"type": "RESULT", "to": "dc", "id": "r-1", "reply_to": "c-1", "payload": 0})).await;
    let result = dc.hear().await;
    assert_eq!((&result["type"], &result["reply_to"]), (&json!("RESULT"), &json!("c-1")));
    assert_eq!(result["from"], "agni");
    assert!(result["timestamp"].is_u64());
}

#[tokio::test]
async fn a_client_that_only_reads_has_acknowledged_what_it_read() {
    // covers T07
    let world = World::start().await;
    let mut agni = world.registered("agni").await;
    let mut dc = world.client("dc").await;
    dc.say(json!({"type": "COMMAND", "to": "agni", "id": "c-1", "receipt": "acked"})).await;
    assert!(agni.hear_text().await.starts_with(r#"{"redelivered":true,"from":"dc","#));
    // Its library answers the ping that follows while it waits for the next message.
    let receipt = tokio::select! {
        receipt = dc.hear() => receipt,
        more = agni.hear() => panic!("{more}"),
    };
    assert_eq!((&receipt["type"], &receipt["reply_to"]), (&json!("RECEIPT"), &json!("c-1")));
    assert_eq!(receipt["payload"]["state"], "acked");
}

#[tokio::test]
async fn the_three_ways_to_log_in() {
    // covers T05
    let world = World::start().await;
    let token = token("dc");
    let (mut by_query, _) = world.upgrade(&format!("/?x=1&token={token}"), &[]).await.unwrap();
    let (mut by_frame, _) = world.upgrade("/", &[]).await.unwrap();
    by_frame.say(json!({"type": "auth", "token": token})).await;
    let answer = by_frame.hear().await;
    assert_eq!(answer["type"], "AUTHENTICATED");
    assert_eq!((&answer["payload"]["agent"], &answer["to"]), (&json!("dc"), &json!("dc")));
    // Nothing is said at connect: the first frame is the answer to what was asked.
    by_query.say(json!({"type": "HEARTBEAT", "id": "h-1"})).await;
    let answer = by_query.hear().await;
    assert_eq!((&answer["type"], &answer["reply_to"]), (&json!("HEARTBEAT"), &json!("h-1")));
    assert_eq!(answer["payload"]["interval_ms"], 30_000);
}

#[tokio::test]
async fn a_wrong_token_is_refused_in_the_upgrade_and_in_auth() {
    // covers T05
    let world = World::start().await;
    let expired = token_with("dc", -1, &[]);
    for (token, code) in [("nonsense", "token_invalid"), (&*expired, "token_expired")] {
        let bearer = format!("Bearer {token}");
        for (path, headers) in [
            (format!("/ws?token={token}"), vec![]),
            ("/ws".to_owned(), vec![("authorization", bearer.as_str())]),
        ] {
            let Err(WsError::Http(answer)) = world.upgrade(&path, &headers).await else {
                panic!("not refused")
            };
            assert_eq!(answer.status(), 401);
            assert!(answer.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
            let body = answer.body().clone().unwrap_or_default();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            if !body.is_null() {
                assert_eq!(body["code"], code);
            }
        }
        let (mut client, _) = world.upgrade("/", &[]).await.unwrap();
        client.say(json!({"type": "auth", "token": token, "id": "a-1"})).await;
        let error = client.hear().await;
        assert_eq!((&error["payload"]["code"], &error["reply_to"]), (&json!(code), &json!("a-1")));
        assert_eq!(client.closed().await.0, 4401);
    }
    let (mut client, _) = world.upgrade("/", &[]).await.unwrap();
    client.say(json!({"type": "STATUS", "to": "agni"})).await;
    assert_eq!(client.hear().await["payload"]["code"], "unauthenticated");
    assert_eq!(client.closed().await.0, 4401);
}

#[tokio::test]
async fn registered_receipts_agents_and_unregister() {
    // covers T05, T07
    let world = World::start().await;
    let mut agni = world.registered("agni").await;
    let bearer = format!("Bearer {}", token_with("ops", 60, &["worker-*"]));
    let (mut worker, _) = world.upgrade("/ws", &[("authorization", &bearer)]).await.unwrap();
    worker
        .say(json!({"type": "register", "id": "r-1", "agent": "worker-3", "capabilities": ["build"], "receipts": "delivered"}))
        .await;
    let answer = worker.hear().await;
    assert_eq!(answer["payload"]["agent"], "worker-3");
    assert_eq!(answer["payload"]["node"], "agni");
    let features = answer["payload"]["features"].as_array().unwrap();
    assert!(
        ["receipts:acked", "nack", "query"].iter().all(|served| features.contains(&json!(served))),
        "{answer}"
    );
    worker.say(json!({"type": "STATUS", "to": "agni", "id": "m-1"})).await;
    assert_eq!(agni.hear().await["from"], "worker-3");
    let receipt = worker.hear().await;
    assert_eq!((&receipt["type"], &receipt["reply_to"]), (&json!("RECEIPT"), &json!("m-1")));
    assert_eq!(receipt["payload"], json!({"state": "delivered", "recipient": "agni", "node": "agni"}));
    worker.say(json!({"type": "AGENTS", "id": "g-1"})).await;
    let agents = worker.hear().await;
    assert_eq!(agents["payload"]["agents"][1]["agent"], "worker-3");
    assert_eq!(agents["payload"]["agents"][1]["capabilities"], json!(["build"]));
    worker.say(json!({"type": "UNREGISTER"})).await;
    assert_eq!(worker.hear().await["payload"], json!({"agent": "worker-3"}));
    worker.say(json!({"type": "STATUS", "to": "agni"})).await;
    assert_eq!(worker.hear().await["payload"]["code"], "not_registered");
    worker.say(json!({"type": "REGISTER", "agent": "dc"})).await;
    assert_eq!(worker.hear().await["payload"]["code"], "forbidden");
}

#[tokio::test]
async fn bad_frames_have_each_their_own_error() {
    // covers T04, B19
    let world = World::start().await;
    let mut dc = world.registered("dc").await;
    for (text, code) in [
        ("{\"type\":", "bad_frame"),
        (r#"{"type":"PING"}"#, "unknown_type"),
        (r#"{"type":"STATUS","to":"ag ni"}"#, "bad_name"),
        (r#"{"type":"STATUS","to":"agni","from":"agni"}"#, "from_mismatch"),
        (r#"{"type":"STATUS","to":"nobody"}"#, "unknown_recipient"),
        (r#"{"type":"STATUS","to":"other/agni"}"#, "forbidden"),
        (r#"{"type":"SUBSCRIBE"}"#, "bad_frame"),
    ] {
        dc.send(Message::text(text)).await;
        let error = dc.hear().await;
        assert_eq!(error["payload"]["code"], code, "{text}");
        assert_eq!((&error["type"], &error["from"]), (&json!("ERROR"), &json!("mesh")));
    }
    dc.send(Message::binary(vec![0u8])).await;
    assert_eq!(dc.hear().await["payload"]["code"], "bad_frame");
    for _ in 0..31 {
        dc.send(Message::text("x")).await;
    }
    assert_eq!(dc.closed().await.0, 4400);
}

#[tokio::test]
async fn an_oversized_message_is_closed_with_1009() {
    // covers T04
    let world = World::start_with("max_frame = 2048").await;
    let mut dc = world.registered("dc").await;
    let frame = |size: usize| {
        let around = json!({"type": "STATUS", "to": "dc", "payload": ""}).to_string().len();
        json!({"type": "STATUS", "to": "dc", "payload": "x".repeat(size - around)}).to_string()
    };
    dc.send(Message::text(frame(2048))).await;
    assert_eq!(dc.hear().await["type"], "STATUS");
    dc.send(Message::text(frame(2049))).await;
    assert_eq!(dc.closed().await.0, 1009);
}

#[tokio::test]
async fn a_newer_session_takes_over() {
    // covers T05
    let world = World::start().await;
    let mut old = world.registered("dc").await;
    let mut new = world.registered("dc").await;
    assert_eq!(old.closed().await.0, 4409);
    new.say(json!({"type": "STATUS", "to": "dc", "payload": 1})).await;
    assert_eq!(new.hear().await["payload"], 1);
}

#[tokio::test]
async fn without_a_node_clients_hear_unavailable_and_come_back_by_themselves() {
    // covers T03, T09
    let mut world = World::start_alone("");
    let mut dc = world.client("dc").await;
    dc.say(json!({"type": "STATUS", "to": "dc", "id": "m-1"})).await;
    let error = dc.hear().await;
    assert_eq!((&error["payload"]["code"], &error["reply_to"]), (&json!("unavailable"), &json!("m-1")));
    assert_eq!(error["payload"]["retry"], true);
    world.connect(1).await;
    // The session is registered as soon as there is a node: a message from another one reaches it.
    let mut agni = world.registered("agni").await;
    agni.say(json!({"type": "STATUS", "to": "dc", "payload": 1})).await;
    assert_eq!(dc.hear().await["payload"], 1);
    world.disconnect(1).await;
    world.connect(2).await;
    agni.say(json!({"type": "REGISTER"})).await;
    let mut answer = agni.hear().await;
    while answer["type"] != "REGISTERED" {
        agni.say(json!({"type": "REGISTER"})).await;
        answer = agni.hear().await;
    }
    agni.say(json!({"type": "STATUS", "to": "dc", "payload": 2})).await;
    assert_eq!(dc.hear().await["payload"], 2);
}

#[tokio::test]
async fn requests_without_an_upgrade() {
    // covers T20, B27 10
    let world = World::start().await;
    let _dc = world.registered("dc").await;
    let plain = |method: &str, path: &str| {
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    };
    let (status, _, health) = world.get(&plain("GET", "/health")).await;
    assert_eq!(status, 200);
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["connected_agents"], json!(["dc"]));
    let (passing, disabled) = (json!("passing"), json!("disabled"));
    for (check, result) in
        [("websocket", &passing), ("node", &passing), ("metrics", &passing), ("redis", &disabled)]
    {
        assert_eq!(&health["checks"][check], result, "{check}");
    }
    assert_eq!(health["metrics"]["active_connections"], 1);
    assert!(health["timestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(world.get(&plain("GET", "/nowhere")).await.0, 404);
    let (status, head, body) = world.get(&plain("POST", "/ws")).await;
    assert_eq!((status, &body["code"]), (405, &json!("method_not_allowed")));
    assert!(head.contains("allow: get"));
    let (status, head, _) = world.get(&plain("GET", "/ws")).await;
    assert_eq!(status, 426);
    assert!(head.contains("sec-websocket-version: 13"));
    // Metrics are on a port of their own.
    assert_eq!(world.get(&plain("GET", "/metrics")).await.0, 404);
    let alone = World::start_alone("");
    let (status, _, health) = alone.get(&plain("GET", "/health")).await;
    assert_eq!((status, &health["checks"]["node"]), (503, &json!("failing")));
}

#[tokio::test]
async fn metrics_are_served_on_their_own_port() {
    // covers T22
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::start().await;
    let (mut dc, mut agni) = (world.registered("dc").await, world.registered("agni").await);
    dc.say(json!({"type": "STATUS", "to": "agni", "id": "m-1", "receipt": "delivered"})).await;
    assert_eq!((&agni.hear().await["id"], &dc.hear().await["type"]), (&json!("m-1"), &json!("RECEIPT")));
    let mut socket = tokio::net::TcpStream::connect(world.edge.metrics_address().unwrap()).await.unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    soon(socket.read_to_string(&mut text)).await.unwrap();
    assert!(text.contains("trishula_sessions{gateway=\"wss\"}"), "{text}");
    assert!(text.contains("text/plain; version=0.0.4"));
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{text}"));
        line.trim().parse().unwrap()
    };
    // The other tests of this process count too, but not as connected to this edge.
    assert!(value("trishula_messages_sent_total{target=\"agent\"}") >= 1.0);
    assert!(value("trishula_message_latency_seconds_count{state=\"delivered\"}") >= 1.0);
    assert!(value("trishula_frames_sent_total{kind=\"Submit\"}") >= 1.0);
    assert_eq!(value("trishula_connected_agents "), 2.0);
}

#[tokio::test]
async fn subprotocols() {
    // covers T04
    let world = World::start().await;
    let bearer = format!("Bearer {}", token("dc"));
    let with = |offer: &'static str| {
        vec![("authorization", bearer.clone()), ("sec-websocket-protocol", offer.into())]
    };
    let offer = with("x, trishula.v2+json");
    let offer: Vec<_> = offer.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let (_, response) = world.upgrade("/ws", &offer).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "trishula.v2+json");
}

#[tokio::test]
async fn a_stop_tells_clients_when_to_come_back() {
    // covers T05
    let world = World::start().await;
    let mut dc = world.registered("dc").await;
    let stop = world.edge.stop(std::time::Duration::from_secs(5));
    let ((code, reason), ()) = tokio::join!(dc.closed(), soon(stop));
    assert_eq!(code, 1012);
    let ms: u64 = reason.strip_prefix("retry_after_ms=").unwrap().parse().unwrap();
    assert!((500..=3000).contains(&ms));
}

#[tokio::test]
async fn a_number_that_no_float_holds_reaches_messagepack_as_text() {
    // covers T16
    let world = World::start().await;
    let bearer = format!("Bearer {}", token("packed"));
    let headers = [("authorization", bearer.as_str()), ("sec-websocket-protocol", "trishula.v2+msgpack")];
    let (mut packed, _) = world.upgrade("/ws", &headers).await.unwrap();
    packed.send(Message::binary(&b"\x81\xa4type\xa8REGISTER"[..])).await;
    let mut says = async |word: &[u8]| loop {
        match soon(packed.socket.next()).await {
            Some(Ok(Message::Binary(frame))) if frame.windows(word.len()).any(|part| part == word) => {
                break frame;
            }
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    says(b"REGISTERED").await;
    let mut dc = world.registered("dc").await;
    dc.send(Message::text(r#"{"type":"STATUS","to":"packed","payload":[1e400,-1e400,1e300]}"#)).await;
    let frame = says(b"\xa7payload").await;
    let payload = b"\xa7payload\x93\xa51e400\xa6-1e400\xcb\x7e\x37\xe4\x3c\x88\x00\x75\x9c";
    assert!(frame.windows(payload.len()).any(|part| part == payload), "{frame:?}");
}
