//! Dead letters that an operator does not want any more.

use super::cluster::*;
use super::durable::durable;
use crate::mesh::Input;
use crate::wire::envelope::{MessageKey, State};
use crate::wire::ids::MessageId;
use crate::wire::record::{Kept, Place};

fn key() -> MessageKey {
    MessageKey { from: agent("alice"), id: MessageId::new("m-1").unwrap(), to: agent("bob") }
}

/// What a node has of the message on disk.
fn on_disk(cluster: &Cluster, name: &str) -> Kept {
    let (_, memory) = cluster.backup(name);
    memory.messages.into_iter().find(|kept| kept.key == key()).unwrap()
}

/// A node with a message that died while its sender was away.
fn one_died() -> Cluster {
    let mut cluster = Cluster::of(&["dc"]);
    let alice = cluster.register("dc", "alice");
    cluster.away("dc", "bob");
    cluster.submit(&alice, durable(&alice, "bob", "m-1"));
    cluster.run(seconds(1));
    cluster.detach(&alice, false);
    let bob = cluster.register("dc", "bob");
    cluster.detach(&bob, true);
    cluster.run(seconds(1));
    let kept = on_disk(&cluster, "dc");
    assert_eq!((kept.place, kept.told, cluster.view("dc").untold), (Place::Dead, false, 1));
    cluster
}

#[test]
fn a_letter_is_dropped_before_its_sender_was_told_and_the_sender_is_told_all_the_same() {
    // covers Q04
    for restarted in [false, true] {
        let mut cluster = one_died();
        cluster.input("dc", Input::DropDead(key()));
        cluster.run(seconds(1));
        let kept = on_disk(&cluster, "dc");
        assert_eq!((kept.place, kept.state, kept.told), (Place::Ended, State::Dead, false));
        assert!(kept.payload.is_empty() && kept.reason.is_some());
        assert_eq!(cluster.view("dc").bytes, 0);
        if restarted {
            cluster.restart("dc");
            cluster.run(seconds(1));
        }
        let again = cluster.register("dc", "alice");
        assert_eq!(cluster.states(&again, "m-1"), [State::Dead]);
        assert!(cluster.told(&again)[0].refusal.is_some(), "with the reason");
        assert_eq!((cluster.view("dc").untold, cluster.view("dc").marks), (0, 1));
    }
}

#[test]
fn a_drop_that_the_disk_refuses_is_written_again() {
    // covers Q04, B19
    let mut cluster = one_died();
    cluster.disk("dc", Disk::Fails);
    cluster.input("dc", Input::DropDead(key()));
    cluster.run(seconds(2));
    assert_eq!(on_disk(&cluster, "dc").place, Place::Dead);
    cluster.disk("dc", Disk::Works);
    cluster.run(seconds(3));
    assert_eq!(on_disk(&cluster, "dc").place, Place::Ended);
}

#[test]
fn a_message_that_has_not_died_is_not_dropped() {
    // covers Q04
    let mut cluster = Cluster::of(&["dc"]);
    let alice = cluster.register("dc", "alice");
    cluster.away("dc", "bob");
    cluster.submit(&alice, durable(&alice, "bob", "m-1"));
    cluster.run(seconds(1));
    cluster.input("dc", Input::DropDead(key()));
    let bob = cluster.register("dc", "bob");
    assert_eq!(cluster.handings(&bob).len(), 1);
}
