use super::*;
use crate::store::maintenance;
use crate::wire::record::Upstream;

/// Changes bytes of the database at the n-th place where `what` stands.
fn overwrite(folder: &Path, what: &[u8], with: &[u8]) {
    let path = file::database(folder);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(what.len()).position(|window| window == what).expect("it is in the file");
    bytes[at..at + with.len()].copy_from_slice(with);
    std::fs::write(&path, bytes).unwrap();
}

#[tokio::test]
async fn a_damaged_row_is_put_aside_and_costs_no_other() {
    // covers B26
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 1).unwrap();
    let writes = vec![
        keep(1, Place::Mailbox, b"the first payload"),
        keep(2, Place::Mailbox, b"the second payload"),
        keep(3, Place::Dead, b"the third payload"),
        keep(4, Place::Outbox, b"the fourth payload"),
    ];
    write_all(&mut store, writes).await;
    close(store).await;
    overwrite(folder.path(), b"the second payload", b"the sEcond");
    overwrite(folder.path(), b"the third payload", b"the thIrd");

    for again in 0..2 {
        let store = open(folder.path(), 2).unwrap();
        assert_eq!(store.damaged, None);
        let left: Vec<u64> = store.memory.messages.iter().map(|kept| kept.order).collect();
        assert_eq!(left, [1, 3, 4]);
        let bad: Vec<_> = store.quarantined.iter().map(|bad| (bad.key.clone(), bad.rest.clone())).collect();
        let holder = kept(2, Place::Mailbox, b"").other.unwrap();
        match again {
            0 => assert_eq!(bad, [(Some(key(2)), Rest::At(holder))]),
            _ => assert_eq!(bad, [], "once put aside it is no news"),
        }
        assert_eq!(store.health.borrow().quarantined, 1);
        let error = store.reader.dead_letter(key(3)).await.unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
        close(store).await;
    }
}

/// A store with many messages, and garbage in the middle of its file.
async fn broken(folder: &Path) {
    let mut store = open(folder, 1).unwrap();
    let mut writes = vec![Record::Agent(agent("a"))];
    writes.extend((1..=200).map(|n| keep(n, Place::Mailbox, &LARGE[..1000])));
    write_all(&mut store, writes).await;
    close(store).await;
    let path = file::database(folder);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
}

#[tokio::test]
async fn of_a_damaged_row_is_said_whether_another_node_has_the_message() {
    // covers B26
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 1).unwrap();
    let (agni, taken) = (NodeName::new("agni").unwrap(), Incarnation(1));
    let from_agni = Upstream::Node(agni.clone(), taken, crate::wire::ids::Sequence(1));
    let mut writes = Vec::new();
    let cases = [
        // Taken here, and the second copy is not confirmed yet.
        (None, 2, Upstream::Sender, Rest::Nowhere),
        (None, 1, Upstream::Sender, Rest::Nowhere),
        (Some(agni.clone()), 2, Upstream::Sender, Rest::At(agni.clone())),
        // Who sent it here keeps a copy only if it was asked to.
        (None, 2, from_agni.clone(), Rest::At(agni.clone())),
        (None, 1, from_agni, Rest::Nowhere),
    ];
    let payloads = [b"payload 0", b"payload 1", b"payload 2", b"payload 3", b"payload 4"];
    for ((n, (other, copies, upstream, _)), payload) in (1..).zip(&cases).zip(payloads) {
        let mut message = kept(n, Place::Mailbox, payload);
        (message.other, message.upstream, message.head.copies) = (other.clone(), upstream.clone(), *copies);
        writes.push(Record::Keep(Box::new(message)));
    }
    write_all(&mut store, writes).await;
    close(store).await;
    payloads.iter().for_each(|payload| overwrite(folder.path(), *payload, b"PAY"));
    let store = open(folder.path(), 2).unwrap();
    let rests: Vec<Rest> = store.quarantined.iter().map(|bad| bad.rest.clone()).collect();
    assert_eq!(rests, cases.map(|(.., rest)| rest));
    let health = store.health.borrow().clone();
    assert_eq!((health.quarantined, health.quarantined_alone), (5, 3));
    let survey = maintenance::survey(folder.path(), true).unwrap();
    assert_eq!((survey.quarantined, survey.quarantined_alone, survey.aside.len()), (5, 3, 5));
    let said = |id: &str| survey.aside.iter().find(|aside| aside.id == id).unwrap().rest.clone();
    assert!(said("m-1").starts_with("no other node holds a copy"), "{}", said("m-1"));
    assert!(said("m-3").starts_with("node agni holds a copy"), "{}", said("m-3"));
    close(store).await;
}

#[tokio::test]
async fn a_damaged_file_is_read_as_far_as_it_goes_and_never_written() {
    // covers B26
    let folder = tempfile::tempdir().unwrap();
    broken(folder.path()).await;
    let before = std::fs::read(file::database(folder.path())).unwrap();
    let mut store = open(folder.path(), 2).unwrap();
    assert!(store.damaged.is_some());
    assert_eq!((store.past.clone(), store.incarnation), (Some(Past::new(Incarnation(1))), Incarnation(2)));
    assert_eq!(store.memory.agents, vec![agent("a")]);
    let orders: Vec<u64> = store.memory.messages.iter().map(|kept| kept.order).collect();
    assert!(orders.len() > 150 && orders.len() < 200, "{}", orders.len());
    assert!(orders.contains(&1) && orders.contains(&200), "both sides of the damage");

    store.jobs.send(Job { number: 7, record: keep(900, Place::Mailbox, b"") }).await.unwrap();
    let done = store.done.recv().await.unwrap();
    let error = done.error.unwrap();
    assert_eq!(done.numbers, [7]);
    assert!(error.contains("damaged") && error.contains("trishula store salvage"), "{error}");
    assert!(!store.health.borrow().writable && store.health.borrow().damaged.is_some());
    close(store).await;
    assert!(std::fs::read(file::database(folder.path())).unwrap() == before);
}

