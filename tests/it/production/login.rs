//! Class JWT: 1 to 5.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use trishula::rt::clock;

use super::{Stage, run, secret, signed, token, within};

// covers B03, B06, B27 01
#[test]
fn a_good_token_is_answered_with_its_user_and_then_greeted() {
    let stage = Stage::start(&["agni"], &["mahavishnu"], "");
    let site = stage.site("agni", "mahavishnu");
    run(async {
        let mut client = site.connect().await;
        let began = Instant::now();
        let answer = client.ask("auth", json!({"token": token("mahavishnu", "u1", &["read"], 600)})).await;
        let answered = began.elapsed();
        assert_eq!(answer["type"], "response", "{answer}");
        assert_eq!(answer["data"], json!({"status": "authenticated", "user_id": "u1"}));
        let greeting = client.hear().await;
        assert_eq!((&greeting["type"], &greeting["event"]), (&json!("event"), &json!("session.created")));
        let greeted = began.elapsed();
        within("B27 01: a good token is answered after", answered, Duration::from_secs(1));
        within("B27 01: and greeted after another", greeted - answered, Duration::from_secs(1));
    });
}

// covers B03, B06, B27 02, B27 03
#[test]
fn an_expired_and_a_forged_token_are_told_why_and_closed() {
    let stage = Stage::start(&["agni"], &["mahavishnu"], "");
    let site = stage.site("agni", "mahavishnu");
    let claims = json!({"user_id": "u1", "permissions": ["admin"], "exp": clock::wall_ms() / 1000 + 600});
    let part = |value: String| URL_SAFE_NO_PAD.encode(value);
    let unsigned = format!("{}.{}.", part(r#"{"alg":"none","typ":"JWT"}"#.into()), part(claims.to_string()));
    let good = token("mahavishnu", "u1", &["read"], 600);
    let (head, tail) = good.rsplit_once('.').unwrap();
    let other_signature: String = tail.chars().rev().collect();
    run(async {
        for (what, bad, says) in [
            ("expired", token("mahavishnu", "u1", &["read"], -1), "expired"),
            ("no token", "invalid.token.here".into(), ""),
            ("of another secret", signed(&secret("akosha"), &claims), ""),
            ("without a signature", unsigned, ""),
            ("with a wrong one", format!("{head}.{other_signature}"), ""),
        ] {
            let mut client = site.connect().await;
            let began = Instant::now();
            let answer = client.ask("auth", json!({"token": bad})).await;
            assert_eq!(
                (&answer["type"], &answer["error_code"]),
                (&json!("error"), &json!("AUTH_FAILED")),
                "{what}"
            );
            assert!(answer["error_message"].as_str().unwrap().contains(says), "{what}: {answer}");
            assert_eq!(client.closed().await, 1008, "{what}");
            within(
                &format!("B27 02, 03: {what}: told and closed after"),
                began.elapsed(),
                Duration::from_secs(1),
            );
        }
        // The claims are no reason.
        site.connect().await.log_in(&signed(&secret("mahavishnu"), &claims)).await;
    });
}

// covers B05, B27 04
#[test]
fn a_token_without_the_permission_is_forbidden_and_its_connection_goes_on() {
    let stage = Stage::start(&["agni"], &["mahavishnu"], "");
    let site = stage.site("agni", "mahavishnu");
    run(async {
        let mut reader = site.greeted("u1", &["read"]).await;
        let answer = reader.subscribe("admin:controls").await;
        assert_eq!(
            (&answer["type"], &answer["error_code"]),
            (&json!("error"), &json!("FORBIDDEN")),
            "{answer}"
        );
        reader.is_answered().await;
        // It is the permission that was missing, and nothing else.
        site.greeted("u2", &["admin"]).await.must_subscribe("admin:controls").await;
    });
}

// covers B04, B05, B27 05
#[test]
fn a_fresh_token_replaces_what_the_first_one_allowed_and_a_bad_one_changes_nothing() {
    let stage = Stage::start(&["agni"], &["mahavishnu"], "");
    let site = stage.site("agni", "mahavishnu");
    run(async {
        let mut client = site.greeted("u1", &["pool:read"]).await;
        assert_eq!(client.subscribe("workflow:w1").await["error_code"], "FORBIDDEN");
        for bad in [
            token("mahavishnu", "u1", &["admin"], -1),
            token("akosha", "u1", &["admin"], 600),
            token("mahavishnu", "u2", &["admin"], 600),
        ] {
            let answer = client.ask("refresh_token", json!({"token": bad})).await;
            assert_eq!(answer["error_code"], "AUTH_FAILED", "{answer}");
        }
        client.must_subscribe("pool:p1").await;
        assert_eq!(client.subscribe("workflow:w1").await["error_code"], "FORBIDDEN");

        let fresh = token("mahavishnu", "u1", &["workflow:read"], 600);
        let answer = client.ask("refresh_token", json!({"token": fresh})).await;
        assert_eq!(answer["data"], json!({"status": "refreshed", "user_id": "u1"}), "{answer}");
        client.must_subscribe("workflow:w1").await;
        assert_eq!(client.subscribe("pool:p2").await["error_code"], "FORBIDDEN");
    });
}
