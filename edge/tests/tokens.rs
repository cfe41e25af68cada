//! By what tokens are believed, while an edge runs: public keys that change, and tokens that are taken back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use support::*;
use tokio_tungstenite::tungstenite::Error as WsError;
use trishula::rt::clock;

/// Somebody else who makes tokens.
struct Issuer {
    signs: EncodingKey,
    key: Value,
}

impl Issuer {
    fn new(id: &str) -> Issuer {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let signs = EncodingKey::from_ed_der(&pair.serialize_der());
        let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
        let key = json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": id, "use": "sig"});
        Issuer { signs, key }
    }

    fn token(&self, agent: &str) -> String {
        let header =
            Header { kid: self.key["kid"].as_str().map(Into::into), ..Header::new(Algorithm::EdDSA) };
        let claims = json!({"sub": agent, "exp": clock::wall_ms() / 1000 + 600, "scopes": ["read"]});
        jsonwebtoken::encode(&header, &claims, &self.signs).unwrap()
    }
}

/// Puts a file of the machine in place of the one that is there, at once, as one should.
fn put(world: &World, name: &str, text: &str) {
    let place = world.machine.folder.path().join(name);
    std::fs::write(place.with_extension("new"), text).unwrap();
    std::fs::rename(place.with_extension("new"), place).unwrap();
}

fn published(issuers: &[&Issuer]) -> String {
    json!({"keys": issuers.iter().map(|issuer| &issuer.key).collect::<Vec<_>>()}).to_string()
}

/// An edge whose service also believes these.
async fn world_with(issuers: &[&Issuer]) -> World {
    let world = World::start_prepared(
        "jwks_file = \"jwks.json\"\nrevoked_file = \"revoked\"\nping_interval_s = 1",
        |machine| {
            std::fs::write(machine.folder.path().join("jwks.json"), published(issuers)).unwrap();
            std::fs::write(machine.folder.path().join("revoked"), "# nobody yet\n").unwrap();
        },
    );
    let mut world = world;
    world.connect(1).await;
    world
}

async fn is_let_in(world: &World, token: &str) -> bool {
    let bearer = format!("Bearer {token}");
    match world.upgrade("/ws", &[("authorization", &bearer)]).await {
        Ok(_) => true,
        Err(WsError::Http(answer)) if answer.status() == 401 => false,
        Err(e) => panic!("{e}"),
    }
}

/// The edge looks at its files every two seconds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn public_keys_change_while_clients_are_on() {
    // covers B03, B04, B11
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let world = world_with(&[&old]).await;
    let bearer = format!("Bearer {}", old.token("dc"));
    let (mut dc, _) = world.upgrade("/ws", &[("authorization", &bearer)]).await.unwrap();
    dc.say(json!({"type": "REGISTER"})).await;
    assert_eq!(dc.hear().await["type"], "REGISTERED");
    assert!(!is_let_in(&world, &new.token("agni")).await);
    assert!(is_let_in(&world, &token("agni")).await, "the secret counts as before");
    put(&world, "jwks.json", &published(&[&new]));
    until("the new key counts", async || is_let_in(&world, &new.token("agni")).await).await;
    assert!(!is_let_in(&world, &old.token("agni")).await);
    // A file that makes no sense changes nothing.
    put(&world, "jwks.json", "{\"keys\": [");
    let refused = || trishula::metrics::TRUST_RELOADS.with_label_values(&["trishula", "refused"]).get();
    until("the broken file is noticed", async || refused() > 0).await;
    assert!(is_let_in(&world, &new.token("agni")).await);
    dc.say(json!({"type": "HEARTBEAT", "id": "h-1"})).await;
    assert_eq!(dc.hear().await["reply_to"], "h-1", "who was in stays in");
}

#[tokio::test]
async fn a_token_that_is_taken_back_opens_nothing_and_ends_its_session() {
    // covers B03, B17
    let issuer = Issuer::new("one");
    let world = world_with(&[&issuer]).await;
    let mut dc = world.registered("dc").await;
    let mut agni = world.registered("agni").await;
    let time =
        time::OffsetDateTime::from(clock::wall()).format(&time::format_description::well_known::Rfc3339);
    put(&world, "revoked", &format!("agent dc {} # its laptop is gone\n", time.unwrap()));
    let error = dc.hear().await;
    assert_eq!(error["payload"]["code"], "token_invalid");
    assert!(error["payload"]["message"].as_str().unwrap().contains("taken back"), "{error}");
    assert_eq!(dc.closed().await.0, 4401);
    assert!(!is_let_in(&world, &issuer.token("dc")).await, "it does not say when it was made");
    assert!(is_let_in(&world, &issuer.token("rushabdev")).await);
    agni.say(json!({"type": "HEARTBEAT", "id": "h-1"})).await;
    assert_eq!(agni.hear().await["reply_to"], "h-1");
}

#[tokio::test]
async fn a_browser_shows_its_token_as_a_subprotocol_and_never_gets_it_back() {
    // covers B04, T04
    let world = World::start().await;
    let offer = format!("trishula.v2+json, bearer.{}", token("dc"));
    let (mut client, response) = world.upgrade("/ws", &[("sec-websocket-protocol", &offer)]).await.unwrap();
    let selected: Vec<_> = response.headers().get_all("sec-websocket-protocol").iter().collect();
    assert_eq!(selected, ["trishula.v2+json"]);
    client.say(json!({"type": "REGISTER"})).await;
    assert_eq!(client.hear().await["payload"]["agent"], "dc");
    for (offer, status) in [("trishula.v2+json, bearer.nonsense".to_owned(), 401), ("bearer.".into(), 401)] {
        let Err(WsError::Http(answer)) = world.upgrade("/ws", &[("sec-websocket-protocol", &offer)]).await
        else {
            panic!("not refused: {offer}")
        };
        assert_eq!(answer.status(), status);
    }
}
