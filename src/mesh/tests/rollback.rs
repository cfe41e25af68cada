//! Stores that are not what the node wrote last: old copies, and damaged files.

use super::cluster::*;
use super::durable::TRIO;
use crate::mesh::{Config, GoOn, Input};
use crate::wire::close::Code;
use crate::wire::envelope::State;
use crate::wire::frame::Settlement;
use crate::wire::ids::Incarnation;
use crate::wire::record::{Memory, Past};

/// A message waits at dc, whose next life agni has met; and what dc had on disk before that life.
fn with_an_older_copy() -> (Cluster, Client, (Past, Memory)) {
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("agni", "alice");
    cluster.away("dc", "bob");
    cluster.post(&alice, "bob", "m-1");
    let backup = cluster.backup("dc");
    cluster.restart("dc");
    cluster.connect("dc", "agni");
    cluster.run(seconds(3));
    (cluster, alice, backup)
}

#[test]
fn a_node_with_an_old_store_stands_still_until_its_operator_says_how_to_go_on() {
    // covers B26, Q04
    for how in [GoOn::Redeliver, GoOn::Bury] {
        let (mut cluster, alice, backup) = with_an_older_copy();
        let bob = cluster.register("dc", "bob");
        cluster.settle(&bob, "m-1", Settlement::Acked);
        cluster.detach(&bob, false);
        cluster.run(seconds(1));

        cluster.restore("dc", backup);
        cluster.connect("dc", "agni");
        cluster.run(seconds(3));
        assert_eq!(cluster.mesh("dc").rolled_back(), Some(Incarnation(2)));
        cluster.restart("dc");
        assert_eq!(cluster.mesh("dc").rolled_back(), Some(Incarnation(2)), "to start again is no answer");
        cluster.connect("dc", "agni");
        cluster.run(seconds(3));
        let bob = cluster.register("dc", "bob");
        assert!(cluster.handings(&bob).is_empty(), "it is not known whether it was delivered");
        cluster.post(&bob, "alice", "m-2");
        assert_eq!(cluster.refusals(&bob), [Code::Unavailable]);
        cluster.post(&alice, "bob", "m-3");
        assert_eq!(cluster.states(&alice, "m-3"), [State::Accepted], "it waits where it was taken");

        cluster.input("dc", Input::GoOn(how));
        cluster.run(seconds(10));
        let got: Vec<(String, bool)> =
            cluster.handings(&bob).into_iter().map(|(id, handing)| (id, handing.redelivered)).collect();
        let expected = match how {
            // The second waited where it was taken: nobody can have got it.
            GoOn::Redeliver => vec![("m-1".to_owned(), true), ("m-3".to_owned(), false)],
            GoOn::Bury => vec![("m-3".to_owned(), false)],
        };
        assert_eq!(got, expected);
        cluster.restart("dc");
        cluster.connect("dc", "agni");
        cluster.run(seconds(3));
        assert_eq!(cluster.mesh("dc").rolled_back(), None, "that was the answer");
    }
}

#[test]
fn a_node_that_can_not_read_all_of_its_store_declares_no_message_lost() {
    // covers Q04, T08
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    cluster.away("agni", "bob");
    cluster.run(seconds(3));
    let old = cluster.backup("agni");
    cluster.restart("agni");
    cluster.connect("dc", "agni");
    cluster.run(seconds(3));
    cluster.post(&alice, "bob", "m-1");
    cluster.run(seconds(3));
    assert_eq!(cluster.states(&alice, "m-1"), [State::Accepted, State::Stored]);
    let whole = cluster.backup("agni");

    // An old copy, and then a file that is damaged: neither knows of the message.
    cluster.restore("agni", old);
    cluster.connect("dc", "agni");
    cluster.run(seconds(60));
    assert!(cluster.mesh("agni").rolled_back().is_some());
    let life = Incarnation(cluster.life("agni").0 + 1);
    cluster.start(Config { damaged: true, ..Config::new(node("agni"), life) }, Vec::new());
    cluster.connect("dc", "agni");
    cluster.run(seconds(60));
    assert_eq!(
        cluster.states(&alice, "m-1"),
        [State::Accepted, State::Stored],
        "nobody knows that it is lost"
    );

    cluster.start(Config { past: Some(Past::of(life)), ..Config::new(node("agni"), life) }, Vec::new());
    cluster.restore("agni", (Past::of(life), whole.1));
    cluster.connect("dc", "agni");
    cluster.run(seconds(3));
    let bob = cluster.register("agni", "bob");
    assert_eq!(cluster.handings(&bob).len(), 1);
    cluster.settle(&bob, "m-1", Settlement::Acked);
    cluster.run(seconds(3));
    assert_eq!(cluster.states(&alice, "m-1").last(), Some(&State::Acked));
}

