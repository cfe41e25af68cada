//! Everything there is in a run, and the loop that lets time pass: one event after the other, in the order of true
//! time.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use trishula::mesh::{Config, Input, Mesh, Output, Step};
use trishula::wire::frame::Frame;
use trishula::wire::ids::{Incarnation, LinkId, MessageId, NodeName, Sequence};

use crate::bounds::Bounds;
use crate::client::{Agent, Gate, Session, SessionIx};
use crate::clock::{Clock, MS, Us};
use crate::disk::{Changed, Disk};
use crate::extras::{Extra, Extras};
use crate::faults::Fault;
use crate::memory::counted;
use crate::model::{AgentNo, MachineNo, MessageNo, Model};
use crate::net::{Net, Party, WireNo};
use crate::rng::{Rng, mix};
use crate::sabotage::Sabotage;
use crate::trace::Trace;
use crate::wires::is_node;

/// Inputs that one machine may take within one moment before it counts as running in circles.
const MAX_AT_ONCE: u32 = 20_000;

/// What happens next somewhere.
#[derive(Debug)]
pub enum Event {
    Tick(MachineNo, u64),
    Input(MachineNo, u64, Box<Input>),
    Synced(MachineNo, u64),
    Arrive(WireNo, usize, Bytes),
    Early(WireNo, usize),
    Replay(MachineNo, NodeName, Bytes),
    Up(WireNo, usize),
    Down(WireNo, usize),
    Dial(MachineNo, u64, MachineNo),
    GateDial(usize, u64),
    PowerOn(MachineNo),
    Wake(MachineNo),
    GateOn(usize),
    Unblock(MachineNo, MachineNo),
    Strike(Fault),
    Extra(Extra),
    Survey,
    Mind(AgentNo),
    Write(AgentNo),
    Again(MessageNo, bool),
    Settle(SessionIx, WireNo, u64),
    Hangup(SessionIx),
}

pub struct Machine {
    pub name: NodeName,
    /// `None`: it is off.
    pub mesh: Option<Mesh>,
    pub life: u64,
    pub incarnation: u64,
    pub clock: Clock,
    pub disk: Disk,
    pub asleep_until: Option<Us>,
    /// Its queues towards others have no room until then.
    pub full_until: Us,
    tick_at: Us,
    at_once: (Us, u32),
}

pub struct World {
    pub now: Us,
    pub seed: u64,
    pub rng: Rng,
    events: BTreeMap<(Us, u64), Event>,
    last: u64,
    pub machines: Vec<Machine>,
    /// Who dials whom.
    pub dials: Vec<(MachineNo, MachineNo)>,
    pub net: Net,
    pub gates: Vec<Gate>,
    pub agents: Vec<Agent>,
    pub sessions: Vec<Session>,
    pub model: Model,
    pub trace: Trace,
    /// Agents write until then.
    pub write_until: Us,
    /// Nothing is done to anybody any more.
    pub quiet: bool,
    pub broken: Option<String>,
    /// How messages are made.
    pub mix: crate::scenario::Mix,
    pub steps: u64,
    /// What is done wrong on purpose.
    pub sabotage: Option<Sabotage>,
    /// How often nodes give a sign of life.
    pub heartbeat: Duration,
    /// A machine stays away for so long that second holders deliver.
    pub long_outage: bool,
    /// See there.
    pub extras: Extras,
    /// See there.
    pub bounds: Bounds,
    /// What the numbers of nodes' lives stand for.
    pub numbers: BTreeMap<(NodeName, Incarnation, Sequence), (MessageId, AgentNo)>,
}

impl World {
    pub fn new(seed: u64, traced: bool, shares: crate::scenario::Mix) -> World {
        World {
            now: 0,
            seed,
            rng: Rng::new(seed),
            events: BTreeMap::new(),
            last: 0,
            machines: Vec::new(),
            dials: Vec::new(),
            net: Net::default(),
            gates: Vec::new(),
            agents: Vec::new(),
            sessions: Vec::new(),
            model: Model::default(),
            trace: Trace::new(traced),
            write_until: 0,
            quiet: false,
            broken: None,
            mix: shares,
            steps: 0,
            sabotage: None,
            heartbeat: Duration::from_secs(1),
            long_outage: false,
            extras: Extras::default(),
            bounds: Bounds::default(),
            numbers: BTreeMap::new(),
        }
    }

    pub fn add_machine(&mut self, name: &str) -> MachineNo {
        self.machines.push(Machine {
            name: NodeName::new(name).unwrap(),
            mesh: None,
            life: 0,
            incarnation: 0,
            clock: Clock::default(),
            disk: Disk::new(MS),
            asleep_until: None,
            full_until: 0,
            tick_at: Us::MAX,
            at_once: (0, 0),
        });
        self.machines.len() - 1
    }

