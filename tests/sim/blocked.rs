//! Links that change their carrier while clients write: UDP is blocked between two machines, or loses much, and is well again.
//! How long messages wait, how soon the link is on QUIC again, and that each message comes once, in its order.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use trishula::link::{Event, Handle};
use trishula::rt::{clock, queue, tasks};
use trishula::wire::envelope::{Head, Kind, State, Target};
use trishula::wire::frame::{Attach, Frame, Settlement};
use trishula::wire::ids::{AgentAddr, AgentName, MessageId, Namespace, SessionNo};

use crate::net::{SimNet, Weather};
use crate::node::SimNode;
use crate::scenario::{in_virtual_time, name, plan};
use crate::store::SimDisk;

/// Two with clients, and one that sees how the others fare.
const MACHINES: usize = 3;
/// Between two messages of a client.
const EVERY: Duration = Duration::from_millis(40);
/// How long traffic flows before anything is done, and after all is well again.
const CALM: Duration = Duration::from_secs(4);
/// How long UDP is blocked.
const BLOCKED: Duration = Duration::from_secs(12);
/// What has not changed for so long is waited for with less traffic.
const SLOW_AFTER: Duration = Duration::from_secs(10);
const SLOW: Duration = Duration::from_millis(500);
/// Ten times what is promised: messages flow within 2 s, and a link is on QUIC again within 10.
const FLOWS_WITHIN: Duration = Duration::from_secs(20);
const BACK_WITHIN: Duration = Duration::from_secs(100);
/// See where it is asked; it was 3.8 s when whatever came counted as an answer.
const HEARD_WITHIN: Duration = Duration::from_secs(3);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// A write at a node's disk, in microseconds.
const FSYNC: u64 = 500;

/// What is done to UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    /// Nothing comes from one of the two to the other, nor back.
    Blocked,
    /// Nothing comes from the first to the second.
    OneWay,
    /// Nothing comes to the first from anybody, nor from it.
    Alone,
    /// A third of all that goes between the two is lost.
    Lossy,
}

impl Done {
    fn share(self, from: usize, to: usize) -> f64 {
        let met = match self {
            Done::OneWay => (from, to) == (0, 1),
            Done::Alone => from == 0 || to == 0,
            Done::Blocked | Done::Lossy => from < 2 && to < 2,
        };
        match self {
            _ if !met => 0.0,
            Done::Lossy => 0.33,
            _ => 1.0,
        }
    }
}

/// What became of the messages to one client.
#[derive(Default)]
struct Book {
    /// Their numbers and when they came, in the order in which they did.
    got: Vec<(u64, Duration)>,
    /// How many of its own were acknowledged.
    acked: u64,
}

type Books = [Arc<Mutex<Book>>; 2];

fn agent(m: usize) -> AgentAddr {
    AgentAddr::new(Namespace::new("trishula").unwrap(), AgentName::new(&format!("client-{m}")).unwrap())
}

/// Takes and acknowledges all that comes to a client, until the task is dropped.
async fn takes(net: SimNet, mut heard: queue::Receiver<Event>, entrance: Handle, book: Arc<Mutex<Book>>) {
    while let Some(event) = heard.recv().await {
        let Event::Frame { frame, .. } = event else { continue };
        match frame {
            Frame::Ping(number) => drop(entrance.try_send(&Frame::Pong(number, 0))),
            Frame::Deliver(deliver, _) => {
                let number = deliver.head.id.as_str().split_once('-').unwrap().1.parse().unwrap();
                net.note(format!("{} comes", deliver.head.id));
                book.lock().unwrap().got.push((number, net.elapsed()));
                let settled = Frame::Settle(SessionNo(1), vec![(deliver.to[0].tag, Settlement::Acked)]);
                entrance.try_send(&settled).unwrap();
            }
            Frame::Told(_, receipt) if receipt.state == State::Acked => book.lock().unwrap().acked += 1,
            _ => {}
        }
    }
}

struct Scene {
    net: SimNet,
    nodes: Vec<SimNode>,
    gates: Vec<Handle>,
    books: Books,
    sent: u64,
    _tasks: Vec<tasks::Task>,
}

