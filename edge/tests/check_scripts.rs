//! The requests of the older servers' two check scripts, `verify_deployment.py` and `check_websocket_health.py`, as their
//! libraries send them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use support::{Machine, World, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

/// mahavishnu as it was: nobody needs a token. `more`: with TLS or without.
async fn mahavishnu(more: &str) -> World {
    let machine = Machine::new();
    let service =
        format!("[[service]]\npreset = \"mahavishnu\"\nlisten = [\"127.0.0.1:0\"]\nauth = false\n{more}\n");
    let config = machine.configure_services(&service);
    let mut world = World::start_on(machine, config);
    world.connect(1).await;
    world
}

/// As Python's `urllib` asks: head and body of the answer.
async fn get(at: SocketAddr, path: &str) -> (String, String) {
    let mut socket = TcpStream::connect(at).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nAccept-Encoding: identity\r\nHost: localhost:{}\r\nUser-Agent: Python-urllib/3.13\r\n\
         Connection: close\r\n\r\n",
        at.port()
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(socket.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// As Python's `websockets` connects to `ws://localhost:PORT`, but for its offer of compression: this client has none.
async fn connect(at: SocketAddr) -> WebSocketStream<TcpStream> {
    let mut socket = TcpStream::connect(at).await.unwrap();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: localhost:{}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         User-Agent: Python/3.13 websockets/17.4\r\n\r\n",
        at.port()
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(socket.read_u8()).await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    WebSocketStream::from_raw_socket(socket, Role::Client, None).await
}

async fn frame(socket: &mut WebSocketStream<TcpStream>, within: Duration) -> Value {
    let heard = tokio::time::timeout(within, async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap(),
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    });
    heard.await.unwrap_or_else(|_| panic!("nothing within {within:?}"))
}

async fn health_is_as_they_expect(at: SocketAddr) {
    let (head, body) = get(at, "/health").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["status"], "healthy");
    for check in ["websocket", "metrics"] {
        assert_eq!(body["checks"][check], "passing", "{body}");
    }
    assert!(body["metrics"]["active_connections"].is_u64(), "{body}");
}

#[tokio::test]
async fn verify_deployment() {
    // covers B20, B21, B27 10
    let world = mahavishnu("tls = false").await;
    health_is_as_they_expect(world.address()).await;
    let mut socket = connect(world.address()).await;
    let welcome = frame(&mut socket, Duration::from_secs(2)).await;
    assert_eq!((&welcome["type"], &welcome["event"]), (&"event".into(), &"session.created".into()));
    let (head, text) = get(world.edge.metrics_address().unwrap(), "/metrics").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    for name in ["websocket_connections_total", "websocket_connections_active", "websocket_messages_total"] {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name}: {text}");
    }
    // From the first connection on, by the name that the server had, and in its own words for frames.
    let labels = "server=\"mahavishnu\",service=\"mahavishnu\"";
    for series in [
        format!("websocket_connections_total{{{labels},tls_mode=\"ws\"}} "),
        format!("websocket_connections_active{{{labels}}} "),
        format!("websocket_messages_total{{direction=\"sent\",message_type=\"event\",{labels}}} "),
    ] {
        let value =
            text.lines().find_map(|line| line.strip_prefix(&series)).unwrap_or_else(|| panic!("{text}"));
        // The other tests of this process count too.
        assert!(value.parse::<f64>().unwrap() >= 1.0, "{series}{value}");
    }
}

#[tokio::test]
async fn check_websocket_health() {
    // covers B20
    let world = mahavishnu("tls = false").await;
    // `--advanced`: the first frame of one of these types within a second will do.
    let mut socket = connect(world.address()).await;
    let ping = r#"{"type": "ping", "id": "health_check_1767225600.123"}"#;
    socket.send(Message::text(ping)).await.unwrap();
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let heard = frame(&mut socket, Duration::from_secs(1)).await;
        kinds.push(heard["type"].as_str().unwrap().to_owned());
    }
    assert!(["pong", "event", "response"].contains(&kinds[0].as_str()), "{kinds:?}");
    assert!(kinds.contains(&"pong".to_owned()), "{kinds:?}");
}

#[tokio::test]
async fn with_tls_this_machine_still_asks_as_it_did() {
    // covers B20
    let world = mahavishnu("").await;
    health_is_as_they_expect(world.address()).await;
}
