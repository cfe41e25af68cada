//! The frames of rooms: one of each kind for the golden vectors, and any of them for the properties.

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use trishula::wire::close::{Code, Refusal};
use trishula::wire::frame::{
    Frame, RoomAsk, RoomDigest, RoomEntry, RoomJoined, RoomLapse, RoomList, RoomMember, RoomMessage,
    RoomQuestion, RoomReach, RoomSays, RoomState, RoomSubscribe, RoomThere,
};
use trishula::wire::ids::{AgentAddr, AgentName, Incarnation, MessageId, Namespace, NodeName, RoomName};
use trishula::wire::ids::{Sequence, SessionNo};
use trishula::wire::room::{Position, RoomKey, Vector};

const LIFE: Incarnation = Incarnation(1_767_225_600_000);

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn name(name: &str) -> AgentName {
    AgentName::new(name).unwrap()
}

fn room() -> RoomKey {
    RoomKey::new(Namespace::new("trishula").unwrap(), RoomName::new("deploys").unwrap())
}

fn at(n: u64) -> Position {
    Position { incarnation: LIFE, n }
}

fn vector() -> Vector {
    Vector { at: [(node("agni"), at(300)), (node("dc"), at(7))].into(), cut: false }
}

fn text() -> Bytes {
    Bytes::from_static(b"{\"type\":\"STATUS\"}")
}

/// One of each kind, with values that a later release must read from this release's bytes.
pub fn golden() -> Vec<Frame> {
    let mut frames = between_nodes();
    frames.extend(at_an_entrance());
    frames
}

fn between_nodes() -> Vec<Frame> {
    let members = vec![name("dc"), name("planner")];
    let there = RoomThere { room: room(), kept: true, members, parted: vec![name("agni")] };
    vec![
        Frame::RoomList(RoomList {
            origin: node("agni"),
            incarnation: LIFE,
            base: Some(4),
            version: 5,
            rooms: vec![there],
        }),
        Frame::RoomDigest(vec![RoomDigest { origin: node("agni"), incarnation: LIFE, version: 5 }]),
        Frame::RoomEntry(
            RoomEntry {
                to: vec![node("rushabdev")],
                by: node("dc"),
                hops_left: 15,
                room: room(),
                origin: node("agni"),
                at: at(300),
                after: at(299),
                from: AgentAddr::new(Namespace::new("trishula").unwrap(), name("planner")),
                id: MessageId::new("p-1").unwrap(),
                taken: 1_767_225_600_000 << 16,
            },
            text(),
        ),
        Frame::RoomState(RoomState {
            to: node("dc"),
            from: node("agni"),
            incarnation: LIFE,
            hops_left: 15,
            room: room(),
            says: RoomSays::AskAll,
            has: vec![RoomReach { origin: node("agni"), floor: at(3), top: at(300) }],
        }),
    ]
}

fn at_an_entrance() -> Vec<Frame> {
    let (session, number) = (SessionNo(400), Sequence(3));
    let question = RoomQuestion::History { limit: 50, before: Some(vector()), after: None, bytes: 1 << 20 };
    vec![
        Frame::RoomSubscribe(RoomSubscribe {
            session,
            number,
            room: room().name,
            cursor: Some(vector()),
            history: 20,
            presence: true,
        }),
        Frame::RoomUnsubscribe(session, room().name),
        Frame::RoomMost(session, 50),
        Frame::RoomAsk(RoomAsk { session, number, room: room().name, question }),
        Frame::RoomJoined(
            RoomJoined {
                session,
                number,
                room: room(),
                refusal: Some(Refusal::new(Code::RateLimited, "too many")),
                cursor: vector(),
                recovered: true,
                members: vec![name("dc")],
                messages: vec![(node("agni"), at(301), text().len() as u32)],
                now: vector(),
            },
            text(),
        ),
        Frame::RoomMessage(
            RoomMessage { room: room(), origin: node("agni"), at: at(301), after: at(300), known: false },
            text(),
        ),
        Frame::RoomLapse(RoomLapse {
            room: room(),
            origin: node("agni"),
            to: at(301),
            members: vec![name("dc")],
        }),
        Frame::RoomMember(RoomMember { room: room(), agent: name("dc"), joined: true }),
        Frame::RoomAgain(room()),
    ]
}

fn any_node() -> impl Strategy<Value = NodeName> + Clone {
    "[a-z0-9][a-z0-9-]{0,62}".prop_filter_map("no name", |name| NodeName::new(&name).ok())
}

fn any_name() -> impl Strategy<Value = AgentName> + Clone {
    "[A-Za-z0-9][A-Za-z0-9._-]{0,63}".prop_filter_map("no name", |name| AgentName::new(&name).ok())
}

