use super::*;
use crate::store::testing::address;

#[tokio::test]
async fn a_message_is_found_by_its_id_with_its_steps() {
    // covers Q05
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 1).unwrap();
    let delivered = Record::Change(key(1), change(Place::Mailbox, State::Delivered));
    write_all(&mut store, vec![keep(1, Place::Mailbox, LARGE), delivered, keep(2, Place::Outbox, b"")]).await;
    let found = store.reader.find(Some(address("dc")), key(1).id).await.unwrap();
    assert_eq!((found.len(), found[0].bytes), (1, 5000));
    let steps: Vec<(State, u64)> = found[0].steps.iter().map(|step| (step.state, step.at_ms)).collect();
    assert_eq!(
        steps,
        [(State::Accepted, 1_767_225_600_001), (State::Delivered, 1_767_225_700_000)],
        "one line for each step"
    );
    assert!(store.reader.find(Some(address("agni")), key(1).id).await.unwrap().is_empty(), "another's");
    assert!(store.reader.find(None, key(3).id).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_dead_are_listed_in_pages_and_read_one_at_a_time() {
    // covers Q04
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 1).unwrap();
    let mut writes = vec![keep(1, Place::Mailbox, LARGE)];
    writes.extend((2..=6).map(|n| keep(n, Place::Dead, b"dead")));
    writes.push(Record::Change(key(1), change(Place::Dead, State::Dead)));
    writes.push(Record::Erase(key(3)));
    writes.push(keep(7, Place::Mailbox, b"alive"));
    write_all(&mut store, writes).await;

    let first = store.reader.dead(2, None).await.unwrap();
    let rest = store.reader.dead(1000, Some(first[1].cursor)).await.unwrap();
    let keys: Vec<_> = first.iter().chain(&rest).map(|letter| letter.key.clone()).collect();
    assert_eq!(keys, [1, 2, 4, 5, 6].map(key));
    assert_eq!((first[0].bytes, first[0].at_ms), (5000, 1_767_225_700_000));
    assert_eq!(first[0].reason.as_ref().unwrap().message, "no way");

    let (letter, payload) = store.reader.dead_letter(key(1)).await.unwrap().unwrap();
    assert_eq!((letter.key, &payload[..]), (key(1), LARGE));
    assert!(store.reader.dead_letter(key(7)).await.unwrap().is_none(), "it is not dead");
}
