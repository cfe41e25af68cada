//! The golden vectors of `edge/tests/vectors`, against the dialects. Their form is in the README there.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use trishula::wire::client::{self, Speaker};
use trishula::wire::close::{CloseCode, Code};
use trishula::wire::ids::{AgentAddr, MessageId, Namespace};

use super::pace::{PerSecond, Unlimited};
use super::relay::Entry;
use super::services::Service;
use super::sniff::Choice;
use super::*;

/// Ids in order.
pub(super) struct Counting(pub(super) u64);

impl Ids for Counting {
    fn next_id(&mut self) -> String {
        self.0 += 1;
        format!("{:08x}-0000-4000-8000-000000000000", self.0)
    }
}

pub(super) const BEGIN: Now = Now { micros: 86_400_000_000, wall_ms: 1_767_225_600_000 };

pub(super) fn settings(of: &Value) -> Settings {
    let service = of["service"].as_str().unwrap_or("mahavishnu");
    let mut settings = Settings::new(Service::preset(service).unwrap());
    if of["auth"] == "optional" {
        settings.auth = Auth::Optional;
    }
    if of["anonymous"] == "everything" {
        settings.anonymous = Anonymous::Everything;
    }
    let mut section = presets::section(service).unwrap();
    section.admin_everywhere = of["admin_everywhere"] == true;
    settings.access = section.access();
    settings.may_publish = of["may_publish"] == true;
    if let Some(rate) = of["rate"].as_u64() {
        settings.rate = rate as u32;
    }
    settings
}

fn entry(of: &Value) -> Entry {
    let auth = if of["auth"] == "optional" { Auth::Optional } else { Auth::Required };
    let namespace = Namespace::new("trishula").unwrap();
    Entry { namespace, auth, auth_within: Duration::from_secs(10), max_frame: 1 << 20 }
}

pub(super) fn dialect(of: &Value) -> Dialect {
    let ids = Box::new(Counting(0));
    let settings = settings(of);
    let pace: Box<dyn Pace> = match of["rate"].as_u64() {
        Some(rate) => Box::new(PerSecond::new(rate as u32).unwrap()),
        None => Box::new(Unlimited),
    };
    let user = of["user"].as_array().map(|permissions| User {
        name: "u1".into(),
        called: None,
        permissions: permissions.iter().map(|p| p.as_str().unwrap().to_owned()).collect(),
    });
    match of["dialect"].as_str().unwrap() {
        "mcp" => Dialect::Mcp(Box::new(Mcp::new(Arc::new(settings), user, ids, pace, BEGIN))),
        "session-buddy" => {
            Dialect::SessionBuddy(Box::new(SessionBuddy::new(Arc::new(settings), user, ids, pace, BEGIN)))
        }
        "relay" => Dialect::Relay(Box::new(Relay::new(entry(of), user.is_some(), ids, pace, BEGIN))),
        "shared" => {
            let serves = |name: &str| of["serves"].as_array().unwrap().iter().any(|given| given == name);
            let buddy =
                Settings { auth: settings.auth, ..Settings::new(Service::preset("session-buddy").unwrap()) };
            let choice = Choice {
                trishula: serves("trishula"),
                mcp: serves("mcp").then(|| Arc::new(settings)),
                session_buddy: serves("session-buddy").then(|| Arc::new(buddy)),
                relay: serves("relay").then(|| entry(of)),
            };
            Dialect::Undecided(Box::new(Sniffer::new(choice, ids, pace, BEGIN)))
        }
        other => panic!("unknown dialect {other}"),
    }
}

/// Names for ids that are not known beforehand.
#[derive(Default)]
struct Names(BTreeMap<String, String>);

impl Names {
    fn put_into(&self, given: &Value) -> String {
        let mut text = given.as_str().map_or_else(|| given.to_string(), str::to_owned);
        for (name, value) in self.0.iter().rev() {
            text = text.replace(name, value);
        }
        text
    }

