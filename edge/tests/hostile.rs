//! Clients that mean harm, or are badly broken: they are refused with a reason, in bounded time and memory, and nobody
//! else notices.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use support::{Machine, PATIENCE, World, soon, token, token_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use trishula_edge::run::METRICS_CONNECTIONS;

/// An upgrade's head, with `more` lines.
fn upgrade(more: &str) -> String {
    format!("GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{more}\r\n")
}

const KEY: &str = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Writes until nobody takes anything any more, reads nothing, and sees that the connection ends.
async fn ends_unread<S>(mut stream: S, request: &[u8])
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let many = request.repeat(1000);
    let flooded = async { while stream.write_all(&many).await.is_ok() {} };
    soon(flooded).await;
}

#[tokio::test]
async fn whoever_does_not_get_on_with_the_handshake_is_left() {
    // covers B09
    let world = World::start_with("handshake_timeout_ms = 150").await;
    let mut rest = Vec::new();
    let mut half_hello = TcpStream::connect(world.address()).await.unwrap();
    half_hello.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
    soon(half_hello.read_to_end(&mut rest)).await.unwrap();
    for part in [
        "",
        "GET /ws HT",
        "GET /ws HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        "GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let mut stream = world.tls().await;
        stream.write_all(part.as_bytes()).await.unwrap();
        // Ends, however; an answer may come before it.
        let _ = soon(stream.read_to_end(&mut rest)).await;
    }
    let _still_served = world.registered("dc").await;
}

#[tokio::test]
async fn requests_whose_answers_are_not_read_hold_no_connection_for_ever() {
    // covers B09
    let world = World::start_with("handshake_timeout_ms = 150\nmax_connections = 2").await;
    let request = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    tokio::join!(async { ends_unread(world.tls().await, request).await }, async {
        ends_unread(world.tls().await, request).await
    },);
    let _served = world.registered("dc").await;
}

#[tokio::test]
async fn the_metrics_port_has_so_many_connections_and_closes_one_more() {
    // covers B09
    let world = World::start_alone("");
    let address = world.edge.metrics_address().unwrap();
    // Asks, and leaves the connection open; `None`: it was closed without an answer.
    let asks = || async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut answer = [0; 12];
        let asked = async {
            stream.write_all(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n").await?;
            stream.read_exact(&mut answer).await
        };
        let asked = soon(asked).await;
        asked.is_ok().then(|| assert_eq!(&answer, b"HTTP/1.1 404")).map(|()| stream)
    };
    let all = futures_util::future::join_all((0..METRICS_CONNECTIONS).map(|_| asks())).await;
    assert!(all.iter().all(Option::is_some), "as many as may be are served");
    for _ in 0..3 {
        assert!(asks().await.is_none(), "one more is not");
    }
    drop(all);
    // As soon as it is noticed that they have gone.
    soon(async { while asks().await.is_none() {} }).await;
}

#[tokio::test]
async fn odd_requests_are_refused() {
    // covers B19, B09
    let world = World::start().await;
    let huge = format!("{}X-Huge: {}\r\n", KEY, "a".repeat(64 * 1024));
    let many: String = (0..100).map(|n| format!("X-{n}: a\r\n")).collect();
    for (request, status) in [
        (upgrade("Sec-WebSocket-Version: 13\r\nConnection: close\r\n"), 400),
        (upgrade("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!!!\r\nConnection: close\r\n"), 400),
        (upgrade("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c2hvcnQ=\r\nConnection: close\r\n"), 400),
        (upgrade(&KEY.replace("13", "8")).replace("Host", "Connection: close\r\nHost"), 426),
        (upgrade(KEY).replace("HTTP/1.1", "HTTP/1.0"), 426),
        (upgrade(&format!("{KEY}Content-Length: 10\r\nConnection: close\r\n")), 400),
        (upgrade(&format!("{KEY}Transfer-Encoding: chunked\r\nConnection: close\r\n")), 400),
        (upgrade(&format!("{KEY}Content-Length: 1\r\nContent-Length: 2\r\n")), 400),
        (upgrade(&format!("{KEY} folded: x\r\n")), 400),
        (upgrade(&huge), 431),
        (upgrade(&format!("{KEY}{many}")), 431),
        ("POST /ws HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /ws".into(), 405),
        ("nonsense\r\n\r\n".into(), 400),
    ] {
        let (answer, head, _) = world.get(&request).await;
        assert_eq!(answer, status, "{request:.200}: {head}");
    }
    let _still_served = world.registered("dc").await;
}

