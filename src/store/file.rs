//! The files of a data folder: the database, the lock that keeps a second process out, and how both are opened.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::Error;
use crate::rt::{clock, platform};

/// A read of ours, or a `trishula store status` beside it, is over long before.
const BUSY: Duration = Duration::from_secs(5);
/// Kibibytes of pages in memory: the upper part of the index of some hundred thousand messages.
const CACHE_KIB: i64 = 16 * 1024;
/// Prepared statements: more than there are.
const STATEMENTS: usize = 32;

/// A file that is written to see whether that can be done.
const WRITE_TEST: &str = ".write-test";

/// The database of a data folder.
pub(super) fn database(folder: &Path) -> PathBuf {
    folder.join("node.sqlite")
}

/// Whoever has it may write. The system gives it back when the process is gone, however it went.
#[derive(Debug)]
pub(super) struct Lock(#[allow(dead_code, reason = "held, not read")] File);

/// Takes the folder's lock. It is waited for as long as a look at the store may have it.
pub(super) fn lock(folder: &Path) -> Result<Lock, Error> {
    let unusable = |why| Error::Folder { folder: folder.into(), why };
    let path = lock_file(folder);
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(unusable)?;
    for _ in 0..10 {
        match file.try_lock() {
            Ok(()) => return Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            Err(TryLockError::Error(why)) => return Err(unusable(why)),
        }
    }
    Err(Error::InUse { file: database(folder) })
}

/// Whether somebody has the folder's lock.
pub(super) fn is_locked(folder: &Path) -> bool {
    let file = File::open(lock_file(folder));
    file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

fn lock_file(folder: &Path) -> PathBuf {
    folder.join("node.lock")
}

/// Makes the folder and tries to write into it: SQLite says "unable to open database file" for every cause.
pub(super) fn usable(folder: &Path) -> Result<(), Error> {
    let unusable = |why| Error::Folder { folder: folder.into(), why };
    std::fs::create_dir_all(folder).map_err(unusable)?;
    let probe = folder.join(WRITE_TEST);
    std::fs::write(&probe, b"").map_err(unusable)?;
    let _ = std::fs::remove_file(&probe);
    Ok(())
}

/// What is wrong with a file without a byte: SQLite takes it for a new database.
pub(super) const EMPTY: &str = "the file is empty";

/// Whether there is a database without a byte, and no log of it: none that a start has made stays so.
pub(super) fn is_empty(database: &Path) -> bool {
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    database.exists() && length(database) == 0 && length(&database.with_extension("sqlite-wal")) == 0
}

/// Whether so many bytes can be written beside the database now; what is written for it is gone again at once.
pub(super) fn has_room(database: &Path, bytes: usize) -> bool {
    let probe = database.with_file_name(WRITE_TEST);
    let written = std::fs::write(&probe, vec![0xa5; bytes]);
    let _ = std::fs::remove_file(&probe);
    written.is_ok()
}

/// Writes down beside the file that it was found to be damaged: a start looks at pages only, and takes some damage for none.
pub(super) fn note_damage(database: &Path, damage: &str) {
    let note = damage_note(database);
    if let Err(why) = std::fs::write(&note, damage) {
        let file = note.display();
        tracing::warn!(%file, %why, "that the store is damaged can't be written down; the full check of the next start finds it again");
    }
}

/// What was found before, and was not mended since.
pub(super) fn noted_damage(database: &Path) -> Option<String> {
    std::fs::read(damage_note(database)).ok().map(|damage| String::from_utf8_lossy(&damage).into_owned())
}

/// A full check has found nothing.
pub(super) fn forget_damage(database: &Path) {
    // If it stays, the next start has one more full check.
    let _ = std::fs::remove_file(damage_note(database));
}

fn damage_note(database: &Path) -> PathBuf {
    database.with_file_name("node.damaged")
}

/// Opens for writing. What the log holds is written anew to the database before anything is added to it: after a
/// failed fsync pages of the log may be in memory only and look written, and whatever came behind them in the log would
/// be lost with them.
/// `log_pages` is told after each commit how long the log is.
pub(super) fn connect(file: &Path, log_pages: Arc<AtomicUsize>) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(file)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    // See `checkpoint.rs`.
    connection.wal_hook(Some(move |_: &mut Wal, pages: i32| {
        log_pages.store(usize::try_from(pages).unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }))?;
    if platform::FSYNC_NEEDS_FULLFSYNC {
        connection.pragma_update(None, "fullfsync", "ON")?;
        connection.pragma_update(None, "checkpoint_fullfsync", "ON")?;
    }
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    checkpoint(&connection, "TRUNCATE")?;
    Ok(connection)
}

/// Opens for [`checkpoint`] alone, beside the writer.
pub(super) fn connect_for_checkpoints(file: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    leave_log(&connection)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    if platform::FSYNC_NEEDS_FULLFSYNC {
        connection.pragma_update(None, "fullfsync", "ON")?;
        connection.pragma_update(None, "checkpoint_fullfsync", "ON")?;
    }
    Ok(connection)
}

/// Writes what the log holds into the database. `TRUNCATE` leaves an empty log; `PASSIVE` waits for nobody.
pub(super) fn checkpoint(connection: &Connection, how: &str) -> rusqlite::Result<()> {
    let began = clock::Stopwatch::start();
    loop {
        let pragma = format!("PRAGMA wal_checkpoint({how})");
        let busy: i64 = connection.query_row(&pragma, [], |row| row.get(0))?;
        if busy == 0 || how == "PASSIVE" {
            return Ok(());
        }
        if began.seconds() > BUSY.as_secs_f64() {
            let text = "somebody reads the database for longer than 5 s";
            return Err(failure(rusqlite::ffi::SQLITE_BUSY, text));
        }
        // SQLite waits for readers itself, and not for another checkpoint.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// When it is closed the log stays as it is; else whoever closes last writes it into the database.
pub(super) fn leave_log(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(drop)
}

/// Opens for reading only, beside whoever writes.
pub(super) fn connect_to_read(file: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        file,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// An error of SQLite's kind.
pub(super) fn failure(code: i32, text: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(text.to_owned()))
}

/// Whether the file itself is damaged, rather than the disk full or busy.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// What SQLite finds wrong, by `quick_check` (pages and their links) or `integrity_check` (also every index);
/// `None`: nothing.
pub(super) fn check(connection: &Connection, how: &str) -> rusqlite::Result<Option<String>> {
    let said = connection.query_row(&format!("PRAGMA {how}(1)"), [], |row| row.get::<_, String>(0));
    match said {
        Ok(said) if said == "ok" => Ok(None),
        Ok(said) => Ok(Some(said)),
        Err(why) if is_damage(&why) => Ok(Some(why.to_string())),
        Err(why) => Err(why),
    }
}
