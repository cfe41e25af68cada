//! The history of a room, and what is asked of it.

mod disk;
mod forged;
mod limits;
mod newness;

use bytes::Bytes;

use super::log::Log;
use crate::mesh::{Mesh, Output};
use crate::wire::frame::{Adjacency, Attach, Frame, LinkState, RoomJoined, RoomSubscribe};
use crate::wire::ids::{AgentAddr, Incarnation, LinkId, MessageId, Namespace, NodeName, Sequence, SessionNo};
use crate::wire::record::RoomMessage;
use crate::wire::room::{Position, Vector};

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn at(n: u64) -> Position {
    Position { incarnation: Incarnation(1), n }
}

fn message(origin: &str, n: u64, taken: u64, id: &str) -> RoomMessage {
    RoomMessage {
        origin: node(origin),
        at: at(n),
        after: Position::default(),
        from: AgentAddr::parse("dc", &Namespace::new("trishula").unwrap()).unwrap(),
        id: MessageId::new(id).unwrap(),
        taken,
        kept_ms: taken,
        payload: Bytes::copy_from_slice(id.as_bytes()),
    }
}

/// These nodes, and no others, can be reached: each over a link of its own, from 101 on.
pub(super) fn reach(mesh: &mut Mesh, names: &[&str]) {
    let adjacent = |name: &str| Adjacency { peer: node(name), rtt_us: 1000 };
    mesh.topology.announce(names.iter().map(|name| adjacent(name)).collect());
    for (link, name) in (101..).zip(names) {
        let state = LinkState {
            origin: node(name),
            incarnation: Incarnation(1),
            version: 1,
            links: vec![adjacent(mesh.config.node.as_str())],
            holds_ca: false,
            addresses: Vec::new(),
            serial: (*name).to_owned(),
        };
        mesh.topology.learn(state);
        mesh.neighbours.insert(node(name), LinkId(link));
    }
    mesh.topology.refresh();
}

/// A session of an agent, at the entrance of link 1.
fn session(mesh: &mut Mesh, no: u64, agent: &str) -> SessionNo {
    let agent = AgentAddr::parse(agent, &Namespace::new("trishula").unwrap()).unwrap();
    let (session, capabilities) = (SessionNo(no), Vec::new());
    let attach = Attach {
        session,
        agent,
        capabilities,
        shared: true,
        registered_ms: no,
        resumed: false,
        window: 64,
        transient: false,
    };
    mesh.attach(LinkId(1), attach);
    disk::writes(mesh).iter().for_each(|(ticket, _)| mesh.persisted(*ticket));
    session
}

/// What a session subscribes with that says nothing of what was.
fn plain(session: SessionNo) -> RoomSubscribe {
    let (number, room) = (Sequence(session.0), disk::key().name);
    RoomSubscribe { session, number, room, cursor: None, history: 0, presence: false }
}

/// What a session goes on with from a cursor.
fn from(session: SessionNo, cursor: Vector) -> RoomSubscribe {
    RoomSubscribe { cursor: Some(cursor), ..plain(session) }
}

/// The first answer to a SUBSCRIBE among frames.
fn answer(told: &[Frame]) -> &RoomJoined {
    let mut answers = told.iter().filter_map(|frame| match frame {
        Frame::RoomJoined(joined, _) => Some(joined),
        _ => None,
    });
    answers.next().expect("it is answered")
}

/// What the entrance of link 1 was told of rooms since this was asked last.
fn told(mesh: &mut Mesh) -> Vec<Frame> {
    let outputs = std::iter::from_fn(|| mesh.poll_output());
    let told = outputs.filter_map(|output| match output {
        Output::Send(LinkId(1), frame) if frame.is_of_rooms() => Some(frame),
        _ => None,
    });
    told.collect()
}

/// Two origins, in turn: a1 b1 a2 b2 a3.
fn log() -> Log {
    let mut log = Log::default();
    for (origin, n, taken) in [("a", 1, 10), ("a", 2, 30), ("b", 1, 20), ("b", 2, 40), ("a", 3, 50)] {
        assert!(!log.push(message(origin, n, taken, &format!("{origin}{n}"))));
    }
    log
}

fn vector(places: &[(&str, u64)]) -> Vector {
    Vector { at: places.iter().map(|(origin, n)| (node(origin), at(*n))).collect(), cut: false }
}

