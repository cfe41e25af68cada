//! The disk: one writer thread, one SQLite file, one fsync for all that waits (group commit).
//!
//! Nothing is answered before it is on disk. A failed write is never retried, as after a failed fsync nobody knows what
//! is on disk (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020): the file is opened
//! again and what waited is refused.
//!
//! | file | what is in it |
//! |---|---|
//! | `writer` | the thread that commits; `health` is what it tells of itself |
//! | `writes`, `row` | records as SQL; messages as rows with checksums |
//! | `schema` | the tables, and the migrations between their versions |
//! | `load` | what is read at a start, and rows that are put into quarantine |
//! | `reader` | questions beside the writer |
//! | `index` | which row a message has, in memory |
//! | `checkpoint` | the log written into the database, beside the writer |
//! | `check` | the full check, in the background; what it finds ends the writing |
//! | [`maintenance`] | what `trishula store` does; `salvage`: with a damaged file |
//! | [`trace`] | hop records, in a file of their own; `missing`: when some were dropped |
//! | `file` | opening, the lock, checks |

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use rusqlite::{Connection, ErrorCode};

use crate::rt::{clock, queue};
use crate::wire::ids::Incarnation;
use crate::wire::record::{Memory, Past, Record};

mod check;
mod checkpoint;
mod file;
mod health;
mod index;
mod load;
pub mod maintenance;
mod missing;
mod reader;
mod rooms;
mod row;
mod salvage;
mod schema;
#[cfg(test)]
mod testing;
pub mod trace;
mod writer;
mod writes;

pub use health::{Checked, Health, SLOW_SECONDS};
pub use load::Quarantined;
pub use reader::{DeadLetter, Found, MOST, ReadError, Reader};
pub use row::{Rest, Step, place_word};
pub use schema::SCHEMA;
pub use writes::Count;

use writer::Writer;

/// Records that may wait for the writer.
const BOUND: usize = 65_536;
/// Records that share one fsync at most.
const GROUP: usize = 1024;

/// Why the store can't be used. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder can't be made or written.
    #[error("{}: the data folder can't be used: {why}; give the user of this process write access, or set [node] data_dir", folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// No room for the first write, or a disk that fails.
    #[error("{}: {why}; see whether the disk is full (df) or reports faults (dmesg): make room, or set [node] data_dir to another disk", file.display())]
    Disk {
        /// Which file.
        file: PathBuf,
        /// What SQLite said.
        why: rusqlite::Error,
    },
    /// The file is damaged where it is needed.
    #[error("{}: the store is damaged ({why}); see what can be saved with: trishula store salvage, or restore a backup", file.display())]
    Damaged {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The file is damaged so that nothing of it can be read.
    #[error("{}: nothing can be saved of it ({why}); stop the node, move all that is called node.sqlite* there away (and keep it), or restore a backup: without one the node starts with an empty store, and what other nodes hold for it comes from them", file.display())]
    Hopeless {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// SQLite refuses the file.
    #[error("{}: {why}; restore a backup, or move the file away to start with an empty store", file.display())]
    Database {
        /// Which.
        file: PathBuf,
        /// What SQLite said.
        why: rusqlite::Error,
    },
    /// A newer release wrote it.
    #[error("{}: written by a newer release (schema {found}, this one knows {SCHEMA}); run that release, or go back with its: trishula store down {SCHEMA}", file.display())]
    TooNew {
        /// Which.
        file: PathBuf,
        /// What it has.
        found: i64,
    },
    /// There is no store.
    #[error("{}: there is no store here; give the node's [node] data_dir by --config or --data", file.display())]
    Missing {
        /// Which was looked for.
        file: PathBuf,
    },
    /// There is one already, and it is not written over.
    #[error("{}: there is a store already; give an empty folder", file.display())]
    Exists {
        /// Which.
        file: PathBuf,
    },
    /// Another process has it.
    #[error("{}: another process uses this data folder; stop it, or set another [node] data_dir", file.display())]
    InUse {
        /// Which.
        file: PathBuf,
    },
}

impl Error {
    fn of(file: &Path, why: rusqlite::Error) -> Error {
        match why.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy) => Error::InUse { file: file.into() },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Error::Damaged { file: file.into(), why: why.to_string() }
            }
            Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure) => Error::Disk { file: file.into(), why },
            _ => Error::Database { file: file.into(), why },
        }
    }
}

