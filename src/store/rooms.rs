//! Rooms: the messages of each, and how far what is kept no more reaches.

use std::collections::BTreeMap;

use bytes::Bytes;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use super::load::blob;
use crate::wire::envelope::Target;
use crate::wire::ids::{AgentAddr, Incarnation, MessageId, Namespace, NodeName};
use crate::wire::record::{KnownRoom, Record, RoomMessage};
use crate::wire::room::{Position, RoomKey};

/// What is written of a message beside its place and its text.
#[derive(Serialize, Deserialize)]
struct Head {
    from: AgentAddr,
    id: MessageId,
    taken: u64,
    kept_ms: u64,
}

/// Writes one record about a room.
pub(super) fn write(connection: &Connection, record: &Record) -> rusqlite::Result<()> {
    match record {
        Record::RoomKeep(key, message) => keep(connection, key, message),
        Record::RoomFloor(key, origin, at) => floor(connection, &key.to_string(), origin.as_str(), *at),
        Record::RoomGone(key) => {
            let room = key.to_string();
            connection.prepare_cached("DELETE FROM room_message WHERE room = ?1")?.execute([&room])?;
            connection.prepare_cached("DELETE FROM room_floor WHERE room = ?1")?.execute([&room])?;
            Ok(())
        }
        _ => Ok(()),
    }
}

fn keep(connection: &Connection, key: &RoomKey, message: &RoomMessage) -> rusqlite::Result<()> {
    let RoomMessage { origin, at, after, from, id, taken, kept_ms, payload } = message;
    let head = Head { from: from.clone(), id: id.clone(), taken: *taken, kept_ms: *kept_ms };
    let head = postcard::to_allocvec(&(head, after))
        .map_err(|why| rusqlite::Error::ToSqlConversionFailure(Box::new(why)))?;
    let room = key.to_string();
    let sum = sum(&room, origin.as_str(), *at, &head, payload);
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO room_message (room, origin, incarnation, n, head, sum, payload)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            room,
            origin.as_str(),
            at.incarnation.0 as i64,
            at.n as i64,
            head,
            sum,
            &payload[..]
        ])?;
    Ok(())
}

fn floor(connection: &Connection, room: &str, origin: &str, at: Position) -> rusqlite::Result<()> {
    let (incarnation, n) = (at.incarnation.0 as i64, at.n as i64);
    connection
        .prepare_cached(
            "DELETE FROM room_message WHERE room = ?1 AND origin = ?2 AND (incarnation, n) <= (?3, ?4)",
        )?
        .execute(params![room, origin, incarnation, n])?;
    connection
        // One that could not be written at first comes late: it never moves a floor back.
        .prepare_cached(
            "INSERT INTO room_floor VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (room, origin) DO UPDATE SET incarnation = excluded.incarnation, n = excluded.n
             WHERE (excluded.incarnation, excluded.n) > (room_floor.incarnation, room_floor.n)",
        )?
        .execute(params![room, origin, incarnation, n])?;
    Ok(())
}

fn sum(room: &str, origin: &str, at: Position, head: &[u8], payload: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    for part in [room, origin] {
        sum.update(&(part.len() as u64).to_le_bytes());
        sum.update(part.as_bytes());
    }
    sum.update(&at.incarnation.0.to_le_bytes());
    sum.update(&at.n.to_le_bytes());
    sum.update(&(head.len() as u64).to_le_bytes());
    sum.update(head);
    sum.update(payload);
    sum.finalize()
}

/// Reads all rooms. A message that is damaged, and those of its origin before it, count as dropped: whoever has not got them
/// is told. Nothing is believed of a damaged row, least of all its place: the line begins where the next good one does.
pub(super) fn load(
    connection: &Connection,
    rooms: &mut BTreeMap<RoomKey, KnownRoom>,
) -> rusqlite::Result<()> {
    let mut select = connection.prepare("SELECT room, origin, incarnation, n FROM room_floor")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (room, origin): (String, String) = (row.get(0)?, row.get(1)?);
        if let (Some(key), Ok(origin)) = (read_room(&room), NodeName::new(&origin)) {
            rooms.entry(key).or_default().floors.insert(origin, position(row.get(2)?, row.get(3)?));
        }
    }
    let mut select = connection.prepare(
        "SELECT room, origin, incarnation, n, head, sum, payload FROM room_message
         ORDER BY room, origin, incarnation, n",
    )?;
    let mut rows = select.query([])?;
    let mut damaged: Option<(RoomKey, NodeName)> = None;
    while let Some(row) = rows.next()? {
        let (room, name): (String, String) = (row.get(0)?, row.get(1)?);
        let (Some(key), Ok(origin)) = (read_room(&room), NodeName::new(&name)) else {
            tracing::warn!(room, origin = name, "the store has a message of no room; it is left alone");
            continue;
        };
        let at = position(row.get(2)?, row.get(3)?);
        let head = blob(row.get_ref(4)?).unwrap_or_default();
        let payload = blob(row.get_ref(6)?).unwrap_or_default();
        let whole = row.get::<_, i64>(5).ok() == Some(i64::from(sum(&room, &name, at, &head, &payload)));
        let known = rooms.entry(key.clone()).or_default();
        match read_head(&head) {
            Some((Head { from, id, taken, kept_ms }, after)) if whole => {
                if damaged.take_if(|(room, line)| *room == key && *line == origin).is_some() {
                    let before = Position { n: at.n.saturating_sub(1), ..at };
                    let floor = if after == Position::default() { before } else { after };
                    known.note(&Record::RoomFloor(key, origin.clone(), floor));
                }
                let payload = Bytes::from(payload);
                known.messages.push(RoomMessage { origin, at, after, from, id, taken, kept_ms, payload });
            }
            _ => {
                tracing::warn!(%key, %origin, n = at.n, "a message of a room is damaged; it and those before it are dropped");
                damaged = Some((key, origin));
            }
        }
    }
    Ok(())
}

/// A release that did not write the place before left it out.
fn read_head(bytes: &[u8]) -> Option<(Head, Position)> {
    let (head, rest) = postcard::take_from_bytes::<Head>(bytes).ok()?;
    let after = if rest.is_empty() { Some(Position::default()) } else { postcard::from_bytes(rest).ok() };
    Some((head, after?))
}

fn position(incarnation: i64, n: i64) -> Position {
    Position { incarnation: Incarnation(incarnation as u64), n: n as u64 }
}

/// Reads `namespace/room:name`.
fn read_room(text: &str) -> Option<RoomKey> {
    let home = Namespace::new(text.split_once('/')?.0).ok()?;
    match Target::parse(text, &home).ok()? {
        Target::Room(namespace, name) => Some(RoomKey::new(namespace, name)),
        _ => None,
    }
}
