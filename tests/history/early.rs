//! Connections that are resumed: messages cross them before their ends are up (0-RTT), some are refused, and what came so
//! early is recorded by somebody, and sent again later.

use bytes::Bytes;
use trishula::mesh::Input;
use trishula::wire::ids::NodeName;

use crate::clock::{MS, Us};
use crate::model::MachineNo;
use crate::net::{Party, WireNo, decode};
use crate::world::{Event, World};

/// Of connections between nodes, in percent.
const RESUMED: u64 = 50;
/// Of those, where the peer has forgotten the session.
const REJECTED: u64 = 15;
/// Of messages that came early.
const REPLAYED: u64 = 30;

impl World {
    /// Lets some new connections begin with early data.
    pub fn perhaps_resume(&mut self, number: WireNo, delay: Us, up: [Us; 2]) {
        if !self.rng.percent(RESUMED) {
            return;
        }
        let Some(wire) = self.net.wires.get_mut(&number) else { return };
        if self.rng.percent(REJECTED) {
            wire.broken = true;
            self.trace.count("early data rejected");
            self.at(self.now, Event::Early(number, 0));
            (0..2).for_each(|side| self.at(up[side], Event::Down(number, side)));
            return;
        }
        wire.messages_from(0, self.now + delay);
        self.at(self.now, Event::Early(number, 0));
        self.at(self.now + delay, Event::Early(number, 1));
    }

    /// An end learns that its connection is being resumed.
    pub fn early(&mut self, number: WireNo, side: usize) {
        let Some(wire) = self.net.wires.get_mut(&number) else { return };
        if wire.ends[side].gone || wire.ends[side].up {
            return;
        }
        wire.ends[side].early = true;
        let (who, other, link) = (wire.ends[side].who, wire.ends[1 - side].who, wire.ends[side].link);
        if let (Party::Node(m, _), Party::Node(peer, _)) = (who, other) {
            let peer = self.machines[peer].name.clone();
            self.trace.note(self.now, || format!("link {link} of {who:?} to {other:?} is resumed"));
            self.input(m, Input::LinkEarly { link, peer, dialled: side == 0 });
        }
    }

    /// A frame has come before its link was up.
    pub fn came_early(&mut self, m: MachineNo, from: Party, bytes: &Bytes) {
        self.trace.count("messages that came early");
        if let Party::Node(peer, _) = from
            && self.rng.percent(REPLAYED)
        {
            let (peer, wait) = (self.machines[peer].name.clone(), self.rng.range(1, 60_000) * MS);
            self.after(wait, Event::Replay(m, peer, bytes.clone()));
        }
    }

    /// Somebody sends again what he has recorded.
    pub fn replay(&mut self, m: MachineNo, peer: NodeName, bytes: Bytes) {
        if self.quiet {
            return;
        }
        self.trace.count("recordings sent again");
        let link = self.net.number_for_a_stranger();
        self.input(m, Input::LinkEarly { link, peer, dialled: false });
        self.input(m, Input::Frame(link, decode(bytes)));
        self.input(m, Input::LinkDown(link));
    }
}
