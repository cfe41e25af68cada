//! Clients that are plain Python with the package `websockets`.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Mesh, PythonClient, python, strict_python, until};

// covers T03, T04, T05
#[test]
fn a_python_client_sends_a_command_through_one_edge_and_gets_the_result_from_another() {
    let mut mesh = Mesh::start(&["dc", "agni", "rushabdev"]);
    for (n, python) in [python(), strict_python()].iter().enumerate() {
        command_and_result(python, &format!("worker-{n}"), &mut mesh);
    }
}

/// A worker of its own each time: the COMMAND always has the same id, and one sent to the same worker again would be
/// recognised.
fn command_and_result(python: &Path, worker: &str, mesh: &mut Mesh) {
    let mut responder = PythonClient::start(python, "responder.py", mesh.machine("rushabdev"), worker, &[]);
    assert_eq!(responder.line(), "ready");
    until("agni knows the worker", || {
        String::from_utf8_lossy(&mesh.machine("agni").run(&["agents"]).stdout).contains(worker)
    });
    let mut asker = PythonClient::start(python, "command.py", mesh.machine("agni"), "asker", &[worker]);
    let result: Value = serde_json::from_str(&asker.line()).unwrap();
    assert_eq!(result["type"], "RESULT", "{result}");
    assert_eq!(result["from"], worker, "stamped by the edge, as the worker left it out");
    assert_eq!(result["reply_to"], "c-1");
    assert_eq!(result["payload"]["echo"]["do"], "hello");
    assert_eq!(result["payload"]["note"], "kept", "a field that the mesh does not know survives the trip");
}

// covers T07
#[test]
fn a_python_client_that_never_acknowledges_is_acknowledged_for_by_its_library() {
    let mut mesh = Mesh::start(&["dc", "agni", "rushabdev"]);
    let python = python();
    let mut responder =
        PythonClient::start(&python, "responder.py", mesh.machine("rushabdev"), "worker", &[]);
    assert_eq!(responder.line(), "ready");
    let mut asker = PythonClient::start(&python, "states.py", mesh.machine("agni"), "asker", &["worker"]);
    assert_eq!(asker.line(), "accepted stored delivered acked");
}

// covers T16, B19
#[test]
fn a_client_that_speaks_messagepack_talks_with_one_that_speaks_json_and_keeps_its_bytes() {
    let mut mesh = Mesh::start(&["dc", "agni", "rushabdev"]);
    let python = python();
    let mut responder =
        PythonClient::start(&python, "responder.py", mesh.machine("rushabdev"), "worker", &[]);
    assert_eq!(responder.line(), "ready");
    until("agni knows the worker", || {
        String::from_utf8_lossy(&mesh.machine("agni").run(&["agents"]).stdout).contains("worker")
    });
    let mut packed = PythonClient::start(&python, "packed.py", mesh.machine("agni"), "packed", &["worker"]);
    let seen: Value = serde_json::from_str(&packed.line()).unwrap();
    assert_eq!(seen["subprotocol"], "trishula.v2+msgpack");
    let echo = &seen["from json"]["payload"]["echo"];
    assert_eq!((&echo["raw"], &echo["deep"][0]["raw"]), (&json!("AAE="), &json!("/w==")), "{seen}");
    assert_eq!((&echo["n"], &echo["f"]), (&json!(1u64 << 63), &json!(1.5)));
    let own = &seen["from itself"];
    assert_eq!((&own["payload"]["raw"], &own["payload"]["deep"][0]["raw"]), (&json!([0, 1]), &json!([255])));
    assert_eq!((&own["mine"], &own["bin"]), (&json!([2]), &Value::Null), "{own}");
    assert_eq!(seen["large"]["payload"]["code"], "too_large", "{seen}");
    for (what, says) in
        [("text", "a text message on a MessagePack session"), ("extension", "an extension type")]
    {
        let error = &seen[what]["payload"];
        assert_eq!(error["code"], "bad_frame", "{seen}");
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
    assert_eq!(seen["goes on"], "AGENTS");
}
