//! Rooms between starts, on a disk that changes a row, and between releases.

use super::*;
use crate::store::maintenance;
use crate::store::testing::agent;
use crate::wire::ids::{MessageId, Namespace, NodeName, RoomName};
use crate::wire::record::{KnownRoom, RoomMessage};
use crate::wire::room::{Position, RoomKey};

fn key(name: &str) -> RoomKey {
    RoomKey::new(Namespace::new("trishula").unwrap(), RoomName::new(name).unwrap())
}

fn at(n: u64) -> Position {
    Position { incarnation: Incarnation(1_767_225_600_000), n }
}

fn message(origin: &str, n: u64) -> RoomMessage {
    RoomMessage {
        origin: NodeName::new(origin).unwrap(),
        at: at(n),
        after: Position::default(),
        from: agent("a").agent,
        id: MessageId::new(&format!("{origin}-{n}")).unwrap(),
        taken: n << 16,
        kept_ms: n,
        payload: bytes::Bytes::from(vec![n as u8; 3000]),
    }
}

fn keep(room: &str, origin: &str, n: u64) -> Record {
    Record::RoomKeep(key(room), Box::new(message(origin, n)))
}

#[tokio::test]
async fn rooms_come_back_as_they_were_written_last() {
    // covers B07, T10
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 1).unwrap();
    let (dc, agni) = (NodeName::new("dc").unwrap(), NodeName::new("agni").unwrap());
    let mut writes = vec![keep("x/1:a", "dc", 1), keep("x/1:a", "agni", 1), keep("x/1:a", "dc", 2)];
    writes.extend([keep("gone", "dc", 3), Record::RoomFloor(key("gone"), dc.clone(), at(3))]);
    writes.push(Record::RoomFloor(key("x/1:a"), dc.clone(), at(1)));
    writes.extend([keep("x/1:a", "dc", 4), Record::RoomGone(key("gone"))]);
    write_all(&mut store, writes).await;
    close(store).await;
    let store = open(folder.path(), 2).unwrap();
    let messages = vec![message("agni", 1), message("dc", 2), message("dc", 4)];
    let known = KnownRoom { floors: [(dc.clone(), at(1))].into(), messages, ..KnownRoom::default() };
    assert_eq!(store.memory.rooms, [(key("x/1:a"), known)].into());
    close(store).await;
    // A disk changes a row: that message and those before it count as dropped, others are as they were.
    let connection = Connection::open(file::database(folder.path())).unwrap();
    connection
        .execute("UPDATE room_message SET payload = zeroblob(3000) WHERE origin = 'dc' AND n = 2", [])
        .unwrap();
    drop(connection);
    let store = open(folder.path(), 3).unwrap();
    let room = &store.memory.rooms[&key("x/1:a")];
    assert_eq!(room.messages, [message("agni", 1), message("dc", 4)]);
    assert_eq!((room.floors[&dc], room.floors.get(&agni)), (at(3), None), "up to the next good one");
}

#[tokio::test]
async fn a_damaged_place_is_not_believed_and_a_late_floor_moves_nothing_back() {
    // covers B07, T10
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 1).unwrap();
    let dc = NodeName::new("dc").unwrap();
    let floor = |n| Record::RoomFloor(key("a"), dc.clone(), at(n));
    let after = RoomMessage { after: at(4), ..message("dc", 7) };
    let mut writes = vec![floor(3), floor(2), keep("a", "dc", 4)];
    writes.push(Record::RoomKeep(key("a"), Box::new(after.clone())));
    writes.extend([keep("b", "dc", 1), keep("b", "dc", 2)]);
    write_all(&mut store, writes).await;
    close(store).await;
    let connection = Connection::open(file::database(folder.path())).unwrap();
    let flip = "UPDATE room_message SET n = n + (1 << 62) WHERE room LIKE '%:b' AND n = 1";
    assert_eq!(connection.execute(flip, []).unwrap(), 1);
    drop(connection);
    let store = open(folder.path(), 2).unwrap();
    let room = &store.memory.rooms[&key("a")];
    assert_eq!(room.messages, [message("dc", 4), after]);
    assert_eq!(room.floors[&dc], at(3), "the later one");
    let room = &store.memory.rooms[&key("b")];
    assert_eq!((&room.messages[..], room.floors.get(&dc)), (&[message("dc", 2)][..], None));
}

