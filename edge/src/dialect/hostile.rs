//! What is too large to be written down in a vector.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::vectors::{BEGIN, dialect, nine_keys};
use super::*;

fn one(head: Value) -> Dialect {
    let (mut dialect, mut steps) = (dialect(&head), Steps::new());
    dialect.start(BEGIN, &mut steps);
    let registered = steps.take().find_map(|step| match step {
        Step::ToSession(frame) => {
            serde_json::from_slice::<Value>(&frame).unwrap()["id"].as_str().map(str::to_owned)
        }
        _ => None,
    });
    if let Some(id) = registered {
        let answer = json!({"type": "REGISTERED", "from": "mesh", "reply_to": id, "payload": {}});
        dialect.session(BEGIN, &Bytes::from(answer.to_string()), &mut steps);
    }
    dialect
}

fn known(permission: &str) -> Dialect {
    one(json!({"dialect": "mcp", "user": [permission]}))
}

fn given(dialect: &mut Dialect, frame: impl Into<Bytes>) -> Vec<Step> {
    let mut steps = Steps::new();
    dialect.client(BEGIN, &frame.into(), &mut steps);
    steps.take().collect()
}

fn told(dialect: &mut Dialect, frame: Value) -> Vec<Step> {
    let mut steps = Steps::new();
    dialect.session(BEGIN, &Bytes::from(frame.to_string()), &mut steps);
    steps.take().collect()
}

fn to_client(steps: &[Step]) -> Vec<Value> {
    let frames = steps.iter().filter_map(|step| match step {
        Step::ToClient(frame) => Some(frame),
        _ => None,
    });
    frames.inspect(|frame| nine_keys(frame)).map(|frame| serde_json::from_slice(frame).unwrap()).collect()
}

fn to_session(steps: &[Step]) -> Vec<Value> {
    let frames = steps.iter().filter_map(|step| match step {
        Step::ToSession(frame) => Some(serde_json::from_slice(frame).unwrap()),
        _ => None,
    });
    frames.collect()
}

