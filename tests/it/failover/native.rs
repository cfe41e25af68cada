//! The same for a client of the library that knows two nodes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use trishula::client::{Client, Connect, Options, Outgoing, Sender};
use trishula::wire::envelope::State;

use super::flows::{Heard, assert_exact, assert_none_lost_or_doubled_unmarked};
use crate::harness::{Mesh, PATIENCE, until};
use crate::wss::{Door, Wss, issue, native};

/// Between two messages.
const PACE: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    feeding: AtomicBool,
    fed: AtomicU64,
    /// Which node accepted last, and when.
    accepted: Mutex<Option<(String, Instant)>>,
}

struct Native {
    runtime: Runtime,
    shared: Arc<Shared>,
    sends: JoinHandle<u64>,
    listens: JoinHandle<Heard>,
    worker: JoinHandle<Heard>,
    feeder: JoinHandle<()>,
}

impl Native {
    /// A client that knows the nodes of dc and of agni, and at agni whom it talks to.
    fn start(mesh: &mut Mesh) -> Native {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shared = Arc::new(Shared::default());
        let identity = issue(mesh.machine("dc"), "roamer");
        let ports = [mesh.base, mesh.base + 10];
        let open = |mesh: &mut Mesh, name: &str| {
            runtime.block_on(Door::of(mesh.machine("agni"), name).must_open(json!({})))
        };
        let (worker, feeder) = (open(mesh, "worker"), open(mesh, "feeder"));
        let client = runtime.block_on(async {
            let ways = native(&identity, &ports).apart();
            Client::connect(ways, Options::default()).await.unwrap()
        });
        assert_eq!(client.registered().node, "dc");
        let sends = runtime.spawn(send(client.sender(), shared.clone()));
        let listens = runtime.spawn(listen(client, shared.clone()));
        let worker = runtime.spawn(work(worker, shared.clone()));
        let feeder = runtime.spawn(feed(feeder, shared.clone()));
        Native { runtime, shared, sends, listens, worker, feeder }
    }

    fn feed(&self, on: bool) {
        self.shared.feeding.store(on, Ordering::Relaxed);
    }

    fn accepted_by(&self, node: &str) -> Duration {
        let since = Instant::now();
        until(&format!("{node} accepts what the client sends"), || {
            let accepted = self.shared.accepted.lock().unwrap();
            accepted.as_ref().is_some_and(|(by, at)| by == node && *at > since)
        })
    }

    /// What was sent and what arrived of it, and the same the other way.
    fn end(self) -> ((u64, Heard), (u64, Heard)) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let Native { runtime, shared, sends, listens, worker, feeder } = self;
        runtime.block_on(async {
            let all = async {
                feeder.await.unwrap();
                let (sent, worked) = (sends.await.unwrap(), worker.await.unwrap());
                let heard = listens.await.unwrap();
                ((sent, worked), (shared.fed.load(Ordering::Relaxed), heard))
            };
            tokio::time::timeout(PATIENCE, all).await.expect("everything arrives")
        })
    }
}

async fn send(sender: Sender, shared: Arc<Shared>) -> u64 {
    let mut n = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        n += 1;
        let message = sender.numbered(Outgoing::command("worker", json!({"n": n})));
        loop {
            match sender.send_and_wait(message.clone(), State::Accepted, PATIENCE).await {
                Ok(receipt) => {
                    *shared.accepted.lock().unwrap() = Some((receipt.node, Instant::now()));
                    break;
                }
                Err(why) => assert!(why.to_string().contains("unavailable"), "{why}"),
            }
        }
        tokio::time::sleep(PACE).await;
    }
    n
}

async fn listen(mut client: Client, shared: Arc<Shared>) -> Heard {
    let mut heard = Heard::new();
    loop {
        match tokio::time::timeout(Duration::from_secs(3), client.next()).await {
            Ok(message) => {
                let message = message.expect("the client does not end");
                if !message.is_from_mesh() {
                    let number = message.read::<serde_json::Value>().unwrap()["n"].as_u64().unwrap();
                    heard.push((number, message.redelivered));
                }
            }
            Err(_) if shared.stop.load(Ordering::Relaxed) => return heard,
            Err(_) => {}
        }
    }
}

async fn work(mut wss: Wss, shared: Arc<Shared>) -> Heard {
    let mut heard = Heard::new();
    loop {
        match tokio::time::timeout(Duration::from_secs(3), wss.hear()).await {
            Ok(frame) => {
                let frame = frame.expect("the worker's socket is kept");
                if frame["from"] != "mesh" {
                    heard.push((frame["payload"]["n"].as_u64().unwrap(), frame["redelivered"] == true));
                }
            }
            Err(_) if shared.stop.load(Ordering::Relaxed) => return heard,
            Err(_) => {}
        }
    }
}

async fn feed(mut wss: Wss, shared: Arc<Shared>) {
    while !shared.stop.load(Ordering::Relaxed) {
        tokio::time::sleep(PACE).await;
        if shared.feeding.load(Ordering::Relaxed) {
            let n = shared.fed.fetch_add(1, Ordering::Relaxed) + 1;
            let frame =
                json!({"type": "COMMAND", "to": "roamer", "id": format!("f-{n}"), "payload": {"n": n}});
            wss.say(frame).await.expect("the feeder's socket is kept");
        }
        // What comes back must be read: pings too.
        while tokio::time::timeout(Duration::ZERO, wss.hear()).await.is_ok_and(|frame| frame.is_some()) {}
    }
}

// covers T09, Q02
#[test]
fn a_client_whose_node_is_killed_takes_another_and_goes_back_to_it() {
    let mut mesh = super::two_machines();
    let native = Native::start(&mut mesh);
    for _ in 0..50 {
        native.accepted_by("dc");
    }
    mesh.machine("dc").node.as_mut().unwrap().kill();
    eprintln!("the client's messages are accepted by another node after {:?}", native.accepted_by("agni"));
    native.feed(true);
    mesh.machine("dc").start_node();
    eprintln!("and by its own {:?} after that was started again", native.accepted_by("dc"));
    for _ in 0..50 {
        native.accepted_by("dc");
    }
    let ((sent, worked), (fed, heard)) = native.end();
    assert_exact("from the client", sent, &worked);
    assert_exact("to the client", fed, &heard);
}

// covers T09, Q02
#[test]
fn a_client_whose_node_hangs_takes_another_and_goes_back_to_it() {
    let mut mesh = super::two_machines();
    let native = Native::start(&mut mesh);
    native.accepted_by("dc");
    native.feed(true);
    mesh.machine("dc").node.as_ref().unwrap().signal("STOP");
    eprintln!("the client's messages are accepted by another node after {:?}", native.accepted_by("agni"));
    mesh.machine("dc").node.as_ref().unwrap().signal("CONT");
    eprintln!("and by its own {:?} after that went on", native.accepted_by("dc"));
    for _ in 0..50 {
        native.accepted_by("dc");
    }
    let ((sent, worked), (fed, heard)) = native.end();
    assert_none_lost_or_doubled_unmarked("from the client", sent, &worked);
    assert_none_lost_or_doubled_unmarked("to the client", fed, &heard);
}