#[tokio::test]
async fn forged_tokens_open_nothing_by_any_way() {
    // covers T05, B09, B17
    let world = World::start().await;
    let good = token("dc");
    let parts: Vec<&str> = good.split('.').collect();
    let none = format!("eyJhbGciOiJub25lIn0.{}.", parts[1]);
    let unsigned = format!("{}.{}.", parts[0], parts[1]);
    let swapped = format!("{}.{}.{}", parts[0], parts[1], token("agni").rsplit('.').next().unwrap());
    let rs256 = format!("eyJhbGciOiJSUzI1NiJ9.{}.{}", parts[1], parts[2]);
    let huge = format!("{good}{}", "A".repeat(9000));
    for forged in [none, unsigned, swapped, rs256, huge, token_with("dc", -1, &[])] {
        let bearer = format!("Bearer {forged}");
        for (path, headers) in [
            (format!("/?token={forged}"), vec![]),
            ("/".to_owned(), vec![("authorization", bearer.as_str())]),
        ] {
            let refused = world.upgrade(&path, &headers).await;
            let Err(WsError::Http(answer)) = refused else { panic!("not refused: {forged:.80}") };
            assert_eq!(answer.status(), 401);
        }
        let (mut client, _) = world.upgrade("/", &[]).await.unwrap();
        client.say(json!({"type": "AUTH", "token": forged})).await;
        let error = client.hear_text().await;
        assert!(error.contains("token_") && !error.contains(&forged), "{error:.300}");
        assert_eq!(client.closed().await.0, 4401);
    }
    // A header that is wrong is not made good by a query that is right.
    let query = format!("/?token={good}");
    assert!(world.upgrade(&query, &[("authorization", "Bearer x")]).await.is_err());
}

#[tokio::test]
async fn broken_frames_cost_one_connection_and_say_why() {
    // covers B19
    let world = World::start().await;
    let data = |op: Data, end: bool, text: &[u8]| Frame::message(text.to_vec(), OpCode::Data(op), end);
    let first = || data(Data::Text, false, b"{\"type\":");
    let cases: Vec<(Vec<Frame>, u16)> = vec![
        (vec![data(Data::Text, true, b"\xff\xfe")], 1007),
        (vec![data(Data::Continue, true, b"x")], 1002),
        (vec![first(), data(Data::Text, true, b"x")], 1002),
        (
            std::iter::once(first())
                .chain((0..20).map(|_| data(Data::Continue, false, &[b'x'; 64 * 1024])))
                .collect(),
            1009,
        ),
    ];
    for (frames, code) in cases {
        let mut client = world.client("dc").await;
        for frame in frames {
            // It may be closed before it has sent all.
            let _ = client.socket.send(Message::Frame(frame)).await;
        }
        assert_eq!(client.closed().await.0, code);
    }
}

#[tokio::test]
async fn a_frame_in_very_many_pieces_is_one_frame() {
    // covers B19
    let world = World::start().await;
    let mut client = world.client("dc").await;
    let piece =
        |op: Data, end: bool, text: &'static str| Message::Frame(Frame::message(text, OpCode::Data(op), end));
    client.socket.feed(piece(Data::Text, false, "{\"type\":\"HEARTBEAT\"")).await.unwrap();
    for _ in 0..65_536 {
        client.socket.feed(piece(Data::Continue, false, "")).await.unwrap();
    }
    client.send(piece(Data::Continue, true, ",\"id\":\"h\"}")).await;
    assert_eq!(client.hear().await["reply_to"], "h");
}

