//! Clients that are plain Python with the package `websockets`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{Mesh, PythonClient, python, until};

// covers T03, T04, T05
#[test]
fn a_python_client_sends_a_command_through_one_edge_and_gets_the_result_from_another() {
    let mut mesh = Mesh::start(&["dc", "agni", "rushabdev"]);
    let mut pythons = vec![python()];
    pythons.extend(std::env::var_os("TRISHULA_TEST_PYTHON_STRICT").map(PathBuf::from));
    for (n, python) in pythons.iter().enumerate() {
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