#[test]
fn deep_json_is_refused_and_the_connection_stays() {
    // covers B06, B19
    let mut mcp = known("admin");
    for depth in [64, 65, 100_000] {
        let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        for text in [format!(r#"{{"type":"ping","x":{deep}}}"#), deep] {
            let answer = to_client(&given(&mut mcp, text));
            assert_eq!(answer[0]["error_code"], "DECODE_ERROR", "{depth}");
        }
    }
    let fits = format!(r#"{{"type":"ping","x":{}{}}}"#, "[".repeat(63), "]".repeat(63));
    assert_eq!(to_client(&given(&mut mcp, fits))[0]["type"], "pong");
    let buddy = json!({"dialect": "session-buddy", "service": "session-buddy", "user": []});
    assert_eq!(given(&mut one(buddy), "[".repeat(100_000)), [Step::Note(Note::DecodeError)]);
    let mut shared = one(json!({"dialect": "shared", "serves": ["trishula", "mcp", "relay"]}));
    assert!(matches!(given(&mut shared, "{".repeat(100_000))[..], [Step::ToSession(_)]));
}

#[test]
fn bad_frames_without_end_end_the_connection_and_one_good_frame_begins_the_count_anew() {
    // covers B19
    for (dialect, good) in [
        ("mcp", r#"{"type":"ping"}"#),
        ("session-buddy", r#"{"type":"ping"}"#),
        ("relay", r#"{"type":"STATUS","to":"agni","id":"m","payload":1}"#),
    ] {
        let mut one = one(json!({"dialect": dialect, "user": ["admin"]}));
        if dialect == "relay" {
            given(&mut one, "mac");
        }
        let closes = |steps: &[Step]| steps.iter().any(|step| matches!(step, Step::Close(..)));
        let some = bad::MAX_IN_A_ROW - 1;
        for round in 0..2 {
            for n in 0..some {
                let steps = given(&mut one, "{");
                assert!(!closes(&steps), "{dialect}, round {round}, frame {n}: {steps:?}");
                assert!(!steps.contains(&Step::Note(Note::BadFrames)), "{dialect}");
            }
            if round == 0 {
                assert!(!closes(&given(&mut one, good)), "{dialect}");
            }
        }
        let steps = given(&mut one, "{");
        let end = Step::Close(CloseCode::PolicyViolation, bad::REASON.into());
        assert!(steps.contains(&end) && steps.contains(&Step::Note(Note::BadFrames)), "{dialect}: {steps:?}");
        assert!(given(&mut one, good).is_empty(), "{dialect}: nothing follows");
    }
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    // covers B06, B19
    let wrong: &[u8] = &[b'{', b'"', 0xff, 0xfe, b'"', b':', b'1', b'}'];
    assert_eq!(to_client(&given(&mut known("admin"), wrong))[0]["error_code"], "DECODE_ERROR");
    let mut relay = one(json!({"dialect": "relay", "auth": "optional"}));
    given(&mut relay, "mac");
    let steps = given(&mut relay, wrong);
    assert!(matches!(&steps[..], [Step::Note(Note::BadRequest), Step::ToClient(_)]), "{steps:?}");
    let mut shared = one(json!({"dialect": "shared", "serves": ["mcp"]}));
    assert_eq!(to_client(&given(&mut shared, wrong))[0]["error_code"], "DECODE_ERROR");
}

#[test]
fn a_frame_over_a_mebibyte_is_the_end() {
    // covers B06: checklist 8
    let large = format!(r#"{{"type":"ping","x":"{}"}}"#, "x".repeat(1 << 20));
    for dialect in ["mcp", "relay", "session-buddy"] {
        let steps = given(&mut one(json!({"dialect": dialect, "user": ["admin"]})), large.clone());
        let close = steps.iter().find_map(|step| match step {
            Step::Close(code, reason) => Some((code.number(), reason.as_str())),
            _ => None,
        });
        assert_eq!(close, Some((1009, "frame exceeds limit of 1048576 bytes")), "{dialect}");
    }
    let fits = format!(r#"{{"type":"ping","x":"{}"}}"#, "x".repeat((1 << 20) - 24));
    assert_eq!(to_client(&given(&mut known("admin"), fits))[0]["type"], "pong");
}

#[test]
fn nothing_over_a_mebibyte_reaches_a_client_of_old() {
    // covers B06: checklist 8
    let big = "x".repeat((1 << 20) - 100);
    let mut mcp = known("admin");
    let event = json!({"type": "STATUS", "from": "service", "id": "e", "timestamp": 1, "to": "room:global",
        "payload": {"event": "x", "data": {"big": big}}});
    let steps = told(&mut mcp, event);
    assert_eq!(to_client(&steps)[0]["error_code"], "SERVER_ERROR");
    assert!(steps.contains(&Step::Note(Note::TooLarge)));
    let asked =
        given(&mut mcp, r#"{"type":"request","event":"get_pool_status","data":{"pool_id":"p"},"id":"q"}"#);
    let id = to_session(&asked)[0]["id"].clone();
    let result = json!({"type": "RESULT", "from": "service", "id": "r", "timestamp": 1, "to": "u1",
        "reply_to": id, "payload": {"data": {"big": big}}});
    let answer = to_client(&told(&mut mcp, result));
    assert_eq!((&answer[0]["type"], &answer[0]["correlation_id"]), (&json!("error"), &json!("q")));
}

#[test]
fn a_history_is_cut_to_what_fits() {
    // covers B06, B07
    let mut mcp = known("admin");
    let asked =
        given(&mut mcp, r#"{"type":"request","event":"get_recent","data":{"channel":"global"},"id":"h"}"#);
    let id = to_session(&asked)[0]["id"].clone();
    let messages: Vec<Value> = (0..20)
        .map(|n| {
            json!({"type": "STATUS", "from": "service", "id": format!("e-{n}"), "timestamp": n,
            "to": "room:global", "payload": {"event": "x", "data": {"big": "x".repeat(100_000)}}})
        })
        .collect();
    let history = json!({"type": "HISTORY", "from": "mesh", "id": "m", "reply_to": id,
        "payload": {"room": "global", "messages": messages, "cursor": "A", "complete": true}});
    let answer = to_client(&told(&mut mcp, history)).remove(0);
    assert_eq!(answer["type"], "response");
    let data = &answer["data"];
    assert_eq!((&data["complete"], &data["count"]), (&json!(false), &json!(10)), "{}", data["count"]);
    assert_eq!(data["messages"][9]["id"], "e-19");
}

#[test]
fn a_message_that_fits_into_no_history_hides_no_other() {
    // covers B06, B07
    let mut mcp = known("admin");
    let asked =
        given(&mut mcp, r#"{"type":"request","event":"get_recent","data":{"channel":"global"},"id":"h"}"#);
    let id = to_session(&asked)[0]["id"].clone();
    let sizes = [10, 600_000, 10, (1 << 20) - 1000];
    let messages = sizes.iter().enumerate().map(|(n, size)| {
        json!({"type": "STATUS", "from": "service", "id": format!("e-{n}"), "timestamp": n,
            "to": "room:global", "payload": {"event": "x", "data": {"big": "x".repeat(*size)}}})
    });
    let messages: Vec<Value> = messages.collect();
    let history = json!({"type": "HISTORY", "from": "mesh", "id": "m", "reply_to": id,
        "payload": {"room": "global", "messages": messages, "cursor": "A", "complete": true}});
    let answer = to_client(&told(&mut mcp, history)).remove(0);
    let data = &answer["data"];
    assert_eq!(
        (&answer["type"], &data["complete"], &data["count"]),
        (&json!("response"), &json!(false), &json!(3))
    );
    let ids: Vec<&Value> = data["messages"].as_array().unwrap().iter().map(|row| &row["id"]).collect();
    assert_eq!(ids, ["e-0", "e-1", "e-2"]);
}

#[test]
fn requests_without_answers_have_a_limit_and_an_end() {
    // covers B06, B19
    let (mut mcp, mut wish) = (known("admin"), Value::Null);
    // The same room is asked for once, however many wait for it, and however often they have waited in vain.
    for (round, subscribes) in [(1, 1), (2, 0), (3, 0)] {
        let at = Now { micros: BEGIN.after(Duration::from_secs(10 * (round - 1))), ..BEGIN };
        for (request, asked) in [("get_presence", 64), ("subscribe", subscribes)] {
            let frame =
                json!({"type": "request", "event": request, "data": {"channel": "pool:p"}, "id": "s"});
            let mut passed = 0;
            for _ in 0..1000 {
                let mut steps = Steps::new();
                mcp.client(at, &Bytes::from(frame.to_string()), &mut steps);
                let steps: Vec<Step> = steps.take().collect();
                for asked in to_session(&steps) {
                    passed += 1;
                    if asked["type"] == "SUBSCRIBE" {
                        wish = asked["id"].clone();
                    }
                }
                let refused = to_client(&steps);
                assert!(refused.iter().all(|answer| answer["error_code"] == "SERVER_ERROR"), "{refused:?}");
            }
            assert_eq!(passed, asked, "{request}");
        }
        let mut steps = Steps::new();
        let late = Now { micros: BEGIN.after(Duration::from_secs(10 * round)), ..BEGIN };
        mcp.due(late, &mut steps);
        let ends: Vec<Step> = steps.take().collect();
        assert_eq!(to_client(&ends).len(), 2 * 64);
        assert_eq!(mcp.next_due(), None);
    }
    // Of all that have waited in vain one is remembered, and hears of the refusal.
    let refusal = json!({"type": "ERROR", "from": "mesh", "id": "m", "reply_to": wish,
        "payload": {"code": "forbidden", "message": "no"}});
    assert_eq!(to_client(&told(&mut mcp, refusal)).len(), 1);
}

#[test]
fn a_leave_that_finds_no_room_changes_nothing() {
    // covers B06, B19
    let mut mcp = known("admin");
    let request = |event: &str| {
        json!({"type": "request", "event": event, "data": {"channel": "pool:p"}, "id": event}).to_string()
    };
    let wish = to_session(&given(&mut mcp, request("subscribe"))).remove(0);
    for _ in 0..64 {
        assert_eq!(to_session(&given(&mut mcp, request("get_presence"))).len(), 1);
    }
    let steps = given(&mut mcp, request("unsubscribe"));
    assert!(to_session(&steps).is_empty());
    let refused = to_client(&steps);
    assert_eq!(refused.len(), 1, "the wish is not taken back: {refused:?}");
    assert_eq!(
        (&refused[0]["error_code"], &refused[0]["correlation_id"]),
        (&json!("SERVER_ERROR"), &json!("unsubscribe"))
    );
    let joined = json!({"type": "SUBSCRIBED", "from": "mesh", "id": "m", "reply_to": wish["id"],
        "payload": {"room": "pool:p", "cursor": "A", "recovered": true}});
    let answer = to_client(&told(&mut mcp, joined)).remove(0);
    assert_eq!((&answer["status"], &answer["correlation_id"]), (&json!("subscribed"), &json!("subscribe")));
}

#[test]
fn rooms_that_are_not_there_yet_have_a_limit() {
    // covers B06, B19
    let (mut mcp, mut refused) = (known("admin"), 0);
    for n in 0..1000 {
        let frame = json!({"type": "event", "event": "subscribe", "data": {"room": format!("pool:{n}")}});
        for step in given(&mut mcp, frame.to_string()) {
            match step {
                Step::ToSession(frame) => {
                    let asked: Value = serde_json::from_slice(&frame).unwrap();
                    let refusal = json!({"type": "ERROR", "from": "mesh", "id": "m", "reply_to": asked["id"],
                        "payload": {"code": "unavailable", "message": "there is no link"}});
                    assert_eq!(told(&mut mcp, refusal), [Step::Note(Note::Held)]);
                }
                Step::ToClient(_) => refused += 1,
                other => assert_eq!(other, Step::Note(Note::Full)),
            }
        }
    }
    assert_eq!(refused, 1000 - trishula::wire::room::MAX_SUBSCRIPTIONS);
}

#[test]
fn what_waits_for_a_registration_has_a_limit() {
    // covers B06, B19
    let mut mcp = dialect(
        &json!({"dialect": "mcp", "auth": "optional", "anonymous": "everything", "may_publish": true}),
    );
    let frame =
        format!(r#"{{"type":"event","event":"x","room":"global","data":{{"x":"{}"}}}}"#, "x".repeat(10_000));
    let mut taken = 0;
    while mcp.hears_client() && taken < 1000 {
        given(&mut mcp, frame.clone());
        taken += 1;
    }
    assert_eq!(taken, 7, "the client is not read once 64 KiB wait");
    let small = r#"{"type":"event","event":"x","room":"global","data":{}}"#;
    let refused = (0..1000).filter(|_| !to_client(&given(&mut mcp, small)).is_empty()).count();
    assert_eq!(refused, 1000 - (64 - 7), "and one that is given all the same finds no room");
}

#[test]
fn names_are_as_long_as_they_may_be() {
    // covers B19
    let mut mcp = known("admin");
    let long = "x".repeat(513);
    for key in ["id", "correlation_id", "event"] {
        let answer = to_client(&given(&mut mcp, json!({"type": "request", key: long}).to_string()));
        assert_eq!(answer[0]["error_code"], "DECODE_ERROR", "{key}");
    }
    let shown = to_client(&given(&mut mcp, json!({"type": "request", "event": "y".repeat(512)}).to_string()));
    assert_eq!(shown[0]["error_message"].as_str().unwrap().len(), "Unknown request event: ".len() + 100);
    let room = json!({"type": "subscribe", "data": {"channel": "x".repeat(100_000)}});
    let answer = to_client(&given(&mut mcp, room.to_string()));
    assert_eq!(answer[0]["error_code"], "INVALID_CHANNEL");
    let many: String = (0..50_000).map(|n| format!(r#""k{n}":{n},"#)).collect();
    let wide = format!(r#"{{"type":"subscribe","data":{{{many}"channel":"global"}}}}"#);
    assert_eq!(to_session(&given(&mut mcp, wide))[0]["to"], "room:global");
}

#[test]
fn a_request_that_grows_over_the_limit_is_refused_here() {
    // covers B06, B19
    let mut mcp = known("admin");
    let frame = format!(
        r#"{{"type":"request","event":"get_pool_status","id":"q","data":{{"pool_id":"{}"}}}}"#,
        "x".repeat((1 << 20) - 100)
    );
    assert!(frame.len() <= 1 << 20);
    let steps = given(&mut mcp, frame);
    assert_eq!(to_client(&steps)[0]["error_code"], "REQUEST_ERROR");
    assert!(to_session(&steps).is_empty());
    let mut relay = one(json!({"dialect": "relay", "auth": "optional"}));
    given(&mut relay, "mac");
    let frame = format!(r#"{{"id":"m","to":"agni","body":"{}"}}"#, "x".repeat((1 << 20) - 40));
    let steps = given(&mut relay, frame);
    assert!(matches!(&steps[..], [Step::Note(Note::BadRequest), Step::ToClient(_)]), "{}", steps.len());
}
