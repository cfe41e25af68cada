//! Clients of durable messages at the entrances of all nodes: they write, are told, take, settle, leave and come back.
//! They outlive the nodes that they are connected to, as real clients do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use trishula::link::{Event, Handle};
use trishula::rt::{clock, queue, tasks};
use trishula::wire::envelope::State;
use trishula::wire::frame::{Attach, Deliver, Frame, Settlement};
use trishula::wire::ids::{AgentAddr, AgentName, LinkId, MessageId, Namespace, SessionNo};

use crate::ledger::{AgentNo, Ledger, MachineNo, MessageNo};
use crate::net::SimNet;
use crate::rng::{Rng, mix};
use crate::store::SimDisk;

mod sending;

/// When clients begin to write.
const BEGIN: Duration = Duration::from_secs(4);
/// A client that says nothing about a message for so long gets it again later.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long after all is whole a sender that lost a session waits to be told what it may have missed.
const SILENT: Duration = Duration::from_secs(20);
const WINDOW: u16 = 8;

/// What the clients are to do.
pub struct Errand {
    pub machines: usize,
    pub agents: usize,
    /// Until when they write, leave and move; from then on each stays where it is and asks for what it was not told.
    pub until: Duration,
    pub seed: u64,
}

/// A link of an entrance to its node: which machine's, in which life.
pub fn link_of(machine: MachineNo, life: u64) -> LinkId {
    LinkId(life * 100 + machine as u64)
}

fn machine_of(link: LinkId) -> MachineNo {
    (link.0 % 100) as MachineNo
}

struct Agent {
    addr: AgentAddr,
    machine: MachineNo,
    session: Option<usize>,
    home: Option<MachineNo>,
    away_until: Duration,
    think: Duration,
}

struct Session {
    agent: AgentNo,
    link: LinkId,
    ready: bool,
    open: bool,
    /// Its client is gone, and its entrance does not know yet.
    deaf: bool,
    since: Duration,
    in_hand: BTreeSet<u64>,
}

#[derive(Debug, Clone, Copy)]
enum Todo {
    Mind(AgentNo),
    Write(AgentNo),
    Send(MessageNo),
    /// Though it was accepted: its sender has not heard that, or wants to hear its end.
    SendAnyway(MessageNo),
    Settle(usize, u64, MessageNo),
    TimeOut(usize, u64),
    Hangup(usize),
    Wander(AgentNo),
    Ask,
}

pub struct Town {
    net: SimNet,
    ledger: Arc<Mutex<Ledger>>,
    disks: Vec<SimDisk>,
    errand: Errand,
    rng: Rng,
    gates: Vec<Option<(LinkId, Handle)>>,
    agents: Vec<Agent>,
    sessions: Vec<Session>,
    todo: BTreeMap<(Duration, u64), Todo>,
    count: u64,
}

/// Lets the clients live until the task is dropped.
pub fn live(
    net: SimNet,
    ledger: Arc<Mutex<Ledger>>,
    disks: Vec<SimDisk>,
    errand: Errand,
    events: queue::Receiver<Event>,
) -> tasks::Task {
    let mut rng = Rng::new(mix(errand.seed ^ 0x70_77_6e));
    let namespace = Namespace::new("trishula").unwrap();
    let agent = |n| Agent {
        addr: AgentAddr::new(namespace.clone(), AgentName::new(&format!("a{n}")).unwrap()),
        machine: n % errand.machines,
        session: None,
        home: None,
        away_until: Duration::ZERO,
        think: Duration::from_millis([5, 50, 400][rng.index(3)]),
    };
    let agents = (0..errand.agents).map(agent).collect();
    let gates = (0..errand.machines).map(|_| None).collect();
    let (sessions, todo) = (Vec::new(), BTreeMap::new());
    let mut town = Town { net, ledger, disks, errand, rng, gates, agents, sessions, todo, count: 0 };
    town.at(town.errand.until + SILENT, Todo::Ask);
    for n in 0..town.agents.len() {
        town.within(500..1_500, Todo::Mind(n));
        town.at(BEGIN + Duration::from_millis(137 * n as u64), Todo::Write(n));
        town.within(8_000..30_000, Todo::Wander(n));
    }
    tasks::spawn("sim.town", town.run(events))
}

