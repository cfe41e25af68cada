//! Rooms: the messages of each, and how far what is kept no more reaches.

use std::collections::BTreeMap;

use bytes::Bytes;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use super::load::blob;
use super::row::Rest;
use crate::wire::envelope::Target;
use crate::wire::ids::{AgentAddr, Incarnation, MessageId, Namespace, NodeName};
use crate::wire::record::{KnownRoom, Record, RoomMessage};
use crate::wire::room::{Position, RoomKey};

/// What is wrong with a row that says something else than was written.
const WRONG_SUM: &str = "its checksum does not match";

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

/// What a disk has changed of rooms.
#[derive(Debug, Default)]
pub(super) struct Damage {
    rows: Vec<BadRow>,
    /// Lines of which nothing up to a place is left, as something in their middle is lost.
    begun: Vec<(RoomKey, NodeName, Position)>,
    /// Lines whose end is lost, and the least place that this can have had.
    ended: Vec<(RoomKey, NodeName, Position)>,
}

/// A row that says something else than its checksum.
#[derive(Debug)]
struct BadRow {
    row: i64,
    why: &'static str,
    /// What its sender called it, and that one, as far as they can be read.
    message: Option<(String, String)>,
}

impl Damage {
    pub(super) fn is_none(&self) -> bool {
        self.rows.is_empty() && self.begun.is_empty() && self.ended.is_empty()
    }
}

/// One line as far as it has been read.
struct Line {
    key: RoomKey,
    origin: NodeName,
    /// Its last good message, or the last place of which nothing is kept.
    last: Position,
    /// Damaged rows since then, and what an earlier start knew to be lost there.
    damaged: u64,
    mark: Position,
}

impl Line {
    /// The least place that what is lost after the last good message can have had; the least of all: nothing is lost.
    fn hole(&self) -> Position {
        match self.damaged {
            0 => self.mark,
            // Each place is higher than the one before it; what the rows themselves say is not believed.
            more => self.mark.max(Position { n: self.last.n.saturating_add(more), ..self.last }),
        }
    }

    /// A good message comes next: what was lost before it, if anything was.
    fn goes_on(&mut self, at: Position, after: Position) -> Option<Position> {
        let hole = self.hole();
        let follows = after != Position::default() && after <= self.last;
        (self.last, self.damaged, self.mark) = (at, 0, Position::default());
        if hole == Position::default() || follows {
            return None;
        }
        let before = Position { n: at.n.saturating_sub(1), ..at };
        Some(if after == Position::default() { before } else { after })
    }

    fn ends(self, rooms: &mut BTreeMap<RoomKey, KnownRoom>, damage: &mut Damage) {
        let hole = self.hole();
        if hole == Position::default() {
            return;
        }
        rooms.entry(self.key.clone()).or_default().holes.insert(self.origin.clone(), hole);
        if self.damaged > 0 {
            damage.ended.push((self.key, self.origin, hole));
        }
    }
}