fn ids(messages: &[(NodeName, Position, Bytes)]) -> Vec<String> {
    messages.iter().map(|(_, _, text)| String::from_utf8(text.to_vec()).unwrap()).collect()
}

#[test]
fn a_cursor_yields_exactly_what_came_after_it() {
    // covers B07
    let log = log();
    let all = log.since(&Vector::default());
    assert!(all.recovered);
    assert_eq!(ids(&all.messages), ["a1", "b1", "a2", "b2", "a3"]);
    let rest = log.since(&vector(&[("a", 2), ("b", 1)]));
    assert_eq!(ids(&rest.messages), ["b2", "a3"]);
    let ahead = log.since(&vector(&[("a", 9), ("b", 2), ("c", 4)]));
    assert!(ahead.recovered && ahead.messages.is_empty(), "who has seen more misses nothing");
    assert_eq!(ahead.cursor, vector(&[("a", 9), ("b", 2), ("c", 4)]));
}

#[test]
fn what_is_kept_no_more_is_said_to_be_missing_and_the_reader_stands_behind_it() {
    // covers B07
    let mut log = log();
    let begun = log.shrink(3, usize::MAX, 0);
    assert_eq!(begun, [(node("a"), at(1)), (node("b"), at(1))]);
    let missed = log.since(&vector(&[("a", 1)]));
    assert!(!missed.recovered);
    assert_eq!(missed.cursor, vector(&[("a", 1), ("b", 1)]));
    assert_eq!(ids(&missed.messages), ["a2", "b2", "a3"]);
    assert!(log.since(&vector(&[("a", 1), ("b", 1)])).recovered);
    let cut = log.since(&Vector { cut: true, ..vector(&[("a", 2)]) });
    assert!(!cut.recovered);
    assert_eq!(ids(&cut.messages), ["a3"], "of whom it says nothing, all counts as read");
}

#[test]
fn pages_go_back_and_forth_without_a_gap() {
    // covers B07
    let log = log();
    let latest = log.page_before(&log.now(), 2, usize::MAX);
    assert_eq!((ids(&latest.messages), latest.complete), (vec!["b2".into(), "a3".into()], false));
    let older = log.page_before(&latest.cursor, 9, usize::MAX);
    assert_eq!((ids(&older.messages), older.complete), (["a1", "b1", "a2"].map(String::from).into(), true));
    let first = log.page_after(&Vector::default(), 2, usize::MAX);
    assert_eq!((ids(&first.messages), first.complete), (vec!["a1".into(), "b1".into()], false));
    let tight = log.page_after(&Vector::default(), 9, 4);
    assert_eq!(ids(&tight.messages).len(), 2, "as many as fit");
    assert_eq!(log.page_after(&Vector::default(), 9, 1).messages.len(), 1, "one always does");
}

#[test]
fn one_message_by_two_origins_is_given_once_to_each_reader() {
    // covers B07
    let mut log = log();
    assert!(log.push(message("b", 3, 60, "a2")), "it is known");
    assert_eq!(ids(&log.since(&vector(&[("a", 1), ("b", 2)])).messages), ["a2", "a3"]);
    assert!(log.since(&vector(&[("a", 3), ("b", 2)])).messages.is_empty(), "who has one has both");
    assert!(ids(&log.since(&vector(&[("a", 1), ("b", 3)])).messages).iter().all(|id| id != "a2"));
    assert!(log.knows(&message("x", 1, 0, "a2").from, &MessageId::new("a2").unwrap()));
    log.drop_up_to(&node("a"), at(3));
    assert_eq!(ids(&log.since(&Vector::default()).messages), ["b1", "b2", "a2"]);
}

#[test]
fn each_entry_names_the_one_before_it() {
    // covers B07
    let mut log = log();
    let pairs =
        |log: &Log, place| log.after(&node("a"), place).map(|(b, m)| (b.n, m.at.n)).collect::<Vec<_>>();
    assert_eq!(pairs(&log, Position::default()), [(0, 1), (1, 2), (2, 3)]);
    assert_eq!(pairs(&log, at(1)), [(1, 2), (2, 3)]);
    log.drop_up_to(&node("a"), at(2));
    assert_eq!(pairs(&log, Position::default()), [(2, 3)]);
    assert!(log.has(&node("a"), at(1)) && !log.has(&node("a"), at(4)));
    assert!(log.bytes > 0 && log.len() == 3);
}