#[tokio::test]
async fn a_file_whose_end_is_cut_off_is_read_as_far_as_it_goes() {
    // covers B26
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 1).unwrap();
    let mut writes = vec![Record::Agent(agent("a"))];
    writes.extend((1..=200).map(|n| keep(n, Place::Mailbox, &LARGE[..1000])));
    write_all(&mut store, writes).await;
    close(store).await;
    let path = file::database(folder.path());
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 20 * 1024]).unwrap();
    let store = open(folder.path(), 2).unwrap();
    assert!(store.damaged.is_some());
    let past = store.past.clone();
    assert_eq!((past, store.memory.agents.len()), (Some(Past::new(Incarnation(1))), 1));
    assert!(store.memory.messages.len() > 150, "{}", store.memory.messages.len());
    let found = store.reader.find(None, key(1).id).await.unwrap();
    assert_eq!(found.len(), 1, "where messages stand can be asked");
    close(store).await;
}

#[tokio::test]
async fn a_file_without_a_byte_is_damaged_and_no_new_store() {
    // covers B26
    let folder = tempfile::tempdir().unwrap();
    close(open(folder.path(), 1).unwrap()).await;
    let path = file::database(folder.path());
    std::fs::write(&path, b"").unwrap();
    let store = open(folder.path(), 2).unwrap();
    assert_eq!(store.damaged.as_deref(), Some("the file is empty"));
    close(store).await;
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0, "it is left alone");
    std::fs::remove_file(&path).unwrap();
    let store = open(folder.path(), 3).unwrap();
    assert_eq!(store.damaged, None, "as it is told to be mended");
    close(store).await;
}

#[tokio::test]
async fn what_a_damaged_file_still_has_is_saved_into_a_new_one() {
    // covers B26
    let folder = tempfile::tempdir().unwrap();
    broken(folder.path()).await;
    assert!(maintenance::survey(folder.path(), false).unwrap().damage.is_some());
    let seen = maintenance::salvage(folder.path(), None).unwrap();
    let out = tempfile::tempdir().unwrap();
    let saved = maintenance::salvage(folder.path(), Some(out.path())).unwrap();
    assert_eq!(saved, seen, "what is said is what is done");
    let messages = saved.iter().find(|saved| saved.table == "message").unwrap();
    assert!(!messages.whole && messages.rows >= 196, "{messages:?}");
    let error = maintenance::salvage(folder.path(), Some(out.path())).unwrap_err().to_string();
    assert!(error.contains("a store already"), "{error}");

    let mut store = open(out.path(), 3).unwrap();
    assert_eq!((store.damaged.clone(), store.quarantined.len()), (None, 0));
    assert_eq!(store.memory.messages.len() as u64, messages.rows);
    let past = store.past.clone().unwrap();
    assert_eq!((store.memory.agents.len(), past.confirmed), (1, Incarnation(1)));
    assert!(past.whole_since > Incarnation(3), "agents may be lost: others remember them");
    write_all(&mut store, vec![keep(900, Place::Mailbox, b"goes on")]).await;
}

#[tokio::test]
async fn a_file_that_is_no_database_is_said_and_left_alone() {
    // covers B26
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(file::database(folder.path()), vec![b'x'; 9000]).unwrap();
    let store = open(folder.path(), 5).unwrap();
    assert!(store.damaged.is_some() && store.memory.messages.is_empty());
    assert_eq!(store.incarnation, Incarnation(5));
    close(store).await;
    let error = maintenance::salvage(folder.path(), None).unwrap_err().to_string();
    assert!(error.contains("not a database"), "{error}");
}

#[tokio::test]
async fn the_full_check_tells_its_end() {
    // covers B26
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 1).unwrap();
    store.health.wait_for(|health| health.checked.is_some()).await.unwrap();
    assert_eq!(store.health.borrow().checked, Some(Checked::Whole));
}

#[tokio::test]
async fn a_survey_tells_what_is_in_a_store_also_while_it_is_used() {
    // covers B26
    let folder = tempfile::tempdir().unwrap();
    let missing = maintenance::survey(folder.path(), false).unwrap_err().to_string();
    assert!(missing.contains("no store here") && missing.contains("--data"), "{missing}");
    let mut store = open(folder.path(), 1).unwrap();
    let writes = vec![
        Record::Agent(agent("a")),
        keep(1, Place::Ended, b""),
        keep(2, Place::Mailbox, LARGE),
        keep(3, Place::Mailbox, b"three"),
    ];
    write_all(&mut store, writes).await;
    let survey = maintenance::survey(folder.path(), true).unwrap();
    assert!(survey.in_use && survey.damage.is_none());
    assert_eq!((survey.schema, survey.incarnation, survey.agents), (SCHEMA, Some(1), 1));
    assert_eq!(survey.oldest_ms, Some(kept(2, Place::Mailbox, b"").taken_ms));
    assert_eq!(survey.places, store.health.borrow().places);
    let refused = maintenance::migrate(folder.path(), 1).unwrap_err().to_string();
    assert!(refused.contains("another process"), "{refused}");
    close(store).await;
    assert!(!maintenance::survey(folder.path(), false).unwrap().in_use);
    assert_eq!(maintenance::losses(folder.path(), 1).unwrap(), ["3 messages"]);
    assert_eq!(maintenance::migrate(folder.path(), 1).unwrap(), SCHEMA);
    assert_eq!(maintenance::migrate(folder.path(), SCHEMA).unwrap(), 1);
    assert_eq!(open(folder.path(), 2).unwrap().memory.agents, vec![agent("a")]);
}
