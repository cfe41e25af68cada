//! Numbers of messages that have ended, and heads with a number, between releases.

use super::*;
use crate::store::row::{KeyText, encode};
use crate::store::testing::agent;
use crate::wire::envelope::Numbered;
use crate::wire::record::Numbers;

fn numbers(from: &str, epoch: u64, ranges: &[(u64, u64)]) -> Numbers {
    let to = agent("z").agent;
    Numbers { from: agent(from).agent, to, epoch, ranges: ranges.to_vec() }
}

fn with_number(n: u64) -> Kept {
    let mut kept = kept(n, Place::Mailbox, b"payload");
    kept.head.number = Some(Numbered { epoch: 7, n });
    kept
}

#[tokio::test]
async fn numbers_come_back_as_they_were_written_last() {
    // covers T10
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 1).unwrap();
    let most = i64::MAX as u64;
    let writes = vec![
        Record::Numbers(numbers("a", 7, &[(1, 3)])),
        Record::Numbers(numbers("b", most, &[])),
        Record::Numbers(numbers("a", 8, &[(1, 1), (3, most)])),
        Record::Keep(Box::new(with_number(1))),
    ];
    write_all(&mut store, writes).await;
    close(store).await;
    let store = open(folder.path(), 2).unwrap();
    assert_eq!(store.memory.numbers, [numbers("a", 8, &[(1, 1), (3, most)]), numbers("b", most, &[])]);
    assert_eq!(store.memory.messages, [with_number(1)]);
}

#[tokio::test]
async fn a_file_with_numbers_goes_down_and_up_again() {
    // covers B26
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 1).unwrap();
    let writes = vec![Record::Numbers(numbers("a", 7, &[(1, 3)])), Record::Keep(Box::new(with_number(1)))];
    write_all(&mut store, writes).await;
    close(store).await;
    let mut connection = Connection::open(file::database(folder.path())).unwrap();
    let tables = |connection: &Connection| -> i64 {
        let sql = "SELECT count(*) FROM sqlite_schema WHERE name = 'numbers'";
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(schema::loses(&connection, 3).unwrap(), ["1 senders' counts of ended messages"]);
    assert_eq!(schema::migrate(&mut connection, 3).unwrap(), SCHEMA);
    assert_eq!((schema::version(&connection).unwrap(), tables(&connection)), (3, 0));
    assert_eq!(schema::migrate(&mut connection, SCHEMA).unwrap(), 3);
    assert_eq!(tables(&connection), 1);
    drop(connection);
    let store = open(folder.path(), 2).unwrap();
    assert_eq!((store.memory.numbers.len(), store.quarantined.len()), (0, 0));
    assert_eq!(store.memory.messages, [with_number(1)]);
}

#[test]
fn a_head_with_a_number_begins_as_one_that_an_earlier_release_reads() {
    // covers B26
    let (with, mut without) = (with_number(1), with_number(1));
    without.head.number = None;
    let key = KeyText::of(&with.key);
    let [with, without] = [with, without].map(|kept| encode(&key, &kept).unwrap().0);
    // The last byte before the sum says that there is no number.
    let end = without.len() - 5;
    assert_eq!(with[..end], without[..end]);
    assert_eq!((with[end], without[end]), (1, 0));
}

#[tokio::test]
async fn numbers_that_can_not_be_read_are_left_alone() {
    // covers T10
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 1).unwrap();
    let writes = ["a", "b"].map(|from| Record::Numbers(numbers(from, 7, &[(1, 3)])));
    write_all(&mut store, writes.into()).await;
    close(store).await;
    let connection = Connection::open(file::database(folder.path())).unwrap();
    connection.execute("UPDATE numbers SET ranges = '[[1,' WHERE sender = 'trishula/a'", []).unwrap();
    drop(connection);
    let store = open(folder.path(), 2).unwrap();
    assert_eq!(store.memory.numbers, [numbers("b", 7, &[(1, 3)])]);
}
