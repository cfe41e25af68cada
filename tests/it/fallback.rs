//! UDP blocked: the link goes through the peer's edge, and comes back.
#![allow(clippy::print_stderr, reason = "figures that are reported")]

mod doors;
mod entrances;
mod proxies;

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::udp_path::UdpPath;
use crate::harness::{Mesh, edge_program, until};
use crate::wss::{Door, Wss};

/// Between two messages of a flow.
const PACE: Duration = Duration::from_millis(5);

/// dc, which nobody can dial, and agni, whose UDP comes through a path that can be cut.
struct Pair {
    mesh: Mesh,
    path: UdpPath,
}

impl Pair {
    /// Configured, with an edge each; no node runs. `fallback`: dc knows where agni's edge is from its own
    /// configuration; else agni advertises it.
    fn new() -> Pair {
        // Built before anybody dials.
        edge_program();
        let mesh = Mesh::init(&["dc", "agni"]);
        let port = |i: u16| format!("127.0.0.1:{}", mesh.base + 10 * i);
        let path = UdpPath::to(port(1).parse().unwrap());
        let change = |name: &str, changes: &[(String, String)]| {
            let file = mesh.folder.path().join(name).join("node.toml");
            let mut text = fs::read_to_string(&file).unwrap();
            for (old, new) in changes {
                assert!(text.contains(old), "{old} is not in {text}");
                text = text.replace(old, new);
            }
            fs::write(&file, text).unwrap();
        };
        let fallback = format!("wss://localhost:{}/mesh", mesh.base + 12);
        let addresses = |at: &str| format!("\naddresses = [\"{at}\"]");
        let through = path.address.to_string();
        change(
            "dc",
            &[
                (format!("advertise = [\"{}\"]", port(0)), "advertise = []".into()),
                (addresses(&port(1)), format!("{}\nfallback = [\"{fallback}\"]", addresses(&through))),
            ],
        );
        change(
            "agni",
            &[
                (format!("advertise = [\"{}\"]", port(1)), format!("advertise = [\"{through}\"]")),
                (addresses(&port(0)), "\naddresses = []".into()),
            ],
        );
        Pair { mesh, path }
    }

    fn start(&mut self) {
        for machine in &mut self.mesh.machines {
            machine.start_node();
            machine.start_edge();
        }
    }

    /// The carrier of dc's link to agni; `None`: there is no link, or two.
    fn carrier(&mut self) -> Option<String> {
        carrier(self.mesh.machine("dc"))
    }
}

fn carrier(dc: &crate::harness::Machine) -> Option<String> {
    let [carrier] = <[String; 1]>::try_from(dc.carriers("node")).ok()?;
    Some(carrier)
}

/// Whether dc has a link on this carrier, be it besides another one.
fn has(dc: &crate::harness::Machine, carrier: &str) -> bool {
    dc.carriers("node").iter().any(|on| on == carrier)
}

/// Messages from one client to another, numbered from 1. A message of which the mesh can't be sure may carry its mark;
/// here it must come once all the same.
struct Flow {
    from: Wss,
    to: Wss,
    name: &'static str,
    recipient: &'static str,
    sent: usize,
    /// When each came, counted from the beginning.
    came: Vec<Instant>,
}

impl Flow {
    async fn between(
        pair: &mut Pair,
        from: (&'static str, &'static str),
        to: (&'static str, &'static str),
    ) -> Flow {
        let to_door = Door::of(pair.mesh.machine(to.0), to.1);
        let from_door = Door::of(pair.mesh.machine(from.0), from.1);
        let to_wss = to_door.must_open(json!({})).await;
        let from_wss = from_door.must_open(json!({})).await;
        let mut flow =
            Flow { from: from_wss, to: to_wss, name: from.1, recipient: to.1, sent: 0, came: Vec::new() };
        flow.begin().await;
        flow
    }

