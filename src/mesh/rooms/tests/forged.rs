//! Cursors that say more than there is, or were never this room's.

use std::collections::BTreeMap;
use std::time::Duration;

use super::disk::{key, with_rooms, writes};
use super::newness::{comes, given, keeps, passes, says};
use super::*;
use crate::gateway::readers::{Deed, Readers, Wish};
use crate::wire::envelope::{Head, Kind, Target};

/// A place of this node's, in a life of its.
fn own(incarnation: u64, n: u64) -> Vector {
    let place = Position { incarnation: Incarnation(incarnation), n };
    Vector { at: [(node("dc"), place)].into(), cut: false }
}

/// Somebody publishes here, and the disk writes it.
fn published(mesh: &mut Mesh, id: &str) {
    let key = key();
    mesh.keep_room(&key, None).unwrap();
    let to = Target::Room(key.namespace.clone(), key.name.clone());
    let head = Head::new(message("dc", 1, 1, "m").from, to, MessageId::new(id).unwrap(), Kind::Status);
    mesh.publish_now((LinkId(1), SessionNo(9)), &key, head, Bytes::from_static(b"{\"n\":1}"));
    writes(mesh).iter().for_each(|(ticket, _)| mesh.rooms_persisted(*ticket, None));
}

/// A room with three messages of another node's, which can be reached.
fn room_of_agni() -> Mesh {
    let mut mesh = with_rooms(BTreeMap::new());
    reach(&mut mesh, &["agni"]);
    keeps(&mut mesh, "agni");
    mesh.keep_room(&key(), None).unwrap();
    says(&mut mesh, "agni", 3);
    (1..=3).for_each(|n| comes(&mut mesh, "agni", n));
    says(&mut mesh, "agni", 3);
    told(&mut mesh);
    mesh
}

/// A room in which this node's publishes are the first and the third of its second life; the second one was in another room.
fn room() -> Mesh {
    let mut mesh = with_rooms(BTreeMap::new());
    published(&mut mesh, "m-1");
    mesh.rooms.last += 1;
    published(&mut mesh, "m-3");
    told(&mut mesh);
    mesh
}

#[test]
fn places_that_this_node_never_gave_are_told_and_whoever_came_with_them_hears_what_is_new() {
    // covers B07, B19
    let far = u64::MAX;
    // The cursor, whether it is one of this room's, how many messages follow, and where the session stands before them.
    let cases = [
        (own(2, 1), true, 1, own(2, 1)),
        (own(2, 3), true, 0, own(2, 3)),
        (own(2, 2), false, 1, own(2, 2)),
        (own(2, 4), false, 0, own(2, 3)),
        (own(2, far), false, 0, own(2, 3)),
        (own(3, 1), false, 0, own(2, 3)),
        (own(far, far), false, 0, own(2, 3)),
        (own(1, 7), false, 2, own(1, 7)),
    ];
    for (cursor, recovered, missed, place) in cases {
        let mut mesh = room();
        let reader = session(&mut mesh, 1, "a");
        let mut readers = Readers::default();
        let (room, given_cursor) = (key(), Some(cursor.clone()));
        let wish = Wish { room, id: None, cursor: given_cursor, history: 0, presence: false, most: None };
        readers.subscribe(reader, wish, true);
        let Some(Deed::Send(Frame::RoomSubscribe(subscribe))) = readers.poll() else {
            panic!("it subscribes")
        };
        mesh.subscribe(LinkId(1), subscribe);
        let frames = told(&mut mesh);
        let joined = answer(&frames);
        let said = (joined.recovered, joined.messages.len(), &joined.cursor);
        assert_eq!(said, (recovered, missed, &place), "{cursor:?}");
        assert_eq!(given(&mut readers, frames).len(), missed);
        published(&mut mesh, "m-4");
        let frames = told(&mut mesh);
        assert_eq!(given(&mut readers, frames), [own(2, 4)], "{cursor:?}");
    }
}

#[test]
fn a_place_beyond_what_a_node_in_reach_has_published_is_told() {
    // covers B07, B19
    let mut mesh = room_of_agni();
    let [made_up, ahead] = [1, 2].map(|no| session(&mut mesh, no, &format!("a{no}")));
    told(&mut mesh);
    mesh.subscribe(LinkId(1), from(made_up, vector(&[("agni", 50)])));
    mesh.subscribe(LinkId(1), from(ahead, vector(&[("agni", 4)])));
    assert!(told(&mut mesh).is_empty(), "agni is asked");
    // That answer was on its way when they came: nothing is made of it.
    says(&mut mesh, "agni", 3);
    assert!(told(&mut mesh).is_empty());
    says(&mut mesh, "agni", 3);
    let frames = told(&mut mesh);
    assert_eq!((answer(&frames).session, answer(&frames).recovered), (made_up, false));
    assert_eq!(answer(&frames).cursor, vector(&[("agni", 3)]));
    // Of the second one two answers might have been.
    says(&mut mesh, "agni", 4);
    let frames = told(&mut mesh);
    assert_eq!((answer(&frames).session, answer(&frames).recovered), (ahead, true));
    assert_eq!(answer(&frames).cursor, vector(&[("agni", 4)]), "it comes from agni, and misses nothing");
}

#[test]
fn a_place_of_a_node_that_is_silent_or_out_of_reach_is_believed() {
    // covers B07
    let beyond = vector(&[("agni", 50)]);
    let mut mesh = room_of_agni();
    let [reader, leaves] = [1, 2].map(|no| session(&mut mesh, no, &format!("a{no}")));
    mesh.subscribe(LinkId(1), from(reader, beyond.clone()));
    mesh.subscribe(LinkId(1), from(leaves, beyond.clone()));
    mesh.unsubscribe(LinkId(1), leaves, key().name);
    passes(&mut mesh, Duration::from_secs(2));
    let frames = told(&mut mesh);
    assert_eq!((answer(&frames).session, &answer(&frames).cursor), (reader, &beyond));
    assert!(answer(&frames).recovered);
    assert_eq!(mesh.rooms_view().subscriptions, 1, "who left meanwhile is not there");
    // Nobody to ask.
    let mut mesh = with_rooms(BTreeMap::new());
    let reader = session(&mut mesh, 1, "a");
    mesh.subscribe(LinkId(1), from(reader, beyond.clone()));
    let frames = told(&mut mesh);
    assert!(answer(&frames).recovered && answer(&frames).cursor == beyond);
}

#[test]
fn no_place_is_too_far_to_be_asked_about() {
    // covers B19
    let mesh = room();
    let log = &mesh.rooms.kept[&key()].log;
    for cursor in [own(u64::MAX, u64::MAX), own(0, 0), own(2, u64::MAX), Vector { cut: true, ..own(9, 9) }] {
        assert!(log.page_after(&cursor, 9, 999).messages.len() <= 2);
        assert!(log.page_before(&cursor, 9, 999).messages.len() <= 2);
    }
    assert_eq!(log.page_before(&own(u64::MAX, 1), 9, 999).messages.len(), 2, "all that came before it");
    assert!(!log.since(&Vector { cut: true, ..own(9, 9) }).recovered);
}
