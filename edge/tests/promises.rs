//! What the documents promise and a client sees on its socket: tokens of public keys, their end and their renewal, rates of
//! bytes, pings that nobody answers, and a token in the request where services share a port.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::PublicKeyData;
use serde_json::{Value, json};
use support::*;
use tokio_tungstenite::tungstenite::Error as WsError;
use trishula::metrics;
use trishula::rt::clock;

/// The secret of another service.
const OTHER: &[u8] = b"another secret of the tests, long enough to be one";

async fn serving(services: &str, more: impl FnOnce(&Machine)) -> World {
    let machine = Machine::new();
    more(&machine);
    World::serving_from(machine, services).await
}

fn preset(name: &str, more: &str) -> String {
    format!(
        "[[service]]\npreset = \"{name}\"\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"secret\"\n{more}\n"
    )
}

fn claims(user: &str, seconds: u64) -> Value {
    json!({"sub": user, "exp": clock::wall_ms() / 1000 + seconds})
}

async fn client(world: &World) -> Client {
    world.upgrade("/", &[]).await.unwrap().0
}

/// One that has sent its token as its first frame.
async fn logged_in(world: &World, seconds: u64) -> Client {
    let mut client = client(world).await;
    client.say(json!({"type": "AUTH", "token": signed(SECRET, claims("dc", seconds))})).await;
    assert_eq!(client.hear().await["type"], "AUTHENTICATED");
    client.say(json!({"type": "REGISTER"})).await;
    assert_eq!(client.hear().await["type"], "REGISTERED");
    client
}

/// A client of the envelope that is in.
async fn greeted(world: &World) -> Client {
    let mut old = client(world).await;
    let claims = json!({"user_id": "u", "permissions": [], "exp": clock::wall_ms() / 1000 + 600});
    let token = signed(SECRET, claims);
    old.say(json!({"type": "request", "event": "auth", "data": {"token": token}, "id": "a"})).await;
    assert_eq!(old.hear().await["status"], "authenticated");
    assert_eq!(old.hear().await["event"], "session.created");
    old
}

#[tokio::test]
async fn es256_opens_and_its_public_key_as_a_secret_or_a_path_as_its_name_does_not() {
    // covers B03, B09, B27 04
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let signs = EncodingKey::from_ec_der(&pair.serialize_der());
    // Uncompressed: 4, x, y.
    let raw = pair.public_key_raw().to_vec();
    let [x, y] = [&raw[1..33], &raw[33..]].map(|part| URL_SAFE_NO_PAD.encode(part));
    let key = json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": "ec", "use": "sig"});
    let jwks = json!({"keys": [key]}).to_string();
    let service = "[[service]]\nname = \"keys\"\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"secret\"\n\
                   jwks_file = \"jwks.json\"\n";
    let put = |machine: &Machine| std::fs::write(machine.folder.path().join("jwks.json"), &jwks).unwrap();
    let world = serving(service, put).await;
    let status = async |algorithm, kid: &str, key: &EncodingKey| {
        let header = Header { kid: Some(kid.into()), ..Header::new(algorithm) };
        let token = jsonwebtoken::encode(&header, &claims("dc", 600), key).unwrap();
        let bearer = format!("Bearer {token}");
        match world.upgrade("/ws", &[("authorization", &bearer)]).await {
            Ok((mut client, _)) => {
                client.say(json!({"type": "REGISTER"})).await;
                assert_eq!(client.hear().await["payload"]["agent"], "dc");
                101
            }
            Err(WsError::Http(answer)) => answer.status().as_u16(),
            Err(e) => panic!("{e}"),
        }
    };
    assert_eq!(status(Algorithm::ES256, "ec", &signs).await, 101);
    let pem = pair.public_key_pem();
    let der = pair.subject_public_key_info();
    let mut refused = 0;
    for public in [&raw[..], &der, pem.as_bytes(), jwks.as_bytes(), x.as_bytes()] {
        let as_secret = EncodingKey::from_secret(public);
        assert_eq!(status(Algorithm::HS256, "ec", &as_secret).await, 401, "{public:?}");
        refused += 1;
    }
    for path in ["/dev/null", "../../../dev/null", "jwks.json", "file:///etc/passwd"] {
        assert_eq!(status(Algorithm::ES256, path, &signs).await, 401, "{path}");
        assert_eq!(status(Algorithm::HS256, path, &EncodingKey::from_secret(b"")).await, 401, "{path}");
        refused += 2;
    }
    let counted = metrics::WS_CONNECTION_ERRORS.with_label_values(&["keys", "keys", "auth_failed"]).get();
    assert_eq!(counted, refused);
    assert!(metrics::EDGE_REFUSED.with_label_values(&["token"]).get() >= refused);
}

