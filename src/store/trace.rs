//! Hop records: what happened to each message on this node, for `trishula trace`.
//!
//! They are worth little next to the messages themselves: a file and a thread of their own, no fsync for them, and
//! what comes faster than it can be written is dropped and counted (`trishula_queue_full_total{queue="store.trace"}`), as is what
//! comes while the file can't be written. Old ones go. A look-up says up to when, and between when, something may be missing.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, params};
use tokio::sync::{oneshot, watch};

use super::file::{check, is_damage};
use super::missing::Missing;
pub use super::missing::Span;
use super::reader::ReadError;
use super::row::read_agent;
use crate::rt::{clock, queue};
use crate::wire::ids::{AgentAddr, MessageId, NodeName};

/// Records that may wait.
const BOUND: usize = 8192;
/// Records of one transaction.
const GROUP: usize = 1024;
/// Records that are deleted after one, at most: more than come in.
const PRUNE: i64 = 2 * GROUP as i64;
/// Records of one answer.
const MOST: usize = 1000;
/// A record waits so long for others to share its transaction: each costs more than all that is in it, and takes the core
/// from the messages that it tells of.
const GATHER_SECONDS: f64 = 0.05;
/// How often is looked meanwhile whether somebody asks.
const GLANCE: Duration = Duration::from_millis(10);
/// How long after a failure the file is tried again.
const AGAIN_SECONDS: f64 = 10.0;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Milliseconds that a record is kept.
    pub age_ms: u64,
    /// Bytes of the file that are in use.
    pub bytes: u64,
}

impl Default for Limits {
    /// A week, 256 MiB.
    fn default() -> Limits {
        Limits { age_ms: 7 * 24 * 3600 * 1000, bytes: 256 << 20 }
    }
}

/// One thing that happened to a message.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Hop {
    /// By the wall clock of the node, in milliseconds.
    pub at_ms: u64,
    /// By its hybrid logical clock: orders the records of several nodes.
    pub clock: u64,
    /// The message's sender.
    #[serde(serialize_with = "as_text")]
    pub from: AgentAddr,
    /// What the sender calls it.
    pub id: MessageId,
    /// For whom: an agent, a broadcast or a room.
    pub to: String,
    /// On which node.
    pub node: NodeName,
    /// A short word: `taken`, `written`, `sent` …
    pub what: Cow<'static, str>,
    /// The rest, for people.
    pub detail: String,
}

fn as_text<S: serde::Serializer>(agent: &AgentAddr, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(agent)
}

/// What is known of a message.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Trail {
    /// By the logical clock; the first thousand.
    pub hops: Vec<Hop>,
    /// Records from before this time, in milliseconds of the wall clock, may have gone.
    pub gone_before_ms: u64,
    /// When records were dropped, in order.
    pub missing: Vec<Span>,
}

enum Ask {
    Write(Hop),
    Find(Option<AgentAddr>, MessageId, oneshot::Sender<rusqlite::Result<Trail>>),
}

/// Takes records. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    asks: queue::Sender<Ask>,
    missing: Missing,
}

impl Recorder {
    /// Hands a record over; one that finds no room is dropped and counted, and its time is remembered.
    pub fn record(&self, hop: Hop) {
        let at_ms = hop.at_ms;
        if self.asks.try_send(Ask::Write(hop)).is_err() {
            self.missing.add(at_ms);
        }
    }
}

/// Finds them again. Cheap to clone.
#[derive(Clone)]
pub struct Lookup {
    asks: queue::Sender<Ask>,
    file: String,
    ended: watch::Receiver<()>,
}

impl Lookup {
    /// Closed when all is written, which is after the last handle is gone.
    pub fn ended(&self) -> watch::Receiver<()> {
        self.ended.clone()
    }

    /// What happened to messages of this id, of one sender or of all.
    pub async fn find(&self, from: Option<AgentAddr>, id: MessageId) -> Result<Trail, ReadError> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(Ask::Find(from, id, answer)).await.map_err(|_| ReadError::Closed)?;
        let found = answered.await.map_err(|_| ReadError::Closed)?;
        found.map_err(|why| ReadError::Database { file: self.file.clone(), why })
    }
}

/// Opens the records of a data folder, and begins anew where that can't be done; the thread ends with the last handle.
pub fn open(folder: &Path) -> (Recorder, Lookup) {
    open_with(folder, Limits::default())
}

