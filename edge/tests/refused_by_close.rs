//! `refuse = "close"`: who does not come in is let through the upgrade and told by a close, in the way of what it speaks; never by
//! a status, on which older clients give up for ever.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use support::*;
use tokio_tungstenite::tungstenite::Message;
use trishula::metrics;
use trishula::rt::clock;

/// What is no token, and looks like one.
const BAD: &str = "eyJhbGciOiJIUzI1NiJ9.e30.x";
/// What is told of a login that failed in each dialect, and of one too many failures; both as close codes.
const DIALECTS: [(&str, u16, u16); 4] =
    [("mcp", 1008, 1008), ("session-buddy", 4001, 1008), ("relay", 1008, 1008), ("trishula", 4401, 4029)];

fn speaking(dialect: &str, more: &str) -> String {
    format!(
        "[[service]]\nname = \"closes\"\ndialect = \"{dialect}\"\nrefuse = \"close\"\nlisten = [\"127.0.0.1:0\"]\n\
         secret_file = \"secret\"\n{more}\n"
    )
}

fn mahavishnu(more: &str) -> String {
    format!(
        "[[service]]\npreset = \"mahavishnu\"\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"secret\"\n{more}\n"
    )
}

/// A client whose upgrade was granted, as it must be.
async fn upgraded(world: &World) -> Client {
    world.upgrade("/", &[]).await.expect("the upgrade is granted").0
}

fn good(agent: &str) -> String {
    signed(SECRET, json!({"sub": agent, "permissions": ["pool:read"], "exp": clock::wall_ms() / 1000 + 600}))
}

/// The first frames of an agent with this token, and a word of the answer if it is good.
fn hello(dialect: &str, agent: &str, token: &str) -> (Vec<String>, &'static str) {
    match dialect {
        "mcp" => (vec![auth(token).to_string()], "authenticated"),
        "session-buddy" => (vec![json!({"token": token}).to_string()], "connected"),
        "relay" => {
            let own = json!({"id": "self", "to": agent}).to_string();
            (vec![agent.into(), token.into(), own], "self")
        }
        _ => (vec![json!({"type": "auth", "token": token}).to_string()], "AUTHENTICATED"),
    }
}

fn auth(token: &str) -> Value {
    json!({"type": "request", "event": "auth", "data": {"token": token}, "id": "a"})
}

/// Says what begins a connection; one that is closed amid its words was refused.
async fn begin(client: &mut Client, dialect: &str, agent: &str, token: &str) -> &'static str {
    let (said, answer) = hello(dialect, agent, token);
    for text in said {
        let _ = client.socket.send(Message::text(text)).await;
    }
    answer
}

async fn logged_in(world: &World, dialect: &str, agent: &str) -> Client {
    let mut client = upgraded(world).await;
    let answer = begin(&mut client, dialect, agent, &good(agent)).await;
    let heard = client.hear_text().await;
    assert!(heard.contains(answer), "{dialect}: {heard}");
    client
}

fn counted(event: &str) -> u64 {
    metrics::EDGE_REFUSED.with_label_values(&[event]).get()
}