    pub fn machine_called(&self, name: &NodeName) -> Option<MachineNo> {
        self.machines.iter().position(|machine| machine.name == *name)
    }

    pub fn is_up(&self, m: MachineNo) -> bool {
        self.machines[m].mesh.is_some() && self.machines[m].asleep_until.is_none()
    }

    /// The first thing that went against the promises ends the run.
    pub fn fail(&mut self, why: impl FnOnce() -> String) {
        if self.broken.is_none() {
            let why = why();
            if std::env::var("IGNORE").is_ok_and(|list| list.split(',').any(|word| why.contains(word))) {
                return;
            }
            self.trace.note(self.now, || format!("BROKEN {why}"));
            self.broken = Some(why);
        }
    }

    pub fn at(&mut self, when: Us, event: Event) {
        self.last += 1;
        self.events.insert((when.max(self.now), self.last), event);
    }

    pub fn after(&mut self, wait: Us, event: Event) {
        self.at(self.now + wait, event);
    }

    /// Lets time pass; ends early when something is broken.
    pub fn run_until(&mut self, end: Us) {
        while self.broken.is_none() {
            let Some((&(when, _), _)) = self.events.first_key_value() else { break };
            if when > end {
                break;
            }
            let ((when, _), event) = self.events.pop_first().unwrap();
            self.now = when;
            if let Some(wake) = self.owner(&event).and_then(|m| self.machines[m].asleep_until)
                && wake > when
            {
                self.at(wake, event);
                continue;
            }
            self.steps += 1;
            self.happen(event);
        }
        self.now = self.now.max(end);
    }

    /// The machine that has to be awake for it.
    fn owner(&self, event: &Event) -> Option<MachineNo> {
        match event {
            Event::Tick(m, _) | Event::Input(m, ..) | Event::Synced(m, _) => Some(*m),
            Event::Arrive(wire, side, _)
            | Event::Early(wire, side)
            | Event::Up(wire, side)
            | Event::Down(wire, side) => {
                self.net.wires.get(wire).map(|wire| self.place_of(wire.ends[*side].who))
            }
            Event::Dial(m, ..) | Event::Replay(m, ..) => Some(*m),
            Event::GateDial(gate, _) | Event::GateOn(gate) => Some(self.gates[*gate].machine),
            Event::Settle(session, ..) | Event::Hangup(session) => {
                Some(self.gates[self.sessions[*session].gate].machine)
            }
            _ => None,
        }
    }

    pub fn place_of(&self, party: Party) -> MachineNo {
        match party {
            Party::Node(m, _) => m,
            Party::Gate(gate, _) => self.gates[gate].machine,
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick(m, life) => self.tick(m, life),
            Event::Input(m, life, input) if self.machines[m].life == life => self.input(m, *input),
            Event::Input(..) => {}
            Event::Synced(m, life) => self.synced(m, life),
            Event::Arrive(wire, side, bytes) => self.arrive(wire, side, bytes),
            Event::Early(wire, side) => self.early(wire, side),
            Event::Replay(m, peer, bytes) => self.replay(m, peer, bytes),
            Event::Up(wire, side) => self.up(wire, side),
            Event::Down(wire, side) => self.down(wire, side),
            Event::Dial(from, life, to) => self.dial(from, life, to),
            Event::GateDial(gate, life) => self.gate_dial(gate, life),
            Event::PowerOn(m) => self.power_on(m),
            Event::Wake(m) => self.wake(m),
            Event::GateOn(gate) => self.gate_on(gate),
            Event::Unblock(a, b) => self.unblock(a, b),
            Event::Strike(fault) => self.strike(&fault),
            Event::Extra(extra) => self.extra(extra),
            Event::Survey => self.survey(),
            Event::Mind(agent) => self.mind(agent),
            Event::Write(agent) => self.write(agent),
            Event::Again(message, always) => self.again(message, always),
            Event::Settle(session, wire, tag) => self.settle(session, wire, tag),
            Event::Hangup(session) => self.hangup(session),
        }
    }

    // Nodes.