/// The same with other limits.
pub fn open_with(folder: &Path, limits: Limits) -> (Recorder, Lookup) {
    let path = folder.join("trace.sqlite");
    let file = path.display().to_string();
    let (asks, asked) = queue::bounded("store.trace", BOUND);
    let (end, ended) = watch::channel(());
    let missing = Missing::default();
    let keeper = Keeper { path, limits, connection: None, failed: None, missing: missing.clone(), _end: end };
    if let Err(why) = std::thread::Builder::new().name("store.trace".into()).spawn(move || keeper.run(asked))
    {
        tracing::error!(%why, "no thread for hop records: trishula trace will know nothing of this node");
    }
    (Recorder { asks: asks.clone(), missing }, Lookup { asks, file, ended })
}

struct Keeper {
    path: PathBuf,
    limits: Limits,
    connection: Option<Connection>,
    /// Since when the file can't be used.
    failed: Option<clock::Stopwatch>,
    missing: Missing,
    /// Dropped last: see [`Lookup::ended`].
    _end: watch::Sender<()>,
}

impl Keeper {
    fn run(mut self, mut asked: queue::Receiver<Ask>) {
        let mut asks = Vec::with_capacity(GROUP);
        while asked.blocking_recv_many(&mut asks, GROUP) > 0 {
            gather(&mut asks, &mut asked);
            let mut hops = Vec::with_capacity(asks.len());
            for ask in asks.drain(..) {
                match ask {
                    Ask::Write(hop) => hops.push(hop),
                    Ask::Find(from, id, answer) => {
                        self.write(&std::mem::take(&mut hops));
                        let found =
                            self.connected().and_then(|connection| find(connection, from.as_ref(), &id));
                        let found = found.map(|trail| Trail { missing: self.missing.spans(), ..trail });
                        // Whoever asked may have gone.
                        let _ = answer.send(found);
                    }
                }
            }
            self.write(&hops);
        }
        if let Some(connection) = &mut self.connection {
            // At worst the next life does not tell of what was dropped last.
            let _ = self.missing.store(connection);
        }
    }

    fn write(&mut self, hops: &[Hop]) {
        if hops.is_empty() {
            return;
        }
        if self.failed.is_some_and(|since| since.seconds() < AGAIN_SECONDS) {
            return self.drop_all(hops);
        }
        let (limits, missing) = (self.limits, self.missing.clone());
        let inserted = self.connected().and_then(|connection| insert(connection, hops));
        if inserted.is_err() {
            self.drop_all(hops);
        }
        let written = inserted.and_then(|()| {
            let connection = self.connected()?;
            prune(connection, limits)?;
            missing.store(connection)
        });
        match written {
            Ok(()) => self.failed = None,
            Err(why) => {
                if self.failed.is_none() {
                    let file = self.path.display();
                    tracing::warn!(%file, %why, "hop records can't be written; trishula trace will miss some of this node");
                }
                self.failed = Some(clock::Stopwatch::start());
                self.connection = None;
                if is_damage(&why) {
                    set_aside(&self.path);
                }
            }
        }
    }

    fn drop_all(&self, hops: &[Hop]) {
        hops.iter().for_each(|hop| self.missing.add(hop.at_ms));
    }

    fn connected(&mut self) -> rusqlite::Result<&mut Connection> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let connection = match connect(&self.path) {
                    Err(why) if is_damage(&why) => {
                        set_aside(&self.path);
                        connect(&self.path)?
                    }
                    opened => opened?,
                };
                self.missing.load(&connection)?;
                connection
            }
        };
        Ok(self.connection.insert(connection))
    }
}

/// Waits a moment for more, unless somebody asks, many have come or none will come any more.
fn gather(asks: &mut Vec<Ask>, asked: &mut queue::Receiver<Ask>) {
    let began = clock::Stopwatch::start();
    let mut looked_at = 0;
    while asks.len() < GROUP && began.seconds() < GATHER_SECONDS && !asked.is_closed() {
        if asks[looked_at..].iter().any(|ask| matches!(ask, Ask::Find(..))) {
            return;
        }
        looked_at = asks.len();
        std::thread::sleep(GLANCE);
        while asks.len() < GROUP
            && let Ok(ask) = asked.try_recv()
        {
            asks.push(ask);
        }
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A power cut costs the last records, not the file.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    if let Some(damage) = check(&connection, "quick_check")? {
        return Err(super::file::failure(rusqlite::ffi::SQLITE_CORRUPT, &damage));
    }
    // Before the first record there was none.
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS hop (
             n INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, clock INTEGER NOT NULL, sender TEXT NOT NULL,
             id TEXT NOT NULL, recipient TEXT NOT NULL, node TEXT NOT NULL, what TEXT NOT NULL, detail TEXT NOT NULL);
         CREATE INDEX IF NOT EXISTS hop_id ON hop (id);
         CREATE TABLE IF NOT EXISTS gone (one INTEGER PRIMARY KEY CHECK (one = 1), before_ms INTEGER NOT NULL);",
    )?;
    let began = clock::wall_ms() as i64;
    connection.execute("INSERT OR IGNORE INTO gone VALUES (1, ?1)", [began])?;
    Ok(connection)
}

