//! Every common WebSocket client sends a COMMAND through one edge and gets the RESULT of an agent at another, over TLS, with each
//! way to pass a token that it has.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::browser;
use crate::harness::{Machine, Mesh, PythonClient, python, until};

const WAYS: [&str; 4] = ["header", "query", "subprotocol", "message"];

/// Two machines, and an agent at the second that answers.
struct World {
    mesh: Mesh,
    _worker: PythonClient,
}

impl World {
    fn new() -> World {
        let mut mesh = Mesh::start(&["dc", "agni"]);
        let mut worker = PythonClient::start(&python(), "responder.py", mesh.machine("agni"), "worker", &[]);
        assert_eq!(worker.line(), "ready");
        until("dc knows the worker", || {
            String::from_utf8_lossy(&mesh.machine("dc").run(&["agents"]).stdout).contains("worker")
        });
        World { mesh, _worker: worker }
    }

    fn near(&mut self) -> &mut Machine {
        self.mesh.machine("dc")
    }
}

/// A folder with programs that `tests/run.sh` installs.
fn installed(variable: &str) -> PathBuf {
    let place =
        std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} is not set: use tests/run.sh"));
    PathBuf::from(place)
}

fn assert_answered(who: &str, output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let result = text.lines().rev().find_map(|line| {
        let frame = &line[line.find('{')?..];
        serde_json::from_str::<Value>(frame).ok().filter(|frame| frame["type"] == "RESULT")
    });
    let result = result.unwrap_or_else(|| panic!("{who}: {output:?}"));
    assert_eq!(result["from"], "worker", "{who}");
    assert_eq!(result["payload"]["echo"], json!({"do": "hello"}), "{who}");
}

fn command(id: &str) -> String {
    json!({"type": "COMMAND", "to": "worker", "id": id, "payload": {"do": "hello"}}).to_string()
}

// covers T03, B04, B06
#[test]
fn python_clients_of_three_libraries_pass_their_token_in_four_ways() {
    let mut world = World::new();
    for library in ["websockets", "aiohttp", "websocket-client"] {
        for way in WAYS {
            let who = format!("{library} by {way}");
            let machine = world.near();
            let agent = format!("{library}-{way}");
            let mut script = Command::new(python());
            script.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/python/any_client.py"));
            script.args([machine.url(), machine.ca(), machine.token(&agent)]).args(["worker", library, way]);
            assert_answered(&who, &script.stdin(Stdio::null()).output().unwrap());
        }
    }
}

// covers T03, B04, B06
#[test]
fn node_clients_pass_their_token_in_four_ways() {
    let mut world = World::new();
    let place = installed("TRISHULA_TEST_NODE");
    for way in WAYS {
        let machine = world.near();
        let mut script = Command::new("node");
        script.env("TRISHULA_TEST_NODE", &place);
        script.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/node/any_client.mjs"));
        script.args([machine.url(), machine.ca(), machine.token(&format!("ws-{way}"))]).args(["worker", way]);
        assert_answered(&format!("ws by {way}"), &script.stdin(Stdio::null()).output().unwrap());
    }
}

// covers T03, B04, Q09
#[test]
fn chromium_passes_its_token_in_each_way_that_a_page_has() {
    let mut world = World::new();
    for way in ["query", "subprotocol", "message"] {
        let machine = world.near();
        let said = json!({"url": machine.url(), "token": machine.token(&format!("page-{way}")), "way": way,
            "command": command(&format!("page-{way}"))});
        let result = browser::run(&machine.folder.join("edge-identity/public.pem"), &said);
        assert_eq!(result["type"], "RESULT", "chromium by {way}: {result}");
        assert_eq!(result["payload"]["echo"], json!({"do": "hello"}), "chromium by {way}");
    }
}