impl Scene {
    /// All are up and see each other.
    async fn new(seed: u64, done: Done, begun: Arc<AtomicU64>) -> Scene {
        let of = |address: std::net::SocketAddr| usize::from(address.port() - 4000);
        let udp_lost = move |_, from, to| match begun.load(Ordering::Relaxed) {
            0 => 0.0,
            _ => done.share(of(from), of(to)),
        };
        let calm = Weather::calm((5_000, 30_000), Box::new(|_, _, _| 0.005));
        let (net, courier) = SimNet::start(seed, Weather { udp_lost: Box::new(udp_lost), ..calm });
        let (nodes, gates, books) = (Vec::new(), Vec::new(), Books::default());
        let mut scene = Scene { net, nodes, gates, books, sent: 0, _tasks: vec![courier] };
        for m in 0..MACHINES {
            scene.boot(m, seed).await;
        }
        for m in 0..MACHINES {
            while !scene.nodes[m].handle.status().await.unwrap().whole
                || scene.carriers(m).await.len() != MACHINES - 1
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        // The agents are known to all.
        tokio::time::sleep(Duration::from_secs(3)).await;
        scene
    }

    async fn boot(&mut self, m: usize, seed: u64) {
        let disk = SimDisk::new(&self.net, name(m), seed ^ m as u64, FSYNC, None);
        let (incarnation, store, writer) = disk.start(clock::wall_ms());
        let mut plan = plan(m, MACHINES, seed, 1);
        (plan.incarnation, plan.edges) = (incarnation, true);
        let mut node = SimNode::start(&self.net, &plan, store);
        self._tasks.push(writer);
        if let Some(book) = self.books.get(m) {
            let mut heard = node.entrance();
            let Some(Event::Up { handle, .. }) = heard.recv().await else { panic!("it is up first") };
            let attach = Attach {
                session: SessionNo(1),
                agent: agent(m),
                capabilities: Vec::new(),
                shared: false,
                registered_ms: 1,
                resumed: false,
                window: 256,
                transient: false,
            };
            handle.try_send(&Frame::Attach(attach)).unwrap();
            let takes = takes(self.net.clone(), heard, handle.clone(), book.clone());
            self._tasks.push(tasks::spawn("sim.client", takes));
            self.gates.push(handle);
        }
        self.nodes.push(node);
    }

    /// Of all links that a node has to others: to whom, and on what.
    async fn carriers(&self, m: usize) -> Vec<(String, String)> {
        let status = self.nodes[m].handle.status().await.unwrap();
        let links = status.links.into_iter().filter(|link| link.role == "node");
        links.map(|link| (link.peer.to_string(), link.carrier)).collect()
    }

    /// Whether the two are linked on this, as both see it: on this alone, once what was there before is closed.
    async fn is_on(&self, carrier: &str, alone: bool) -> bool {
        for (m, peer) in [(0, name(1)), (1, name(0))] {
            let all = self.carriers(m).await;
            let links: Vec<&str> =
                all.iter().filter(|(to, _)| *to == peer.as_str()).map(|(_, on)| on.as_str()).collect();
            if !links.contains(&carrier) || (alone && links.iter().any(|on| *on != carrier)) {
                return false;
            }
        }
        true
    }

    /// Each client writes to the other.
    fn write(&mut self) {
        for (m, gate) in self.gates.iter().enumerate() {
            let id = MessageId::new(&format!("m{m}-{}", self.sent)).unwrap();
            let to = Target::Agent(agent(1 - m));
            let head = Head { receipt: Some(State::Acked), ..Head::new(agent(m), to, id, Kind::Command) };
            let body = Bytes::from(vec![7; 40 + (self.sent as usize % 7) * 300]);
            gate.try_send(&Frame::Submit(SessionNo(1), head, body)).unwrap();
        }
        self.sent += 1;
    }

    /// They write for so long.
    async fn write_for(&mut self, time: Duration) {
        let until = self.net.elapsed() + time;
        while self.net.elapsed() < until {
            self.write();
            tokio::time::sleep(EVERY).await;
        }
    }

    /// They write until the two are linked on this; how long that took.
    async fn write_until_on(&mut self, carrier: &str) -> Duration {
        let began = self.net.elapsed();
        while !self.is_on(carrier, false).await {
            let took = self.net.elapsed() - began;
            assert!(took < PATIENCE, "it is not on {carrier}");
            self.write();
            tokio::time::sleep(if took < SLOW_AFTER { EVERY } else { SLOW }).await;
        }
        self.net.elapsed() - began
    }

    /// Waits until all was acknowledged.
    async fn settle(&self) {
        let all = |scene: &Scene| scene.books.iter().all(|book| book.lock().unwrap().acked >= scene.sent);
        let done = async {
            while !all(self) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, done).await.expect("all are acknowledged");
        tokio::time::sleep(Duration::from_secs(5)).await;
    }

    /// The longest time without a message to one of the two, since then.
    fn longest_wait(&self, since: Duration) -> Duration {
        let mut longest = Duration::ZERO;
        for book in &self.books {
            let mut last = since;
            for (_, at) in book.lock().unwrap().got.iter().filter(|(_, at)| *at > since) {
                longest = longest.max(*at - last);
                last = *at;
            }
        }
        longest
    }
}

/// What came of a run.
#[derive(Debug, PartialEq, Eq)]
struct Figures {
    /// The longest time in which no message came.
    silence: Duration,
    /// Until the link was on the other carrier.
    changed: Duration,
    /// Until it was on QUIC again, since all was well.
    back: Duration,
    messages: u64,
}

fn run(seed: u64, done: Done) -> Figures {
    in_virtual_time(seed, async {
        let begun = Arc::new(AtomicU64::new(0));
        let mut scene = Scene::new(seed, done, begun.clone()).await;
        scene.write_for(CALM).await;
        assert!(scene.is_on("quic", true).await, "{:?}", scene.carriers(0).await);
        let at = scene.net.elapsed();
        begun.store(1, Ordering::Relaxed);
        let changed = scene.write_until_on("wss").await;
        scene.write_for(BLOCKED.saturating_sub(changed)).await;
        assert!(scene.is_on("wss", true).await, "{:?}", scene.carriers(0).await);
        begun.store(0, Ordering::Relaxed);
        let back = scene.write_until_on("quic").await;
        scene.write_for(CALM).await;
        let silence = scene.longest_wait(at);
        scene.settle().await;
        assert!(scene.is_on("quic", true).await, "{:?}", scene.carriers(0).await);
        for (m, book) in scene.books.iter().enumerate() {
            let book = book.lock().unwrap();
            let numbers: Vec<u64> = book.got.iter().map(|(number, _)| *number).collect();
            let all: Vec<u64> = (0..scene.sent).collect();
            assert_eq!(numbers, all, "seed {seed}, {done:?}: what came to client {m}");
            assert_eq!(book.acked, scene.sent, "each end is told once");
        }
        Figures { silence, changed, back, messages: 2 * scene.sent }
    })
}

fn show(seed: u64, done: Done) -> Figures {
    let figures = run(seed, done);
    let Figures { silence, changed, back, messages } = &figures;
    eprintln!(
        "seed {seed}, {done:?}: {messages} messages, none came for {silence:?} at most; on WSS after {changed:?}, on QUIC again after {back:?}"
    );
    assert!(*silence < FLOWS_WITHIN && *changed < FLOWS_WITHIN, "{silence:?}, {changed:?}");
    figures
}

#[test]
fn a_link_changes_its_carrier_under_load_and_each_message_comes_once_in_order() {
    // covers Q01, Q02, T06
    for seed in 1..=5 {
        for done in [Done::Blocked, Done::OneWay, Done::Alone] {
            let Figures { silence, back, .. } = show(seed, done);
            assert!(back < BACK_WITHIN, "{back:?}");
            // An end that still hears the other one must not wait until heartbeats or losses tell.
            assert!(done != Done::OneWay || silence < HEARD_WITHIN, "{silence:?}");
        }
    }
}

#[test]
fn a_link_leaves_quic_that_loses_too_much_and_each_message_comes_once_in_order() {
    // covers Q01, Q02, T06
    for seed in 1..=3 {
        show(seed, Done::Lossy);
    }
}

#[test]
fn a_change_of_carrier_is_the_same_for_the_same_seed() {
    assert_eq!(run(7, Done::Blocked), run(7, Done::Blocked));
}
