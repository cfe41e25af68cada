//! The store with real files; faults of disks are in `tests/store`.

use super::testing::{agent, change, kept, key};
use super::*;
use crate::wire::envelope::State;
use crate::wire::frame::AgentState;
use crate::wire::ids::NodeName;
use crate::wire::record::{Elsewhere, Kept, KnownNode, Past, Place};

mod damage;
mod numbers;
mod reads;
mod rooms;

pub(super) async fn write_all(opened: &mut Opened, writes: Vec<Record>) {
    for (number, record) in (0..).zip(writes) {
        opened.jobs.send(Job { number, record }).await.unwrap();
        let done = opened.done.recv().await.unwrap();
        assert_eq!((done.numbers, done.error), (vec![number], None));
    }
}

/// Ends the writer and waits for it.
pub(super) async fn close(opened: Opened) {
    let Opened { jobs, mut done, .. } = opened;
    drop(jobs);
    assert!(done.recv().await.is_none(), "the writer ends when nobody writes any more");
}

pub(super) fn keep(n: u64, place: Place, payload: &'static [u8]) -> Record {
    Record::Keep(Box::new(kept(n, place, payload)))
}

/// 5,000 bytes: too many for a row.
pub(super) const LARGE: &[u8] = &[b'x'; 5000];

fn bodies(folder: &Path) -> i64 {
    let connection = Connection::open(file::database(folder)).unwrap();
    connection.query_row("SELECT count(*) FROM body", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_start_is_higher_than_every_one_before_and_agents_are_remembered() {
    // covers T05
    let folder = tempfile::tempdir().unwrap();
    let mut first = open(folder.path(), 1000).unwrap();
    let [there, left] = ["agni", "rushabdev"].map(|name| NodeName::new(name).unwrap());
    let writes = vec![
        Record::Agent(agent("a")),
        Record::Agent(agent("b")),
        Record::Forget(agent("b").agent),
        Record::Elsewhere(there.clone(), Elsewhere::Agent(agent("c"))),
        Record::Elsewhere(there.clone(), Elsewhere::Agent(agent("d"))),
        Record::Elsewhere(there.clone(), Elsewhere::Forget(agent("d").agent)),
        Record::Elsewhere(there.clone(), Elsewhere::Heard(7)),
        Record::Elsewhere(left.clone(), Elsewhere::Agent(agent("e"))),
        Record::Elsewhere(left.clone(), Elsewhere::Heard(8)),
        Record::Elsewhere(left, Elsewhere::Left),
        Record::Horizon(agent("a").agent, 50),
        Record::Horizon(agent("a").agent, 40),
    ];
    write_all(&mut first, writes).await;
    let incarnation = first.incarnation;
    assert_eq!((incarnation, first.past.clone()), (Incarnation(1000), None));
    close(first).await;

    let second = open(folder.path(), 5).unwrap();
    assert!(second.incarnation > incarnation, "also when the wall clock went back");
    assert_eq!(second.past, Some(Past::new(incarnation)));
    assert_eq!(second.memory.agents, vec![agent("a")]);
    let known = KnownNode { heard_ms: 7, agents: [(agent("c").agent, agent("c"))].into() };
    assert_eq!(second.memory.elsewhere, [(there, known)].into());
    assert_eq!(second.memory.horizons, vec![(agent("a").agent, 50)]);
}

#[tokio::test]
async fn which_agents_are_transient_is_remembered_beside_how_they_are_served() {
    // covers T05
    let folder = tempfile::tempdir().unwrap();
    let mut first = open(folder.path(), 1).unwrap();
    let shared = |name: &str| AgentState { shared: true, ..agent(name) };
    let (plain, brief) =
        (|name: &str| Record::Agent(agent(name)), |name: &str| Record::Transient(agent(name)));
    let pool = Record::Transient(shared("pool"));
    let writes =
        vec![plain("a"), brief("a"), brief("b"), plain("b"), brief("c"), Record::Agent(shared("d")), pool];
    write_all(&mut first, writes).await;
    close(first).await;
    let memory = open(folder.path(), 2).unwrap().memory;
    assert_eq!(memory.agents, vec![agent("a"), agent("b"), agent("c"), shared("d"), shared("pool")]);
    assert_eq!(memory.transient, ["a", "c", "pool"].map(|name| agent(name).agent).into());
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

#[tokio::test]
async fn messages_come_back_by_their_order_with_their_payload_where_it_is_needed() {
    // covers T10, Q04
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 1).unwrap();
    let writes = vec![
        keep(5, Place::Mailbox, b"five"),
        keep(2, Place::Outbox, LARGE),
        keep(3, Place::Copy, b""),
        keep(4, Place::Dead, LARGE),
        keep(6, Place::Ended, b"gone"),
        keep(7, Place::Outbox, LARGE),
        Record::Change(key(7), change(Place::Handed, State::Stored)),
        keep(8, Place::Mailbox, b"eight"),
        Record::Change(key(8), change(Place::Mailbox, State::Delivered)),
        keep(9, Place::Mailbox, LARGE),
        Record::Erase(key(9)),
        Record::Erase(key(99)),
        Record::Change(key(99), change(Place::Ended, State::Acked)),
    ];
    write_all(&mut store, writes).await;
    let counts = store.health.borrow().places.clone();
    close(store).await;

    let store = open(folder.path(), 2).unwrap();
    let expected: Vec<Kept> = vec![
        kept(2, Place::Outbox, LARGE),
        kept(3, Place::Copy, b""),
        kept(4, Place::Dead, b""),
        kept(5, Place::Mailbox, b"five"),
        kept(6, Place::Ended, b""),
        Kept { state: State::Stored, other: None, ..kept(7, Place::Handed, b"") },
        Kept { state: State::Delivered, other: None, ..kept(8, Place::Mailbox, b"eight") },
    ];
    assert_eq!(store.memory.messages, expected);
    assert_eq!(store.quarantined, vec![]);
    assert_eq!(bodies(folder.path()), 2, "what is not needed any more is gone from the disk");
    assert_eq!(store.health.borrow().places, counts, "as counted along, so as read anew");
    let mailbox = counts.iter().find(|(place, _)| *place == Place::Mailbox).unwrap().1;
    assert_eq!(mailbox, Count { messages: 2, bytes: 9 });
}

#[tokio::test]
async fn a_message_that_is_kept_again_replaces_what_was_known_and_goes_on_with_its_history() {
    // covers T10
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 1).unwrap();
    let mut again = kept(1, Place::Mailbox, b"anew");
    again.order = 50;
    let moved = Record::Change(key(1), change(Place::Handed, State::Stored));
    let writes = vec![
        keep(1, Place::Outbox, LARGE),
        moved,
        keep(2, Place::Outbox, b""),
        Record::Keep(Box::new(again.clone())),
    ];
    write_all(&mut store, writes).await;
    let found = store.reader.find(None, key(1).id).await.unwrap();
    let steps: Vec<Place> = found[0].steps.iter().map(|step| step.place).collect();
    assert_eq!(steps, [Place::Outbox, Place::Handed, Place::Mailbox]);
    close(store).await;

    let store = open(folder.path(), 2).unwrap();
    assert_eq!(store.memory.messages, vec![kept(2, Place::Outbox, b""), again]);
    assert_eq!(bodies(folder.path()), 0);
}

#[tokio::test]
async fn a_file_of_a_node_that_stands_still_says_what_an_earlier_release_would_not_know() {
    // covers B26
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 1).unwrap();
    let database = file::database(folder.path());
    write_all(&mut store, vec![Record::Transient(agent("a"))]).await;
    assert_eq!(schema::loses(&Connection::open(&database).unwrap(), 5).unwrap(), Vec::<String>::new());
    let old = Past { missing: Some(Incarnation(7)), ..Past::new(Incarnation(1)) };
    write_all(&mut store, vec![Record::Past(old)]).await;
    close(store).await;
    let mut connection = Connection::open(&database).unwrap();
    let lost = schema::loses(&connection, 5).unwrap();
    assert!(lost.len() == 1 && lost[0].contains("this store is an old one"), "{lost:?}");
    schema::migrate(&mut connection, 5).unwrap();
    let shared: i64 = connection.query_row("SELECT shared FROM agent", [], |row| row.get(0)).unwrap();
    assert_eq!(shared, 0, "they would take it for a pool");
}

