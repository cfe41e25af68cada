//! What a damaged store still has, into a new one: with its node stopped.
//!
//! | damage | how it is read |
//! |---|---|
//! | pages | from both sides of them, and over them where the key is a number |
//! | the end is cut off | with `writable_schema`: SQLite then takes the file as long as it is |
//! | the header | in a copy that has one as this release writes it; what else is in the first page must be whole |

use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::file::{self, database, is_damage};
use super::maintenance::{connect_to_look, existing};
use super::schema::{self, SCHEMA};
use super::{Error, log_pages, writes};
use crate::rt::clock;

/// Of the file's header (SQLite's file format, 1.3), in big-endian numbers.
const HEADER: usize = 100;
const PAGE: u64 = 4096;
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// What can be saved of one table.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub struct Saved {
    /// Which.
    pub table: &'static str,
    /// Rows that can be read.
    pub rows: u64,
    /// Whether some can't.
    pub whole: bool,
}

/// Tables with the column by which they are read, and whether that is a number that can be skipped along.
const TABLES: [(&str, &str, bool); 11] = [
    ("life", "one", true),
    ("agent", "namespace, name", false),
    ("elsewhere", "node, namespace, name", false),
    ("heard", "node", false),
    ("horizon", "sender", false),
    ("numbers", "sender, recipient", false),
    ("message", "n", true),
    ("body", "n", true),
    ("room_message", "row", true),
    ("room_floor", "room, origin", false),
    ("quarantine", "rowid", true),
];

/// Reads what can be read of a store, with its node stopped; with `out`, into a new store in that folder. Messages whose
/// rows can be read and are damaged are found, and put aside, when the new store is opened.
pub fn salvage(folder: &Path, out: Option<&Path>) -> Result<Vec<Saved>, Error> {
    let path = existing(folder)?;
    let _lock = file::lock(folder)?;
    let scratch = out.map_or_else(std::env::temp_dir, Path::to_path_buf);
    let Opened { connection: from, version, scratch: _scratch } = open(&path, &scratch)?;
    let mut to = out.map(|out| new_store(out, version)).transpose()?;
    let transaction = match &mut to {
        Some((connection, path)) => {
            Some((connection.transaction().map_err(|why| Error::of(path, why))?, path.clone()))
        }
        None => None,
    };
    let mut saved = Vec::new();
    for (table, key, skips) in TABLES {
        let is_there = "SELECT count(*) FROM sqlite_schema WHERE name = ?1";
        let is_there: i64 =
            from.query_row(is_there, [table], |row| row.get(0)).map_err(|why| hopeless(&path, why))?;
        if is_there == 0 {
            continue;
        }
        let mut copy = Copy { table, to: transaction.as_ref().map(|(t, _)| &**t), rows: 0 };
        let whole = copy
            .all(&from, key, skips)
            .map_err(|why| Error::of(transaction.as_ref().map_or(&path, |(_, path)| path), why))?;
        saved.push(Saved { table, rows: copy.rows, whole });
    }
    let nothing = saved.iter().all(|saved| saved.rows == 0) && saved.iter().any(|saved| !saved.whole);
    if let Some((transaction, path)) = transaction {
        if nothing {
            drop(transaction);
            // It is as empty as the one that a start would make.
            let _ = std::fs::remove_file(path);
        } else {
            if saved.iter().any(|saved| !saved.whole) {
                writes::remembers_since(&transaction, clock::wall_ms())
                    .map_err(|why| Error::of(&path, why))?;
            }
            transaction.commit().map_err(|why| Error::of(&path, why))?;
        }
    }
    if nothing { Err(hopeless(&path, "none of its rows can be read")) } else { Ok(saved) }
}

/// How many pages a file lacks at its end, and how many it had; `None`: it lacks none, or does not say.
pub fn missing_pages(folder: &Path) -> Option<(u64, u64)> {
    let file = std::fs::File::open(database(folder)).ok()?;
    let there = file.metadata().ok()?.len() / PAGE;
    let mut header = Vec::with_capacity(HEADER);
    file.take(HEADER as u64).read_to_end(&mut header).ok()?;
    let said = u64::from(number(&header, 28).filter(|_| is_header(&header))?);
    (said > there).then(|| (said - there, said))
}

