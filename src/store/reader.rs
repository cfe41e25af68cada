//! Questions to the store, beside the writer: a connection and a thread of their own.
//!
//! In WAL mode a reader sees what was committed when it began and holds up no commit; it only keeps the log from being
//! begun anew, so every answer has a bound.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::oneshot;

use super::file;
use super::index::Index;
use super::load::{self, COLUMNS, PAYLOAD};
use super::row::{KeyText, Message, Step};
use super::salvage::tolerant;
use crate::rt::queue;
use crate::wire::close::Refusal;
use crate::wire::envelope::{Head, MessageKey};
use crate::wire::ids::{AgentAddr, MessageId};
use crate::wire::record::Kept;

/// Questions that may wait.
const BOUND: usize = 64;
/// Rows of one answer.
pub const MOST: usize = 256;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store is closed.
    #[error("the store is closed; is the node stopping?")]
    Closed,
    /// SQLite can't read it.
    #[error("{file}: {why}")]
    Database {
        /// Which.
        file: String,
        /// What it said.
        why: rusqlite::Error,
    },
    /// The row that was asked for is damaged.
    #[error("the message is damaged on disk ({0}); it is put aside at the next start")]
    Damaged(&'static str),
}

/// A message as it lies on disk.
#[derive(Debug, Clone)]
pub struct Found {
    /// All but the payload.
    pub kept: Kept,
    /// Bytes of its payload, also where that was dropped.
    pub bytes: u64,
    /// What became of it; of very many steps the first and the last.
    pub steps: Vec<Step>,
}

/// A message that died.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Its name.
    pub key: MessageKey,
    /// Where a list goes on: `after` of the next one.
    pub cursor: u64,
    /// As it was taken.
    pub head: Head,
    /// Why it died.
    pub reason: Option<Refusal>,
    /// Bytes of its payload.
    pub bytes: u64,
    /// When, in milliseconds of the wall clock.
    pub at_ms: u64,
}

type Question = Box<dyn FnOnce(rusqlite::Result<&Connection>) + Send>;

/// To ask the store. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    questions: queue::Sender<Question>,
    index: Index,
    file: String,
}

impl Reader {
    /// What the store knows of messages of this id: one row a sender and recipient, at most [`MOST`].
    pub async fn find(&self, from: Option<AgentAddr>, id: MessageId) -> Result<Vec<Found>, ReadError> {
        let index = self.index.clone();
        self.ask(move |connection| find(connection, &index, from.as_ref(), &id)).await
    }

    /// Messages that died, by the order in which they were taken: at most `limit` (and at most [`MOST`]) behind `after`.
    pub async fn dead(&self, limit: usize, after: Option<u64>) -> Result<Vec<DeadLetter>, ReadError> {
        self.ask(move |connection| dead(connection, limit, after)).await
    }

    /// One message that died, with its payload.
    pub async fn dead_letter(&self, key: MessageKey) -> Result<Option<(DeadLetter, Bytes)>, ReadError> {
        let Some(n) = self.index.get(&KeyText::of(&key)) else { return Ok(None) };
        match self.ask(move |connection| dead_letter(connection, n)).await? {
            // The row may have become another message's since.
            Some(Ok(found)) if found.0.key != key => Ok(None),
            Some(Ok(found)) => Ok(Some(found)),
            Some(Err(why)) => Err(ReadError::Damaged(why)),
            None => Ok(None),
        }
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ReadError> {
        let (answer, answered) = oneshot::channel();
        let question: Question = Box::new(move |connection| {
            // Whoever asked may have gone.
            let _ = answer.send(connection.and_then(question));
        });
        self.questions.send(question).await.map_err(|_| ReadError::Closed)?;
        let answer = answered.await.map_err(|_| ReadError::Closed)?;
        answer.map_err(|why| ReadError::Database { file: self.file.clone(), why })
    }
}

/// Starts the thread that answers; it ends with the last handle. A file that is `damaged` is read as far as it goes.
pub(super) fn start(file: &Path, index: Index, damaged: bool) -> std::io::Result<Reader> {
    let (questions, mut asked) = queue::bounded::<Question>("store.questions", BOUND);
    let path: PathBuf = file.into();
    std::thread::Builder::new().name("store.reader".into()).spawn(move || {
        let mut connection: Option<Connection> = None;
        while let Some(question) = asked.blocking_recv() {
            if connection.is_none() {
                let opened = file::connect_to_read(&path);
                connection = match if damaged { opened.and_then(tolerant) } else { opened } {
                    Ok(connection) => Some(connection),
                    Err(why) => {
                        question(Err(why));
                        continue;
                    }
                };
            }
            if let Some(connection) = &connection {
                question(Ok(connection));
            }
        }
    })?;
    Ok(Reader { questions, index, file: file.display().to_string() })
}

fn find(
    connection: &Connection,
    index: &Index,
    from: Option<&AgentAddr>,
    id: &MessageId,
) -> rusqlite::Result<Vec<Found>> {
    let mut select = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM message WHERE n = ?1"))?;
    let mut found = Vec::new();
    for n in index.of_id(id.as_str(), MOST) {
        let row = select.query_row([n], load::row).optional()?;
        // One that is damaged is found by the next start.
        let Some(Ok(Message { kept, bytes, steps })) = row.map(|row| row.decode(false)) else { continue };
        if kept.key.id == *id && from.is_none_or(|from| kept.key.from == *from) {
            found.push(Found { kept, bytes, steps });
        }
    }
    Ok(found)
}

fn dead(connection: &Connection, limit: usize, after: Option<u64>) -> rusqlite::Result<Vec<DeadLetter>> {
    let mut select = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM message INDEXED BY message_dead WHERE place = 'dead' AND n > ?1 ORDER BY n LIMIT ?2"
    ))?;
    let mut rows = select.query(params![after.unwrap_or(0) as i64, limit.min(MOST) as i64])?;
    let mut letters = Vec::new();
    while let Some(row) = rows.next()? {
        let n: i64 = row.get(0)?;
        if let Ok(message) = load::row(row)?.decode(false) {
            letters.push(letter(n, message).0);
        }
    }
    Ok(letters)
}

type Read = Result<(DeadLetter, Bytes), &'static str>;

fn dead_letter(connection: &Connection, n: i64) -> rusqlite::Result<Option<Read>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS}, {PAYLOAD} FROM message WHERE n = ?1 AND place = 'dead'"))?
        .query_row([n], |sql| {
            let mut row = load::row(sql)?;
            row.payload = load::blob(sql.get_ref(7)?);
            Ok(row.decode(true).map(|message| letter(n, message)))
        })
        .optional()
}

fn letter(n: i64, message: Message) -> (DeadLetter, Bytes) {
    let Message { kept, bytes, steps } = message;
    let at_ms = steps.last().map_or(kept.taken_ms, |step| step.at_ms);
    let letter =
        DeadLetter { key: kept.key, cursor: n as u64, head: kept.head, reason: kept.reason, bytes, at_ms };
    (letter, kept.payload)
}
