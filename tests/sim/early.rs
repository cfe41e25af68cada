//! Links that come back with early data (0-RTT): how soon the first message is there, and that each arrives once.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use bytes::Bytes;
use trishula::link::{Event, Handle};
use trishula::rt::{clock, queue, tasks};
use trishula::wire::envelope::{Head, Kind, State, Target};
use trishula::wire::frame::{Attach, Frame, Settlement};
use trishula::wire::ids::{AgentAddr, AgentName, MessageId, Namespace, SessionNo};

use crate::net::{SimNet, Step, Weather};
use crate::node::{Plan, SimNode};
use crate::scenario::{address, in_virtual_time, name, plan};
use crate::store::SimDisk;

/// From one node to the other and back.
const RTT: Duration = Duration::from_millis(50);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// A write at a node's disk, in microseconds.
const FSYNC: u64 = 500;
/// Dials; the other one is dialled.
const DIALLER: usize = 1;
const DIALLED: usize = 0;

fn agent(text: &str) -> AgentAddr {
    AgentAddr::new(Namespace::new("trishula").unwrap(), AgentName::new(text).unwrap())
}

/// A machine with one client at its entrance.
struct Machine {
    node: SimNode,
    heard: queue::Receiver<Frame>,
    entrance: Handle,
    _tasks: [tasks::Task; 2],
}

struct Scene {
    net: SimNet,
    disks: [SimDisk; 2],
    /// Whether nothing comes through.
    cut: Arc<AtomicBool>,
    seed: u64,
    lives: u64,
    _courier: tasks::Task,
}

impl Scene {
    fn new(seed: u64) -> Scene {
        let cut = Arc::new(AtomicBool::new(false));
        let is_cut = cut.clone();
        let lost = move |_, _, _| if is_cut.load(Ordering::Relaxed) { 1.0 } else { 0.0 };
        let weather = Weather::calm((25_000, 25_000), Box::new(lost));
        let (net, courier) = SimNet::start(seed, weather);
        let disks = [0, 1].map(|m| SimDisk::new(&net, name(m), seed ^ m as u64, FSYNC, None));
        Scene { net, disks, cut, seed, lives: 0, _courier: courier }
    }

    fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }

    /// Starts a machine, and registers its client.
    async fn boot(&mut self, m: usize, sessions: Option<Vec<u8>>) -> Machine {
        self.lives += 1;
        let (incarnation, store, writer) = self.disks[m].start(clock::wall_ms());
        let dials = if m == DIALLER { vec![(name(DIALLED), address(DIALLED))] } else { Vec::new() };
        let plan = Plan { incarnation, dials, ..plan(m, 2, self.seed, self.lives) };
        let mut node = SimNode::start(&self.net, &plan, store);
        if let Some(bytes) = sessions {
            node.sessions().restore(&bytes).expect("the same are trusted");
        }
        let mut heard = node.entrance();
        let Some(Event::Up { handle, .. }) = heard.recv().await else { panic!("the entrance is up first") };
        let attach = Attach {
            session: SessionNo(1),
            agent: agent(&format!("client-{m}")),
            capabilities: Vec::new(),
            shared: false,
            registered_ms: self.lives,
            resumed: false,
            window: 64,
            transient: false,
        };
        handle.try_send(&Frame::Attach(attach)).unwrap();
        let (frames, frames_heard) = queue::bounded("sim.client", 64);
        let listens = tasks::spawn("sim.client", listen(heard, handle.clone(), frames));
        let mut machine = Machine { node, heard: frames_heard, entrance: handle, _tasks: [writer, listens] };
        machine.hear(|frame| matches!(frame, Frame::Attached(..)).then_some(())).await;
        machine
    }

    async fn both(&mut self) -> [Machine; 2] {
        let machines = [self.boot(0, None).await, self.boot(1, None).await];
        for machine in &machines {
            while machine.links().await != 1 || !machine.node.handle.status().await.unwrap().whole {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        // The agents are known to both.
        tokio::time::sleep(Duration::from_secs(3)).await;
        machines
    }

    /// When the first datagram left that begins a connection, so long after the start at the earliest.
    fn first_flight(&self, from: Duration) -> Duration {
        let (_, trace) = self.net.finish();
        let of_the_dialler = |step: &Step| match step {
            Step::Packet(at, port, _, length) if *port == address(DIALLER).port() && *length >= 1200 => {
                Some(Duration::from_nanos(*at)).filter(|at| *at >= from)
            }
            _ => None,
        };
        trace.iter().find_map(of_the_dialler).expect("it dials")
    }
}

impl Machine {
    async fn links(&self) -> usize {
        let status = self.node.handle.status().await.unwrap();
        status.links.iter().filter(|link| link.role == "node").count()
    }

    /// Waits until there is no link.
    async fn alone(&self) {
        let alone = async {
            while self.links().await > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, alone).await.expect("the silence is noticed");
    }

    fn send(&self, from: usize, to: usize, id: &str) {
        let head = Head {
            receipt: Some(State::Acked),
            ..Head::new(
                agent(&format!("client-{from}")),
                Target::Agent(agent(&format!("client-{to}"))),
                MessageId::new(id).unwrap(),
                Kind::Command,
            )
        };
        self.entrance.try_send(&Frame::Submit(SessionNo(1), head, Bytes::from_static(b"{}"))).unwrap();
    }

    /// Waits for a frame that is what is wanted.
    async fn hear<T>(&mut self, wanted: impl Fn(&Frame) -> Option<T>) -> T {
        let heard = async {
            loop {
                let frame = self.heard.recv().await.expect("the node runs");
                if let Some(found) = wanted(&frame) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, heard).await.expect("it comes")
    }

    /// Takes the next message, and acknowledges it.
    async fn take(&mut self) -> String {
        let (id, tag) = self
            .hear(|frame| match frame {
                Frame::Deliver(deliver, _) => Some((deliver.head.id.to_string(), deliver.to[0].tag)),
                _ => None,
            })
            .await;
        let settled = Frame::Settle(SessionNo(1), vec![(tag, Settlement::Acked)]);
        self.entrance.try_send(&settled).unwrap();
        id
    }

    /// Waits until its client is told of this state.
    async fn told(&mut self, id: &str, state: State) {
        self.hear(|frame| match frame {
            Frame::Told(_, receipt) if receipt.id.as_str() == id && receipt.state == state => Some(()),
            _ => None,
        })
        .await;
    }
}

/// Answers the node's signs of life, and passes on all else.
async fn listen(mut heard: queue::Receiver<Event>, entrance: Handle, frames: queue::Sender<Frame>) {
    while let Some(event) = heard.recv().await {
        match event {
            Event::Frame { frame: Frame::Ping(number), .. } => {
                drop(entrance.try_send(&Frame::Pong(number, 0)))
            }
            Event::Frame { frame, .. } => drop(frames.send(frame).await),
            _ => {}
        }
    }
}

/// What happens to the peer while there is no link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    /// It is started again, and has its sessions from its disk.
    Restart,
    /// The same, and it has lost them.
    Forgets,
}

/// From the first datagram of the new connection until a message that waited is at its recipient's entrance.
fn first_message(seed: u64, meanwhile: Meanwhile) -> Duration {
    in_virtual_time(seed, async {
        let mut scene = Scene::new(seed);
        let [mut peer, mut dialler] = scene.both().await;
        scene.set_cut(true);
        if meanwhile != Meanwhile::Nothing {
            let sessions = peer.node.sessions().snapshot();
            scene.net.unplug(address(DIALLED));
            drop(peer);
            let sessions = (meanwhile == Meanwhile::Restart).then_some(sessions);
            peer = scene.boot(DIALLED, sessions).await;
        }
        dialler.alone().await;
        dialler.send(DIALLER, DIALLED, "m-1");
        dialler.told("m-1", State::Accepted).await;
        // It dials a moment after the link was found broken: the way is open again.
        let open = scene.net.elapsed();
        scene.set_cut(false);
        assert_eq!(peer.take().await, "m-1");
        let there = scene.net.elapsed();
        dialler.told("m-1", State::Acked).await;
        dialler.send(DIALLER, DIALLED, "m-2");
        assert_eq!(peer.take().await, "m-2", "nothing came twice");
        dialler.told("m-2", State::Acked).await;
        assert_eq!((dialler.links().await, peer.links().await), (1, 1));
        there - scene.first_flight(open)
    })
}

#[test]
fn the_first_message_after_a_flap_is_there_after_half_a_round_trip() {
    // covers T02, Q01, Q02
    for seed in [1, 2, 3] {
        for (meanwhile, most) in
            [(Meanwhile::Nothing, 0.6), (Meanwhile::Restart, 0.6), (Meanwhile::Forgets, 10.0)]
        {
            let took = first_message(seed, meanwhile);
            let rtts = took.as_secs_f64() / RTT.as_secs_f64();
            eprintln!(
                "seed {seed}, {meanwhile:?}: the first message is there after {took:?}, {rtts:.2} round trips"
            );
            assert!(rtts <= most, "{meanwhile:?}: {took:?}");
            // Without early data it could not be so soon: the measure bites.
            assert!(meanwhile != Meanwhile::Forgets || rtts > 1.4, "{meanwhile:?}: {took:?}");
        }
    }
}

thread_local! {
    static ACCEPTED: Cell<u64> = const { Cell::new(0) };
}

/// Counts how often early data was accepted on each thread, as the log says.
struct Accepted;

impl tracing::Subscriber for Accepted {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "trishula::link::early"
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut Accepted);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

impl tracing::field::Visit for Accepted {
    fn record_bool(&mut self, field: &tracing::field::Field, value: bool) {
        if field.name() == "accepted" && value {
            ACCEPTED.set(ACCEPTED.get() + 1);
        }
    }

    fn record_debug(&mut self, _: &tracing::field::Field, _: &dyn std::fmt::Debug) {}
}

/// From the moment that the way is open again, after so long, until a message that waited is at its recipient's entrance;
/// and whether early data was accepted.
fn found_open(seed: u64, down: Duration, meanwhile: Meanwhile) -> (Duration, bool) {
    // Once for the process; no other test here sets one.
    static COUNTS: Once = Once::new();
    COUNTS.call_once(|| tracing::subscriber::set_global_default(Accepted).expect("no other one"));
    let before = ACCEPTED.get();
    let took = in_virtual_time(seed, async {
        let mut scene = Scene::new(seed);
        let [mut peer, mut dialler] = scene.both().await;
        scene.set_cut(true);
        let cut = scene.net.elapsed();
        dialler.alone().await;
        dialler.send(DIALLER, DIALLED, "m-1");
        dialler.told("m-1", State::Accepted).await;
        if meanwhile == Meanwhile::Restart {
            let sessions = peer.node.sessions().snapshot();
            scene.net.unplug(address(DIALLED));
            drop(peer);
            peer = scene.boot(DIALLED, Some(sessions)).await;
        }
        // A dial is on its way, and has tries beside the first.
        let half = (down / 2).saturating_sub(scene.net.elapsed() - cut);
        tokio::time::sleep(half).await;
        dialler.send(DIALLER, DIALLED, "m-2");
        // A short one is over when it is noticed.
        let left = (cut + down).saturating_sub(scene.net.elapsed());
        tokio::time::sleep(left).await;
        let open = scene.net.elapsed();
        scene.set_cut(false);
        assert_eq!(peer.take().await, "m-1");
        let took = scene.net.elapsed() - open;
        assert_eq!(peer.take().await, "m-2");
        dialler.told("m-1", State::Acked).await;
        dialler.send(DIALLER, DIALLED, "m-3");
        assert_eq!(peer.take().await, "m-3", "nothing came twice");
        dialler.told("m-3", State::Acked).await;
        assert_eq!((dialler.links().await, peer.links().await), (1, 1));
        took
    });
    (took, ACCEPTED.get() > before)
}

#[test]
fn a_way_that_is_open_again_is_found_within_a_second_however_long_it_was_not() {
    // covers T02, T09, Q02
    for (seed, down_ms) in
        (1..).zip([4_300, 5_100, 5_900, 6_300, 7_700, 8_600, 9_600, 14_900, 27_300, 44_000])
    {
        let (took, early) = found_open(seed, Duration::from_millis(down_ms), Meanwhile::Nothing);
        eprintln!(
            "down for {down_ms} ms: the first message is there {took:?} after the way is open, early {early}"
        );
        assert!(took < Duration::from_secs(1), "down for {down_ms} ms: {took:?}");
        assert!(early, "down for {down_ms} ms");
    }
}

#[test]
fn a_link_comes_back_with_early_data_after_flaps_and_restarts_of_seconds() {
    // covers T02, Q01, Q02
    for meanwhile in [Meanwhile::Nothing, Meanwhile::Restart] {
        let flaps: Vec<(Duration, bool)> =
            (0..20).map(|n| found_open(n, Duration::from_millis(2_000 + 523 * n), meanwhile)).collect();
        let early = flaps.iter().filter(|(_, early)| *early).count();
        let mut took: Vec<Duration> = flaps.iter().map(|(took, _)| *took).collect();
        took.sort();
        let without: Vec<usize> = (0..flaps.len()).filter(|n| !flaps[*n].1).collect();
        eprintln!("{meanwhile:?}: {early} of 20 with early data, not {without:?}; open after {took:?}");
        assert!(early >= 18, "{meanwhile:?}: {early} of 20");
    }
}

#[test]
fn a_link_comes_back_with_early_data_after_minutes() {
    // covers T02, Q01
    for (seed, down_s) in [(1, 70), (2, 300)] {
        let (took, early) = found_open(seed, Duration::from_secs(down_s), Meanwhile::Nothing);
        eprintln!("down for {down_s} s: the first message is there {took:?} after the way is open");
        assert!(early, "down for {down_s} s");
    }
}

#[test]
fn a_flap_is_the_same_for_the_same_seed() {
    assert_eq!(first_message(7, Meanwhile::Restart), first_message(7, Meanwhile::Restart));
}
