//! Entrances with the sessions of clients, and what the clients do: connect, write, take, settle, leave.

use std::collections::{BTreeMap, BTreeSet};

use trishula::wire::envelope::{Priority, State, Target};
use trishula::wire::frame::{Attach, Deliver, Frame, Settlement};
use trishula::wire::ids::{AgentAddr, SessionNo};

use crate::clock::{MS, SECOND, Us};
use crate::model::{AgentNo, Got, MachineNo, MessageNo, Model};
use crate::net::{Party, WireNo};
use crate::rng::mix;
use crate::sender::payload_of;
use crate::world::{Event, World};

pub type SessionIx = usize;

/// An entrance: a process on a machine, which dials that machine's node.
#[derive(Debug)]
pub struct Gate {
    pub machine: MachineNo,
    pub life: u64,
    pub on: bool,
    pub wire: Option<WireNo>,
}

/// One connected client.
#[derive(Debug)]
pub struct Session {
    pub agent: AgentNo,
    pub gate: usize,
    pub no: SessionNo,
    pub open: bool,
    /// Its node has confirmed it on the wire of now.
    pub ready: bool,
    pub was_ready: bool,
    /// Nobody reads any more what is written to its socket, and the entrance does not know yet.
    pub deaf: bool,
    pub registered_ms: u64,
    pub window: u16,
    /// What it has not settled, by tag; with whether it is urgent.
    pub hands: BTreeMap<u64, (MessageNo, bool)>,
    pub since: Us,
}

/// A party that sends and receives.
#[derive(Debug)]
pub struct Agent {
    pub addr: AgentAddr,
    pub shared: bool,
    /// How many sessions it wants.
    pub wants: usize,
    pub gate: usize,
    /// It goes nowhere else by itself.
    pub settled: bool,
    /// Its home, as far as it knows.
    pub home: Option<MachineNo>,
    /// Sent, and neither accepted nor refused.
    pub pending: BTreeSet<MessageNo>,
    /// How long it takes for a message, at most.
    pub think: Us,
    pub lag_until: Us,
    pub window: u16,
    /// Not before then does it connect again.
    pub away_until: Us,
}

impl World {
    pub fn add_gate(&mut self, machine: MachineNo) -> usize {
        self.gates.push(Gate { machine, life: 1, on: true, wire: None });
        self.gates.len() - 1
    }

    pub fn agent_called(&self, addr: &AgentAddr) -> Option<AgentNo> {
        self.agents.iter().position(|agent| agent.addr == *addr)
    }

    // Entrances.

    pub fn gate_dial(&mut self, gate: usize, life: u64) {
        let (machine, on) = (self.gates[gate].machine, self.gates[gate].on);
        if !on || self.gates[gate].life != life || self.gates[gate].wire.is_some() {
            return;
        }
        if !self.is_up(machine) {
            let wait = self.rng.range(100, 700) * MS;
            return self.after(wait, Event::GateDial(gate, life));
        }
        let who = [Party::Gate(gate, life), Party::Node(machine, self.machines[machine].life)];
        let up = [self.now + 400, self.now + 200];
        let number = self.net.lay(who, 100, 100, up);
        self.gates[gate].wire = Some(number);
        self.at(up[0], Event::Up(number, 0));
        self.at(up[1], Event::Up(number, 1));
    }

    pub fn gate_on(&mut self, gate: usize) {
        if !self.gates[gate].on {
            self.gates[gate].on = true;
            let life = self.gates[gate].life;
            self.gate_dial(gate, life);
        }
    }

    /// The process of an entrance dies: its clients lose their connections.
    pub fn gate_off(&mut self, gate: usize) {
        self.trace.note(self.now, || format!("gate {gate} dies"));
        self.gates[gate].on = false;
        self.gates[gate].life += 1;
        if let Some(number) = self.gates[gate].wire.take() {
            if let Some(wire) = self.net.wires.get_mut(&number) {
                wire.broken = true;
            }
            self.net.leave(number, 0);
            self.after(MS, Event::Down(number, 1));
        }
        for session in &mut self.sessions {
            if session.gate == gate {
                (session.open, session.ready) = (false, false);
                session.hands.clear();
            }
        }
    }

    pub fn gate_up(&mut self, gate: usize, _wire: WireNo) {
        for ix in 0..self.sessions.len() {
            if self.sessions[ix].open && self.sessions[ix].gate == gate {
                self.attach(ix);
            }
        }
    }

    /// Tags of the wire that is gone mean nothing any more.
    pub fn gate_down(&mut self, gate: usize, wire: WireNo) {
        if self.gates[gate].wire != Some(wire) {
            return;
        }
        self.gates[gate].wire = None;
        for session in self.sessions.iter_mut().filter(|session| session.gate == gate) {
            session.ready = false;
            session.hands.clear();
        }
        let (wait, life) = (self.rng.range(20, 500) * MS, self.gates[gate].life);
        self.after(wait, Event::GateDial(gate, life));
    }

