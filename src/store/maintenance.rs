//! What `trishula store` does with a data folder: look at it beside a running node, and with the node stopped change its
//! schema, or save what a damaged file still has.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::file::{self, check, database, is_damage};
use super::health::by_word;
use super::load::{self, COLUMNS};
use super::row::{PLACES, Rest, has_payload};
use super::schema::{self, SCHEMA};
use super::writes::Count;
use super::{Error, log_pages};
use crate::wire::record::Place;

pub use super::salvage::{Saved, missing_pages, salvage};

/// Damaged messages that are shown one by one.
const ASIDE: usize = 20;

/// How a store is. Times are milliseconds of the wall clock.
#[derive(Debug, serde::Serialize)]
pub struct Survey {
    /// The database.
    pub file: PathBuf,
    /// Whether a process has it open for writing.
    pub in_use: bool,
    /// The version of its tables; 0: it can't be read.
    pub schema: i64,
    /// The one that this release writes.
    pub newest_schema: i64,
    /// The last start of its node.
    pub incarnation: Option<u64>,
    /// Bytes of the database and its log.
    pub file_bytes: u64,
    /// Agents registered here.
    pub agents: u64,
    /// Messages by place, with the bytes of their payloads.
    #[serde(serialize_with = "by_word")]
    pub places: Vec<(Place, Count)>,
    /// When the oldest message that still waits was taken.
    pub oldest_ms: Option<u64>,
    /// Messages that were damaged and put aside.
    pub quarantined: u64,
    /// Those of which no other node is known to hold a copy.
    pub quarantined_alone: u64,
    /// The latest of them.
    pub aside: Vec<Aside>,
    /// What the check found; `None`: nothing.
    pub damage: Option<String>,
}

/// A damaged message that was put aside.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Aside {
    /// What its sender called it, as far as that can be read, as the next two.
    pub id: String,
    /// Its sender.
    pub from: String,
    /// Its recipient.
    pub to: String,
    /// When it was put aside, in milliseconds since the epoch.
    pub at_ms: u64,
    /// What is wrong with it.
    pub why: String,
    /// Whether another node has it, and what to do.
    pub rest: String,
}

/// The damage that was found in the store of a folder, if its node has not found it mended since; or what is seen at once.
pub fn noted_damage(folder: &Path) -> Option<String> {
    let path = database(folder);
    file::noted_damage(&path).or_else(|| file::is_empty(&path).then(|| file::EMPTY.to_owned()))
}

/// Looks at a store; nothing is changed, and the node may run. `full`: every index and row, not only pages; so it is where
/// damage was found before.
pub fn survey(folder: &Path, full: bool) -> Result<Survey, Error> {
    let path = existing(folder)?;
    let full = full || file::noted_damage(&path).is_some();
    let failed = |why| Error::of(&path, why);
    let mut survey = Survey {
        in_use: file::is_locked(folder),
        schema: 0,
        newest_schema: SCHEMA,
        incarnation: None,
        file_bytes: bytes_of(&path) + bytes_of(&path.with_extension("sqlite-wal")),
        agents: 0,
        places: Vec::new(),
        oldest_ms: None,
        quarantined: 0,
        quarantined_alone: 0,
        aside: Vec::new(),
        damage: None,
        file: path.clone(),
    };
    if file::is_empty(&path) {
        survey.damage = Some(file::EMPTY.to_owned());
        return Ok(survey);
    }
    let connection = connect_to_look(&path).map_err(failed)?;
    survey.damage =
        check(&connection, if full { "integrity_check" } else { "quick_check" }).map_err(failed)?;
    match fill(&connection, &mut survey) {
        Err(why) if is_damage(&why) || survey.damage.is_some() => {
            survey.damage.get_or_insert_with(|| why.to_string());
        }
        Err(why) => return Err(failed(why)),
        Ok(()) => {}
    }
    Ok(survey)
}