/// Reads all rooms, and finds damaged rows. Nothing is believed of these, least of all their places. Where a good message of
/// its origin follows, a damaged one and those before it count as dropped; where none does, the line has a hole at its end.
/// Either way, whoever has not got them is told.
pub(super) fn load(
    connection: &Connection,
    rooms: &mut BTreeMap<RoomKey, KnownRoom>,
) -> rusqlite::Result<Damage> {
    load_floors(connection, rooms)?;
    let mut select = connection.prepare(
        "SELECT room, origin, incarnation, n, head, sum, payload, row FROM room_message
         ORDER BY room, origin, incarnation, n",
    )?;
    let mut rows = select.query([])?;
    let mut damage = Damage::default();
    let mut line: Option<Line> = None;
    while let Some(row) = rows.next()? {
        let (room, name): (String, String) = (row.get(0)?, row.get(1)?);
        let (Some(key), Ok(origin)) = (read_room(&room), NodeName::new(&name)) else {
            tracing::warn!(room, origin = name, "the store has a message of no room; it is left alone");
            continue;
        };
        if let Some(before) = line.take_if(|line| line.key != key || line.origin != origin) {
            before.ends(rooms, &mut damage);
        }
        let known = rooms.entry(key.clone()).or_default();
        let line = line.get_or_insert_with(|| Line {
            last: known.floors.get(&origin).copied().unwrap_or_default(),
            key: key.clone(),
            origin: origin.clone(),
            damaged: 0,
            mark: Position::default(),
        });
        let at = position(row.get(2)?, row.get(3)?);
        let head = blob(row.get_ref(4)?).unwrap_or_default();
        let payload = blob(row.get_ref(6)?).unwrap_or_default();
        let whole = row.get::<_, i64>(5).ok() == Some(i64::from(sum(&room, &name, at, &head, &payload)));
        match read_head(&head) {
            _ if whole && head.is_empty() => line.mark = at,
            Some((Head { from, id, taken, kept_ms }, after)) if whole => {
                if let Some(begins) = line.goes_on(at, after) {
                    known.note(&Record::RoomFloor(key.clone(), origin.clone(), begins));
                    damage.begun.push((key, origin.clone(), begins));
                }
                let payload = Bytes::from(payload);
                known.messages.push(RoomMessage { origin, at, after, from, id, taken, kept_ms, payload });
            }
            read => {
                line.damaged += 1;
                let why = if whole { "its head is of a form that is not known" } else { WRONG_SUM };
                tracing::error!(%key, %origin, why, "a message of a room is damaged on disk; it is put aside, and readers are told if no other node has it");
                let message = read.map(|(head, _)| (head.id.as_str().to_owned(), head.from.to_string()));
                damage.rows.push(BadRow { row: row.get(7)?, why, message });
            }
        }
    }
    if let Some(last) = line {
        last.ends(rooms, &mut damage);
    }
    Ok(damage)
}

fn load_floors(connection: &Connection, rooms: &mut BTreeMap<RoomKey, KnownRoom>) -> rusqlite::Result<()> {
    let mut select = connection.prepare("SELECT room, origin, incarnation, n FROM room_floor")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (room, origin): (String, String) = (row.get(0)?, row.get(1)?);
        if let (Some(key), Ok(origin)) = (read_room(&room), NodeName::new(&origin)) {
            rooms.entry(key).or_default().floors.insert(origin, position(row.get(2)?, row.get(3)?));
        }
    }
    Ok(())
}

/// Puts damaged rows into quarantine, and writes what their lines are without them: the next start finds no damage, and must
/// know of the holes.
pub(super) fn set_aside(connection: &Connection, damage: &Damage, wall_ms: u64) -> rusqlite::Result<()> {
    // A row whose place has changed is not in the index any more, and could not be deleted.
    connection.execute_batch("DROP INDEX room_message_place")?;
    for bad in &damage.rows {
        let (id, sender) = bad.message.clone().unzip();
        connection.execute(
            "INSERT INTO quarantine (at_ms, why, id, sender, recipient, ord, place, bytes, head, payload, rest)
             SELECT ?2, ?3, ?4, coalesce(?5, origin), room, n, 'room', length(payload), head, payload, ?6
             FROM room_message WHERE row = ?1",
            params![bad.row, wall_ms as i64, bad.why, id, sender, Rest::Keepers.code()],
        )?;
        connection.execute("DELETE FROM room_message WHERE row = ?1", [bad.row])?;
    }
    connection.execute_batch(
        "DELETE FROM room_message WHERE row NOT IN (
             SELECT max(row) FROM room_message GROUP BY room, origin, incarnation, n);
         CREATE UNIQUE INDEX room_message_place ON room_message (room, origin, incarnation, n);",
    )?;
    for (key, origin, at) in &damage.begun {
        floor(connection, &key.to_string(), origin.as_str(), *at)?;
    }
    for (key, origin, at) in &damage.ended {
        mark(connection, &key.to_string(), origin, *at)?;
    }
    Ok(())
}

/// A row without a head stands for a hole at the end of a line: it goes like any other row when the floor passes it, and when
/// the message of that place comes from another node. An older release takes it for a damaged message, which says the same.
fn mark(connection: &Connection, room: &str, origin: &NodeName, at: Position) -> rusqlite::Result<()> {
    let sum = sum(room, origin.as_str(), at, &[], &[]);
    let (incarnation, n) = (at.incarnation.0 as i64, at.n as i64);
    connection.execute(
        "INSERT OR IGNORE INTO room_message (room, origin, incarnation, n, head, sum, payload)
         VALUES (?1, ?2, ?3, ?4, x'', ?5, x'')",
        params![room, origin.as_str(), incarnation, n, sum],
    )?;
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
