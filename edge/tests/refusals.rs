//! What `/metrics` shows of clients that do not come in, or not for long, whatever they speak. The numbers of each test are
//! those of services that no other test here has.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use support::*;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use trishula::metrics;
use trishula::rt::clock;

fn preset(name: &str, more: &str) -> String {
    format!(
        "[[service]]\npreset = \"{name}\"\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"secret\"\n{more}\n"
    )
}

/// The code of its close, after which it goes.
async fn ended(mut client: Client) -> u16 {
    client.closed().await.0
}

async fn client(world: &World) -> Client {
    world.upgrade("/", &[]).await.unwrap().0
}

fn good() -> String {
    let exp = clock::wall_ms() / 1000 + 600;
    signed(SECRET, json!({"user_id": "u1", "permissions": [], "exp": exp}))
}

fn auth(token: &str) -> serde_json::Value {
    json!({"type": "request", "event": "auth", "data": {"token": token}, "id": "a"})
}

/// What is shown of a service, where the label is this as well; what is not there is 0.
fn shown(service: &str, name: &str, label: &str) -> u64 {
    let text = metrics::render();
    let of = format!("service=\"{service}\"");
    let line = text
        .lines()
        .find(|line| line.split('{').next() == Some(name) && line.contains(&of) && line.contains(label));
    line.and_then(|line| line.rsplit(' ').next()).map_or(0, |value| value.parse().unwrap())
}

