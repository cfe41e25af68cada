//! The store and disks that fail: a full one, one that can't be written, a process that is killed, a log that was torn.
//!
//! Some tests run this program again as a child: to be killed, or in a mount namespace of its own with a small disk
//! (`unshare`: Linux only).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use trishula::store::{self, Done, Job, Opened};
use trishula::wire::envelope::{Head, Kind, MessageKey, State, Target};
use trishula::wire::ids::{AgentAddr, MessageId, Namespace};
use trishula::wire::record::{Kept, Numbers, Place, Record, Upstream};

/// Where a child finds its folder; unset in the parent.
const FOLDER: &str = "TRISHULA_TEST_STORE";

fn message(n: u64, bytes: usize) -> Record {
    let agent = |name| AgentAddr::parse(name, &Namespace::new("trishula").unwrap()).unwrap();
    let (from, to, id) = (agent("dc"), agent("agni"), MessageId::new(&format!("m-{n}")).unwrap());
    let head = Head {
        sent_ms: n,
        taken: n << 16,
        ..Head::new(from.clone(), Target::Agent(to.clone()), id.clone(), Kind::Command)
    };
    Record::Keep(Box::new(Kept {
        key: MessageKey { from, id, to },
        order: n,
        place: Place::Mailbox,
        upstream: Upstream::Sender,
        head,
        payload: Bytes::from(vec![n as u8; bytes]),
        state: State::Accepted,
        reason: None,
        taken_ms: n,
        unseen_since: 0,
        other: None,
        told: false,
    }))
}

async fn write(store: &mut Opened, number: u64, bytes: usize) -> Done {
    store.jobs.send(Job { number, record: message(number, bytes) }).await.unwrap();
    store.done.recv().await.unwrap()
}

async fn close(store: Opened) {
    let Opened { jobs, mut done, .. } = store;
    drop(jobs);
    assert!(done.recv().await.is_none());
}

fn orders(store: &Opened) -> Vec<u64> {
    store.memory.messages.iter().map(|kept| kept.order).collect()
}

/// This program again, for one of the tests below that are for children.
fn child(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "--nocapture", test]).env(FOLDER, folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

fn given_folder() -> std::path::PathBuf {
    std::env::var_os(FOLDER).expect("run by the test above it").into()
}

/// Ended with the test, however it ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_kill() {
    // covers T10
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 1..=5_u64 {
        let mut child = Killed(child("appends_until_it_is_killed", folder.path()).spawn().unwrap());
        let lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut numbers = lines.filter_map(|line| line.strip_prefix("on disk: ")?.parse::<u64>().ok());
        acknowledged = numbers.nth(150 * round as usize).expect("it writes until it is killed");
        // SIGKILL, in the middle of the next group.
        child.0.kill().unwrap();
        acknowledged = numbers.last().unwrap_or(acknowledged);
        child.0.wait().unwrap();
        let store = store::open(folder.path(), round).unwrap();
        assert_eq!((&store.damaged, store.quarantined.len()), (&None, 0));
        let orders = orders(&store);
        assert!(orders.len() as u64 >= acknowledged, "{} of {acknowledged}", orders.len());
        assert!(orders.iter().copied().eq(1..=orders.len() as u64), "no gap");
        close(store).await;
    }
    assert!(acknowledged > 500);
}

#[tokio::test]
#[ignore = "a child of what_was_acknowledged_is_there_after_a_kill"]
async fn appends_until_it_is_killed() {
    let mut store = store::open(&given_folder(), 1).unwrap();
    let mut number = store.memory.messages.len() as u64;
    let mut under_way = 0;
    loop {
        while under_way < 8 {
            number += 1;
            store.jobs.send(Job { number, record: message(number, 1500) }).await.unwrap();
            under_way += 1;
        }
        let done = store.done.recv().await.unwrap();
        assert_eq!(done.error, None);
        under_way -= done.numbers.len();
        let mut out = std::io::stdout().lock();
        for number in done.numbers {
            writeln!(out, "on disk: {number}").unwrap();
        }
        out.flush().unwrap();
    }
}

