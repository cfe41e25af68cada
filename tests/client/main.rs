//! The library's client in a real program that stood still, as all do while their machine sleeps: its connection has died
//! meanwhile without a word, or lives on. A target of its own, so that nobody else wants the processor when it wakes.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::print_stderr, reason = "figures that are reported")]

#[path = "../it/harness.rs"]
#[allow(dead_code, reason = "what else it has is for other tests")]
mod harness;
mod path;
#[path = "../it/wss.rs"]
#[allow(dead_code, reason = "what else it has is for other tests")]
mod wss;

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use harness::udp_path::UdpPath;
use harness::{Mesh, Process, TRISHULA, edge_program, until};
use path::TcpPath;
use wss::issue;

/// Long enough to be noticed.
const SLEEP: Duration = Duration::from_secs(3);
/// Ten times what is promised.
const GENEROUS: Duration = Duration::from_secs(20);

/// `trishula listen` as the agent robot.
struct Robot {
    // Before the folder in which its log lies.
    process: Process,
    mesh: Mesh,
}

impl Robot {
    /// It listens by this entry, and has heard something.
    fn at(mesh: Mesh, entry: &str) -> Robot {
        let identity = issue(&mesh.machines[0], "robot").display().to_string();
        // By its name, or it would share its messages with the session that the node still believes in.
        let arguments = ["listen", "--as", "robot", "--node", entry, "--identity", &identity];
        let log = mesh.folder.path().join("robot.log");
        let robot = Robot { process: Process::start(Path::new(TRISHULA), &arguments, log), mesh };
        until("it listens", || robot.process.log().contains("listening as"));
        robot.hears("good night", Instant::now());
        robot
    }

    /// What happens while it sleeps; and when it woke.
    fn sleeps(&self, meanwhile: impl FnOnce()) -> Instant {
        self.process.signal("STOP");
        meanwhile();
        sleep(SLEEP);
        let woke = Instant::now();
        self.process.signal("CONT");
        woke
    }

    /// Sends it a text; how long after this moment that has come.
    fn hears(&self, text: &str, since: Instant) -> Duration {
        let sent = self.mesh.machines[0].run(&["send", "robot", &format!("\"{text}\"")]);
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
        until("it comes", || self.process.log().contains(text));
        since.elapsed()
    }
}

/// One machine that runs.
fn machine() -> Mesh {
    let mut mesh = Mesh::init(&["dc"]);
    mesh.machines[0].start_node();
    until("dc takes clients", || mesh.machines[0].run(&["agents"]).status.success());
    mesh
}

/// The same with an edge, a path to that, and how a client comes in by it.
fn by_tcp() -> (Mesh, TcpPath, String) {
    // Built before anybody waits for it.
    edge_program();
    let mut mesh = machine();
    mesh.machines[0].start_edge();
    mesh.wait_whole();
    let path = TcpPath::to(mesh.machines[0].edge_port);
    let entry = format!("wss://localhost:{}/mesh", path.port);
    (mesh, path, entry)
}

// covers T09, Q03
#[test]
fn a_client_whose_tcp_connection_died_in_its_sleep_hears_again() {
    let (mesh, path, entry) = by_tcp();
    let robot = Robot::at(mesh, &entry);
    let woke = robot.sleeps(|| path.die());
    let took = robot.hears("good morning", woke);
    eprintln!("by TCP: the first message {took:?} after waking");
    assert!(took < GENEROUS, "{took:?}");
    assert_eq!(path.made(), 2);
}

// covers T09, Q03
#[test]
fn a_client_whose_udp_socket_died_in_its_sleep_hears_again() {
    let mesh = machine();
    let path = UdpPath::to(([127, 0, 0, 1], mesh.base).into());
    let robot = Robot::at(mesh, &path.address.to_string());
    let woke = robot.sleeps(|| path.cut_for_those());
    let took = robot.hears("good morning", woke);
    eprintln!("by QUIC: the first message {took:?} after waking");
    assert!(took < GENEROUS, "{took:?}");
}

// covers T09, Q03
#[test]
fn a_client_whose_connection_lives_after_its_sleep_keeps_it() {
    let (mesh, path, entry) = by_tcp();
    let robot = Robot::at(mesh, &entry);
    let woke = robot.sleeps(|| {});
    let took = robot.hears("good morning", woke);
    until("it knows that the connection lives", || robot.process.log().contains("the connection lives"));
    eprintln!("kept: the first message {took:?} after waking, trusted after {:?}", woke.elapsed());
    robot.hears("and a good day", Instant::now());
    assert_eq!(path.made(), 1);
    assert!(!robot.process.log().contains("connected again"), "{}", robot.process.log());
}
