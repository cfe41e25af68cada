//! The client protocol's golden vectors (docs/vectors) against the parser.

use std::path::Path;

use bytes::Bytes;
use serde_json::Value;
use trishula::wire::client::{ClientFrame, DEFAULT_MAX_FRAME, Parsed, Refused, Speaker, parse};
use trishula::wire::envelope::Kind;
use trishula::wire::ids::{AgentAddr, MessageId, Namespace};

/// Vectors whose code the session gives, not the parser: it takes knowledge of the token or of the node.
const DECIDED_LATER: &[(&str, &str)] = &[
    ("client/invalid.json: auth with no JWT", "whoever checks tokens says token_invalid"),
    ("client/invalid.json: register as another agent", "the session knows which names its token allows"),
];

const ID: &str = "e7a4f0d2-1b8c-4d0e-8a44-7f0f9c2d5b31";
const NOW: u64 = 1_767_225_600_000;

fn read(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/vectors").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn parse_as_dc(text: &[u8]) -> Result<Parsed, Refused> {
    let namespace = Namespace::new("trishula").unwrap();
    let agent = AgentAddr::parse("dc", &namespace).unwrap();
    let speaker = Speaker {
        agent: Some(&agent),
        namespace: &namespace,
        receipts: None,
        copies: 1,
        max_frame: DEFAULT_MAX_FRAME,
    };
    parse(&Bytes::copy_from_slice(text), speaker, || (MessageId::new(ID).unwrap(), NOW))
}

