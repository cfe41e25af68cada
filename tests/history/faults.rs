//! What is done to machines, wires, disks, clocks and clients, and how everything is made whole again.

use trishula::wire::envelope::{MessageKey, State};
use trishula::wire::record::{Kept, Place};

use crate::clock::{MS, SECOND, Us};
use crate::disk::{Changed, Platter, has_it_whole};
use crate::model::{AgentNo, Excuse, MachineNo, Model};
use crate::net::Party;
use crate::wires::is_node;
use crate::world::{Event, World};

/// What a disk is like when the power comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hurt {
    None,
    /// A record can't be read.
    Corrupt,
    /// It is another disk, and empty.
    Wiped,
}

/// Each happens at a moment; what lasts says how long, in microseconds.
#[derive(Debug, Clone)]
pub enum Fault {
    /// A link breaks; the ends notice at once or later.
    Break {
        a: MachineNo,
        b: MachineNo,
        late: [Us; 2],
    },
    /// Nothing gets through between two, and nobody is told.
    Silence {
        a: MachineNo,
        b: MachineNo,
        lasts: Us,
    },
    /// The same one way only.
    OneWay {
        a: MachineNo,
        b: MachineNo,
        lasts: Us,
    },
    /// The machines whose bit is set can't reach the others.
    Partition {
        side: u32,
        lasts: Us,
    },
    /// A second connection of two nodes.
    Twin {
        a: MachineNo,
        b: MachineNo,
    },
    FullQueues {
        m: MachineNo,
        lasts: Us,
    },
    SlowDisk {
        m: MachineNo,
        lasts: Us,
    },
    FullDisk {
        m: MachineNo,
        lasts: Us,
    },
    Crash {
        m: MachineNo,
        off: Us,
        hurt: Hurt,
    },
    Sleep {
        m: MachineNo,
        lasts: Us,
    },
    /// The wall clock jumps.
    Jump {
        m: MachineNo,
        ms: i64,
    },
    GateCrash {
        gate: usize,
        off: Us,
    },
    /// An agent connects somewhere else while its old session is still there.
    Move {
        agent: AgentNo,
        gate: usize,
        deaf: bool,
    },
    /// An agent hangs up without having settled what it has.
    Leave {
        agent: AgentNo,
        away: Us,
    },
    Slow {
        agent: AgentNo,
        lasts: Us,
    },
}

impl Fault {
    pub fn name(&self) -> &'static str {
        match self {
            Fault::Break { late: [0, 0], .. } => "links broken",
            Fault::Break { .. } => "links broken, noticed late",
            Fault::Silence { .. } => "links silent",
            Fault::OneWay { .. } => "links cut one way",
            Fault::Partition { .. } => "partitions",
            Fault::Twin { .. } => "double links",
            Fault::FullQueues { .. } => "queues full",
            Fault::SlowDisk { .. } => "disks slow",
            Fault::FullDisk { .. } => "disks full",
            Fault::Crash { hurt: Hurt::None, .. } => "nodes crashed",
            Fault::Crash { hurt: Hurt::Corrupt, .. } => "records corrupt",
            Fault::Crash { hurt: Hurt::Wiped, .. } => "disks wiped",
            Fault::Sleep { .. } => "machines asleep",
            Fault::Jump { .. } => "clocks jumped",
            Fault::GateCrash { .. } => "entrances crashed",
            Fault::Move { .. } => "takeovers",
            Fault::Leave { .. } => "clients gone before settling",
            Fault::Slow { .. } => "clients slow",
        }
    }
}

/// Every name that [`Fault::name`] can answer.
pub const FAULTS: &[&str] = &[
    "links broken",
    "links broken, noticed late",
    "links silent",
    "links cut one way",
    "partitions",
    "double links",
    "queues full",
    "disks slow",
    "disks full",
    "nodes crashed",
    "records corrupt",
    "disks wiped",
    "machines asleep",
    "clocks jumped",
    "entrances crashed",
    "takeovers",
    "clients gone before settling",
    "clients slow",
];

