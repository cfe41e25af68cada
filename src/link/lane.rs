//! Which frames must keep their order, and what goes first.

use crate::wire::envelope::{Class, Head, Priority, Target};
use crate::wire::frame::{Frame, RoomEntry, RoomJoined, RoomLapse, RoomMember, RoomMessage};
use crate::wire::room::RoomKey;

/// Ordered lanes for messages below priority 1.
pub const ORDERED_LANES: u8 = 16;
/// Larger payloads, in bytes, are bulk between nodes.
pub const LARGE: usize = 64 * 1024;

/// Frames that must keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Routing, registrations, receipts: never behind a message.
    Control,
    /// Priority 1.
    Urgent,
    /// One of [`ORDERED_LANES`], by flow.
    Ordered(u8),
    /// Priority 5, and large payloads between nodes: it has what the others leave.
    Bulk,
}

impl Lane {
    /// How many there are.
    pub const COUNT: usize = ORDERED_LANES as usize + 3;

    /// A message's lane: by priority, then by (sender, recipient), so that a flow keeps its order.
    pub fn of(head: &Head) -> Lane {
        match head.priority {
            Priority::URGENT => return Lane::Urgent,
            Priority::BULK => return Lane::Bulk,
            _ => {}
        }
        Lane::Ordered((flow(head) % u64::from(ORDERED_LANES)) as u8)
    }

    /// Whatever is about one room keeps its order, also what is urgent or large.
    fn of_room(room: &RoomKey) -> Lane {
        let hash = fnv(fnv(0xcbf2_9ce4_8422_2325, room.namespace.as_str()), room.name.as_str());
        Lane::Ordered((hash % u64::from(ORDERED_LANES)) as u8)
    }

    /// One of 256 groups of flows, by all of the hash: for datagrams.
    pub(super) fn flow_of(frame: &Frame) -> u8 {
        match frame {
            Frame::Forward(forward, _) => flow(&forward.head) as u8,
            _ => 0,
        }
    }

    /// The lane that a frame belongs to.
    pub fn for_frame(frame: &Frame) -> Lane {
        match frame {
            Frame::Forward(forward, payload) | Frame::Hold(forward, payload) => {
                Lane::between_nodes(&forward.head, payload.len())
            }
            Frame::Submit(_, Head { to: Target::Room(namespace, name), .. }, _) => {
                Lane::of_room(&RoomKey::new(namespace.clone(), name.clone()))
            }
            Frame::Submit(_, head, _) => Lane::of(head),
            Frame::Deliver(deliver, _) => Lane::of(&deliver.head),
            Frame::RoomEntry(RoomEntry { room, .. }, _)
            | Frame::RoomJoined(RoomJoined { room, .. }, _)
            | Frame::RoomMessage(RoomMessage { room, .. }, _)
            | Frame::RoomLapse(RoomLapse { room, .. })
            | Frame::RoomMember(RoomMember { room, .. }) => Lane::of_room(room),
            _ => Lane::Control,
        }
    }

    /// A large payload leaves its flow's lane: the recipient's node puts the flow in order again by its numbers. Live
    /// messages have none.
    fn between_nodes(head: &Head, payload: usize) -> Lane {
        match Lane::of(head) {
            Lane::Ordered(_) if payload > LARGE && head.class == Class::Durable => Lane::Bulk,
            lane => lane,
        }
    }

    /// What a carrier takes first, by a lane's place: the higher number.
    pub(super) fn priority(index: usize) -> i32 {
        match index {
            0 => 2,
            1 => 1,
            n if n == Lane::Bulk.index() => -1,
            _ => 0,
        }
    }

    /// Place in an array of [`Lane::COUNT`].
    pub fn index(self) -> usize {
        match self {
            Lane::Control => 0,
            Lane::Urgent => 1,
            Lane::Ordered(n) => 2 + usize::from(n % ORDERED_LANES),
            Lane::Bulk => 2 + usize::from(ORDERED_LANES),
        }
    }
}

/// Of (sender, recipient).
fn flow(head: &Head) -> u64 {
    let mut hash = fnv(0xcbf2_9ce4_8422_2325, head.from.namespace.as_str());
    hash = fnv(hash, head.from.name.as_str());
    match &head.to {
        Target::Agent(agent) => fnv(fnv(hash, agent.namespace.as_str()), agent.name.as_str()),
        Target::Broadcast(namespace) => fnv(hash, namespace.as_str()),
        Target::Room(namespace, room) => fnv(fnv(hash, namespace.as_str()), room.as_str()),
    }
}

/// Fowler–Noll–Vo 1a: the same on every machine, which the standard library's hash does not promise.
fn fnv(hash: u64, text: &str) -> u64 {
    text.bytes().fold(hash, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::wire::envelope::Kind;
    use crate::wire::ids::{AgentAddr, MessageId, Namespace, SessionNo};

    #[test]
    fn priority_overtakes_nothing_in_a_room() {
        // covers B07, T06
        let home = Namespace::new("trishula").unwrap();
        let lane = |to: &str, from: &str, priority| {
            let from = AgentAddr::parse(from, &home).unwrap();
            let to = Target::parse(to, &home).unwrap();
            let head = Head::new(from, to, MessageId::new("m-1").unwrap(), Kind::Status);
            Lane::for_frame(&Frame::Submit(SessionNo(1), Head { priority, ..head }, Bytes::new()))
        };
        let usual = lane("room:deploys", "dc", Priority::DEFAULT);
        for (from, priority) in
            [("dc", Priority::URGENT), ("dc", Priority::BULK), ("agni", Priority::DEFAULT)]
        {
            assert_eq!(lane("room:deploys", from, priority), usual);
        }
        assert_eq!(lane("agni", "dc", Priority::URGENT), Lane::Urgent);
    }
}
