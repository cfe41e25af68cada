use super::*;
use crate::store::testing::{address, key};

fn hop(n: u64, clock: u64, at_ms: u64) -> Hop {
    Hop {
        at_ms,
        clock,
        from: address("dc"),
        id: key(n).id,
        to: "trishula/agni".into(),
        node: NodeName::new("agni").unwrap(),
        what: "taken".into(),
        detail: "x".repeat(100),
    }
}

#[tokio::test]
async fn hops_are_found_by_their_message_in_the_order_of_the_clock_also_after_a_restart() {
    // covers Q05
    let folder = tempfile::tempdir().unwrap();
    let now = clock::wall_ms();
    let (recorder, lookup) = open(folder.path());
    for (n, clock) in [(1, 30), (2, 5), (1, 10)] {
        recorder.record(hop(n, clock, now));
    }
    let trail = lookup.find(None, key(1).id).await.unwrap();
    assert_eq!(trail.hops, vec![hop(1, 10, now), hop(1, 30, now)]);
    assert!(trail.gone_before_ms >= now, "from before the first record nothing is known");
    let mut ended = lookup.ended();
    recorder.record(hop(1, 40, now));
    drop((recorder, lookup));
    assert!(ended.changed().await.is_err(), "the last one is written too");

    let (_recorder, lookup) = open(folder.path());
    assert_eq!(lookup.find(Some(address("dc")), key(1).id).await.unwrap().hops.len(), 3);
    assert!(lookup.find(Some(address("agni")), key(1).id).await.unwrap().hops.is_empty());
}

#[tokio::test]
async fn old_hops_and_too_many_go_and_it_is_said_up_to_when() {
    // covers Q05
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { bytes: 256 << 10, ..Limits::default() };
    let (recorder, lookup) = open_with(folder.path(), limits);
    let now = clock::wall_ms() + 1000;
    for n in 0..6000 {
        recorder.record(hop(n, n, now + n));
        if n % 1000 == 0 {
            // It keeps up.
            lookup.find(None, key(n).id).await.unwrap();
        }
    }
    let (first, last) =
        (lookup.find(None, key(0).id).await.unwrap(), lookup.find(None, key(5999).id).await.unwrap());
    assert_eq!((first.hops.len(), last.hops.len()), (0, 1));
    assert!(first.gone_before_ms > now && first.gone_before_ms <= now + 5999);
    drop((recorder, lookup));

    let (recorder, lookup) = open_with(folder.path(), Limits { age_ms: 1, bytes: 1 << 30 });
    recorder.record(hop(9000, 1, 5));
    recorder.record(hop(9001, 2, now + 100_000_000));
    let trail = lookup.find(None, key(9001).id).await.unwrap();
    assert_eq!(trail.hops.len(), 1);
}

#[tokio::test]
async fn a_damaged_file_is_moved_aside_and_begun_anew() {
    // covers Q05
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("trace.sqlite"), [b'x'; 5000]).unwrap();
    let (recorder, lookup) = open(folder.path());
    recorder.record(hop(1, 1, clock::wall_ms()));
    assert_eq!(lookup.find(None, key(1).id).await.unwrap().hops.len(), 1);
    assert!(folder.path().join("trace.sqlite.damaged").exists());
}

#[tokio::test]
async fn what_finds_no_room_is_dropped_and_nobody_waits() {
    // covers Q05
    let (asks, asked) = queue::bounded("store.trace", 1);
    let recorder = Recorder { asks, missing: Missing::default() };
    recorder.record(hop(1, 1, 1));
    recorder.record(hop(2, 1, 7));
    assert_eq!(asked.len(), 1);
    assert_eq!(recorder.missing.spans(), [Span { from_ms: 7, to_ms: 7 }]);
}

#[tokio::test]
async fn a_look_up_says_when_records_were_dropped_also_after_a_restart() {
    // covers Q05
    let folder = tempfile::tempdir().unwrap();
    let (recorder, lookup) = open(folder.path());
    assert_eq!(lookup.find(None, key(0).id).await.unwrap().missing, []);
    let now = clock::wall_ms();
    // More than waits, and than is written meanwhile.
    let many = 20 * BOUND as u64;
    for n in 0..many {
        recorder.record(hop(n, n, now + n / 1000));
    }
    let missing = lookup.find(None, key(many - 1).id).await.unwrap().missing;
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert!(missing[0].from_ms > now && missing[0].to_ms <= now + many / 1000, "{missing:?}");
    // With the next one that is written.
    recorder.record(hop(many, many, now));
    let mut ended = lookup.ended();
    drop((recorder, lookup));
    assert!(ended.changed().await.is_err());
    let (_recorder, lookup) = open(folder.path());
    assert_eq!(lookup.find(None, key(many).id).await.unwrap().missing, missing);
}

#[tokio::test]
async fn what_comes_while_the_file_cant_be_written_is_said_to_be_missing() {
    // covers Q05, B19
    let folder = tempfile::tempdir().unwrap();
    // No file can be made there.
    let path = folder.path().join("trace.sqlite");
    std::fs::create_dir(&path).unwrap();
    let (recorder, lookup) = open(folder.path());
    for at_ms in [5000, 5100] {
        recorder.record(hop(1, 1, at_ms));
        assert!(lookup.find(None, key(1).id).await.is_err());
    }
    std::fs::remove_dir(&path).unwrap();
    // The second one came when the file had just failed, and so does this one.
    recorder.record(hop(1, 1, 5200));
    let trail = lookup.find(None, key(1).id).await.unwrap();
    assert_eq!((trail.hops.len(), trail.missing), (0, vec![Span { from_ms: 5000, to_ms: 5200 }]));
}