impl Town {
    async fn run(mut self, mut events: queue::Receiver<Event>) {
        loop {
            let next = self.todo.first_key_value().map_or(Duration::MAX, |((at, _), _)| *at);
            let next = next.min(self.net.elapsed() + Duration::from_secs(60));
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(event) => self.event(event),
                    None => return,
                },
                () = self.net.wait_until(next) => self.what_is_due(),
            }
        }
    }

    fn what_is_due(&mut self) {
        let now = self.net.elapsed();
        while let Some(entry) = self.todo.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Todo::Mind(agent) => self.mind(agent),
                Todo::Write(agent) => self.write(agent),
                Todo::Send(number) => self.send_again(number, false),
                Todo::SendAnyway(number) => self.send_again(number, true),
                Todo::Settle(session, tag, number) => self.settle(session, tag, number),
                Todo::TimeOut(session, tag) => self.time_out(session, tag),
                Todo::Hangup(session) => self.hangup(session),
                Todo::Wander(agent) => self.wander(agent),
                Todo::Ask => self.ask(),
            }
        }
    }

    fn at(&mut self, at: Duration, todo: Todo) {
        self.count += 1;
        self.todo.insert((at, self.count), todo);
    }

    fn within(&mut self, ms: std::ops::Range<u64>, todo: Todo) {
        let wait = Duration::from_millis(self.rng.range(ms.start, ms.end));
        self.at(self.net.elapsed() + wait, todo);
    }

    fn is_over(&self) -> bool {
        self.net.elapsed() >= self.errand.until
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    // Entrances.

    fn event(&mut self, event: Event) {
        match event {
            Event::Up { link, handle, .. } => self.gates[machine_of(link)] = Some((link, handle)),
            Event::Frame { link, frame } => self.frame(link, frame),
            Event::Early { .. } => {}
            Event::Down { link, .. } => self.down(link),
        }
    }

    /// The entrance goes with its node, and every connection to it.
    fn down(&mut self, link: LinkId) {
        let gate = &mut self.gates[machine_of(link)];
        if gate.as_ref().is_some_and(|(now, _)| *now == link) {
            *gate = None;
        }
        for ix in 0..self.sessions.len() {
            if self.sessions[ix].link == link {
                self.close(ix);
                // What it was told last, or was to be told, is lost with it.
                let agent = self.sessions[ix].agent;
                let mut ledger = self.ledger();
                for message in ledger.messages.iter_mut().filter(|message| message.from == agent) {
                    message.may_ask |= message.end().is_none();
                }
            }
        }
    }

    fn close(&mut self, ix: usize) {
        let session = &mut self.sessions[ix];
        (session.open, session.ready) = (false, false);
        session.in_hand.clear();
        let agent = &mut self.agents[session.agent];
        if agent.session == Some(ix) {
            agent.session = None;
        }
    }

    fn to_node(&self, link: LinkId, frame: &Frame) {
        if let Some((_, handle)) = self.gates[machine_of(link)].as_ref().filter(|(now, _)| *now == link) {
            // It is gone, and Down comes; nothing else may keep a frame out.
            if let Err(queue::Refused::Full(())) = handle.try_send(frame) {
                self.ledger().fail(format!("a queue towards n{} is full", machine_of(link)));
            }
        }
    }

    fn frame(&mut self, link: LinkId, frame: Frame) {
        match frame {
            Frame::Ping(number) => self.to_node(link, &Frame::Pong(number, clock::wall_ms())),
            Frame::Attached(no, _) => self.attached(no.0 as usize, link),
            Frame::Evict(no, refusal) => {
                let ix = no.0 as usize;
                if self.sessions[ix].open && self.sessions[ix].link == link {
                    self.net.note(format!("session {ix} is closed: {}", refusal.code.as_str()));
                    self.ledger().count("sessions closed by their node");
                    self.close(ix);
                }
            }
            Frame::Told(no, receipt) => self.told(no.0 as usize, &receipt),
            Frame::Deliver(deliver, payload) => self.delivered(link, &deliver, &payload),
            _ => {}
        }
    }

    fn attached(&mut self, ix: usize, link: LinkId) {
        if !self.sessions[ix].open {
            return;
        }
        self.sessions[ix].ready = true;
        let (agent, machine) = (self.sessions[ix].agent, machine_of(link));
        let now = self.net.elapsed();
        if let Some(before) = self.agents[agent].home.replace(machine).filter(|before| *before != machine) {
            let mut ledger = self.ledger();
            ledger.count("homes moved");
            ledger.moves.entry(agent).or_default().push((now, before, machine));
        }
    }

    // Clients.

    /// That it is connected: at its machine, or after a while at another one.
    fn mind(&mut self, agent: AgentNo) {
        self.within(300..900, Todo::Mind(agent));
        let now = self.net.elapsed();
        if now < self.agents[agent].away_until && !self.is_over() {
            return;
        }
        if let Some(ix) = self.agents[agent].session {
            let session = &self.sessions[ix];
            if session.ready || now < session.since + Duration::from_secs(6) {
                return;
            }
            self.hangup(ix);
        }
        let machine = self.agents[agent].machine;
        if self.gates[machine].is_some() {
            self.connect(agent);
        } else if self.rng.percent(8) && !self.is_over() {
            self.agents[agent].machine = self.rng.index(self.errand.machines);
        }
    }

    fn connect(&mut self, agent: AgentNo) {
        let Some((link, _)) = &self.gates[self.agents[agent].machine] else { return };
        let (link, ix, since) = (*link, self.sessions.len(), self.net.elapsed());
        let in_hand = BTreeSet::new();
        self.sessions.push(Session { agent, link, ready: false, open: true, deaf: false, since, in_hand });
        self.agents[agent].session = Some(ix);
        self.net.note(format!("a{agent} connects to n{}: session {ix}", machine_of(link)));
        let attach = Attach {
            session: SessionNo(ix as u64),
            agent: self.agents[agent].addr.clone(),
            capabilities: Vec::new(),
            shared: false,
            registered_ms: clock::wall_ms(),
            resumed: false,
            window: WINDOW,
            transient: false,
        };
        self.to_node(link, &Frame::Attach(attach));
    }

    fn hangup(&mut self, ix: usize) {
        if self.sessions[ix].open {
            let link = self.sessions[ix].link;
            self.close(ix);
            self.to_node(link, &Frame::Detach(SessionNo(ix as u64), false));
        }
    }

    /// It leaves with its hands full, or goes elsewhere while its old connection still seems to be there.
    fn wander(&mut self, agent: AgentNo) {
        if self.is_over() {
            return;
        }
        self.within(6_000..30_000, Todo::Wander(agent));
        let before = self.agents[agent].session.take();
        let deaf = self.rng.percent(50);
        if let Some(ix) = before.filter(|_| deaf) {
            self.sessions[ix].deaf = true;
            self.within(50..15_000, Todo::Hangup(ix));
        }
        if let Some(ix) = before.filter(|_| !deaf) {
            self.hangup(ix);
        }
        self.ledger().count("sessions lost");
        if self.rng.percent(50) {
            self.agents[agent].machine = self.rng.index(self.errand.machines);
            if self.gates[self.agents[agent].machine].is_some() {
                self.connect(agent);
            }
        } else {
            let wait = Duration::from_millis(self.rng.range(100, 9_000));
            self.agents[agent].away_until = self.net.elapsed() + wait;
        }
    }

    // What they get.

    fn delivered(&mut self, link: LinkId, deliver: &Deliver, payload: &Bytes) {
        let Some(number) = Ledger::number_of(&deliver.head.id) else { return };
        let now = self.net.elapsed();
        for handing in &deliver.to {
            let ix = handing.session.0 as usize;
            let (agent, tag) = (self.sessions[ix].agent, handing.tag);
            {
                let mut ledger = self.ledger();
                let turn = ledger.next_turn();
                ledger.messages[number].handed.get_or_insert(turn);
                if *payload != body(&deliver.head.id) {
                    ledger.fail(format!("d{number} came with another payload"));
                }
                if ledger.messages[number].to != agent || tag == 0 {
                    ledger.fail(format!("d{number} reached a{agent}, under {tag}"));
                }
            }
            if !self.sessions[ix].open || self.sessions[ix].link != link {
                continue;
            }
            self.sessions[ix].in_hand.insert(tag);
            if self.sessions[ix].in_hand.len() > 2 * usize::from(WINDOW) {
                self.ledger().fail(format!("session {ix} has more in its hands than its window"));
            }
            self.to_node(link, &Frame::Settle(handing.session, vec![(tag, Settlement::Written)]));
            if self.sessions[ix].deaf {
                continue;
            }
            self.net.note(format!("a{agent} got d{number}, again: {}", handing.redelivered));
            self.ledger().got(number, now, machine_of(link), handing.redelivered);
            let think = self.agents[agent].think.as_millis() as u64;
            if self.rng.percent(3) {
                self.at(now + PATIENCE, Todo::TimeOut(ix, tag));
            } else {
                self.within(1..think, Todo::Settle(ix, tag, number));
            }
        }
    }

    /// Its client says nothing about it: the entrance wants it again later.
    fn time_out(&mut self, ix: usize, tag: u64) {
        if self.sessions[ix].in_hand.remove(&tag) {
            self.ledger().count("timed out");
            let settled = vec![(tag, Settlement::Requeued("no word in time".into()))];
            self.to_node(self.sessions[ix].link, &Frame::Settle(SessionNo(ix as u64), settled));
        }
    }

    /// It decides about a message the same way each time.
    fn settle(&mut self, ix: usize, tag: u64, number: MessageNo) {
        if self.sessions[ix].deaf || !self.sessions[ix].in_hand.remove(&tag) {
            return;
        }
        let dice = mix(self.errand.seed ^ (number as u64) << 20) % 100;
        let settlement = {
            let mut ledger = self.ledger();
            let message = &mut ledger.messages[number];
            match dice {
                6..12 if !std::mem::replace(&mut message.requeued, true) => {
                    Settlement::Requeued("later".into())
                }
                0..6 => {
                    message.settled = Some(State::Nacked);
                    Settlement::Nacked("not today".into())
                }
                _ => {
                    message.settled = Some(State::Acked);
                    Settlement::Acked
                }
            }
        };
        let frame = Frame::Settle(SessionNo(ix as u64), vec![(tag, settlement)]);
        self.to_node(self.sessions[ix].link, &frame);
    }
}

/// A payload of 20 to 3,000 bytes that follows from the id.
fn body(id: &MessageId) -> Bytes {
    let sum = id.as_str().bytes().fold(7u64, |sum, byte| (sum * 31 + u64::from(byte)) % 99_991);
    Bytes::from(id.as_str().repeat(4 + sum as usize % 500))
}
