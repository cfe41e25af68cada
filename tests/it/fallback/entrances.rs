//! Edges and native agents whose UDP is blocked come in through the edge of the node that they want.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use trishula::client::{Client, Connect, Options, Outgoing, Through, Ways};
use trishula::gateway::session::LOGGED_END;
use trishula::identity::RoleKind;
use trishula::identity::bundle::Bundle;
use trishula::identity::revocation::Revocations;
use trishula::identity::tls;
use trishula::wire::envelope::State;

use crate::failover::flows::{self, Flows};
use crate::harness::udp_path::UdpPath;
use crate::harness::{Machine, Mesh, PATIENCE, Process, edge_program, until};
use crate::wss::{Door, issue, native};

/// Two machines; on dc no node runs. UDP to agni's node comes through a path that is cut.
struct Blocked {
    mesh: Mesh,
    path: UdpPath,
}

impl Blocked {
    fn start() -> Blocked {
        // Built before anybody dials.
        edge_program();
        let mut mesh = Mesh::init(&["dc", "agni"]);
        let path = UdpPath::to(format!("127.0.0.1:{}", mesh.base + 10).parse().unwrap());
        path.set_open(false);
        let agni = mesh.machine("agni");
        agni.start_node();
        agni.start_edge();
        until("agni's edge is at its node", || has_edge(agni, "unix"));
        Blocked { mesh, path }
    }

    /// dc's edge, which knows agni's node only: by that path, and through agni's edge.
    fn start_edge(&mut self) {
        let nodes = format!("nodes = [\"{}\", \"{}\"]", self.path.address, self.through());
        let dc = self.mesh.machine("dc");
        let file = dc.folder.join("edge.toml");
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with("node = "));
        let lines = lines.map(|line| if line.starts_with("nodes = [") { &nodes } else { line });
        fs::write(&file, lines.collect::<Vec<_>>().join("\n")).unwrap();
        dc.start_edge();
    }

    fn through(&self) -> String {
        format!("wss://localhost:{}/mesh", self.mesh.base + 12)
    }
}

/// Whether an edge is at this machine's node by this carrier.
fn has_edge(machine: &Machine, carrier: &str) -> bool {
    machine.carriers("edge").iter().any(|on| on == carrier)
}

