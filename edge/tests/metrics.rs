//! What `/metrics` shows after traffic. One test in a process of its own: the numbers are its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;
use support::{World, soon, token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

/// Name with its labels in the order of their names (`le` last), and value.
async fn scraped(world: &World) -> BTreeMap<String, f64> {
    let mut socket = tokio::net::TcpStream::connect(world.edge.metrics_address().unwrap()).await.unwrap();
    // As `verify_deployment.py` asks.
    socket
        .write_all(
            b"GET /metrics HTTP/1.1\r\nHost: localhost:9090\r\nUser-Agent: Python-urllib/3.13\r\nConnection: close\r\n\r\n",
        )
        .await
        .unwrap();
    let mut text = String::new();
    soon(socket.read_to_string(&mut text)).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(k, v)| Some((k.to_owned(), v.parse().ok()?)))
        .collect()
}

/// The series of the one service.
fn of(name: &str, more: &[(&str, &str)]) -> String {
    let mut labels = vec![("server", "trishula"), ("service", "trishula")];
    labels.extend(more);
    labels.sort_unstable_by_key(|(name, _)| (*name == "le", *name));
    let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
    format!("{name}{{{}}}", labels.join(","))
}

#[tokio::test]
async fn clients_and_their_frames_are_counted_from_the_first_connection() {
    // covers B21, B22, T22, B27 12
    let world = World::start_with("echo = true").await;
    let before = scraped(&world).await;
    for (name, more) in [
        ("websocket_connections_total", vec![("tls_mode", "wss")]),
        ("websocket_connections_active", vec![]),
        ("websocket_connections_current", vec![]),
        ("websocket_connections", vec![]),
        ("websocket_message_duration_seconds_count", vec![]),
        ("websocket_messages_total", vec![("direction", "received"), ("message_type", "other")]),
        ("websocket_messages_sent_total", vec![("message_type", "other")]),
        ("websocket_messages_received_total", vec![("message_type", "other")]),
        ("websocket_latency_seconds_count", vec![("message_type", "other")]),
        ("room_subscriptions", vec![]),
        ("websocket_broadcast_queue_size", vec![]),
        ("websocket_room_join_duration_seconds_count", vec![]),
        ("websocket_room_leave_duration_seconds_count", vec![]),
    ] {
        assert_eq!(
            before.get(&of(name, &more)),
            Some(&0.0),
            "{name} before the first connection: {before:#?}"
        );
    }
    assert_eq!(before[&of("websocket_health", &[])], 1.0);

    let mut clients = Vec::new();
    for n in 0..10 {
        clients.push(world.registered(&format!("agent-{n}")).await);
    }
    clients[0].say(json!({"type": "STATUS", "to": "agent-1", "id": "m-1"})).await;
    assert_eq!(clients[1].hear().await["id"], "m-1");
    clients[0].say(json!({"type": "STATUS", "to": "broadcast", "id": "m-2"})).await;
    assert_eq!(clients[1].hear().await["id"], "m-2");
    // Read to its end, so that it is counted as done with: a heartbeat is answered.
    clients[0].send(Message::text("{")).await;
    assert_eq!(clients[0].hear().await["payload"]["code"], "bad_frame");
    clients[0].say(json!({"type": "HEARTBEAT"})).await;
    assert_eq!(clients[0].hear().await["type"], "HEARTBEAT");
    let wrong = format!("/ws?token={}x", token("dc"));
    assert!(world.upgrade(&wrong, &[]).await.is_err());

    let now = scraped(&world).await;
    let value = |name: &str, more: &[(&str, &str)]| {
        *now.get(&of(name, more)).unwrap_or_else(|| panic!("{} is missing in {now:#?}", of(name, more)))
    };
    assert_eq!(value("websocket_connections_total", &[("tls_mode", "wss")]), 10.0);
    for name in ["websocket_connections_active", "websocket_connections_current", "websocket_connections"] {
        assert_eq!(value(name, &[]), 10.0, "{name}");
    }
    let of_type = |name: &str, kind: &str, way: &str| {
        let all = value("websocket_messages_total", &[("message_type", kind), ("direction", way)]);
        assert_eq!(all, value(name, &[("message_type", kind)]), "{name} of {kind}");
        all
    };
    assert_eq!(of_type("websocket_messages_received_total", "REGISTER", "received"), 10.0);
    assert_eq!(of_type("websocket_messages_sent_total", "REGISTERED", "sent"), 10.0);
    assert_eq!(of_type("websocket_messages_received_total", "STATUS", "received"), 2.0);
    // One to its recipient, and the broadcast to the nine others.
    assert!(of_type("websocket_messages_sent_total", "STATUS", "sent") >= 2.0);
    assert_eq!(of_type("websocket_messages_received_total", "other", "received"), 1.0);
    assert!(value("websocket_latency_seconds_count", &[("message_type", "STATUS")]) >= 2.0);
    assert!(value("websocket_latency_seconds_bucket", &[("message_type", "STATUS"), ("le", "10")]) >= 2.0);
    assert!(value("websocket_message_duration_seconds_bucket", &[("le", "0.001")]) >= 0.0);
    assert_eq!(value("websocket_broadcast_total", &[("channel", "broadcast")]), 1.0);
    assert_eq!(value("websocket_broadcast_deliveries_total", &[("channel", "broadcast")]), 9.0);
    assert_eq!(value("websocket_broadcast_duration_seconds_count", &[("channel", "broadcast")]), 1.0);
    assert_eq!(value("websocket_message_errors_total", &[("error_type", "decode_error")]), 1.0);
    assert_eq!(value("websocket_errors_total", &[("error_type", "decode_error")]), 1.0);
    assert_eq!(value("websocket_connection_errors_total", &[("error_type", "auth_failed")]), 1.0);
    assert_eq!(value("websocket_errors_total", &[("error_type", "connection_error")]), 1.0);
    assert!(value("websocket_message_size_bytes_count", &[("direction", "received")]) >= 13.0);
    assert!(now["trishula_messages_sent_total{target=\"agent\"}"] >= 1.0);
    for state in ["accepted", "stored", "delivered", "acked"] {
        let series = format!("trishula_message_latency_seconds_count{{state=\"{state}\"}}");
        assert_eq!(now.get(&series), Some(&0.0), "nobody has asked for a receipt");
    }
    assert_eq!(now["trishula_connected_agents"], 10.0);

    // Rooms: one of two is left again.
    for (word, room) in [("SUBSCRIBE", "deploys"), ("SUBSCRIBE", "builds"), ("UNSUBSCRIBE", "builds")] {
        clients[0].say(json!({"type": word, "to": format!("room:{room}")})).await;
        assert_eq!(clients[0].hear().await["type"], format!("{word}D"));
    }
    // The echo counts like any other.
    let bearer = format!("Bearer {}", token("dc"));
    let mut echo = world.upgrade("/echo", &[("authorization", &bearer)]).await.unwrap().0;
    for kind in ["COMMAND", "no such type"] {
        echo.say(json!({"type": kind})).await;
        assert_eq!(echo.hear().await["type"], kind);
    }
    let then = scraped(&world).await;
    let more = |name: &str, labels: &[(&str, &str)]| {
        let name = of(name, labels);
        then.get(&name).unwrap_or_else(|| panic!("{name} is missing in {then:#?}"))
            - now.get(&name).unwrap_or(&0.0)
    };
    assert_eq!(more("room_subscriptions", &[]), 1.0);
    assert_eq!(more("websocket_room_join_duration_seconds_count", &[]), 2.0);
    assert_eq!(more("websocket_room_leave_duration_seconds_count", &[]), 1.0);
    assert_eq!(then[&of("websocket_broadcast_queue_size", &[])], 0.0, "all was taken");
    assert_eq!(more("websocket_connections_total", &[("tls_mode", "wss")]), 1.0);
    for kind in ["COMMAND", "other"] {
        for way in ["received", "sent"] {
            let labels = [("message_type", kind), ("direction", way)];
            assert_eq!(more("websocket_messages_total", &labels), 1.0, "{kind} {way}");
            assert_eq!(more(&format!("websocket_messages_{way}_total"), &labels[..1]), 1.0, "{kind} {way}");
        }
        assert_eq!(more("websocket_latency_seconds_count", &[("message_type", kind)]), 1.0, "{kind}");
    }
    clients.push(echo);

    // All gone: 0 within a tenth of a second, by the edge's own clocks.
    for client in &mut clients {
        soon(client.socket.close(None)).await.unwrap();
        while soon(futures_util::StreamExt::next(&mut client.socket)).await.is_some_and(|heard| heard.is_ok())
        {
        }
    }
    drop(clients);
    let began = Instant::now();
    let after = loop {
        let after = scraped(&world).await;
        if after[&of("websocket_connections_active", &[])] == 0.0 {
            break after;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{after:#?}");
    };
    println!("counted as gone after {:?}", began.elapsed());
    assert_eq!(after[&of("websocket_disconnections_total", &[("reason", "1000")])], 11.0);
    assert_eq!(after[&of("websocket_connection_duration_seconds_count", &[])], 11.0);
}