#[tokio::test]
async fn names_that_try_to_escape_are_refused() {
    // covers T08, B19
    let world = World::start().await;
    let mut dc = world.registered("dc").await;
    for (to, code) in [
        ("other/agni", "forbidden"),
        ("other/broadcast", "forbidden"),
        ("../agni", "bad_name"),
        ("trishula/../agni", "bad_name"),
        ("trishula/trishula/agni", "bad_name"),
        ("TRISHULA/agni", "bad_name"),
        ("agni\u{202e}", "bad_name"),
        ("ａｇｎｉ", "bad_name"),
        ("agni\n", "bad_name"),
        ("mesh", "bad_name"),
        ("Broadcast", "bad_name"),
        ("other/room:x", "forbidden"),
    ] {
        dc.say(json!({"type": "STATUS", "to": to})).await;
        assert_eq!(dc.hear().await["payload"]["code"], code, "{to:?}");
        // Not a row of bad frames: it is closed after so many.
        dc.say(json!({"type": "HEARTBEAT"})).await;
        assert_eq!(dc.hear().await["type"], "HEARTBEAT");
    }
    for from in ["agni", "other/dc", "trishula/agni"] {
        dc.say(json!({"type": "STATUS", "to": "dc", "from": from})).await;
        assert_eq!(dc.hear().await["payload"]["code"], "from_mismatch", "{from}");
    }
    dc.say(json!({"type": "STATUS", "to": "dc", "payload": "to myself"})).await;
    assert_eq!(dc.hear().await["payload"], "to myself");
}

#[tokio::test]
async fn errors_do_not_echo_what_they_refuse() {
    // covers B19
    let world = World::start().await;
    let mut dc = world.registered("dc").await;
    let long = "\u{1}".repeat(100_000);
    for frame in [
        json!({"type": "STATUS", "to": "dc", "priority": long}),
        json!({"type": "STATUS", "to": "dc", "receipt": long}),
        json!({"type": "STATUS", "to": long}),
        json!({"type": "STATUS", "to": "dc", "id": long}),
        json!({"type": long}),
        json!({"type": "REGISTER", "receipts": long}),
        json!({"type": "REGISTER", "ack": long}),
        json!({"type": "REGISTER", "agent": long}),
        json!({"type": "AUTH", "token": [long]}),
    ] {
        dc.say(frame).await;
        let error = dc.hear_text().await;
        assert!(error.len() < 4096, "{} bytes: {error:.300}", error.len());
    }
}

#[tokio::test]
async fn a_flood_to_nobody_is_answered_to_its_end_and_disturbs_nobody() {
    // covers B08, B30
    const MANY: usize = 6_000;
    let world = World::start().await;
    let mut well = world.registered("well").await;
    let flooder = world.registered("flooder").await;
    let (mut send, mut answers) = flooder.socket.split();
    let flood = async {
        for n in 0..MANY {
            let frame = json!({"type": "STATUS", "to": "nobody", "id": format!("m-{n}")});
            send.feed(Message::text(frame.to_string())).await.unwrap();
        }
        send.flush().await.unwrap();
    };
    let read = async {
        for n in 0..MANY {
            let Some(Ok(Message::Text(error))) = answers.next().await else { panic!("ended after {n}") };
            assert!(error.contains("unknown_recipient"), "{error}");
        }
    };
    let others = async {
        for n in 0..20 {
            well.say(json!({"type": "STATUS", "to": "well", "payload": n})).await;
            assert_eq!(well.hear().await["payload"], n);
        }
    };
    tokio::time::timeout(3 * PATIENCE, async { tokio::join!(flood, read, others) }).await.unwrap();
}

#[tokio::test]
async fn a_client_that_reads_nothing_costs_only_itself() {
    // covers B08, B09
    let world = World::start().await;
    let _sloth = world.registered("sloth").await;
    let mut sender = world.registered("sender").await;
    let payload = "x".repeat(900_000);
    // What its socket, its queue and nothing else can hold; then it is gone.
    let mut sent = 0;
    let refused = loop {
        assert!(sent < 60, "nobody stops it");
        sent += 1;
        sender.say(json!({"type": "STATUS", "to": "sloth", "payload": payload})).await;
        sender.say(json!({"type": "STATUS", "to": "sender", "id": format!("own-{sent}")})).await;
        let heard = sender.hear().await;
        if heard["type"] == "ERROR" {
            break heard;
        }
    };
    assert_eq!(refused["payload"]["code"], "unknown_recipient");
}