/// A damaged file that can be read as far as it goes.
struct Opened {
    connection: Connection,
    version: i64,
    /// The folder of the copy that is read in its place.
    scratch: Option<Scratch>,
}

fn open(path: &Path, scratch: &Path) -> Result<Opened, Error> {
    let bytes = std::fs::read(path).map_err(|why| hopeless(path, why))?;
    if bytes.is_empty() {
        return Err(hopeless(path, file::EMPTY));
    }
    if is_header(&bytes) {
        let connection = connect_to_look(path).and_then(tolerant).map_err(|why| hopeless(path, why))?;
        let version = schema::version(&connection).map_err(|why| hopeless(path, why))?;
        if version > SCHEMA {
            return Err(Error::TooNew { file: path.into(), found: version });
        }
        return Ok(Opened { connection, version, scratch: None });
    }
    let copy = Scratch::new(scratch)?;
    let connection = restored(path, bytes, &copy)?;
    let version = by_shape(&connection).map_err(|why| hopeless(path, why))?;
    let none = "file is not a database: its header is none, and none of its tables are found behind it";
    let version = version.ok_or_else(|| hopeless(path, none))?;
    Ok(Opened { connection, version, scratch: Some(copy) })
}

fn hopeless(path: &Path, why: impl ToString) -> Error {
    Error::Hopeless { file: path.into(), why: why.to_string() }
}

