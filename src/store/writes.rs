//! Records as SQL, one after another within a group's transaction.

use rusqlite::{Connection, OptionalExtension, params};

use super::index::Index;
use super::load;
use super::row::{self, KeyText, Step, has_payload, place_index, place_word, read_place};
use super::schema;
use crate::wire::ids::Incarnation;
use crate::wire::record::{Change, Elsewhere, Kept, Numbers, Past, Place, Record};

/// The first schema with what is known of a node's lives.
const PAST: i64 = 6;
/// Payloads up to this size lie in their message's row.
pub(super) const INLINE: usize = 2048;

/// How many messages lie at each place, and how many bytes of payload; kept along, as counting would read the whole file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    places: [Count; row::PLACES.len()],
}

/// Messages, and the bytes of their payloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Count {
    /// How many.
    pub messages: u64,
    /// Of their payloads, as far as they are kept there.
    pub bytes: u64,
}

impl Tally {
    pub fn add(&mut self, place: Place, bytes: u64) {
        let count = &mut self.places[place_index(place)];
        count.messages += 1;
        count.bytes += if has_payload(place) { bytes } else { 0 };
    }

    pub fn remove(&mut self, place: Place, bytes: u64) {
        let count = &mut self.places[place_index(place)];
        count.messages = count.messages.saturating_sub(1);
        let bytes = if has_payload(place) { bytes } else { 0 };
        count.bytes = count.bytes.saturating_sub(bytes);
    }

    pub fn counts(&self) -> Vec<(Place, Count)> {
        row::PLACES.iter().map(|(place, _)| (*place, self.places[place_index(*place)])).collect()
    }
}

/// What is known of the file's messages beside the file.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub tally: Tally,
    pub index: Index,
    /// The highest row.
    pub last: i64,
}

/// Writes one record.
pub(super) fn write(connection: &Connection, record: &Record, known: &mut Known) -> rusqlite::Result<()> {
    match record {
        Record::Agent(state) | Record::Transient(state) => {
            let transient = matches!(record, Record::Transient(_));
            let how = row::How { shared: state.shared, transient }.number();
            let capabilities = serde_json::to_string(&state.capabilities).unwrap_or_default();
            let (namespace, name) = (state.agent.namespace.as_str(), state.agent.name.as_str());
            connection
                .prepare_cached("INSERT OR REPLACE INTO agent VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![namespace, name, state.registered_ms as i64, how, capabilities])?;
        }
        Record::Forget(agent) => {
            connection
                .prepare_cached("DELETE FROM agent WHERE namespace = ?1 AND name = ?2")?
                .execute(params![agent.namespace.as_str(), agent.name.as_str()])?;
        }
        Record::Elsewhere(node, news) => elsewhere(connection, node.as_str(), news)?,
        Record::Keep(kept) => keep(connection, kept, known)?,
        Record::Change(key, change) => self::change(connection, &KeyText::of(key), change, known)?,
        Record::Erase(key) => erase(connection, &KeyText::of(key), known)?,
        // A horizon never goes back.
        Record::Horizon(sender, sent_ms) => {
            connection
                .prepare_cached(
                    "INSERT INTO horizon VALUES (?1, ?2)
                     ON CONFLICT DO UPDATE SET sent_ms = max(sent_ms, excluded.sent_ms)",
                )?
                .execute(params![sender.to_string(), *sent_ms as i64])?;
        }
        Record::RoomKeep(..) | Record::RoomFloor(..) | Record::RoomGone(_) => {
            super::rooms::write(connection, record)?;
        }
        Record::Past(past) => {
            let past = serde_json::to_string(past).unwrap_or_default();
            connection.prepare_cached("UPDATE life SET past = ?1")?.execute([past])?;
        }
        Record::Numbers(Numbers { from, to, epoch, ranges }) => {
            let ranges = serde_json::to_string(ranges).unwrap_or_default();
            connection
                .prepare_cached("INSERT OR REPLACE INTO numbers VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![from.to_string(), to.to_string(), *epoch as i64, ranges])?;
        }
    }
    Ok(())
}

/// A life of the node begins. One statement outside a transaction is a transaction: with synchronous=FULL it is on disk
/// afterwards.
pub(super) fn begin_life(
    connection: &Connection,
    incarnation: Incarnation,
    past: &Past,
) -> rusqlite::Result<()> {
    let past = serde_json::to_string(past).unwrap_or_default();
    let sql = "INSERT OR REPLACE INTO life (one, incarnation, past) VALUES (1, ?1, ?2)";
    connection.execute(sql, params![incarnation.0 as i64, past]).map(drop)
}

/// Some of what was written before now is lost: who registered with this node is asked of others.
pub(super) fn remembers_since(connection: &Connection, wall_ms: u64) -> rusqlite::Result<()> {
    let Some((_, past)) = load::lives(connection)? else { return Ok(()) };
    let past = Past { whole_since: Incarnation(wall_ms), ..past };
    match schema::version(connection)? {
        // An older release's file has no place for it.
        ..PAST => Ok(()),
        _ => write(connection, &Record::Past(past), &mut Known::default()),
    }
}

fn elsewhere(connection: &Connection, node: &str, news: &Elsewhere) -> rusqlite::Result<()> {
    match news {
        Elsewhere::Agent(state) => {
            let capabilities = serde_json::to_string(&state.capabilities).unwrap_or_default();
            let (namespace, name) = (state.agent.namespace.as_str(), state.agent.name.as_str());
            connection
                .prepare_cached("INSERT OR REPLACE INTO elsewhere VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                .execute(params![
                    node,
                    namespace,
                    name,
                    state.registered_ms as i64,
                    state.shared,
                    capabilities
                ])?;
        }
        Elsewhere::Forget(agent) => {
            connection
                .prepare_cached("DELETE FROM elsewhere WHERE node = ?1 AND namespace = ?2 AND name = ?3")?
                .execute(params![node, agent.namespace.as_str(), agent.name.as_str()])?;
        }
        Elsewhere::Heard(at_ms) => {
            connection
                .prepare_cached("INSERT OR REPLACE INTO heard VALUES (?1, ?2)")?
                .execute(params![node, *at_ms as i64])?;
        }
        Elsewhere::Left => {
            connection.prepare_cached("DELETE FROM elsewhere WHERE node = ?1")?.execute([node])?;
            connection.prepare_cached("DELETE FROM heard WHERE node = ?1")?.execute([node])?;
        }
    }
    Ok(())
}

fn keep(connection: &Connection, kept: &Kept, known: &mut Known) -> rusqlite::Result<()> {
    let key = KeyText::of(&kept.key);
    let (head, mut passage) = row::encode(&key, kept).map_err(not_encoded)?;
    let place = place_word(kept.place);
    let with = has_payload(kept.place);
    let inline = (with && kept.payload.len() <= INLINE).then_some(&kept.payload[..]);
    let bytes = kept.payload.len() as u64;
    known.last += 1;
    let n = known.last;
    if let Some(before) = known.index.insert(&key, n)
        && let Some(before) = read(connection, before)?
    {
        // What was known of it is replaced; its steps go on.
        passage = before.passage.clone();
        row::append(&mut passage, &key, &Step::first(kept)).map_err(not_encoded)?;
        remove(connection, &before, known)?;
    }
    connection
        .prepare_cached(
            "INSERT INTO message (n, id, sender, recipient, ord, place, bytes, head, passage, payload)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            n,
            key.id,
            key.sender,
            key.recipient,
            kept.order as i64,
            place,
            bytes as i64,
            head,
            passage,
            inline
        ])?;
    if with && inline.is_none() {
        connection
            .prepare_cached("INSERT INTO body (n, payload) VALUES (?1, ?2)")?
            .execute(params![n, &kept.payload[..]])?;
    }
    known.tally.add(kept.place, bytes);
    Ok(())
}