#[tokio::test]
async fn the_end_of_a_token_is_told_before_the_close() {
    // covers B04, T05
    let world = serving(&preset("trishula", ""), |_| {}).await;
    let mut client = logged_in(&world, 5).await;
    let told = client.hear().await;
    assert_eq!(
        (&told["type"], &told["payload"]["code"]),
        (&json!("ERROR"), &json!("token_expired")),
        "{told}"
    );
    assert_eq!((&told["from"], &told["reply_to"]), (&json!("mesh"), &Value::Null));
    assert_eq!(client.closed().await.0, 4401);
}

#[tokio::test]
async fn a_new_token_on_the_open_connection_takes_the_place_of_the_old_one() {
    // covers B04, T05
    let world = serving(&preset("trishula", ""), |_| {}).await;
    let mut client = logged_in(&world, 5).await;
    let over = clock::wall_ms() + 6_000;
    client.say(json!({"type": "AUTH", "id": "a-2", "token": signed(SECRET, claims("dc", 600))})).await;
    let answer = client.hear().await;
    assert_eq!((&answer["type"], &answer["reply_to"]), (&json!("AUTHENTICATED"), &json!("a-2")));
    assert!(answer["payload"]["expires_at"].as_u64().unwrap() > over, "{answer}");
    // Past the end of the first one it is served as before, and was told of nothing.
    while clock::wall_ms() < over {
        client.say(json!({"type": "HEARTBEAT", "id": "h"})).await;
        assert_eq!(client.hear().await["type"], "HEARTBEAT");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    client.say(json!({"type": "STATUS", "to": "dc", "id": "m-1"})).await;
    assert_eq!(client.hear().await["id"], "m-1");
}

#[tokio::test]
async fn bytes_a_second_are_limited_as_frames_are() {
    // covers B09, B19
    const LIMIT: &str = "max_frame = 4096\nbyte_rate_limit = 4096";
    let world = serving(&preset("trishula", LIMIT), |_| {}).await;
    let mut ours = logged_in(&world, 600).await;
    for n in 0..10 {
        let fill = "x".repeat(3500);
        ours.say(json!({"type": "STATUS", "to": "dc", "id": format!("m-{n}"), "payload": fill})).await;
    }
    let (mut came, mut refused) = (0, 0);
    for _ in 0..10 {
        let told = ours.hear().await;
        if told["type"] == "STATUS" {
            came += 1;
            continue;
        }
        assert_eq!(told["payload"]["code"], "rate_limited", "{told}");
        assert!(told["reply_to"].as_str().unwrap().starts_with("m-"), "{told}");
        assert!(told["payload"]["retry_after_ms"].as_u64().unwrap() > 0, "{told}");
        refused += 1;
    }
    assert!(came >= 1 && refused >= 5, "{came} came, {refused} were refused");

    let world = serving(&preset("mahavishnu", LIMIT), |_| {}).await;
    let mut old = greeted(&world).await;
    for n in 0..10 {
        old.say(json!({"type": "ping", "id": format!("p-{n}"), "data": {"fill": "x".repeat(3500)}})).await;
    }
    let (mut pongs, mut refused) = (0, 0);
    for _ in 0..10 {
        let told = old.hear().await;
        pongs += usize::from(told["type"] == "pong");
        refused += usize::from(told["error_code"] == "RATE_LIMIT_EXCEEDED");
    }
    assert!(pongs >= 1 && refused >= 5 && pongs + refused == 10, "{pongs}, {refused}");
}

#[tokio::test]
async fn a_client_of_the_envelope_that_answers_no_ping_is_told_so_as_of_old() {
    // covers B06, B09
    let world = serving(&preset("mahavishnu", "ping_interval = 1\nping_timeout = 1"), |_| {}).await;
    let mut old = greeted(&world).await;
    // Its library answers a ping when it reads; it does not read for longer than both times together.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(old.closed().await, (1011, "keepalive ping timeout".into()));
}

#[tokio::test]
async fn on_a_shared_port_a_token_in_the_request_makes_a_client_ours() {
    // covers B01, B04, B06
    let at: SocketAddr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let services = format!(
        "[[service]]\npreset = \"trishula\"\nlisten = [\"{at}\"]\nsecret_file = \"secret\"\n\
         [[service]]\npreset = \"session-buddy\"\nlisten = [\"{at}\"]\nsecret_file = \"other\"\n"
    );
    let world = serving(&services, |machine| {
        std::fs::write(machine.folder.path().join("other"), OTHER).unwrap();
    })
    .await;
    let query = format!("/ws?token={}", token("dc"));
    let offer = format!("trishula.v2+json, bearer.{}", token("dc"));
    for (path, headers) in
        [(query.as_str(), vec![]), ("/ws", vec![("sec-websocket-protocol", offer.as_str())])]
    {
        let (mut client, answer) = world.upgrade(path, &headers).await.unwrap();
        let selected = answer.headers().get("sec-websocket-protocol");
        assert_eq!(selected.map(|name| name.as_bytes()), headers.first().map(|_| &b"trishula.v2+json"[..]));
        // By its first frame it would be session-buddy's, whose greeting comes after a second of silence as well.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        client.say(json!({"type": "ping"})).await;
        let told = client.hear().await;
        assert_eq!(told["payload"]["code"], "unknown_type", "{path}: {told}");
        client.say(json!({"type": "REGISTER"})).await;
        assert_eq!(client.hear().await["payload"]["agent"], "dc");
    }
    // And one that is no good is told by the service that is asked, not taken for a stranger's.
    let bad = format!("/ws?token={}", signed(OTHER, claims("dc", 600)));
    match world.upgrade(&bad, &[]).await {
        Err(WsError::Http(answer)) => assert_eq!(answer.status(), 401),
        Ok((mut client, _)) => assert_eq!(client.closed().await.0, 4401),
        Err(e) => panic!("{e}"),
    }
}

#[tokio::test]
async fn a_file_in_words_reaches_its_reader_as_it_was_written() {
    // covers T04, B06
    let world = serving(&preset("trishula", ""), |_| {}).await;
    let mut dc = world.registered("dc").await;
    let mut agni = world.registered("agni").await;
    let text = r#"{"id":"20260210T051100Z_dc_agni_check","from":"dc", "to":"agni","type":"task","priority":"urgent","timestamp":"2026-02-10T05:11:00Z","subject":"s","body":"b","attachments":["shared/config.yaml"],"reply_to":null}"#;
    dc.send(tokio_tungstenite::tungstenite::Message::text(text)).await;
    assert_eq!(agni.hear_text().await, text);
    for (kind, field) in
        [("chore", r#""priority":1"#), ("task", r#""priority":"soon""#), ("task", r#""timestamp":"today""#)]
    {
        let text = format!(r#"{{"type":"{kind}","to":"agni","id":"bad",{field}}}"#);
        dc.send(tokio_tungstenite::tungstenite::Message::text(text)).await;
        let told = dc.hear().await;
        let code = if kind == "chore" { "unknown_type" } else { "bad_frame" };
        assert_eq!((&told["payload"]["code"], &told["reply_to"]), (&json!(code), &json!("bad")), "{told}");
    }
}
