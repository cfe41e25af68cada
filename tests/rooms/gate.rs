//! Entrances: what the hub of an edge does, around its real account of readers.

use std::collections::BTreeMap;

use trishula::gateway::readers::{Deed, Readers, Wish};
use trishula::wire::envelope::State;
use trishula::wire::frame::{Attach, Frame};
use trishula::wire::ids::SessionNo;

use crate::clock::{MS, SECOND};
use crate::world::{Event, MachineNo, Party, World};

pub struct Gate {
    /// Where it stands, whose node is its own.
    pub machine: MachineNo,
    pub on: bool,
    pub life: u64,
    /// The wire in use, and the machine that it leads to.
    pub wire: Option<(u64, MachineNo)>,
    dialling: bool,
    /// Not to its own node until then.
    wanders_until: u64,
    pub readers: Readers,
    pub sessions: BTreeMap<SessionNo, Seat>,
    last: u64,
}

/// A session.
pub struct Seat {
    pub client: usize,
    pub attach: Attach,
    /// The node knows it.
    pub registered: bool,
}

impl Gate {
    pub fn new(machine: MachineNo) -> Gate {
        Gate {
            machine,
            on: true,
            life: 1,
            wire: None,
            dialling: false,
            wanders_until: 0,
            readers: Readers::default(),
            sessions: BTreeMap::new(),
            last: 0,
        }
    }
}

impl World {
    pub fn gate_crash(&mut self, gate: usize) {
        if !std::mem::replace(&mut self.gates[gate].on, false) {
            return;
        }
        for number in self.wires_of(|party| matches!(party, Party::Gate(g, _) if *g == gate)) {
            self.break_wire(number, 0);
        }
        let before = &mut self.gates[gate];
        let sessions = std::mem::take(&mut before.sessions);
        (before.readers, before.wire, before.dialling) = (Readers::default(), None, false);
        for seat in sessions.into_values() {
            self.clients[seat.client].lost();
        }
    }

    pub fn gate_on(&mut self, gate: usize) {
        if !self.gates[gate].on {
            (self.gates[gate].on, self.gates[gate].life) = (true, self.gates[gate].life + 1);
            let now = self.now;
            self.at(now, Event::GateDial(gate));
        }
    }

    /// It leaves the node that it is at, for another one or back home.
    pub fn gate_wander(&mut self, gate: usize) {
        if let Some((number, machine)) = self.gates[gate].wire {
            let home = self.gates[gate].machine;
            let away = self.rng.range(1, 8) * SECOND;
            self.gates[gate].wanders_until = if machine == home { self.now + away } else { 0 };
            self.break_wire(number, 0);
        }
    }

    /// Goes to its own node if it can, else to another.
    pub fn gate_dial(&mut self, gate: usize) {
        let now = self.now;
        self.at(now + 100 * MS, Event::GateDial(gate));
        let count = self.machines.len();
        let (home, quiet) = (self.gates[gate].machine, self.quiet);
        if quiet
            && let Some((number, machine)) = self.gates[gate].wire
            && machine != home
        {
            self.break_wire(number, 0);
        }
        // What a node could not give is asked for again now and then.
        self.gates[gate].readers.ask_held();
        self.deeds(gate);
        let state = &self.gates[gate];
        if !state.on || state.wire.is_some() || state.dialling {
            return;
        }
        let wanders = state.wanders_until > now;
        let places = (usize::from(wanders)..count).map(|n| (home + n) % count);
        let can = |m: &MachineNo| {
            let cut = self.blocked.contains_key(&(home, *m)) || self.blocked.contains_key(&(*m, home));
            self.machines[*m].mesh.is_some() && !cut
        };
        let Some(m) = places.into_iter().find(can) else { return };
        let ends = [Party::Gate(gate, state.life), Party::Node(m, self.machines[m].life)];
        self.gates[gate].dialling = true;
        self.lay(ends, MS);
    }

