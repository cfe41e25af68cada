//! Logins that fail, and those that do not: what counts against an address, and what a client's words come to.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::{Value, json};
use support::*;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::Message;
use trishula::metrics;
use trishula::rt::clock;

/// A client that has shown nothing yet.
async fn client(world: &World) -> Client {
    match world.upgrade("/", &[]).await {
        Ok((client, _)) => client,
        Err(WsError::Http(answer)) => panic!("{}", answer.status()),
        Err(e) => panic!("{e}"),
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

fn counted(event: &str) -> u64 {
    metrics::EDGE_REFUSED.with_label_values(&[event]).get()
}

/// A token for an agent with so many seconds left.
fn brief(agent: &str, seconds: u64) -> String {
    let claims = json!({"sub": agent, "permissions": ["admin"], "exp": clock::wall_ms() / 1000 + seconds});
    signed(SECRET, claims)
}

/// The first frames of an agent with this token, and what the last of them is answered with.
fn hello(dialect: &str, agent: &str, token: &str) -> (Vec<String>, &'static str) {
    let json = |frame: Value| vec![frame.to_string()];
    match dialect {
        "mcp" => {
            let frame = json!({"type": "request", "event": "auth", "data": {"token": token}, "id": "a"});
            (json(frame), "authenticated")
        }
        "session-buddy" => (json(json!({"token": token})), "connected"),
        "relay" => {
            let own = json!({"id": "self", "to": agent}).to_string();
            (vec![agent.into(), token.into(), own], "self")
        }
        _ => (json(json!({"type": "auth", "token": token})), "AUTHENTICATED"),
    }
}

/// A client that is in, with a token that has so many seconds left.
async fn logged_in(world: &World, dialect: &str, agent: &str, seconds: u64) -> Client {
    let mut client = client(world).await;
    let (said, answer) = hello(dialect, agent, &brief(agent, seconds));
    for text in said {
        client.send(Message::text(text)).await;
    }
    let heard = client.hear_text().await;
    assert!(heard.contains(answer), "{dialect}: {heard}");
    client
}

#[tokio::test]
async fn a_token_that_ends_amid_a_session_is_no_failed_login_of_its_address() {
    // covers B09, B17
    for (dialect, code) in [("trishula", 4401), ("mcp", 1008), ("session-buddy", 4001), ("relay", 1008)] {
        let world = World::serving(&format!(
            "[[service]]\nname = \"ends\"\ndialect = \"{dialect}\"\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"secret\"\n\
             auth_failures_per_minute = 1\n"
        ))
        .await;
        let before = counted("token_ended") + counted("auth_failed");
        let mut clients = Vec::new();
        for agent in ["one", "two", "three"] {
            clients.push(logged_in(&world, dialect, agent, 2).await);
        }
        for one in &mut clients {
            assert_eq!(one.closed().await.0, code, "{dialect}");
        }
        until("all ends are told", || counted("token_ended") + counted("auth_failed") >= before + 3).await;
        let _again = logged_in(&world, dialect, "one", 600).await;
        // Those that never were in count as before: two are one too many.
        for _ in 0..2 {
            let mut stranger = client(&world).await;
            for text in hello(dialect, "one", "eyJhbGciOiJIUzI1NiJ9.e30.x").0 {
                // One that is closed amid its words was refused.
                let _ = futures_util::SinkExt::send(&mut stranger.socket, Message::text(text)).await;
            }
            assert_eq!(stranger.closed().await.0, code, "{dialect}");
        }
        let blocked = async || match world.upgrade("/", &[]).await {
            Err(WsError::Http(answer)) => answer.status() == 429,
            _ => false,
        };
        for turn in 0.. {
            // It is counted when its session has ended.
            if blocked().await {
                break;
            }
            assert!(turn < 100, "{dialect}: it is still heard");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// A token that nobody has signed.
const WRONG: &str = "eyJhbGciOiJIUzI1NiJ9.e30.x";

/// A service where an address has three tries.
fn three_tries(dialect: &str) -> String {
    format!(
        "[[service]]\nname = \"tries\"\ndialect = \"{dialect}\"\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"secret\"\n\
         auth_failures_per_minute = 2\n"
    )
}

#[tokio::test]
async fn who_has_opened_many_connections_first_has_no_more_tries_with_tokens() {
    // covers B09, B17
    for (dialect, wrong, blocked) in
        [("trishula", 4401, 4029), ("mcp", 1008, 1008), ("session-buddy", 4001, 1008), ("relay", 1008, 1008)]
    {
        let world = World::serving(&three_tries(dialect)).await;
        // A client of session-buddy has five seconds for its token: all of them come in at once.
        let mut all = futures_util::future::join_all((0..8).map(|_| client(&world))).await;
        let before = counted("auth_failures");
        for n in 0..8 {
            // What comes after the tries is not looked at, be it as good as it may; and it is said at once.
            let says = if n < 3 {
                n..n + 1
            } else if n == 3 {
                3..8
            } else {
                0..0
            };
            for one in says {
                let token = if one == 7 { brief("one", 600) } else { WRONG.to_owned() };
                for text in hello(dialect, "one", &token).0 {
                    let _ = futures_util::SinkExt::send(&mut all[one].socket, Message::text(text)).await;
                }
            }
            let one = &mut all[n];
            if dialect == "mcp" {
                let error = one.hear().await;
                assert_eq!(
                    (&error["error_code"], &error["correlation_id"]),
                    (&json!("AUTH_FAILED"), &json!("a"))
                );
                let looked_at = error["error_message"] == "Invalid or expired token";
                assert_eq!(looked_at, n < 3, "{n}: {error}");
            }
            let (code, reason) = one.closed().await;
            assert_eq!(code, if n < 3 { wrong } else { blocked }, "{dialect}, {n}: {reason}");
            if n >= 3 && dialect != "mcp" {
                assert!(reason.starts_with("tokens from this address were wrong too often"), "{reason}");
            }
        }
        assert!(counted("auth_failures") >= before + 5, "{dialect}: each is counted");
    }
}

#[tokio::test]
async fn fresh_tokens_that_are_wrong_count_as_failed_logins_do() {
    // covers B09, B17
    for (dialect, code) in [("trishula", 4029), ("mcp", 1008)] {
        let world = World::serving(&three_tries(dialect)).await;
        let mut one = logged_in(&world, dialect, "one", 600).await;
        if dialect == "mcp" {
            assert_eq!(one.hear().await["event"], "session.created");
        }
        let before = [counted("auth_failed"), counted("auth_failures")];
        let refresh = match dialect {
            "mcp" => {
                json!({"type": "request", "event": "refresh_token", "data": {"token": WRONG}, "id": "f"})
            }
            _ => json!({"type": "AUTH", "id": "f", "token": WRONG}),
        };
        for _ in 0..3 {
            one.say(refresh.clone()).await;
            let refused = one.hear().await;
            assert_eq!(refused["type"].as_str().unwrap().to_lowercase(), "error", "{refused}");
        }
        let written = json!({"t\u{79}pe": "Auth", "id": "f", "token": WRONG}).to_string();
        match dialect {
            "mcp" => {
                one.say(refresh.clone()).await;
                let refused = one.hear().await;
                assert_eq!(
                    (&refused["error_code"], &refused["correlation_id"]),
                    (&json!("AUTH_FAILED"), &json!("f"))
                );
            }
            _ => one.send(Message::text(written.replace("\"type\"", "\"t\\u0079pe\""))).await,
        }
        assert_eq!(one.closed().await.0, code, "{dialect}");
        // Other tests count as well.
        let after = [counted("auth_failed"), counted("auth_failures")];
        assert!(after[0] >= before[0] + 3 && after[1] > before[1], "{dialect}: {before:?}, {after:?}");
    }
}

#[tokio::test]
async fn an_error_that_another_agent_writes_is_no_failed_login_of_who_gets_it() {
    // covers B09, B14
    let world = World::serving(&three_tries("trishula")).await;
    let mut bob = logged_in(&world, "trishula", "bob", 600).await;
    bob.say(json!({"type": "REGISTER"})).await;
    assert_eq!(bob.hear().await["type"], "REGISTERED");
    let mut mallory = logged_in(&world, "trishula", "mallory", 600).await;
    for n in 0..6 {
        let payload = json!({"code": "token_expired", "message": "x", "frame": "AUTH"});
        // As it is written: the type first, as in the words of the session itself.
        let forged = format!(
            r#"{{"type":"ERROR","from":"mallory","to":"bob","id":"x-{n}","timestamp":1,"error_code":"AUTH_FAILED","payload":{payload}}}"#
        );
        mallory.send(Message::text(forged)).await;
        let heard = bob.hear_text().await;
        assert!(heard.starts_with(r#"{"type":"ERROR","from":"mallory""#), "{heard}");
    }
    // Their address has all its tries left: three, and the last of them is still looked at.
    for _ in 0..3 {
        let mut stranger = client(&world).await;
        stranger.say(json!({"type": "AUTH", "token": WRONG})).await;
        assert_eq!(stranger.closed().await.0, 4401);
    }
}

/// Waits until the address is not heard any more, after so many wrong tokens over connections of their own.
async fn block(world: &World, dialect: &str) {
    for _ in 0..3 {
        let mut stranger = client(world).await;
        for text in hello(dialect, "one", WRONG).0 {
            let _ = futures_util::SinkExt::send(&mut stranger.socket, Message::text(text)).await;
        }
        stranger.closed().await;
    }
    for turn in 0.. {
        if matches!(world.upgrade("/", &[]).await, Err(WsError::Http(answer)) if answer.status() == 429) {
            return;
        }
        assert!(turn < 100, "{dialect}: it is still heard");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn who_is_in_stays_when_others_of_its_address_have_shown_wrong_tokens() {
    // covers B09, B17
    for dialect in ["trishula", "mcp"] {
        let world = World::serving(&three_tries(dialect)).await;
        let mut one = logged_in(&world, dialect, "one", 600).await;
        if dialect == "mcp" {
            assert_eq!(one.hear().await["event"], "session.created");
        }
        block(&world, dialect).await;
        let fresh = brief("one", 900);
        for n in 0..5 {
            let id = format!("f-{n}");
            if dialect == "mcp" {
                one.say(
                    json!({"type": "request", "event": "refresh_token", "data": {"token": fresh}, "id": id}),
                )
                .await;
                let refused = one.hear().await;
                assert_eq!(
                    (&refused["error_code"], &refused["correlation_id"]),
                    (&json!("AUTH_FAILED"), &json!(id))
                );
                let why = refused["error_message"].as_str().unwrap();
                assert!(why.starts_with("tokens from this address were wrong too often"), "{refused}");
            } else {
                one.say(json!({"type": "AUTH", "id": id, "token": fresh})).await;
                let refused = one.hear().await;
                assert_eq!((&refused["type"], &refused["reply_to"]), (&json!("ERROR"), &json!(id)));
                assert_eq!(refused["payload"]["code"], "rate_limited");
                assert_eq!(refused["payload"]["frame"], "AUTH");
                assert!(refused["payload"]["retry_after_ms"].as_u64().unwrap() > 0, "{refused}");
            }
        }
        let (ping, pong) = if dialect == "mcp" { ("ping", "pong") } else { ("HEARTBEAT", "HEARTBEAT") };
        one.say(json!({"type": ping})).await;
        assert_eq!(one.hear().await["type"], pong, "{dialect}: it is still in");
    }
}

#[tokio::test]
async fn where_no_token_is_needed_each_wrong_one_counts() {
    // covers B09, B17
    let world = World::serving(
        "[[service]]\nname = \"open\"\ndialect = \"trishula\"\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"secret\"\nauth = false\n\
         auth_failures_per_minute = 2\n",
    )
    .await;
    let mut one = client(&world).await;
    for _ in 0..3 {
        one.say(json!({"type": "AUTH", "id": "a", "token": WRONG})).await;
        assert_eq!(one.hear().await["payload"]["code"], "token_invalid");
    }
    one.say(json!({"type": "AUTH", "id": "a", "token": WRONG})).await;
    assert_eq!(one.closed().await.0, 4029);
}

#[tokio::test]
async fn requests_that_are_refused_are_all_counted() {
    // covers B09, B17
    let world = World::serving(&three_tries("mcp")).await;
    let before = counted("handshake");
    for _ in 0..20 {
        let (status, ..) = world.get("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert_eq!(status, 426);
    }
    assert!(counted("handshake") >= before + 20);
}

#[tokio::test]
async fn each_connection_of_a_user_with_a_long_name_is_an_agent_of_its_own() {
    // covers B03, B15
    let world = World::serving(&three_tries("mcp")).await;
    let bearer = format!("Bearer {}", brief("watcher", 600));
    let ours = [("authorization", bearer.as_str()), ("sec-websocket-protocol", "trishula.v2+json")];
    let mut watcher = world.upgrade("/", &ours).await.unwrap().0;
    watcher.say(json!({"type": "REGISTER"})).await;
    assert_eq!(watcher.hear().await["type"], "REGISTERED");
    for user in ["x".repeat(55), "y".repeat(56), "z".repeat(64)] {
        let _both = [logged_in(&world, "mcp", &user, 600).await, logged_in(&world, "mcp", &user, 600).await];
        for turn in 0.. {
            watcher.say(json!({"type": "AGENTS", "id": "a"})).await;
            let list = watcher.hear().await;
            let agents = list["payload"]["agents"].as_array().unwrap();
            let names = agents.iter().map(|agent| agent["agent"].as_str().unwrap().to_owned());
            let own = names.filter(|name| name.starts_with(&user[..24]) && *name != user).count();
            if own == 2 {
                break;
            }
            assert!(turn < 100, "{user}: {list}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// Whether a metric has a channel of this name.
fn shows(channel: &str) -> bool {
    metrics::render().contains(&format!("channel=\"{channel}\""))
}

#[tokio::test]
async fn rooms_that_somebody_names_who_is_not_known_are_no_labels() {
    // covers B17, B22
    let world = World::start().await;
    let publish = |room: &str| json!({"type": "PUBLISH", "to": format!("room:{room}"), "payload": 1});
    let mut stranger = client(&world).await;
    stranger.say(publish("stranger-1")).await;
    assert_eq!(stranger.closed().await.0, 4401);
    let open = World::serving(
        "[[service]]\nname = \"open\"\nlisten = [\"127.0.0.1:0\"]\nauth = false\nanonymous_permissions = [\"*\"]\n",
    )
    .await;
    let mut anonymous = client(&open).await;
    // Where no token is read, everybody is told so.
    anonymous.say(json!({"type": "auth", "token": "x"})).await;
    assert_eq!(anonymous.hear().await["type"], "AUTHENTICATED");
    // By a token in the request, and by one in the first frame.
    let mut asked = world.client("dc").await;
    let mut first = client(&world).await;
    first.say(json!({"type": "auth", "token": token("agni")})).await;
    assert_eq!(first.hear().await["type"], "AUTHENTICATED");
    let named = async |client: &mut Client, room: &str| {
        client.say(publish(room)).await;
        client.say(json!({"type": "HEARTBEAT"})).await;
        // What is answered was read after what came before it was done with.
        while client.hear().await["type"] != "HEARTBEAT" {}
    };
    named(&mut anonymous, "anonymous-1").await;
    named(&mut asked, "known-1").await;
    named(&mut first, "known-2").await;
    named(&mut first, "a*b").await;
    assert!(shows("known-1") && shows("known-2"), "{}", metrics::render());
    for room in ["stranger-1", "anonymous-1", "a*b"] {
        assert!(!shows(room), "{room}");
    }
}

#[tokio::test]
async fn a_token_that_says_it_lives_longer_than_the_service_lets_it_is_cut() {
    // covers B02, B03
    let world = World::serving(
        "[[service]]\nname = \"brief\"\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"secret\"\ntoken_expiry = 2\n",
    )
    .await;
    let now = clock::wall_ms() / 1000;
    let shown = async |iat: u64| {
        let mut client = client(&world).await;
        let claims = json!({"sub": "dc", "iat": iat, "exp": now + 3600});
        client.say(json!({"type": "auth", "token": signed(SECRET, claims)})).await;
        (client.hear().await, client)
    };
    let (said, mut client) = shown(now).await;
    assert_eq!(said["payload"]["expires_at"], (now + 2) * 1000, "{said}");
    assert_eq!(client.closed().await.0, 4401, "after two seconds");
    let (said, mut client) = shown(now - 60).await;
    assert_eq!(said["payload"]["code"], "token_expired", "{said}");
    assert_eq!(client.closed().await.0, 4401);
}

#[tokio::test]
async fn by_default_a_token_is_good_for_an_hour_here_and_as_long_as_it_says_where_it_was() {
    // covers B02, B03
    let at = |preset: &str| {
        format!("[[service]]\npreset = \"{preset}\"\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"secret\"\n")
    };
    let now = clock::wall_ms() / 1000;
    let claims = |iat: u64| json!({"sub": "dc", "iat": iat, "exp": now + 24 * 3600});
    let world = World::serving(&at("trishula")).await;
    let mut fresh = client(&world).await;
    fresh.say(json!({"type": "auth", "token": signed(SECRET, claims(now))})).await;
    let said = fresh.hear().await;
    assert_eq!(said["payload"]["expires_at"], (now + 3600) * 1000, "{said}");
    let mut stale = client(&world).await;
    stale.say(json!({"type": "auth", "token": signed(SECRET, claims(now - 3601))})).await;
    assert_eq!(stale.hear().await["payload"]["code"], "token_expired");
    assert_eq!(stale.closed().await.0, 4401);
    let world = World::serving(&at("fastblocks")).await;
    let token = signed(SECRET, claims(now - 3601));
    let headers = [("authorization", format!("Bearer {token}"))];
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut old = world.upgrade("/", &headers).await.unwrap().0;
    assert_eq!(old.hear().await["event"], "session.created");
}
