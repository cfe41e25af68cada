//! What is read at a start: agents, messages, and the rows among them that a disk has changed.

use std::collections::BTreeMap;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension};

use super::row::{How, KeyText, Message, Rest, Row, place_word, read_agent};
use super::writes::Known;
use crate::wire::envelope::MessageKey;
use crate::wire::frame::{AgentState, Presence};
use crate::wire::ids::{AgentAddr, AgentName, Incarnation, Namespace, NodeName};
use crate::wire::record::{Elsewhere, KnownNode, Memory, Numbers, Past};

/// A message that was damaged and is kept aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Its name, if that can still be read; it may be the damaged part.
    pub key: Option<MessageKey>,
    /// Where it is besides.
    pub rest: Rest,
    /// What is wrong with it.
    pub why: &'static str,
}

/// Everything that was read.
#[derive(Default)]
pub(super) struct Loaded {
    pub memory: Memory,
    pub known: Known,
    pub quarantined: Vec<Quarantined>,
    /// Their rows.
    bad: Vec<(i64, &'static str, Rest)>,
    /// Rows whose column `place` says something else than their passage.
    misplaced: Vec<(i64, &'static str)>,
    rooms: super::rooms::Damage,
}

/// Reads all of a file that is whole, and puts damaged rows aside.
pub(super) fn load(connection: &mut Connection, wall_ms: u64) -> rusqlite::Result<Loaded> {
    let mut loaded = Loaded::default();
    agents(connection, &mut loaded.memory)?;
    elsewhere(connection, &mut loaded.memory.elsewhere)?;
    horizons(connection, &mut loaded.memory.horizons)?;
    numbers(connection, &mut loaded.memory.numbers)?;
    loaded.rooms = super::rooms::load(connection, &mut loaded.memory.rooms)?;
    messages(connection, "", &mut loaded)?;
    loaded.memory.messages.sort_by_key(|kept| kept.order);
    if !loaded.bad.is_empty() || !loaded.misplaced.is_empty() || !loaded.rooms.is_none() {
        set_aside(connection, &loaded, wall_ms)?;
    }
    Ok(loaded)
}

/// Reads what can be read of a damaged file: from the front up to the damage, then from the back.
pub(super) fn load_damaged(connection: &Connection) -> Loaded {
    let mut loaded = Loaded::default();
    let _ = agents(connection, &mut loaded.memory);
    let _ = elsewhere(connection, &mut loaded.memory.elsewhere);
    let _ = horizons(connection, &mut loaded.memory.horizons);
    let _ = numbers(connection, &mut loaded.memory.numbers);
    let _ = super::rooms::load(connection, &mut loaded.memory.rooms);
    if messages(connection, "ORDER BY n", &mut loaded).is_err() {
        let mut rest = Loaded::default();
        let _ = messages(connection, "ORDER BY n DESC", &mut rest);
        let known: std::collections::BTreeSet<MessageKey> =
            loaded.memory.messages.iter().map(|kept| kept.key.clone()).collect();
        let new = rest.memory.messages.into_iter().filter(|kept| !known.contains(&kept.key));
        loaded.memory.messages.extend(new);
    }
    loaded.memory.messages.sort_by_key(|kept| kept.order);
    loaded
}

/// The last incarnation that was written.
pub(super) fn incarnation(connection: &Connection) -> rusqlite::Result<Option<Incarnation>> {
    let last =
        connection.query_row("SELECT incarnation FROM life", [], |row| row.get::<_, i64>(0)).optional()?;
    Ok(last.map(|last| Incarnation(last as u64)))
}

/// The same, and what is known of the lives before it.
pub(super) fn lives(connection: &Connection) -> rusqlite::Result<Option<(Incarnation, Past)>> {
    let Some(last) = incarnation(connection)? else { return Ok(None) };
    // A damaged file may be an older release's, and lack it.
    let past = connection.query_row("SELECT past FROM life", [], |row| row.get::<_, String>(0));
    let past = past.ok().and_then(|past| serde_json::from_str(&past).ok());
    Ok(Some((last, past.unwrap_or_else(|| Past::of(last)))))
}

/// The columns of a message without its payload, as [`row`] reads them.
pub(super) const COLUMNS: &str = "n, id, sender, recipient, ord, head, passage";
/// Its payload, wherever it lies.
pub(super) const PAYLOAD: &str =
    "coalesce(payload, (SELECT body.payload FROM body WHERE body.n = message.n))";

fn messages(connection: &Connection, order: &str, loaded: &mut Loaded) -> rusqlite::Result<()> {
    let mut select = connection.prepare(&format!(
        "SELECT {COLUMNS}, CASE WHEN place NOT IN ('dead', 'handed', 'ended') THEN {PAYLOAD} END, place
         FROM message {order}"
    ))?;
    let mut rows = select.query([])?;
    while let Some(sql) = rows.next()? {
        let n: i64 = sql.get(0)?;
        loaded.known.last = loaded.known.last.max(n);
        let place = text(sql.get_ref(8)?);
        let mut row = row(sql)?;
        row.payload = blob(sql.get_ref(7)?);
        let (name, key, rest) = (row.key.clone(), row.key.read(), row.rest());
        // The dead are many and are looked at one at a time: their payload is checked then.
        let with_payload = place != "dead";
        match row.decode(with_payload) {
            Ok(Message { kept, bytes, .. }) => {
                if let Some(older) = loaded.known.index.insert(&name, n) {
                    // Never written like this: the later one is what counts.
                    loaded.bad.push((older, "a second row of the same message", Rest::Here));
                    loaded.memory.messages.retain(|known| known.key != kept.key);
                }
                loaded.known.tally.add(kept.place, bytes);
                if place != place_word(kept.place) {
                    loaded.misplaced.push((n, place_word(kept.place)));
                }
                loaded.memory.messages.push(kept);
            }
            Err(why) => {
                loaded.bad.push((n, why, rest.clone()));
                loaded.quarantined.push(Quarantined { key, rest, why });
            }
        }
    }
    Ok(())
}

/// Reads [`COLUMNS`]; what is of a wrong type or no text is left for the checksums to find.
pub(super) fn row(sql: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        key: KeyText {
            id: text(sql.get_ref(1)?),
            sender: text(sql.get_ref(2)?),
            recipient: text(sql.get_ref(3)?),
        },
        order: sql.get_ref(4)?.as_i64().unwrap_or_default() as u64,
        head: blob(sql.get_ref(5)?).unwrap_or_default(),
        passage: blob(sql.get_ref(6)?).unwrap_or_default(),
        payload: None,
    })
}

fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    }
}

pub(super) fn blob(value: ValueRef<'_>) -> Option<Vec<u8>> {
    match value {
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) => Some(bytes.to_vec()),
        _ => None,
    }
}

fn set_aside(connection: &mut Connection, loaded: &Loaded, wall_ms: u64) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    // A row whose place has changed is not in its index any more, and could not be deleted.
    transaction.execute_batch("REINDEX message")?;
    for (n, why, rest) in &loaded.bad {
        transaction.execute(
            &format!(
                "INSERT INTO quarantine (at_ms, why, id, sender, recipient, ord, place, bytes, head, passage, payload, rest)
                 SELECT ?2, ?3, id, sender, recipient, ord, place, bytes, head, passage, {PAYLOAD}, ?4
                 FROM message WHERE n = ?1"
            ),
            rusqlite::params![n, wall_ms as i64, why, rest.code()],
        )?;
        transaction.execute("DELETE FROM body WHERE n = ?1", [n])?;
        transaction.execute("DELETE FROM message WHERE n = ?1", [n])?;
    }
    for (n, place) in &loaded.misplaced {
        transaction.execute("UPDATE message SET place = ?2 WHERE n = ?1", rusqlite::params![n, place])?;
    }
    if !loaded.rooms.is_none() {
        super::rooms::set_aside(&transaction, &loaded.rooms, wall_ms)?;
    }
    transaction.commit()
}

