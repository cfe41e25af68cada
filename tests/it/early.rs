//! Links that come back with early data (0-RTT), with real nodes: flaps, restarts, forgotten sessions, recordings that
//! are sent again, a certificate that was revoked meanwhile. Each message arrives once.

#![allow(clippy::print_stderr, reason = "it shows what it measured")]

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use trishula::client::{Client, Options};
use trishula::identity::bundle::Bundle;
use trishula::identity::revocation::Revocations;
use trishula::identity::{RoleKind, tls};

use crate::harness::{Machine, Mesh, PATIENCE, get, until};
use crate::wss::{issue, native};

/// A path to a node that can be cut, and that records what a client sends after it was opened again.
struct RecordedPath {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    cut: bool,
    /// Every datagram since the path was opened last.
    recorded: Vec<Vec<u8>>,
}

impl RecordedPath {
    fn to(to: SocketAddr) -> RecordedPath {
        let front = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = front.local_addr().unwrap();
        let back = UdpSocket::bind("127.0.0.1:0").unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let client = Arc::new(Mutex::new(None));
        let (answers, to_client) = (back.try_clone().unwrap(), front.try_clone().unwrap());
        let (is_cut, whom) = (state.clone(), client.clone());
        // Both end with the test process; one client, the node that dials.
        std::thread::spawn(move || {
            let mut buffer = [0u8; 65_536];
            while let Ok((length, from)) = answers.recv_from(&mut buffer) {
                let whom: Option<SocketAddr> = *whom.lock().unwrap();
                if let Some(whom) = whom.filter(|_| from == to && !is_cut.lock().unwrap().cut) {
                    let _ = to_client.send_to(&buffer[..length], whom);
                }
            }
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            let mut buffer = [0u8; 65_536];
            while let Ok((length, from)) = front.recv_from(&mut buffer) {
                *client.lock().unwrap() = Some(from);
                let mut state = shared.lock().unwrap();
                if !state.cut {
                    state.recorded.push(buffer[..length].to_vec());
                    let _ = back.send_to(&buffer[..length], to);
                }
            }
        });
        RecordedPath { address, state }
    }

    fn cut(&self) {
        self.state.lock().unwrap().cut = true;
    }

    /// Opens it again, and begins a new recording.
    fn open(&self) {
        *self.state.lock().unwrap() = State::default();
    }

    fn recorded(&self) -> Vec<Vec<u8>> {
        self.state.lock().unwrap().recorded.clone()
    }
}

/// Two nodes, dc with the CA and agni: one of them dials the other by a path, and is not dialled.
struct Pair {
    mesh: Mesh,
    path: RecordedPath,
    dialler: usize,
}

/// Between signs of life; three of them are missed before a link counts as silent.
const HEARTBEAT_MS: u64 = 300;

impl Pair {
    fn start(dialler: &str, heartbeat_ms: u64) -> Pair {
        let mesh = Mesh::init(&["dc", "agni"]);
        let dialler = mesh.machines.iter().position(|machine| machine.name == dialler).unwrap();
        let ports = [mesh.base, mesh.base + 10].map(|port| format!("127.0.0.1:{port}"));
        let path = RecordedPath::to(ports[1 - dialler].parse().unwrap());
        let mut pair = Pair { mesh, path, dialler };
        for m in 0..2 {
            let file = pair.mesh.machines[m].folder.join("node.toml");
            let text = fs::read_to_string(&file).unwrap();
            let text = text.replace("[mesh]\n", &format!("[mesh]\nheartbeat_ms = {heartbeat_ms}\n"));
            let mut text = text.replace(&format!("advertise = [\"{}\"]", ports[m]), "advertise = []");
            let (by, to) = (format!("addresses = [\"{}\"]", ports[1 - m]), pair.path.address);
            assert!(text.contains(&by), "{text}");
            if m == dialler {
                text = text.replace(&by, &format!("addresses = [\"{to}\"]"));
            } else {
                text = text.replace(&by, "addresses = []");
            }
            fs::write(&file, text).unwrap();
            pair.mesh.machines[m].start_node();
        }
        pair.wait_linked();
        pair
    }

    fn dialler(&self) -> &Machine {
        &self.mesh.machines[self.dialler]
    }

    fn dialled(&mut self) -> &mut Machine {
        &mut self.mesh.machines[1 - self.dialler]
    }

    fn dialled_port(&self) -> u16 {
        self.mesh.base + 10 * (1 - self.dialler as u16)
    }

    fn wait_linked(&self) {
        until("the two are linked", || self.mesh.machines.iter().all(Machine::linked));
    }

