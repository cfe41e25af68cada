//! Wires as the world sees them: laid by who dials, found broken at one end or both, closed, held up and opened again.

use bytes::Bytes;
use trishula::mesh::{Input, Role};
use trishula::wire::frame::Frame;
use trishula::wire::ids::Incarnation;

use crate::clock::{MS, SECOND};
use crate::memory::counted;
use crate::model::MachineNo;
use crate::net::{Party, Wire, WireNo, decode, encode};
use crate::world::{Event, World};

impl World {
    /// Puts a frame on a wire.
    pub fn carry(&mut self, number: WireNo, side: usize, frame: &Frame) {
        let now = self.now;
        let Some(wire) = self.net.wires.get(&number) else { return };
        let (from, to) = (self.place_of(wire.ends[side].who), self.place_of(wire.ends[1 - side].who));
        let lane = trishula::link::Lane::for_frame(frame).index();
        let blocked = self.net.is_blocked(from, to);
        let Some(wire) = self.net.wires.get_mut(&number) else { return };
        if wire.broken {
            return;
        }
        let bytes = encode(frame);
        if blocked {
            return wire.hold(side, lane, bytes);
        }
        let at = wire.arrival(side, lane, now, &mut self.rng);
        self.at(at, Event::Arrive(number, 1 - side, bytes));
    }

    pub fn arrive(&mut self, number: WireNo, side: usize, bytes: Bytes) {
        let Some(wire) = self.net.wires.get(&number) else { return };
        let (end, broken) = (&wire.ends[side], wire.broken);
        if broken || end.gone || !(end.up || end.early) {
            return;
        }
        let (who, link, early, other) = (end.who, end.link, !end.up, wire.ends[1 - side].who);
        let frame = counted(|| decode(bytes.clone()));
        match who {
            Party::Node(m, life) if self.machines[m].life == life => {
                if early {
                    self.came_early(m, other, &bytes);
                }
                self.input(m, Input::Frame(link, frame));
            }
            Party::Gate(gate, life) if self.gates[gate].life == life => {
                self.gate_frame(gate, number, frame);
            }
            _ => {}
        }
    }

    pub fn up(&mut self, number: WireNo, side: usize) {
        let Some(wire) = self.net.wires.get_mut(&number) else { return };
        if wire.broken {
            // Nobody answers any more: the attempt has failed.
            return self.down(number, side);
        }
        if wire.ends[side].gone {
            return;
        }
        wire.ends[side].up = true;
        let (who, other, link) = (wire.ends[side].who, wire.ends[1 - side].who, wire.ends[side].link);
        let rtt_us = (wire.delay * 2) as u32;
        self.trace.note(self.now, || format!("link {link} of {who:?} to {other:?} is up"));
        match (who, other) {
            (Party::Node(m, _), Party::Node(peer, _)) => {
                let (peer, incarnation) = (&self.machines[peer].name, self.machines[peer].incarnation);
                let input = Input::LinkUp {
                    link,
                    peer: peer.clone(),
                    role: Role::Node,
                    incarnation: Incarnation(incarnation),
                    dialled: side == 0,
                    // Every third one is as if UDP were blocked.
                    fallback: number.is_multiple_of(3),
                    rtt_us,
                };
                self.input(m, input);
            }
            (Party::Node(m, _), Party::Gate(_, life)) => {
                let peer = self.machines[m].name.clone();
                let incarnation = Incarnation(life);
                let role = Role::Entrance;
                self.input(
                    m,
                    Input::LinkUp { link, peer, role, incarnation, dialled: false, fallback: false, rtt_us },
                );
            }
            (Party::Gate(gate, _), _) => self.gate_up(gate, number),
        }
    }

    /// An end learns that its wire is over.
    pub fn down(&mut self, number: WireNo, side: usize) {
        let Some(wire) = self.net.wires.get_mut(&number) else { return };
        let end = &wire.ends[side];
        if end.gone {
            return;
        }
        let (who, link, up) = (end.who, end.link, end.up || end.early);
        self.trace.note(self.now, || format!("link {link} of {who:?} is down"));
        self.ended(number, side);
        if up && let Party::Node(m, _) = who {
            self.input(m, Input::LinkDown(link));
        }
        self.survey_now();
    }

    /// One end knows that it is over; who dialled dials again.
    pub fn ended(&mut self, number: WireNo, side: usize) {
        let Some(wire) = self.net.wires.get(&number) else { return };
        let (who, other) = (wire.ends[side].who, wire.ends[1 - side].who);
        self.net.leave(number, side);
        match (who, other) {
            (Party::Gate(gate, life), _) if self.gates[gate].life == life => self.gate_down(gate, number),
            (Party::Node(m, life), Party::Node(peer, _)) if self.dials.contains(&(m, peer)) => {
                let wait = self.rng.range(50, 1500) * MS;
                self.after(wait, Event::Dial(m, life, peer));
            }
            _ => {}
        }
    }

