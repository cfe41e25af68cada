//! Recipients that move while messages are on their way.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;

use super::cluster::*;
use super::durable::{TRIO, durable};
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::{Head, State};
use crate::wire::frame::{Confirm, Dest, Forward, Frame, Outcome, Settlement};
use crate::wire::ids::{Incarnation, Sequence};

/// Three messages wait at agni, which is far from rushabdev.
fn three_wait_far_away() -> (Cluster, Client) {
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    cluster.away("agni", "bob");
    cluster.delay("agni", "rushabdev", seconds(1));
    for id in ["m-1", "m-2", "m-3"] {
        cluster.post(&alice, "bob", id);
    }
    (cluster, alice)
}

/// As dc would send a message to agni.
pub(super) fn to_agni(incarnation: Incarnation, number: u64, head: Head) -> Forward {
    let (number, after) = (Sequence(number), Sequence(0));
    let dest =
        Dest { node: node("agni"), agent: None, number, after, life: Incarnation(0), registered_ms: 0 };
    Forward {
        origin: node("dc"),
        incarnation,
        to: vec![dest],
        hops_left: 1,
        redelivered: false,
        unseen: false,
        age_ms: 0,
        head,
    }
}

pub(super) fn ids(cluster: &Cluster, client: &Client) -> Vec<String> {
    cluster.handings(client).into_iter().map(|(id, _)| id).collect()
}

#[test]
fn a_message_to_a_new_home_waits_for_those_that_lie_at_the_old_one() {
    // covers Q04
    for home in ["rushabdev", "dc"] {
        let (mut cluster, alice) = three_wait_far_away();
        let bob = cluster.register(home, "bob");
        cluster.submit(&alice, durable(&alice, "bob", "m-4"));
        cluster.run(seconds(8));
        assert_eq!(ids(&cluster, &bob), ["m-1", "m-2", "m-3", "m-4"], "bob moved to {home}");
        for id in ["m-1", "m-2", "m-3", "m-4"] {
            cluster.settle(&bob, id, Settlement::Acked);
        }
        cluster.run(seconds(3));
        for id in ["m-1", "m-4"] {
            assert_eq!(cluster.states(&alice, id).last(), Some(&State::Acked), "{id}");
        }
        for name in TRIO {
            let view = cluster.view(name);
            assert_eq!((view.mailbox, view.outbox, view.handed, view.held_back), (0, 0, 0, 0), "{name}");
        }
    }
}

#[test]
fn what_an_old_home_says_late_lets_no_message_pass_those_that_lie_there() {
    // covers T07, T18
    let full = Outcome::Reached(State::Refused, Some(Refusal::new(Code::MailboxFull, "it is full")));
    for late in [Outcome::Elsewhere, full] {
        let (mut cluster, alice) = three_wait_far_away();
        cluster.away("rushabdev", "carol");
        cluster.post(&alice, "carol", "c-1");
        // Under way to the old home as the recipient moves.
        cluster.lost =
            |frame| matches!(frame, Frame::Forward(forward, _) if forward.head.id.as_str() == "m-4");
        cluster.submit(&alice, durable(&alice, "bob", "m-4"));
        let bob = cluster.register("rushabdev", "bob");
        cluster.lost = |_| false;
        cluster.run(Duration::from_millis(100));
        let (_, memory) = cluster.backup("dc");
        let number = memory.messages.iter().find(|kept| kept.key.id.as_str() == "m-4").unwrap().order;
        let reports = vec![(Sequence(number), late)];
        let (to, incarnation) = (node("dc"), cluster.life("dc"));
        let confirm = Confirm { to, incarnation, node: node("agni"), reports, hops_left: 1 };
        cluster.inject("dc", "agni", Frame::Confirm(confirm));
        cluster.run(seconds(10));
        assert_eq!(ids(&cluster, &bob), ["m-1", "m-2", "m-3", "m-4"]);
    }
}

