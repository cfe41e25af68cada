//! What an operator sets of durable messages: each limit is kept, and says so to the sender.

use std::time::Duration;

use bytes::Bytes;

use super::cluster::*;
use super::durable::{TRIO, durable};
use crate::mesh::{Config, Limits};
use crate::wire::close::Code;
use crate::wire::envelope::{Head, State, Target};
use crate::wire::frame::{Dest, Forward, Frame, Settlement};
use crate::wire::ids::{Incarnation, MessageId, Sequence};
use crate::wire::record::Record;

/// Nodes with links to each other and these limits.
pub(super) fn limited(names: &[&str], limits: &Limits) -> Cluster {
    let mut cluster = Cluster::of(&[]);
    for name in names {
        let config = Config { limits: limits.clone(), ..Config::new(node(name), Incarnation(1)) };
        cluster.start(config, Vec::new());
    }
    for (i, a) in names.iter().enumerate() {
        for b in &names[i + 1..] {
            cluster.connect(a, b);
        }
    }
    cluster.run(seconds(2));
    cluster
}

pub(super) fn reason(cluster: &Cluster, client: &Client) -> String {
    let told = cluster.told(client);
    told.iter().filter_map(|receipt| receipt.refusal.as_ref()).next_back().unwrap().message.clone()
}

#[test]
fn a_mailbox_takes_as_many_messages_and_bytes_as_it_may() {
    // covers Q04, Q06
    for limits in [
        Limits { mailbox_messages: 3, ..Limits::default() },
        // A payload is "payload of m-1".
        Limits { mailbox_bytes: 3 * 14, ..Limits::default() },
    ] {
        let mut cluster = limited(&["dc"], &limits);
        let alice = cluster.register("dc", "alice");
        cluster.away("dc", "bob");
        cluster.away("dc", "eve");
        (1..=4).for_each(|n| cluster.post(&alice, "bob", &format!("m-{n}")));
        assert_eq!(cluster.refusals(&alice), [Code::MailboxFull]);
        let used = cluster.mesh("dc").limits_in_use();
        assert_eq!((used.messages, used.fullest), (3, Some((agent("bob"), 3, 3 * 14))));
        assert!(reason(&cluster, &alice).contains("3 messages wait"), "{}", reason(&cluster, &alice));
        cluster.post(&alice, "eve", "m-5");
        assert_eq!(cluster.states(&alice, "m-5"), [State::Accepted, State::Stored], "others go on");
    }
}

#[test]
fn for_a_recipient_whose_home_is_out_of_reach_no_more_waits_than_in_a_mailbox() {
    // covers Q04, Q06
    for limits in [
        Limits { mailbox_messages: 3, ..Limits::default() },
        // A payload is "payload of m-1".
        Limits { mailbox_bytes: 3 * 14, ..Limits::default() },
    ] {
        let mut cluster = limited(&["agni", "dc"], &limits);
        let alice = cluster.register("dc", "alice");
        cluster.away("agni", "bob");
        cluster.away("agni", "eve");
        cluster.cut("agni", "dc");
        (1..=4).for_each(|n| cluster.post(&alice, "bob", &format!("m-{n}")));
        assert_eq!(cluster.refusals(&alice), [Code::MailboxFull]);
        let used = cluster.mesh("dc").limits_in_use();
        assert_eq!((used.messages, used.fullest), (3, Some((agent("bob"), 3, 3 * 14))));
        let said = reason(&cluster, &alice);
        assert!(said.contains("3 messages wait at node dc") && said.contains("until node agni"), "{said}");
        cluster.post(&alice, "eve", "m-5");
        assert_eq!(cluster.states(&alice, "m-5"), [State::Accepted], "others go on");

        // Its home takes them over: there they count, and here no more.
        cluster.connect("agni", "dc");
        cluster.run(seconds(5));
        assert_eq!(cluster.mesh("dc").limits_in_use().fullest, None);
        assert_eq!(cluster.mesh("agni").limits_in_use().fullest, Some((agent("bob"), 3, 3 * 14)));
        cluster.post(&alice, "bob", "m-6");
        assert_eq!(cluster.states(&alice, "m-6"), [State::Accepted], "it waits here for room there");
        assert_eq!(cluster.mesh("dc").limits_in_use().fullest, Some((agent("bob"), 1, 14)));
    }
}