    pub fn gate_up(&mut self, gate: usize, number: u64) {
        let Some(Party::Node(m, _)) = self.wires.get(&number).map(|wire| wire.ends[1]) else { return };
        self.note(|| format!("gate {gate} is at {}", self.machines[m].name));
        let state = &mut self.gates[gate];
        (state.wire, state.dialling) = (Some((number, m)), false);
        state.readers.part();
        let mut attaches = Vec::new();
        for seat in state.sessions.values_mut() {
            seat.registered = false;
            seat.attach.resumed = true;
            attaches.push(seat.attach.clone());
        }
        for attach in attaches {
            self.carry(number, 0, &Frame::Attach(attach));
        }
    }

    pub fn gate_down(&mut self, gate: usize, number: u64) {
        self.gates[gate].dialling = false;
        if self.gates[gate].wire.is_some_and(|(own, _)| own == number) {
            self.gates[gate].wire = None;
            self.gates[gate].readers.part();
            for seat in self.gates[gate].sessions.values_mut() {
                seat.registered = false;
            }
        }
    }

    pub fn gate_frame(&mut self, gate: usize, number: u64, frame: Frame) {
        if self.gates[gate].wire.is_none_or(|(own, _)| own != number) {
            return;
        }
        match frame {
            Frame::Ping(sent) => self.carry(number, 0, &Frame::Pong(sent, 0)),
            Frame::Attached(no, registered_ms) => {
                if let Some(seat) = self.gates[gate].sessions.get_mut(&no) {
                    seat.attach.registered_ms = registered_ms;
                    seat.registered = true;
                    self.gates[gate].readers.registered(no);
                    self.deeds(gate);
                }
            }
            Frame::Evict(no, _) => {
                self.gates[gate].readers.leave(no);
                if let Some(seat) = self.gates[gate].sessions.remove(&no) {
                    self.clients[seat.client].lost();
                }
            }
            Frame::Told(no, receipt) => {
                let client = self.gates[gate].sessions.get(&no).map(|seat| seat.client);
                if let (Some(client), State::Accepted) = (client, receipt.state) {
                    self.accepted(client, &receipt.id);
                }
            }
            Frame::Answer(_, _, payload) => self.answered(gate, &payload),
            frame => {
                self.gates[gate].readers.frame(frame);
                self.deeds(gate);
            }
        }
    }

    /// A client connects; answers its session.
    pub fn open(&mut self, gate: usize, client: usize, mut attach: Attach) -> SessionNo {
        self.gates[gate].last += 1;
        let no = SessionNo(self.gates[gate].last + self.gates[gate].life * 1_000_000);
        attach.session = no;
        self.gates[gate].sessions.insert(no, Seat { client, attach: attach.clone(), registered: false });
        self.tell_node(gate, &Frame::Attach(attach));
        no
    }

    /// A client goes.
    pub fn close(&mut self, gate: usize, no: SessionNo) {
        self.gates[gate].readers.leave(no);
        if self.gates[gate].sessions.remove(&no).is_some() {
            self.tell_node(gate, &Frame::Detach(no, false));
        }
    }

    pub fn subscribe(&mut self, gate: usize, no: SessionNo, wish: Wish) {
        let registered = self.gates[gate].sessions.get(&no).is_some_and(|seat| seat.registered);
        self.gates[gate].readers.subscribe(no, wish, registered);
        self.deeds(gate);
    }

    pub fn tell_node(&mut self, gate: usize, frame: &Frame) {
        if let Some((number, _)) = self.gates[gate].wire {
            self.carry(number, 0, frame);
        }
    }

    pub fn deeds(&mut self, gate: usize) {
        while let Some(deed) = self.gates[gate].readers.poll() {
            match deed {
                Deed::Send(frame) => {
                    self.gates[gate].readers.left(&frame);
                    self.tell_node(gate, &frame);
                }
                Deed::Tell(no, news) => {
                    if let Some(client) = self.gates[gate].sessions.get(&no).map(|seat| seat.client) {
                        self.told(client, news);
                    }
                }
            }
        }
    }
}