#[test]
fn nothing_waits_for_an_old_home_that_cannot_be_reached() {
    // covers Q04, T08
    let (mut cluster, alice) = three_wait_far_away();
    cluster.cut("agni", "dc");
    cluster.cut("agni", "rushabdev");
    cluster.run(seconds(4));
    let bob = cluster.register("rushabdev", "bob");
    cluster.post(&alice, "bob", "m-4");
    assert_eq!(ids(&cluster, &bob), ["m-4"]);
    cluster.connect("agni", "dc");
    cluster.run(seconds(8));
    assert_eq!(ids(&cluster, &bob), ["m-4", "m-1", "m-2", "m-3"]);
}

#[test]
fn nothing_waits_for_a_message_that_its_own_disk_refused_when_the_old_home_had_taken_it_over() {
    // covers T08, Q04
    for copies in [1, 2] {
        let mut cluster = Cluster::meshed(&TRIO);
        let (alice, bob) = (cluster.register("dc", "alice"), cluster.register("agni", "bob"));
        cluster.disk("dc", Disk::Hangs);
        cluster.submit(&alice, Head { copies, ..durable(&alice, "bob", "m-1") });
        cluster.run(seconds(1));
        assert_eq!(ids(&cluster, &bob), ["m-1"]);
        cluster.fail("dc");
        assert_eq!(cluster.states(&alice, "m-1"), [State::Refused], "{copies}");
        cluster.disk("dc", Disk::Works);
        cluster.run(seconds(2));
        // Agni passes the first on.
        let bob = cluster.register("rushabdev", "bob");
        cluster.post(&alice, "bob", "m-2");
        cluster.run(seconds(2));
        assert_eq!(ids(&cluster, &bob), ["m-1", "m-2"], "{copies}");
        assert_eq!(cluster.view("dc").held_back, 0);
    }
}

/// The three wait at agni, bob has moved to `home`, and dc, which has a fourth, is started again with no link yet.
fn moved_as_dc_was_started_again(home: &str) -> (Cluster, Client) {
    let (mut cluster, alice) = three_wait_far_away();
    cluster.cut("agni", "rushabdev");
    cluster.lost = |frame| matches!(frame, Frame::Forward(..));
    cluster.submit(&alice, durable(&alice, "bob", "m-4"));
    let bob = cluster.register(home, "bob");
    cluster.run(Duration::from_millis(100));
    cluster.restart("dc");
    cluster.lost = |_| false;
    (cluster, bob)
}

#[test]
fn a_node_that_was_started_again_finds_others_before_a_message_waits_for_no_old_home() {
    // covers Q04, T18
    let (mut cluster, _) = moved_as_dc_was_started_again("dc");
    let bob = cluster.register("dc", "bob");
    cluster.run(Duration::from_millis(500));
    assert!(ids(&cluster, &bob).is_empty());
    cluster.connect("dc", "agni");
    cluster.run(seconds(5));
    assert_eq!(ids(&cluster, &bob), ["m-1", "m-2", "m-3", "m-4"]);
    assert_eq!(cluster.view("dc").held_back, 0);
}

#[test]
fn a_message_that_could_not_go_to_a_new_home_waits_for_the_old_one_when_it_can() {
    // covers Q04, T18
    for off in [0, 70] {
        let (mut cluster, bob) = moved_as_dc_was_started_again("rushabdev");
        cluster.run(seconds(off));
        cluster.connect("dc", "agni");
        cluster.run(seconds(2));
        cluster.connect("dc", "rushabdev");
        cluster.run(seconds(5));
        assert_eq!(ids(&cluster, &bob), ["m-1", "m-2", "m-3", "m-4"], "after {off} s");
        assert_eq!(cluster.view("dc").held_back, 0);
    }
}

#[test]
fn what_could_not_go_does_not_wait_long_for_an_old_home_that_cannot_be_reached() {
    // covers Q04, T08
    let (mut cluster, bob) = moved_as_dc_was_started_again("rushabdev");
    cluster.run(seconds(70));
    cluster.connect("dc", "rushabdev");
    cluster.run(Duration::from_millis(500));
    assert!(ids(&cluster, &bob).is_empty(), "agni may be found yet");
    cluster.run(seconds(2));
    assert_eq!(ids(&cluster, &bob), ["m-4"]);
}