impl World {
    pub fn strike(&mut self, fault: &Fault) {
        if self.quiet {
            return;
        }
        self.trace.note(self.now, || format!("FAULT {fault:?}"));
        self.trace.count(fault.name());
        let now = self.now;
        match *fault {
            Fault::Break { a, b, late } => self.break_links(a, b, late),
            Fault::Silence { a, b, lasts } => {
                self.block(a, b, lasts);
                self.block(b, a, lasts);
            }
            Fault::OneWay { a, b, lasts } => self.block(a, b, lasts),
            Fault::Partition { side, lasts } => self.partition(side, lasts),
            Fault::Twin { a, b } => {
                let open = !self.net.is_blocked(a, b) && !self.net.is_blocked(b, a);
                if self.is_up(a) && self.is_up(b) && open {
                    self.connect(a, b);
                }
            }
            Fault::FullQueues { m, lasts } => self.machines[m].full_until = now + lasts,
            Fault::SlowDisk { m, lasts } => self.machines[m].disk.slow_until = now + lasts,
            Fault::FullDisk { m, lasts } => self.machines[m].disk.full_until = now + lasts,
            Fault::Crash { m, off, hurt } => self.crash(m, off, hurt),
            Fault::Sleep { m, lasts } => self.sleep(m, lasts),
            Fault::Jump { m, ms } => self.machines[m].clock.skew_ms += ms,
            Fault::GateCrash { gate, off } => {
                if self.gates[gate].on {
                    self.gate_off(gate);
                    self.after(off, Event::GateOn(gate));
                }
            }
            Fault::Move { agent, gate, deaf } => self.move_agent(agent, gate, deaf),
            Fault::Leave { agent, away } => {
                self.agents[agent].away_until = now + away;
                for ix in self.sessions_of(agent) {
                    self.hangup(ix);
                }
            }
            Fault::Slow { agent, lasts } => self.agents[agent].lag_until = now + lasts,
        }
    }

    fn sessions_of(&self, agent: AgentNo) -> Vec<usize> {
        let of = self.sessions.iter().enumerate().filter(|(_, s)| s.agent == agent && s.open);
        of.map(|(ix, _)| ix).collect()
    }

    fn break_links(&mut self, a: MachineNo, b: MachineNo, late: [Us; 2]) {
        let joins = |x: Party, y: Party| is_node(x, a) && is_node(y, b) || is_node(x, b) && is_node(y, a);
        for number in self.net.select(|wire| joins(wire.ends[0].who, wire.ends[1].who)) {
            if let Some(wire) = self.net.wires.get_mut(&number) {
                wire.broken = true;
            }
            self.after(late[0], Event::Down(number, 0));
            self.after(late[1], Event::Down(number, 1));
        }
        self.survey_now();
    }

    pub fn block(&mut self, a: MachineNo, b: MachineNo, lasts: Us) {
        let until = self.net.blocked.entry((a, b)).or_default();
        *until = (*until).max(self.now + lasts);
        let until = *until;
        self.at(until, Event::Unblock(a, b));
        self.survey_now();
    }

    pub fn partition(&mut self, side: u32, lasts: Us) {
        for a in 0..self.machines.len() {
            for b in 0..self.machines.len() {
                if side >> a & 1 != side >> b & 1 {
                    self.block(a, b, lasts);
                }
            }
        }
    }

    fn move_agent(&mut self, agent: AgentNo, gate: usize, deaf: bool) {
        if !self.gates[gate].on || self.machines[self.gates[gate].machine].asleep_until.is_some() {
            return;
        }
        if !self.agents[agent].shared {
            for ix in self.sessions_of(agent).into_iter().filter(|_| deaf) {
                self.sessions[ix].deaf = true;
                let wait = self.rng.range(1, 20_000) * MS;
                self.after(wait, Event::Hangup(ix));
            }
        }
        self.connect_client(agent, gate);
    }

    fn crash(&mut self, m: MachineNo, off: Us, hurt: Hurt) {
        if self.machines[m].mesh.is_none() {
            return;
        }
        let was_asleep = self.machines[m].asleep_until.is_some();
        if was_asleep {
            self.wake(m);
        }
        self.power_off(m);
        let (changed, lost) = self.machines[m].disk.lose_power(&mut self.rng);
        self.on_platter(m, &changed);
        self.untold_with_sessions(m, &changed);
        if lost > 0 {
            self.trace.count("crashes that lost writes");
        }
        match hurt {
            Hurt::None => {}
            Hurt::Corrupt => self.corrupt(m),
            Hurt::Wiped => {
                let whole = std::mem::take(&mut self.machines[m].disk.platter);
                self.excuse_forgotten(m);
                self.excuse(whole.messages.into_values().collect());
            }
        }
        self.after(off, Event::PowerOn(m));
    }

    /// An end was on disk when the power went, and its sender, who was there, was still to be told: that is lost with
    /// its session, as if it had been under way to it. A receipt is kept for an absent sender; this one can ask.
    fn untold_with_sessions(&mut self, m: MachineNo, changed: &[Changed]) {
        for Changed { key, .. } in changed.iter().filter(|changed| changed.told && changed.state.is_end()) {
            let (Some(from), Some(to)) = (self.agent_called(&key.from), self.agent_called(&key.to)) else {
                continue;
            };
            let was_here = self
                .sessions
                .iter()
                .any(|s| s.agent == from && self.gates[s.gate].machine == m && s.was_ready);
            if let Some(message) = self.model.get(&key.id).filter(|_| was_here) {
                message.parts.entry(to).or_default().end_sent = true;
            }
        }
    }