#[tokio::test]
async fn a_file_of_schema_1_is_taken_over_and_can_go_back() {
    // covers B26
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(file::database(folder.path()), include_bytes!("../../tests/store/schema-1.sqlite"))
        .unwrap();
    let mut store = open(folder.path(), 1).unwrap();
    assert_eq!(store.past, Some(Past::of(Incarnation(1_767_225_600_000))));
    let names: Vec<String> = store.memory.agents.iter().map(|state| state.agent.to_string()).collect();
    assert_eq!(names, ["trishula/agni.planner", "trishula/dc"]);
    write_all(&mut store, vec![keep(1, Place::Mailbox, b"one")]).await;
    close(store).await;

    let mut connection = Connection::open(file::database(folder.path())).unwrap();
    assert_eq!(schema::loses(&connection, 1).unwrap(), ["1 messages"]);
    assert_eq!(schema::migrate(&mut connection, 1).unwrap(), SCHEMA);
    assert_eq!(schema::version(&connection).unwrap(), 1);
    let tables: i64 = connection
        .query_row(
            "SELECT count(*) FROM sqlite_schema WHERE name IN ('life', 'agent', 'message')",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(tables, 2);
    drop(connection);
    let store = open(folder.path(), 2).unwrap();
    assert_eq!((store.memory.agents.len(), store.memory.messages.len()), (2, 0));
}

#[tokio::test]
async fn a_file_of_a_newer_release_is_left_alone() {
    // covers B26
    let folder = tempfile::tempdir().unwrap();
    let connection = Connection::open(file::database(folder.path())).unwrap();
    connection.pragma_update(None, "user_version", SCHEMA + 1).unwrap();
    drop(connection);
    let error = open(folder.path(), 1).err().unwrap().to_string();
    assert!(error.contains("newer release") && error.contains("trishula store down"), "{error}");
}

#[tokio::test]
async fn many_messages_are_all_there_after_the_log_has_begun_anew_many_times() {
    // covers T10
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 1).unwrap();
    const MANY: u64 = 12_000;
    let (mut sent, mut written) = (0, 0);
    while written < MANY {
        while sent < MANY && sent - written < 64 {
            sent += 1;
            store
                .jobs
                .try_send(Job { number: sent, record: keep(sent, Place::Mailbox, &LARGE[..2000]) })
                .unwrap();
        }
        let done = store.done.recv().await.unwrap();
        assert_eq!(done.error, None);
        written += done.numbers.len() as u64;
    }
    close(store).await;
    let store = open(folder.path(), 2).unwrap();
    let orders: Vec<u64> = store.memory.messages.iter().map(|kept| kept.order).collect();
    assert!(orders.into_iter().eq(1..=MANY));
}