    /// An end closes its wire: the other learns it if it can be reached.
    pub fn close(&mut self, number: WireNo, side: usize) {
        let Some(wire) = self.net.wires.get(&number) else { return };
        let (from, to) = (self.place_of(wire.ends[side].who), self.place_of(wire.ends[1 - side].who));
        let wait = wire.delay + wire.jitter;
        let heard = !wire.broken && !self.net.is_blocked(from, to);
        self.ended(number, side);
        if heard {
            self.after(wait, Event::Down(number, 1 - side));
        }
    }

    pub fn dial(&mut self, from: MachineNo, life: u64, to: MachineNo) {
        if self.machines[from].life != life || self.machines[from].mesh.is_none() {
            return;
        }
        let joined = |wire: &Wire| {
            let [a, b] = &wire.ends;
            !a.gone && a.who == Party::Node(from, life) && matches!(b.who, Party::Node(n, _) if n == to)
        };
        if self.net.wires.values().any(joined) {
            return;
        }
        let open = self.is_up(to) && !self.net.is_blocked(from, to) && !self.net.is_blocked(to, from);
        if !open {
            let wait = self.rng.range(300, 1500) * MS;
            return self.after(wait, Event::Dial(from, life, to));
        }
        self.connect(from, to);
    }

    /// A new wire, whatever there is already.
    pub fn connect(&mut self, from: MachineNo, to: MachineNo) {
        let who = [Party::Node(from, self.machines[from].life), Party::Node(to, self.machines[to].life)];
        let delay = crate::scenario::delay_between(self.seed, from, to);
        let jitter = delay / 2;
        let up = [self.now + 2 * delay, self.now + delay + self.rng.below(2 * delay)];
        let number = self.net.lay(who, delay, jitter, up);
        self.perhaps_resume(number, delay, up);
        self.at(up[0], Event::Up(number, 0));
        self.at(up[1], Event::Up(number, 1));
    }

    pub fn unblock(&mut self, a: MachineNo, b: MachineNo) {
        if self.net.blocked.get(&(a, b)).is_none_or(|until| *until > self.now) {
            return;
        }
        self.net.blocked.remove(&(a, b));
        for (number, side) in self.wires_from(a, b) {
            let Some(wire) = self.net.wires.get_mut(&number) else { continue };
            let held = wire.take_held(side);
            if wire.ends[side].gone {
                // It was closed while nothing got through: that is heard now.
                let wait = wire.delay;
                self.after(wait, Event::Down(number, 1 - side));
                continue;
            }
            for (lane, bytes) in held {
                let Some(wire) = self.net.wires.get_mut(&number) else { break };
                let at = wire.arrival(side, lane, self.now, &mut self.rng);
                self.at(at, Event::Arrive(number, 1 - side, bytes));
            }
        }
    }

    fn wires_from(&self, a: MachineNo, b: MachineNo) -> Vec<(WireNo, usize)> {
        let all = self.net.wires.iter().flat_map(|(number, wire)| [(*number, wire, 0), (*number, wire, 1)]);
        let joins =
            |wire: &Wire, side: usize| is_node(wire.ends[side].who, a) && is_node(wire.ends[1 - side].who, b);
        all.filter(|(_, wire, side)| joins(wire, *side)).map(|(number, _, side)| (number, side)).collect()
    }

    // Who can reach whom.

    pub fn survey(&mut self) {
        self.survey_now();
        self.after(SECOND / 2, Event::Survey);
    }

    pub fn survey_now(&mut self) {
        let count = self.machines.len();
        let mut group: Vec<usize> = (0..count).collect();
        for wire in self.net.wires.values().filter(|wire| wire.works()) {
            let (a, b) = (self.place_of(wire.ends[0].who), self.place_of(wire.ends[1].who));
            let open = !self.net.is_blocked(a, b) && !self.net.is_blocked(b, a);
            if a != b && open && self.is_up(a) && self.is_up(b) {
                let (from, to) = (group[a], group[b]);
                group.iter_mut().filter(|g| **g == from).for_each(|g| *g = to);
            }
        }
        for a in 0..count {
            for b in a + 1..count {
                if group[a] != group[b] {
                    self.model.apart.insert((a, b), self.now);
                }
            }
        }
    }
}

pub fn is_node(party: Party, m: MachineNo) -> bool {
    matches!(party, Party::Node(n, _) if n == m)
}
