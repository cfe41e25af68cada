//! One edge, many services: each with its dialect, secret, rules and limits.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::{Value, json};
use support::*;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use trishula::identity::Role;
use trishula::identity::profile::Request;
use trishula::rt::clock;
use trishula::wire::ids::NodeName;

/// The secret of another service.
const OTHER: &[u8] = b"another secret of the tests, long enough to be one";

/// An edge with these services, and a node behind it.
async fn serving(services: &str) -> World {
    let machine = Machine::new();
    std::fs::write(machine.folder.path().join("other"), OTHER).unwrap();
    let config = machine.configure_services(services);
    let mut world = World::start_on(machine, config);
    world.connect(1).await;
    world
}

/// A preset on a port of the system's choice.
fn preset(name: &str, more: &str) -> String {
    format!(
        "[[service]]\npreset = \"{name}\"\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"secret\"\n{more}\n"
    )
}

/// A port that is free now.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// As old clients connect: path `/`, and nothing else.
async fn old(world: &World) -> Client {
    connect(world, world.address(), "localhost", &[]).await.unwrap()
}

async fn connect(
    world: &World,
    at: SocketAddr,
    host: &str,
    headers: &[(&'static str, &str)],
) -> Result<Client, WsError> {
    let mut request = format!("wss://{host}/").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let stream = world.machine.tls_as(host, at).await;
    let (socket, _) = soon(tokio_tungstenite::client_async(request, stream)).await?;
    Ok(Client { socket })
}

fn claims(user: &str, permissions: &[&str]) -> Value {
    json!({"user_id": user, "permissions": permissions, "exp": clock::wall_ms() / 1000 + 600})
}

fn auth(token: &str) -> Value {
    json!({"type": "request", "event": "auth", "data": {"token": token}, "id": "a"})
}

/// A client of the envelope that has shown its token and was greeted.
async fn greeted(world: &World, permissions: &[&str]) -> Client {
    let mut client = old(world).await;
    client.say(auth(&signed(SECRET, claims("u1", permissions)))).await;
    let answer = client.hear().await;
    assert_eq!(
        (&answer["type"], &answer["status"]),
        (&json!("response"), &json!("authenticated")),
        "{answer}"
    );
    assert_eq!(client.hear().await["event"], "session.created");
    client
}

async fn subscribe(client: &mut Client, channel: &str) -> Value {
    client
        .say(json!({"type": "request", "event": "subscribe", "data": {"channel": channel}, "id": "s"}))
        .await;
    client.hear().await
}

/// What a counter shows.
fn counted(name: &str, label: &str) -> u64 {
    let text = trishula::metrics::render();
    let line = text.lines().find(|line| line.starts_with(name) && line.contains(label));
    line.and_then(|line| line.rsplit(' ').next()).map_or(0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn a_preset_serves_old_clients_in_their_own_words() {
    // covers B01, B03, B06, B27 01, B27 02
    let world = serving(&preset("mahavishnu", "")).await;
    let mut client = greeted(&world, &["pool:read"]).await;
    let asked = clock::now();
    client
        .say(json!({"type": "request", "event": "get_pool_status", "data": {"pool_id": "p"}, "id": "q"}))
        .await;
    let answer = client.hear().await;
    assert_eq!((&answer["error_code"], &answer["correlation_id"]), (&json!("SERVER_ERROR"), &json!("q")));
    assert!(clock::since(asked) < Duration::from_secs(1), "nobody serves it, and that is said at once");
    let mut late = old(&world).await;
    let mut over = claims("u1", &[]);
    over["exp"] = json!(clock::wall_ms() / 1000 - 1);
    late.say(auth(&signed(SECRET, over))).await;
    let refused = late.hear().await;
    assert_eq!(refused["error_code"], "AUTH_FAILED");
    assert!(refused["error_message"].as_str().unwrap().contains("expired"), "{refused}");
    assert_eq!(late.closed().await.0, 1008);
}

#[tokio::test]
async fn both_shapes_of_token_are_taken_and_neither_without_its_service() {
    // covers B03
    let world = serving(&preset("crackerjack", "")).await;
    for (claims, good) in [
        (json!({"user_id": "u", "permissions": ["crackerjack: read"]}), true),
        (json!({"sub": "u", "iss": "crackerjack", "aud": "crackerjack", "scopes": ["read"]}), true),
        (json!({"sub": "u", "aud": "akosha", "scopes": ["read"]}), false),
        (json!({"user_id": "u", "permissions": "admin"}), false),
    ] {
        let mut client = old(&world).await;
        client.say(auth(&signed(SECRET, claims.clone()))).await;
        assert_eq!(client.hear().await["type"] == "response", good, "{claims}");
    }
}

#[tokio::test]
async fn a_token_in_the_request_greets_at_once_and_a_bad_one_is_told_after_the_upgrade() {
    // covers B04, B06
    let world = serving(&preset("mahavishnu", "")).await;
    let bearer = format!("Bearer {}", signed(SECRET, claims("u1", &["pool:read"])));
    let mut client =
        connect(&world, world.address(), "localhost", &[("authorization", &bearer)]).await.unwrap();
    let greeting = client.hear().await;
    assert_eq!(
        (&greeting["event"], &greeting["data"]["authenticated"]),
        (&json!("session.created"), &json!(true))
    );
    client.say(json!({"type": "ping", "id": "p"})).await;
    assert_eq!(client.hear().await["type"], "pong");
    // With an HTTP status the package's client would never come back.
    let bad = [("authorization", "Bearer nonsense")];
    let mut client = connect(&world, world.address(), "localhost", &bad).await.unwrap();
    assert_eq!(client.hear().await["type"], "error");
    assert_eq!(client.closed().await.0, 1008);
}

#[tokio::test]
async fn a_port_that_two_services_share_is_told_by_the_first_frame() {
    // covers B01, B06
    let at = free_port();
    let world = serving(&format!(
        "[[service]]\npreset = \"trishula\"\nlisten = [\"{at}\"]\nsecret_file = \"secret\"\n\
         [[service]]\npreset = \"session-buddy\"\nlisten = [\"{at}\"]\nsecret_file = \"other\"\n"
    ))
    .await;
    let mut ours = old(&world).await;
    ours.say(json!({"type": "auth", "token": token("dc")})).await;
    let answer = ours.hear().await;
    assert_eq!(
        (&answer["type"], &answer["payload"]["namespace"]),
        (&json!("AUTHENTICATED"), &json!("trishula"))
    );
    let mut buddy = old(&world).await;
    buddy.say(json!({"token": signed(OTHER, claims("u1", &[]))})).await;
    assert_eq!(buddy.hear().await["type"], "connected");
    let mut foreign = old(&world).await;
    foreign.say(json!({"token": token("u1")})).await;
    assert_eq!(foreign.closed().await, (4001, "Authentication failed".into()), "each has its own secret");
    // Nothing within a second: session-buddy's clients wait for a greeting, here in vain, for want of a token.
    let mut silent = old(&world).await;
    assert_eq!(silent.closed().await.0, 4001);
    let mut known = world.client("dc").await;
    known.say(json!({"type": "REGISTER"})).await;
    assert_eq!(known.hear().await["type"], "REGISTERED", "a token in the request is ours");
}

#[tokio::test]
async fn a_full_service_is_nothing_to_others_of_its_port() {
    // covers B01, B09
    let at = free_port();
    let world = serving(&format!(
        "[[service]]\npreset = \"trishula\"\nlisten = [\"{at}\"]\nsecret_file = \"secret\"\nmax_connections = 1\n\
         refuse = \"http\"\n\
         [[service]]\npreset = \"session-buddy\"\nlisten = [\"{at}\"]\nsecret_file = \"other\"\n"
    ))
    .await;
    let hello = json!({"token": signed(OTHER, claims("u1", &[]))});
    let mut first = old(&world).await;
    first.say(hello.clone()).await;
    assert_eq!(first.hear().await["type"], "connected");
    // It has room of its own service only, so there is some at the other.
    let mut ours = old(&world).await;
    ours.say(json!({"type": "auth", "token": token("dc")})).await;
    assert_eq!(ours.hear().await["type"], "AUTHENTICATED");
    // That one is full now, which is nothing to clients of this.
    let mut second = old(&world).await;
    second.say(hello).await;
    assert_eq!(second.hear().await["type"], "connected");
    let mut more = old(&world).await;
    more.say(json!({"type": "auth", "token": token("dc")})).await;
    assert_eq!(more.closed().await.0, 1013);
    let named = connect(&world, at, "localhost", &[("sec-websocket-protocol", "trishula.v2+json")]).await;
    match named {
        Err(WsError::Http(answer)) => assert_eq!(answer.status(), 503, "who asks by name means it"),
        _ => panic!("it was let in"),
    }
}

#[tokio::test]
async fn connections_in_all_are_limited_and_each_port_tells_who_finds_no_room() {
    // covers B09
    let ports = [free_port(), free_port()];
    let services = ports.iter().zip(["trishula", "dhruva"]).map(|(at, name)| {
        format!("[[service]]\npreset = \"{name}\"\nlisten = [\"{at}\"]\nsecret_file = \"secret\"\n")
    });
    let world = serving(&format!("[edge]\nmax_connections = 3\n{}", services.collect::<String>())).await;
    let bearer = format!("Bearer {}", token("dc"));
    let headers = [("authorization", bearer.as_str()), ("sec-websocket-protocol", "trishula.v2+json")];
    let ours = async || connect(&world, ports[0], "localhost", &headers).await;
    let theirs = async || {
        let mut client = connect(&world, ports[1], "localhost", &[]).await.unwrap();
        client.say(auth(&signed(SECRET, claims("u1", &[])))).await;
        (client.hear().await, client)
    };
    let mut held = vec![ours().await.unwrap()];
    for _ in 0..2 {
        let (heard, client) = theirs().await;
        assert_eq!(heard["status"], "authenticated", "{heard}");
        held.push(client);
    }
    // Both services have room, and the edge has none: it says so at once, on each port in its way, as often as it is asked.
    let before = counted("trishula_edge_refused_total", "\"all_full\"");
    for _ in 0..2 {
        match ours().await {
            Err(WsError::Http(answer)) => assert_eq!(answer.status(), 503),
            other => panic!("{:?}", other.map(|_| "let in")),
        }
        let mut full = connect(&world, ports[1], "localhost", &[]).await.unwrap();
        assert_eq!(full.hear().await["error_message"], "Server at maximum capacity");
        assert_eq!(full.closed().await.0, 1013);
    }
    assert_eq!(counted("trishula_edge_refused_total", "\"all_full\""), before + 4);
    // A seat that comes free on one port is one on the other.
    drop(held.remove(0));
    for turn in 0.. {
        let (heard, client) = theirs().await;
        if heard["status"] == "authenticated" {
            held.push(client);
            break;
        }
        assert!(turn < 100, "no room came free: {heard}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(ours().await.is_err());
}

#[tokio::test]
async fn one_service_may_speak_all_dialects() {
    // covers B01, B06
    let world = serving(
        "[[service]]\nname = \"all\"\ndialect = \"auto\"\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"secret\"\n",
    )
    .await;
    let token = |user| signed(SECRET, claims(user, &[]));
    let mut ours = old(&world).await;
    ours.say(json!({"type": "auth", "token": token("dc")})).await;
    assert_eq!(ours.hear().await["type"], "AUTHENTICATED");
    let mut envelope = old(&world).await;
    envelope.say(auth(&token("u1"))).await;
    assert_eq!(envelope.hear().await["event"], "auth");
    let mut buddy = old(&world).await;
    buddy.say(json!({"token": token("u2")})).await;
    assert_eq!(buddy.hear().await["type"], "connected");
    let mut relay = old(&world).await;
    for text in ["agni", &token("agni"), r#"{"id": "self","to":"agni"}"#] {
        relay.send(tokio_tungstenite::tungstenite::Message::text(text)).await;
    }
    assert_eq!(relay.hear_text().await, r#"{"id": "self","to":"agni"}"#);
}

#[tokio::test]
async fn services_on_one_port_are_told_by_name_each_with_its_certificate() {
    // covers B01, B10
    let (at, machine) = (free_port(), Machine::new());
    let now = clock::wall().into();
    let role = Role::Edge(NodeName::new("agni").unwrap());
    let named =
        machine.ca.issue(&Request::public(role, vec!["ws-akosha.example.com".into()], vec![]), now).unwrap();
    let (certificate, key) = named.pair();
    for (name, text) in [("akosha.pem", certificate), ("akosha.key", key)] {
        let path = machine.folder.path().join(name);
        std::fs::write(&path, text.as_bytes()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let config = machine.configure_services(&format!(
        "[[service]]\npreset = \"dhruva\"\nlisten = [\"{at}\"]\nsecret_file = \"secret\"\n\
         [[service]]\npreset = \"akosha\"\nlisten = [\"{at}\"]\nsecret_file = \"secret\"\n\
         names = [\"ws-akosha.example.com\"]\ncert_file = \"akosha.pem\"\nkey_file = \"akosha.key\"\n"
    ));
    let mut world = World::start_on(machine, config);
    world.connect(1).await;
    let token = signed(SECRET, claims("u1", &[]));
    for (sni, host, server) in [
        ("localhost", "localhost", "dhruva"),
        // The certificate for this name is the service's own, or the handshake would fail.
        ("ws-akosha.example.com", "ws-akosha.example.com:443", "akosha"),
        ("127.0.0.1", "WS-akosha.example.com", "akosha"),
        ("127.0.0.1", "elsewhere.example.com", "dhruva"),
        ("ws-akosha.example.com", "localhost", "akosha"),
    ] {
        let mut client = connect(&world, at, sni, &[("host", host)]).await.unwrap();
        client.say(auth(&token)).await;
        assert_eq!(client.hear().await["type"], "response");
        assert_eq!(client.hear().await["data"]["server"], server, "{sni} {host}");
    }
}

#[tokio::test]
async fn who_finds_no_room_is_told_after_the_upgrade_or_by_a_status() {
    // covers B09, B19
    let world = serving(&preset("mahavishnu", "max_connections = 1")).await;
    let first = greeted(&world, &[]).await;
    let before = counted("trishula_edge_refused_total", "\"full\"");
    let mut second = old(&world).await;
    let told = second.hear().await;
    assert_eq!(
        (&told["type"], &told["error_message"]),
        (&json!("error"), &json!("Server at maximum capacity"))
    );
    assert_eq!(second.closed().await.0, 1013);
    assert!(counted("trishula_edge_refused_total", "\"full\"") > before);
    drop(first);
    until_let_in(&world).await;

    let world = serving(&preset("trishula", "max_connections = 1")).await;
    let _first = world.registered("dc").await;
    match world.upgrade("/ws", &[]).await {
        Err(WsError::Http(answer)) => {
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()["retry-after"]),
                (503, &"1".parse().unwrap())
            );
        }
        other => panic!("{:?}", other.map(|_| "let in")),
    }
}

/// Room is free again a moment after a client is gone.
async fn until_let_in(world: &World) {
    for _ in 0..100 {
        let mut client = old(world).await;
        client.say(auth(&signed(SECRET, claims("u1", &[])))).await;
        if client.hear().await["type"] == "response" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no room came free");
}

#[tokio::test]
async fn one_address_gets_no_more_connections_than_its_share() {
    // covers B09
    let world = serving(&preset("trishula", "max_connections_per_address = 2")).await;
    let (_one, _two) = (world.registered("a").await, world.registered("b").await);
    match world.upgrade("/ws", &[]).await {
        Err(WsError::Http(answer)) => assert_eq!(answer.status().as_u16(), 429),
        other => panic!("{:?}", other.map(|_| "let in")),
    }
}

#[tokio::test]
async fn an_address_with_too_many_bad_tokens_is_not_heard_for_a_while() {
    // covers B09, B17
    let world = serving(&preset("trishula", "auth_failures_per_minute = 3")).await;
    let bad = [("authorization", "Bearer nonsense")];
    let status = async |headers: &[(&'static str, &str)]| match world.upgrade("/ws", headers).await {
        Err(WsError::Http(answer)) => answer.status().as_u16(),
        other => panic!("{:?}", other.map(|_| "let in")),
    };
    let before = counted("trishula_edge_refused_total", "\"token\"");
    for _ in 0..2 {
        assert_eq!(status(&bad).await, 401);
    }
    // By the first frame it counts as well.
    for _ in 0..2 {
        let mut client = world.upgrade("/ws", &[]).await.unwrap().0;
        client.say(json!({"type": "auth", "token": "nonsense"})).await;
        assert_eq!(client.closed().await.0, 4401);
    }
    let good = format!("Bearer {}", token("dc"));
    for _ in 0..100 {
        // The last one is counted when its session has ended.
        match world.upgrade("/ws", &[("authorization", &good)]).await {
            Err(WsError::Http(answer)) => {
                assert_eq!(answer.status().as_u16(), 429);
                assert!(answer.headers().contains_key("retry-after"));
                assert!(counted("trishula_edge_refused_total", "\"token\"") >= before + 4);
                return;
            }
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(e) => panic!("{e}"),
        }
    }
    panic!("it is still heard");
}

#[tokio::test]
async fn over_the_rate_the_envelope_is_told_and_stays_and_so_is_ours() {
    // covers B09, B19
    let world = serving(&preset("mahavishnu", "message_rate_limit = 4")).await;
    let mut client = greeted(&world, &[]).await;
    for n in 0..20 {
        client.say(json!({"type": "ping", "id": n.to_string()})).await;
    }
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(client.hear().await);
    }
    let refused = answers.iter().filter(|answer| answer["error_code"] == "RATE_LIMIT_EXCEEDED").count();
    assert!((10..=14).contains(&refused), "{refused}");
    let world = serving(&preset("trishula", "message_rate_limit = 4")).await;
    let mut client = world.registered("dc").await;
    for n in 0..20 {
        client.say(json!({"type": "HEARTBEAT", "id": format!("h{n}")})).await;
    }
    let (mut beats, mut refused) = (0, Vec::new());
    for _ in 0..20 {
        let answer = client.hear().await;
        match answer["type"] == "ERROR" {
            true => refused.push(answer),
            false => beats += 1,
        }
    }
    assert!((4..=8).contains(&beats), "{beats}");
    assert_eq!(refused[0]["payload"]["code"], "rate_limited");
    assert!(refused[0]["payload"]["retry_after_ms"].as_u64().unwrap() > 0, "{}", refused[0]);
    assert!(refused[0]["reply_to"].as_str().unwrap().starts_with('h'));
}

#[tokio::test]
async fn frames_of_one_address_count_together() {
    // covers B09
    let world = serving(&preset("mahavishnu", "message_rate_limit_per_address = 4")).await;
    let (mut one, mut other) = (greeted(&world, &[]).await, greeted(&world, &[]).await);
    let mut refused = 0;
    for _ in 0..6 {
        for client in [&mut one, &mut other] {
            client.say(json!({"type": "ping"})).await;
            refused += usize::from(client.hear().await["type"] == "error");
        }
    }
    assert!(refused >= 4, "{refused}");
}

#[tokio::test]
async fn who_says_nothing_and_hears_nothing_for_long_is_closed() {
    // covers B09
    let world = serving(&preset("trishula", "connection_timeout = 1")).await;
    let mut client = world.registered("dc").await;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.say(json!({"type": "HEARTBEAT"})).await;
        assert_eq!(client.hear().await["type"], "HEARTBEAT");
    }
    assert_eq!(client.closed().await, (1001, "idle".into()));
}

#[tokio::test]
async fn the_operators_rules_stand_over_the_presets() {
    // covers B05
    let rules = "[[service.room]]\npattern = \"pool:*\"\nread = [\"pools\"]\n\
                 [[service.room]]\npattern = \"workflow:w1\"\nadmin_only = true\n";
    let world = serving(&preset("mahavishnu", rules)).await;
    let denied = async |permissions: &[&str], channel: &str| {
        let mut client = greeted(&world, permissions).await;
        subscribe(&mut client, channel).await["error_code"] == "FORBIDDEN"
    };
    assert!(denied(&["pool:read"], "pool:p1").await && !denied(&["pools"], "pool:p1").await);
    assert!(
        !denied(&["workflow:read"], "workflow:w2").await && denied(&["workflow:read"], "workflow:w1").await
    );
    assert!(!denied(&["admin"], "workflow:w1").await && denied(&["read"], "admin:controls").await);
}

#[tokio::test]
async fn without_a_token_all_is_allowed_as_it_was_unless_the_operator_says_otherwise() {
    // covers B02, B05
    let open = "require_auth = false";
    let nothing = "require_auth = false\nanonymous_permissions = []";
    let some = "require_auth = false\nanonymous_permissions = [\"pool:read\"]";
    for (more, pools, all) in [(open, true, true), (nothing, false, false), (some, true, false)] {
        let world = serving(&preset("mahavishnu", more)).await;
        let mut client = old(&world).await;
        let greeting = client.hear().await;
        assert_eq!(greeting["data"]["authenticated"], false, "{greeting}");
        assert_eq!(subscribe(&mut client, "pool:p1").await["error_code"] != "FORBIDDEN", pools, "{more}");
        assert_eq!(subscribe(&mut client, "global").await["error_code"] != "FORBIDDEN", all, "{more}");
        // Who shows a token has its permissions, and what all may do.
        let mut known = greeted(&world, &["worker:read"]).await;
        assert_eq!(subscribe(&mut known, "worker:w1").await["error_code"], Value::Null, "{more}");
        assert_eq!(subscribe(&mut known, "global").await["error_code"] != "FORBIDDEN", all, "{more}");
    }
    let own = "[[service]]\nname = \"own\"\ndialect = \"mcp\"\nroom = []\nlisten = [\"127.0.0.1:0\"]\nauth = false\n";
    let world = serving(own).await;
    let mut client = old(&world).await;
    client.hear().await;
    assert_eq!(
        subscribe(&mut client, "pool:p1").await["error_code"],
        "FORBIDDEN",
        "no preset, no permission"
    );
}

#[tokio::test]
async fn an_agent_of_another_service_comes_in_only_where_a_rule_lets_it() {
    // covers B15, B27 13
    let services = |rule: &str| {
        let akosha =
            "[[service]]\npreset = \"akosha\"\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"other\"\n";
        preset("crackerjack", "") + akosha + rule
    };
    let foreign = |permissions: &[&str]| signed(OTHER, claims("indexer", permissions));
    let answer = async |world: &World, token: &str| {
        let mut client = old(world).await;
        client.say(auth(token)).await;
        (client.hear().await, client)
    };
    let walls = serving(&services("")).await;
    assert_eq!(answer(&walls, &foreign(&["service:communicate"])).await.0["error_code"], "AUTH_FAILED");

    let rule = "[[rule]]\nfrom = \"akosha\"\nto = \"crackerjack\"\npermissions = [\"service:communicate\"]\n\
                grants = [\"crackerjack:read\"]\n";
    let world = serving(&services(rule)).await;
    assert_eq!(answer(&world, &foreign(&["akosha:read"])).await.0["error_code"], "AUTH_FAILED");
    let (said, mut guest) = answer(&world, &foreign(&["service:communicate", "admin"])).await;
    assert_eq!(said["data"]["user_id"], "akosha.indexer", "{said}");
    assert_eq!(guest.hear().await["event"], "session.created");
    assert_ne!(subscribe(&mut guest, "test:r1").await["error_code"], "FORBIDDEN", "the rule grants it");
    assert_eq!(
        subscribe(&mut guest, "global").await["error_code"],
        "FORBIDDEN",
        "admin there is nothing here"
    );
    // The other way there is no rule.
    let mut wrong = connect(&world, world.edge.addresses()[1], "localhost", &[]).await.unwrap();
    wrong.say(auth(&signed(SECRET, claims("u1", &["service:communicate"])))).await;
    assert_eq!(wrong.hear().await["error_code"], "AUTH_FAILED");

    // The service here answers it, as it does its own clients.
    let bearer = format!("Bearer {}", signed(SECRET, claims("service", &[])));
    let headers = [("authorization", bearer.as_str()), ("sec-websocket-protocol", "trishula.v2+json")];
    let mut service = connect(&world, world.address(), "localhost", &headers).await.unwrap();
    service.say(json!({"type": "REGISTER"})).await;
    assert_eq!(service.hear().await["type"], "REGISTERED");
    guest
        .say(json!({"type": "request", "event": "get_test_status", "data": {"run_id": "r"}, "id": "q"}))
        .await;
    let asked = service.hear().await;
    assert!(asked["from"].as_str().unwrap().starts_with("akosha.indexer."), "{asked}");
    service
        .say(json!({"type": "RESULT", "to": asked["from"], "reply_to": asked["id"], "payload": {"data": {"run_id": "r"}}}))
        .await;
    assert_eq!(guest.hear().await["data"], json!({"run_id": "r"}));
}

#[tokio::test]
async fn our_own_clients_have_the_rules_of_their_service_as_well() {
    // covers B05
    let world = serving(&preset("mahavishnu", "")).await;
    let refused = async |user: &str, permissions: &[&str], frame: Value| {
        let bearer = format!("Bearer {}", signed(SECRET, claims(user, permissions)));
        let headers = [("authorization", bearer.as_str()), ("sec-websocket-protocol", "trishula.v2+json")];
        let mut client = connect(&world, world.address(), "localhost", &headers).await.unwrap();
        client.say(json!({"type": "REGISTER"})).await;
        assert_eq!(client.hear().await["type"], "REGISTERED");
        client.say(frame).await;
        client.say(json!({"type": "HEARTBEAT"})).await;
        client.hear().await["payload"]["code"] == "forbidden"
    };
    let subscribe = |room: &str| json!({"type": "SUBSCRIBE", "to": format!("room:{room}"), "id": "s"});
    let publish =
        |room: &str| json!({"type": "PUBLISH", "to": format!("room:{room}"), "payload": 1, "id": "p"});
    assert!(refused("a", &["workflow:read"], subscribe("pool:p1")).await);
    assert!(!refused("b", &["pool:read"], subscribe("pool:p1")).await);
    assert!(refused("c", &["pool:read"], publish("pool:p1")).await, "clients only read");
    assert!(refused("d", &[], json!({"type": "HISTORY", "to": "room:pool:p1"})).await);
    assert!(refused("e", &[], json!({"type": "PRESENCE", "to": "room:global"})).await);
    assert!(!refused("f", &["admin"], publish("global")).await);
    assert!(!refused("service", &[], publish("pool:p1")).await, "the service feeds its rooms");
}