/// A change of a message that is not known is no error: it was erased in the same turn.
fn change(
    connection: &Connection,
    key: &KeyText,
    change: &Change,
    known: &mut Known,
) -> rusqlite::Result<()> {
    let Some(mut row) = find(connection, &known.index, key)? else { return Ok(()) };
    row::append(&mut row.passage, key, &Step::of(change)).map_err(not_encoded)?;
    let place = place_word(change.place);
    if has_payload(change.place) {
        connection
            .prepare_cached("UPDATE message SET place = ?2, passage = ?3 WHERE n = ?1")?
            .execute(params![row.n, place, row.passage])?;
    } else {
        connection
            .prepare_cached("UPDATE message SET place = ?2, passage = ?3, payload = NULL WHERE n = ?1")?
            .execute(params![row.n, place, row.passage])?;
        drop_body(connection, &row)?;
    }
    known.tally.remove(row.place, row.bytes);
    known.tally.add(change.place, row.bytes);
    Ok(())
}

fn erase(connection: &Connection, key: &KeyText, known: &mut Known) -> rusqlite::Result<()> {
    let Some(row) = find(connection, &known.index, key)? else { return Ok(()) };
    remove(connection, &row, known)?;
    known.index.remove(key);
    Ok(())
}

/// A row that is there already.
struct Before {
    n: i64,
    place: Place,
    bytes: u64,
    passage: Vec<u8>,
}

fn find(connection: &Connection, index: &Index, key: &KeyText) -> rusqlite::Result<Option<Before>> {
    index.get(key).map_or(Ok(None), |n| read(connection, n))
}

fn read(connection: &Connection, n: i64) -> rusqlite::Result<Option<Before>> {
    connection
        .prepare_cached("SELECT place, bytes, passage FROM message WHERE n = ?1")?
        .query_row([n], |row| {
            let place = read_place(row.get_ref(0)?.as_str()?).unwrap_or(Place::Ended);
            Ok(Before { n, place, bytes: row.get::<_, i64>(1)? as u64, passage: row.get(2)? })
        })
        .optional()
}

fn remove(connection: &Connection, row: &Before, known: &mut Known) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM message WHERE n = ?1")?.execute([row.n])?;
    drop_body(connection, row)?;
    known.tally.remove(row.place, row.bytes);
    Ok(())
}

fn drop_body(connection: &Connection, row: &Before) -> rusqlite::Result<()> {
    if has_payload(row.place) && row.bytes > INLINE as u64 {
        connection.prepare_cached("DELETE FROM body WHERE n = ?1")?.execute([row.n])?;
    }
    Ok(())
}

/// Reads anew what is in the file: after a commit that failed nobody knows what of it is.
pub(super) fn look_again(connection: &Connection, known: &mut Known) -> rusqlite::Result<()> {
    known.index.clear();
    (known.tally, known.last) = (Tally::default(), 0);
    let mut select = connection.prepare("SELECT n, id, sender, recipient, place, bytes FROM message")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let key = KeyText { id: row.get(1)?, sender: row.get(2)?, recipient: row.get(3)? };
        let n = row.get(0)?;
        known.last = known.last.max(n);
        known.index.insert(&key, n);
        if let Some(place) = read_place(row.get_ref(4)?.as_str()?) {
            known.tally.add(place, row.get::<_, i64>(5)? as u64);
        }
    }
    Ok(())
}

fn not_encoded(why: postcard::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(why))
}