    pub fn power_on(&mut self, m: MachineNo) {
        let now = self.now;
        let machine = &mut self.machines[m];
        if machine.mesh.is_some() {
            return;
        }
        machine.life += 1;
        if machine.incarnation == 0 || self.sabotage != Some(Sabotage::LivesTheSameLife) {
            machine.incarnation = (machine.incarnation + 1).max(machine.clock.wall_ms(now));
        }
        machine.tick_at = Us::MAX;
        let life = machine.life;
        let mut config = Config::new(machine.name.clone(), Incarnation(machine.incarnation));
        if let Some(limits) = &self.bounds.limits {
            config.limits = limits.clone();
        }
        config.past = machine.disk.platter.begin_life(machine.incarnation);
        (config.heartbeat, config.silence) =
            (self.heartbeat, (self.heartbeat * 3).max(Duration::from_secs(3)));
        let mut memory = counted(|| machine.disk.memory());
        if let Some(sabotage) = self.sabotage {
            sabotage.edit_memory(&mut memory);
        }
        self.trace.note(now, || format!("{} starts, life {life}, with {memory:?}", machine.name));
        let wall = machine.clock.wall_ms(now);
        machine.mesh = Some(counted(|| Mesh::new(config, machine.clock.monotonic(now), wall, memory)));
        self.drain(m);
        self.bounds.begins(m);
        self.check_bounds(m);
        for (from, to) in self.dials.clone() {
            if from == m {
                let wait = self.rng.range(1, 300) * MS;
                self.after(wait, Event::Dial(from, life, to));
            }
        }
    }

    /// Whoever has a link to it finds out soon, or not before it is silent for too long.
    pub fn power_off(&mut self, m: MachineNo) {
        self.trace.note(self.now, || format!("n{m} loses its power"));
        let machine = &mut self.machines[m];
        machine.mesh = None;
        machine.life += 1;
        for number in self.net.select(|wire| wire.ends.iter().any(|end| is_node(end.who, m))) {
            let wire = self.net.wires.get_mut(&number).unwrap();
            wire.broken = true;
            let side = usize::from(!is_node(wire.ends[0].who, m));
            let local = matches!(wire.ends[1 - side].who, Party::Gate(..));
            self.net.leave(number, side);
            if local || self.rng.percent(60) {
                let wait = self.rng.range(1, 200) * MS;
                self.after(wait, Event::Down(number, 1 - side));
            }
        }
        self.survey_now();
    }

    pub fn input(&mut self, m: MachineNo, input: Input) {
        let now = self.now;
        let machine = &mut self.machines[m];
        if machine.at_once.0 != now {
            machine.at_once = (now, 0);
        }
        machine.at_once.1 += 1;
        if machine.at_once.1 > MAX_AT_ONCE {
            return self.fail(|| format!("n{m} does {MAX_AT_ONCE} things at once"));
        }
        if self.machines[m].mesh.is_none() {
            return;
        }
        if let Input::Frame(_, Frame::Submit(_, head, _)) = &input {
            self.submitted(m, head);
        }
        self.trace.stir(now ^ (m as u64) << 56);
        let machine = &mut self.machines[m];
        let shown = machine.clock.monotonic(now);
        if let Some(mesh) = &mut machine.mesh {
            counted(|| mesh.handle(shown, input));
        }
        self.drain(m);
        self.check_bounds(m);
    }

    fn drain(&mut self, m: MachineNo) {
        while let Some(output) =
            self.machines[m].mesh.as_mut().and_then(|mesh| counted(|| mesh.poll_output()))
        {
            self.execute(m, output);
        }
        let Some(mesh) = &self.machines[m].mesh else { return };
        let due = self.machines[m].clock.true_time(mesh.next_timeout()).max(self.now + 1);
        if due < self.machines[m].tick_at || self.machines[m].tick_at <= self.now {
            self.machines[m].tick_at = due;
            let life = self.machines[m].life;
            self.at(due, Event::Tick(m, life));
        }
    }

    fn tick(&mut self, m: MachineNo, life: u64) {
        let machine = &mut self.machines[m];
        // One that was postponed while the machine slept counts as well.
        if machine.life != life || machine.tick_at > self.now {
            return;
        }
        machine.tick_at = self.now;
        let wall = machine.clock.wall_ms(self.now);
        self.input(m, Input::Tick(wall));
    }

