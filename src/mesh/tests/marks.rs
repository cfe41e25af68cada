//! What may have been handed over before is marked, wherever its recipient has been in between.

use std::time::Duration;

use super::cluster::*;
use super::durable::TRIO;
use crate::mesh::Input;
use crate::wire::frame::{Frame, Settlement};
use crate::wire::ids::LinkId;

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
