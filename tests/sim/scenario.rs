//! A run from beginning to end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use trishula::node::status::Status;
use trishula::rt::random;
use trishula::wire::ids::{AgentAddr, Incarnation, NodeName};

use crate::agents::{Book, Entry, Errand, live, names_at};
use crate::net::{Cut, SimNet, Step, Weather};
use crate::node::{Plan, SimNode};
use crate::pki::pki;

/// How many nodes there are in these runs.
pub const NODES: usize = 5;
/// How long a run takes.
pub const LENGTH: Duration = Duration::from_secs(60);
/// When the agents begin, and when they stop, to ask.
const ASK: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(56));

/// What came of a run.
pub struct Outcome {
    pub messages: BTreeMap<String, Entry>,
    /// Of every node, at the end.
    pub statuses: Vec<Status>,
    pub packets: u64,
    pub lost: u64,
    pub trace: Vec<Step>,
}

pub fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n as u8 + 1], 4000 + n as u16))
}

pub fn name(n: usize) -> NodeName {
    NodeName::new(&format!("n{n}")).unwrap()
}

/// Every node dials every other, so that there are double connections to settle; the last one is behind NAT,
/// and nobody dials it.
fn plan(n: usize, seed: u64) -> Plan {
    let dialled = (0..NODES - 1).filter(|other| *other != n);
    Plan {
        name: name(n),
        address: address(n),
        incarnation: Incarnation(1_767_225_600_000),
        dials: dialled.map(|other| (name(other), address(other))).collect(),
        seed,
    }
}

/// Runs a minute with this seed, delays of 20 to 30 ms, 2 % loss, and what `cut` says.
pub fn run(seed: u64, cut: Cut) -> Outcome {
    // Before the runtime: making identities takes real time.
    (0..NODES).for_each(|n| drop(pki().identity(&name(n))));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    random::seed_this_thread(seed);
    let outcome = runtime.block_on(minute(seed, cut));
    runtime.shutdown_background();
    outcome
}

async fn minute(seed: u64, cut: Cut) -> Outcome {
    let (net, _courier) = SimNet::start(seed, Weather { delay_us: (20_000, 30_000), loss: 0.02, cut });
    let book = Book::default();
    let all: Vec<AgentAddr> = (0..NODES).flat_map(|n| names_at(&name(n))).collect();
    let (mut nodes, mut crowds) = (Vec::new(), Vec::new());
    for n in 0..NODES {
        let mut node = SimNode::start(&net, &plan(n, seed));
        let errand = Errand {
            node: name(n),
            all: all.clone(),
            from: ASK.0,
            until: ASK.1,
            seed: seed ^ ((n as u64 + 1) << 32),
            life: 1,
        };
        let events = node.entrance();
        crowds.push(live(net.clone(), book.clone(), errand, events));
        nodes.push(node);
    }
    tokio::time::sleep(LENGTH).await;
    let mut statuses = Vec::new();
    for node in &nodes {
        statuses.push(node.handle.status().await.unwrap());
    }
    let (packets, lost, trace) = net.finish();
    let messages = book.lock().unwrap().clone();
    Outcome { messages, statuses, packets, lost, trace }
}