fn any_room() -> impl Strategy<Value = RoomKey> + Clone {
    let name = "[A-Za-z0-9][A-Za-z0-9._:/-]{0,40}".prop_map(|name| RoomName::new(&name).unwrap());
    let space = "[a-z0-9][a-z0-9-]{0,20}".prop_filter_map("no name", |name| Namespace::new(&name).ok());
    (space, name).prop_map(|(namespace, name)| RoomKey::new(namespace, name))
}

fn any_place() -> impl Strategy<Value = Position> + Clone {
    any::<(u64, u64)>().prop_map(|(life, n)| Position { incarnation: Incarnation(life), n })
}

pub fn any_vector() -> impl Strategy<Value = Vector> + Clone {
    (btree_map(any_node(), any_place(), 0..5), any::<bool>()).prop_map(|(at, cut)| Vector { at, cut })
}

fn any_body() -> impl Strategy<Value = Bytes> + Clone {
    vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

/// Any frame of rooms.
pub fn any_frame() -> impl Strategy<Value = Frame> {
    let there = (any_room(), any::<bool>(), vec(any_name(), 0..4), vec(any_name(), 0..3))
        .prop_map(|(room, kept, members, parted)| RoomThere { room, kept, members, parted });
    let list = (any_node(), any::<(u64, Option<u64>, u64)>(), vec(there, 0..4)).prop_map(
        |(origin, (life, base, version), rooms)| {
            Frame::RoomList(RoomList { origin, incarnation: Incarnation(life), base, version, rooms })
        },
    );
    let entry = (vec(any_node(), 0..4), any_room(), (any_place(), any_place()), any_name(), any_body())
        .prop_map(|(to, room, (at, after), from, body)| {
            let from = AgentAddr::new(room.namespace.clone(), from);
            let id = MessageId::new("m").unwrap();
            let (by, origin) = (node("dc"), node("agni"));
            let entry = RoomEntry { to, by, hops_left: 3, room, origin, at, after, from, id, taken: at.n };
            Frame::RoomEntry(entry, body)
        });
    let says = prop::sample::select(vec![RoomSays::Ask, RoomSays::AskAll, RoomSays::Answer, RoomSays::Have]);
    let reach = (any_node(), any_place(), any_place()).prop_map(|(origin, floor, top)| RoomReach {
        origin,
        floor,
        top,
    });
    let state = (any_node(), any_node(), any_room(), says, vec(reach, 0..4), any::<(u64, u8)>()).prop_map(
        |(to, from, room, says, has, (life, hops_left))| {
            let incarnation = Incarnation(life);
            Frame::RoomState(RoomState { to, from, incarnation, hops_left, room, says, has })
        },
    );
    let wish = (any_room(), option::of(any_vector()), any::<(u64, u64, u16, bool)>()).prop_map(
        |(room, cursor, (session, number, history, presence))| {
            let (session, number) = (SessionNo(session), Sequence(number));
            let room = room.name;
            Frame::RoomSubscribe(RoomSubscribe { session, number, room, cursor, history, presence })
        },
    );
    let messages = vec((any_node(), any_place(), any::<u32>()), 0..4);
    let joined = (any_room(), (any_vector(), any_vector()), messages, vec(any_name(), 0..3), any_body())
        .prop_map(|(room, (cursor, now), messages, members, body)| {
            let (session, number, refusal) = (SessionNo(1), Sequence(2), None);
            let recovered = messages.is_empty();
            let joined =
                RoomJoined { session, number, room, refusal, cursor, recovered, members, messages, now };
            Frame::RoomJoined(joined, body)
        });
    let message = (any_room(), any_node(), any_place(), any_place(), any::<bool>(), any_body()).prop_map(
        |(room, origin, at, after, known, body)| {
            Frame::RoomMessage(RoomMessage { room, origin, at, after, known }, body)
        },
    );
    prop_oneof![list, entry, state, wish, joined, message, any_room().prop_map(Frame::RoomAgain)]
}

proptest! {
    #[test]
    fn a_cursor_is_read_as_it_was_written(vector in any_vector()) {
        // covers B07
        prop_assert_eq!(Vector::from_cursor(&vector.to_cursor()), Ok(vector));
    }

    #[test]
    fn no_text_makes_reading_a_cursor_fail_otherwise_than_by_an_error(text in "\\PC{0,60}|[A-Za-z0-9_-]{0,80}") {
        // covers B19
        if let Ok(vector) = Vector::from_cursor(&text) {
            prop_assert!(Vector::from_cursor(&vector.to_cursor()).is_ok());
        }
    }
}