/// One write and the number under which its end is reported.
#[derive(Debug)]
pub struct Job {
    /// The caller's number.
    pub number: u64,
    /// What.
    pub record: Record,
}

/// What came of a group of writes.
#[derive(Debug)]
pub struct Done {
    /// The jobs' numbers.
    pub numbers: Vec<u64>,
    /// Why they are not on disk; `None`: they are.
    pub error: Option<String>,
}

/// A store that is open.
pub struct Opened {
    /// This start of the node: higher than every one before, and on disk.
    pub incarnation: Incarnation,
    /// What the file knows of the starts before; `None`: this is the first, or it can't be read any more.
    pub past: Option<Past>,
    /// What was written before. Of messages the payload is there where it may be sent again: not of those that died
    /// ([`Reader::dead_letter`] has it), were handed over or have ended.
    pub memory: Memory,
    /// Messages that were damaged, and are not in the memory.
    pub quarantined: Vec<Quarantined>,
    /// What is wrong with the file: it is read only, and every job is refused. The incarnation is not on disk then.
    pub damaged: Option<String>,
    /// To write to.
    pub jobs: queue::Sender<Job>,
    /// What came of it.
    pub done: queue::Receiver<Done>,
    /// To ask it.
    pub reader: Reader,
    /// How it is, as it changes.
    pub health: tokio::sync::watch::Receiver<Health>,
}

/// Opens the store in a folder and starts its writer; `wall_ms` is the wall clock. The writer ends when the
/// last sender of jobs is dropped, after writing what waits.
pub fn open(folder: &Path, wall_ms: u64) -> Result<Opened, Error> {
    file::usable(folder)?;
    let lock = file::lock(folder)?;
    let path = file::database(folder);
    let log_pages = log_pages();
    let read = match read(&path, log_pages.clone(), wall_ms) {
        Ok(read) => read,
        Err(Failed::Store(error)) => return Err(error),
        Err(Failed::Damage(why)) => read_damaged(&path, why, wall_ms),
    };
    let health = Health {
        writable: read.damaged.is_none(),
        since_ms: clock::wall_ms(),
        error: read.damaged.as_ref().map(|damage| health::damaged_words(&path, damage)),
        damaged: read.damaged.clone(),
        places: read.loaded.known.tally.counts(),
        quarantined: read.quarantine_size.0,
        quarantined_alone: read.quarantine_size.1,
        ..Health::default()
    };
    let (report, health) = health::Report::new(health);
    let (jobs, waiting) = queue::bounded("store.jobs", BOUND);
    let (done_in, done) = queue::bounded("store.done", BOUND);
    let unusable = |why| Error::Folder { folder: folder.into(), why };
    let index = read.loaded.known.index.clone();
    let reader = reader::start(&path, index, read.damaged.is_some()).map_err(unusable)?;
    let check = match &read.damaged {
        None => check::start(&path, report.sender()).map_err(unusable)?,
        Some(_) => None,
    };
    let writer = Writer {
        connection: read.connection,
        known: read.loaded.known,
        report,
        checkpoints: checkpoint::Checkpoints::start(&path).map_err(unusable)?,
        log_pages,
        check,
        lacking: 0,
        probed: clock::Stopwatch::start(),
        lock,
        file: path,
    };
    std::thread::Builder::new()
        .name("store.writer".into())
        .spawn(move || writer.run(waiting, &done_in))
        .map_err(unusable)?;
    Ok(Opened {
        incarnation: read.incarnation,
        past: read.past,
        memory: read.loaded.memory,
        quarantined: read.loaded.quarantined,
        damaged: read.damaged,
        jobs,
        done,
        reader,
        health,
    })
}

fn log_pages() -> Arc<AtomicUsize> {
    Arc::new(AtomicUsize::new(0))
}

/// What the file says, and the connection that goes on with it.
struct Read {
    connection: Option<Connection>,
    incarnation: Incarnation,
    past: Option<Past>,
    loaded: load::Loaded,
    quarantine_size: (u64, u64),
    damaged: Option<String>,
}