#[test]
fn what_was_accepted_waits_for_room_in_a_mailbox_elsewhere_and_comes_in_order() {
    // covers T06, T08, Q04
    let limits = Limits { mailbox_messages: 3, ..Limits::default() };
    let mut cluster = limited(&["dc", "agni"], &limits);
    let alice = cluster.register("dc", "alice");
    cluster.away("agni", "bob");
    cluster.away("agni", "eve");
    (1..=5).for_each(|n| cluster.post(&alice, "bob", &format!("m-{n}")));
    assert_eq!(cluster.refusals(&alice), [], "each was on disk at dc before agni could refuse it");
    cluster.post(&alice, "eve", "m-6");
    assert_eq!(cluster.states(&alice, "m-6"), [State::Accepted, State::Stored], "others go on");
    cluster.run(seconds(60));
    assert_eq!(cluster.mesh("dc").durable_view().no_room, 2);
    assert_eq!(cluster.states(&alice, "m-4"), [State::Accepted], "not dead");

    let bob = cluster.register("agni", "bob");
    for n in 1..=5 {
        cluster.run(seconds(6));
        cluster.settle(&bob, &format!("m-{n}"), Settlement::Acked);
    }
    let handed: Vec<String> = cluster.handings(&bob).into_iter().map(|(id, _)| id).collect();
    assert_eq!(handed, ["m-1", "m-2", "m-3", "m-4", "m-5"]);
    assert_eq!(cluster.mesh("dc").durable_view().no_room, 0);
    assert!(cluster.states(&alice, "m-5").contains(&State::Acked));
}

#[test]
fn a_message_that_no_mailbox_of_its_recipients_node_could_ever_take_dies_with_the_reason() {
    // covers T06, T21
    let mut cluster = limited(&["dc"], &Limits::default());
    let small = Limits { mailbox_bytes: 5, ..Limits::default() };
    cluster.start(Config { limits: small, ..Config::new(node("agni"), Incarnation(1)) }, Vec::new());
    cluster.connect("dc", "agni");
    cluster.run(seconds(2));
    let alice = cluster.register("dc", "alice");
    cluster.away("agni", "bob");
    cluster.post(&alice, "bob", "m-1");
    assert_eq!(cluster.states(&alice, "m-1"), [State::Accepted, State::Dead]);
    assert!(reason(&cluster, &alice).contains("14 bytes"), "{}", reason(&cluster, &alice));
}

#[test]
fn a_node_keeps_as_many_messages_and_bytes_as_it_may() {
    // covers Q04, Q06
    for limits in
        // Clients may fill seven eighths.
        [
            Limits { node_messages: 4, ..Limits::default() },
            Limits { node_bytes: 48, ..Limits::default() },
        ]
    {
        let mut cluster = limited(&["dc"], &limits);
        let alice = cluster.register("dc", "alice");
        cluster.away("dc", "bob");
        cluster.away("dc", "eve");
        for (n, to) in ["bob", "eve", "bob", "eve"].iter().enumerate() {
            cluster.post(&alice, to, &format!("m-{n}"));
        }
        assert_eq!(cluster.refusals(&alice), [Code::Unavailable]);
        assert!(reason(&cluster, &alice).contains("[limits] node_messages"), "{}", reason(&cluster, &alice));
        assert_eq!(cluster.view("dc").mailbox, 3);
    }
}

#[test]
fn as_many_receipts_are_kept_for_a_sender_that_is_away() {
    // covers T07, Q04
    let limits = Limits { receipts_of_sender: 2, ..Limits::default() };
    let mut cluster = limited(&["dc"], &limits);
    let alice = cluster.register("dc", "alice");
    cluster.away("dc", "bob");
    for n in 1..=4 {
        let ends = Head { ttl_ms: Some(2_000 + n), ..durable(&alice, "bob", &format!("m-{n}")) };
        cluster.submit(&alice, ends);
    }
    cluster.run(seconds(1));
    cluster.detach(&alice, false);
    cluster.run(seconds(5));
    assert_eq!((cluster.view("dc").untold, cluster.view("dc").marks), (2, 4 - 2));
    let again = cluster.register("dc", "alice");
    let told: Vec<String> = cluster.told(&again).iter().map(|receipt| receipt.id.to_string()).collect();
    assert_eq!(told, ["m-3", "m-4"], "the oldest go first");
}

