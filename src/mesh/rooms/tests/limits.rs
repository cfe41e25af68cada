//! What a node keeps of rooms at most, and what is told of it.

use std::collections::BTreeMap;

use super::disk::{key, publish, with_rooms, writes};
use super::*;
use crate::mesh::rooms::reading::history;
use crate::mesh::rooms::{MAX_ROOMS, RoomLimits, Sub};
use crate::wire::close::Code;
use crate::wire::ids::{AgentName, RoomName};
use crate::wire::record::KnownRoom;
use crate::wire::room::RoomKey;

fn named(namespace: &str, name: &str) -> RoomKey {
    RoomKey::new(Namespace::new(namespace).unwrap(), RoomName::new(name).unwrap())
}

#[test]
fn the_fullest_room_gives_way_where_all_together_are_too_many() {
    // covers B07, Q06
    let big = (1..=64).map(|n| {
        let payload = Bytes::from(vec![b' '; 1000]);
        RoomMessage { payload, kept_ms: u64::MAX, ..message("dc", n, n, &format!("{n}")) }
    });
    let big = KnownRoom { messages: big.collect(), ..KnownRoom::default() };
    let mut mesh = with_rooms([(named("x", "big"), big)].into());
    mesh.config.rooms = RoomLimits { all_bytes: mesh.rooms.bytes + 100, ..RoomLimits::default() };
    for id in ["m-1", "m-2", "m-3"] {
        publish(&mut mesh, id);
        writes(&mut mesh).iter().for_each(|(ticket, _)| mesh.rooms_persisted(*ticket, None));
    }
    assert_eq!(mesh.rooms.kept[&key()].log.len(), 3, "the small one keeps all");
    assert_eq!(mesh.rooms.kept[&named("x", "big")].log.len(), 32);
}

#[test]
fn one_namespace_leaves_rooms_for_others() {
    // covers Q06
    let mut mesh = with_rooms(BTreeMap::new());
    let mut kept = |namespace: &str| {
        let rooms = (0..MAX_ROOMS).map(|n| named(namespace, &format!("r{n}")));
        rooms.take_while(|key| mesh.keep_room(key, None).is_ok()).count()
    };
    assert_eq!((kept("a"), kept("b"), kept("c")), (2048, 1024, 512));
}

#[test]
fn one_agent_leaves_rooms_for_others_of_its_namespace() {
    // covers Q06, B19
    let mut mesh = with_rooms(BTreeMap::new());
    let mut opens = |agent: &str, namespace: &str| {
        let by = AgentAddr::new(Namespace::new("a").unwrap(), AgentName::new(agent).unwrap());
        let rooms = (0..MAX_ROOMS).map(|n| named(namespace, &format!("{agent}-{n}")));
        let opened = rooms.take_while(|key| mesh.keep_room(key, Some(&by)).is_ok()).count();
        let refusal = mesh.keep_room(&named(namespace, &format!("{agent}-more")), Some(&by)).unwrap_err();
        (opened, refusal.code, refusal.message)
    };
    let (opened, code, message) = opens("greedy", "a");
    assert_eq!((opened, code), (1024, Code::Unavailable), "its rate has nothing to do with it");
    assert_eq!(
        message,
        "a/greedy has opened 1024 rooms here, and may open no more until some are forgotten: the rest is for others"
    );
    assert_eq!(opens("next", "a").0, 512);
    assert_eq!(opens("third", "a").0, 256);
    // Connections of an older client's user are one.
    assert_eq!((opens("user.00000001", "a").0, opens("user.00000002", "a").0), (128, 0));
    // Those of clients without a token may be anybody's.
    assert_eq!((opens("anonymous.00000001", "a").0, opens("anonymous.00000002", "a").0), (64, 32));
    // It may still use those that others have opened.
    let by = AgentAddr::new(Namespace::new("a").unwrap(), AgentName::new("greedy").unwrap());
    mesh.keep_room(&named("a", "third-0"), Some(&by)).unwrap();
}

