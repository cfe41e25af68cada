//! The commands that ask a running node, against three real ones on this machine.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Place, fails};

/// Ten times what anything here should take, and more.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that ends with its handle.
struct Running {
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Mesh {
    place: Place,
    nodes: Vec<Running>,
}

/// Asks again and again until it is so; each question takes its own time.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "after {PATIENCE:?} still not: {what}");
    }
}

impl Mesh {
    /// dc (dials out only, holds the CA), agni and rushabdev, all of them running.
    fn start() -> Mesh {
        let place = Place::with_mesh();
        let mut mesh = Mesh { place, nodes: Vec::new() };
        for machine in ["dc", "agni", "rushabdev"] {
            mesh.run(&format!("mesh/{machine}/node.toml"));
        }
        until("the mesh is whole", || mesh.reachable("mesh/dc/node.toml").len() == 3);
        mesh
    }

    fn run(&mut self, config: &str) {
        let log =
            std::fs::File::create(self.place.path(&format!("{}.log", config.replace('/', "-")))).unwrap();
        let child = self
            .place
            .command(&["run", "--config", config])
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.nodes.push(Running { child });
    }

    /// The nodes in reach of this one; none while it does not answer.
    fn reachable(&self, config: &str) -> Vec<String> {
        let output = self.place.run(&["status", "--json", "--config", config]);
        let Ok(status) = serde_json::from_slice::<Value>(&output.stdout) else { return Vec::new() };
        let nodes = status["nodes"].as_array().unwrap().iter().filter(|node| node["reachable"] == true);
        nodes.map(|node| node["node"].as_str().unwrap().to_owned()).collect()
    }

    fn at(&self, machine: &str, arguments: &[&str]) -> std::process::Output {
        let config = format!("mesh/{machine}/node.toml");
        self.place.run(&[arguments, &["--config", config.as_str()][..]].concat())
    }

    fn ok(&self, machine: &str, arguments: &[&str]) -> String {
        let output = self.at(machine, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, machine: &str, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(machine, arguments)).unwrap()
    }

