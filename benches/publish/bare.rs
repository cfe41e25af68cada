//! What publishing stands on: an fsync, and a group commit.
use crate::{Figures, PAYLOAD, histogram};
use anyhow::Result;
use rusqlite::{Connection, params};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

/// 1 KiB at the end of a file, or over what is there, and an fdatasync.
pub struct Fsync {
    file: File,
    appends: bool,
}

impl Fsync {
    /// At the end.
    pub fn appended(path: &Path) -> Result<Fsync> {
        Ok(Fsync { file: OpenOptions::new().append(true).create(true).open(path)?, appends: true })
    }

    /// Over what is there, as a log that does not grow is written: the file system has nothing to note.
    pub fn over(path: &Path) -> Result<Fsync> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        file.write_all_at(&[1; 1 << 20], 0)?;
        file.sync_all()?;
        Ok(Fsync { file, appends: false })
    }

    pub fn write(&mut self, times: usize) -> Result<Figures> {
        let record = vec![0x5a; 1024];
        let (mut histogram, start) = (histogram(), Instant::now());
        for n in 0..times {
            let began = Instant::now();
            if self.appends {
                self.file.write_all(&record)?;
            } else {
                self.file.write_all_at(&record, n as u64 * 1024)?;
            }
            self.file.sync_data()?;
            histogram.record(began.elapsed().as_nanos() as u64)?;
        }
        Ok(Figures::of(&histogram, start.elapsed()))
    }
}

/// Rows as a node writes them for a message, by a plain loop.
pub struct GroupCommit {
    connection: Connection,
    written: i64,
}

impl GroupCommit {
    pub fn new(path: &Path) -> Result<GroupCommit> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.execute_batch(
            "CREATE TABLE message (
                 n INTEGER PRIMARY KEY, id TEXT NOT NULL, sender TEXT NOT NULL, recipient TEXT NOT NULL,
                 ord INTEGER NOT NULL, place TEXT NOT NULL, bytes INTEGER NOT NULL, head BLOB NOT NULL,
                 passage BLOB NOT NULL, payload BLOB);
             CREATE INDEX message_dead ON message (place) WHERE place = 'dead';",
        )?;
        Ok(GroupCommit { connection, written: 0 })
    }

    /// Begin, insert, commit; each row takes as long as its group.
    pub fn write(&mut self, group: usize, messages: usize) -> Result<Figures> {
        let (head, passage) = (vec![1u8; 120], vec![2u8; 18]);
        // The whole text of a frame, as `clients` writes it.
        let payload = vec![b'x'; PAYLOAD + 150];
        let (mut histogram, start, mut left) = (histogram(), Instant::now(), messages);
        while left > 0 {
            let (began, rows) = (Instant::now(), left.min(group));
            let transaction = self.connection.unchecked_transaction()?;
            for _ in 0..rows {
                self.written += 1;
                let (id, to) =
                    (format!("p-{}", self.written), format!("trishula/absent-{}", self.written % 64));
                transaction
                    .prepare_cached(
                        "INSERT INTO message (id, sender, recipient, ord, place, bytes, head, passage, payload)
                         VALUES (?1, 'trishula/publisher', ?2, ?3, 'mailbox', ?4, ?5, ?6, ?7)",
                    )?
                    .execute(params![id, to, self.written, payload.len() as i64, head, passage, payload])?;
            }
            transaction.commit()?;
            let took = began.elapsed().as_nanos() as u64;
            histogram.record_n(took, rows as u64)?;
            left -= rows;
        }
        Ok(Figures::of(&histogram, start.elapsed()))
    }
}
