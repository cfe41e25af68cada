//! The disk: one writer thread, one SQLite file, one fsync for all that waits (group commit).
//!
//! What is here already: the node's incarnation, new and fsynced at each start, and the agents registered
//! with it. Nothing is answered before it is on disk; a failed write is never retried, as after a failed
//! fsync nobody knows what is on disk (Rebello et al., "Can Applications Recover from fsync Failures?",
//! USENIX ATC 2020): the file is opened again and what waited is refused.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use crate::metrics;
use crate::rt::{clock, platform, queue};
use crate::wire::frame::{AgentState, Presence};
use crate::wire::ids::{AgentAddr, AgentName, Incarnation, Namespace};

/// Records that may wait for the writer.
const BOUND: usize = 4096;
/// Records that share one fsync at most.
const GROUP: usize = 1024;
/// The shape of the tables that this release writes.
const SCHEMA: i64 = 1;

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
    /// SQLite refuses the file.
    #[error("{}: {why}; restore a backup, or move the file away to start with an empty store", file.display())]
    Database {
        /// Which.
        file: PathBuf,
        /// What SQLite said.
        why: rusqlite::Error,
    },
    /// A newer release wrote it.
    #[error("{}: written by a newer release (schema {found}, this one knows {SCHEMA}); run that release", file.display())]
    TooNew {
        /// Which.
        file: PathBuf,
        /// What it has.
        found: i64,
    },
    /// Another process has it.
    #[error("{}: another process uses this data folder; stop it, or set another [node] data_dir", file.display())]
    InUse {
        /// Which.
        file: PathBuf,
    },
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// This agent is registered here.
    Agent(AgentState),
    /// This agent is no longer known here.
    Forget(AgentAddr),
}

/// One write and the number under which its end is reported.
#[derive(Debug)]
pub struct Job {
    /// The caller's number.
    pub number: u64,
    /// What.
    pub write: Write,
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
    /// Agents registered before.
    pub agents: Vec<AgentState>,
    /// To write to.
    pub jobs: queue::Sender<Job>,
    /// What came of it.
    pub done: queue::Receiver<Done>,
}

/// Opens the store in a folder and starts its writer; `wall_ms` is the wall clock. The writer ends when the
/// last sender of jobs is dropped, after writing what waits.
pub fn open(folder: &Path, wall_ms: u64) -> Result<Opened, Error> {
    std::fs::create_dir_all(folder).map_err(|why| Error::Folder { folder: folder.into(), why })?;
    // SQLite says "unable to open database file" for every cause: try the folder first.
    let probe = folder.join(".write-test");
    std::fs::write(&probe, b"").map_err(|why| Error::Folder { folder: folder.into(), why })?;
    let _ = std::fs::remove_file(&probe);
    let file = folder.join("node.sqlite");
    let database = |why| match why {
        rusqlite::Error::SqliteFailure(e, _) if e.code == rusqlite::ErrorCode::DatabaseBusy => {
            Error::InUse { file: file.clone() }
        }
        why => Error::Database { file: file.clone(), why },
    };
    let connection = connect(&file).map_err(database)?;
    let found = prepare(&connection).map_err(database)?;
    if found > SCHEMA {
        return Err(Error::TooNew { file, found });
    }
    let incarnation = next_incarnation(&connection, wall_ms).map_err(database)?;
    let agents = read_agents(&connection).map_err(database)?;
    let (jobs, waiting) = queue::bounded("store.jobs", BOUND);
    let (report, done) = queue::bounded("store.done", BOUND);
    let writer = Writer { file: file.clone(), connection: Some(connection) };
    std::thread::Builder::new()
        .name("store.writer".into())
        .spawn(move || writer.run(waiting, &report))
        .map_err(|why| Error::Folder { folder: folder.into(), why })?;
    Ok(Opened { incarnation, agents, jobs, done })
}

fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(file)?;
    // Exclusive: a second process on the same folder is refused at once, and WAL needs no shared memory.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    if platform::FSYNC_NEEDS_FULLFSYNC {
        connection.pragma_update(None, "fullfsync", "ON")?;
        connection.pragma_update(None, "checkpoint_fullfsync", "ON")?;
    }
    Ok(connection)
}

/// Makes the tables of a new file; answers the schema version that is there now.
fn prepare(connection: &Connection) -> rusqlite::Result<i64> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version == 0 {
        connection.execute_batch(
            "BEGIN IMMEDIATE;
             CREATE TABLE life (one INTEGER PRIMARY KEY CHECK (one = 1), incarnation INTEGER NOT NULL);
             CREATE TABLE agent (
                 namespace TEXT NOT NULL, name TEXT NOT NULL, registered_ms INTEGER NOT NULL,
                 shared INTEGER NOT NULL, capabilities TEXT NOT NULL,
                 PRIMARY KEY (namespace, name)) WITHOUT ROWID;
             PRAGMA user_version = 1;
             COMMIT;",
        )?;
        return Ok(SCHEMA);
    }
    Ok(version)
}