#[tokio::test]
async fn numbers_that_were_acknowledged_are_there_after_a_kill() {
    // covers T10
    let folder = tempfile::tempdir().unwrap();
    let mut child = Killed(child("counts_until_it_is_killed", folder.path()).spawn().unwrap());
    let lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut counted = lines.filter_map(|line| line.strip_prefix("on disk: ")?.parse::<u64>().ok());
    let acknowledged = counted.nth(100).expect("it writes until it is killed");
    child.0.kill().unwrap();
    let acknowledged = counted.last().unwrap_or(acknowledged);
    child.0.wait().unwrap();
    let store = store::open(folder.path(), 2).unwrap();
    let [numbers] = &store.memory.numbers[..] else { panic!("{:?}", store.memory.numbers) };
    let (first, last) = numbers.ranges[0];
    assert!(first == 1 && last >= acknowledged, "{last} of {acknowledged}");
    close(store).await;
}

#[tokio::test]
#[ignore = "a child of numbers_that_were_acknowledged_are_there_after_a_kill"]
async fn counts_until_it_is_killed() {
    let mut store = store::open(&given_folder(), 1).unwrap();
    let agent = |name| AgentAddr::parse(name, &Namespace::new("trishula").unwrap()).unwrap();
    for number in 1.. {
        let numbers = Numbers { from: agent("dc"), to: agent("agni"), epoch: 7, ranges: vec![(1, number)] };
        store.jobs.send(Job { number, record: Record::Numbers(numbers) }).await.unwrap();
        assert_eq!(store.done.recv().await.unwrap().error, None);
        println!("on disk: {number}");
    }
}

#[tokio::test]
async fn a_log_whose_end_was_torn_off_loses_only_that_end() {
    // covers T10
    let (folder, torn) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut store = store::open(folder.path(), 1).unwrap();
    let log = folder.path().join("node.sqlite-wal");
    let mut lengths = Vec::new();
    for number in 1..=20 {
        assert_eq!(write(&mut store, number, 1500).await.error, None);
        lengths.push(std::fs::metadata(&log).unwrap().len() as usize);
    }
    let (database, log) =
        (std::fs::read(folder.path().join("node.sqlite")).unwrap(), std::fs::read(&log).unwrap());
    // As a power cut leaves it: cut within the last group, or with garbage in it.
    let end = lengths[18] + (lengths[19] - lengths[18]) / 2;
    let mut garbage = log.clone();
    garbage[end..].fill(0xa5);
    for log in [&log[..end], &garbage[..]] {
        std::fs::write(torn.path().join("node.sqlite"), &database).unwrap();
        std::fs::write(torn.path().join("node.sqlite-wal"), log).unwrap();
        let _ = std::fs::remove_file(torn.path().join("node.sqlite-shm"));
        let mut again = store::open(torn.path(), 2).unwrap();
        assert_eq!((&again.damaged, again.quarantined.len()), (&None, 0));
        assert!(orders(&again).into_iter().eq(1..=19));
        assert_eq!(write(&mut again, 20, 10).await.error, None, "and it goes on");
        close(again).await;
    }
}