#[test]
fn a_message_whose_time_is_over_is_not_delivered_by_a_new_home() {
    // covers Q04
    for home in ["rushabdev", "dc"] {
        let mut cluster = Cluster::meshed(&TRIO);
        let alice = cluster.register("dc", "alice");
        cluster.away("agni", "bob");
        cluster.lost = |frame| matches!(frame, Frame::Forward(..));
        cluster.submit(&alice, Head { ttl_ms: Some(1_000), ..durable(&alice, "bob", "m-1") });
        cluster.run(seconds(2));
        let bob = cluster.register(home, "bob");
        cluster.lost = |_| false;
        cluster.run(seconds(8));
        assert!(ids(&cluster, &bob).is_empty(), "bob moved to {home}");
        assert_eq!(cluster.states(&alice, "m-1"), [State::Accepted, State::Expired], "as agni has said");
    }
}

#[test]
fn how_a_message_ended_at_an_old_home_is_asked_there() {
    // covers Q04
    for home in ["rushabdev", "dc"] {
        let mut cluster = Cluster::meshed(&TRIO);
        let alice = cluster.register("dc", "alice");
        let bob = cluster.register("agni", "bob");
        cluster.lost = |frame| matches!(frame, Frame::Confirm(..));
        cluster.submit(&alice, Head { ttl_ms: Some(1_000), ..durable(&alice, "bob", "m-1") });
        cluster.run(seconds(1));
        cluster.settle(&bob, "m-1", Settlement::Acked);
        cluster.run(seconds(1));
        assert_eq!(cluster.states(&alice, "m-1"), [State::Accepted], "what agni says is lost");
        let again = cluster.register(home, "bob");
        cluster.lost = |_| false;
        cluster.run(seconds(8));
        assert!(ids(&cluster, &again).is_empty(), "bob moved to {home}");
        assert_eq!(cluster.states(&alice, "m-1").last(), Some(&State::Acked));
    }
}

#[test]
fn a_sender_that_gives_a_message_to_a_second_node_is_told_there_also_after_a_restart() {
    // covers Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    cluster.away("agni", "bob");
    cluster.post(&alice, "bob", "m-1");
    cluster.detach(&alice, false);
    cluster.run(seconds(1));
    let again = cluster.register("agni", "alice");
    cluster.post(&again, "bob", "m-1");
    assert_eq!(cluster.states(&again, "m-1"), [State::Accepted, State::Stored]);
    cluster.cut("agni", "dc");
    cluster.cut("dc", "rushabdev");
    cluster.restart("agni");
    cluster.run(seconds(5));
    let bob = cluster.register("agni", "bob");
    cluster.run(seconds(1));
    cluster.settle(&bob, "m-1", Settlement::Acked);
    let again = cluster.register("agni", "alice");
    cluster.run(seconds(1));
    assert_eq!(cluster.states(&again, "m-1").last(), Some(&State::Acked));
}

#[test]
fn a_message_that_may_create_its_recipient_does_not_undo_a_registration() {
    // covers Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    cluster.disk("dc", Disk::Hangs);
    let bob = cluster.attach("dc", "bob", PLAIN);
    cluster.submit(&alice, Head { create: true, ..durable(&alice, "bob", "m-1") });
    cluster.disk("dc", Disk::Works);
    cluster.release("dc");
    cluster.run(seconds(1));
    assert_eq!(ids(&cluster, &bob), ["m-1"]);
    cluster.restart("dc");
    cluster.connect("dc", "agni");
    cluster.run(seconds(3));
    let again = cluster.register("dc", "bob");
    cluster.run(seconds(1));
    assert!(cluster.handings(&again)[0].1.redelivered, "bob was there, and may have got it");
}

