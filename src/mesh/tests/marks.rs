//! What may have been handed over before is marked, wherever its recipient has been in between.

use std::time::Duration;

use bytes::Bytes;

use super::cluster::*;
use super::durable::{TRIO, durable};
use super::moves::ids;
use crate::mesh::Input;
use crate::wire::envelope::Head;
use crate::wire::frame::{Dest, Forward, Frame, Settlement};
use crate::wire::ids::{LinkId, Sequence};

const SOON: Duration = Duration::from_millis(100);
/// A connection from agni to rushabdev that is no link yet.
const EARLY: LinkId = LinkId(1_000);

/// Three nodes, Alice at agni, and Bob away, last at rushabdev.
fn bob_was_at_rushabdev() -> (Cluster, Client) {
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("agni", "alice");
    cluster.away("rushabdev", "bob");
    cluster.run(seconds(20));
    (cluster, alice)
}

fn assert_one_marked(cluster: &Cluster, client: &Client, why: &str) {
    let handed = cluster.handings(client);
    assert_eq!(handed.len(), 1);
    assert!(handed[0].1.redelivered, "{why}");
}

/// Bob gets m-1 at its sender's own node agni, marked since rushabdev has been sent it, and goes on to dc.
fn got_at_agni_and_went_to_dc(cluster: &mut Cluster) -> Client {
    let there = cluster.register("agni", "bob");
    assert_one_marked(cluster, &there, "rushabdev may have handed it over");
    cluster.settle(&there, "m-1", Settlement::Acked);
    cluster.detach(&there, false);
    cluster.run(SOON);
    cluster.register("dc", "bob")
}

#[test]
fn what_comes_late_to_a_node_that_was_started_again_is_marked_where_its_recipient_is_now() {
    // covers T07, Q02
    let (mut cluster, alice) = bob_was_at_rushabdev();
    // It was sent to rushabdev, and is on its way.
    cluster.lost = |frame| matches!(frame, Frame::Forward(..));
    cluster.post(&alice, "bob", "m-1");
    let on_its_way = cluster.sent.iter().find(|sent| matches!(sent.frame, Frame::Forward(..))).unwrap();
    let on_its_way = on_its_way.frame.clone();
    cluster.lost = |_| false;
    cluster.cut("agni", "rushabdev");
    cluster.cut("dc", "rushabdev");
    cluster.restart("rushabdev");
    let bob = got_at_agni_and_went_to_dc(&mut cluster);
    cluster.run(seconds(1));
    let early = Input::LinkEarly { link: EARLY, peer: node("agni"), dialled: false };
    cluster.input("rushabdev", early);
    cluster.input("rushabdev", Input::Frame(EARLY, on_its_way));
    cluster.connect("rushabdev", "dc");
    cluster.run(seconds(2));
    assert_one_marked(&cluster, &bob, "bob got it at agni");
}

#[test]
fn what_a_node_keeps_whose_sender_has_not_heard_that_is_marked_at_its_recipients_next_home() {
    // covers T07, Q02
    let (mut cluster, alice) = bob_was_at_rushabdev();
    cluster.lost = |frame| matches!(frame, Frame::Confirm(..));
    cluster.post(&alice, "bob", "m-1");
    assert_eq!(cluster.view("rushabdev").mailbox, 1);
    cluster.cut("agni", "rushabdev");
    cluster.cut("dc", "rushabdev");
    cluster.lost = |_| false;
    let bob = got_at_agni_and_went_to_dc(&mut cluster);
    cluster.connect("rushabdev", "dc");
    cluster.run(seconds(2));
    assert_one_marked(&cluster, &bob, "bob got it at agni");
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
            incarnation: cluster.life("dc"),
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