#[tokio::test]
async fn a_file_with_rooms_goes_down_and_up_again() {
    // covers B26
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 1).unwrap();
    write_all(&mut store, vec![keep("a", "dc", 1)]).await;
    close(store).await;
    let mut connection = Connection::open(file::database(folder.path())).unwrap();
    assert_eq!(schema::loses(&connection, 4).unwrap(), ["1 messages of rooms"]);
    assert_eq!(schema::migrate(&mut connection, 4).unwrap(), SCHEMA);
    assert_eq!(schema::migrate(&mut connection, SCHEMA).unwrap(), 4);
    drop(connection);
    assert!(open(folder.path(), 2).unwrap().memory.rooms.is_empty());
}

/// Changes the text of a message as a bad disk would.
fn damage(folder: &Path, room: &str, n: u64) {
    let connection = Connection::open(file::database(folder)).unwrap();
    let sql = "UPDATE room_message SET payload = zeroblob(3000) WHERE room = ?1 AND n = ?2";
    let room = key(room).to_string();
    assert_eq!(connection.execute(sql, rusqlite::params![room, n as i64]).unwrap(), 1);
}

#[tokio::test]
async fn a_line_whose_end_is_damaged_has_a_hole_that_is_known_until_it_is_filled() {
    // covers B07, B26, T10
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 1).unwrap();
    let (dc, agni) = (NodeName::new("dc").unwrap(), NodeName::new("agni").unwrap());
    let mut writes: Vec<Record> = (1..=4).map(|n| keep("a", "dc", n)).collect();
    writes.extend([keep("a", "agni", 7), keep("b", "dc", 5)]);
    write_all(&mut store, writes).await;
    close(store).await;
    for (room, n) in [("a", 3), ("a", 4), ("b", 5)] {
        damage(folder.path(), room, n);
    }
    for _ in 0..2 {
        let store = open(folder.path(), 2).unwrap();
        let room = &store.memory.rooms[&key("a")];
        assert_eq!(room.messages, [message("agni", 7), message("dc", 1), message("dc", 2)]);
        assert_eq!((room.holes.get(&dc), room.holes.get(&agni)), (Some(&at(4)), None));
        let other = &store.memory.rooms[&key("b")];
        assert!(other.messages.is_empty() && other.holes[&dc] > Position::default());
        let health = store.health.borrow().clone();
        assert_eq!((health.quarantined, health.quarantined_alone), (3, 3), "once put aside it is no news");
        assert_eq!((store.damaged.clone(), store.memory.rooms.len()), (None, 2));
        close(store).await;
    }
    let survey = maintenance::survey(folder.path(), true).unwrap();
    assert_eq!(survey.damage, None);
    let aside = survey.aside.iter().find(|aside| aside.id == "dc-4").unwrap();
    assert_eq!((aside.to.as_str(), aside.why.as_str()), ("trishula/room:a", "its checksum does not match"));
    assert!(aside.rest.contains("another node that keeps the room"), "{}", aside.rest);
    // Another node had the last one of b, and of a something newer was published: that line begins behind the hole.
    let mut store = open(folder.path(), 3).unwrap();
    write_all(&mut store, vec![keep("b", "dc", 5), keep("a", "dc", 9)]).await;
    close(store).await;
    let store = open(folder.path(), 4).unwrap();
    let room = &store.memory.rooms[&key("a")];
    assert_eq!(room.messages, [message("agni", 7), message("dc", 9)]);
    assert_eq!((room.floors.get(&dc), room.holes.get(&dc)), (Some(&at(8)), None));
    close(store).await;
    let saved = maintenance::salvage(folder.path(), None).unwrap();
    let rows = saved.iter().find(|saved| saved.table == "room_message").unwrap().rows;
    assert!(rows >= 3, "rooms are saved with the rest: {saved:?}");
}
