//! The golden frames of docs/vectors, against a session.

use bytes::Bytes;
use serde_json::Value;

use super::tests::{known, opening, start};
use crate::gateway::carrier::Incoming;
use crate::gateway::testing::{MemoryClient, Rig, agent, namespace};
use crate::wire::client::{self, ClientFrame, DEFAULT_MAX_FRAME, Speaker};
use crate::wire::ids::MessageId;

fn vectors(file: &str) -> Vec<Value> {
    let path = format!("{}/docs/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_str(&text).unwrap()
}

fn parse(text: &str) -> Result<client::Parsed, client::Refused> {
    let (agent, namespace) = (agent("dc"), namespace());
    let speaker = Speaker {
        agent: Some(&agent),
        namespace: &namespace,
        max_frame: DEFAULT_MAX_FRAME,
        receipts: None,
        copies: 1,
    };
    let id = MessageId::new("e7a4f0d2-1b8c-4d0e-8a44-7f0f9c2d5b31").unwrap();
    client::parse(&Bytes::copy_from_slice(text.as_bytes()), speaker, || (id.clone(), 1_767_225_600_000))
}

/// The text of a generated frame.
fn generate(rule: &str) -> String {
    let (rule, n) = rule.split_once(':').unwrap();
    let n: usize = n.parse().unwrap();
    let around = |inner: &str| format!(r#"{{"type":"STATUS","to":"agni","payload":{inner}}}"#);
    match rule {
        "depth" => around(&format!("{}{}", "[".repeat(n - 1), "]".repeat(n - 1))),
        "size" => around(&format!("\"{}\"", "x".repeat(n - around("\"\"").len()))),
        other => panic!("unknown rule {other}"),
    }
}

/// The bytes of a vector on a JSON session; `None`: it is one for MessagePack.
fn text_of(vector: &Value) -> Option<Vec<u8>> {
    if let Some(text) = vector["json"].as_str() {
        return Some(text.as_bytes().to_vec());
    }
    if let Some(rule) = vector["generate"].as_str() {
        return Some(generate(rule).into_bytes());
    }
    let hex = vector["hex"].as_str()?;
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    Some((0..hex.len()).step_by(2).map(byte).collect())
}

async fn registered(rig: &Rig) -> (MemoryClient, crate::rt::tasks::Task) {
    let (client, task) = start(rig, opening(known("dc")));
    client.say(r#"{"type":"REGISTER"}"#);
    assert_eq!(client.hear().await["type"], "REGISTERED");
    (client, task)
}

#[tokio::test(start_paused = true)]
async fn every_invalid_frame_is_refused_with_its_code() {
    // covers T04, B19
    let rig = Rig::new();
    let _node = rig.link(1, "agni").await.serve();
    let (mut client, mut _task) = registered(&rig).await;
    for vector in vectors("client/invalid.json") {
        let Some(bytes) = text_of(&vector) else { continue };
        client.put(Incoming::Frame(Bytes::from(bytes)));
        // A frame that passes, so that the session is not closed for too many that do not.
        client.say(r#"{"type":"HEARTBEAT"}"#);
        let error = client.hear().await;
        assert_eq!(error["payload"]["code"], vector["code"], "{}: {error}", vector["name"]);
        if vector["code"] == "too_large" {
            assert_eq!(client.closed().await.0, 1009);
            (client, _task) = registered(&rig).await;
        } else {
            assert_eq!(client.hear().await["type"], "HEARTBEAT", "{}", vector["name"]);
        }
    }
}

#[test]
fn every_valid_frame_of_a_client_is_read() {
    // covers T04
    let files = ["ack", "agents", "auth", "error", "heartbeat", "message", "receipt", "register"];
    for vector in files.iter().flat_map(|file| vectors(&format!("client/{file}.json"))) {
        if vector["direction"] == "client" {
            let read = parse(vector["json"].as_str().unwrap());
            assert!(read.is_ok(), "{}: {read:?}", vector["name"]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_reserved_frame_is_served_or_answered_with_unsupported() {
    // covers T04, T07
    let rig = Rig::new();
    let _node = rig.link(1, "agni").await.serve();
    let (client, _task) = registered(&rig).await;
    for vector in vectors("client/reserved.json") {
        if vector["direction"] != "client" {
            continue;
        }
        let (name, text) = (vector["name"].as_str().unwrap(), vector["json"].as_str().unwrap());
        client.say(text);
        client.say(r#"{"type":"HEARTBEAT"}"#);
        let mut answers = vec![client.hear().await];
        while answers.last().unwrap()["type"] != "HEARTBEAT" {
            answers.push(client.hear().await);
        }
        let unsupported = answers.iter().any(|answer| answer["payload"]["code"] == "unsupported");
        assert_eq!(unsupported, name.contains("broadcast"), "{name}: {answers:?}");
    }
}

#[test]
fn what_a_recipient_gets_is_byte_for_byte_as_written_down() {
    // covers T04
    for vector in vectors("passing.json") {
        let parsed = parse(vector["sent"].as_str().unwrap()).unwrap();
        let ClientFrame::Message(_, payload) = parsed.frame else { panic!("{}", vector["name"]) };
        assert_eq!(payload, vector["delivered"].as_str().unwrap(), "{}", vector["name"]);
    }
}

#[test]
fn limits_are_where_they_are_said_to_be() {
    // covers T04
    for vector in vectors("limits.json") {
        let read = parse(&generate(vector["generate"].as_str().unwrap()));
        let code = read.err().map(|refused| refused.refusal.code.as_str());
        assert_eq!(code, vector["code"].as_str(), "{}", vector["name"]);
    }
}
