//! The node task: takes what happens from one place, hands it to the mesh, and does what the mesh says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::calls::{Calls, Posts};
use super::handle::{Handle, Request};
use super::records;
use super::status::TakenOver;
use crate::identity::{self, Trust, revocation::RevocationList};
use crate::link;
use crate::link::inbox::{self, Incoming};
use crate::mesh::{Config, Event, GoOn, Input, Mesh, NoTakeOver, Output, Queried, Role, TakeOver, Time};
use crate::metrics;
use crate::rt::{clock, queue, tasks};
use crate::store::{self, trace};
use crate::wire::close::LinkClose;
use crate::wire::frame::{Call, Frame, Method, ROOMS};
use crate::wire::ids::{LinkId, NodeName, Sequence, SessionNo};
use crate::wire::record::Memory;

mod disk;
mod hops;
mod report;
mod skew;
mod view;

use skew::Skews;
use view::role_word;

/// Frames and other events of links that may wait.
const LINK_EVENTS: usize = 8192;
/// Questions of this process that may wait.
const REQUESTS: usize = 256;
/// Events taken at one turn, so that the outputs of one burst share their writes.
const TURN: usize = 64;
/// When the peers of a node that stops may come back, in milliseconds.
const COME_BACK_MS: u64 = 1000;

/// Where the node's records go.
pub enum Disk {
    /// To a store that is open.
    Store(queue::Sender<store::Job>, queue::Receiver<store::Done>),
    /// Nowhere: everything counts as written. For simulations.
    None,
}

/// A call that this node is to answer by [`Handle::answer`].
#[derive(Debug)]
pub struct Question {
    /// Which call.
    pub call: Call,
    /// With what.
    pub body: Bytes,
}

/// What a node task needs.
pub struct Settings {
    /// For the core.
    pub mesh: Config,
    /// What was on disk.
    pub memory: Memory,
    /// Where records go.
    pub disk: Disk,
    /// Whom we believe; its revocations are kept up to date from the mesh.
    pub trust: Arc<Trust>,
    /// Where a newer revocation list is written; `None`: nowhere.
    pub revocations_file: Option<PathBuf>,
    /// Who answers [`Method::Enrol`] and [`Method::Renew`]; `None`: this node does not hold the CA.
    pub desk: Option<queue::Sender<Question>>,
    /// Who answers where messages stand; `None`: nobody, as nothing is written.
    pub records: Option<queue::Sender<records::Ask>>,
    /// Where steps of messages go, for `trishula trace`; `None`: nowhere.
    pub trace: Option<trace::Recorder>,
    /// How the disk is, for `status`.
    pub health: Option<watch::Receiver<store::Health>>,
    /// Program and version.
    pub software: String,
}

/// Where each node says that it can be dialled.
pub type Addresses = BTreeMap<NodeName, Vec<String>>;

/// A node that runs.
pub struct Started {
    /// To ask it, and where links report.
    pub handle: Handle,
    /// The nodes that there is a link to.
    pub connected: watch::Receiver<BTreeSet<NodeName>>,
    /// Where every node says that it can be dialled, as far as this node has heard.
    pub addresses: watch::Receiver<Addresses>,
    /// The task; the node ends with it.
    pub task: tasks::Task,
}

/// Starts the node task.
pub fn start(settings: Settings) -> Started {
    let (events, incoming) = inbox::bounded("node.links.first", "node.links", LINK_EVENTS);
    let (requests, asked) = queue::bounded("node.requests", REQUESTS);
    let (connected, is_connected) = watch::channel(BTreeSet::new());
    let (addresses, heard) = watch::channel(BTreeMap::new());
    let handle = Handle::new(requests, events);
    let task = tasks::spawn("node", Node::new(settings, connected, addresses).run(incoming, asked));
    Started { handle, connected: is_connected, addresses: heard, task }
}

struct LinkInfo {
    handle: link::Handle,
    peer: link::Peer,
}

struct Node {
    mesh: Mesh,
    settings: Settings,
    began: Instant,
    links: BTreeMap<LinkId, LinkInfo>,
    /// Connections that are being resumed, and are no links yet.
    early: BTreeMap<LinkId, link::Handle>,
    connected: watch::Sender<BTreeSet<NodeName>>,
    addresses: watch::Sender<Addresses>,
    calls: Calls,
    posts: Posts,
    skews: Skews,
    /// Steps of this turn.
    hops: Vec<hops::Noted>,
    /// Of the last step that was recorded.
    hop_clock: u64,
    /// When what is kept is counted again.
    next_count: Time,
    /// What is to be written, and not handed to the store yet.
    held: disk::Held,
    certificate_days: Option<i64>,
    stopping: bool,
}