    fn send(&self, what: &str) {
        let output = self.dialler().run(&["send", "worker", &format!("\"{what}\"")]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Cuts the path until the dialler has found that out; what is sent meanwhile waits. Answers what the other one had
    /// on disk of its sessions.
    fn flap(&mut self, what: &str) -> Vec<u8> {
        self.path.cut();
        self.send(what);
        until("the dialler finds the link broken", || !self.dialler().linked());
        let file = self.dialled().sessions_file();
        let sessions = fs::read(file).unwrap();
        self.path.open();
        sessions
    }

    /// Flaps until a message has gone as early data: a path that is opened too late finds the first flight lost, though not the
    /// session. Nine of ten links come back by it.
    fn flap_early(&mut self, worker: &mut Worker) -> Vec<u8> {
        let mut resumed = 0;
        for n in 0..20 {
            let what = format!("flap {n}");
            let accepted = early(self.dialler(), "accepted");
            let before = early_messages(self.dialled(), "received");
            let sessions = self.flap(&what);
            assert_eq!(worker.next(), what);
            self.wait_linked();
            resumed += u32::from(early(self.dialler(), "accepted") > accepted);
            let flaps = n + 1;
            assert!(resumed * 10 >= flaps * 9, "{resumed} of {flaps} flaps with early data");
            if early_messages(self.dialled(), "received") > before {
                return sessions;
            }
        }
        panic!("twenty flaps, and no message came early")
    }
}

impl Machine {
    fn linked(&self) -> bool {
        !self.carriers("node").is_empty()
    }

    fn metric(&self, line: &str) -> u64 {
        // As `init --loopback` lays them out: UDP, the node's HTTP, the edge.
        let text = get(self.edge_port - 1, "/metrics");
        let value = text.lines().find_map(|l| l.strip_prefix(line)).map(str::trim);
        value.map_or(0, |value| value.parse().unwrap())
    }

    fn sessions_file(&self) -> PathBuf {
        self.folder.join("data/sessions.tls")
    }
}

fn early(machine: &Machine, outcome: &str) -> u64 {
    machine.metric(&format!("trishula_early_data_total{{outcome=\"{outcome}\"}}"))
}

fn early_messages(machine: &Machine, what: &str) -> u64 {
    machine.metric(&format!("trishula_early_messages_total{{what=\"{what}\"}}"))
}

/// The recipient, at the node that is dialled. It comes back by itself.
struct Worker {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Worker {
    fn at(pair: &mut Pair) -> Worker {
        let port = pair.dialled_port();
        let identity = issue(&pair.mesh.machines[0], "worker");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let quic = runtime.block_on(async { native(&identity, &[port]) });
        let client = runtime.block_on(Client::connect(quic, Options::default())).unwrap();
        let knows =
            |machine: &Machine| String::from_utf8_lossy(&machine.run(&["agents"]).stdout).contains("worker");
        until("the dialler knows the worker", || knows(pair.dialler()));
        Worker { runtime, client }
    }

    fn next(&mut self) -> String {
        let client = &mut self.client;
        self.runtime.block_on(async {
            let message =
                tokio::time::timeout(PATIENCE, client.next()).await.expect("a message in time").unwrap();
            client.ack(&message).await.unwrap();
            message.read::<String>().unwrap()
        })
    }

    /// Nothing came twice: the next message is the next one that is sent.
    fn gets_only(&mut self, pair: &Pair, what: &str) {
        pair.send(what);
        assert_eq!(self.next(), what);
    }
}

// covers T02, Q01, Q02
#[test]
fn messages_leave_with_the_first_flight_after_a_flap_and_after_a_restart() {
    let mut pair = Pair::start("dc", HEARTBEAT_MS);
    let mut worker = Worker::at(&mut pair);
    let sessions = pair.flap_early(&mut worker);
    worker.gets_only(&pair, "after the flap");
    assert!(early(pair.dialler(), "accepted") >= 1 && early(pair.dialler(), "rejected") == 0);
    let status = pair.dialler().status().unwrap();
    assert!(status["early"]["accepted"].as_u64().unwrap() >= 1, "{status}");
    let shown = pair.dialler().run(&["status"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("with early data"), "{shown}");

    // Killed: its sessions are on its disk all the same.
    let before = early(pair.dialler(), "accepted");
    let file = pair.dialled().sessions_file();
    until("the latest are written", || fs::read(&file).unwrap() != sessions);
    pair.dialled().node.as_mut().unwrap().kill();
    until("dc finds that out", || !pair.dialler().linked());
    pair.send("while it was off");
    pair.dialled().start_node();
    assert_eq!(worker.next(), "while it was off");
    pair.wait_linked();
    worker.gets_only(&pair, "after the restart");
    assert!(early(pair.dialler(), "accepted") > before);
}

// covers T02, Q04
#[test]
fn what_a_peer_that_has_forgotten_does_not_accept_early_is_sent_again() {
    let mut pair = Pair::start("dc", HEARTBEAT_MS);
    let mut worker = Worker::at(&mut pair);
    pair.dialled().node.as_mut().unwrap().kill();
    let file = pair.dialled().sessions_file();
    until("dc finds that out", || !pair.dialler().linked());
    pair.send("m-1");
    fs::write(&file, b"no sessions").unwrap();
    pair.dialled().start_node();
    assert_eq!(worker.next(), "m-1");
    pair.wait_linked();
    worker.gets_only(&pair, "m-2");
    assert!(early(pair.dialler(), "rejected") >= 1);
    assert_eq!(early_messages(pair.dialled(), "received"), 0);
}

// covers T02, T24, Q04
#[test]
fn a_recorded_flight_that_is_sent_again_delivers_nothing_twice_and_breaks_nothing() {
    let mut pair = Pair::start("dc", HEARTBEAT_MS);
    let mut worker = Worker::at(&mut pair);
    let sessions = pair.flap_early(&mut worker);
    let mut flight = pair.path.recorded();
    flight.truncate(12);
    let replayer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = pair.dialled_port();
    let replay = || {
        for datagram in &flight {
            replayer.send_to(datagram, ("127.0.0.1", port)).unwrap();
        }
    };

    // That connection ends. Its ticket was taken when it was used: nothing of the recording can even be read.
    pair.flap("one more");
    assert_eq!(worker.next(), "one more");
    pair.wait_linked();
    until("agni is through with the earlier ones", || {
        let log = pair.dialled().node_log();
        log.matches("link up peer=dc").count() == log.matches("link down peer=dc").count() + 1
    });
    let (received, downs) = (early_messages(pair.dialled(), "received"), downs(pair.dialler()));
    for n in 0..5 {
        replay();
        worker.gets_only(&pair, &format!("after replay {n}"));
    }
    assert_eq!(early_messages(pair.dialled(), "received"), received);
    assert_eq!(self::downs(pair.dialler()), downs, "no link broke by it");

    // Brought back from a copy, the store has the ticket again: then it can be read, once, and is recognised.
    pair.path.cut();
    pair.dialled().node.as_mut().unwrap().kill();
    let file = pair.dialled().sessions_file();
    fs::write(&file, &sessions).unwrap();
    pair.dialled().start_node();
    until("agni takes early data", || {
        pair.dialled().status().is_some() && {
            replay();
            early_messages(pair.dialled(), "received") > 0
        }
    });
    until("it has come before", || early_messages(pair.dialled(), "repeated") > 0);
    assert!(!pair.dialled().linked(), "a recording makes no link");
    pair.path.open();
    pair.wait_linked();
    worker.gets_only(&pair, "after all");
}

/// Links of a node that ended so far.
fn downs(machine: &Machine) -> usize {
    machine.node_log().matches("link down").count()
}

// covers T02, Q01
#[test]
fn of_two_dials_the_one_that_is_dropped_is_counted_once_and_is_no_warning() {
    let mut pair = Pair::start("agni", HEARTBEAT_MS);
    let mut worker = Worker::at(&mut pair);
    let dropped = |pair: &mut Pair| pair.dialled().metric("trishula_not_admitted_total{reason=\"dropped\"}");
    let before = dropped(&mut pair);
    // As agni itself begins several.
    let folder = pair.dialler().folder.join("identity");
    let port = pair.dialled_port();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bundle = Bundle::load(&folder, RoleKind::Node, std::time::SystemTime::now().into()).unwrap();
        let clock = Arc::new(rustls::time_provider::DefaultTimeProvider);
        let identity = tls::Identity::new(&bundle, Arc::new(Revocations::new(None)), clock).unwrap();
        let tls = tls::quic_client(identity.client(None).unwrap()).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(tls));
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        drop(endpoint.connect_with(config, to, "node.trishula").unwrap().await.unwrap());
        endpoint.wait_idle().await;
    });
    until("it is counted", || dropped(&mut pair) > before);
    worker.gets_only(&pair, "after it");
    let links = pair.dialled().carriers("node").len();
    assert_eq!((dropped(&mut pair), links), (before + 1, 1));
    let log = pair.dialled().node_log();
    assert!(!log.contains("did not come up") && !log.contains("link down"), "{log}");
}

// covers T24, Q01
#[test]
fn a_certificate_that_was_revoked_while_its_session_could_resume_gets_nowhere() {
    let mut pair = Pair::start("agni", HEARTBEAT_MS);
    let mut worker = Worker::at(&mut pair);
    worker.gets_only(&pair, "before");
    let dc = |pair: &Pair| early(&pair.mesh.machines[0], "received");
    assert_eq!(dc(&pair), 0);
    pair.path.cut();
    pair.send("from beyond");
    until("agni finds the link broken", || !pair.dialler().linked());
    let revoked = pair.mesh.machines[0].run(&["cert", "revoke", "agni", "--reason", "stolen"]);
    assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
    until("dc has no link either", || !pair.dialled().linked());
    pair.path.open();
    // By TLS, as its session is forgotten; and if it were not, by who looks at every certificate again.
    let refused = |pair: &mut Pair| {
        let by = |reason| format!("trishula_not_admitted_total{{reason=\"{reason}\"}}");
        ["handshake", "revoked"].map(|reason| pair.dialled().metric(&by(reason)))
    };
    let before: u64 = refused(&mut pair).iter().sum();
    until("agni is refused", || refused(&mut pair).iter().sum::<u64>() > before + 1);
    eprintln!("refused by TLS, and by who looks again: {:?}", refused(&mut pair));
    let own = pair.dialled().run(&["send", "worker", "\"from dc\""]);
    assert!(own.status.success(), "{}", String::from_utf8_lossy(&own.stderr));
    assert_eq!(worker.next(), "from dc", "nothing of the other one was delivered");
    assert!(!pair.dialled().linked());
    assert_eq!((dc(&pair), early_messages(pair.dialled(), "received")), (0, 0));
}

/// What is in the file of sessions: version, CA, number of the revocation list, and the sessions with their tickets.
type Saved = (u8, [u8; 32], u64, Vec<(Vec<u8>, u64, Vec<u8>)>);

fn saved(machine: &Machine) -> Option<Saved> {
    postcard::from_bytes(&fs::read(machine.sessions_file()).ok()?).ok()
}

// covers T24, Q01
#[test]
fn a_revoked_peer_whose_session_was_not_forgotten_is_refused_by_who_looks_again() {
    let mut pair = Pair::start("agni", HEARTBEAT_MS);
    let mut worker = Worker::at(&mut pair);
    worker.gets_only(&pair, "before");
    // Eight tickets for agni, and eight for the worker.
    until("they are on disk", || saved(pair.dialled()).is_some_and(|saved| saved.3.len() >= 16));
    let mut sessions = saved(pair.dialled()).unwrap();
    pair.path.cut();
    pair.send("from beyond");
    // Or it would use up its tickets before anybody is there.
    pair.dialler().node.as_ref().unwrap().signal("STOP");
    let revoked = pair.mesh.machines[0].run(&["cert", "revoke", "agni", "--reason", "stolen"]);
    assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
    until("dc has no link", || !pair.dialled().linked());
    pair.dialled().node.as_mut().unwrap().kill();
    // As if nobody had looked whether others are trusted now.
    sessions.2 += 1;
    fs::write(pair.dialled().sessions_file(), postcard::to_stdvec(&sessions).unwrap()).unwrap();
    pair.dialled().start_node();
    until("dc runs", || pair.dialled().status().is_some());
    pair.path.open();
    pair.dialler().node.as_ref().unwrap().signal("CONT");
    let refused = "trishula_not_admitted_total{reason=\"revoked\"}";
    until("agni is refused", || pair.dialled().metric(refused) > 0);
    let own = pair.dialled().run(&["send", "worker", "\"from dc\""]);
    assert!(own.status.success(), "{}", String::from_utf8_lossy(&own.stderr));
    assert_eq!(worker.next(), "from dc", "nothing of the other one was delivered");
    assert!(!pair.dialled().linked());
    let dc = &pair.mesh.machines[0];
    assert_eq!((early(dc, "received"), early_messages(dc, "received")), (0, 0));
}

// covers Q02
#[test]
fn a_node_that_was_killed_and_started_again_is_noticed_by_a_stateless_reset() {
    let mut pair = Pair::start("dc", 1_000);
    let before = downs(pair.dialler());
    pair.dialled().node.as_mut().unwrap().kill();
    pair.dialled().start_node();
    until("agni runs", || pair.dialled().status().is_some());
    let began = Instant::now();
    until("dc finds that out", || downs(pair.dialler()) > before);
    let (took, log) = (began.elapsed(), pair.dialler().node_log());
    let why = log.lines().rfind(|line| line.contains("link down")).unwrap();
    assert!(why.contains("reset by peer"), "{why}");
    eprintln!(
        "a killed node runs again: its peer closed the old link {took:?} later; silence is allowed for 3 s"
    );
    pair.wait_linked();
}
