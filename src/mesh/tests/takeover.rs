//! The second machine steps in at once, when the operator says so.

use super::cluster::*;
use super::durable::{TRIO, durable};
use crate::mesh::{Input, NoTakeOver, TakeOver};
use crate::wire::envelope::{Head, State};
use crate::wire::frame::Settlement;

/// A message of two copies from dc to bob, whose home is agni: dc has the second one, and agni is out of reach.
fn agni_is_gone() -> (Cluster, Client) {
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    cluster.away("agni", "bob");
    cluster.submit(&alice, Head { copies: 2, ..durable(&alice, "bob", "m-1") });
    cluster.run(seconds(1));
    assert_eq!(cluster.mesh("dc").may_take_over(&node("agni")), Err(NoTakeOver::InReach));
    // Also if it is asked for all the same.
    cluster.input("dc", Input::TakeOver(node("agni")));
    cluster.cut("agni", "dc");
    cluster.cut("agni", "rushabdev");
    cluster.run(seconds(1));
    (cluster, alice)
}

#[test]
fn the_second_machine_takes_over_at_once_by_the_operators_word_and_hands_back() {
    // covers Q02, Q04
    let (mut cluster, alice) = agni_is_gone();
    let moved = cluster.register("rushabdev", "bob");
    cluster.run(seconds(3));
    assert!(cluster.handings(&moved).is_empty(), "nobody has said so yet");
    assert_eq!(cluster.mesh("dc").may_take_over(&node("agni")), Ok(TakeOver { now: 1, later: 0 }));
    cluster.input("dc", Input::TakeOver(node("agni")));
    cluster.run(seconds(1));
    let handed = cluster.handings(&moved);
    assert!(handed.len() == 1 && handed[0].1.redelivered, "the first machine may have delivered it");
    cluster.settle(&moved, "m-1", Settlement::Acked);
    assert_eq!(cluster.states(&alice, "m-1").last(), Some(&State::Acked));

    // The first machine has it in a mailbox, and learns better.
    cluster.connect("agni", "dc");
    cluster.connect("agni", "rushabdev");
    cluster.run(seconds(40));
    for name in TRIO {
        let view = cluster.view(name);
        assert_eq!((view.mailbox, view.outbox, view.copies), (0, 0, 0), "{name}: {view:?}");
    }
    assert_eq!(cluster.handings(&moved).len(), 1);
}

#[test]
fn the_operators_word_holds_for_recipients_that_come_later_and_until_the_node_is_back() {
    // covers Q02, Q04
    let (mut cluster, alice) = agni_is_gone();
    assert_eq!(cluster.mesh("dc").may_take_over(&node("agni")), Ok(TakeOver { now: 0, later: 1 }));
    cluster.input("dc", Input::TakeOver(node("agni")));
    cluster.run(seconds(2));
    let moved = cluster.register("rushabdev", "bob");
    cluster.run(seconds(3));
    assert_eq!(cluster.handings(&moved).len(), 1, "as soon as it lives elsewhere");
    cluster.settle(&moved, "m-1", Settlement::Acked);

    cluster.connect("agni", "dc");
    cluster.connect("agni", "rushabdev");
    cluster.run(seconds(5));
    cluster.away("agni", "eve");
    cluster.submit(&alice, Head { copies: 2, ..durable(&alice, "eve", "m-2") });
    cluster.run(seconds(1));
    cluster.cut("agni", "dc");
    cluster.cut("agni", "rushabdev");
    cluster.run(seconds(1));
    let eve = cluster.register("rushabdev", "eve");
    cluster.run(seconds(10));
    assert!(cluster.handings(&eve).is_empty(), "it is waited for again");
}

#[test]
fn nothing_is_taken_over_from_this_node_or_one_that_nobody_knows() {
    // covers Q04, B19
    let (mut cluster, _) = agni_is_gone();
    let dc = cluster.mesh("dc");
    assert_eq!(dc.may_take_over(&node("dc")), Err(NoTakeOver::ThisNode));
    assert_eq!(dc.may_take_over(&node("nobody")), Err(NoTakeOver::Unknown));
    // Also after a restart, with what is on disk.
    cluster.restart("dc");
    cluster.run(seconds(1));
    assert_eq!(cluster.mesh("dc").may_take_over(&node("agni")), Ok(TakeOver { now: 0, later: 1 }));
}