fn fill(connection: &Connection, survey: &mut Survey) -> rusqlite::Result<()> {
    survey.schema = schema::version(connection)?;
    if survey.schema == 0 || survey.schema > SCHEMA {
        return Ok(());
    }
    survey.incarnation = load::incarnation(connection)?.map(|incarnation| incarnation.0);
    survey.agents = count(connection, "agent")?;
    if survey.schema < 2 {
        return Ok(());
    }
    if survey.schema >= 3 {
        (survey.quarantined, survey.quarantined_alone) = load::quarantine_size(connection)?;
        survey.aside = aside(connection)?;
    } else {
        survey.quarantined = count(connection, "quarantine")?;
        survey.quarantined_alone = survey.quarantined;
    }
    for (place, word) in PLACES {
        let (messages, bytes): (i64, i64) = connection.query_row(
            "SELECT count(*), coalesce(sum(bytes), 0) FROM message WHERE place = ?1",
            [word],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let bytes = if has_payload(place) { bytes as u64 } else { 0 };
        survey.places.push((place, Count { messages: messages as u64, bytes }));
    }
    let mut oldest = connection.prepare(&format!(
        "SELECT {COLUMNS} FROM message WHERE place IN ('mailbox', 'outbox', 'copy') ORDER BY n LIMIT 1"
    ))?;
    let mut rows = oldest.query([])?;
    if let Some(row) = rows.next()? {
        survey.oldest_ms = load::row(row)?.decode(false).ok().map(|message| message.kept.taken_ms);
    }
    Ok(())
}

fn aside(connection: &Connection) -> rusqlite::Result<Vec<Aside>> {
    let mut select = connection.prepare(&format!(
        "SELECT at_ms, why, rest, id, sender, recipient FROM quarantine ORDER BY rowid DESC LIMIT {ASIDE}"
    ))?;
    let rows = select.query_map([], |row| {
        // They are damaged: anything may stand there.
        let text = |column| row.get_ref(column).ok().and_then(|value| value.as_str().ok()).unwrap_or("?");
        Ok(Aside {
            id: text(3).to_owned(),
            from: text(4).to_owned(),
            to: text(5).to_owned(),
            at_ms: row.get::<_, i64>(0).unwrap_or_default() as u64,
            why: text(1).to_owned(),
            rest: Rest::read(text(2)).to_string(),
        })
    })?;
    rows.collect()
}

/// What going to a version would lose, in words.
pub fn losses(folder: &Path, target: i64) -> Result<Vec<String>, Error> {
    let path = existing(folder)?;
    let connection = connect_to_look(&path).map_err(|why| Error::of(&path, why))?;
    schema::loses(&connection, target).map_err(|why| Error::of(&path, why))
}

/// Brings a store to a version, with the node stopped; answers which it had.
pub fn migrate(folder: &Path, target: i64) -> Result<i64, Error> {
    let path = existing(folder)?;
    let _lock = file::lock(folder)?;
    let failed = |why| Error::of(&path, why);
    let mut connection = file::connect(&path, log_pages()).map_err(failed)?;
    let found = schema::migrate(&mut connection, target).map_err(failed)?;
    if found > SCHEMA {
        return Err(Error::TooNew { file: path, found });
    }
    file::checkpoint(&connection, "TRUNCATE").map_err(failed)?;
    Ok(found)
}

pub(super) fn existing(folder: &Path) -> Result<PathBuf, Error> {
    let path = database(folder);
    if path.exists() { Ok(path) } else { Err(Error::Missing { file: path }) }
}

/// Also where the folder can't be written, if no log is left beside the file.
pub(super) fn connect_to_look(path: &Path) -> rusqlite::Result<Connection> {
    let connection = file::connect_to_read(path)?;
    match schema::version(&connection) {
        Err(why) if !is_damage(&why) && bytes_of(&path.with_extension("sqlite-wal")) == 0 => {
            let uri = format!("file:{}?immutable=1", path.display());
            Connection::open_with_flags(
                uri,
                OpenFlags::SQLITE_OPEN_READ_ONLY
                    | OpenFlags::SQLITE_OPEN_URI
                    | OpenFlags::SQLITE_OPEN_NO_MUTEX,
            )
        }
        _ => Ok(connection),
    }
}

fn bytes_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn count(connection: &Connection, table: &str) -> rusqlite::Result<u64> {
    let sql = format!("SELECT count(*) FROM {table}");
    connection.query_row(&sql, [], |row| row.get::<_, i64>(0)).map(|n| n as u64)
}