/// What a turn of the loop begins with.
enum Turn {
    Links,
    Request(Request),
    Written(store::Done),
    Time,
    Over,
}

impl Node {
    fn new(
        mut settings: Settings,
        connected: watch::Sender<BTreeSet<NodeName>>,
        addresses: watch::Sender<Addresses>,
    ) -> Node {
        let memory = std::mem::take(&mut settings.memory);
        let mesh = Mesh::new(settings.mesh.clone(), Time(clock::micros()), clock::wall_ms(), memory);
        Node {
            mesh,
            settings,
            began: clock::now(),
            links: BTreeMap::new(),
            early: BTreeMap::new(),
            connected,
            addresses,
            calls: Calls::default(),
            posts: Posts::default(),
            skews: Skews::default(),
            hops: Vec::new(),
            hop_clock: 0,
            next_count: Time(0),
            held: disk::Held::default(),
            certificate_days: None,
            stopping: false,
        }
    }

    async fn run(mut self, mut incoming: Incoming, mut asked: queue::Receiver<Request>) {
        if let Some(list) = self.settings.trust.revocations().current() {
            self.input(revocations_in_force(&list));
        }
        let mut events = Vec::with_capacity(TURN);
        let mut timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        loop {
            let timeout = self.mesh.next_timeout();
            arm(&mut timer, self.held.due().map_or(timeout, |due| due.min(timeout)));
            let turn = tokio::select! {
                biased;
                request = asked.recv() => request.map_or(Turn::Over, Turn::Request),
                done = disk::written(&mut self.settings.disk) => Turn::Written(done),
                n = incoming.recv_many(&mut events, TURN) => if n == 0 { Turn::Over } else { Turn::Links },
                () = &mut timer => Turn::Time,
            };
            let began = clock::Stopwatch::start();
            let (more_waits, idle) = (events.len() == TURN, matches!(turn, Turn::Time));
            match turn {
                Turn::Links => {
                    for event in events.drain(..) {
                        self.link_event(event);
                    }
                }
                Turn::Request(request) => self.request(request),
                Turn::Written(done) => self.written(done),
                // Only what is held had to go.
                Turn::Time if timeout > Time(clock::micros()) => {}
                Turn::Time => {
                    self.input(Input::Tick(clock::wall_ms()));
                    metrics::CONNECTED_AGENTS.set(self.mesh.agents_online() as i64);
                    self.show_often();
                }
                Turn::Over => return,
            }
            metrics::NODE_TURN.observe(began.seconds());
            if more_waits || self.held.is_due(Time(clock::micros()), idle) || !self.hops.is_empty() {
                // Or a flood would fill the lanes of links whose writers share this thread and had no turn. And what was
                // sent leaves before other threads are woken, which would compete with the next hop for a core.
                tokio::task::yield_now().await;
            }
            if self.held.is_due(Time(clock::micros()), idle) {
                self.hand_to_store();
                self.outputs();
            }
            self.record_hops();
        }
    }

    /// One input, and everything that follows from it.
    fn input(&mut self, input: Input) {
        self.mesh.handle(Time(clock::micros()), input);
        self.outputs();
    }

    fn outputs(&mut self) {
        while let Some(output) = self.mesh.poll_output() {
            self.execute(output);
        }
    }

    fn link_event(&mut self, event: link::Event) {
        match event {
            link::Event::Early { link, peer, dialled, handle } => {
                self.link_early(link, peer, dialled, handle)
            }
            link::Event::Up { link, peer, dialled, handle } => self.link_up(link, peer, dialled, handle),
            link::Event::Frame { link, frame } => self.input(Input::Frame(link, frame)),
            link::Event::Down { link, why } => {
                self.early.remove(&link);
                if let Some(info) = self.links.remove(&link) {
                    metrics::LINKS.with_label_values(&[role_word(&info)]).dec();
                    tracing::info!(peer = %info.peer.node, role = role_word(&info), why, "link down");
                }
                self.publish_connected();
                self.input(Input::LinkDown(link));
            }
        }
    }

    fn link_early(&mut self, link: LinkId, peer: NodeName, dialled: bool, handle: link::Handle) {
        if self.stopping {
            return handle.close(LinkClose::Stopping, "this node is stopping");
        }
        self.early.retain(|_, handle| !handle.is_closed());
        self.early.insert(link, handle);
        self.input(Input::LinkEarly { link, peer, dialled });
    }

