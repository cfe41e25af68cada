//! What the disk refuses, and what is known after it.

use std::collections::BTreeMap;

use super::*;
use crate::mesh::rooms::Waiting;
use crate::mesh::{Config, Ticket, Time};
use crate::wire::envelope::{Head, Kind, Target};
use crate::wire::frame::RoomEntry;
use crate::wire::ids::RoomName;
use crate::wire::record::{KnownRoom, Memory, Record};
use crate::wire::room::RoomKey;

const DAY_MS: u64 = 24 * 3600 * 1000;

pub(super) fn key() -> RoomKey {
    RoomKey::new(Namespace::new("trishula").unwrap(), RoomName::new("deploys").unwrap())
}

pub(super) fn with_rooms(rooms: BTreeMap<RoomKey, KnownRoom>) -> Mesh {
    let memory = Memory { rooms, ..Memory::default() };
    Mesh::new(Config::new(node("dc"), Incarnation(2)), Time(0), 400 * DAY_MS, memory)
}

/// What is to be written.
pub(super) fn writes(mesh: &mut Mesh) -> Vec<(Ticket, Record)> {
    let outputs = std::iter::from_fn(|| mesh.poll_output());
    let writes = outputs.filter_map(|output| match output {
        Output::Persist(ticket, record) => Some((ticket, record)),
        _ => None,
    });
    writes.collect()
}

pub(super) fn publish(mesh: &mut Mesh, id: &str) {
    let key = key();
    mesh.keep_room(&key, None).unwrap();
    let from = message("dc", 1, 1, "m").from;
    let to = Target::Room(key.namespace.clone(), key.name.clone());
    let head = Head::new(from, to, MessageId::new(id).unwrap(), Kind::Status);
    mesh.publish_now((LinkId(1), SessionNo(1)), &key, head, Bytes::from_static(b"{}"));
}

fn entry(n: u64) -> RoomEntry {
    let RoomMessage { origin, from, id, taken, .. } = message("agni", n, n, &format!("m-{n}"));
    let (to, by) = (vec![node("dc")], origin.clone());
    let after = if n == 1 { Position::default() } else { at(n - 1) };
    RoomEntry { to, by, hops_left: 1, room: key(), origin, at: at(n), after, from, id, taken }
}

#[test]
fn a_room_that_is_made_anew_is_not_erased_by_what_the_disk_refused_before() {
    // covers B07, T10
    let mut mesh = with_rooms(BTreeMap::new());
    mesh.write_room(Record::RoomGone(key()));
    let refused = writes(&mut mesh)[0].0;
    publish(&mut mesh, "m-1");
    mesh.rooms_persisted(refused, Some("the disk is full"));
    for (ticket, record) in writes(&mut mesh) {
        assert!(matches!(record, Record::RoomKeep(..)), "{record:?}");
        mesh.rooms_persisted(ticket, None);
    }
    mesh.write_rooms_again();
    assert!(writes(&mut mesh).is_empty(), "nothing is erased");
    assert_eq!(mesh.rooms_view().messages, 1);
}

#[test]
fn what_comes_after_a_refused_write_is_not_said_to_be_written() {
    // covers B07, T10
    let mut mesh = with_rooms(BTreeMap::new());
    mesh.keep_room(&key(), None).unwrap();
    let written = |mesh: &Mesh| mesh.rooms.kept[&key()].log.lines[&node("agni")].written.n;
    for n in 1..=6 {
        mesh.take_entry(entry(n), Bytes::from_static(b"{}"));
        for (ticket, _) in writes(&mut mesh) {
            mesh.rooms_persisted(ticket, (n == 5).then_some("the disk is full"));
        }
    }
    assert_eq!(written(&mesh), 4, "6 is on disk, and 5 is not");
    mesh.write_rooms_again();
    let again = writes(&mut mesh);
    let Record::RoomKeep(_, message) = &again[0].1 else { panic!("{again:?}") };
    assert_eq!((message.at, message.after), (at(5), at(4)));
    assert_eq!(written(&mesh), 4, "it is under way");
    mesh.rooms_persisted(again[0].0, None);
    assert_eq!(written(&mesh), 6);
}

#[test]
fn a_hole_on_disk_is_told_after_a_restart() {
    // covers B07, T10
    let messages =
        [1, 2, 4].map(|n| RoomMessage { after: at(n - 1), ..message("agni", n, n, &format!("{n}")) });
    let known = KnownRoom { messages: messages.to_vec(), ..KnownRoom::default() };
    let mut mesh = with_rooms([(key(), known)].into());
    let log = &mesh.rooms.kept[&key()].log;
    let missed = log.since(&vector(&[("agni", 2)]));
    assert!(!missed.recovered, "3 is missing");
    assert_eq!(ids(&missed.messages), ["4"]);
    assert_eq!(log.lines[&node("agni")].written, at(4));
    let floor = Record::RoomFloor(key(), node("agni"), at(3));
    assert_eq!(writes(&mut mesh).into_iter().map(|(_, record)| record).collect::<Vec<_>>(), [floor]);
}