    /// Whether all that is expected is there; what else is there is not looked at.
    fn same(&mut self, expected: &Value, actual: &Value) -> bool {
        match (expected, actual) {
            (Value::String(name), Value::String(actual)) if name.starts_with('$') => {
                self.0.entry(name.clone()).or_insert_with(|| actual.clone()) == actual
            }
            (Value::Object(expected), Value::Object(actual)) => expected
                .iter()
                .all(|(key, value)| actual.get(key).is_some_and(|actual| self.same(value, actual))),
            _ => expected == actual,
        }
    }
}

fn shown(step: &Step) -> Option<Value> {
    let value =
        |text: &Bytes| serde_json::from_slice(text).unwrap_or_else(|_| json!(String::from_utf8_lossy(text)));
    Some(match step {
        Step::ToSession(frame) => json!({"session": value(frame), "text": String::from_utf8_lossy(frame)}),
        Step::ToClient(frame) => json!({"client": value(frame), "text": String::from_utf8_lossy(frame)}),
        Step::Close(code, reason) => json!({"close": [code.number(), reason]}),
        Step::Note(_) => return None,
    })
}

/// What must be so in every step, whatever the vector says.
fn check_always(of: &Value, step: &Step) {
    match (of["dialect"].as_str().unwrap(), step) {
        // Our own protocol passes as it is; whether it is any good is for the session to say.
        ("shared", _) => {}
        (_, Step::ToSession(frame)) => {
            let home = Namespace::new("trishula").unwrap();
            let agent = AgentAddr::parse("mac", &home).unwrap();
            let speaker = Speaker {
                agent: Some(&agent),
                namespace: &home,
                max_frame: 1 << 20,
                receipts: None,
                copies: 1,
            };
            let read = client::parse(frame, speaker, || (MessageId::new("x").unwrap(), 0));
            // A damaged agent id is another agent.
            let other = matches!(&read, Err(refused) if refused.refusal.code == Code::FromMismatch);
            assert!(read.is_ok() || other, "the session would refuse it: {read:?}");
        }
        // Half of a surrogate pair passes as it was written; a `Value` can't hold it.
        (_, Step::ToClient(frame)) if serde_json::from_slice::<Value>(frame).is_err() => {
            serde_json::from_slice::<&serde_json::value::RawValue>(frame).unwrap();
        }
        ("mcp", Step::ToClient(frame)) => nine_keys(frame),
        ("relay", Step::ToClient(frame)) => {
            let frame: Value = serde_json::from_slice(frame).unwrap();
            assert!(frame["id"].is_string(), "without id: {frame}");
        }
        _ => {}
    }
}

/// The table of 1.3 of what both ends of old take.
pub(super) fn nine_keys(frame: &Bytes) {
    assert!(frame.len() <= 1 << 20);
    let value: Value = serde_json::from_slice(frame).unwrap();
    let types = ["request", "subscribe", "unsubscribe", "ping", "response", "event", "error", "pong", "ack"];
    assert!(types.iter().any(|name| value["type"] == *name), "{value}");
    assert!(
        value["id"].is_string() && value["timestamp"].is_string() && value["data"].is_object(),
        "{value}"
    );
    for key in ["correlation_id", "event", "room", "error_code", "error_message"] {
        let given = value.get(key).unwrap_or_else(|| panic!("{key} is missing: {value}"));
        assert!(given.is_null() || given.is_string(), "{key}: {value}");
    }
}

fn close_code(number: &Value) -> CloseCode {
    let all = [
        CloseCode::Normal,
        CloseCode::TooBig,
        CloseCode::Internal,
        CloseCode::Restart,
        CloseCode::TryAgainLater,
        CloseCode::Slow,
        CloseCode::HeartbeatMissed,
        CloseCode::RateLimited,
        CloseCode::TooManyErrors,
        CloseCode::Unauthorized,
        CloseCode::Forbidden,
        CloseCode::AuthTimeout,
        CloseCode::TakenOver,
    ];
    all.into_iter().find(|code| number == code.number()).unwrap()
}

