//! What is done to machines, wires and entrances.

use crate::clock::{MS, Us};
use crate::world::{Event, MachineNo, Party, World};

/// What is done to them.
#[derive(Debug, Clone)]
pub enum Fault {
    /// A machine's node dies, and what its disk had not written is lost.
    Crash(MachineNo, Us),
    /// An entrance dies with its sessions.
    GateCrash(usize, Us),
    /// A wire breaks.
    Break(MachineNo, MachineNo),
    /// Nothing gets from one machine to another.
    OneWay(MachineNo, MachineNo, Us),
    /// Machines by bits see only each other.
    Partition(u32, Us),
    /// Queues have no room.
    Full(MachineNo, Us),
    /// The disk refuses.
    FullDisk(MachineNo, Us),
    /// An entrance goes to another node.
    Wander(usize),
}

impl World {
    pub fn strike(&mut self, fault: Fault) {
        self.note(|| format!("FAULT {fault:?}"));
        let now = self.now;
        match fault {
            Fault::Crash(m, off) => {
                self.crash(m);
                self.at(now + off, Event::PowerOn(m));
            }
            Fault::GateCrash(gate, off) => {
                self.gate_crash(gate);
                self.at(now + off, Event::GateOn(gate));
            }
            Fault::Break(a, b) => {
                let late = self.rng.below(2_000) * MS;
                for number in self.between(a, b) {
                    self.break_wire(number, late);
                }
            }
            Fault::OneWay(a, b, lasts) => self.block(a, b, lasts),
            Fault::Partition(side, lasts) => {
                for a in 0..self.machines.len() {
                    for b in 0..self.machines.len() {
                        if (side >> a & 1) != (side >> b & 1) {
                            self.block(a, b, lasts);
                        }
                    }
                }
            }
            Fault::Full(m, lasts) => self.machines[m].full_until = now + lasts,
            Fault::FullDisk(m, lasts) => self.machines[m].disk.full_until = now + lasts,
            Fault::Wander(gate) => self.gate_wander(gate),
        }
    }

    fn block(&mut self, a: MachineNo, b: MachineNo, lasts: Us) {
        let until = self.now + lasts;
        self.blocked.insert((a, b), until);
        self.at(until, Event::Unblock(a, b));
    }

    pub fn between(&self, a: MachineNo, b: MachineNo) -> Vec<u64> {
        let is = |party: &Party, m: MachineNo| matches!(party, Party::Node(n, _) if *n == m);
        let wires = self.wires.iter().filter(|(_, wire)| {
            !wire.broken && wire.ends.iter().any(|end| is(end, a)) && wire.ends.iter().any(|end| is(end, b))
        });
        wires.map(|(number, _)| *number).collect()
    }
}