    /// Waits until the recipient is known where the sender is.
    async fn begin(&mut self) {
        loop {
            let probe = json!({"type": "STATUS", "to": self.recipient, "id": "probe", "receipt": "accepted"});
            self.from.say(probe).await.unwrap();
            if self.from.answer("probe").await["type"] == "RECEIPT" {
                let message = self.to.message().await;
                assert_eq!(message["id"], "probe");
                return;
            }
        }
    }

    /// Sends and receives until `done` says so, then until all has come. Every message comes once and in order.
    async fn run(&mut self, mut done: impl FnMut(usize) -> bool) {
        let mut pace = tokio::time::interval(PACE);
        let mut sending = true;
        while sending || self.came.len() < self.sent {
            tokio::select! {
                _ = pace.tick(), if sending => {
                    self.sent += 1;
                    let id = format!("{}-{}", self.name, self.sent);
                    let frame = json!({"type": "COMMAND", "to": self.recipient, "id": id, "payload": "x".repeat(200)});
                    self.from.say(frame).await.unwrap();
                    sending = !done(self.sent);
                }
                message = self.to.message() => {
                    let next = format!("{}-{}", self.name, self.came.len() + 1);
                    assert_eq!(message["id"], next, "lost, doubled or reordered: {message}");
                    self.came.push(Instant::now());
                }
            }
        }
    }

    /// The longest time between two arrivals since a moment, and when it ended.
    fn longest_gap(&self, since: Instant) -> Duration {
        let since = std::iter::once(since).chain(self.came.iter().copied().filter(|came| *came > since));
        let times: Vec<Instant> = since.collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

/// Runs flows in both directions while the test does its part in a thread of its own; ends when that has.
fn flows_while(pair: &mut Pair, part: impl FnOnce(&UdpPath, &crate::harness::Machine) + Send) -> [Flow; 2] {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut out, mut back) = runtime.block_on(async {
        let out = Flow::between(pair, ("dc", "alice"), ("agni", "bob")).await;
        let back = Flow::between(pair, ("agni", "carol"), ("dc", "dave")).await;
        (out, back)
    });
    let over = std::sync::atomic::AtomicBool::new(false);
    let (path, dc) = (&pair.path, &pair.mesh.machines[0]);
    std::thread::scope(|scope| {
        let part = scope.spawn(|| {
            // Also when it panics: the flows must end.
            struct Over<'a>(&'a std::sync::atomic::AtomicBool);
            impl Drop for Over<'_> {
                fn drop(&mut self) {
                    self.0.store(true, std::sync::atomic::Ordering::Relaxed);
                }
            }
            let _over = Over(&over);
            part(path, dc);
        });
        let done = |sent| sent > 200 && over.load(std::sync::atomic::Ordering::Relaxed);
        runtime.block_on(async { tokio::join!(out.run(done), back.run(done)) });
        part.join().unwrap();
    });
    [out, back]
}

// covers Q01
#[test]
fn udp_is_blocked_from_the_start_and_messages_flow_through_the_edge() {
    let mut pair = Pair::new();
    pair.path.set_open(false);
    pair.start();
    pair.mesh.wait_whole();
    assert_eq!(pair.carrier().as_deref(), Some("wss"));
    let at_agni = pair.mesh.machine("agni").status().unwrap();
    let links = at_agni["links"].as_array().unwrap();
    let link = links.iter().find(|link| link["role"] == "node").unwrap();
    assert_eq!((&link["carrier"], &link["dialled"]), (&json!("wss"), &json!(false)));
    assert!(link["remote"].as_str().unwrap().starts_with("127.0.0.1:"), "{link}");
    flows_while(&mut pair, |_, _| {});
    let shown = pair.mesh.machine("dc").run(&["status"]).stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.lines().any(|line| line.contains("agni") && line.contains("wss")), "{shown}");
}