/// One case: its head, and its lines.
fn play(file: &str, head: &Value, lines: &[(usize, Value)]) {
    let (mut dialect, mut now, mut names) = (dialect(head), BEGIN, Names::default());
    let mut steps = Steps::new();
    dialect.start(now, &mut steps);
    compare(&format!("{file}: {}", head["case"]), head, head, &mut steps, &mut names);
    for (number, line) in lines {
        if let Some(ms) = line["after_ms"].as_u64() {
            now = Now { micros: now.micros + ms * 1000, wall_ms: now.wall_ms + ms };
        }
        if let Some(given) = line.get("client") {
            dialect.client(now, &Bytes::from(names.put_into(given)), &mut steps);
        } else if let Some(given) = line.get("session") {
            dialect.session(now, &Bytes::from(names.put_into(given)), &mut steps);
        } else if let Some(code) = line.get("closes") {
            dialect.session_closes(now, close_code(code), line["reason"].as_str().unwrap_or(""), &mut steps);
        } else if line.get("gone").is_some() {
            dialect.client_gone(&mut steps);
        } else if dialect.next_due().is_some_and(|at| at <= now.micros) {
            dialect.due(now, &mut steps);
            assert!(dialect.next_due().is_none_or(|at| at > now.micros), "line {number}: due for ever");
        }
        compare(&format!("{file}:{number} of {}", head["case"]), head, line, &mut steps, &mut names);
    }
}

fn compare(place: &str, head: &Value, line: &Value, steps: &mut Steps, names: &mut Names) {
    let steps: Vec<Step> = steps.take().collect();
    steps.iter().for_each(|step| check_always(head, step));
    let notes: Vec<&str> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Note(note) => Some(note.as_str()),
            _ => None,
        })
        .collect();
    if let Some(expected) = line.get("notes") {
        assert_eq!(json!(notes), *expected, "{place}");
    }
    let actual: Vec<Value> = steps.iter().filter_map(shown).collect();
    let none = Vec::new();
    let expected = line["steps"].as_array().unwrap_or(&none);
    let matches = expected.len() == actual.len()
        && expected.iter().zip(&actual).all(|(expected, actual)| names.same(expected, actual));
    if !matches {
        let mut said = format!("{place}\nexpected:\n");
        expected.iter().for_each(|step| writeln!(said, "  {step}").unwrap());
        said.push_str("but did:\n");
        actual.iter().for_each(|step| writeln!(said, "  {step}").unwrap());
        panic!("{said}");
    }
}

/// A case: what it says of its connection, and its numbered lines.
type Case = (Value, Vec<(usize, Value)>);

/// The cases of a file.
fn cases(name: &str) -> Vec<Case> {
    let path = format!("{}/tests/vectors/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut cases: Vec<Case> = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{name}:{}: {e}", at + 1));
        if value.get("case").is_some() {
            cases.push((value, Vec::new()));
        } else {
            cases.last_mut().unwrap().1.push((at + 1, value));
        }
    }
    cases
}

/// Plays all cases of a file; how many there were.
fn play_file(name: &str) -> usize {
    let cases = cases(name);
    cases.iter().for_each(|(head, lines)| play(name, head, lines));
    cases.len()
}

/// The same text with a few bytes put in, taken out or changed.
fn damaged(text: &str, next: &mut impl FnMut(usize) -> usize) -> Vec<u8> {
    const LIKELY: &[u8] = br#"{}[]":,\ntu0-.e "#;
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=next(3) {
        let at = next(bytes.len() + 1);
        let byte = if next(4) == 0 { next(256) as u8 } else { LIKELY[next(LIKELY.len())] };
        match next(3) {
            0 => bytes.insert(at, byte),
            1 if at < bytes.len() => bytes[at] = byte,
            _ if at < bytes.len() => drop(bytes.remove(at)),
            _ => {}
        }
    }
    bytes
}

