//! Several nodes joined by links in memory. Everything happens in the order of virtual time; nothing is random.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::super::*;
use crate::wire::close::LinkClose;
use crate::wire::envelope::{Class, Head, Kind, Target};
use crate::wire::frame::{AgentState, Attach, Call, Method};
use crate::wire::ids::{AgentAddr, Incarnation, MessageId, Namespace, Sequence, SessionNo};
use crate::wire::record::Numbers;

mod disk;
mod links;
mod lives;
mod seen;

use disk::Machine;
use links::LinkEnd;

/// One way over a link between nodes, unless a test says otherwise.
pub const DELAY: Duration = Duration::from_millis(10);
/// A write with its fsync.
const FSYNC: Duration = Duration::from_millis(1);

pub fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub fn agent(name: &str) -> AgentAddr {
    AgentAddr::parse(name, &Namespace::new("trishula").unwrap()).unwrap()
}

pub fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// What a node's disk does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// Writes.
    Works,
    /// Takes records and says nothing.
    Hangs,
    /// Refuses them.
    Fails,
}

/// A connected client: its session at an entrance of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    pub node: NodeName,
    pub link: LinkId,
    pub session: SessionNo,
    pub agent: AgentAddr,
}

/// How a client registers.
#[derive(Debug, Clone, Copy)]
pub struct As {
    pub shared: bool,
    pub registered_ms: Option<u64>,
    pub resumed: bool,
    pub transient: bool,
}

pub const PLAIN: As = As { shared: false, registered_ms: None, resumed: false, transient: false };
pub const SHARED: As = As { shared: true, ..PLAIN };
pub const TRANSIENT: As = As { transient: true, ..PLAIN };

/// A frame that left a node.
pub struct Sent {
    pub from: NodeName,
    /// `None`: to an entrance.
    pub to: Option<NodeName>,
    pub frame: Frame,
}

pub type Answered = Result<(Vec<NodeName>, Bytes), AskFailed>;

pub struct Cluster {
    pub now: Time,
    machines: BTreeMap<NodeName, Machine>,
    links: BTreeMap<LinkId, LinkEnd>,
    due: BTreeMap<(Time, u64), (NodeName, Input)>,
    /// Nodes that stand still, and what waits for them.
    still: BTreeMap<NodeName, Vec<Input>>,
    /// What entrances got, by their link.
    inboxes: BTreeMap<LinkId, Vec<Frame>>,
    /// Every frame that was sent since [`Cluster::forget`].
    pub sent: Vec<Sent>,
    pub events: Vec<(NodeName, Event)>,
    pub closed: Vec<(NodeName, LinkId, LinkClose)>,
    pub answered: BTreeMap<(NodeName, Sequence), Answered>,
    /// Frames between nodes that are lost, and nobody notices.
    pub lost: fn(&Frame) -> bool,
    /// How far the wall clocks have jumped.
    pub wall_jump_ms: u64,
    last: u64,
    last_wall: u64,
}

impl Cluster {
    pub fn of(names: &[&str]) -> Cluster {
        let mut cluster = Cluster {
            now: Time(1_000_000),
            machines: BTreeMap::new(),
            links: BTreeMap::new(),
            due: BTreeMap::new(),
            still: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            sent: Vec::new(),
            events: Vec::new(),
            closed: Vec::new(),
            answered: BTreeMap::new(),
            lost: |_| false,
            wall_jump_ms: 0,
            last: 0,
            last_wall: 1_000_000_000_000,
        };
        for name in names {
            cluster.start(Config::new(node(name), Incarnation(1)), Vec::new());
        }
        cluster
    }

    /// Every node with a link to every other; the earlier in the list dials.
    pub fn meshed(names: &[&str]) -> Cluster {
        let mut cluster = Cluster::of(names);
        for (i, a) in names.iter().enumerate() {
            for b in &names[i + 1..] {
                cluster.connect(a, b);
            }
        }
        cluster.run(seconds(2));
        cluster.forget();
        cluster
    }

    /// Starts a node, or starts it again: the links of its earlier life are silent from now on.
    pub fn start(&mut self, config: Config, known: Vec<AgentState>) {
        self.boot(config, Memory { agents: known, ..Memory::default() });
    }

    fn boot(&mut self, config: Config, memory: Memory) {
        let name = config.node.clone();
        for end in self.links.values_mut() {
            if end.owner == name || end.peer.as_ref().is_some_and(|(peer, _)| *peer == name) {
                end.blocked = true;
            }
        }
        self.links.retain(|_, end| end.owner != name);
        self.due.retain(|_, (owner, _)| *owner != name);
        let on_disk = memory.messages.iter().map(|kept| (kept.key.clone(), kept.clone())).collect();
        let agents = memory.agents.iter().map(|state| (state.agent.clone(), state.clone())).collect();
        let (elsewhere, rooms) = (memory.elsewhere.clone(), memory.rooms.clone());
        let transient = memory.transient.clone();
        let pair = |numbers: &Numbers| (numbers.from.clone(), numbers.to.clone());
        let numbers = memory.numbers.iter().map(|numbers| (pair(numbers), numbers.clone())).collect();
        let mesh = Mesh::new(config, self.now, self.wall_ms(), memory);
        let (disk, records) = (Disk::Works, Vec::new());
        let machine = Machine {
            mesh,
            disk,
            records,
            memory: on_disk,
            agents,
            transient,
            elsewhere,
            numbers,
            rooms,
            past: None,
            answers: true,
        };
        self.machines.insert(name, machine);
    }

