//! Machines, wires, and the loop that lets time pass: one event after the other, in the order of true time.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use trishula::link::Lane;
use trishula::mesh::{Config, Input, Mesh, Output, Role, RoomLimits};
use trishula::wire::frame::Frame;
use trishula::wire::ids::{Incarnation, LinkId, NodeName};
use trishula::wire::record::Record;

use crate::client::Client;
use crate::clock::{Clock, MS, SECOND, Us};
use crate::disk::Disk;
use crate::faults::Fault;
use crate::gate::Gate;
use crate::model::Model;
use crate::rng::Rng;
use crate::sabotage::Sabotage;

pub type MachineNo = usize;

/// Who holds an end of a wire, and in which life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    Node(MachineNo, u64),
    Gate(usize, u64),
}

/// What happens next somewhere.
#[derive(Debug)]
pub enum Event {
    Tick(MachineNo, u64),
    Input(MachineNo, u64, Box<Input>),
    Synced(MachineNo, u64),
    Arrive(u64, usize, Bytes),
    Up(u64, usize),
    Down(u64, usize),
    Dial,
    GateDial(usize),
    PowerOn(MachineNo),
    GateOn(usize),
    Strike(Fault),
    Act(usize),
    Unblock(MachineNo, MachineNo),
}

pub struct Machine {
    pub name: NodeName,
    /// `None`: it is off.
    pub mesh: Option<Mesh>,
    pub life: u64,
    incarnation: u64,
    pub clock: Clock,
    pub disk: Disk,
    pub full_until: Us,
    tick_at: Us,
}

pub struct Wire {
    pub ends: [Party; 2],
    delay: Us,
    /// A frame of this end was lost: nothing that it sends arrives any more.
    mute: [bool; 2],
    pub broken: bool,
    gone: [bool; 2],
    last: [[Us; Lane::COUNT]; 2],
}

pub struct World {
    pub now: Us,
    pub rng: Rng,
    events: BTreeMap<(Us, u64), Event>,
    last: u64,
    pub machines: Vec<Machine>,
    pub gates: Vec<Gate>,
    pub clients: Vec<Client>,
    pub wires: BTreeMap<u64, Wire>,
    last_wire: u64,
    pub blocked: BTreeMap<(MachineNo, MachineNo), Us>,
    pub model: Model,
    pub limits: RoomLimits,
    pub sabotage: Option<Sabotage>,
    /// Nothing is done to anybody any more.
    pub quiet: bool,
    pub write_until: Us,
    pub traced: bool,
    pub steps: u64,
}

impl World {
    pub fn new(seed: u64, limits: RoomLimits, traced: bool) -> World {
        World {
            now: 0,
            rng: Rng::new(seed),
            events: BTreeMap::new(),
            last: 0,
            machines: Vec::new(),
            gates: Vec::new(),
            clients: Vec::new(),
            wires: BTreeMap::new(),
            last_wire: 0,
            blocked: BTreeMap::new(),
            model: Model::default(),
            limits,
            sabotage: None,
            quiet: false,
            write_until: 0,
            traced,
            steps: 0,
        }
    }

    pub fn at(&mut self, when: Us, event: Event) {
        self.last += 1;
        self.events.insert((when.max(self.now), self.last), event);
    }

    pub fn note(&self, what: impl FnOnce() -> String) {
        if self.traced {
            eprintln!("{:>9.3} {}", self.now as f64 / SECOND as f64, what());
        }
    }

    pub fn add_machine(&mut self, name: &str, skew_ms: i64, fsync: Us) {
        let mut clock = Clock::default();
        clock.skew_ms = skew_ms;
        let name = NodeName::new(name).unwrap();
        let disk = Disk::new(fsync);
        self.machines.push(Machine {
            name,
            mesh: None,
            life: 0,
            incarnation: 0,
            clock,
            disk,
            full_until: 0,
            tick_at: 0,
        });
        self.power_on(self.machines.len() - 1);
    }