#[test]
fn an_old_store_is_found_out_also_when_its_node_met_nobody_at_first() {
    // covers B26, Q04
    let (mut cluster, _alice, backup) = with_an_older_copy();

    cluster.restore("dc", backup);
    for _ in 0..3 {
        cluster.restart("dc");
        cluster.run(seconds(1));
    }
    assert_eq!(cluster.mesh("dc").rolled_back(), None, "nobody was there to tell");
    cluster.connect("dc", "agni");
    cluster.run(seconds(3));
    assert_eq!(cluster.mesh("dc").rolled_back(), Some(Incarnation(2)));
}

#[test]
fn that_a_store_is_old_is_not_forgotten_when_the_disk_was_full_at_first() {
    // covers B26, Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let backup = cluster.backup("dc");
    cluster.restart("dc");
    cluster.connect("dc", "agni");
    cluster.run(seconds(3));
    cluster.restore("dc", backup);
    cluster.disk("dc", Disk::Fails);
    cluster.connect("dc", "agni");
    cluster.run(seconds(3));
    assert_eq!(cluster.mesh("dc").rolled_back(), Some(Incarnation(2)));
    cluster.disk("dc", Disk::Works);
    cluster.run(seconds(10));
    cluster.restart("dc");
    assert_eq!(cluster.mesh("dc").rolled_back(), Some(Incarnation(2)));
}

#[test]
fn the_operators_word_counts_also_where_another_node_had_found_the_store_to_be_whole() {
    // covers B26, Q04
    let mut cluster = Cluster::of(&TRIO);
    let meet = |cluster: &mut Cluster, other: &str| {
        cluster.connect("dc", other);
        cluster.run(seconds(3));
    };
    meet(&mut cluster, "agni");
    meet(&mut cluster, "rushabdev");
    let backup = cluster.backup("dc");
    cluster.restart("dc");
    meet(&mut cluster, "rushabdev");
    // What the one knows is in the copy that is brought back, and not what the other knows.
    cluster.restore("dc", backup);
    meet(&mut cluster, "agni");
    assert_eq!(cluster.mesh("dc").rolled_back(), None);
    meet(&mut cluster, "rushabdev");
    assert_eq!(cluster.mesh("dc").rolled_back(), Some(Incarnation(2)));
    cluster.input("dc", Input::GoOn(GoOn::Redeliver));
    cluster.run(seconds(3));
    cluster.restart("dc");
    assert_eq!(cluster.mesh("dc").rolled_back(), None, "that was the answer");
}

#[test]
fn lives_without_company_are_no_sign_of_an_old_store() {
    // covers B26, Q04
    let mut cluster = Cluster::meshed(&TRIO);
    cluster.run(seconds(3));
    for _ in 0..3 {
        for _ in 0..3 {
            cluster.restart("dc");
            cluster.run(seconds(1));
        }
        cluster.connect("dc", "agni");
        cluster.run(seconds(3));
        assert_eq!(cluster.mesh("dc").rolled_back(), None);
    }
}