/// The rules of docs/vectors/README.md.
fn generate(rule: &str) -> String {
    let (rule, n) = rule.split_once(':').unwrap();
    let n: usize = n.parse().unwrap();
    match rule {
        "depth" => {
            format!(r#"{{"type":"STATUS","to":"agni","payload":{}{}}}"#, "[".repeat(n - 1), "]".repeat(n - 1))
        }
        "size" => {
            let (open, close) = (r#"{"type":"STATUS","to":"agni","payload":""#, "\"}");
            format!("{open}{}{close}", "x".repeat(n - open.len() - close.len()))
        }
        other => panic!("the vectors have a new rule: {other}"),
    }
}

/// The text of a vector, if it is one of JSON.
fn text_of(vector: &Value) -> Option<Vec<u8>> {
    if let Some(hex) = vector["hex"].as_str() {
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        return Some((0..hex.len()).step_by(2).map(byte).collect());
    }
    if let Some(rule) = vector["generate"].as_str() {
        return Some(generate(rule).into_bytes());
    }
    vector["json"].as_str().map(|text| text.as_bytes().to_vec())
}

/// What is wrong with the parser's reading of a valid frame.
fn fault_of_valid(text: &str) -> Option<String> {
    let given: Value = serde_json::from_str(text).unwrap();
    let parsed = match parse_as_dc(text.as_bytes()) {
        Ok(parsed) => parsed,
        Err(refused) => return Some(format!("refused: {}", refused.refusal)),
    };
    let word = given["type"].as_str().unwrap().to_ascii_uppercase();
    let as_it_says = match (&parsed.frame, Kind::parse(&word)) {
        (ClientFrame::Heartbeat, Some(Kind::Heartbeat)) => {
            given["to"].is_null() || given["to"].as_str() == Some("mesh")
        }
        (ClientFrame::Message(head, payload), Some(kind)) => {
            let read: Value = serde_json::from_slice(payload).unwrap();
            let kept = given.as_object().unwrap().iter().all(|(key, value)| read[key] == *value);
            head.kind == kind && kept && read["from"].is_string() && read["id"] == head.id.as_str()
        }
        (ClientFrame::Auth { token }, None) => {
            let source = if given["payload"].is_null() { &given } else { &given["payload"] };
            word == "AUTH" && source["token"] == token.as_str()
        }
        (ClientFrame::Register(_), None) => word == "REGISTER",
        (ClientFrame::Unregister, None) => word == "UNREGISTER",
        (ClientFrame::Agents, None) => word == "AGENTS",
        (ClientFrame::Nack { message, reason, requeue, .. }, None) => {
            let source = if given["payload"].is_null() { &given } else { &given["payload"] };
            word == "NACK"
                && given["reply_to"] == message.as_str()
                && source["reason"].as_str().unwrap_or_default() == reason
                && source["requeue"].as_bool().unwrap_or_default() == *requeue
        }
        (ClientFrame::Query { from, message }, None) => {
            let source = if given["payload"].is_null() { &given } else { &given["payload"] };
            let from = from.as_ref().map(|from| from.name.as_str());
            word == "QUERY"
                && source["message"] == message.as_str()
                && given["payload"]["from"].as_str() == from
        }
        (ClientFrame::Room(_, frame), None) => frame.word() == word,
        // PUBLISH is a STATUS to a room.
        (ClientFrame::Message(head, _), None) => word == "PUBLISH" && head.kind == Kind::Status,
        _ => false,
    };
    (!as_it_says).then(|| format!("read as {:?}", parsed.frame))
}

fn fault_of_invalid(text: &[u8], code: &str) -> Option<String> {
    match parse_as_dc(text) {
        Err(refused) if refused.refusal.code.as_str() == code => None,
        Err(refused) => Some(format!("{} instead of {code}", refused.refusal)),
        Ok(parsed) => Some(format!("taken instead of {code}: {:?}", parsed.frame)),
    }
}

/// Holds faults against the lists: what is not listed fails, and what is listed must still be wrong.
fn settle(file: &str, faults: Vec<(String, String)>) {
    let listed = |name: &str| DECIDED_LATER.iter().any(|(known, _)| *known == format!("{file}: {name}"));
    let new: Vec<String> = faults
        .iter()
        .filter(|(name, _)| !listed(name))
        .map(|(name, why)| format!("{file}: {name}: {}", why.chars().take(160).collect::<String>()))
        .collect();
    assert!(new.is_empty(), "\n{}\n", new.join("\n"));
    for (known, _) in DECIDED_LATER.iter() {
        let Some(name) = known.strip_prefix(file).and_then(|rest| rest.strip_prefix(": ")) else { continue };
        assert!(faults.iter().any(|(fault, _)| fault == name), "{known} holds now: take it off the list");
    }
}

#[test]
fn every_valid_client_frame_is_read_as_what_it_is() {
    // covers T04, T05
    let files = ["ack", "agents", "auth", "error", "heartbeat", "message", "receipt", "register", "reserved"];
    for file in files {
        let file = format!("client/{file}.json");
        let vectors = read(&file);
        let from_clients = vectors.iter().filter(|vector| vector["direction"] == "client");
        let faults = from_clients.filter_map(|vector| {
            let fault = fault_of_valid(vector["json"].as_str().unwrap())?;
            Some((vector["name"].as_str().unwrap().to_owned(), fault))
        });
        settle(&file, faults.collect());
    }
}

#[test]
fn every_invalid_frame_is_refused_with_its_code() {
    // covers B19
    let file = "client/invalid.json";
    let vectors = read(file);
    let faults = vectors.iter().filter_map(|vector| {
        let fault = fault_of_invalid(&text_of(vector)?, vector["code"].as_str().unwrap())?;
        Some((vector["name"].as_str().unwrap().to_owned(), fault))
    });
    settle(file, faults.collect());
}

#[test]
fn limits_are_where_they_are_said_to_be() {
    // covers B19
    let faults = read("limits.json").into_iter().filter_map(|vector| {
        let text = text_of(&vector).unwrap();
        let fault = match vector["code"].as_str() {
            Some(code) => fault_of_invalid(&text, code),
            None => parse_as_dc(&text).err().map(|refused| refused.refusal.to_string()),
        };
        fault.map(|fault| (vector["name"].as_str().unwrap().to_owned(), fault))
    });
    settle("limits.json", faults.collect());
}

#[test]
fn what_passes_is_passed_on_byte_for_byte() {
    // covers T04
    let faults = read("passing.json").into_iter().filter_map(|vector| {
        let (sent, delivered) = (vector["sent"].as_str().unwrap(), vector["delivered"].as_str().unwrap());
        let fault = match parse_as_dc(sent.as_bytes()).map(|parsed| parsed.frame) {
            Ok(ClientFrame::Message(_, payload)) if payload == delivered.as_bytes() => return None,
            Ok(ClientFrame::Message(_, payload)) => String::from_utf8_lossy(&payload).into_owned(),
            other => format!("{other:?}"),
        };
        Some((vector["name"].as_str().unwrap().to_owned(), fault))
    });
    settle("passing.json", faults.collect());
}