    pub fn mesh(&self, name: &str) -> &Mesh {
        &self.machines[&node(name)].mesh
    }

    pub fn mesh_mut(&mut self, name: &str) -> &mut Mesh {
        &mut self.machine(name).mesh
    }

    fn machine(&mut self, name: &str) -> &mut Machine {
        self.machines.get_mut(&node(name)).unwrap()
    }

    pub fn disk(&mut self, name: &str, disk: Disk) {
        self.machine(name).disk = disk;
    }

    pub fn mute(&mut self, name: &str) {
        self.machine(name).answers = false;
    }

    /// What a disk that hangs took so far is written now.
    pub fn release(&mut self, name: &str) {
        for (ticket, _) in std::mem::take(&mut self.machine(name).records) {
            self.input(name, Input::Persisted(ticket));
        }
    }

    /// It is refused now, and so is what comes.
    pub fn fail(&mut self, name: &str) {
        self.disk(name, Disk::Fails);
        for (ticket, _) in std::mem::take(&mut self.machine(name).records) {
            self.input(name, Input::PersistFailed(ticket, "disk full".into()));
        }
    }

    /// Only the first of it; `false`: there is nothing.
    pub fn release_first(&mut self, name: &str) -> bool {
        let records = &mut self.machine(name).records;
        if records.is_empty() {
            return false;
        }
        let (ticket, _) = records.remove(0);
        self.input(name, Input::Persisted(ticket));
        true
    }

    pub fn records(&self, name: &str) -> Vec<Record> {
        self.machines[&node(name)].records.iter().map(|(_, record)| record.clone()).collect()
    }