#[test]
fn a_broadcast_has_as_many_recipients_as_it_may() {
    // covers T06, Q06
    let limits = Limits { broadcast_recipients: 2, ..Limits::default() };
    let mut cluster = limited(&["dc"], &limits);
    let alice = cluster.register("dc", "alice");
    let to = || Target::Broadcast(alice.agent.namespace.clone());
    for (n, refused) in [(2, false), (3, true)] {
        while cluster.mesh("dc").snapshot().agents_known <= n {
            let known = cluster.mesh("dc").snapshot().agents_known;
            cluster.register("dc", &format!("other-{known}"));
        }
        cluster.submit(&alice, Head { to: to(), receipt: None, ..durable(&alice, "x", &format!("m-{n}")) });
        cluster.run(seconds(1));
        assert_eq!(cluster.refusals(&alice).contains(&Code::RateLimited), refused, "{n} recipients");
    }
    assert!(reason(&cluster, &alice).contains("more than 2 agents"));
}

#[test]
fn a_pair_is_braked_at_its_rate_and_answers_at_their_depth() {
    // covers Q05, Q06
    let limits = Limits { pair_rate: 1, pair_burst: 2, reply_depth: 2, ..Limits::default() };
    let mut cluster = limited(&["dc"], &limits);
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("dc", "bob");
    (1..=3).for_each(|n| cluster.submit(&alice, durable(&alice, "bob", &format!("m-{n}"))));
    assert_eq!(cluster.refusals(&alice), [Code::RateLimited]);
    cluster.run(seconds(2));
    cluster.submit(&alice, durable(&alice, "bob", "m-4"));
    assert_eq!(cluster.refusals(&alice).len(), 1, "a second later one more may pass");

    let mut answered = MessageId::new("m-1").unwrap();
    let mut loops = 0;
    for n in 1..=4 {
        cluster.run(seconds(2));
        let (from, to) = if n % 2 == 1 { (&bob, "alice") } else { (&alice, "bob") };
        let id = MessageId::new(&format!("r-{n}")).unwrap();
        cluster.submit(from, Head { reply_to: Some(answered), ..durable(from, to, id.as_str()) });
        loops = cluster.refusals(&alice).iter().filter(|code| **code == Code::LoopStopped).count();
        assert!(loops == 0 || n == 4, "answer {n}");
        answered = id;
    }
    assert_eq!(loops + usize::from(cluster.refusals(&bob).contains(&Code::LoopStopped)), 1);
}

#[test]
fn the_second_machine_takes_over_after_the_time_that_is_set() {
    // covers Q02, Q04
    let limits = Limits { takes_over_after: seconds(10), ..Limits::default() };
    let mut cluster = limited(&["agni", "dc", "rushabdev"], &limits);
    let alice = cluster.register("dc", "alice");
    cluster.away("agni", "bob");
    cluster.submit(&alice, Head { copies: 2, ..durable(&alice, "bob", "m-1") });
    cluster.run(seconds(1));
    cluster.cut("agni", "dc");
    cluster.cut("agni", "rushabdev");
    let moved = cluster.register("rushabdev", "bob");
    cluster.run(seconds(8));
    assert!(cluster.handings(&moved).is_empty());
    cluster.run(seconds(4));
    assert_eq!(cluster.handings(&moved).len(), 1);
}

