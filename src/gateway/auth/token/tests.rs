//! Tokens that are good, forged, over, too old, or signed by another key; and what each one says.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::gateway::auth::Verifier;

const NOW: u64 = 1_767_225_600_000;

fn secret(byte: u8) -> Secret {
    Secret::new(&[byte; 40], "test").unwrap()
}

fn trust(secrets: &[Secret]) -> Trust {
    Trust::new(secrets, KeySet::default(), Revoked::default())
}

fn verifier_of(trust: Trust, rules: Rules) -> Verifier {
    Verifier::new(trust, Namespace::new("trishula").unwrap(), rules)
}

fn verifier() -> Verifier {
    verifier_of(trust(&[secret(b'a')]), Rules::default())
}

fn sign(claims: serde_json::Value) -> String {
    let key = EncodingKey::from_secret(secret(b'a').expose());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
}

fn refused(token: &str) -> Code {
    verifier().verify(token, NOW).unwrap_err().code
}

#[test]
fn a_token_of_ours_says_who_it_is() {
    // covers T05
    let new = NewToken {
        sub: AgentName::new("ops").unwrap(),
        aud: Namespace::new("trishula").unwrap(),
        permissions: vec!["read".into()],
        agents: vec!["worker-*".into(), "spare".into()],
        jti: "t-1".into(),
        iat: NOW / 1000,
        exp: Some(NOW / 1000 + 60),
    };
    let identity = verifier().verify(&issue(&secret(b'a'), &new).unwrap(), NOW).unwrap();
    assert_eq!(identity.expires_at, Some(NOW + 60_000));
    assert_eq!(identity.token, Some(Mark { id: Some("t-1".into()), issued_ms: Some(NOW) }));
    for (name, may) in [("ops", true), ("worker-3", true), ("spare", true), ("dc", false)] {
        assert_eq!(identity.may_be(&AgentName::new(name).unwrap()), may, "{name}");
    }
}

#[test]
fn forged_expired_and_unsigned_tokens_are_refused() {
    // covers T05
    let exp = NOW / 1000 + 60;
    let good = serde_json::json!({"sub": "dc", "exp": exp});
    assert!(verifier().verify(&sign(good.clone()), NOW).is_ok());
    let other = EncodingKey::from_secret(secret(b'b').expose());
    let forged = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &good, &other).unwrap();
    assert_eq!(refused(&forged), Code::TokenInvalid);
    let longer = EncodingKey::from_secret(secret(b'a').expose());
    let hs512 = jsonwebtoken::encode(&Header::new(Algorithm::HS512), &good, &longer).unwrap();
    assert_eq!(refused(&hs512), Code::TokenInvalid);
    let none = format!(
        "{}.{}.",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#),
        URL_SAFE_NO_PAD.encode(good.to_string())
    );
    assert_eq!(refused(&none), Code::TokenInvalid);
    for bad in ["", "secret", "a.b.c", &"x".repeat(9000)] {
        assert_eq!(refused(bad), Code::TokenInvalid);
    }
    assert_eq!(refused(&sign(serde_json::json!({"sub": "dc", "exp": NOW / 1000}))), Code::TokenExpired);
}