#[test]
fn the_time_that_a_message_waits_for_an_earlier_one_is_its_own() {
    // covers Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("agni", "bob");
    let incarnation = cluster.life("dc");
    let forward = |number, after, ttl_ms| {
        let head = Head { ttl_ms: Some(ttl_ms), ..durable(&alice, "bob", &format!("m-{number}")) };
        let mut forward = to_agni(incarnation, number, head);
        forward.to[0].after = Sequence(after);
        Frame::Forward(forward, Bytes::from_static(b"{}"))
    };
    cluster.inject("agni", "dc", forward(2, 1, 2_000));
    cluster.run(seconds(4));
    cluster.inject("agni", "dc", forward(1, 0, 60_000));
    cluster.run(seconds(1));
    assert_eq!(ids(&cluster, &bob), ["m-1"], "the second one's time was over when the first one came");
}

/// What was lost told dc that a message is stored.
static STORED_AT_DC: AtomicUsize = AtomicUsize::new(0);

#[test]
fn a_node_is_not_told_that_a_message_is_stored_which_it_has_itself() {
    // covers Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    cluster.away("agni", "bob");
    cluster.lost = |frame| match frame {
        Frame::Confirm(confirm) if confirm.to == node("dc") => {
            let stored = |(_, outcome): &(_, Outcome)| matches!(outcome, Outcome::Reached(..));
            STORED_AT_DC.fetch_add(confirm.reports.iter().filter(|report| stored(report)).count(), Relaxed);
            true
        }
        _ => false,
    };
    cluster.submit(&alice, durable(&alice, "bob", "m-1"));
    cluster.run(seconds(1));
    assert!(STORED_AT_DC.swap(0, Relaxed) > 0, "agni has it");
    // Agni gives it back, and lets go of it when dc says that it is there: were dc to give it to agni once more just now,
    // it would take what agni says for an answer, and let go too.
    let bob = cluster.register("dc", "bob");
    cluster.settle(&bob, "m-1", Settlement::Written);
    cluster.run(seconds(8));
    assert_eq!(cluster.view("agni").handed, 1);
    assert_eq!(STORED_AT_DC.load(Relaxed), 0);
}

#[test]
fn a_sender_is_not_told_less_of_a_message_than_before_as_its_recipient_comes_and_goes() {
    // covers T05, T08
    let mut cluster = Cluster::meshed(&["dc", "agni"]);
    cluster.delay("dc", "agni", Duration::from_millis(500));
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("agni", "bob");
    cluster.run(seconds(2));
    cluster.submit(&alice, durable(&alice, "bob", "m-1"));
    cluster.run(seconds(2));
    cluster.settle(&bob, "m-1", Settlement::Written);
    cluster.run(seconds(2));
    let told = [State::Accepted, State::Stored, State::Delivered];
    assert_eq!(cluster.states(&alice, "m-1"), told);
    // He comes to dc, and is gone again before the disk there has what agni gives back.
    let bob = cluster.register("dc", "bob");
    cluster.disk("dc", Disk::Hangs);
    cluster.run(seconds(2));
    assert_eq!(ids(&cluster, &bob), ["m-1"]);
    cluster.register("agni", "bob");
    cluster.run(Duration::from_millis(700));
    cluster.disk("dc", Disk::Works);
    cluster.release("dc");
    cluster.run(seconds(8));
    assert_eq!(cluster.states(&alice, "m-1"), told);
}