/// A file that was cut off, or whose schema is damaged in part, is read as it is.
pub(super) fn tolerant(connection: Connection) -> rusqlite::Result<Connection> {
    connection.pragma_update(None, "writable_schema", "ON")?;
    Ok(connection)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Whether a file begins as this release's do.
fn is_header(bytes: &[u8]) -> bool {
    let has = |at: usize, what: &[u8]| bytes.get(at..at + what.len()) == Some(what);
    // Page size; bytes reserved in each page, and three fractions that are always the same; text in UTF-8.
    has(0, MAGIC) && has(16, &[0x10, 0]) && has(20, &[0, 64, 32, 32]) && number(bytes, 56) == Some(1)
}

/// A copy of the file and its log, with a header. What that says beside what never changes is the length of the file alone.
fn restored(path: &Path, mut bytes: Vec<u8>, scratch: &Scratch) -> Result<Connection, Error> {
    let pages = (bytes.len() as u64 / PAGE) as u32;
    let mut header = [0; HEADER];
    header[..16].copy_from_slice(MAGIC);
    // As above; 2 and 2: there is a log.
    header[16..24].copy_from_slice(&[0x10, 0, 2, 2, 0, 64, 32, 32]);
    // The count of changes, by which the length counts as known; the version of the schema, its format; text in UTF-8.
    for (at, value) in [(24, 1), (28, pages), (40, 1), (44, 4), (56, 1), (92, 1)] {
        header[at..at + 4].copy_from_slice(&u32::to_be_bytes(value));
    }
    let Some(place) = bytes.get_mut(..HEADER) else {
        return Err(hopeless(path, "file is not a database: it is shorter than a page"));
    };
    place.copy_from_slice(&header);
    let copy = database(&scratch.0);
    let unusable = |why| Error::Folder { folder: scratch.0.clone(), why };
    std::fs::write(&copy, bytes).map_err(unusable)?;
    let log = path.with_extension("sqlite-wal");
    if log.exists() {
        std::fs::copy(log, copy.with_extension("sqlite-wal")).map_err(unusable)?;
    }
    Connection::open(&copy).and_then(tolerant).map_err(|why| hopeless(path, why))
}

/// The version whose tables these are, by their names and how many columns each has.
fn by_shape(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let found = match shape(connection) {
        Err(why) if is_damage(&why) => return Ok(None),
        found => found?,
    };
    let mut known = Connection::open_in_memory()?;
    for version in (1..=SCHEMA).rev() {
        schema::migrate(&mut known, version)?;
        if shape(&known)? == found {
            return Ok(Some(version));
        }
    }
    Ok(None)
}

fn shape(connection: &Connection) -> rusqlite::Result<Vec<(String, i64)>> {
    let mut select = connection.prepare(
        "SELECT t.name, count(*) FROM sqlite_schema t, pragma_table_info(t.name)
         WHERE t.type = 'table' GROUP BY t.name ORDER BY t.name",
    )?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

/// A folder that is gone when it is not needed any more.
struct Scratch(PathBuf);

impl Scratch {
    fn new(parent: &Path) -> Result<Scratch, Error> {
        let folder = parent.join(format!("trishula-salvage-{}", std::process::id()));
        let unusable = |why| Error::Folder { folder: folder.clone(), why };
        std::fs::create_dir_all(parent).map_err(unusable)?;
        // Its owner's alone, and new: in a folder that everybody writes nobody else has made it.
        std::fs::DirBuilder::new().mode(0o700).create(&folder).map_err(unusable)?;
        Ok(Scratch(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is a copy in a folder for such things.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn new_store(out: &Path, version: i64) -> Result<(Connection, PathBuf), Error> {
    file::usable(out)?;
    let path = database(out);
    if path.exists() {
        return Err(Error::Exists { file: path });
    }
    let mut connection = file::connect(&path, log_pages()).map_err(|why| Error::of(&path, why))?;
    schema::migrate(&mut connection, version).map_err(|why| Error::of(&path, why))?;
    Ok((connection, path))
}

struct Copy<'a> {
    table: &'static str,
    to: Option<&'a Connection>,
    rows: u64,
}

impl Copy<'_> {
    /// Whether all could be read. A row that is hit twice, from both sides of the damage, is there once.
    fn all(&mut self, from: &Connection, key: &str, skips: bool) -> rusqlite::Result<bool> {
        let (last, end) = self.run(from, &format!("ORDER BY {key}"))?;
        if end == End::Whole {
            return Ok(true);
        }
        if !skips {
            self.run(from, &format!("ORDER BY {} DESC", key.replace(',', " DESC,")))?;
            return Ok(false);
        }
        // Over the damaged page, however many rows it had, and over the next one.
        let (mut last, mut step) = (last.unwrap_or(0), 1_i64);
        while let Some(next) = last.checked_add(step) {
            let (reached, end) = self.run(from, &format!("WHERE {key} >= {next} ORDER BY {key}"))?;
            match (reached, end) {
                (_, End::Whole) => break,
                (Some(reached), End::Damage) => (last, step) = (reached, 1),
                (None, End::Damage) => step = step.saturating_mul(2),
            }
        }
        Ok(false)
    }

    /// Reads until the end or the damage; answers the last key if that is a number.
    fn run(&mut self, from: &Connection, order: &str) -> rusqlite::Result<(Option<i64>, End)> {
        let mut last = None;
        let sql = format!("SELECT rowid, * FROM {} {order}", self.table);
        let without_rowid = format!("SELECT 0, * FROM {} {order}", self.table);
        let mut select = match from.prepare(&sql) {
            Ok(select) => select,
            Err(why) if is_damage(&why) => return Ok((None, End::Damage)),
            Err(_) => match from.prepare(&without_rowid) {
                Err(why) if is_damage(&why) => return Ok((None, End::Damage)),
                select => select?,
            },
        };
        let columns = select.column_count();
        let mut rows = match select.query([]) {
            Ok(rows) => rows,
            Err(why) if is_damage(&why) => return Ok((None, End::Damage)),
            Err(why) => return Err(why),
        };
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => return Ok((last, End::Whole)),
                Err(why) if is_damage(&why) => return Ok((last, End::Damage)),
                Err(why) => return Err(why),
            };
            last = Some(row.get(0)?);
            let values: Vec<Value> = (1..columns).map(|column| row.get(column)).collect::<Result<_, _>>()?;
            self.take(values)?;
        }
    }

    fn take(&mut self, values: Vec<Value>) -> rusqlite::Result<()> {
        let Some(to) = self.to else {
            self.rows += 1;
            return Ok(());
        };
        let marks = vec!["?"; values.len()].join(", ");
        let sql = format!("INSERT OR IGNORE INTO {} VALUES ({marks})", self.table);
        self.rows += to.prepare_cached(&sql)?.execute(params_from_iter(values))? as u64;
        Ok(())
    }
}

#[derive(PartialEq, Eq)]
enum End {
    Whole,
    Damage,
}