#[test]
fn a_gap_is_told_after_the_room_was_forgotten_and_after_a_restart_too() {
    // covers B07
    let kept = |n| RoomMessage { kept_ms: n, ..message("agni", n, n, &format!("{n}")) };
    let known = KnownRoom { messages: (10..=20).map(kept).collect(), ..KnownRoom::default() };
    let mut mesh = with_rooms([(key(), known)].into());
    let mut disk = KnownRoom::default();
    // All are too old; the room is forgotten when nobody has wanted it for a minute.
    mesh.look_after_old_rooms();
    mesh.now = Time(61_000_000);
    mesh.look_after_old_rooms();
    writes(&mut mesh).iter().for_each(|(_, record)| disk.note(record));
    assert_eq!((mesh.rooms_view().rooms, mesh.rooms_view().forgotten), (0, 1));
    let mut restarted = with_rooms([(key(), disk)].into());
    for mesh in [&mut mesh, &mut restarted] {
        assert_eq!(mesh.rooms_view().rooms, 0);
        mesh.keep_room(&key(), None).unwrap();
        let log = &mesh.rooms.kept[&key()].log;
        assert!(!log.since(&vector(&[("agni", 10)])).recovered);
        assert!(log.since(&vector(&[("agni", 20)])).recovered);
        assert_eq!(mesh.rooms_view().forgotten, 0);
    }
}

#[test]
fn how_far_a_forgotten_room_reached_is_known_for_30_days() {
    // covers B07, Q06
    let mut mesh = with_rooms(BTreeMap::new());
    mesh.remember_reach(key(), [(node("agni"), at(20))].into());
    mesh.wall.1 += 30 * DAY_MS;
    mesh.look_after_old_rooms();
    assert!(writes(&mut mesh).is_empty());
    mesh.wall.1 += 1;
    mesh.look_after_old_rooms();
    assert_eq!(writes(&mut mesh)[0].1, Record::RoomGone(key()));
    assert!(mesh.rooms.waiting.values().all(|waiting| matches!(waiting, Waiting::Dropped(_))));
    // As many as there is room for: the oldest are given up.
    let mut forgotten = crate::mesh::rooms::forgotten::Forgotten::default();
    let name = |n| RoomKey { name: RoomName::new(&format!("r{n}")).unwrap(), ..key() };
    let gone = (0..16_385).flat_map(|n| forgotten.put(name(n), [(node("agni"), at(1))].into(), n));
    assert_eq!(gone.collect::<Vec<_>>(), [name(0)]);
}

#[test]
fn what_is_lost_at_the_end_of_a_line_is_told_until_another_node_fills_it() {
    // covers B07, T10, B26
    let chain = |origin: &str, n| RoomMessage {
        after: if n == 1 { Position::default() } else { at(n - 1) },
        ..message(origin, n, n, &format!("m-{n}"))
    };
    let known = KnownRoom {
        messages: vec![chain("agni", 1), chain("agni", 2), message("dc", 4, 4, "own")],
        holes: [(node("agni"), at(3)), (node("dc"), at(5))].into(),
        ..KnownRoom::default()
    };
    let mut mesh = with_rooms([(key(), known)].into());
    let since = |mesh: &Mesh, agni, dc| {
        let caught_up = mesh.rooms.kept[&key()].log.since(&vector(&[("agni", agni), ("dc", dc)]));
        (caught_up.recovered, ids(&caught_up.messages), caught_up.cursor)
    };
    let has = |id: &str| vec![id.to_owned()];
    assert_eq!(since(&mesh, 1, 5), (false, has("m-2"), vector(&[("agni", 1), ("dc", 5)])));
    assert_eq!(since(&mesh, 2, 5), (false, vec![], vector(&[("agni", 3), ("dc", 5)])), "told once");
    assert!(since(&mesh, 3, 5).0, "who has got it misses nothing");
    assert!(!since(&mesh, 3, 4).0);
    // Who wants only what is new begins behind it, and is not told later.
    let reached = mesh.rooms.kept[&key()].reached();
    assert_eq!((reached.get(&node("agni")), reached.get(&node("dc"))), (at(3), at(5)));
    // Another node still has the one, and what this one publishes now does not fill the other.
    mesh.take_entry(entry(3), Bytes::from_static(b"m-3"));
    publish(&mut mesh, "next");
    for (ticket, _) in writes(&mut mesh) {
        mesh.rooms_persisted(ticket, None);
    }
    let (recovered, missed, _) = since(&mesh, 2, 5);
    assert_eq!((recovered, missed.len()), (true, 2));
    assert!(!since(&mesh, 3, 4).0);
}

#[test]
fn a_room_of_which_all_is_lost_is_not_taken_for_a_new_one() {
    // covers B07, T10, B26
    let known = KnownRoom { holes: [(node("agni"), at(3))].into(), ..KnownRoom::default() };
    let mut mesh = with_rooms([(key(), known)].into());
    assert_eq!((mesh.rooms_view().rooms, mesh.rooms_view().forgotten), (0, 1));
    mesh.keep_room(&key(), None).unwrap();
    let log = &mesh.rooms.kept[&key()].log;
    assert!(!log.since(&vector(&[("agni", 2)])).recovered && log.since(&vector(&[("agni", 3)])).recovered);
}