#[test]
fn what_nobody_has_got_leaves_its_mailbox_when_the_disk_knows_that() {
    // covers T07, Q04
    for (disk, not_before_ms) in [(Disk::Hangs, None), (Disk::Fails, None), (Disk::Hangs, Some(500))] {
        let mut cluster = Cluster::meshed(&["dc", "agni"]);
        let alice = cluster.register("dc", "alice");
        cluster.away("dc", "bob");
        for id in ["m-1", "m-2"] {
            cluster.submit(&alice, Head { not_before_ms, ..durable(&alice, "bob", id) });
        }
        cluster.run(seconds(2));
        // Were the power to go now, the disk would have it as what nobody has got.
        cluster.disk("dc", disk);
        let bob = cluster.register("agni", "bob");
        cluster.run(seconds(10));
        assert!(ids(&cluster, &bob).is_empty(), "{disk:?} {not_before_ms:?}");
        cluster.disk("dc", Disk::Works);
        cluster.release("dc");
        cluster.run(seconds(2));
        let got: Vec<_> = cluster.handings(&bob).into_iter().map(|(id, got)| (id, got.redelivered)).collect();
        assert_eq!(got, [("m-1".into(), false), ("m-2".into(), false)], "{disk:?} {not_before_ms:?}");
    }
}

#[test]
fn what_comes_after_a_message_that_leaves_its_mailbox_does_not_pass_it() {
    // covers T07, T08
    let mut cluster = Cluster::meshed(&["dc", "agni"]);
    let alice = cluster.register("dc", "alice");
    cluster.away("dc", "bob");
    ["m-1", "m-2"].iter().for_each(|id| cluster.post(&alice, "bob", id));
    cluster.disk("dc", Disk::Hangs);
    let bob = cluster.register("agni", "bob");
    cluster.submit(&alice, durable(&alice, "bob", "m-3"));
    for _ in 0..100 {
        if !cluster.release_first("dc") {
            break;
        }
        cluster.run(Duration::from_millis(100));
    }
    let all = ["m-1", "m-2", "m-3"];
    let forwarded = cluster.sent.iter().filter_map(|sent| match &sent.frame {
        Frame::Forward(forward, _) => Some(forward.head.id.as_str()),
        _ => None,
    });
    assert_eq!(forwarded.collect::<Vec<_>>(), all);
    assert_eq!(ids(&cluster, &bob), all);
}

#[test]
fn what_leaves_a_mailbox_whose_disk_is_gone_for_good_goes_with_a_mark() {
    // covers T07, Q04
    for not_before_ms in [None, Some(500)] {
        let mut cluster = Cluster::meshed(&["dc", "agni"]);
        let alice = cluster.register("dc", "alice");
        cluster.away("dc", "bob");
        cluster.submit(&alice, Head { not_before_ms, ..durable(&alice, "bob", "m-1") });
        cluster.run(seconds(2));
        cluster.disk("dc", Disk::Fails);
        let bob = cluster.register("agni", "bob");
        cluster.run(seconds(30));
        assert_eq!(cluster.view("dc").held_back, 1);
        cluster.run(seconds(40));
        let got: Vec<_> = cluster.handings(&bob).into_iter().map(|(id, got)| (id, got.redelivered)).collect();
        assert_eq!(got, [("m-1".into(), true)], "{not_before_ms:?}");
        assert_eq!(cluster.view("dc").held_back, 0);
    }
}

#[test]
fn two_nodes_that_ask_each_other_whether_a_message_came_in_time_let_it_end() {
    // covers T08, Q04
    let mut cluster = Cluster::meshed(&["agni", "dc"]);
    let alice = cluster.register("dc", "alice");
    cluster.away("agni", "bob");
    // It takes a second to agni, which so counts a second less.
    cluster.delay("agni", "dc", seconds(1));
    cluster.lost = |frame| matches!(frame, Frame::Confirm(..));
    cluster.submit(&alice, Head { ttl_ms: Some(4_000), ..durable(&alice, "bob", "m-1") });
    cluster.run(Duration::from_millis(2_500));
    cluster.delay("agni", "dc", Duration::from_millis(1));
    cluster.run(Duration::from_millis(1_700));
    let bob = cluster.register("dc", "bob");
    cluster.lost = |_| false;
    cluster.run(seconds(20));
    assert!(ids(&cluster, &bob).is_empty());
    assert_eq!(cluster.states(&alice, "m-1"), [State::Accepted, State::Expired]);
    for name in ["agni", "dc"] {
        assert_eq!((cluster.view(name).outbox, cluster.view(name).mailbox), (0, 0), "{name}");
    }
}