#[test]
fn who_is_there_is_looked_at_once_for_all_that_leave_together() {
    // covers B07
    let mut mesh = with_rooms(BTreeMap::new());
    mesh.keep_room(&key(), None).unwrap();
    for n in 0..50 {
        let agent = AgentName::new(&format!("a{n}")).unwrap();
        let session = (LinkId(1), SessionNo(n));
        let room = mesh.rooms.kept.get_mut(&key()).unwrap();
        room.subs.insert(session, Sub { agent: agent.clone(), presence: false });
        mesh.rooms.by_session.entry(session).or_default().insert(key());
        mesh.show_newcomer(&key(), &agent);
    }
    assert_eq!(mesh.members_listed(&key()).len(), 50);
    for n in 0..50 {
        mesh.leave_rooms((LinkId(1), SessionNo(n)), n % 2 == 0);
    }
    assert_eq!(mesh.members_listed(&key()).len(), 50, "not at each");
    writes(&mut mesh);
    assert_eq!(mesh.members_listed(&key()).len(), 25, "those who left by their own word");
    assert!(mesh.rooms.stale.is_empty());
}

#[test]
fn a_made_up_cursor_is_not_carried_on_and_an_answer_fits() {
    // covers B07, B19
    let mut log = log();
    for n in 4..=900 {
        let payload = Bytes::from(format!("{{\"n\":{n}}}"));
        log.push(RoomMessage { payload, ..message("a", n, n * 100, &format!("m-{n}")) });
    }
    let made_up = |count: usize| {
        let places = (0..count).map(|n| (node(&format!("{n:0>4}")), at(1)));
        Vector { at: places.collect(), cut: false }
    };
    assert_eq!(log.page_before(&made_up(600), 9, 999).cursor, Vector::default());
    assert!(
        log.page_after(&made_up(600), 9, 999).cursor.at.keys().all(|origin| log.lines.contains_key(origin))
    );
    let bytes = 256 * 1024;
    // The first five are no JSON.
    log.drop_up_to(&node("a"), at(3));
    log.drop_up_to(&node("b"), at(2));
    let answer = history(&log, &key(), (1000, bytes), None, Some(&made_up(250)));
    assert!(!answer.messages.is_empty());
    assert!(serde_json::to_vec(&answer).unwrap().len() <= bytes);
}

#[test]
fn messages_that_wait_are_bounded_by_their_bytes() {
    // covers Q06
    let mut mesh = with_rooms(BTreeMap::new());
    mesh.rooms.waiting_bytes = crate::mesh::rooms::MAX_WAITING_BYTES;
    publish(&mut mesh, "m-1");
    assert!(writes(&mut mesh).is_empty(), "refused");
    mesh.rooms.waiting_bytes -= 2;
    publish(&mut mesh, "m-1");
    assert_eq!(mesh.rooms_view().waiting_bytes, crate::mesh::rooms::MAX_WAITING_BYTES);
    writes(&mut mesh).iter().for_each(|(ticket, _)| mesh.rooms_persisted(*ticket, None));
    assert_eq!(mesh.rooms_view().waiting_bytes, crate::mesh::rooms::MAX_WAITING_BYTES - 2);
}

#[test]
fn a_room_takes_as_many_agents_as_the_entrance_of_the_next_one_allows() {
    // covers B02, B07
    let mut mesh = with_rooms(BTreeMap::new());
    let agents = ["a", "b", "c", "b", "d"];
    let sessions: Vec<SessionNo> =
        (1..).zip(agents).map(|(no, agent)| session(&mut mesh, no, agent)).collect();
    // The last one's service has no limit.
    for session in &sessions[..4] {
        mesh.room_most((LinkId(1), *session), 2);
    }
    let joins = |mesh: &mut Mesh, n: usize| {
        mesh.subscribe(LinkId(1), plain(sessions[n]));
        answer(&told(mesh)).refusal.as_ref().map(|refusal| refusal.code)
    };
    assert_eq!([joins(&mut mesh, 0), joins(&mut mesh, 1)], [None, None]);
    assert_eq!(joins(&mut mesh, 2), Some(Code::Unavailable));
    assert_eq!([joins(&mut mesh, 3), joins(&mut mesh, 0)], [None, None], "their agents are there already");
    assert_eq!(joins(&mut mesh, 4), None);
    for (leaves, then) in [(0, Some(Code::Unavailable)), (4, None)] {
        mesh.unsubscribe(LinkId(1), sessions[leaves], key().name);
        told(&mut mesh);
        assert_eq!(joins(&mut mesh, 2), then);
    }
    mesh.detach(LinkId(1), sessions[1], false);
    assert_eq!(mesh.rooms.most.len(), 3, "nothing is left of a session that is over");
}