#[test]
fn damaged_frames_break_no_rule() {
    // covers B06, B19
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let files = ["mcp", "mcp-rooms", "mcp-services", "session-buddy", "relay", "shared", "hostile"];
    for (head, lines) in files.iter().flat_map(|name| cases(name)) {
        for _ in 0..100 {
            let whole = next(lines.len() + 1);
            let mut names = Names::default();
            let (mut dialect, mut now, mut steps) = (dialect(&head), BEGIN, Steps::new());
            dialect.start(now, &mut steps);
            learn(&head, &mut steps, &mut names);
            for (at, (_, line)) in lines.iter().enumerate() {
                let later = match line["after_ms"].as_u64() {
                    Some(ms) if at < whole => ms,
                    _ if at < whole => 0,
                    _ => next(2000) as u64,
                };
                now = Now { micros: now.micros + 1000 * later, wall_ms: now.wall_ms + later };
                let given = line.get("client").or(line.get("session")).map(|given| names.put_into(given));
                let frame = given.map(|text| match at < whole || next(3) == 0 {
                    true => text.into_bytes(),
                    false => damaged(&text, &mut next),
                });
                let frame = frame.map(Bytes::from);
                match (line.get("client"), frame) {
                    (Some(_), Some(frame)) if dialect.hears_client() => {
                        dialect.client(now, &frame, &mut steps);
                    }
                    // A session says nothing that is no text.
                    (None, Some(frame)) if std::str::from_utf8(&frame).is_ok() => {
                        dialect.session(now, &frame, &mut steps);
                    }
                    _ => {}
                }
                while dialect.next_due().is_some_and(|at| at <= now.micros) {
                    dialect.due(now, &mut steps);
                }
                if learn(line, &mut steps, &mut names).iter().any(|step| ends(&head, step)) {
                    break;
                }
            }
        }
    }
}

/// What was done, with the names that it gives to ids.
fn learn(line: &Value, steps: &mut Steps, names: &mut Names) -> Vec<Step> {
    let all: Vec<Step> = steps.take().collect();
    let actual: Vec<Value> = all.iter().filter_map(shown).collect();
    let none = Vec::new();
    for (expected, actual) in line["steps"].as_array().unwrap_or(&none).iter().zip(&actual) {
        names.same(expected, actual);
    }
    let closes = all.iter().filter(|step| matches!(step, Step::Close(..))).count();
    let last = all.iter().rev().find(|step| !matches!(step, Step::Note(_)));
    assert!(closes == 0 || (closes == 1 && matches!(last, Some(Step::Close(..)))), "{all:?}");
    all
}

/// Whether the step is the end; whatever it is, it is checked.
fn ends(head: &Value, step: &Step) -> bool {
    check_always(head, step);
    matches!(step, Step::Close(..))
}

#[test]
fn the_envelope_and_its_connection() {
    // covers B06, B27 01, B27 02, B27 03, B27 04, B27 20, B27 21
    assert!(play_file("mcp") >= 20);
}

#[test]
fn rooms_by_the_envelope() {
    // covers B05, B06, B07
    assert!(play_file("mcp-rooms") >= 10);
}

#[test]
fn requests_that_a_service_answers() {
    // covers B06, B27 13
    assert!(play_file("mcp-services") >= 6);
}

#[test]
fn session_buddys_own_messages() {
    // covers B06
    assert!(play_file("session-buddy") >= 6);
}

#[test]
fn the_relay_of_the_old_mesh() {
    // covers T04, T11, B06
    assert!(play_file("relay") >= 10);
}

#[test]
fn a_shared_port_tells_dialects_by_the_first_frame() {
    // covers B01, B06
    assert!(play_file("shared") >= 8);
}

#[test]
fn what_strangers_send() {
    // covers B06, B19
    assert!(play_file("hostile") >= 5);
}
