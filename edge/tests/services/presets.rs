//! A preset is all that old clients need: their words, and their tokens.

use std::time::Duration;

use serde_json::json;
use trishula::rt::clock;

use crate::serving::*;
use crate::support::*;

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
    // Ten times what is promised.
    assert!(clock::since(asked) < Duration::from_secs(10), "nobody serves it, and that is said at once");
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