    fn attach(&mut self, ix: SessionIx) {
        let session = &self.sessions[ix];
        let agent = &self.agents[session.agent];
        let attach = Attach {
            session: session.no,
            agent: agent.addr.clone(),
            capabilities: Vec::new(),
            shared: agent.shared,
            registered_ms: session.registered_ms,
            resumed: session.was_ready,
            window: session.window,
            transient: false,
        };
        self.send_up(ix, &Frame::Attach(attach));
    }

    /// A frame of a session's entrance to its node; lost when they are not joined.
    pub fn send_up(&mut self, ix: SessionIx, frame: &Frame) -> bool {
        let gate = self.sessions[ix].gate;
        let Some(number) = self.gates[gate].wire else { return false };
        if !self.net.wires.get(&number).is_some_and(|wire| wire.ends[0].up && !wire.ends[0].gone) {
            return false;
        }
        self.trace.note(self.now, || format!("session {ix} at gate {gate} sends {frame:?}"));
        self.carry(number, 0, frame);
        true
    }

    pub fn gate_frame(&mut self, gate: usize, wire: WireNo, frame: Frame) {
        match frame {
            Frame::Ping(number) => self.carry(wire, 0, &Frame::Pong(number, 0)),
            Frame::Attached(no, _) => {
                if let Some(ix) = self.session_of(gate, no) {
                    self.attached(ix);
                }
            }
            Frame::Evict(no, refusal) => {
                if let Some(ix) = self.session_of(gate, no) {
                    self.trace.note(self.now, || format!("session {ix} is closed: {refusal}"));
                    let session = &mut self.sessions[ix];
                    (session.open, session.ready) = (false, false);
                    session.hands.clear();
                    self.trace.count("sessions closed by their node");
                }
            }
            Frame::Told(no, receipt) => {
                if let Some(ix) = self.session_of(gate, no) {
                    self.told(ix, &receipt);
                }
            }
            Frame::Deliver(deliver, payload) => self.delivered(gate, wire, &deliver, &payload),
            _ => {}
        }
    }

    fn session_of(&self, gate: usize, no: SessionNo) -> Option<SessionIx> {
        let ix = no.0 as usize;
        self.sessions.get(ix).filter(|session| session.gate == gate && session.open).map(|_| ix)
    }

    // Clients.

    /// An agent connects to an entrance; what other sessions it has are left as they are.
    pub fn connect_client(&mut self, agent: AgentNo, gate: usize) {
        let machine = self.gates[gate].machine;
        let ix = self.sessions.len();
        let window = self.agents[agent].window;
        self.sessions.push(Session {
            agent,
            gate,
            no: SessionNo(ix as u64),
            open: true,
            ready: false,
            was_ready: false,
            deaf: false,
            registered_ms: self.machines[machine].clock.wall_ms(self.now),
            window,
            hands: BTreeMap::new(),
            since: self.now,
        });
        self.agents[agent].gate = gate;
        self.trace
            .note(self.now, || format!("agent a{agent} connects to gate {gate} of n{machine}: session {ix}"));
        self.attach(ix);
    }

    fn attached(&mut self, ix: SessionIx) {
        let (agent, gate) = (self.sessions[ix].agent, self.sessions[ix].gate);
        let machine = self.gates[gate].machine;
        self.sessions[ix].ready = true;
        self.sessions[ix].was_ready = true;
        let before = self.agents[agent].home.replace(machine);
        if before.is_none() {
            self.first_home(agent, machine);
        }
        if let Some(before) = before.filter(|before| *before != machine) {
            self.model.moves.entry(agent).or_default().push((self.now, before, machine));
            self.trace.count("homes moved");
        }
    }

    /// What a client looks after every second: that it is connected, as often as it wants to be.
    pub fn mind(&mut self, agent: AgentNo) {
        let wait = self.rng.range(500, 1500) * MS;
        self.after(wait, Event::Mind(agent));
        if self.now < self.agents[agent].away_until {
            return;
        }
        let patience = if self.quiet { 20 } else { 4 + mix(self.seed ^ agent as u64) % 20 } * SECOND;
        let now = self.now;
        let lives = |s: &Session| s.agent == agent && s.open && !s.deaf;
        let hopeful = |s: &Session| s.ready || now < s.since + patience;
        let have = self.sessions.iter().filter(|s| lives(s) && hopeful(s)).count();
        if have >= self.agents[agent].wants {
            return;
        }
        let preferred = self.agents[agent].gate;
        let stays = self.agents[agent].settled || !self.agents[agent].shared && self.rng.percent(60);
        let gate = if stays { preferred } else { self.rng.index(self.gates.len()) };
        let machine = self.gates[gate].machine;
        if self.gates[gate].on && self.machines[machine].asleep_until.is_none() {
            self.leave_hopeless(agent);
            self.connect_client(agent, gate);
        }
    }

    /// Sessions that got no answer are left behind; their entrance notices some time.
    fn leave_hopeless(&mut self, agent: AgentNo) {
        for ix in 0..self.sessions.len() {
            let session = &self.sessions[ix];
            if session.agent == agent && session.open && !session.ready {
                self.sessions[ix].deaf = true;
                let wait = self.rng.range(1, 5_000) * MS;
                self.after(wait, Event::Hangup(ix));
            }
        }
    }