/// Runs one of the children below with a disk of its own at its folder.
fn on_a_small_disk(test: &str, options: &str) {
    let folder = tempfile::tempdir().unwrap();
    let child = child(test, folder.path());
    let script = format!("mount -t tmpfs -o {options} tmpfs \"${FOLDER}\" && exec \"$0\" \"$@\"");
    let mut run = Command::new("unshare");
    run.args(["-rm", "sh", "-c", &script]).env(FOLDER, folder.path()).stdin(Stdio::null());
    let output = run.arg(child.get_program()).args(child.get_args()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs mount namespaces: Linux")]
fn a_full_disk_refuses_and_recovers_by_itself() {
    // covers T10
    on_a_small_disk("fills_its_disk", "size=3m");
}

#[tokio::test]
#[ignore = "a child of a_full_disk_refuses_and_recovers_by_itself"]
async fn fills_its_disk() {
    let folder = given_folder();
    let mut store = store::open(&folder, 1).unwrap();
    assert_eq!(write(&mut store, 1, 1000).await.error, None);
    let filler = folder.join("somebody-elses");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}

    // What the log has room for may still go in; a large one can't.
    let refused = write(&mut store, 2, 500_000).await;
    let error = refused.error.expect("the disk is full");
    assert!(error.contains("the disk is full") && error.contains("by itself"), "{error}");
    let health = store.health.borrow().clone();
    assert!(!health.writable && health.error.is_some_and(|why| why.contains("full")));
    let mailbox = health.places.iter().find(|(place, _)| *place == Place::Mailbox).unwrap().1;
    assert_eq!(mailbox.messages, 1, "what was refused is not counted");
    assert!(write(&mut store, 3, 500_000).await.error.is_some());

    drop(file);
    std::fs::remove_file(filler).unwrap();
    // Nobody writes: it finds out by itself.
    store.health.wait_for(|health| health.writable).await.unwrap();
    assert_eq!(write(&mut store, 4, 500_000).await.error, None);
    let places = store.health.borrow().places.clone();
    let mailbox = places.iter().find(|(place, _)| *place == Place::Mailbox).unwrap().1;
    assert_eq!((mailbox.messages, mailbox.bytes), (2, 501_000), "counted anew");
    close(store).await;
    let store = store::open(&folder, 2).unwrap();
    assert_eq!((orders(&store), store.damaged), (vec![1, 4], None));
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs mount namespaces: Linux")]
fn a_disk_with_room_for_small_records_alone_does_not_write_again() {
    // covers T10, B19
    on_a_small_disk("nearly_fills_its_disk", "size=3m");
}

#[tokio::test]
#[ignore = "a child of a_disk_with_room_for_small_records_alone_does_not_write_again"]
async fn nearly_fills_its_disk() {
    let folder = given_folder();
    let mut store = store::open(&folder, 1).unwrap();
    assert_eq!(write(&mut store, 1, 1000).await.error, None);
    // The database has its size, and its log begins anew.
    close(store).await;
    let mut store = store::open(&folder, 2).unwrap();
    let filler = folder.join("somebody-elses");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let full = file.metadata().unwrap().len();
    file.set_len(full - 256 * 1024).unwrap();

    assert!(write(&mut store, 2, 500_000).await.error.is_some());
    store.health.borrow_and_update();
    for number in 3..15 {
        // Small ones go in, and nobody says so of the large one; which is tried at each second time.
        let refused = number % 2 == 1 && write(&mut store, 100 + number, 500_000).await.error.is_some();
        let small = write(&mut store, number, 10).await.error;
        assert!(refused || small.is_none(), "{number}: {small:?}");
        let health = store.health.borrow().clone();
        assert!(!health.writable && health.error.is_some_and(|why| why.contains("full")), "{number}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    // Whoever wanted the large one has given up, and small ones come without a pause: still it finds out.
    drop(file);
    std::fs::remove_file(filler).unwrap();
    let mut number = 15;
    while !store.health.borrow().writable {
        assert_eq!(write(&mut store, number, 10).await.error, None);
        number += 1;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    close(store).await;
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs mount namespaces: Linux")]
fn a_disk_without_room_for_the_first_write_is_named() {
    // covers B19
    on_a_small_disk("starts_on_a_full_disk", "size=16k");
}

#[test]
#[ignore = "a child of a_disk_without_room_for_the_first_write_is_named"]
fn starts_on_a_full_disk() {
    let error = store::open(&given_folder(), 1).err().unwrap().to_string();
    assert!(error.contains("data_dir") && error.contains("disk is full"), "{error}");
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs mount namespaces: Linux")]
fn a_disk_that_is_mounted_read_only_is_named() {
    // covers B19
    on_a_small_disk("starts_on_a_disk_that_cannot_be_written", "size=1m,ro");
}

#[test]
#[ignore = "a child of a_disk_that_is_mounted_read_only_is_named"]
fn starts_on_a_disk_that_cannot_be_written() {
    let error = store::open(&given_folder(), 1).err().unwrap().to_string();
    assert!(error.contains("Read-only") && error.contains("data_dir"), "{error}");
}
