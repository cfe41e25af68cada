//! Attacks on an edge, while somebody else uses it: the edge stays up, the other feels nothing, and each refusal is counted.
//! More of them are in `hostile.rs`, and in the dialects' own tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Bytes, Message};
use trishula::rt::{clock, tasks};

const SERVICES: &str = "\
[[service]]
preset = \"mahavishnu\"
listen = [\"127.0.0.1:0\"]
secret_file = \"secret\"
max_connections = 64
handshake_timeout_ms = 300
[[service]]
name = \"relay\"
dialect = \"relay\"
listen = [\"127.0.0.1:0\"]
secret_file = \"secret\"
";

/// An edge, and a client of it that is never kept waiting.
struct Town {
    world: World,
    neighbour: tasks::Task,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Town {
    async fn new() -> Town {
        let machine = Machine::new();
        let config = machine.configure_services(SERVICES);
        let mut world = World::start_on(machine, config);
        world.connect(1).await;
        let mut client = envelope(&world, "neighbour").await;
        let (stop, mut stopped) = tokio::sync::watch::channel(false);
        let neighbour = tasks::spawn("test.neighbour", async move {
            let mut n = 0;
            while !*stopped.borrow_and_update() {
                n += 1;
                let began = clock::now();
                client.say(json!({"type": "ping", "id": n.to_string()})).await;
                assert_eq!(client.hear().await["correlation_id"], n.to_string());
                assert!(clock::since(began) < Duration::from_secs(5), "it was kept waiting");
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
        });
        Town { world, neighbour, stop }
    }

    /// The attack is over: it was counted, the neighbour felt nothing, and a new client comes in.
    async fn stands(self, reason: &str, before: u64) {
        for _ in 0..200 {
            if counted(reason) > before {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(counted(reason) > before, "{reason} is counted");
        self.stop.send(true).unwrap();
        let panics = trishula::metrics::TASK_PANICS.with_label_values(&["test.neighbour"]);
        soon(self.neighbour.join()).await;
        assert_eq!(panics.get(), 0, "the neighbour felt it");
        let _client = envelope(&self.world, "another").await;
    }
}

/// A client of the envelope, greeted.
async fn envelope(world: &World, user: &str) -> Client {
    for _ in 0..100 {
        let Ok((mut client, _)) = world.upgrade("/", &[]).await else { continue };
        let exp = clock::wall_ms() / 1000 + 600;
        let claims = json!({"user_id": user, "permissions": ["pool:read"], "exp": exp});
        let auth = json!({"type": "request", "event": "auth", "data": {"token": signed(SECRET, claims)}});
        client.say(auth).await;
        if client.hear().await["type"] == "response" {
            assert_eq!(client.hear().await["event"], "session.created");
            return client;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no room")
}

fn counted(reason: &str) -> u64 {
    trishula::metrics::EDGE_REFUSED.with_label_values(&[reason]).get()
}

#[tokio::test]
async fn half_open_sockets_by_the_thousand() {
    // covers B09, B19
    let (town, before) = (Town::new().await, counted("handshake_timeout"));
    let address = town.world.address();
    let mut sockets = Vec::new();
    for n in 0..1000 {
        // What finds no room waits in the system's queue, and then is not even taken.
        match tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
            Ok(Ok(mut socket)) => {
                if n % 2 == 0 {
                    let _ = socket.write_all(b"\x16\x03\x01\x02\x00\x01").await;
                }
                sockets.push(socket);
            }
            _ => break,
        }
    }
    assert!(sockets.len() > 500, "{}", sockets.len());
    town.stands("handshake_timeout", before).await;
}

#[tokio::test]
async fn a_bomb_of_headers_and_a_request_that_never_ends() {
    // covers B09, B19
    let (town, before) = (Town::new().await, counted("request"));
    for head in [
        format!("GET / HTTP/1.1\r\nHost: x\r\nX-Bomb: {}\r\n\r\n", "a".repeat(200_000)),
        format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X-B: a\r\n".repeat(1000)),
        "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ".to_owned(),
        "\u{0}\u{1}garbage\r\n\r\n".to_owned(),
    ] {
        let mut stream = town.world.tls().await;
        let _ = stream.write_all(head.as_bytes()).await;
        let mut rest = Vec::new();
        let _ = soon(stream.read_to_end(&mut rest)).await;
        assert!(!rest.starts_with(b"HTTP/1.1 101"));
    }
    assert!(counted("request") >= before + 4, "{}", counted("request") - before);
    town.stands("request", before).await;
}

#[tokio::test]
async fn frames_that_are_no_text_too_large_or_too_deep() {
    // covers B19
    let (town, before) = (Town::new().await, counted("decode_error"));
    let mut client = envelope(&town.world, "deep").await;
    client.send(Message::text("[".repeat(100_000))).await;
    assert_eq!(client.hear().await["error_code"], "DECODE_ERROR");
    client.say(json!({"type": "ping", "data": "no object"})).await;
    assert_eq!(client.hear().await["error_code"], "DECODE_ERROR", "and the connection stays");
    let (texts, large) = (counted("not_utf8"), counted("too_big"));
    let broken = Frame::message(Bytes::from_static(b"\xff\xfe"), OpCode::Data(Data::Text), true);
    client.send(Message::Frame(broken)).await;
    assert_eq!(client.closed().await.0, 1007);
    drop(client);
    let mut client = envelope(&town.world, "large").await;
    client.send(Message::text("x".repeat((1 << 20) + 1))).await;
    assert_eq!(client.closed().await.0, 1009);
    drop(client);
    let both = || counted("not_utf8") > texts && counted("too_big") > large;
    for _ in 0..100 {
        if both() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(both(), "both are counted");
    town.stands("decode_error", before).await;
}

#[tokio::test]
async fn a_storm_of_subscriptions_and_of_pieces() {
    // covers B09, B19
    let (town, before) = (Town::new().await, counted("rate_limit"));
    let mut client = envelope(&town.world, "storm").await;
    for n in 0..600 {
        let ask = json!({"type": "request", "event": "subscribe", "data": {"channel": format!("pool:{n}")}});
        client.send(Message::text(ask.to_string())).await;
    }
    let mut limited = 0;
    for _ in 0..600 {
        limited += usize::from(client.hear().await["error_code"] == "RATE_LIMIT_EXCEEDED");
    }
    assert!(limited >= 400, "{limited}");
    // One message in ten thousand pieces is one message, for which there is room in the rate again.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let frame = |text: &'static str, code, last| {
        Message::Frame(Frame::message(Bytes::from_static(text.as_bytes()), OpCode::Data(code), last))
    };
    client.socket.feed(frame("{\"type\":\"ping\",\"id\":\"", Data::Text, false)).await.unwrap();
    for _ in 0..10_000 {
        client.socket.feed(frame("", Data::Continue, false)).await.unwrap();
    }
    client.send(frame("pieces\"}", Data::Continue, true)).await;
    let answer = client.hear().await;
    assert_eq!((&answer["type"], &answer["correlation_id"]), (&json!("pong"), &json!("pieces")), "{answer}");
    town.stands("rate_limit", before).await;
}

#[tokio::test]
async fn names_that_try_to_escape() {
    // covers B05, B19
    let (town, before) = (Town::new().await, counted("auth_failed"));
    let mut client = envelope(&town.world, "escape").await;
    for channel in ["../../etc/passwd", "pool:\u{0}", "pool:p\r\nx", "*", ""] {
        client.say(json!({"type": "request", "event": "subscribe", "data": {"channel": channel}})).await;
        let code = client.hear().await["error_code"].clone();
        assert!(
            ["INVALID_CHANNEL", "FORBIDDEN", "REQUEST_ERROR"].iter().any(|known| code == *known),
            "{channel:?}: {code}"
        );
    }
    let at = town.world.edge.addresses()[1];
    for name in ["../../etc/passwd", "mesh", "broadcast", "a/b", "x y"] {
        let stream = town.world.machine.tls(at).await;
        let (mut relay, _) = tokio_tungstenite::client_async("wss://localhost/", stream).await.unwrap();
        relay.send(Message::text(name)).await.unwrap();
        let close = soon(relay.next()).await;
        assert!(
            matches!(&close, Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == 1008),
            "{name}: {close:?}"
        );
    }
    let health: Value =
        town.world.get("GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.2;
    assert_eq!(health["status"], "healthy");
    town.stands("auth_failed", before).await;
}

#[tokio::test]
async fn a_compression_bomb() {
    // covers B19
    let (town, before) = (Town::new().await, counted("too_big"));
    let headers = [("sec-websocket-extensions", "permessage-deflate")];
    let (mut client, _) = town.world.upgrade("/", &headers).await.unwrap();
    // 64 MiB of one letter.
    let bomb = deflated(64 << 20);
    assert!(bomb.len() < 1 << 20);
    let mut frame = Frame::message(bomb, OpCode::Data(Data::Text), true);
    frame.header_mut().rsv1 = true;
    client.send(Message::Frame(frame)).await;
    assert_eq!(client.closed().await.0, 1009);
    drop(client);
    town.stands("too_big", before).await;
}

/// So many bytes, all the same, as a message of permessage-deflate.
fn deflated(bytes: usize) -> Bytes {
    // Blocks with the fixed codes: a letter, and then copies of 258 bytes by distance 1.
    let (mut out, mut bits, mut count) = (Vec::new(), 0u64, 0u32);
    let mut put = |value: u64, length: u32, out: &mut Vec<u8>| {
        bits |= value << count;
        count += length;
        while count >= 8 {
            out.push(bits as u8);
            bits >>= 8;
            count -= 8;
        }
    };
    put(0b010, 3, &mut out);
    // The letter 'a' (97) is 0x30 + 97 in 8 bits, the most significant first.
    put(u64::from((0x30u8 + 97).reverse_bits()), 8, &mut out);
    for _ in 0..bytes / 258 {
        // Length 258 is the code 285: 0xc5 in 8 bits; distance 1 is the code 0 in 5 bits.
        put(u64::from(0xc5u8.reverse_bits()), 8, &mut out);
        put(0, 5, &mut out);
    }
    // The end of the block, and an empty stored one without its last four bytes.
    put(0, 7, &mut out);
    put(0, 3, &mut out);
    put(0, 7, &mut out);
    Bytes::from(out)
}