/// Higher than the last one, and by the wall clock when that is higher still: a node whose disk was lost
/// does not start again from one.
fn next_incarnation(connection: &Connection, wall_ms: u64) -> rusqlite::Result<Incarnation> {
    let last: Option<i64> = connection
        .query_row("SELECT incarnation FROM life", [], |row| row.get(0))
        .map(Some)
        .or_else(|e| if e == rusqlite::Error::QueryReturnedNoRows { Ok(None) } else { Err(e) })?;
    let next = last.map_or(0, |last| last + 1).max(i64::try_from(wall_ms).unwrap_or(0));
    // One statement outside a transaction is a transaction: with synchronous=FULL it is on disk afterwards.
    connection.execute("INSERT OR REPLACE INTO life (one, incarnation) VALUES (1, ?1)", [next])?;
    Ok(Incarnation(next as u64))
}

fn read_agents(connection: &Connection) -> rusqlite::Result<Vec<AgentState>> {
    let mut select =
        connection.prepare("SELECT namespace, name, registered_ms, shared, capabilities FROM agent")?;
    let rows = select.query_map([], |row| {
        let names: (String, String) = (row.get(0)?, row.get(1)?);
        let rest: (i64, bool, String) = (row.get(2)?, row.get(3)?, row.get(4)?);
        Ok((names, rest))
    })?;
    let mut agents = Vec::new();
    for row in rows {
        let ((namespace, name), (registered_ms, shared, capabilities)) = row?;
        let (Ok(namespace), Ok(name)) = (Namespace::new(&namespace), AgentName::new(&name)) else {
            tracing::warn!(
                namespace,
                name,
                "the store has an agent with a name that is none; it is left alone"
            );
            continue;
        };
        agents.push(AgentState {
            agent: AgentAddr::new(namespace, name),
            presence: Presence::Away,
            registered_ms: registered_ms as u64,
            shared,
            capabilities: serde_json::from_str(&capabilities).unwrap_or_default(),
        });
    }
    Ok(agents)
}

struct Writer {
    file: PathBuf,
    connection: Option<Connection>,
}

impl Writer {
    fn run(mut self, mut waiting: queue::Receiver<Job>, report: &queue::Sender<Done>) {
        let mut group = Vec::with_capacity(GROUP);
        while waiting.blocking_recv_many(&mut group, GROUP) > 0 {
            let began = clock::Stopwatch::start();
            let error = self.commit(&group).err().map(|why| why.to_string());
            metrics::STORE_COMMIT.observe(began.seconds());
            if let Some(why) = &error {
                tracing::error!(file = %self.file.display(), why, "the store could not write; opening it again");
                self.connection = None;
            }
            let numbers = group.drain(..).map(|job| job.number).collect();
            if report.blocking_send(Done { numbers, error }).is_err() {
                return;
            }
        }
    }

    fn commit(&mut self, group: &[Job]) -> rusqlite::Result<()> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(connect(&self.file)?),
        };
        let transaction = connection.transaction()?;
        for job in group {
            write(&transaction, &job.write)?;
        }
        transaction.commit()
    }
}

fn write(connection: &Connection, write: &Write) -> rusqlite::Result<()> {
    match write {
        Write::Agent(state) => {
            let capabilities = serde_json::to_string(&state.capabilities).unwrap_or_default();
            let (namespace, name) = (state.agent.namespace.as_str(), state.agent.name.as_str());
            connection
                .prepare_cached("INSERT OR REPLACE INTO agent VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![namespace, name, state.registered_ms as i64, state.shared, capabilities])?;
        }
        Write::Forget(agent) => {
            connection
                .prepare_cached("DELETE FROM agent WHERE namespace = ?1 AND name = ?2")?
                .execute(params![agent.namespace.as_str(), agent.name.as_str()])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str) -> AgentState {
        AgentState {
            agent: AgentAddr::new(Namespace::new("trishula").unwrap(), AgentName::new(name).unwrap()),
            presence: Presence::Away,
            registered_ms: 7,
            shared: false,
            capabilities: vec!["plan".into()],
        }
    }

    async fn write_all(opened: &mut Opened, writes: Vec<Write>) {
        for (number, write) in (0..).zip(writes) {
            opened.jobs.send(Job { number, write }).await.unwrap();
            let done = opened.done.recv().await.unwrap();
            assert_eq!((done.numbers, done.error), (vec![number], None));
        }
    }

    #[tokio::test]
    async fn a_start_is_higher_than_every_one_before_and_agents_are_remembered() {
        // covers T05
        let folder = tempfile::tempdir().unwrap();
        let mut first = open(folder.path(), 1000).unwrap();
        let writes =
            vec![Write::Agent(agent("a")), Write::Agent(agent("b")), Write::Forget(agent("b").agent)];
        write_all(&mut first, writes).await;
        drop(first.jobs);
        assert!(first.done.recv().await.is_none(), "the writer ends when nobody writes any more");

        let second = open(folder.path(), 5).unwrap();
        assert!(second.incarnation > first.incarnation, "also when the wall clock went back");
        assert_eq!(second.agents, vec![agent("a")]);
    }

    #[tokio::test]
    async fn a_second_process_on_the_same_folder_is_refused() {
        // covers B19
        let folder = tempfile::tempdir().unwrap();
        let _first = open(folder.path(), 1).unwrap();
        let error = open(folder.path(), 1).err().unwrap().to_string();
        assert!(error.contains("another process uses this data folder"), "{error}");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named_with_what_to_do() {
        // covers B19
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = open(&file, 1).err().unwrap().to_string();
        assert!(error.contains("data_dir") && error.contains("file"), "{error}");
    }
}