    fn link_up(&mut self, link: LinkId, peer: link::Peer, dialled: bool, handle: link::Handle) {
        if self.stopping {
            return handle.close(LinkClose::Stopping, "this node is stopping");
        }
        let role = match peer.role {
            link::Role::Node => Role::Node,
            link::Role::Entrance => Role::Entrance,
        };
        let input = Input::LinkUp {
            link,
            peer: peer.node.clone(),
            role,
            incarnation: peer.incarnation,
            dialled,
            fallback: handle.is_fallback(),
            rtt_us: handle.rtt_us(),
        };
        self.early.remove(&link);
        let info = LinkInfo { handle, peer };
        metrics::LINKS.with_label_values(&[role_word(&info)]).inc();
        let (carrier, remote, software) = (info.handle.carrier(), info.handle.remote(), &info.peer.software);
        tracing::info!(peer = %info.peer.node, role = role_word(&info), carrier, remote, dialled, software, "link up");
        self.links.insert(link, info);
        self.publish_connected();
        self.input(input);
    }

    fn publish_connected(&self) {
        let nodes = self.links.values().filter(|info| info.peer.role == link::Role::Node);
        let now: BTreeSet<NodeName> = nodes.map(|info| info.peer.node.clone()).collect();
        self.connected.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    fn publish_addresses(&self) {
        let now = self.mesh.addresses();
        self.addresses.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    fn execute(&mut self, output: Output) {
        match output {
            Output::Send(link, frame) => self.send(link, frame),
            Output::Close(link, code, why) => {
                if let Some(info) = self.links.get(&link) {
                    if info.peer.role == link::Role::Node {
                        metrics::LINKS_CLOSED.with_label_values(&[code.word()]).inc();
                    }
                    info.handle.close(code, why);
                }
            }
            Output::Persist(ticket, record) => self.persist(ticket, record),
            Output::Asked(call, body) => self.asked(call, body),
            Output::Answered(number, result) => self.calls.end(number, Time(clock::micros()), result),
            Output::Revocations(_, der) => self.verify_revocations(&der),
            Output::Query(link, session, number, queried) => self.queried(link, session, number, queried),
            Output::Posted(number, result) => self.posts.end(number, result),
            Output::Event(event) => {
                if let Event::Reachable(_) = event {
                    self.publish_addresses();
                }
                report::report(&event);
                if let Event::Hop(hop) = event {
                    self.note(hop);
                }
            }
        }
    }

    fn send(&mut self, link: LinkId, frame: Frame) {
        let up = self.links.get(&link).map(|info| &info.handle);
        let Some(handle) = up.or_else(|| self.early.get(&link)) else { return };
        let features = self.links.get(&link).map(|info| &info.peer.features);
        if frame.is_of_rooms() && !features.is_some_and(|features| features.iter().any(|f| f == ROOMS)) {
            return;
        }
        match handle.try_send(&frame) {
            Ok(()) => {}
            Err(queue::Refused::Full(())) => {
                self.mesh.handle(Time(clock::micros()), Input::Unsent(link, frame));
            }
            // Its LinkDown is on the way.
            Err(queue::Refused::Closed(())) => {}
        }
    }

    /// A call to this node. What needs no other task is answered here.
    fn asked(&mut self, call: Call, body: Bytes) {
        let answer = match call.method {
            Method::Ping => Ok(body),
            Method::Status => serde_json::to_vec(&self.status()).map(Bytes::from).map_err(|e| e.to_string()),
            Method::Enrol | Method::Renew => match &self.settings.desk {
                Some(desk) => match desk.try_send(Question { call: call.clone(), body }) {
                    Ok(()) => return,
                    Err(_) => Err("the holder of the CA is busy; try again in a second".to_owned()),
                },
                None => Err("this node does not hold the CA".to_owned()),
            },
            Method::Records => {
                match self.ask_records(records::Ask::Call(Question { call: call.clone(), body })) {
                    Ok(()) => return,
                    Err(why) => Err(why.to_owned()),
                }
            }
        };
        self.mesh.handle(Time(clock::micros()), Input::Answer(call, answer));
    }

    /// A session asks where a message stands: the answer is another task's.
    fn queried(&mut self, link: LinkId, session: SessionNo, number: Sequence, queried: Queried) {
        if let Err(why) = self.ask_records(records::Ask::Query { link, session, number, queried }) {
            self.send(link, Frame::Answer(session, number, records::unavailable(why)));
        }
    }

    fn ask_records(&self, ask: records::Ask) -> Result<(), &'static str> {
        let records = self.settings.records.as_ref().ok_or("this node keeps no records")?;
        records.try_send(ask).map_err(|_| "too many ask where messages stand; try again in a second")
    }

    /// Anybody may offer a list; only what the CA signed counts.
    fn verify_revocations(&mut self, der: &Bytes) {
        let trust = &self.settings.trust;
        match RevocationList::parse(der, trust.ca()) {
            Ok(list) => self.new_revocations(list),
            Err(why) => tracing::warn!(%why, "a peer offered a revocation list that does not hold"),
        }
    }

    fn new_revocations(&mut self, list: RevocationList) {
        let (number, der) = (list.number(), Bytes::copy_from_slice(list.der()));
        let input = revocations_in_force(&list);
        if !self.settings.trust.revocations().offer(list) {
            return;
        }
        tracing::info!(number, "a newer revocation list is in force");
        if let Some(file) = &self.settings.revocations_file
            && let Err(why) = identity::files::write(file, &der, identity::files::Access::Public)
        {
            tracing::error!(%why, "the revocation list could not be written; it is in force until this node stops");
        }
        self.mesh.handle(Time(clock::micros()), input);
        self.close_revoked();
    }

    fn close_revoked(&self) {
        let Some(list) = self.settings.trust.revocations().current() else { return };
        let revoked: BTreeSet<String> = list.entries().iter().map(|entry| entry.serial.to_string()).collect();
        for info in self.links.values().filter(|info| revoked.contains(&info.peer.serial)) {
            tracing::warn!(peer = %info.peer.node, serial = info.peer.serial, "closing the link: its certificate was revoked");
            info.handle
                .close(LinkClose::Revoked, "your certificate was revoked; join again with a new ticket");
        }
    }

    fn take_over(&mut self, node: NodeName) -> Result<TakenOver, NoTakeOver> {
        let TakeOver { now, later } = self.mesh.may_take_over(&node)?;
        tracing::info!(%node, now, later, "by the operator's word, second copies of its messages go on from here");
        self.input(Input::TakeOver(node.clone()));
        Ok(TakenOver { node, taken_over: now, waiting: later })
    }

    fn request(&mut self, request: Request) {
        // Whoever asked may have gone: an answer that nobody takes is dropped.
        match request {
            Request::Status(answer) => drop(answer.send(self.status())),
            Request::Agents(namespace, answer) => drop(answer.send(self.agents(namespace.as_ref()))),
            Request::Call { to, method, body, within, answer } => {
                let number = self.calls.begin(answer, Time(clock::micros()), within);
                self.input(Input::Ask { number, to, method, body, within });
            }
            Request::Answer(call, result) => self.input(Input::Answer(call, result)),
            Request::Tell(link, frame) => self.send(link, *frame),
            Request::Post { head, payload, answer } => {
                let number = self.posts.begin(answer);
                self.input(Input::Post(number, head, payload));
            }
            Request::DropDead(key) => self.input(Input::DropDead(key)),
            Request::Resume(redeliver, answer) => {
                let stood_still = self.mesh.rolled_back().is_some();
                self.input(Input::GoOn(if redeliver { GoOn::Redeliver } else { GoOn::Bury }));
                let _ = answer.send(stood_still);
            }
            Request::TakeOver(node, answer) => drop(answer.send(self.take_over(node))),
            Request::Revocations(number, der) => {
                tracing::debug!(number, "a revocation list from this machine");
                self.verify_revocations(&der);
                self.input(Input::Tick(clock::wall_ms()));
            }
            Request::CertificateDays(days) => self.certificate_days = Some(days),
            Request::Stop(answer) => {
                self.stopping = true;
                self.input(Input::Stop(COME_BACK_MS));
                for handle in self.links.values().map(|info| &info.handle).chain(self.early.values()) {
                    handle.close(LinkClose::Stopping, "this node is stopping");
                }
                self.links.clear();
                self.early.clear();
                let _ = answer.send(());
            }
        }
    }
}

fn revocations_in_force(list: &RevocationList) -> Input {
    let serials = list.entries().iter().map(|entry| entry.serial.to_string()).collect();
    Input::Revocations(list.number(), Bytes::copy_from_slice(list.der()), serials)
}

fn arm(timer: &mut Pin<Box<Sleep>>, due: Time) {
    let wait = due.since(Time(clock::micros()));
    timer.as_mut().reset(clock::now() + wait);
}
