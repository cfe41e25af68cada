//! Services that share a port are told by the first frame, the dialect, or the name.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use trishula::identity::Role;
use trishula::identity::profile::Request;
use trishula::rt::clock;
use trishula::wire::ids::NodeName;

use crate::serving::*;
use crate::support::*;

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
async fn a_client_that_has_said_nothing_when_the_edge_stops_is_told_when_to_come_back() {
    // covers B12
    let world = serving(
        "[[service]]\nname = \"all\"\ndialect = \"auto\"\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"secret\"\n",
    )
    .await;
    // Its session begins when its second is over, or with what it says.
    let (mut silent, mut late) = (old(&world).await, old(&world).await);
    let stop = world.edge.stop(PATIENCE);
    let says = async {
        late.say(auth(&signed(SECRET, claims("u1", &[])))).await;
        late.closed().await
    };
    let (silent, late, ()) = tokio::join!(silent.closed(), says, soon(stop));
    for (code, reason) in [silent, late] {
        assert!(code == 1012 && reason.starts_with("retry_after_ms="), "{code} {reason}");
    }
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