    /// One record of a message can't be read any more.
    fn corrupt(&mut self, m: MachineNo) {
        let count = self.machines[m].disk.platter.messages.len();
        if count == 0 {
            return;
        }
        let at = self.rng.index(count);
        let Platter { messages, .. } = &mut self.machines[m].disk.platter;
        let key: Option<MessageKey> = messages.keys().nth(at).cloned();
        let gone: Option<Kept> = key.and_then(|key| messages.remove(&key));
        self.excuse(gone.into_iter().collect());
    }

    /// What has ended at a machine, and has no mark there any more, is known to be too old; until the disk is lost that says so.
    fn excuse_forgotten(&mut self, m: MachineNo) {
        if self.bounds.limits.is_none() {
            return;
        }
        for part in self.model.messages.iter_mut().flat_map(|message| message.parts.values_mut()) {
            let ended = |(machine, place, _): &(MachineNo, Place, State)| {
                *machine == m && matches!(place, Place::Ended | Place::Dead)
            };
            if part.on_disk.iter().any(ended) {
                part.excuses.insert(Excuse::Unmarked);
            }
        }
    }

    /// What no promise covers once these are gone from a disk.
    pub fn excuse(&mut self, gone: Vec<Kept>) {
        for kept in gone {
            let elsewhere = self.machines.iter().any(|machine| {
                let other = machine.disk.platter.messages.get(&kept.key);
                other.is_some_and(has_it_whole)
            });
            let ended = matches!(kept.place, Place::Ended | Place::Dead);
            let Some(agent) = self.agent_called(&kept.key.to) else { continue };
            let Some(number) = Model::number_of(&kept.key.id) else { continue };
            self.trace
                .note(self.now, || format!("gone from a disk: m{number} for a{agent}, {:?}", kept.place));
            let part = self.model.messages[number].parts.entry(agent).or_default();
            part.excuses.insert(Excuse::Unmarked);
            if !elsewhere || ended {
                part.excuses.insert(Excuse::Lost);
            }
        }
    }

    fn sleep(&mut self, m: MachineNo, lasts: Us) {
        if !self.is_up(m) {
            return;
        }
        let now = self.now;
        self.machines[m].clock.falls_asleep(now);
        self.machines[m].asleep_until = Some(now + lasts);
        self.after(lasts, Event::Wake(m));
        // What others send meanwhile goes nowhere: the connections are dead when it wakes.
        let touches = |party: Party| is_node(party, m);
        let between_nodes = |wire: &crate::net::Wire| {
            wire.ends.iter().all(|end| matches!(end.who, Party::Node(..)))
                && wire.ends.iter().any(|end| touches(end.who))
        };
        for number in self.net.select(between_nodes) {
            if let Some(wire) = self.net.wires.get_mut(&number) {
                wire.broken = true;
            }
        }
        self.survey_now();
    }

    pub fn wake(&mut self, m: MachineNo) {
        let now = self.now;
        if self.machines[m].asleep_until.take().is_none() {
            return;
        }
        self.trace.note(now, || format!("n{m} wakes"));
        self.machines[m].clock.wakes(now);
        if self.rng.percent(70) {
            self.trusts_no_link(m);
        }
    }

    /// Whoever dials looks twice a second whether the machine slept: what was connected before is dead.
    pub fn trusts_no_link(&mut self, m: MachineNo) {
        for number in self.net.select(|wire| wire.broken) {
            let Some(wire) = self.net.wires.get(&number) else { continue };
            if let Some(side) = wire.ends.iter().position(|end| is_node(end.who, m)) {
                let wait = self.rng.range(1, 500) * MS;
                self.after(wait, Event::Down(number, side));
            }
        }
    }

    /// Everything is made whole, and stays so: all machines on, every way open, every agent there and willing.
    pub fn heal(&mut self) {
        self.quiet = true;
        let now = self.now;
        self.trace.note(now, || "everything is made whole".into());
        for (a, b) in self.net.blocked.keys().copied().collect::<Vec<_>>() {
            self.net.blocked.insert((a, b), now);
            self.unblock(a, b);
        }
        for m in 0..self.machines.len() {
            let machine = &mut self.machines[m];
            machine.full_until = now;
            machine.disk.full_until = now;
            machine.disk.slow_until = now;
            self.wake(m);
            let wait = self.rng.range(10, 2_000) * MS;
            self.after(wait, Event::PowerOn(m));
        }
        for gate in 0..self.gates.len() {
            let wait = self.rng.range(10, 2_000) * MS;
            self.after(wait, Event::GateOn(gate));
        }
        for agent in 0..self.agents.len() {
            self.agents[agent].away_until = now + self.rng.range(0, 3) * SECOND;
            for ix in self.sessions_of(agent) {
                if self.sessions[ix].deaf {
                    self.hangup(ix);
                }
            }
        }
    }
}