/// Tries a few times: what a client's end changes counts a moment later.
async fn soon_is(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn one_connection_too_many_of_an_address_is_told_1013_after_the_upgrade() {
    // covers B02, B09
    let world = World::serving(&mahavishnu("max_connections_per_address = 2")).await;
    let (first, mut second) = (logged_in(&world, "mcp", "u1").await, logged_in(&world, "mcp", "u2").await);
    let before = counted("address_full");
    let mut third = upgraded(&world).await;
    let told = third.hear().await;
    assert_eq!((&told["type"], &told["error_code"]), (&json!("error"), &json!("SERVER_ERROR")), "{told}");
    assert_eq!(third.closed().await, (1013, "Server at maximum capacity".into()));
    assert_eq!(counted("address_full"), before + 1);
    // Those that are in go on, and the place of one that goes is free again.
    assert_eq!(second.hear().await["event"], "session.created");
    second.say(json!({"type": "ping", "id": "p"})).await;
    assert_eq!(second.hear().await["correlation_id"], "p");
    drop(first);
    soon_is("a place is free", async || {
        let mut client = upgraded(&world).await;
        begin(&mut client, "mcp", "u3", &good("u3")).await;
        client.hear().await["type"] == "response"
    })
    .await;

    for (dialect, ..) in DIALECTS {
        let world = World::serving(&speaking(dialect, "max_connections_per_address = 1")).await;
        let _in = logged_in(&world, dialect, "one").await;
        assert_eq!(upgraded(&world).await.closed().await.0, 1013, "{dialect}");
    }
}

#[tokio::test]
async fn where_the_first_frame_tells_what_a_client_speaks_it_is_told_in_that_that_there_is_no_room() {
    // covers B02, B06, B09
    let auto = "[[service]]\nname = \"closes\"\nlisten = [\"127.0.0.1:0\"]\ndialect = \"auto\"\nrefuse = \"close\"\n\
         secret_file = \"secret\"\nmax_connections_per_address = 1\n";
    let world = World::serving(auto).await;
    let mut one = logged_in(&world, "mcp", "one").await;
    let mut old = upgraded(&world).await;
    begin(&mut old, "mcp", "two", &good("two")).await;
    let told = old.hear().await;
    assert_eq!((&told["type"], &told["error_code"]), (&json!("error"), &json!("SERVER_ERROR")), "{told}");
    assert_eq!(old.closed().await, (1013, "Server at maximum capacity".into()));
    let mut ours = upgraded(&world).await;
    begin(&mut ours, "trishula", "two", &good("two")).await;
    assert_eq!(ours.closed().await.0, 1013);
    // Nor is one left open that says nothing.
    assert_eq!(upgraded(&world).await.closed().await.0, 1013);
    one.say(json!({"type": "ping", "id": "p"})).await;
    while one.hear().await["correlation_id"] != "p" {}
}

#[tokio::test]
async fn an_address_with_too_many_failures_is_closed_after_the_upgrade_also_with_a_good_token() {
    // covers B02, B09, B17
    for (dialect, failed, blocked) in DIALECTS {
        let limit = "auth_failures_per_minute = 2";
        let service = if dialect == "mcp" { mahavishnu(limit) } else { speaking(dialect, limit) };
        let world = World::serving(&service).await;
        let mut was_in = logged_in(&world, dialect, "in").await;
        let before = counted("auth_failures");
        // Two are forgiven.
        for _ in 0..3 {
            let mut client = upgraded(&world).await;
            begin(&mut client, dialect, "bad", BAD).await;
            assert_eq!(client.closed().await.0, failed, "{dialect}");
        }
        // The last one counts when its connection has ended.
        soon_is("its address is not heard", async || {
            let mut client = upgraded(&world).await;
            begin(&mut client, dialect, "good", &good("good")).await;
            // What comes first is the answer to its token, or the end.
            let ended = soon(client.socket.next()).await;
            match ended {
                Some(Ok(Message::Text(text))) if !text.contains("\"error\"") => false,
                Some(Ok(Message::Close(Some(frame)))) => {
                    assert_eq!(u16::from(frame.code), blocked, "{dialect}");
                    true
                }
                Some(Ok(Message::Text(_))) => {
                    assert_eq!(client.closed().await.0, blocked, "{dialect}");
                    true
                }
                other => panic!("{dialect}: {other:?}"),
            }
        })
        .await;
        assert!(counted("auth_failures") > before, "{dialect}");
        // Who was in stays in.
        was_in.send(Message::Ping(vec![1].into())).await;
        let pong = soon(async {
            loop {
                match was_in.socket.next().await {
                    Some(Ok(Message::Pong(_))) => return true,
                    Some(Ok(_)) => {}
                    _ => return false,
                }
            }
        });
        assert!(pong.await, "{dialect}");
    }
}

#[tokio::test]
async fn who_shows_no_token_is_no_failure_of_the_address_of_others() {
    // covers B09, B17
    let world = World::serving(&mahavishnu("auth_failures_per_minute = 2")).await;
    for _ in 0..5 {
        let mut client = upgraded(&world).await;
        client.say(json!({"type": "request", "event": "get_pool_status", "data": {}, "id": "q"})).await;
        assert_eq!(client.hear().await["error_code"], "AUTH_REQUIRED");
        assert_eq!(client.closed().await.0, 1008);
    }
    logged_in(&world, "mcp", "u1").await;
}

#[tokio::test]
async fn a_bad_token_in_the_request_is_closed_after_the_upgrade() {
    // covers B02, B04, B09
    let world = World::serving(&mahavishnu("")).await;
    let bearer = format!("Bearer {BAD}");
    let mut client = world.upgrade("/", &[("authorization", &bearer)]).await.expect("it is granted").0;
    assert_eq!(client.hear().await["type"], "error", "it gives up for ever on a close without a frame");
    assert_eq!(client.closed().await.0, 1008);
    let world = World::serving(&speaking("trishula", "")).await;
    let mut client = world.upgrade("/", &[("authorization", &bearer)]).await.expect("it is granted").0;
    assert_eq!(client.closed().await.0, 4401);
}