    pub fn power_on(&mut self, m: MachineNo) {
        if self.machines[m].mesh.is_some() {
            return;
        }
        let (now, rooms, sabotage) = (self.now, self.limits.clone(), self.sabotage);
        let machine = &mut self.machines[m];
        machine.life += 1;
        if sabotage != Some(Sabotage::LivesTheSameLife) || machine.incarnation == 0 {
            machine.incarnation = machine.clock.wall_ms(now).max(machine.incarnation + 1);
        }
        let past = machine.disk.platter.begin_life(machine.incarnation);
        let incarnation = Incarnation(machine.incarnation);
        let config = Config { past, rooms, ..Config::new(machine.name.clone(), incarnation) };
        let mut memory = machine.disk.memory();
        if sabotage == Some(Sabotage::ForgetsHistory) {
            memory.rooms.clear();
        }
        let mesh = Mesh::new(config, machine.clock.monotonic(now), machine.clock.wall_ms(now), memory);
        machine.mesh = Some(mesh);
        self.pump(m);
    }

    pub fn crash(&mut self, m: MachineNo) {
        if self.machines[m].mesh.take().is_none() {
            return;
        }
        let mut rng = self.rng.clone();
        self.machines[m].disk.lose_power(&mut rng);
        self.rng = rng;
        for number in self.wires_of(|party| matches!(party, Party::Node(n, _) if *n == m)) {
            self.break_wire(number, 0);
        }
    }

    pub fn wires_of(&self, wanted: impl Fn(&Party) -> bool) -> Vec<u64> {
        let wires = self.wires.iter().filter(|(_, wire)| !wire.broken && wire.ends.iter().any(&wanted));
        wires.map(|(number, _)| *number).collect()
    }

    /// Both ends find out, one of them perhaps later.
    pub fn break_wire(&mut self, number: u64, late: Us) {
        let Some(wire) = self.wires.get_mut(&number) else { return };
        if std::mem::replace(&mut wire.broken, true) {
            return;
        }
        let (first, second) = if self.rng.percent(50) { (0, late) } else { (late, 0) };
        let now = self.now;
        self.at(now + first, Event::Down(number, 0));
        self.at(now + second, Event::Down(number, 1));
    }

    pub fn lay(&mut self, ends: [Party; 2], delay: Us) {
        self.last_wire += 1;
        let number = self.last_wire;
        let up = self.now + 2 * delay;
        let last = [[up + 2 * MS; Lane::COUNT]; 2];
        let wire = Wire { ends, delay, mute: [false; 2], broken: false, gone: [false; 2], last };
        self.wires.insert(number, wire);
        let side = self.rng.index(2);
        self.at(up, Event::Up(number, side));
        self.at(up + MS, Event::Up(number, 1 - side));
    }

