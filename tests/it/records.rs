//! Where messages stand, what died, and how messages travelled: asked of nodes, and by clients.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};

use serde_json::{Value, json};

use crate::harness::{Machine, Mesh, PythonClient, python, until};

/// A client that has said these frames.
fn client(machine: &Machine, agent: &str, frames: &[&str]) -> PythonClient {
    PythonClient::start(&python(), "say.py", machine, agent, frames)
}

/// What it hears next.
fn heard(client: &mut PythonClient) -> Value {
    let line = client.line();
    serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
}

/// Runs a command that must do, and reads its JSON.
fn json_of(machine: &Machine, command: &[&str]) -> Value {
    let output = machine.run(&[command, &["--json"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {:?} {stderr}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a node answers to a GET at its port for health and metrics.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn code(machine: &Machine, command: &[&str]) -> (Option<i32>, String) {
    let output = machine.run(command);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

const MANUAL: &str = r#"{"type":"REGISTER","id":"r","payload":{"ack":"manual","window":1}}"#;

/// Registers an agent, which then goes away.
fn register(machine: &Machine, agent: &str) {
    let mut client = client(machine, agent, &[MANUAL, "-"]);
    assert_eq!(heard(&mut client)["type"], "REGISTERED");
}

/// Whether this machine knows that the agent is there, or away.
fn knows(machine: &Machine, agent: &str, online: bool) -> bool {
    let agents = json_of(machine, &["agents"]);
    let address = format!("trishula/{agent}");
    agents.as_array().unwrap().iter().any(|row| row["agent"] == address && row["online"] == online)
}

fn send(machine: &Machine, to: &str, id: &str, wait: &str) {
    let command = ["send", to, r#"{"n": 1}"#, "--id", id, "--as", "planner", "--wait", wait];
    let output = machine.run(&command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

// covers T07, T23
#[test]
fn any_node_says_where_a_message_stands_also_when_its_origin_is_gone() {
    let mut mesh = Mesh::start(&["dc", "agni", "rushabdev"]);
    register(mesh.machine("agni"), "worker");
    until("dc knows the worker", || knows(mesh.machine("dc"), "worker", false));
    send(mesh.machine("dc"), "worker", "c-1", "stored");

    let third = mesh.machine("rushabdev");
    let shown = json_of(third, &["show", "c-1"]);
    let message = &shown["messages"][0];
    assert_eq!((&message["from"], &message["state"]), (&json!("trishula/planner"), &json!("stored")));
    let row = &message["recipients"][0];
    assert_eq!((&row["recipient"], &row["node"]), (&json!("trishula/worker"), &json!("agni")));
    assert_eq!((&row["place"], &shown["not_asked"]), (&json!("mailbox"), &json!([])));
    let nodes: Vec<&str> =
        message["history"].as_array().unwrap().iter().map(|step| step["node"].as_str().unwrap()).collect();
    assert!(nodes.contains(&"dc") && nodes.contains(&"agni"), "{message}");
    assert_eq!(code(third, &["show", "c-1", "--from", "planner"]).0, Some(0));
    let (missing, said) = code(third, &["show", "c-1", "--from", "worker"]);
    assert!(missing == Some(1) && said.contains("trishula/worker"), "{said}");
    assert_eq!(code(third, &["show", "c-2"]).0, Some(1));

    let ack = r#"{"type":"ACK","to":"planner","reply_to":"c-1"}"#;
    let mut worker = client(mesh.machine("agni"), "worker", &[MANUAL, "-", "-", ack]);
    let kinds = [heard(&mut worker), heard(&mut worker)].map(|frame| frame["type"].clone());
    assert!(kinds.contains(&json!("COMMAND")), "{kinds:?}");
    let state_at = |machine: &Machine| {
        json_of(machine, &["show", "c-1"])["messages"][0]["recipients"][0]["state"].clone()
    };
    until("the message is acked, seen from rushabdev", || state_at(mesh.machine("rushabdev")) == "acked");

    mesh.machine("dc").node.as_mut().unwrap().kill();
    until("rushabdev sees that dc is gone", || !mesh.machine("rushabdev").reaches("dc"));
    let shown = json_of(mesh.machine("rushabdev"), &["show", "c-1"]);
    assert_eq!(shown["messages"][0]["state"], "acked");
    assert_eq!(shown["not_asked"][0]["node"], "dc");
    let (unasked, said) = code(mesh.machine("dc"), &["show", "c-1"]);
    assert!(unasked == Some(2) && said.contains("is it running?"), "{unasked:?} {said}");
}

// covers T07, T08
#[test]
fn a_client_asks_where_its_message_stands_and_a_stranger_is_told_nothing() {
    let mut mesh = Mesh::start(&["dc", "agni"]);
    register(mesh.machine("agni"), "worker");
    until("dc knows the worker", || knows(mesh.machine("dc"), "worker", false));
    send(mesh.machine("dc"), "worker", "c-1", "stored");

    // The sender has moved to the other node, which is not the one that took the message.
    let asks = r#"{"type":"QUERY","id":"q-1","payload":{"message":"c-1"}}"#;
    let unknown = r#"{"type":"QUERY","id":"q-2","payload":{"message":"c-9"}}"#;
    let mut planner = client(mesh.machine("agni"), "planner", &[asks, "-", unknown, "-"]);
    let state = heard(&mut planner);
    assert_eq!((&state["type"], &state["reply_to"]), (&json!("STATE"), &json!("q-1")));
    let payload = &state["payload"];
    assert_eq!((&payload["message"], &payload["state"]), (&json!("c-1"), &json!("stored")));
    let row = &payload["recipients"][0];
    assert_eq!((&row["recipient"], &row["node"]), (&json!("worker"), &json!("agni")));
    assert!(row["at"].as_u64().is_some() && row["reason"].is_null(), "{row}");
    let states: Vec<&str> =
        payload["history"].as_array().unwrap().iter().map(|step| step["state"].as_str().unwrap()).collect();
    assert!(states.starts_with(&["accepted"]) && states.contains(&"stored"), "{states:?}");
    assert_eq!(heard(&mut planner)["payload"]["state"], "unknown");

    let asks = r#"{"type":"QUERY","id":"q-1","payload":{"message":"c-1","from":"planner"}}"#;
    let mut stranger = client(mesh.machine("dc"), "stranger", &[asks, "-"]);
    let error = heard(&mut stranger);
    assert_eq!((&error["type"], &error["payload"]["code"]), (&json!("ERROR"), &json!("forbidden")));
    let mut worker = client(mesh.machine("dc"), "worker", &[asks, "-", "-"]);
    let mut state = heard(&mut worker);
    if state["type"] != "STATE" {
        // The message itself came first.
        state = heard(&mut worker);
    }
    assert_eq!(state["type"], "STATE");
    assert_eq!(state["payload"]["recipients"].as_array().unwrap().len(), 1);
}

/// What the dead-letter queue of agni has, asked at dc.
fn dead(mesh: &mut Mesh) -> Vec<Value> {
    json_of(mesh.machine("dc"), &["dlq", "list", "--node", "agni"]).as_array().unwrap().clone()
}

// covers Q04, T23
#[test]
fn what_died_is_listed_shown_sent_again_and_dropped() {
    let mut mesh = Mesh::start(&["dc", "agni"]);
    register(mesh.machine("agni"), "worker");
    until("dc knows the worker", || knows(mesh.machine("dc"), "worker", false));
    assert_eq!(dead(&mut mesh), Vec::<Value>::new());
    for id in ["d-1", "d-2", "d-3"] {
        send(mesh.machine("dc"), "worker", id, "stored");
    }
    // The worker is forgotten with three messages that wait for it.
    let gone = r#"{"type":"UNREGISTER","id":"u"}"#;
    let mut leaver = client(mesh.machine("agni"), "worker", &[MANUAL, "-", "-", gone, "-"]);
    let frames = [heard(&mut leaver), heard(&mut leaver), heard(&mut leaver)];
    assert!(frames.iter().any(|frame| frame["type"] == "UNREGISTERED"), "{frames:?}");
    until("all three are dead", || dead(&mut mesh).len() == 3);

    let letters = dead(&mut mesh);
    let row = &letters[0];
    assert_eq!(
        (&row["id"], &row["to"], &row["from"]),
        (&json!("d-1"), &json!("trishula/worker"), &json!("trishula/planner"))
    );
    assert_eq!(row["reason"]["code"], "unknown_recipient");
    assert!(row["bytes"].as_u64() > Some(10) && row["age_seconds"].as_u64() < Some(600), "{row}");
    let one = json_of(mesh.machine("dc"), &["dlq", "list", "--node", "agni", "--limit", "1"]);
    assert_eq!(one.as_array().unwrap().len(), 1);
    let opened = json_of(mesh.machine("agni"), &["dlq", "show", "d-1"]);
    assert_eq!((&opened["message"]["payload"], &opened["message"]["id"]), (&json!({"n": 1}), &json!("d-1")));
    let (failed, said) = code(mesh.machine("dc"), &["dlq", "show", "d-1"]);
    assert!(failed == Some(1) && said.contains("dlq list"), "it lies at agni: {said}");
    assert_eq!(json_of(mesh.machine("agni"), &["status"])["durable"]["dead_letters"], 3);

    // Nobody of that name is there: the new message is refused, and the dead letter stays.
    let (failed, said) = code(mesh.machine("dc"), &["dlq", "retry", "d-1", "--node", "agni"]);
    assert!(failed == Some(1) && said.contains("was ever registered"), "{failed:?} {said}");
    assert_eq!(dead(&mut mesh).len(), 3);

    let mut worker = client(mesh.machine("agni"), "worker", &[MANUAL, "-", "-"]);
    assert_eq!(heard(&mut worker)["type"], "REGISTERED");
    let retried = json_of(mesh.machine("dc"), &["dlq", "retry", "d-1", "--node", "agni"]);
    let new_id = retried[0]["new_id"].as_str().unwrap().to_owned();
    let message = heard(&mut worker);
    assert_eq!((&message["id"], &message["retry_of"]), (&json!(new_id), &json!("d-1")));
    assert_eq!((&message["from"], &message["payload"]), (&json!("planner"), &json!({"n": 1})));
    assert_eq!(dead(&mut mesh).len(), 2);
    assert_eq!(json_of(mesh.machine("dc"), &["show", &new_id])["messages"][0]["retry_of"], "d-1");

    json_of(mesh.machine("dc"), &["dlq", "drop", "d-2", "--from", "planner", "--node", "agni"]);
    assert_eq!(dead(&mut mesh)[0]["id"], "d-3");
    json_of(mesh.machine("agni"), &["dlq", "retry", "--all"]);
    assert_eq!(dead(&mut mesh), Vec::<Value>::new());
}

/// Machines of which agni and rushabdev find each other through dc only, with these variables in their nodes' environment.
pub(crate) fn in_a_row(environment: &[(&str, &str)]) -> Mesh {
    let mut mesh = Mesh::init(&["dc", "agni", "rushabdev"]);
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (i, name) in [(1, "agni"), (2, "rushabdev")] {
        let port = |i: u16| format!("127.0.0.1:{}", mesh.base + 10 * i);
        let file = mesh.folder.path().join(name).join("node.toml");
        let text = fs::read_to_string(&file).unwrap();
        let text = text
            .replace(&format!("advertise = [\"{}\"]", port(i)), &format!("advertise = [\"{nobody}\"]"))
            .replace(&format!("addresses = [\"{}\"]", port(3 - i)), &format!("addresses = [\"{nobody}\"]"));
        assert_eq!(text.matches(&nobody.to_string()).count(), 2, "{text}");
        fs::write(&file, text).unwrap();
    }
    for machine in &mut mesh.machines {
        machine.start_node_in(environment);
    }
    for machine in &mut mesh.machines {
        machine.start_edge();
    }
    mesh.wait_whole();
    mesh
}

// covers Q05, T23
#[test]
fn a_trace_shows_the_way_of_a_message_through_a_third_node() {
    let mut mesh = in_a_row(&[]);
    assert_eq!(mesh.machine("agni").next_hop("rushabdev").as_deref(), Some("dc"));
    let ack = r#"{"type":"ACK","to":"planner","reply_to":"c-1"}"#;
    let mut worker = client(mesh.machine("rushabdev"), "worker", &[MANUAL, "-", "-", ack]);
    assert_eq!(heard(&mut worker)["type"], "REGISTERED");
    until("agni knows the worker", || knows(mesh.machine("agni"), "worker", true));
    send(mesh.machine("agni"), "worker", "c-1", "acked");

    // Asked at the node between, which never had the message for itself.
    let dc = mesh.machine("dc");
    let traced = json_of(dc, &["trace", "c-1"]);
    assert_eq!((&traced["not_asked"], &traced["gone"]), (&json!([]), &json!([])));
    let journey = &traced["journeys"][0];
    assert_eq!((&journey["from"], &journey["to"]), (&json!("trishula/planner"), &json!("trishula/worker")));
    let steps = journey["steps"].as_array().unwrap();
    let at = |node: &str, word: &str| {
        let found = steps.iter().position(|step| step["node"] == node && step["step"] == word);
        found.unwrap_or_else(|| panic!("{node} {word} is not in {steps:#?}"))
    };
    let way = [
        at("agni", "taken"),
        at("agni", "sent"),
        at("dc", "relayed"),
        at("rushabdev", "arrived"),
        at("rushabdev", "handed over"),
        at("rushabdev", "written"),
        at("rushabdev", "acked"),
        at("agni", "acked"),
    ];
    assert!(way.is_sorted(), "{way:?} {steps:#?}");
    assert!(at("rushabdev", "kept") < at("agni", "acked"), "{steps:#?}");
    let offsets: Vec<f64> = steps.iter().map(|step| step["offset_ms"].as_f64().unwrap()).collect();
    assert!(offsets[0] == 0.0 && offsets.is_sorted(), "{offsets:?}");
    let relayed = &steps[at("dc", "relayed")];
    assert_eq!((&relayed["peer"], &relayed["carrier"]), (&json!("rushabdev"), &json!("quic")));
    let sent = &steps[at("agni", "sent")];
    assert_eq!((&sent["peer"], &sent["carrier"]), (&json!("rushabdev"), &json!("quic")));
    assert_eq!(steps[at("rushabdev", "handed over")]["role"], "edge");
    let kept = &steps[at("agni", "kept")];
    assert!(kept["after"] == "commit" && kept["after_ms"].as_f64() > Some(0.0), "{kept}");
    let shown = String::from_utf8(dc.run(&["trace", "c-1"]).stdout).unwrap();
    assert!(shown.contains("relayed") && shown.contains("quic, link"), "{shown}");
    let (missing, said) = code(dc, &["trace", "c-9"]);
    assert!(missing == Some(1) && said.contains("no node that was asked has a record"), "{said}");
}

// covers Q05
#[test]
fn a_trace_says_when_a_node_could_not_record_every_step() {
    let mut mesh = Mesh::start(&["dc", "agni"]);
    register(mesh.machine("agni"), "worker");
    until("dc knows the worker", || knows(mesh.machine("dc"), "worker", false));
    send(mesh.machine("dc"), "worker", "c-1", "stored");
    let traced = json_of(mesh.machine("dc"), &["trace", "c-1"]);
    assert_eq!(traced["missing"], json!([]));
    let began = traced["journeys"][0]["began_ms"].as_u64().unwrap();

    // As if it had dropped some: long before the message, and while it was on its way.
    let agni = mesh.machine("agni");
    assert_eq!(agni.node.as_mut().unwrap().stop(), Some(0));
    let records = rusqlite::Connection::open(agni.folder.join("data/trace.sqlite")).unwrap();
    let sql = "INSERT INTO missing VALUES (?1, ?1 + 500), (?2, ?2 + 500)";
    let far = began - 3_600_000;
    assert_eq!(records.execute(sql, [far as i64, began as i64]).unwrap(), 2);
    drop(records);
    agni.start_node();
    mesh.wait_whole();
    let dc = mesh.machine("dc");
    let traced = json_of(dc, &["trace", "c-1"]);
    let expected = json!([{"node": "agni", "from_ms": began, "to_ms": began + 500}]);
    assert_eq!(traced["missing"], expected);
    let (_, said) = code(dc, &["trace", "c-1"]);
    assert!(said.contains("node agni could not record everything between"), "{said}");
    assert_eq!(json_of(mesh.machine("agni"), &["trace", "c-1"])["missing"], expected);
}

// covers T07, Q05
#[test]
fn a_message_that_was_written_and_not_acknowledged_is_shown_as_delivered() {
    let mut mesh = Mesh::start(&["dc", "agni"]);
    let mut worker = client(mesh.machine("agni"), "worker", &[MANUAL, "-", "-"]);
    assert_eq!(heard(&mut worker)["type"], "REGISTERED");
    until("dc knows the worker", || knows(mesh.machine("dc"), "worker", true));
    send(mesh.machine("dc"), "worker", "c-1", "delivered");
    let shown = json_of(mesh.machine("dc"), &["show", "c-1"]);
    assert_eq!(shown["messages"][0]["recipients"][0]["state"], "delivered");
}

// covers Q08, T18, T20
#[test]
fn status_and_metrics_show_what_is_kept_how_the_disk_is_and_how_far_clocks_are_off() {
    let mut mesh = Mesh::start(&["dc", "agni"]);
    register(mesh.machine("agni"), "worker");
    until("dc knows the worker", || knows(mesh.machine("dc"), "worker", false));
    send(mesh.machine("dc"), "worker", "c-1", "stored");
    let agni = mesh.machine("agni");
    let status = agni.status().unwrap();
    let durable = &status["durable"];
    assert_eq!(
        (&durable["mailbox"], &durable["in_hand"], &durable["dead_letters"]),
        (&json!(1), &json!(0), &json!(0))
    );
    assert!(durable["bytes"].as_u64() > Some(10), "{durable}");
    let store = &durable["store"];
    assert_eq!((&store["writable"], &store["error"]), (&json!(true), &json!(null)));
    assert!(store["slowest_commit_ms"].as_f64() > Some(0.0), "{store}");
    let skew = || {
        let status = agni.status()?;
        let links = status["links"].as_array().unwrap().clone();
        links.iter().find(|link| link["peer"] == "dc")?["skew_ms"].as_f64()
    };
    until("the skew of dc is measured", || skew().is_some());
    assert!(skew().unwrap().abs() < 2000.0, "one machine has one clock: {:?}", skew());
    let shown = String::from_utf8(agni.run(&["status"]).stdout).unwrap();
    assert!(
        shown.contains("Messages: 1 in mailboxes (0 in hand)") && shown.contains("Store: writes"),
        "{shown}"
    );
    let http = format!("127.0.0.1:{}", mesh.base + 11);
    let metric = |line: &str| get(&http, "/metrics").contains(line);
    until("the metrics show it", || metric("trishula_messages_kept{place=\"mailbox\"} 1"));
    until("the metrics show the skew", || metric("trishula_clock_skew_ms{peer=\"dc\"} "));
    assert!(get(&http, "/health").contains("\"store\":\"passing\""));
}