#[test]
fn claims_are_checked_one_by_one() {
    // covers T05, T08
    let exp = (NOW / 1000 + 60) as f64 + 0.5;
    for good in [
        serde_json::json!({"user_id": "dc", "exp": exp}),
        serde_json::json!({"sub": "dc", "user_id": "dc", "exp": exp, "aud": ["x", "trishula"]}),
        serde_json::json!({"sub": "dc", "exp": exp, "aud": "trishula", "unknown": {"a": 1}}),
        serde_json::json!({"sub": "dc", "exp": exp.to_string(), "iat": "1.5", "nbf": null}),
    ] {
        assert!(verifier().verify(&sign(good.clone()), NOW).is_ok(), "{good}");
    }
    for bad in [
        serde_json::json!({"sub": "dc"}),
        serde_json::json!({"exp": exp}),
        serde_json::json!({"sub": "dc", "user_id": "agni", "exp": exp}),
        serde_json::json!({"sub": "d c", "exp": exp}),
        serde_json::json!({"sub": "dc", "exp": "soon"}),
        serde_json::json!({"sub": "dc", "exp": "inf"}),
        serde_json::json!({"sub": "dc", "exp": ""}),
        serde_json::json!({"sub": "dc", "exp": exp, "iat": "now"}),
        serde_json::json!({"sub": "dc", "exp": exp, "nbf": exp}),
        serde_json::json!({"sub": "dc", "exp": exp, "aud": "akosha"}),
        serde_json::json!({"sub": 7, "exp": exp}),
        serde_json::json!({"sub": "dc", "exp": exp, "permissions": "all"}),
    ] {
        assert_eq!(refused(&sign(bad.clone())), Code::TokenInvalid, "{bad}");
    }
    let lax = verifier_of(trust(&[secret(b'a')]), Rules { require_exp: false, ..Rules::default() });
    assert_eq!(lax.verify(&sign(serde_json::json!({"sub": "dc"})), NOW).unwrap().expires_at, None);
}

#[test]
fn where_older_dialects_are_spoken_a_user_may_be_called_anything() {
    // covers B03, B15
    let rules = Rules { own_names: true, ..Rules::default() };
    let taken = Revoked::from_lines("agent Mallory Mal 2026-01-01T00:00:00Z").unwrap();
    let verifier = verifier_of(Trust::new(&[secret(b'a')], KeySet::default(), taken), rules);
    let token = |user: &str| sign(serde_json::json!({"user_id": user, "exp": NOW / 1000 + 60}));
    let known = |user: &str| verifier.verify(&token(user), NOW);
    let alice = known("alice@example.com").unwrap();
    let agent = alice.agent.clone().unwrap();
    assert_eq!((agent.as_str().len(), alice.user.as_deref()), (34, Some("alice@example.com")));
    assert!(alice.may_be(&AgentName::new(&format!("{agent}.1a2b3c4d")).unwrap()));
    assert!(!alice.may_be(&AgentName::new("alice").unwrap()));
    assert_eq!(known("alice").unwrap().user, None);
    for nobody in ["", "  ", "a\nb", &"x".repeat(257)] {
        assert_eq!(known(nobody).unwrap_err().code, Code::TokenInvalid, "{nobody:?}");
    }
    assert!(
        known("Mallory Mal").unwrap_err().message.contains("taken back"),
        "by the name the operator knows"
    );
    let refusal = self::verifier().verify(&token("alice@example.com"), NOW).unwrap_err();
    assert!(refusal.message.contains("is not an agent name"), "{}", refusal.message);
}

#[test]
fn where_older_dialects_are_spoken_a_token_is_read_as_the_older_servers_did() {
    // covers B03, B27 02
    let rules = Rules { own_names: true, require_exp: false, ..Rules::default() };
    let (old, ours) = (verifier_of(trust(&[secret(b'a')]), rules), verifier());
    let (now, exp) = (NOW / 1000, NOW / 1000 + 60);
    let two = sign(serde_json::json!({"sub": "service-account-7", "user_id": "dc", "exp": exp}));
    assert_eq!(old.verify(&two, NOW).unwrap().agent.unwrap().as_str(), "dc");
    assert_eq!(
        ours.verify(&two, NOW).unwrap_err().code,
        Code::TokenInvalid,
        "whose it is would not be known"
    );
    let number = sign(serde_json::json!({"sub": 7, "user_id": "dc", "exp": exp}));
    assert_eq!(old.verify(&number, NOW).unwrap_err().code, Code::TokenInvalid);
    for (iat, good) in
        [(now as f64, true), (now as f64 + 30.9, true), (now as f64 + 31.0, false), (1e12, false)]
    {
        let made = sign(serde_json::json!({"user_id": "dc", "iat": iat, "exp": exp}));
        assert_eq!(old.verify(&made, NOW).is_ok(), good, "{iat}");
    }
    let long = "x".repeat(60);
    let named = old.verify(&sign(serde_json::json!({"user_id": long})), NOW).unwrap();
    assert!(named.may_be(&AgentName::new(&long).unwrap()), "it is its own agent all the same");
    let below = format!("{}.1a2b3c4d", crate::gateway::auth::base_of(&long));
    assert!(named.may_be(&AgentName::new(&below).unwrap()), "{below}");
}