// covers Q01, Q02
#[test]
fn udp_is_blocked_in_mid_flow_and_comes_back_and_nothing_is_lost_doubled_or_reordered() {
    let mut pair = Pair::new();
    pair.start();
    pair.mesh.wait_whole();
    until("the link is on QUIC", || pair.carrier().as_deref() == Some("quic"));
    let (cut, opened) = (std::sync::OnceLock::new(), std::sync::OnceLock::new());
    let mut back_on_quic = Duration::ZERO;
    let flows = flows_while(&mut pair, |path, dc| {
        std::thread::sleep(Duration::from_millis(500));
        path.set_open(false);
        cut.set(Instant::now()).unwrap();
        until("the link goes through the edge", || carrier(dc).as_deref() == Some("wss"));
        std::thread::sleep(Duration::from_secs(2));
        path.set_open(true);
        opened.set(Instant::now()).unwrap();
        back_on_quic = until("the link is back on QUIC", || has(dc, "quic"));
        until("the other one is closed", || carrier(dc).as_deref() == Some("quic"));
    });
    for flow in &flows {
        let gap = flow.longest_gap(*cut.get().unwrap());
        let after = flow.longest_gap(*opened.get().unwrap());
        eprintln!(
            "{} to {}: {} messages, silent for {gap:?} when UDP was blocked, for {after:?} on the way back",
            flow.name, flow.recipient, flow.sent
        );
        assert!(after < Duration::from_secs(10), "the way back is no interruption: {after:?}");
    }
    eprintln!("back on QUIC after {back_on_quic:?}");
}

// covers Q01
#[test]
fn a_path_that_loses_a_quarter_is_left_for_the_edge() {
    let mut pair = Pair::new();
    pair.start();
    pair.mesh.wait_whole();
    until("the link is on QUIC", || pair.carrier().as_deref() == Some("quic"));
    flows_while(&mut pair, |path, dc| {
        path.set_loss(25);
        let took = until("the link goes through the edge", || carrier(dc).as_deref() == Some("wss"));
        eprintln!("left a path that loses a quarter after {took:?}");
    });
    let log = pair.mesh.machine("dc").node_log();
    assert!(log.contains("QUIC fails") && log.contains("why=\"lossy\""), "{log}");
    assert_eq!(pair.carrier().as_deref(), Some("wss"), "it does not go back at once");
}

// covers Q01
#[test]
fn where_the_edge_is_can_be_learnt_from_the_node() {
    let mut pair = Pair::new();
    let edge = pair.mesh.base + 12;
    let fallback = format!("fallback = [\"wss://localhost:{edge}/mesh\"]");
    for (name, old, new) in [
        ("dc", fallback.clone(), String::new()),
        ("agni", "[mesh]".into(), format!("[mesh]\nadvertise_{fallback}")),
    ] {
        let file = pair.mesh.folder.path().join(name).join("node.toml");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(&old));
        fs::write(&file, text.replacen(&old, &new, 1)).unwrap();
    }
    pair.start();
    pair.mesh.wait_whole();
    until("the link is on QUIC", || pair.carrier().as_deref() == Some("quic"));
    pair.path.set_open(false);
    until("the link goes through the edge", || pair.carrier().as_deref() == Some("wss"));
}

// covers Q01
#[test]
fn a_network_that_blocked_udp_in_mid_flow_is_remembered_when_the_peer_is_dialled_again() {
    let mut pair = Pair::new();
    pair.start();
    pair.mesh.wait_whole();
    until("the link is on QUIC", || pair.carrier().as_deref() == Some("quic"));
    pair.path.set_open(false);
    until("the link goes through the edge", || pair.carrier().as_deref() == Some("wss"));
    let first = "the edge is dialled first";
    assert!(!pair.mesh.machine("dc").node_log().contains(first), "nothing was known when the mesh began");
    pair.mesh.machine("agni").node.as_mut().unwrap().kill();
    until("the link is gone", || pair.carrier().is_none());
    pair.mesh.machine("agni").start_node();
    until("the link is back", || pair.carrier().as_deref() == Some("wss"));
    let log = pair.mesh.machine("dc").node_log();
    assert!(log.contains(first), "{log}");
}