/// What a metric of this machine's edge says.
fn metric(machine: &Machine, name: &str) -> i64 {
    let metrics = machine.edge_metrics();
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

fn place(machine: &Machine) -> i64 {
    metric(machine, "trishula_uplink_place")
}

// covers Q01, Q02
#[test]
fn an_edge_whose_udp_is_blocked_comes_in_through_another_edge_and_goes_back_to_quic() {
    let mut blocked = Blocked::start();
    blocked.start_edge();
    let Blocked { mesh, path } = &blocked;
    let [dc, agni] = &mesh.machines[..] else { panic!("two machines") };
    until("dc's edge is at agni's node, through agni's edge", || has_edge(agni, "wss"));
    assert_eq!(place(dc), 2);
    let flows = Flows::start(dc, agni, 5);
    flows.accepted_by("agni");
    flows.feed(true);
    path.set_open(true);
    eprintln!("back on QUIC after {:?}", until("dc's edge is on QUIC", || place(dc) == 1));
    for _ in 0..20 {
        flows.accepted_by("agni");
    }
    path.set_open(false);
    let cut = Instant::now();
    until("dc's edge leaves QUIC", || place(dc) == 2);
    flows.accepted_by("agni");
    eprintln!("accepted again {:?} after UDP was blocked", cut.elapsed());
    let log = fs::read_to_string(dc.folder.join("edge.log")).unwrap();
    assert!(!log.contains(LOGGED_END), "{log}");
    let (askers, worked) = flows.end();
    for (n, ((sent, heard), worked)) in askers.iter().zip(&worked).enumerate() {
        let fed = heard.iter().map(|(number, _)| *number).max().unwrap();
        flows::assert_exact(&format!("from asker-{n}"), *sent, worked);
        flows::assert_exact(&format!("to asker-{n}"), fed, heard);
    }
}

fn through(identity: &Path, url: &str) -> Through {
    let bundle = Bundle::load(identity, RoleKind::Agent, SystemTime::now().into()).unwrap();
    let clock = Arc::new(rustls::time_provider::DefaultTimeProvider);
    let identity = tls::Identity::new(&bundle, Arc::new(Revocations::new(None)), clock).unwrap();
    Through::new(identity.relay_client(None).unwrap(), url.parse().unwrap(), None).unwrap()
}

// covers Q01, Q02
#[test]
fn a_native_agent_whose_udp_is_blocked_comes_in_through_the_edge_of_its_node() {
    let mut blocked = Blocked::start();
    let identity = issue(blocked.mesh.machine("dc"), "roamer");
    let (url, port) = (blocked.through(), blocked.path.address.port());
    let agni = blocked.mesh.machine("agni");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut worker = runtime.block_on(Door::of(agni, "worker").must_open(json!({"ack": "auto"})));
    let client = runtime.block_on(async {
        let ways = Ways::default().or(native(&identity, &[port]).apart()).or(through(&identity, &url));
        Client::connect(ways, Options::default()).await.unwrap()
    });
    let relays = || metric(agni, "trishula_relays");
    assert_eq!(relays(), 1, "it comes through agni's edge");
    let sender = client.sender();
    let mut send = |n: u64| {
        let message = sender.numbered(Outgoing::command("worker", json!({"n": n})));
        runtime.block_on(async {
            loop {
                // The connection may just be changing.
                if sender.send_and_wait(message.clone(), State::Accepted, PATIENCE).await.is_ok() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let came = worker.message().await;
            assert_eq!((&came["from"], &came["payload"]["n"]), (&json!("roamer"), &json!(n)), "{came}");
        });
    };
    send(1);
    blocked.path.set_open(true);
    eprintln!("back on QUIC after {:?}", until("the client is on QUIC", || relays() == 0));
    send(2);
    blocked.path.set_open(false);
    let cut = Instant::now();
    send(3);
    eprintln!("accepted again {:?} after UDP was blocked", cut.elapsed());
    assert_eq!(relays(), 1);
}

// covers Q01, B14, T24
#[test]
fn an_agent_whose_certificate_is_revoked_is_cut_off_in_the_websocket_too() {
    let mut blocked = Blocked::start();
    blocked.mesh.machine("dc").start_node();
    blocked.mesh.wait_whole();
    let identity = issue(blocked.mesh.machine("dc"), "robot").display().to_string();
    let arguments = ["listen", "--node", &blocked.through(), "--identity", &identity];
    let log = blocked.mesh.folder.path().join("robot.log");
    let _robot = Process::start(Path::new(env!("CARGO_BIN_EXE_trishula")), &arguments, log);
    let relays = |mesh: &mut Mesh| metric(mesh.machine("agni"), "trishula_relays");
    until("the agent is there", || relays(&mut blocked.mesh) == 1);
    let revoked = blocked.mesh.machine("dc").run(&["cert", "revoke", "trishula/robot"]);
    assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
    let said = |mesh: &mut Mesh, what: &str| mesh.machine("agni").node_log().contains(what);
    let took = until("it is cut off", || said(&mut blocked.mesh, "a native agent was put out"));
    assert!(took.as_secs() < 10, "it took {took:?}");
    until("it was turned away when it came again", || said(&mut blocked.mesh, "robot was revoked"));
    until("nothing of it is left", || relays(&mut blocked.mesh) == 0);
}

// covers Q01, T10
#[test]
fn a_command_comes_in_through_an_edge_where_udp_is_blocked() {
    let mut blocked = Blocked::start();
    let identity = issue(blocked.mesh.machine("dc"), "roamer").display().to_string();
    let (url, udp) = (blocked.through(), blocked.path.address.to_string());
    let agni = blocked.mesh.machine("agni");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut worker = runtime.block_on(Door::of(agni, "worker").must_open(json!({})));
    let send = |nodes: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_trishula"));
        command.args(["send", "worker", "{\"n\":1}", "--identity", &identity]);
        for node in nodes {
            command.args(["--node", node]);
        }
        command.output().unwrap()
    };
    let sent = send(&[&udp, &url]);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    assert_eq!(runtime.block_on(worker.message())["payload"]["n"], 1);
    for (nodes, says) in [
        (&["wss://localhost:1/mesh"][..], "are a node and its edge running there?"),
        (&["wss://localhost:0/mesh"], "is not an address of an edge"),
        (&["localhost"], "the port is missing"),
    ] {
        let failed = send(nodes);
        let why = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert!(!failed.status.success() && why.contains(says), "{nodes:?}: {why}");
    }
}