#[test]
fn a_token_lives_no_longer_than_the_operator_lets_it() {
    // covers B03
    let rules = Rules { require_exp: false, longest_life_ms: Some(3_600_000), ..Rules::default() };
    let verifier = verifier_of(trust(&[secret(b'a')]), rules);
    let (now, hour) = (NOW / 1000, 3600);
    let ends = |claims: serde_json::Value| {
        verifier
            .verify(&sign(claims), NOW)
            .map(|identity| identity.expires_at)
            .map_err(|refusal| refusal.code)
    };
    for (claims, end) in [
        (serde_json::json!({"sub": "dc", "iat": now - 60, "exp": now + 60}), now + 60),
        (serde_json::json!({"sub": "dc", "iat": now - 60, "exp": now + 9 * hour}), now - 60 + hour),
        (serde_json::json!({"sub": "dc", "iat": now - 60}), now - 60 + hour),
        (serde_json::json!({"sub": "dc", "exp": now + 9 * hour}), now + hour),
        (serde_json::json!({"sub": "dc", "iat": now + 5 * hour, "exp": now + 9 * hour}), now + hour),
        (serde_json::json!({"sub": "dc"}), now + hour),
    ] {
        assert_eq!(ends(claims.clone()), Ok(Some(end * 1000)), "{claims}");
    }
    let old = serde_json::json!({"sub": "dc", "iat": now - hour, "exp": now + hour});
    assert_eq!(ends(old), Err(Code::TokenExpired));
}

/// A key pair of whoever makes tokens: what signs, and the set that is published.
fn issuer(kind: Algorithm, id: Option<&str>) -> (EncodingKey, serde_json::Value) {
    let pair = match kind {
        Algorithm::EdDSA => rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519),
        _ => rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
    };
    let pair = pair.unwrap();
    let (der, public) = (pair.serialize_der(), pair.public_key_raw());
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (signs, mut jwk) = match kind {
        Algorithm::EdDSA => {
            let jwk = serde_json::json!({"kty": "OKP", "crv": "Ed25519", "x": text(public)});
            (EncodingKey::from_ed_der(&der), jwk)
        }
        _ => {
            // An uncompressed point: 4, x, y.
            let (x, y) = (text(&public[1..33]), text(&public[33..]));
            let jwk = serde_json::json!({"kty": "EC", "crv": "P-256", "x": x, "y": y});
            (EncodingKey::from_ec_der(&der), jwk)
        }
    };
    if let Some(id) = id {
        jwk["kid"] = id.into();
    }
    (signs, jwk)
}

fn published(keys: &[&serde_json::Value]) -> KeySet {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, serde_json::json!({"keys": keys}).to_string()).unwrap();
    KeySet::from_file(&path).unwrap()
}

