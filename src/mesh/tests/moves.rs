//! Recipients that move while messages are on their way, and broadcasts.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;

use super::cluster::*;
use super::durable::{TRIO, durable};
use crate::wire::close::Code;
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
fn to_agni(incarnation: Incarnation, number: u64, head: Head) -> Forward {
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

fn ids(cluster: &Cluster, client: &Client) -> Vec<String> {
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
fn a_broadcast_has_one_receipt_that_counts() {
    // covers T07, Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    for (home, name) in [("dc", "bob"), ("agni", "carol"), ("rushabdev", "dave")] {
        cluster.away(home, name);
    }
    cluster.disk("dc", Disk::Hangs);
    let all = |id| Head { receipt: Some(State::Accepted), ..durable(&alice, "broadcast", id) };
    cluster.submit(&alice, all("m-1"));
    cluster.run(seconds(1));
    assert_eq!(cluster.states(&alice, "m-1"), [], "nothing is on disk yet");
    cluster.disk("dc", Disk::Works);
    cluster.release("dc");
    cluster.run(seconds(1));
    cluster.submit(&alice, all("m-1"));
    cluster.run(seconds(1));
    let told = |cluster: &Cluster, id: &str| {
        let told = cluster.told(&alice).into_iter().filter(|receipt| receipt.id.as_str() == id);
        told.map(|receipt| (receipt.state, receipt.counts)).collect::<Vec<_>>()
    };
    let accepted = (State::Accepted, Some((3, 0)));
    assert_eq!(told(&cluster, "m-1"), [accepted, accepted], "once each time it is given");

    cluster.disk("dc", Disk::Fails);
    cluster.submit(&alice, all("m-2"));
    cluster.run(seconds(1));
    assert_eq!(told(&cluster, "m-2"), [(State::Refused, Some((0, 3)))]);
    assert_eq!(cluster.refusals(&alice), [Code::Unavailable]);
}

#[test]
fn the_second_copy_of_a_message_that_is_given_back_is_dropped() {
    // covers Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    cluster.away("dc", "bob");
    cluster.disk("dc", Disk::Fails);
    cluster.submit(&alice, Head { copies: 2, ..durable(&alice, "bob", "m-1") });
    cluster.run(seconds(1));
    assert_eq!(cluster.refusals(&alice), [Code::Unavailable]);
    cluster.run(seconds(90));
    for name in TRIO {
        assert_eq!((cluster.view(name).copies, cluster.view(name).outbox), (0, 0), "{name}");
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
fn what_a_session_was_handed_fills_its_window_until_it_says_otherwise() {
    // covers Q06
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("agni", "alice");
    let bob = cluster.register("agni", "bob");
    for n in 0..65 {
        cluster.submit(&alice, Head { copies: 2, ..durable(&alice, "bob", &format!("m-{n}")) });
    }
    cluster.run(seconds(1));
    assert_eq!(cluster.handings(&bob).len(), 64);
    // The node with the second copy knows an end of the first message, while bob is still at it.
    let (incarnation, memory) = cluster.backup("agni");
    let first = memory.messages.into_iter().find(|kept| kept.key.id.as_str() == "m-0").unwrap();
    let reports = vec![(Sequence(first.order), Outcome::Reached(State::Acked, None))];
    let holder = first.other.unwrap();
    let confirm = Confirm { to: node("agni"), incarnation, node: holder.clone(), reports, hops_left: 1 };
    cluster.inject("agni", holder.as_str(), Frame::Confirm(confirm));
    cluster.run(seconds(1));
    assert_eq!(cluster.states(&alice, "m-0").last(), Some(&State::Acked));
    assert_eq!(cluster.handings(&bob).len(), 64, "bob has them all in hand still");
    cluster.settle(&bob, "m-0", Settlement::Acked);
    assert_eq!(cluster.handings(&bob).len(), 65);
}

#[test]
fn broadcasts_that_two_nodes_took_at_the_same_time_stay_two() {
    // covers T06, Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    let incarnation = cluster.backup("dc").0;
    for (n, (id, recipient)) in [("m-1", "bob"), ("m-2", "carol")].into_iter().enumerate() {
        cluster.away("agni", recipient);
        let head = Head { taken: 77, ..durable(&alice, "broadcast", id) };
        let mut forward = to_agni(incarnation, n as u64 + 1, head);
        forward.to[0].agent = Some(agent(recipient));
        cluster.inject("agni", "dc", Frame::Forward(forward, Bytes::from(id)));
    }
    cluster.run(seconds(1));
    // Both are on their way to the new home, and are sent again together.
    cluster.lost = |frame| matches!(frame, Frame::Forward(..));
    let clients = ["bob", "carol"].map(|name| cluster.register("rushabdev", name));
    cluster.run(seconds(2));
    cluster.lost = |_| false;
    cluster.run(seconds(8));
    assert_eq!(clients.map(|client| ids(&cluster, &client)), [["m-1"], ["m-2"]]);
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
    let incarnation = cluster.backup("dc").0;
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

#[test]
fn a_broadcast_that_is_given_to_a_home_of_its_recipients_is_answered_there_too() {
    // covers T07, Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    cluster.away("agni", "bob");
    let all = Head { receipt: Some(State::Accepted), ..durable(&alice, "broadcast", "m-1") };
    cluster.submit(&alice, all.clone());
    cluster.run(seconds(1));
    cluster.detach(&alice, false);
    cluster.run(seconds(1));
    let again = cluster.register("agni", "alice");
    cluster.submit(&again, all);
    cluster.run(seconds(1));
    assert_eq!(cluster.states(&again, "m-1"), [State::Accepted]);
    assert_eq!(cluster.view("agni").counting, 0);
}

#[test]
fn a_node_that_was_alone_since_its_start_marks_what_another_may_have_delivered() {
    // covers Q04, T04
    // rushabdev has agents of its own, or none.
    for somebody in [true, false] {
        let mut cluster = Cluster::meshed(&["agni", "rushabdev"]);
        let bob = cluster.register("agni", "bob");
        if somebody {
            cluster.register("rushabdev", "carol");
        }
        cluster.run(seconds(5));
        cluster.detach(&bob, false);
        cluster.cut("agni", "rushabdev");
        cluster.restart("agni");
        cluster.register("agni", "bob");
        cluster.run(seconds(10));

        // rushabdev delivers a message, and loses its power before it is on disk.
        let (bob, alice) = (cluster.register("rushabdev", "bob"), cluster.register("rushabdev", "alice"));
        cluster.run(seconds(1));
        cluster.mute("rushabdev");
        let message = Head { sent_ms: cluster.wall_ms(), ..durable(&alice, "bob", "m-1") };
        cluster.submit(&alice, message.clone());
        cluster.run(seconds(1));
        assert_eq!(ids(&cluster, &bob), ["m-1"]);
        cluster.restart("rushabdev");

        // Both come to agni, which knows nothing of it.
        let (bob, alice) = (cluster.register("agni", "bob"), cluster.register("agni", "alice"));
        cluster.submit(&alice, Head { from: message.from.clone(), ..message });
        cluster.run(seconds(1));
        assert!(cluster.handings(&bob)[0].1.redelivered, "bob has got it before; somebody: {somebody}");
    }
}

#[test]
fn a_node_that_forgot_whom_it_sent_a_message_to_says_so() {
    // covers Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("agni", "alice");
    cluster.away("agni", "bob");
    cluster.run(seconds(5));
    cluster.submit(&alice, durable(&alice, "bob", "m-1"));
    cluster.run(seconds(1));
    // It goes to rushabdev, which hands it over, and dc does not hear of it.
    let kept = [cluster.backup("agni"), cluster.backup("rushabdev")];
    cluster.cut("dc", "agni");
    cluster.cut("dc", "rushabdev");
    let bob = cluster.register("rushabdev", "bob");
    cluster.run(seconds(1));
    assert_eq!(ids(&cluster, &bob), ["m-1"]);
    // Both lose their power before that is on disk; dc tells agni that its store is no old one.
    for (name, kept) in ["agni", "rushabdev"].into_iter().zip(kept) {
        cluster.restore(name, kept);
    }
    cluster.connect("agni", "dc");
    cluster.run(seconds(3));
    let bob = cluster.register("rushabdev", "bob");
    cluster.connect("agni", "rushabdev");
    cluster.run(seconds(5));
    assert_eq!(ids(&cluster, &bob), ["m-1"]);
    assert!(cluster.handings(&bob)[0].1.redelivered, "bob has got it before");
}

#[test]
fn what_waited_for_an_earlier_one_while_its_recipient_was_elsewhere_is_marked() {
    // covers Q04
    for was_elsewhere in [false, true] {
        let mut cluster = Cluster::meshed(&TRIO);
        let alice = cluster.register("dc", "alice");
        let mut bob = cluster.register("agni", "bob");
        cluster.run(seconds(5));
        let mesh = cluster.mesh("agni");
        let to = Dest {
            node: node("agni"),
            agent: None,
            number: Sequence(2),
            after: Sequence(1),
            life: mesh.config.incarnation,
            registered_ms: mesh.directory.registered_at(&agent("bob"), &node("agni")),
        };
        let forward = |to: Dest| Forward {
            origin: node("dc"),
            incarnation: cluster.backup("dc").0,
            head: durable(&alice, "bob", &format!("m-{}", to.number.0)),
            to: vec![to],
            hops_left: 1,
            redelivered: false,
            unseen: true,
            age_ms: 0,
        };
        let second = forward(to.clone());
        let first = forward(Dest { number: Sequence(1), after: Sequence(0), ..to });
        // m-2 is here, and waits for m-1; meanwhile bob is at dc, which may deliver it itself.
        cluster.inject("agni", "dc", Frame::Forward(second, Bytes::from_static(b"{}")));
        cluster.run(seconds(1));
        if was_elsewhere {
            cluster.register("dc", "bob");
            cluster.run(seconds(1));
            bob = cluster.register("agni", "bob");
            cluster.run(seconds(1));
        }
        cluster.inject("agni", "dc", Frame::Forward(first, Bytes::from_static(b"{}")));
        cluster.run(seconds(1));
        let handed = cluster.handings(&bob);
        let marked =
            |id: &str| handed.iter().find(|(of, _)| of == id).map(|(_, handing)| handing.redelivered);
        assert_eq!(marked("m-2"), Some(was_elsewhere), "{handed:?}");
    }
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
fn a_copy_whose_node_asks_whether_the_message_came_in_time_has_one_end() {
    // covers T08, Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("agni", "alice");
    cluster.away("dc", "bob");
    cluster.submit(&alice, Head { copies: 2, ..durable(&alice, "bob", "m-1") });
    cluster.run(seconds(1));
    assert_eq!((cluster.view("agni").copies, cluster.view("dc").mailbox), (1, 1));
    let head = Head { copies: 2, ttl_ms: Some(0), ..durable(&alice, "bob", "m-1") };
    let incarnation = cluster.backup("dc").0;
    cluster.inject("agni", "dc", Frame::Forward(to_agni(incarnation, 1, head), Bytes::new()));
    cluster.run(seconds(8));
    for name in TRIO {
        let view = cluster.view(name);
        assert_eq!((view.copies, view.mailbox, view.untold, view.bytes), (0, 0, 0, 0), "{name}");
    }
    assert_eq!(cluster.states(&alice, "m-1").last(), Some(&State::Expired));
}

#[test]
fn a_copy_is_not_two_machines_before_the_first_has_it_on_disk() {
    // covers T08, Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("agni", "alice");
    cluster.away("agni", "bob");
    cluster.disk("agni", Disk::Hangs);
    let twice = |client: &Client| Head { copies: 2, ..durable(client, "bob", "m-1") };
    cluster.submit(&alice, twice(&alice));
    cluster.run(seconds(1));
    assert_eq!(cluster.view("dc").copies, 1, "it is sent there at once");
    // Its sender gives it to the other machine, once more after that was started again, and its recipient moves there.
    let again = cluster.register("dc", "alice");
    cluster.submit(&again, twice(&again));
    cluster.run(seconds(1));
    cluster.restart("dc");
    cluster.connect("dc", "agni");
    cluster.connect("dc", "rushabdev");
    cluster.run(seconds(2));
    let again = cluster.register("dc", "alice");
    cluster.submit(&again, twice(&again));
    cluster.run(seconds(1));
    assert_eq!(cluster.states(&again, "m-1"), []);
    cluster.disk("agni", Disk::Works);
    cluster.release("agni");
    cluster.run(seconds(6));
    assert_eq!(cluster.states(&again, "m-1").first(), Some(&State::Accepted));
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
