//! The tables, and how a file of one release becomes one of another: a list of migrations, each with its way back.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

/// The shape of the tables that this release writes.
pub const SCHEMA: i64 = MIGRATIONS.len() as i64;

/// One step from a version to the next.
struct Migration {
    up: &'static str,
    down: &'static str,
    /// What the way back loses: a query for a number of rows, and the word for them.
    loses: &'static [(&'static str, &'static str)],
}

/// The n-th makes version n of version n - 1. What was released is never changed.
const MIGRATIONS: [Migration; 6] = [
    Migration {
        up: "CREATE TABLE life (one INTEGER PRIMARY KEY CHECK (one = 1), incarnation INTEGER NOT NULL);
             CREATE TABLE agent (
                 namespace TEXT NOT NULL, name TEXT NOT NULL, registered_ms INTEGER NOT NULL,
                 shared INTEGER NOT NULL, capabilities TEXT NOT NULL,
                 PRIMARY KEY (namespace, name)) WITHOUT ROWID;",
        down: "DROP TABLE agent; DROP TABLE life;",
        loses: &[("SELECT count(*) FROM agent", "agents"), ("SELECT count(*) FROM life", "incarnation")],
    },
    // `n` is the order of arrival. Payloads that are not small lie in `body`: a step of a message writes its row anew,
    // and must not write those anew with it. `head` and `passage` are in `row.rs`. There is no index by key: see `index.rs`.
    Migration {
        up: "CREATE TABLE message (
                 n INTEGER PRIMARY KEY,
                 id TEXT NOT NULL, sender TEXT NOT NULL, recipient TEXT NOT NULL,
                 ord INTEGER NOT NULL, place TEXT NOT NULL, bytes INTEGER NOT NULL,
                 head BLOB NOT NULL, passage BLOB NOT NULL, payload BLOB);
             CREATE INDEX message_dead ON message (place) WHERE place = 'dead';
             CREATE TABLE body (n INTEGER PRIMARY KEY, payload BLOB NOT NULL);
             CREATE TABLE horizon (sender TEXT PRIMARY KEY, sent_ms INTEGER NOT NULL) WITHOUT ROWID;
             CREATE TABLE quarantine (
                 at_ms INTEGER NOT NULL, why TEXT NOT NULL, id, sender, recipient, ord, place, bytes, head, passage,
                 payload);",
        down: "DROP TABLE quarantine; DROP TABLE horizon; DROP TABLE body; DROP TABLE message;",
        loses: &[
            ("SELECT count(*) FROM message", "messages"),
            ("SELECT count(*) FROM horizon", "senders' horizons"),
            ("SELECT count(*) FROM quarantine", "damaged messages in quarantine"),
        ],
    },
    // What is known of other nodes: their agents, and when each was in reach. Of what is damaged: where it is besides.
    Migration {
        up: "CREATE TABLE elsewhere (
                 node TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, registered_ms INTEGER NOT NULL,
                 shared INTEGER NOT NULL, capabilities TEXT NOT NULL,
                 PRIMARY KEY (node, namespace, name)) WITHOUT ROWID;
             CREATE TABLE heard (node TEXT PRIMARY KEY, at_ms INTEGER NOT NULL) WITHOUT ROWID;
             ALTER TABLE quarantine ADD COLUMN rest TEXT NOT NULL DEFAULT 'unknown';",
        down: "ALTER TABLE quarantine DROP COLUMN rest; DROP TABLE heard; DROP TABLE elsewhere;",
        loses: &[("SELECT count(*) FROM elsewhere", "agents of other nodes")],
    },
    // Which numbered messages have ended and left no row: JSON, first and last of each range.
    Migration {
        up: "CREATE TABLE numbers (
                 sender TEXT NOT NULL, recipient TEXT NOT NULL, epoch INTEGER NOT NULL, ranges TEXT NOT NULL,
                 PRIMARY KEY (sender, recipient)) WITHOUT ROWID;",
        down: "DROP TABLE numbers;",
        loses: &[("SELECT count(*) FROM numbers", "senders' counts of ended messages")],
    },
    // Rooms: what was published, and the last place of each origin of which nothing is kept. `rooms.rs` has the rest.
    Migration {
        up: "CREATE TABLE room_message (
                 row INTEGER PRIMARY KEY,
                 room TEXT NOT NULL, origin TEXT NOT NULL, incarnation INTEGER NOT NULL, n INTEGER NOT NULL,
                 head BLOB NOT NULL, sum INTEGER NOT NULL, payload BLOB NOT NULL);
             CREATE UNIQUE INDEX room_message_place ON room_message (room, origin, incarnation, n);
             CREATE TABLE room_floor (
                 room TEXT NOT NULL, origin TEXT NOT NULL, incarnation INTEGER NOT NULL, n INTEGER NOT NULL,
                 PRIMARY KEY (room, origin)) WITHOUT ROWID;",
        down: "DROP TABLE room_floor; DROP TABLE room_message;",
        loses: &[("SELECT count(*) FROM room_message", "messages of rooms")],
    },
    // What is known of the node's lives, as JSON; empty: no more than the latest one.
    Migration {
        up: "ALTER TABLE life ADD COLUMN past TEXT NOT NULL DEFAULT '';",
        // Earlier releases know no agents that are only as long as their sessions.
        down: "UPDATE agent SET shared = shared & 1; ALTER TABLE life DROP COLUMN past;",
        loses: &[(
            "SELECT count(*) FROM life WHERE past LIKE '%\"missing\":%' AND past NOT LIKE '%\"missing\":null%'",
            "word that this store is an old one, for which the node stands still",
        )],
    },
];

/// The version of a file; 0: it has no tables yet.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Brings a file to a version, in one transaction; answers which it had. One that is too new is left alone.
pub(super) fn migrate(connection: &mut Connection, target: i64) -> rusqlite::Result<i64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = version(&transaction)?;
    if !(0..=SCHEMA).contains(&found) {
        return Ok(found);
    }
    for (number, migration) in (1..).zip(&MIGRATIONS) {
        if number > found && number <= target {
            transaction.execute_batch(migration.up)?;
        }
    }
    for (number, migration) in (1..=SCHEMA).rev().zip(MIGRATIONS.iter().rev()) {
        if number <= found && number > target {
            transaction.execute_batch(migration.down)?;
        }
    }
    if found != target {
        transaction.pragma_update(None, "user_version", target)?;
    }
    transaction.commit()?;
    Ok(found)
}

/// What going down to a version would lose, in words; empty: nothing.
pub(super) fn loses(connection: &Connection, target: i64) -> rusqlite::Result<Vec<String>> {
    let found = version(connection)?;
    let mut lost = Vec::new();
    for (number, migration) in (1..).zip(&MIGRATIONS) {
        if number <= found && number > target {
            for (query, word) in migration.loses {
                let count: i64 = connection.query_row(query, [], |row| row.get(0)).optional()?.unwrap_or(0);
                if count > 0 {
                    lost.push(format!("{count} {word}"));
                }
            }
        }
    }
    Ok(lost)
}