enum Failed {
    Store(Error),
    Damage(String),
}

fn read(path: &Path, log_pages: Arc<AtomicUsize>, wall_ms: u64) -> Result<Read, Failed> {
    let failed = |why: rusqlite::Error| {
        if file::is_damage(&why) {
            Failed::Damage(why.to_string())
        } else {
            Failed::Store(Error::of(path, why))
        }
    };
    if file::is_empty(path) {
        return Err(Failed::Damage(file::EMPTY.to_owned()));
    }
    if let Some(damage) = look_again(path).map_err(failed)? {
        return Err(Failed::Damage(damage));
    }
    let is_new = !path.exists();
    let mut connection = file::connect(path, log_pages).map_err(|why| {
        if is_new && file::is_empty(path) {
            // A disk without room: it is not to be taken for a store that has lost all.
            let _ = std::fs::remove_file(path);
        }
        failed(why)
    })?;
    if let Some(damage) = file::check(&connection, "quick_check").map_err(failed)? {
        return Err(Failed::Damage(damage));
    }
    let found = schema::migrate(&mut connection, SCHEMA).map_err(failed)?;
    if !(0..=SCHEMA).contains(&found) {
        return Err(Failed::Store(Error::TooNew { file: path.into(), found }));
    }
    let loaded = load::load(&mut connection, wall_ms).map_err(failed)?;
    for message in &loaded.quarantined {
        let key = message
            .key
            .as_ref()
            .map_or_else(String::new, |key| format!("{} of {} to {}", key.id.as_str(), key.from, key.to));
        tracing::error!(key, why = message.why, rest = %message.rest, "a message is damaged on disk; it is put aside");
    }
    let quarantine_size = load::quarantine_size(&connection).map_err(failed)?;
    let lives = load::lives(&connection).map_err(failed)?;
    let incarnation = next_incarnation(lives.as_ref(), wall_ms);
    let past = lives.map(|(last, past)| past.then(last));
    writes::begin_life(&connection, incarnation, &past.clone().unwrap_or_else(|| Past::new(incarnation)))
        .map_err(failed)?;
    Ok(Read { connection: Some(connection), incarnation, past, loaded, quarantine_size, damaged: None })
}

/// Where damage was found before, perhaps by more than the check of pages, nothing is written until it is known to be gone.
fn look_again(path: &Path) -> rusqlite::Result<Option<String>> {
    if file::noted_damage(path).is_none() {
        return Ok(None);
    }
    if path.exists()
        && let Some(damage) = file::check(&file::connect_to_read(path)?, "integrity_check")?
    {
        return Ok(Some(damage));
    }
    file::forget_damage(path);
    Ok(None)
}

/// Where messages stand can be asked; nothing new is taken, as every job is refused.
fn read_damaged(path: &Path, damage: String, wall_ms: u64) -> Read {
    tracing::error!(
        file = %path.display(),
        damage,
        "the store is damaged: nothing is accepted, and where messages stand can be asked; see: trishula store salvage"
    );
    file::note_damage(path, &damage);
    let connection = file::connect_to_read(path).and_then(salvage::tolerant).ok();
    let loaded = connection.as_ref().map(load::load_damaged).unwrap_or_default();
    let lives = connection.as_ref().and_then(|connection| load::lives(connection).ok().flatten());
    let quarantine_size = connection.as_ref().and_then(|c| load::quarantine_size(c).ok()).unwrap_or_default();
    Read {
        connection: None,
        incarnation: next_incarnation(lives.as_ref(), wall_ms),
        past: lives.map(|(last, past)| past.then(last)),
        loaded,
        quarantine_size,
        damaged: Some(damage),
    }
}

/// Higher than the last one, and by the wall clock when that is higher still: a node whose disk was lost
/// does not start again from one.
fn next_incarnation(lives: Option<&(Incarnation, Past)>, wall_ms: u64) -> Incarnation {
    Incarnation(lives.map_or(0, |(last, _)| last.0 + 1).max(wall_ms))
}

#[cfg(test)]
mod tests;
