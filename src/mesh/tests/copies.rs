//! Messages on two machines: when both have them, and when the second one lets go.

use std::time::Duration;

use bytes::Bytes;

use super::cluster::*;
use super::durable::{TRIO, durable};
use super::moves::to_agni;
use crate::mesh::{Config, Limits};
use crate::wire::close::Code;
use crate::wire::envelope::{Head, State};
use crate::wire::frame::{Confirm, Frame, Outcome, Settlement, Withdraw};
use crate::wire::ids::{Incarnation, Sequence};
use crate::wire::record::Place;

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
fn a_second_copy_that_was_lost_with_its_disk_is_made_again() {
    // covers Q04, T07
    for home in ["dc", "agni"] {
        let mut cluster = Cluster::meshed(&TRIO);
        let alice = cluster.register("dc", "alice");
        cluster.away(home, "bob");
        cluster.run(seconds(3));
        cluster.submit(&alice, Head { copies: 2, ..durable(&alice, "bob", "m-1") });
        cluster.run(seconds(3));
        let has = |cluster: &Cluster, name: &&str| {
            let (_, memory) = cluster.backup(name);
            memory.messages.iter().any(|kept| matches!(kept.place, Place::Mailbox | Place::Copy))
        };
        let holders: Vec<&str> = TRIO.into_iter().filter(|name| has(&cluster, name)).collect();
        assert_eq!(holders.len(), 2, "{holders:?}");
        let second = holders.into_iter().find(|name| *name != home).unwrap();
        // First the one machine loses its disk, then, later, the other.
        for lost in [second, home] {
            cluster.start(Config::new(node(lost), Incarnation(cluster.wall_ms())), Vec::new());
            for other in TRIO.into_iter().filter(|other| *other != lost) {
                cluster.connect(other, lost);
            }
            cluster.run(Duration::from_secs(90));
        }
        let bob = cluster.register("rushabdev", "bob");
        cluster.run(seconds(10));
        assert_eq!(cluster.handings(&bob).len(), 1, "home was {home}");
    }
}

#[test]
fn a_machine_without_room_keeps_no_second_copy_and_the_next_one_is_asked() {
    // covers T07, T08, Q04
    let full = Limits { node_messages: 0, ..Limits::default() };
    for (with_room, told) in [(true, State::Accepted), (false, State::Refused)] {
        let mut cluster = Cluster::of(&["agni"]);
        let other = if with_room { Limits::default() } else { full.clone() };
        for (name, limits) in [("dc", &full), ("rushabdev", &other)] {
            let config = Config { limits: limits.clone(), ..Config::new(node(name), Incarnation(1)) };
            cluster.start(config, Vec::new());
        }
        for (a, b) in [("agni", "dc"), ("agni", "rushabdev"), ("dc", "rushabdev")] {
            cluster.connect(a, b);
        }
        cluster.run(seconds(2));
        let alice = cluster.register("agni", "alice");
        cluster.away("agni", "bob");
        cluster.submit(&alice, Head { copies: 2, ..durable(&alice, "bob", "m-1") });
        cluster.run(seconds(7));
        assert_eq!(cluster.states(&alice, "m-1").first(), Some(&told), "room at the second: {with_room}");
        let copies = ["dc", "rushabdev"].map(|name| cluster.view(name).copies);
        assert_eq!(copies, [0, usize::from(with_room)]);
    }
}

#[test]
fn a_message_that_is_given_again_keeps_its_copy_when_the_withdrawal_of_the_first_one_comes_late() {
    // covers Q04, T07
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    cluster.away("dc", "bob");
    let twice = || Head { copies: 2, ..durable(&alice, "bob", "m-1") };
    let withdrawal = |cluster: &Cluster| {
        let (incarnation, (_, memory)) = (cluster.life("dc"), cluster.backup("dc"));
        let messages = memory.messages.into_iter().map(|kept| (Sequence(kept.order), kept.key)).collect();
        let (to, from) = (node("agni"), node("dc"));
        Frame::Withdraw(Withdraw { to, from, incarnation, messages, hops_left: 1 })
    };
    cluster.lost = |frame| matches!(frame, Frame::Hold(..) | Frame::Withdraw(..));
    cluster.submit(&alice, twice());
    cluster.run(seconds(1));
    let late = withdrawal(&cluster);
    cluster.run(seconds(6));
    assert_eq!(cluster.states(&alice, "m-1"), [State::Refused], "no second machine has it");
    cluster.lost = |_| false;
    cluster.submit(&alice, twice());
    cluster.run(seconds(1));
    assert_eq!(cluster.states(&alice, "m-1"), [State::Refused, State::Accepted, State::Stored]);
    cluster.inject("agni", "dc", late);
    cluster.run(Duration::from_millis(100));
    assert_eq!(cluster.view("agni").copies, 1, "its sender was told that it is on two machines");
    let meant = withdrawal(&cluster);
    cluster.inject("agni", "dc", meant);
    cluster.run(Duration::from_millis(100));
    assert_eq!(cluster.view("agni").copies, 0);
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
    let (incarnation, (_, memory)) = (cluster.life("agni"), cluster.backup("agni"));
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
fn a_copy_whose_node_asks_whether_the_message_came_in_time_has_one_end() {
    // covers T08, Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("agni", "alice");
    cluster.away("dc", "bob");
    cluster.submit(&alice, Head { copies: 2, ..durable(&alice, "bob", "m-1") });
    cluster.run(seconds(1));
    assert_eq!((cluster.view("agni").copies, cluster.view("dc").mailbox), (1, 1));
    let head = Head { copies: 2, ttl_ms: Some(0), ..durable(&alice, "bob", "m-1") };
    let incarnation = cluster.life("dc");
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