/// The same, once it is so much; not more, as it is counted when the client is gone.
async fn reaches(service: &str, name: &str, label: &str, value: u64) {
    let began = Instant::now();
    while shown(service, name, label) != value {
        let found = shown(service, name, label);
        assert!(began.elapsed() < PATIENCE, "{name}{{{label}}} of {service} is {found}, not {value}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const ERRORS: &str = "websocket_connection_errors_total";
const ENDS: &str = "websocket_disconnections_total";
const TOTAL: &str = "websocket_connections_total";
const ACTIVE: &str = "websocket_connections_active";

/// So many connections are counted as errors.
async fn settled(service: &str, refused: u64) {
    reaches(service, "websocket_errors_total", "error_type=\"connection_error\"", refused).await;
}

#[tokio::test]
async fn logins_of_the_envelope_that_come_to_nothing_are_counted_as_what_they_are() {
    // covers B09, B21, B22
    let name = "mahavishnu";
    let world = World::serving(&preset(name, "max_connections = 1")).await;
    let mut bad = client(&world).await;
    bad.say(auth("eyJhbGciOiJIUzI1NiJ9.e30.x")).await;
    assert_eq!(ended(bad).await, 1008);
    reaches(name, ENDS, "reason=\"1008\"", 1).await;
    assert_eq!(shown(name, ERRORS, "\"auth_failed\""), 1);
    assert_eq!(shown(name, "websocket_errors_total", "\"auth_failed\""), 1, "once, not frame and close");
    reaches(name, ACTIVE, "", 0).await;

    let mut bare = client(&world).await;
    bare.say(json!({"type": "request", "event": "subscribe", "data": {"channel": "global"}})).await;
    assert_eq!(ended(bare).await, 1008);
    reaches(name, ENDS, "reason=\"1008\"", 2).await;
    assert_eq!((shown(name, ERRORS, "\"auth_required\""), shown(name, ERRORS, "\"auth_failed\"")), (1, 1));
    settled(name, 2).await;
    assert_eq!(shown(name, TOTAL, "\"wss\""), 0, "nobody has come in");
    reaches(name, ACTIVE, "", 0).await;

    let mut first = client(&world).await;
    first.say(auth(&good())).await;
    assert_eq!(first.hear().await["status"], "authenticated");
    assert_eq!(shown(name, TOTAL, "\"wss\""), 1);
    let second = client(&world).await;
    assert_eq!(ended(second).await, 1013);
    reaches(name, ENDS, "reason=\"1013\"", 1).await;
    assert_eq!(shown(name, ERRORS, "\"max_connections\""), 1);
    settled(name, 3).await;
    assert_eq!(shown(name, TOTAL, "\"wss\""), 1, "who is turned away is not in");
    assert!(
        metrics::render()
            .lines()
            .any(|line| { line.starts_with("trishula_sessions_closed_total{") && line.contains("\"1008\"") })
    );
}

#[tokio::test]
async fn so_are_those_of_the_other_dialects() {
    // covers B09, B21, B22
    for (dialect, code, words) in [
        ("session-buddy", 4001, vec![r#"{"token":"eyJhbGciOiJIUzI1NiJ9.e30.x"}"#]),
        ("relay", 1008, vec!["agni", "eyJhbGciOiJIUzI1NiJ9.e30.x"]),
    ] {
        let name = format!("refuses-{dialect}");
        let service = format!("[[service]]\nname = \"{name}\"\ndialect = \"{dialect}\"");
        let world =
            World::serving(&format!("{service}\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"secret\"\n"))
                .await;
        let mut bad = client(&world).await;
        for word in words {
            bad.send(Message::text(word)).await;
        }
        assert_eq!(ended(bad).await, code);
        reaches(&name, ENDS, &format!("reason=\"{code}\""), 1).await;
        assert_eq!(shown(&name, ERRORS, "\"auth_failed\""), 1, "{dialect}");
        settled(&name, 1).await;
        assert_eq!(shown(&name, TOTAL, "\"wss\""), 0, "{dialect}");
    }
}

#[tokio::test]
async fn silence_and_haste_end_with_codes_of_their_own() {
    // covers B09, B22
    let world = World::serving(&preset("akosha", "connection_timeout = 1")).await;
    let mut silent = client(&world).await;
    silent.say(auth(&good())).await;
    assert_eq!(ended(silent).await, 1001);
    reaches("akosha", ENDS, "reason=\"1001\"", 1).await;
    settled("akosha", 0).await;

    let service = "[[service]]\nname = \"hasty\"\nmessage_rate_limit = 1";
    let world =
        World::serving(&format!("{service}\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"secret\"\n")).await;
    let token = signed(SECRET, json!({"sub": "dc", "aud": "hasty", "exp": clock::wall_ms() / 1000 + 600}));
    let bearer = format!("Bearer {token}");
    let hasty = world.upgrade("/ws", &[("authorization", &bearer)]).await.unwrap().0;
    let (mut says, mut hears) = hasty.socket.split();
    let said = async {
        // More than are forgiven; the last ones find nobody any more.
        for _ in 0..11_000 {
            if says.send(Message::text(r#"{"type":"HEARTBEAT"}"#)).await.is_err() {
                return;
            }
        }
    };
    let heard = async {
        loop {
            match hears.next().await {
                Some(Ok(Message::Close(Some(close)))) => return u16::from(close.code),
                Some(Ok(_)) => {}
                other => panic!("a close was expected, and this came: {other:?}"),
            }
        }
    };
    let both = async { tokio::join!(said, heard).1 };
    assert_eq!(tokio::time::timeout(6 * PATIENCE, both).await.unwrap(), 4029);
    reaches("hasty", ENDS, "reason=\"4029\"", 1).await;
    assert_eq!(shown("hasty", ERRORS, "\"rate_limit\""), 1);
}

#[tokio::test]
async fn a_refusal_counts_the_same_by_close_and_by_status() {
    // covers B09, B21
    for (name, refuse) in [("dhruva", "close"), ("crackerjack", "http")] {
        let more =
            format!("refuse = \"{refuse}\"\nmax_connections_per_address = 1\nauth_failures_per_minute = 1");
        let world = World::serving(&preset(name, &more)).await;
        let turned = async |token: Option<&str>| {
            let bearer = token.map(|token| format!("Bearer {token}"));
            let headers: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
            match world.upgrade("/", &headers).await {
                Ok((client, _)) => ended(client).await,
                Err(WsError::Http(answer)) => answer.status().as_u16(),
                Err(e) => panic!("{e}"),
            }
        };
        let mut first = client(&world).await;
        first.say(auth(&good())).await;
        assert_eq!(first.hear().await["status"], "authenticated");
        let by_close = refuse == "close";
        assert_eq!(turned(None).await, if by_close { 1013 } else { 429 });
        reaches(name, ERRORS, "\"max_connections\"", 1).await;
        for _ in 0..2 {
            assert_eq!(turned(Some("nonsense")).await, if by_close { 1008 } else { 401 });
        }
        reaches(name, ERRORS, "\"auth_failed\"", 2).await;
        assert_eq!(turned(Some("nonsense")).await, if by_close { 1008 } else { 429 });
        reaches(name, ERRORS, "\"rate_limit\"", 1).await;
        settled(name, 4).await;
        assert_eq!(shown(name, TOTAL, "\"wss\""), 1);
    }
}