    /// Of what a disk that hangs took: whether anybody waits for it.
    pub fn waited_for(&self, name: &str) -> Vec<bool> {
        let machine = &self.machines[&node(name)];
        machine.records.iter().map(|(ticket, _)| machine.mesh.is_waited_for(*ticket)).collect()
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn at(&mut self, when: Time, name: &NodeName, input: Input) {
        let order = self.number();
        self.due.insert((when, order), (name.clone(), input));
    }

    /// A client registers at an entrance of its own; time goes on until that is done everywhere.
    pub fn register(&mut self, name: &str, agent: &str) -> Client {
        let client = self.attach(name, agent, PLAIN);
        self.run(Duration::from_millis(200));
        client
    }

    /// A client asks to be registered.
    pub fn attach(&mut self, name: &str, agent_name: &str, how: As) -> Client {
        let link = self.entrance(name);
        let session = SessionNo(self.number());
        let client = Client { node: node(name), link, session, agent: agent(agent_name) };
        self.attach_again(&client, how);
        client
    }

    /// The same session asks (again).
    pub fn attach_again(&mut self, client: &Client, how: As) {
        self.last_wall += 1;
        let attach = Attach {
            session: client.session,
            agent: client.agent.clone(),
            capabilities: vec!["test".into()],
            shared: how.shared,
            registered_ms: how.registered_ms.unwrap_or(self.last_wall),
            resumed: how.resumed,
            window: 64,
            transient: how.transient,
        };
        self.frame(client, Frame::Attach(attach));
    }

    pub fn detach(&mut self, client: &Client, forget: bool) {
        self.frame(client, Frame::Detach(client.session, forget));
    }

    /// A frame from a client's entrance.
    pub fn frame(&mut self, client: &Client, frame: Frame) {
        self.input(client.node.as_str(), Input::Frame(client.link, frame));
    }

    /// A client sends a message; time goes on until it has arrived wherever it goes.
    pub fn send(&mut self, from: &Client, to: &str, id: &str) {
        let head = head(from, to, id);
        self.submit(from, head);
        self.run(Duration::from_millis(200));
    }

    pub fn submit(&mut self, from: &Client, head: Head) {
        let payload = Bytes::from(format!("payload of {}", head.id));
        self.frame(from, Frame::Submit(from.session, head, payload));
    }

    /// Tells a node what happened, and does what it says.
    pub fn input(&mut self, name: &str, input: Input) {
        let name = node(name);
        if let Some(waiting) = self.still.get_mut(&name) {
            return waiting.push(input);
        }
        let Some(machine) = self.machines.get_mut(&name) else { return };
        machine.mesh.handle(self.now, input);
        while let Some(output) = self.machines.get_mut(&name).and_then(|m| m.mesh.poll_output()) {
            self.execute(&name, output);
        }
    }

    fn execute(&mut self, name: &NodeName, output: Output) {
        match output {
            Output::Send(link, frame) => self.carry(name, link, frame),
            Output::Close(link, code, _) => self.close(name, link, code),
            Output::Persist(ticket, record) => {
                let (now, machine) = (self.now, self.machines.get_mut(name).unwrap());
                if machine.disk != Disk::Fails {
                    machine.write(&record);
                }
                match machine.disk {
                    Disk::Works => self.at(now.after(FSYNC), name, Input::Persisted(ticket)),
                    Disk::Fails => {
                        self.at(now.after(FSYNC), name, Input::PersistFailed(ticket, "disk full".into()));
                    }
                    Disk::Hangs => machine.records.push((ticket, record)),
                }
            }
            Output::Asked(call, body) => {
                if self.machines[name].answers {
                    self.at(self.now, name, Input::Answer(call, Ok(body)));
                }
            }
            Output::Answered(number, result) => {
                let twice = self.answered.insert((name.clone(), number), result);
                assert!(twice.is_none(), "a call was answered twice");
            }
            Output::Revocations(number, der) => {
                self.at(self.now, name, Input::Revocations(number, der, Default::default()));
            }
            Output::Query(..) | Output::Posted(..) => {}
            Output::Event(event) => self.events.push((name.clone(), event)),
        }
    }

    /// Lets virtual time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now.after(time);
        loop {
            let moving = self.machines.iter().filter(|(name, _)| !self.still.contains_key(*name));
            let tick = moving.map(|(name, m)| (m.mesh.next_timeout(), name.clone())).min();
            let next = self.due.first_key_value().map(|(key, _)| *key);
            match (next, tick) {
                (Some(key), tick) if key.0 <= end && tick.as_ref().is_none_or(|(at, _)| key.0 <= *at) => {
                    self.now = self.now.max(key.0);
                    let (name, input) = self.due.remove(&key).unwrap();
                    self.input(name.as_str(), input);
                }
                (_, Some((at, name))) if at <= end => {
                    self.now = self.now.max(at);
                    let wall = self.wall_ms();
                    self.input(name.as_str(), Input::Tick(wall));
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// A node has no turn, as on a machine that sleeps or a process that is stopped.
    pub fn stand_still(&mut self, name: &str) {
        self.still.insert(node(name), Vec::new());
    }

    /// It goes on, with all that came for it meanwhile; so many of the latest overtake the rest, by a moment.
    pub fn go_on(&mut self, name: &str, overtake: usize) {
        let mut waiting = self.still.remove(&node(name)).unwrap_or_default();
        waiting.rotate_right(overtake);
        for (n, input) in waiting.into_iter().enumerate() {
            if n > 0 && n == overtake {
                self.run(Duration::from_millis(50));
            }
            self.input(name, input);
        }
    }

    pub fn wall_ms(&self) -> u64 {
        1_000_000_000_000 + self.wall_jump_ms + self.now.0 / 1000
    }

    /// Forgets what was sent and what happened so far.
    pub fn forget(&mut self) {
        self.sent.clear();
        self.events.clear();
        self.closed.clear();
        self.inboxes.clear();
    }

    /// Forgets all but the latest frames of each entrance.
    pub fn forget_but_last(&mut self) {
        self.sent.clear();
        self.events.clear();
        for inbox in self.inboxes.values_mut() {
            let keep = inbox.len().saturating_sub(20);
            inbox.drain(..keep);
        }
    }

    pub fn ask(&mut self, from: &str, to: Option<&str>, method: Method) -> (NodeName, Sequence) {
        let number = Sequence(self.number());
        let ask = Input::Ask {
            number,
            to: to.map(node),
            method,
            body: Bytes::from_static(b"body"),
            within: seconds(5),
        };
        self.input(from, ask);
        (node(from), number)
    }

    /// A frame as it would come over a node's link to another, whoever made it.
    pub fn inject(&mut self, at: &str, from: &str, frame: Frame) {
        let link = self.between(at, from).into_iter().find(|id| self.links[id].owner == node(at)).unwrap();
        self.input(at, Input::Frame(link, frame));
    }

    /// What a node sends to another next time is a call with this route behind it.
    pub fn call_of(from: &str, to: &str, route: Vec<NodeName>) -> Call {
        Call {
            from: node(from),
            incarnation: Incarnation(1),
            number: Sequence(1_000_000),
            to: node(to),
            method: Method::Ping,
            route,
        }
    }
}

/// A message as an entrance would stamp it.
pub fn head(from: &Client, to: &str, id: &str) -> Head {
    Head {
        class: Class::Live,
        ..Head::new(
            from.agent.clone(),
            Target::parse(to, &from.agent.namespace).unwrap(),
            MessageId::new(id).unwrap(),
            Kind::Command,
        )
    }
}