#[test]
fn a_depth_that_a_peer_made_up_stops_the_answer_and_nothing_else() {
    // covers B19, Q05
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("agni", "bob");
    let forward = Forward {
        origin: node("dc"),
        incarnation: Incarnation(1),
        to: vec![Dest {
            node: node("agni"),
            agent: None,
            number: Sequence(1),
            after: Sequence(0),
            life: Incarnation(0),
            registered_ms: 0,
        }],
        hops_left: 1,
        redelivered: false,
        unseen: false,
        age_ms: 0,
        head: Head { depth: u16::MAX, ..durable(&alice, "bob", "m-1") },
    };
    cluster.inject("agni", "dc", Frame::Forward(forward, Bytes::from_static(b"{}")));
    cluster.run(seconds(1));
    let reply_to = Some(MessageId::new("m-1").unwrap());
    cluster.submit(&bob, Head { reply_to: reply_to.clone(), ..durable(&bob, "alice", "r-1") });
    cluster.settle(&bob, "m-1", Settlement::Acked);
    cluster.submit(&bob, Head { reply_to, ..durable(&bob, "alice", "r-2") });
    assert_eq!(cluster.refusals(&bob), [Code::LoopStopped; 2], "whether it is known whole or by its mark");
    cluster.post(&bob, "alice", "m-2");
    assert_eq!(cluster.states(&bob, "m-2"), [State::Accepted, State::Stored]);
}

#[test]
fn how_far_back_a_sender_is_known_is_on_disk_before_its_marks_go() {
    // covers Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("dc", "bob");
    let sent_ms = cluster.wall_ms();
    cluster.submit(&alice, Head { sent_ms, ..durable(&alice, "bob", "m-1") });
    cluster.run(seconds(1));
    cluster.settle(&bob, "m-1", Settlement::Acked);
    cluster.disk("dc", Disk::Hangs);
    cluster.wall_jump_ms += 8 * 24 * 3600 * 1000;
    cluster.run(seconds(3));
    let records = cluster.records("dc");
    let at = |wanted: fn(&Record) -> bool| records.iter().position(wanted);
    let horizon = at(|record| matches!(record, Record::Horizon(..)));
    let erase = at(|record| matches!(record, Record::Erase(..)));
    assert!(horizon.is_some() && horizon < erase, "{records:?}");
}

#[test]
fn what_was_given_back_is_off_the_disk_also_when_that_refuses_at_first() {
    // covers Q02, Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    cluster.away("agni", "bob");
    cluster.lost = |frame| matches!(frame, Frame::Forward(..) | Frame::Hold(..));
    cluster.submit(&alice, Head { copies: 2, ..durable(&alice, "bob", "m-1") });
    cluster.run(seconds(1));
    assert_eq!(cluster.backup("dc").1.messages.len(), 1);
    cluster.disk("dc", Disk::Fails);
    cluster.run(seconds(6));
    assert_eq!(cluster.states(&alice, "m-1"), [State::Refused], "no second machine has it");
    cluster.disk("dc", Disk::Works);
    cluster.run(seconds(3));
    assert!(cluster.backup("dc").1.messages.is_empty(), "the next start would know it");
    assert_eq!(cluster.view("dc").unwritten, 0);
}

#[test]
fn while_the_disk_refuses_new_messages_are_refused_at_once_and_not_put_into_hands() {
    // covers Q04, T06
    let mut cluster = Cluster::meshed(&TRIO);
    let (alice, bob) = (cluster.register("dc", "alice"), cluster.register("dc", "bob"));
    cluster.disk("dc", Disk::Fails);
    cluster.post(&alice, "bob", "m-1");
    assert_eq!(cluster.states(&alice, "m-1"), [State::Refused], "bob has it, the disk has not");
    for n in 2..20 {
        cluster.post(&alice, "bob", &format!("m-{n}"));
        cluster.run(Duration::from_millis(37));
    }
    assert_eq!(cluster.refusals(&alice), [Code::Unavailable; 19]);
    let handed: Vec<String> = cluster.handings(&bob).into_iter().map(|(id, _)| id).collect();
    assert_eq!(handed, ["m-1"]);

    cluster.disk("dc", Disk::Works);
    cluster.run(seconds(2));
    cluster.post(&alice, "bob", "m-20");
    assert!(cluster.states(&alice, "m-20").contains(&State::Accepted), "it recovers by itself");
}