    pub fn hangup(&mut self, ix: SessionIx) {
        if !self.sessions[ix].open {
            return;
        }
        let no = self.sessions[ix].no;
        self.send_up(ix, &Frame::Detach(no, false));
        let session = &mut self.sessions[ix];
        (session.open, session.ready) = (false, false);
        session.hands.clear();
    }

    /// Which session an agent writes through.
    pub fn session_to_write(&mut self, agent: AgentNo) -> Option<SessionIx> {
        let of =
            |session: &&Session| session.agent == agent && session.open && session.ready && !session.deaf;
        let ready: Vec<SessionIx> =
            self.sessions.iter().filter(of).map(|session| session.no.0 as usize).collect();
        (!ready.is_empty()).then(|| ready[self.rng.index(ready.len())])
    }

    fn delivered(&mut self, gate: usize, wire: WireNo, deliver: &Deliver, payload: &[u8]) {
        let Some(number) = Model::number_of(&deliver.head.id) else { return };
        if payload != payload_of(number).as_bytes() {
            return self.fail(|| format!("m{number} came with another payload"));
        }
        let urgent = deliver.head.priority == Priority::URGENT;
        for handing in &deliver.to {
            let Some(ix) = self.session_of(gate, handing.session) else { continue };
            if handing.tag != 0 {
                self.sessions[ix].hands.insert(handing.tag, (number, urgent));
                self.check_window(ix);
                let written = Frame::Settle(handing.session, vec![(handing.tag, Settlement::Written)]);
                self.send_up(ix, &written);
            }
            if self.sessions[ix].deaf {
                continue;
            }
            let agent = self.sessions[ix].agent;
            let fits = match &deliver.head.to {
                Target::Agent(addr) => *addr == self.agents[agent].addr,
                _ => self.model.messages[number].from != agent,
            };
            if !fits {
                return self.fail(|| format!("m{number} reached a{agent}, whom it is not for"));
            }
            self.got(number, agent, gate, handing.redelivered);
            if handing.tag != 0 {
                let wait = self.thinks(agent);
                self.after(wait, Event::Settle(ix, wire, handing.tag));
            }
        }
    }

    fn got(&mut self, number: MessageNo, agent: AgentNo, gate: usize, redelivered: bool) {
        let machine = self.gates[gate].machine;
        self.model.turn += 1;
        self.model.delivered += 1;
        let got = Got { turn: self.model.turn, machine, gate, redelivered };
        let all = &mut self.model.messages[number].parts.entry(agent).or_default().got;
        if all.last().is_some_and(|before| before.machine != machine) {
            self.trace.count("deliveries at another home");
        }
        all.push(got);
        self.trace.note(self.now, || format!("a{agent} got m{number} at n{machine}, again: {redelivered}"));
        self.trace.count(if redelivered { "deliveries marked" } else { "deliveries" });
        self.trace.stir(number as u64);
        self.check_delivery(number, agent);
    }

    fn thinks(&mut self, agent: AgentNo) -> Us {
        let agent = &self.agents[agent];
        let slow = if self.now < agent.lag_until && !self.quiet { 30 } else { 1 };
        let most = if self.quiet { 20 * MS } else { agent.think * slow };
        self.rng.range(MS, most.max(2 * MS))
    }

    fn check_window(&mut self, ix: SessionIx) {
        let session = &self.sessions[ix];
        let urgent = session.hands.values().filter(|(_, urgent)| *urgent).count();
        let (most, window) = (urgent.max(session.hands.len() - urgent), usize::from(session.window));
        if most > window {
            self.fail(|| format!("session {ix} has {most} messages in its hands; its window is {window}"));
        }
    }

    /// The client has done with what it holds; it decides about a message the same way each time.
    pub fn settle(&mut self, ix: SessionIx, wire: WireNo, tag: u64) {
        let session = &self.sessions[ix];
        if !session.open || session.deaf || self.gates[session.gate].wire != Some(wire) {
            return;
        }
        let (no, agent) = (session.no, session.agent);
        let Some((number, _)) = self.sessions[ix].hands.remove(&tag) else { return };
        let part = self.model.messages[number].parts.entry(agent).or_default();
        let dice = mix(self.seed ^ ((number as u64) << 20) ^ agent as u64) % 100;
        let settlement = match dice {
            0..6 => Settlement::Nacked("not today".into()),
            6..12 if part.requeued < 1 => Settlement::Requeued("later".into()),
            _ => Settlement::Acked,
        };
        match &settlement {
            Settlement::Nacked(_) => part.settled = Some((self.now, State::Nacked)),
            Settlement::Acked => part.settled = Some((self.now, State::Acked)),
            _ => part.requeued += 1,
        }
        if matches!(settlement, Settlement::Requeued(_)) {
            self.trace.count("requeued");
        }
        self.send_up(ix, &Frame::Settle(no, vec![(tag, settlement)]));
    }
}
