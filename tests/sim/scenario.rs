//! A run from beginning to end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use trishula::node::status::Status;
use trishula::rt::{clock, random, tasks};
use trishula::wire::ids::{Incarnation, NodeName};

use crate::agents::{Book, Entry, Errand, live, names_at};
use crate::net::{SimNet, Step, Tally, Weather};
use crate::node::{Plan, SimNode, Store};
use crate::pki::{pki, wall_at_start};

/// How many nodes there are in these runs.
pub const NODES: usize = 5;
/// How long a run takes.
pub const LENGTH: Duration = Duration::from_secs(60);
/// When the agents begin, and when they stop, to ask.
const ASK: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(56));

/// What happens to the machines besides the weather.
#[derive(Debug, Clone, Copy)]
pub enum Fate {
    /// Nothing.
    Spared,
    /// One loses power, or is stopped in good order, and comes back.
    Restarts {
        /// In good order.
        gently: bool,
        /// Which.
        node: usize,
        /// When.
        at: Duration,
        /// Until when it is off.
        back: Duration,
    },
}

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
pub fn plan(n: usize, nodes: usize, seed: u64, life: u64) -> Plan {
    let dialled = (0..nodes - 1).filter(|other| *other != n);
    Plan {
        name: name(n),
        address: address(n),
        incarnation: Incarnation(1_767_225_600_000 + life),
        dials: dialled.map(|other| (name(other), address(other))).collect(),
        edges: false,
        seed,
    }
}

/// A node and its agents; both end when this is dropped.
struct Machine {
    node: SimNode,
    _agents: tasks::Task,
}

struct Scene {
    net: SimNet,
    book: Book,
    seed: u64,
}

impl Scene {
    fn boot(&self, n: usize, life: u64) -> Machine {
        let mut node = SimNode::start(&self.net, &plan(n, NODES, self.seed, life), Store::none());
        let errand = Errand {
            node: name(n),
            all: (0..NODES).flat_map(|n| names_at(&name(n))).collect(),
            from: ASK.0,
            until: ASK.1,
            seed: self.seed ^ ((n as u64 + 1) << 32) ^ (life << 48),
            life,
        };
        let events = node.entrance();
        Machine { node, _agents: live(self.net.clone(), self.book.clone(), errand, events) }
    }
}

/// Whether nothing comes from one address to another at this time since the start.
pub type Cut = Box<dyn Fn(Duration, SocketAddr, SocketAddr) -> bool + Send>;

/// Runs a minute with this seed, delays of 20 to 30 ms, 2 % loss, and what `cut` and `fate` say.
pub fn run(seed: u64, cut: Cut, fate: Fate) -> Outcome {
    in_virtual_time(seed, minute(seed, cut, fate))
}

/// Lets something happen in one thread, in virtual time, with chance that follows from the seed.
pub fn in_virtual_time<T>(seed: u64, what: impl Future<Output = T>) -> T {
    // Before the runtime: making identities takes real time.
    (0..NODES).for_each(|n| drop(pki().identity(&name(n))));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    random::seed_this_thread(seed);
    let outcome = runtime.block_on(async {
        clock::simulate_wall_on_this_thread(wall_at_start());
        what.await
    });
    runtime.shutdown_background();
    outcome
}

async fn minute(seed: u64, cut: Cut, fate: Fate) -> Outcome {
    let lost = move |now, from, to| if cut(now, from, to) { 1.0 } else { 0.02 };
    let (net, _courier) = SimNet::start(seed, Weather::calm((20_000, 30_000), Box::new(lost)));
    let scene = Scene { net, book: Book::default(), seed };
    let mut machines: Vec<Machine> = (0..NODES).map(|n| scene.boot(n, 1)).collect();
    if let Fate::Restarts { gently, node, at, back } = fate {
        scene.net.wait_until(at).await;
        scene.net.note(format!("n{node} goes down"));
        if gently {
            machines[node].node.stop().await;
        }
        scene.net.unplug(address(node));
        drop(machines.remove(node));
        scene.net.wait_until(back).await;
        machines.insert(node, scene.boot(node, 2));
    }
    scene.net.wait_until(LENGTH).await;
    let mut statuses = Vec::new();
    for machine in &machines {
        statuses.push(machine.node.handle.status().await.unwrap());
    }
    let (Tally { sent: packets, lost, .. }, trace) = scene.net.finish();
    let messages = scene.book.lock().unwrap().clone();
    Outcome { messages, statuses, packets, lost, trace }
}

/// The seeds to try; `SIM_SEEDS=200 cargo test --test sim` tries 200 others.
pub fn seeds(first: u64, count: u64) -> std::ops::Range<u64> {
    match std::env::var("SIM_SEEDS") {
        Ok(more) => 1_000..1_000 + more.parse::<u64>().expect("SIM_SEEDS is a number of seeds"),
        Err(_) => first..first + count,
    }
}

/// The first step in which two runs differ, for people.
pub fn difference(a: &[Step], b: &[Step]) -> Option<String> {
    let at = a.iter().zip(b).position(|(a, b)| a != b);
    let at = at.or((a.len() != b.len()).then_some(a.len().min(b.len())))?;
    let near = |steps: &[Step]| {
        format!("{:#?}", steps.iter().skip(at.saturating_sub(2)).take(5).collect::<Vec<_>>())
    };
    Some(format!("step {at} of {} and {}:\n{}\n{}", a.len(), b.len(), near(a), near(b)))
}

/// Every node sees every other, each over one link of its own, and all agents.
pub fn assert_whole(outcome: &Outcome) {
    for status in &outcome.statuses {
        assert!(status.whole, "{status:?}");
        assert_eq!((status.nodes.len(), status.agents_online), (NODES, 2 * NODES), "{}", status.node);
        let links: Vec<_> = status.links.iter().filter(|link| link.role == "node").collect();
        assert_eq!(links.len(), NODES - 1, "one link to each other node: {links:#?}");
        let measured = |rtt_ms: Option<f64>| rtt_ms.is_some_and(|ms| (40.0..120.0).contains(&ms));
        assert!(links.iter().all(|link| measured(link.rtt_ms)), "{links:#?}");
    }
}

/// No message has two ends, and one that `may_vanish` does not excuse has one. Answers how many have none.
pub fn assert_ended(outcome: &Outcome, may_vanish: impl Fn(&Entry) -> bool) -> usize {
    let mut silent = 0;
    for (id, entry) in &outcome.messages {
        assert!(entry.delivered.len() + entry.refused.len() <= 1, "{id} has two ends: {entry:?}");
        if entry.delivered.is_empty() && entry.refused.is_empty() {
            assert!(may_vanish(entry), "{id} has no end: {entry:?}");
            silent += 1;
        }
    }
    silent
}

/// Every message sent from then on arrives, and soon.
pub fn assert_flows(outcome: &Outcome, from: Duration) {
    let late = outcome.messages.iter().filter(|(_, entry)| entry.sent >= from);
    let mut count = 0;
    for (id, entry) in late {
        assert_eq!(entry.delivered.len(), 1, "{id}: {entry:?}");
        let took = entry.delivered[0] - entry.sent;
        assert!(took < Duration::from_secs(3), "{id} took {took:?}");
        count += 1;
    }
    assert!(count > 500, "{count} messages flow from {from:?} on");
}