/// How many rows are in quarantine, of this start and of earlier ones; and of how many no other node is known to have the
/// message.
pub(super) fn quarantine_size(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    let sql =
        "SELECT count(*), count(*) FILTER (WHERE rest IN ('nowhere', 'unknown', 'keepers')) FROM quarantine";
    connection.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64)))
}

fn horizons(connection: &Connection, horizons: &mut Vec<(AgentAddr, u64)>) -> rusqlite::Result<()> {
    let mut select = connection.prepare("SELECT sender, sent_ms FROM horizon")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(sender) = read_agent(&text(row.get_ref(0)?)) {
            horizons.push((sender, row.get::<_, i64>(1).unwrap_or_default() as u64));
        }
    }
    Ok(())
}

fn numbers(connection: &Connection, numbers: &mut Vec<Numbers>) -> rusqlite::Result<()> {
    let mut select = connection.prepare("SELECT sender, recipient, epoch, ranges FROM numbers")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (sender, recipient) = (text(row.get_ref(0)?), text(row.get_ref(1)?));
        let ranges = serde_json::from_str(&text(row.get_ref(3)?));
        let (Some(from), Some(to), Ok(ranges)) = (read_agent(&sender), read_agent(&recipient), ranges) else {
            tracing::warn!(
                sender,
                recipient,
                "the store has numbers of messages that are none; they are left alone"
            );
            continue;
        };
        let epoch = row.get::<_, i64>(2).unwrap_or_default() as u64;
        numbers.push(Numbers { from, to, epoch, ranges });
    }
    Ok(())
}

fn agents(connection: &Connection, memory: &mut Memory) -> rusqlite::Result<()> {
    let mut select =
        connection.prepare("SELECT namespace, name, registered_ms, shared, capabilities FROM agent")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let Some(state) = agent(row)? else { continue };
        if How::of(row.get(3).unwrap_or_default()).transient {
            memory.transient.insert(state.agent.clone());
        }
        memory.agents.push(state);
    }
    Ok(())
}

/// An agent, from the first five columns; `None`: its name is none.
fn agent(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<AgentState>> {
    let (namespace, name) = (text(row.get_ref(0)?), text(row.get_ref(1)?));
    let (Ok(namespace), Ok(name)) = (Namespace::new(&namespace), AgentName::new(&name)) else {
        tracing::warn!(namespace, name, "the store has an agent with a name that is none; it is left alone");
        return Ok(None);
    };
    Ok(Some(AgentState {
        agent: AgentAddr::new(namespace, name),
        presence: Presence::Away,
        registered_ms: row.get::<_, i64>(2).unwrap_or_default() as u64,
        shared: How::of(row.get(3).unwrap_or_default()).shared,
        capabilities: serde_json::from_str(&text(row.get_ref(4)?)).unwrap_or_default(),
    }))
}

fn elsewhere(connection: &Connection, nodes: &mut BTreeMap<NodeName, KnownNode>) -> rusqlite::Result<()> {
    let mut select = connection
        .prepare("SELECT namespace, name, registered_ms, shared, capabilities, node FROM elsewhere")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (Ok(node), Some(state)) = (NodeName::new(&text(row.get_ref(5)?)), agent(row)?) else { continue };
        nodes.entry(node).or_default().note(&Elsewhere::Agent(state));
    }
    let mut select = connection.prepare("SELECT node, at_ms FROM heard")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        if let Ok(node) = NodeName::new(&text(row.get_ref(0)?)) {
            let at_ms = row.get::<_, i64>(1).unwrap_or_default() as u64;
            nodes.entry(node).or_default().note(&Elsewhere::Heard(at_ms));
        }
    }
    Ok(())
}
