//! Clients of one edge with messages both ways all the time, and what became of each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::harness::{Machine, PATIENCE, until};
use crate::wss::{Door, Wss};

/// Between two messages of a client, and before it sends again what was refused for now.
const PACE: Duration = Duration::from_millis(20);
/// Between two rounds of what is sent to the clients.
const FEED: Duration = Duration::from_millis(50);
/// A client that hears nothing for so long sends again.
const NO_ANSWER: Duration = Duration::from_millis(200);

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    feeding: AtomicBool,
    /// Rounds fed.
    fed: AtomicU64,
    /// Which node accepted last, and when; and the longest time between two receipts.
    accepted: Mutex<Option<(String, Instant)>>,
}

/// What somebody got of one sender: numbers in the order in which they came, and whether each was marked.
pub type Heard = Vec<(u64, bool)>;

/// See above.
pub struct Flows {
    runtime: Runtime,
    shared: Arc<Shared>,
    askers: Vec<JoinHandle<(u64, Heard)>>,
    worker: JoinHandle<HashMap<String, Heard>>,
    feeder: JoinHandle<()>,
}

impl Flows {
    /// So many clients at the edge of `near`; whom they talk to is at the edge of `far`.
    pub fn start(near: &Machine, far: &Machine, clients: usize) -> Flows {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shared = Arc::new(Shared::default());
        let open = |machine: &Machine, name: &str| {
            runtime.block_on(Door::of(machine, name).must_open(json!({"ack": "auto"})))
        };
        let (worker, feeder) = (open(far, "worker"), open(far, "feeder"));
        let sockets: Vec<Wss> = (0..clients).map(|n| open(near, &format!("asker-{n}"))).collect();
        let askers = sockets.into_iter().map(|wss| runtime.spawn(ask(wss, shared.clone()))).collect();
        let worker = runtime.spawn(work(worker, shared.clone()));
        let feeder = runtime.spawn(feed(feeder, shared.clone(), clients));
        Flows { runtime, shared, askers, worker, feeder }
    }

    /// Whether the clients are sent messages.
    pub fn feed(&self, on: bool) {
        self.shared.feeding.store(on, Ordering::Relaxed);
    }

    /// Waits until this node accepts what the clients send, and answers for how long.
    pub fn accepted_by(&self, node: &str) -> Duration {
        let since = Instant::now();
        until(&format!("{node} accepts what the clients send"), || {
            let accepted = self.shared.accepted.lock().unwrap();
            accepted.as_ref().is_some_and(|(by, at)| by == node && *at > since)
        })
    }

    /// Ends once everything has arrived: how many each client sent, what each heard, and what was heard of each.
    pub fn end(self) -> (Vec<(u64, Heard)>, Vec<Heard>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let Flows { runtime, askers, worker, feeder, .. } = self;
        runtime.block_on(async {
            tokio::time::timeout(2 * PATIENCE, async {
                feeder.await.unwrap();
                let mut all = Vec::new();
                for asker in askers {
                    all.push(asker.await.unwrap());
                }
                let mut worked = worker.await.unwrap();
                let of = |n: usize| worked.remove(&format!("asker-{n}")).unwrap_or_default();
                let worked = (0..all.len()).map(of).collect();
                (all, worked)
            })
            .await
            .expect("everything arrives")
        })
    }
}

async fn ask(mut wss: Wss, shared: Arc<Shared>) -> (u64, Heard) {
    let (mut n, mut waits, mut heard, mut seen) = (0u64, false, Heard::new(), 0u64);
    let mut next = tokio::time::Instant::now();
    loop {
        if shared.stop.load(Ordering::Relaxed)
            && !waits
            && !shared.feeding.load(Ordering::Relaxed)
            && seen >= shared.fed.load(Ordering::Relaxed)
        {
            return (n, heard);
        }
        match tokio::time::timeout_at(next, wss.hear()).await {
            Ok(frame) => {
                let frame = frame.unwrap_or_else(|| panic!("the socket was closed: {:?}", wss.closed));
                if frame["from"] != "mesh" {
                    let number = frame["payload"]["n"].as_u64().unwrap();
                    heard.push((number, frame["redelivered"] == true));
                    seen = seen.max(number);
                } else if frame["reply_to"] == format!("m-{n}") {
                    next = tokio::time::Instant::now() + PACE;
                    if frame["type"] == "RECEIPT" {
                        waits = false;
                        let node = frame["payload"]["node"].as_str().unwrap().to_owned();
                        *shared.accepted.lock().unwrap() = Some((node, Instant::now()));
                    } else {
                        assert_eq!(frame["payload"]["retry"], true, "{frame}");
                    }
                }
            }
            Err(_) => {
                if !waits && !shared.stop.load(Ordering::Relaxed) {
                    n += 1;
                    waits = true;
                }
                next = tokio::time::Instant::now() + if waits { NO_ANSWER } else { PACE };
                if waits {
                    let frame = json!({"type": "COMMAND", "to": "worker", "id": format!("m-{n}"),
                        "receipt": "accepted", "payload": {"n": n}});
                    wss.say(frame).await.expect("the socket is kept");
                }
            }
        }
    }
}

async fn work(mut wss: Wss, shared: Arc<Shared>) -> HashMap<String, Heard> {
    let mut heard: HashMap<String, Heard> = HashMap::new();
    loop {
        match tokio::time::timeout(Duration::from_secs(3), wss.hear()).await {
            Ok(frame) => {
                let frame = frame.expect("the worker's socket is kept");
                if frame["from"] != "mesh" {
                    let from = frame["from"].as_str().unwrap().to_owned();
                    let number = frame["payload"]["n"].as_u64().unwrap();
                    heard.entry(from).or_default().push((number, frame["redelivered"] == true));
                }
            }
            // Nothing more is under way.
            Err(_) if shared.stop.load(Ordering::Relaxed) => return heard,
            Err(_) => {}
        }
    }
}

async fn feed(mut wss: Wss, shared: Arc<Shared>, clients: usize) {
    while !shared.stop.load(Ordering::Relaxed) {
        tokio::time::sleep(FEED).await;
        if !shared.feeding.load(Ordering::Relaxed) {
            continue;
        }
        let n = shared.fed.fetch_add(1, Ordering::Relaxed) + 1;
        for client in 0..clients {
            let frame = json!({"type": "COMMAND", "to": format!("asker-{client}"), "id": format!("f-{client}-{n}"),
                "payload": {"n": n}});
            wss.say(frame).await.expect("the feeder's socket is kept");
        }
        // What comes back says nothing here, but must be read: pings too.
        while let Ok(frame) = tokio::time::timeout(Duration::ZERO, wss.hear()).await {
            let frame = frame.expect("the feeder's socket is kept");
            assert_ne!(frame["type"], Value::from("ERROR"), "{frame}");
        }
    }
    shared.feeding.store(false, Ordering::Relaxed);
}

/// Everything came once, in order.
pub fn assert_exact(what: &str, sent: u64, heard: &Heard) {
    let numbers: Vec<u64> = heard.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=sent).collect::<Vec<_>>(), "{what}: {heard:?}");
}

/// Everything came, and what came twice was marked the second time.
pub fn assert_none_lost_or_doubled_unmarked(what: &str, sent: u64, heard: &Heard) {
    let mut seen = std::collections::HashSet::new();
    for (number, marked) in heard {
        assert!(seen.insert(*number) || *marked, "{what}: {number} came twice, unmarked: {heard:?}");
    }
    assert_eq!(seen.len() as u64, sent, "{what}: {heard:?}");
}