/// Keeps one damaged file, for whoever wants to know; the next one takes its place.
fn set_aside(path: &Path) {
    let aside = path.with_extension("sqlite.damaged");
    tracing::warn!(file = %path.display(), aside = %aside.display(), "hop records are damaged; they begin anew");
    if std::fs::rename(path, &aside).is_err() {
        let _ = std::fs::remove_file(path);
    }
    for rest in ["sqlite-wal", "sqlite-shm"] {
        let _ = std::fs::remove_file(path.with_extension(rest));
    }
}

fn insert(connection: &mut Connection, hops: &[Hop]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut insert = transaction.prepare_cached(
            "INSERT INTO hop (at_ms, clock, sender, id, recipient, node, what, detail)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        for hop in hops {
            insert.execute(params![
                hop.at_ms as i64,
                hop.clock as i64,
                hop.from.to_string(),
                hop.id.as_str(),
                hop.to,
                hop.node.as_str(),
                hop.what,
                hop.detail
            ])?;
        }
    }
    transaction.commit()
}

/// Deletes some of the oldest records if there are too old ones or too many, and remembers up to when.
fn prune(connection: &mut Connection, limits: Limits) -> rusqlite::Result<()> {
    let number = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let pages = number("page_count")? - number("freelist_count")?;
    let too_many = pages as u64 * number("page_size")? as u64 > limits.bytes;
    let too_old = clock::wall_ms().saturating_sub(limits.age_ms) as i64;
    let (oldest, rows): (Option<i64>, i64) = connection
        .prepare_cached(
            "SELECT (SELECT at_ms FROM hop ORDER BY n LIMIT 1),
                    coalesce((SELECT max(n) FROM hop) - (SELECT min(n) FROM hop), 0)",
        )?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if oldest.is_none_or(|oldest| oldest >= too_old && !too_many) {
        return Ok(());
    }
    // Never all of them at once, however little room there is.
    let some = (rows / 4).clamp(1, PRUNE);
    let transaction = connection.transaction()?;
    let (last, newest): (Option<i64>, Option<i64>) = transaction.query_row(
        &format!(
            "SELECT max(n), max(at_ms) FROM (SELECT n, at_ms FROM hop ORDER BY n LIMIT {some})
             WHERE ?1 OR at_ms < ?2"
        ),
        params![too_many, too_old],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    if let (Some(last), Some(newest)) = (last, newest) {
        transaction.execute("DELETE FROM hop WHERE n <= ?1", [last])?;
        transaction.execute("UPDATE gone SET before_ms = max(before_ms, ?1)", [newest + 1])?;
    }
    transaction.commit()
}

fn find(connection: &Connection, from: Option<&AgentAddr>, id: &MessageId) -> rusqlite::Result<Trail> {
    let mut select = connection.prepare_cached(&format!(
        "SELECT at_ms, clock, sender, id, recipient, node, what, detail FROM hop
         WHERE id = ?1 AND (?2 IS NULL OR sender = ?2) ORDER BY clock, n LIMIT {MOST}"
    ))?;
    let mut rows = select.query(params![id.as_str(), from.map(ToString::to_string)])?;
    let mut hops = Vec::new();
    while let Some(row) = rows.next()? {
        let (sender, id, node): (String, String, String) = (row.get(2)?, row.get(3)?, row.get(5)?);
        let (Some(from), Ok(id), Ok(node)) = (read_agent(&sender), MessageId::new(&id), NodeName::new(&node))
        else {
            continue;
        };
        hops.push(Hop {
            at_ms: row.get::<_, i64>(0)? as u64,
            clock: row.get::<_, i64>(1)? as u64,
            from,
            id,
            to: row.get(4)?,
            node,
            what: Cow::Owned(row.get(6)?),
            detail: row.get(7)?,
        });
    }
    let gone: i64 = connection.query_row("SELECT before_ms FROM gone", [], |row| row.get(0))?;
    Ok(Trail { hops, gone_before_ms: gone as u64, missing: Vec::new() })
}

#[cfg(test)]
mod tests;