#[test]
fn who_sent_what_is_in_hand_when_the_disk_refuses_it_is_told_at_once_and_it_is_recognised_when_it_comes_again()
 {
    // covers B19, Q04, T04
    for (acked, to) in [(false, "bob"), (true, "bob"), (false, "broadcast"), (true, "broadcast")] {
        let mut cluster = limited(&["dc"], &Limits::default());
        let (alice, bob) = (cluster.register("dc", "alice"), cluster.register("dc", "bob"));
        let receipt = if to == "bob" { State::Acked } else { State::Accepted };
        let message = || Head { receipt: Some(receipt), ..durable(&alice, to, "m-1") };
        cluster.disk("dc", Disk::Fails);
        cluster.submit(&alice, message());
        if acked {
            // Its end is what the disk refuses.
            let (_, handing) = cluster.handings(&bob)[0].clone();
            cluster.frame(&bob, Frame::Settle(bob.session, vec![(handing.tag, Settlement::Acked)]));
        }
        cluster.run(Duration::from_millis(100));
        assert_eq!(cluster.states(&alice, "m-1"), [State::Refused], "{acked} {to}");
        let said = reason(&cluster, &alice);
        assert!(said.contains("may have arrived") && said.contains("disk full"), "{said}");
        cluster.submit(&alice, message());
        cluster.run(seconds(2));
        assert_eq!(
            cluster.refusals(&alice),
            [Code::Unavailable; 2],
            "once each time it is given: {acked} {to}"
        );

        cluster.disk("dc", Disk::Works);
        cluster.run(seconds(2));
        assert_eq!(cluster.states(&alice, "m-1").len(), 2, "it was given back");
        cluster.submit(&alice, message());
        cluster.run(seconds(2));
        if !acked {
            cluster.settle(&bob, "m-1", Settlement::Acked);
        }
        assert!(cluster.states(&alice, "m-1").contains(&receipt), "{acked} {to}");
        assert_eq!(cluster.handings(&bob).len(), 1, "bob got it once: {acked} {to}");
        assert_eq!((cluster.view("dc").unwritten, cluster.view("dc").marks), (0, 1), "{acked} {to}");
    }
}

#[test]
fn what_comes_behind_a_message_that_the_disk_refused_is_not_on_disk_before_it() {
    // covers T08, Q04
    for earlier_ms in 0..10 {
        let mut cluster = Cluster::meshed(&TRIO);
        let alice = cluster.register("dc", "alice");
        cluster.away("agni", "bob");
        // Somewhere between two rounds of agni's.
        cluster.run(Duration::from_millis(100 * earlier_ms));
        cluster.disk("agni", Disk::Fails);
        cluster.post(&alice, "bob", "m-1");
        cluster.disk("agni", Disk::Works);
        cluster.post(&alice, "bob", "m-2");
        cluster.restart("agni");
        let bob = cluster.register("agni", "bob");
        cluster.connect("agni", "dc");
        cluster.run(seconds(10));
        let handed: Vec<String> = cluster.handings(&bob).into_iter().map(|(id, _)| id).collect();
        assert_eq!(handed, ["m-1", "m-2"]);
    }
}

#[test]
fn whose_mark_had_to_go_before_its_end_was_told_ends_as_too_old_and_not_as_lost() {
    // covers Q04, Q06
    let limits = Limits { marks_of_sender: 1, ..Limits::default() };
    let mut cluster = limited(&["agni", "dc"], &limits);
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("agni", "bob");
    let dated = |cluster: &Cluster, from: &Client, id: &str| Head {
        sent_ms: cluster.wall_ms(),
        ..durable(from, "bob", id)
    };
    let head = dated(&cluster, &alice, "m-1");
    cluster.submit(&alice, head);
    cluster.run(seconds(1));
    assert_eq!(cluster.view("dc").handed, 1);
    cluster.cut("agni", "dc");
    cluster.settle(&bob, "m-1", Settlement::Acked);
    let alice = cluster.register("agni", "alice");
    for id in ["m-2", "m-3"] {
        let head = dated(&cluster, &alice, id);
        cluster.submit(&alice, head);
        cluster.run(seconds(1));
        cluster.settle(&bob, id, Settlement::Acked);
    }
    cluster.connect("agni", "dc");
    cluster.run(seconds(60));
    assert_eq!(cluster.refusals(&alice), [Code::TooOld]);
    assert!(reason(&cluster, &alice).contains("does not remember"), "{}", reason(&cluster, &alice));
    assert_eq!(cluster.view("dc").handed, 0);
}