    /// A listener that is registered; what it says on stderr comes with it.
    fn listen(&self, machine: &str, arguments: &[&str]) -> (Running, BufReader<ChildStderr>) {
        let config = format!("mesh/{machine}/node.toml");
        let arguments = [&["listen", "--config", config.as_str()][..], arguments].concat();
        let mut command = self.place.command(&arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        // On a busy machine it says first that it takes a while.
        while stderr.read_line(&mut line).unwrap() > 0 && line.starts_with("connecting") {
            line.clear();
        }
        assert!(line.contains("listening as"), "{line}");
        (Running { child }, stderr)
    }
}

fn http(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// What commands were called that dc still knows.
fn names_of_commands(mesh: &Mesh) -> BTreeSet<String> {
    let agents = mesh.json("dc", &["agents", "--json"]);
    let names = agents.as_array().unwrap().iter().map(|agent| agent["agent"].as_str().unwrap().to_owned());
    names.filter(|name| name.contains("dc.cli.")).collect()
}

#[test]
fn messages_go_and_come_back_through_the_command_line() {
    // covers T05, T06, T07, Q08
    let mesh = Mesh::start();
    let (_agni, _stderr) =
        mesh.listen("agni", &["--as", "agni", "--capability", "echo", "--answer", r#"{"ok":true}"#]);

    let agents = mesh.json("dc", &["agents", "--json"]);
    until("dc knows the agent", || mesh.ok("dc", &["agents"]).contains("trishula/agni"));
    assert!(agents.is_array());
    let rows = mesh.json("dc", &["agents", "--json", "--online", "--namespace", "trishula"]);
    assert_eq!((&rows[0]["agent"], &rows[0]["node"]), (&"trishula/agni".into(), &"agni".into()));
    assert_eq!(rows[0]["capabilities"][0], "echo");

    assert_eq!(mesh.ok("dc", &["request", "agni", r#"{"do":1}"#]).trim(), r#"{"ok":true}"#);
    let answer = mesh.json("dc", &["request", "agni", "a text", "--json", "--priority", "1"]);
    assert_eq!((&answer["type"], &answer["payload"]["ok"]), (&"RESULT".into(), &true.into()));
    assert!(answer["took_ms"].as_f64().unwrap() > 0.0);

    assert!(mesh.ok("dc", &["send", "agni", "hello"]).starts_with("accepted for agni at node dc"));
    for (state, node) in [("accepted", "dc"), ("stored", "agni"), ("delivered", "agni"), ("acked", "agni")] {
        let sent = mesh.json("dc", &["send", "agni", "hello", "--wait", state, "--ttl", "1m", "--json"]);
        assert_eq!((&sent["receipt"]["state"], &sent["receipt"]["node"]), (&state.into(), &node.into()));
    }
    assert!(mesh.ok("dc", &["send", "agni", "hello", "--class", "live"]).starts_with("delivered to agni"));
    assert!(mesh.ok("dc", &["send", "broadcast", "hello"]).starts_with("accepted"));
    assert!(mesh.ok("dc", &["send", "broadcast", "hello", "--wait", "none"]).starts_with("sent"));
    let refused = fails(1, &mesh.at("dc", &["send", "nobody", "hello"]));
    assert!(refused.contains("unknown_recipient") && refused.contains("AGENTS"), "{refused}");
    assert!(mesh.ok("dc", &["send", "somebody", "hello", "--create"]).starts_with("accepted for somebody"));

    let pinged = mesh.json("dc", &["ping", "rushabdev", "-c", "2", "--json"]);
    assert_eq!((&pinged["kind"], &pinged["lost"]), (&"node".into(), &0.into()));
    assert_eq!(pinged["pings"][0]["route"][0], "dc");
    let pinged = mesh.json("dc", &["ping", "agni", "--agent", "-c", "2", "--json"]);
    assert_eq!((&pinged["kind"], &pinged["lost"]), (&"agent".into(), &0.into()));
    assert!(mesh.ok("dc", &["ping", "agni", "-c", "1"]).contains("1 sent, 0 lost"));
    assert!(fails(1, &mesh.at("dc", &["ping", "zzz"])).contains("neither a node nor an agent"));

    // A name of one command only is forgotten with it.
    until("names of one command are forgotten", || names_of_commands(&mesh).is_empty());
    // … and what it got is not dead: it was acknowledged before.
    let dead = mesh.json("dc", &["dlq", "list", "--json"]);
    let answers = dead.as_array().unwrap().iter().filter(|letter| letter["kind"] == "RESULT");
    assert_eq!(answers.count(), 0, "{dead}");
    let seen = mesh.json("dc", &["status", "--json", "--node", "agni"]);
    assert_eq!(seen["node"], "agni");
    assert!(fails(1, &mesh.at("dc", &["status", "--node", "nowhere"])).contains("no node nowhere is known"));
}

#[test]
fn a_listener_ends_after_its_count_and_prints_what_came() {
    // covers T05, Q08
    let mesh = Mesh::start();
    let (mut listener, _stderr) = mesh.listen("agni", &["--as", "once", "--count", "1", "--json"]);
    until("the message is delivered", || mesh.at("agni", &["send", "once", r#"{"n":1}"#]).status.success());
    assert!(listener.child.wait().unwrap().success());
    let mut text = String::new();
    listener.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let frame: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&frame["from"], &frame["payload"]["n"]), (&"agni.cli".into(), &1.into()));
}

#[test]
fn what_is_sent_to_an_agent_that_is_away_waits_for_it_and_comes_once() {
    // covers T07, Q04
    let mesh = Mesh::start();
    let one = |what: &str| {
        let (mut listener, _stderr) = mesh.listen("agni", &["--as", "away", "--count", "1", "--json"]);
        until("it is sent", || what.is_empty() || mesh.at("dc", &["send", "away", what]).status.success());
        assert!(listener.child.wait().unwrap().success());
        let mut text = String::new();
        listener.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()
    };
    assert_eq!(one("first")["payload"], "first");
    let stored = mesh.json("dc", &["send", "away", "second", "--wait", "stored", "--json"]);
    assert_eq!((&stored["receipt"]["state"], &stored["receipt"]["node"]), (&"stored".into(), &"agni".into()));
    let late = ["send", "away", "late", "--ttl", "1s", "--wait", "delivered", "--timeout", "1m"];
    let expired = fails(1, &mesh.at("dc", &late));
    assert!(expired.contains("is expired"), "{expired}");
    // The first was acknowledged when it was printed, and the late one is not worth anything any more.
    let second = one("");
    assert_eq!((&second["payload"], &second["id"]), (&"second".into(), &stored["id"]));
    assert_eq!(one("third")["payload"], "third");
}

#[test]
fn health_and_metrics_are_served_on_loopback() {
    // covers T20, T22, B20
    let mesh = Mesh::start();
    let config = std::fs::read_to_string(mesh.place.path("mesh/agni/node.toml")).unwrap();
    let line = config.lines().find(|line| line.starts_with("http = ")).unwrap();
    let address = line.split('"').nth(1).unwrap();
    let health = http(address, "GET /health");
    assert!(health.starts_with("HTTP/1.1 200") && health.contains(r#""connected_agents":0"#), "{health}");
    for field in ["status", "server", "timestamp", "uptime", "checks", "metrics", "uptime_seconds"] {
        assert!(health.contains(&format!("\"{field}\":")), "{field}: {health}");
    }
    assert!(http(address, "GET /metrics").contains("trishula_connected_agents 0"));
    assert!(http(address, "POST /health").starts_with("HTTP/1.1 405"));
    assert!(http(address, "GET /secrets").starts_with("HTTP/1.1 404"));
}

#[test]
fn a_machine_joins_by_ticket_while_the_holder_only_dials_out_and_is_thrown_out_again() {
    // covers Q07, T24, B16
    let mut mesh = Mesh::start();
    let ticket = mesh.json("dc", &["invite", "laptop", "--json", "--edge-name", "laptop.example.com"]);
    let ticket = ticket["ticket"].as_str().unwrap().to_owned();
    let base = super::free_ports().to_string();
    let join = |out: &'static str, name: &'static str| {
        [
            "join".to_owned(),
            ticket.clone(),
            "--out".into(),
            out.into(),
            "--loopback".into(),
            "--base-port".into(),
            base.clone(),
            "--edge-name".into(),
            name.into(),
        ]
    };
    let run =
        |arguments: &[String]| mesh.place.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let refused = fails(1, &run(&join("laptop", "other.example.com")));
    assert!(refused.contains("does not allow the public name other.example.com"), "{refused}");
    let joined = run(&join("laptop", "laptop.example.com"));
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    let again = fails(1, &run(&join("laptop2", "laptop.example.com")));
    assert!(again.contains("used already"), "{again}");
    let twice = fails(1, &run(&join("laptop", "laptop.example.com")));
    assert!(twice.contains("in a mesh already"), "{twice}");

    let secret = |path: &str| std::fs::read(mesh.place.path(path)).unwrap();
    assert_eq!(secret("laptop/secrets/trishula.secret"), secret("mesh/dc/secrets/trishula.secret"));
    assert_eq!(super::mode(&mesh.place.path("laptop/identity/link.key")), 0o600);
    mesh.place.ok(&["check", "--config", "laptop/node.toml"]);
    mesh.run("laptop/node.toml");
    until("the new machine reaches all", || mesh.reachable("laptop/node.toml").len() == 4);
    until("dc reaches the new machine", || {
        mesh.reachable("mesh/dc/node.toml").contains(&"laptop".to_owned())
    });

    mesh.place.ok(&["cert", "renew", "--config", "laptop/node.toml"]);
    mesh.ok("dc", &["cert", "renew"]);
    let revoked = mesh.json("dc", &["cert", "revoke", "laptop", "--reason", "a test", "--json"]);
    assert_eq!(revoked["number"], 1);
    for machine in ["dc", "agni", "rushabdev"] {
        let config = format!("mesh/{machine}/node.toml");
        until("nobody reaches it any more", || !mesh.reachable(&config).contains(&"laptop".to_owned()));
    }
    until("it reaches nobody any more", || mesh.reachable("laptop/node.toml").len() <= 1);
    let elsewhere = fails(1, &mesh.at("agni", &["invite", "x"]));
    assert!(elsewhere.contains("does not hold the CA"), "{elsewhere}");
}

#[test]
fn an_agent_with_a_certificate_speaks_over_quic() {
    // covers T24, T05
    let mesh = Mesh::start();
    mesh.ok("dc", &["cert", "issue", "--agent", "planner", "--out", "planner"]);
    let config = std::fs::read_to_string(mesh.place.path("mesh/agni/node.toml")).unwrap();
    let line = config.lines().find(|line| line.starts_with("listen = ")).unwrap();
    let agni = line.split('"').nth(1).unwrap();
    let (_listener, _stderr) = mesh.listen("rushabdev", &["--as", "echo", "--answer", "1"]);
    until("the echo is known to agni", || mesh.ok("agni", &["agents"]).contains("trishula/echo"));
    let way = ["--node", agni, "--identity", "planner"];
    let said = mesh.place.ok(&[&["request", "echo", "hello"][..], &way].concat());
    assert_eq!(said.trim(), "1");
    let rows = mesh.ok("agni", &["agents"]);
    assert!(rows.contains("trishula/planner"), "{rows}");
    mesh.ok("dc", &["cert", "renew", "--identity", "planner"]);
    mesh.ok("dc", &["cert", "revoke", "trishula/planner"]);
    until("agni has the new list", || mesh.json("agni", &["status", "--json"])["revocation_list"] == 1);
    let refused = fails(1, &mesh.place.run(&[&["send", "echo", "hello"][..], &way].concat()));
    assert!(refused.contains("revoked"), "{refused}");
}