    fn execute(&mut self, m: MachineNo, output: Output) {
        let life = self.machines[m].life;
        match output {
            Output::Send(link, frame) => self.send(m, link, frame),
            Output::Close(link, code, why) => {
                self.trace.note(self.now, || format!("n{m} closes {link}: {code:?} {why}"));
                let Some((wire, side)) = self.net.find(link) else { return };
                self.close(wire, side);
                self.at(self.now, Event::Input(m, life, Box::new(Input::LinkDown(link))));
            }
            Output::Persist(ticket, record) => {
                self.trace.note(self.now, || format!("n{m} persists {} {record:?}", ticket.0));
                if self.sabotage.is_some_and(|sabotage| sabotage.lies_about(&record)) {
                    self.at(self.now, Event::Input(m, life, Box::new(Input::Persisted(ticket))));
                }
                self.is_kept(m, &record);
                self.is_put_elsewhere(m, &record);
                self.machines[m].disk.give(ticket, record);
                self.begin_write(m);
            }
            Output::Event(event) => {
                if let trishula::mesh::Event::Hop(hop) = &event
                    && let Some(what) = counted_as(hop.step)
                {
                    self.trace.count(what);
                }
                if let trishula::mesh::Event::Refused("receipt_dropped") = event {
                    self.trace.count("receipts dropped");
                }
                self.trace.note(self.now, || format!("n{m} says {event:?}"));
            }
            Output::Posted(number, result) => self.posted(number, result),
            // What operators ask, and lists of revoked certificates: not part of these histories.
            _ => {}
        }
    }

    fn begin_write(&mut self, m: MachineNo) {
        let (now, life) = (self.now, self.machines[m].life);
        if let Some(takes) = self.machines[m].disk.begin(now, &mut self.rng) {
            self.after(takes, Event::Synced(m, life));
        }
    }

    fn synced(&mut self, m: MachineNo, life: u64) {
        if self.machines[m].life != life {
            return;
        }
        let written = self.machines[m].disk.finish(self.now);
        self.on_platter(m, &written.changed);
        if written.failed {
            self.trace.count("writes refused");
        }
        for ticket in written.tickets {
            self.trace.note(self.now, || format!("n{m} wrote {} (failed: {})", ticket.0, written.failed));
            self.input(
                m,
                match written.failed {
                    false => Input::Persisted(ticket),
                    true => Input::PersistFailed(ticket, "no space left on device".into()),
                },
            );
        }
        self.begin_write(m);
    }

    /// What is on a disk now, for what may be said because of it.
    pub fn on_platter(&mut self, m: MachineNo, changed: &[Changed]) {
        for Changed { key, place, state, overwritten, .. } in changed {
            if let Some(end) = overwritten {
                self.fail(|| format!("n{m} writes {state:?} over the end of {}, which was {end:?}", key.id));
            }
            let Some(agent) = self.agents.iter().position(|agent| agent.addr == key.to) else { continue };
            let Some(message) = self.model.get(&key.id) else { continue };
            message.parts.entry(agent).or_default().on_disk.insert((m, *place, *state));
            if let Some(number) = Model::number_of(&key.id) {
                self.retry_is_on_disk(m, number);
            }
        }
    }

    fn send(&mut self, m: MachineNo, link: LinkId, mut frame: Frame) {
        if let Some(sabotage) = self.sabotage {
            sabotage.edit_frame(&mut frame);
        }
        let Some((number, side)) = self.net.find(link) else { return };
        self.trace.note(self.now, || {
            let to = self.net.wires.get(&number).map(|wire| wire.ends[1 - side].who);
            format!("n{m} sends {link} to {to:?}: {frame:?}")
        });
        if self.net.wires[&number].ends[side].gone {
            return;
        }
        let is_message = matches!(frame, Frame::Forward(..) | Frame::Hold(..) | Frame::Deliver(..));
        let to_node = matches!(self.net.wires[&number].ends[1 - side].who, Party::Node(..));
        if self.is_full(m, link, &frame, is_message, to_node) {
            self.trace.count("frames that found no room");
            let shown = self.machines[m].clock.monotonic(self.now);
            if let Some(mesh) = &mut self.machines[m].mesh {
                counted(|| mesh.handle(shown, Input::Unsent(link, frame)));
            }
            return;
        }
        self.watch(m, &frame);
        self.carry(number, side, &frame);
    }

    /// Whether a lane of a link has no room now: for a while it has, for a while it has not.
    fn is_full(&self, m: MachineNo, link: LinkId, frame: &Frame, is_message: bool, to_node: bool) -> bool {
        let lane = trishula::link::Lane::for_frame(frame).index() as u64;
        let dice = mix(self.seed ^ link.0 << 8 ^ lane << 32 ^ (self.now / (40 * MS)) << 40) % 100;
        let share = match (is_message, to_node) {
            (true, _) => 60,
            (false, true) => 10,
            (false, false) => 0,
        };
        self.machines[m].full_until > self.now && dice < share
    }
}

/// What must have been gone through often enough.
fn counted_as(step: Step) -> Option<&'static str> {
    match step {
        Step::SentAgain => Some("sent again"),
        Step::Recognised => Some("recognised"),
        Step::Relayed => Some("relayed"),
        Step::TakenBack => Some("taken back"),
        Step::TookOver => Some("second copies that went on"),
        _ => None,
    }
}