    pub fn run_until(&mut self, end: Us) {
        while self.model.broken.is_none() {
            let Some((&(when, number), _)) = self.events.first_key_value() else { break };
            if when > end {
                break;
            }
            let event = self.events.remove(&(when, number)).unwrap();
            self.now = when;
            self.steps += 1;
            self.happen(event);
        }
        self.now = self.now.max(end);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick(m, life) => {
                let machine = &mut self.machines[m];
                if machine.life == life && machine.tick_at <= self.now {
                    let wall_ms = machine.clock.wall_ms(self.now);
                    machine.tick_at = Us::MAX;
                    self.input(m, Input::Tick(wall_ms));
                }
            }
            Event::Input(m, life, input) => {
                if self.machines[m].life == life {
                    self.input(m, *input);
                }
            }
            Event::Synced(m, life) => self.synced(m, life),
            Event::Arrive(number, side, bytes) => self.arrive(number, side, bytes),
            Event::Up(number, side) => self.up(number, side),
            Event::Down(number, side) => self.down(number, side),
            Event::Dial => self.dial_all(),
            Event::GateDial(gate) => self.gate_dial(gate),
            Event::PowerOn(m) => self.power_on(m),
            Event::GateOn(gate) => self.gate_on(gate),
            Event::Strike(fault) => {
                if !self.quiet {
                    self.strike(fault);
                }
            }
            Event::Act(client) => self.act(client),
            Event::Unblock(a, b) => {
                if self.blocked.get(&(a, b)).is_some_and(|until| *until <= self.now) {
                    self.blocked.remove(&(a, b));
                }
            }
        }
    }

    /// Whoever has no wire to another machine dials it.
    fn dial_all(&mut self) {
        let now = self.now;
        self.at(now + 200 * MS, Event::Dial);
        for a in 0..self.machines.len() {
            for b in a + 1..self.machines.len() {
                let on = self.machines[a].mesh.is_some() && self.machines[b].mesh.is_some();
                let cut = self.blocked.contains_key(&(a, b)) || self.blocked.contains_key(&(b, a));
                if on && !cut && self.between(a, b).is_empty() {
                    let ends = [Party::Node(a, self.machines[a].life), Party::Node(b, self.machines[b].life)];
                    let delay = 2 * MS + self.rng.below(40) * MS;
                    self.lay(ends, delay);
                }
            }
        }
    }

    fn is_alive(&self, party: Party) -> bool {
        match party {
            Party::Node(m, life) => self.machines[m].mesh.is_some() && self.machines[m].life == life,
            Party::Gate(gate, life) => self.gates[gate].on && self.gates[gate].life == life,
        }
    }

    fn up(&mut self, number: u64, side: usize) {
        let Some(wire) = self.wires.get(&number).filter(|wire| !wire.broken) else { return };
        let (own, other) = (wire.ends[side], wire.ends[1 - side]);
        if !self.is_alive(own) {
            return self.break_wire(number, 0);
        }
        match own {
            Party::Node(m, life) => {
                let (peer, role, incarnation) = match other {
                    Party::Node(p, _) => {
                        (self.machines[p].name.clone(), Role::Node, Incarnation(self.machines[p].incarnation))
                    }
                    Party::Gate(..) => (self.machines[m].name.clone(), Role::Entrance, Incarnation(0)),
                };
                let link = LinkId(number * 2 + side as u64);
                let (dialled, rtt_us) = (side == 0, 1000);
                let input = Input::LinkUp { link, peer, role, incarnation, dialled, fallback: false, rtt_us };
                let now = self.now;
                self.at(now, Event::Input(m, life, Box::new(input)));
            }
            Party::Gate(gate, _) => self.gate_up(gate, number),
        }
    }

    fn down(&mut self, number: u64, side: usize) {
        let Some(wire) = self.wires.get_mut(&number) else { return };
        wire.gone[side] = true;
        let own = wire.ends[side];
        if wire.gone[1 - side] {
            self.wires.remove(&number);
        }
        if !self.is_alive(own) {
            return;
        }
        match own {
            Party::Node(m, _) => self.input(m, Input::LinkDown(LinkId(number * 2 + side as u64))),
            Party::Gate(gate, _) => self.gate_down(gate, number),
        }
    }

    fn machine_of(&self, party: Party) -> MachineNo {
        match party {
            Party::Node(m, _) => m,
            Party::Gate(gate, _) => self.gates[gate].machine,
        }
    }

    /// Puts a frame onto a wire; every frame crosses it as bytes.
    pub fn carry(&mut self, number: u64, side: usize, frame: &Frame) {
        let Some(frame) = Sabotage::tamper(self.sabotage, frame, &mut self.rng) else { return };
        let lane = Lane::for_frame(&frame).index();
        let Some(wire) = self.wires.get(&number).filter(|wire| !wire.broken) else { return };
        let (from, to) = (self.machine_of(wire.ends[side]), self.machine_of(wire.ends[1 - side]));
        let cut = from != to && self.blocked.contains_key(&(from, to));
        let jitter = self.rng.below(3 * MS);
        let Some(wire) = self.wires.get_mut(&number) else { return };
        wire.mute[side] |= cut;
        if wire.mute[side] {
            return;
        }
        let at = (self.now + wire.delay + jitter).max(wire.last[side][lane] + 1);
        wire.last[side][lane] = at;
        let encoded = frame.encode();
        let mut bytes = BytesMut::with_capacity(encoded.len());
        bytes.extend_from_slice(&encoded.head);
        bytes.extend_from_slice(&encoded.payload);
        self.at(at, Event::Arrive(number, 1 - side, bytes.freeze()));
    }

    fn arrive(&mut self, number: u64, side: usize, mut bytes: Bytes) {
        let Some(wire) = self.wires.get(&number).filter(|wire| !wire.broken && !wire.gone[side]) else {
            return;
        };
        let own = wire.ends[side];
        let frame = Frame::decode(&mut bytes).expect("a frame of ours can be read").expect("it is whole");
        if !self.is_alive(own) {
            return;
        }
        match own {
            Party::Node(m, _) => self.input(m, Input::Frame(LinkId(number * 2 + side as u64), frame)),
            Party::Gate(gate, _) => self.gate_frame(gate, number, frame),
        }
    }

    fn synced(&mut self, m: MachineNo, life: u64) {
        if self.machines[m].life != life || self.machines[m].mesh.is_none() {
            return;
        }
        let written = self.machines[m].disk.finish(self.now);
        for ticket in written.tickets {
            let input = match written.failed {
                true => Input::PersistFailed(ticket, "full".into()),
                false => Input::Persisted(ticket),
            };
            self.input(m, input);
        }
        self.begin_write(m);
    }

    fn begin_write(&mut self, m: MachineNo) {
        let mut rng = self.rng.clone();
        if let Some(takes) = self.machines[m].disk.begin(self.now, &mut rng) {
            let (now, life) = (self.now, self.machines[m].life);
            self.at(now + takes, Event::Synced(m, life));
        }
        self.rng = rng;
    }

    pub fn input(&mut self, m: MachineNo, input: Input) {
        let now = self.machines[m].clock.monotonic(self.now);
        if let Some(mesh) = &mut self.machines[m].mesh {
            mesh.handle(now, input);
            self.pump(m);
        }
    }

    fn pump(&mut self, m: MachineNo) {
        let mut too_early = Vec::new();
        while let Some(output) = self.machines[m].mesh.as_mut().and_then(Mesh::poll_output) {
            match output {
                Output::Send(link, frame) => self.send(m, link, frame),
                Output::Close(link, ..) => self.break_wire(link.0 / 2, 0),
                Output::Persist(ticket, record) => {
                    if let Record::RoomKeep(_, message) = &record {
                        self.model.kept(message);
                        let own = message.origin == self.machines[m].name;
                        if own && self.sabotage == Some(Sabotage::AcceptsTooEarly) {
                            too_early.push(Input::Persisted(ticket));
                        }
                    }
                    self.machines[m].disk.give(ticket, record);
                }
                _ => {}
            }
        }
        self.begin_write(m);
        for input in too_early {
            self.input(m, input);
        }
        let Some(mesh) = &self.machines[m].mesh else { return };
        let view = mesh.rooms_view();
        let most = self.limits.messages + self.limits.messages / 8 + 1;
        if view.fullest > most {
            self.model.breaks(format!("{} keeps {} messages of a room", self.machines[m].name, view.fullest));
        }
        let Some(mesh) = &self.machines[m].mesh else { return };
        let due = self.machines[m].clock.true_time(mesh.next_timeout()).max(self.now + 1);
        if due < self.machines[m].tick_at || self.machines[m].tick_at <= self.now {
            self.machines[m].tick_at = due;
            let life = self.machines[m].life;
            self.at(due, Event::Tick(m, life));
        }
    }

    fn send(&mut self, m: MachineNo, link: LinkId, frame: Frame) {
        let (number, side) = (link.0 / 2, (link.0 % 2) as usize);
        let control = Lane::for_frame(&frame) == Lane::Control;
        if self.machines[m].full_until > self.now && !control && self.rng.percent(30) {
            let now = self.machines[m].clock.monotonic(self.now);
            if let Some(mesh) = &mut self.machines[m].mesh {
                mesh.handle(now, Input::Unsent(link, frame));
            }
            return;
        }
        self.carry(number, side, &frame);
    }
}