#[tokio::test]
async fn what_a_slow_client_has_not_read_holds_up_an_urgent_message_by_a_few_frames_only() {
    // covers Q03
    const BULK: usize = 40;
    let world = World::start().await;
    let mut slow = world.registered("slow").await;
    let mut sender = world.registered("sender").await;
    let payload = "x".repeat(100_000);
    let mut say = async |message: serde_json::Value| {
        sender.say(message).await;
        // Its own message comes behind the other one.
        sender.say(json!({"type": "STATUS", "to": "sender", "priority": 1})).await;
        assert_eq!(sender.hear().await["from"], "sender");
    };
    for n in 0..BULK {
        say(json!({"type": "STATUS", "to": "slow", "id": format!("bulk-{n}"), "payload": payload})).await;
    }
    say(json!({"type": "STATUS", "to": "slow", "id": "urgent", "priority": 1})).await;
    let mut before = 0;
    while slow.hear().await["id"] != "urgent" {
        before += 1;
    }
    // What its own system has taken for it, and the frame that is being written.
    assert!(before < BULK / 4, "{before} of {BULK} came before it");
}

#[tokio::test]
async fn five_hundred_connections_at_once_are_served() {
    // covers B30, B09
    let world = World::start().await;
    let all = (0..500).map(|n| {
        let world = &world;
        async move {
            // Each by its own name: whoever is slow to register does so as its token's.
            let bearer = format!("Bearer {}", token_with(&format!("crowd-{n}"), 60, &[]));
            let headers = [("authorization", bearer.as_str())];
            let mut client = world.upgrade("/ws", &headers).await.unwrap().0;
            client.say(json!({"type": "REGISTER", "agent": format!("crowd-{n}")})).await;
            assert_eq!(client.hear().await["payload"]["agent"], format!("crowd-{n}"));
            client
        }
    });
    let mut clients = futures_util::future::join_all(all).await;
    clients[7].say(json!({"type": "STATUS", "to": "crowd-499", "payload": 1})).await;
    assert_eq!(clients[499].hear().await["from"], "crowd-7");
}

#[tokio::test]
async fn refusals_are_logged_with_the_address_and_no_token_ever() {
    // covers B16, B17
    let machine = Machine::new();
    machine.configure("");
    let mut edge = Command::new(env!("CARGO_BIN_EXE_trishula-edge"))
        .args(["run", "--config"])
        .arg(machine.path())
        .env("TRISHULA_LOG_LEVEL", "trace")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(edge.stderr.take().unwrap()).lines().map_while(Result::ok);
    let listening = log.find(|line| line.contains("listening")).unwrap();
    let address: SocketAddr = plain(&listening).split("address=").nth(1).unwrap().trim().parse().unwrap();
    let (good, bad) = (token("dc"), token_with("marked", -1, &[]));
    let mut peers = Vec::new();
    for request in [
        upgrade(KEY).replace("/ws", &format!("/ws?token={bad}")),
        upgrade(&format!("{KEY}Authorization: Bearer {bad}\r\n")),
        upgrade(KEY).replace("/ws", &format!("/ws?token={good}")),
    ] {
        let mut stream = machine.tls(address).await;
        peers.push(stream.get_ref().0.local_addr().unwrap());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut first = [0u8; 12];
        soon(stream.read_exact(&mut first)).await.unwrap();
    }
    assert!(Command::new("kill").arg(edge.id().to_string()).status().unwrap().success());
    let log: Vec<String> = log.map(|line| plain(&line)).collect();
    assert_eq!(edge.wait().unwrap().code(), Some(0));
    for peer in &peers[..2] {
        let line =
            log.iter().find(|line| line.contains("security event") && line.contains(&peer.to_string()));
        assert!(line.is_some_and(|line| line.contains("\"token\"") && line.contains("WARN")), "{log:#?}");
    }
    for secret in [&good, &bad, std::str::from_utf8(support::SECRET).unwrap()] {
        let tail = secret.rsplit('.').next().unwrap();
        assert!(!log.iter().any(|line| line.contains(tail)), "a secret is in the log");
    }
}

/// Without the colours of a terminal.
fn plain(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        out.push_str(before);
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    out + rest
}