#[test]
fn tokens_by_public_keys_are_read_and_no_key_stands_in_for_another() {
    // covers B03
    let claims =
        serde_json::json!({"sub": "dc", "exp": NOW / 1000 + 60, "scopes": ["read"], "aud": "trishula"});
    for kind in [Algorithm::EdDSA, Algorithm::ES256] {
        let (signs, key) = issuer(kind, Some("one"));
        let (stranger, other) = issuer(kind, Some("two"));
        let verifier = verifier_of(
            Trust::new(&[secret(b'a')], published(&[&key]), Revoked::default()),
            Rules::default(),
        );
        let code = |token: &str| verifier.verify(token, NOW).map(|_| ()).unwrap_err().code;
        let with = |id: Option<&str>, signs: &EncodingKey| {
            let header = Header { kid: id.map(Into::into), ..Header::new(kind) };
            jsonwebtoken::encode(&header, &claims, signs).unwrap()
        };
        for id in [Some("one"), None] {
            let identity = verifier.verify(&with(id, &signs), NOW).unwrap();
            assert_eq!(identity.permissions, ["read"], "{kind:?}, {id:?}");
        }
        // Another key, a key id that is not there or looks like a path, a signature that was cut off.
        for (id, signs) in [(Some("one"), &stranger), (None, &stranger), (Some("two"), &signs)] {
            assert_eq!(code(&with(id, signs)), Code::TokenInvalid, "{kind:?}, {id:?}");
        }
        assert_eq!(code(&with(Some("../../etc/passwd"), &signs)), Code::TokenInvalid);
        let whole = with(None, &signs);
        assert_eq!(code(&whole[..whole.len() - 4]), Code::TokenInvalid);
        // What is public must not serve as a secret.
        let x = key["x"].as_str().unwrap();
        for text in [x.to_owned(), key.to_string(), serde_json::json!({"keys": [key]}).to_string()] {
            let confused = EncodingKey::from_secret(text.as_bytes());
            let forged = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &confused).unwrap();
            assert_eq!(code(&forged), Code::TokenInvalid);
        }
        // Keys are changed one after the other, as their owner publishes both for a while.
        verifier.own().replace(Trust::new(&[], published(&[&key, &other]), Revoked::default()));
        assert!(verifier.verify(&with(Some("two"), &stranger), NOW).is_ok());
        assert!(verifier.verify(&with(Some("one"), &signs), NOW).is_ok());
        assert_eq!(code(&sign(claims.clone())), Code::TokenInvalid, "there is no secret any more");
    }
}

#[test]
fn a_token_is_good_for_names_below_its_own_only_where_that_is_said() {
    // covers B05, B06
    let token = sign(serde_json::json!({"sub": "dc", "exp": NOW / 1000 + 60}));
    let name = |text: &str| AgentName::new(text).unwrap();
    assert!(!verifier().verify(&token, NOW).unwrap().may_be(&name("dc.1f000000")));
    let rules = Rules { own_names: true, ..Rules::default() };
    let verifier = verifier_of(trust(&[secret(b'a')]), rules);
    let identity = verifier.verify(&token, NOW).unwrap();
    assert!(identity.may_be(&name("dc.1f00c0de")) && identity.may_be(&name("dc")));
    for other in ["dcx", "dc.doe", "dc.1f", "dc.1f00c0de5", "dc.1F00C0DE", "dc.doe.1f00c0de", "dcx1f00c0de"] {
        assert!(!identity.may_be(&name(other)), "{other}");
    }
    // Nor is any other user's name, nor those of its connections.
    for user in ["dc.doe", "dc.1f00c0de", "dc.1f00c0de.00000001"] {
        let token = sign(serde_json::json!({"sub": user, "exp": NOW / 1000 + 60}));
        let other = verifier.verify(&token, NOW).unwrap();
        let agent = other.agent.clone().unwrap();
        assert_eq!(other.user.as_deref(), Some(user));
        let connection = name(&format!("{agent}.1f00c0de"));
        assert!(!identity.may_be(&agent) && !identity.may_be(&connection));
        assert!(!other.may_be(&name("dc.1f00c0de")));
    }
}

#[test]
fn a_secret_can_be_changed_while_old_tokens_live() {
    // covers T05
    let both = verifier_of(trust(&[secret(b'b'), secret(b'a')]), Rules::default());
    let token = sign(serde_json::json!({"sub": "dc", "exp": NOW / 1000 + 60}));
    assert!(both.verify(&token, NOW).is_ok());
}

#[test]
fn a_damaged_token_is_told_from_a_forged_one() {
    // covers T05
    let good = sign(serde_json::json!({"sub": "dc"}));
    let says = |token: &str| verifier().verify(token, NOW).unwrap_err().message;
    // The last character of 43 has two bits that mean nothing, and must be zero (RFC 4648 section 3.5).
    let damaged = format!("{}_", &good[..good.len() - 1]);
    assert!(says(&damaged).contains("damaged"), "{}", says(&damaged));
    let (head, signature) = good.rsplit_once('.').unwrap();
    let other: String = signature.chars().rev().collect();
    let forged = format!("{head}.{}A", &other[..other.len() - 1]);
    assert!(says(&forged).contains("signature"), "{}", says(&forged));
}
