//! Agents that are forgotten while something waits for them elsewhere, or to be told to them.

use bytes::Bytes;

use super::cluster::*;
use super::durable::durable;
use super::limits::limited;
use crate::mesh::{Config, Limits};
use crate::wire::close::Code;
use crate::wire::envelope::{Head, State};
use crate::wire::frame::{Dest, Forward, Frame, Outcome, Settlement};
use crate::wire::ids::{Incarnation, Sequence};

const PAIR: [&str; 2] = ["agni", "dc"];
const DAY_MS: u64 = 24 * 3600 * 1000;

fn create(from: &Client, to: &str, id: &str) -> Head {
    Head { create: true, ..durable(from, to, id) }
}

fn brief(from: &Client, to: &str, id: &str) -> Head {
    Head { ttl_ms: Some(5_000), ..durable(from, to, id) }
}

#[test]
fn what_waits_elsewhere_for_an_agent_that_a_message_had_made_makes_it_again() {
    // covers T06, T08, Q04
    for asks in [true, false] {
        let mut cluster = Cluster::meshed(&PAIR);
        let (alice, eve) = (cluster.register("agni", "alice"), cluster.register("dc", "eve"));
        cluster.submit(&alice, Head { ttl_ms: Some(20_000), ..create(&alice, "bob", "m-1") });
        cluster.run(seconds(1));
        cluster.cut("agni", "dc");
        cluster.submit(&eve, Head { create: asks, ..durable(&eve, "bob", "m-2") });
        cluster.run(seconds(40));
        assert_eq!(cluster.home("agni", "bob"), None, "nothing waits for it there");
        cluster.connect("agni", "dc");
        cluster.run(seconds(100));
        assert_eq!(cluster.states(&eve, "m-2"), [State::Accepted, State::Stored]);
        let bob = cluster.register("agni", "bob");
        cluster.run(seconds(15));
        assert_eq!(cluster.messages(&bob), ["m-2"]);
        assert_eq!(cluster.mesh("agni").directory.everywhere(&agent("bob")).count(), 1);
    }
}

#[test]
fn what_waits_for_room_does_not_die_as_its_recipient_is_forgotten() {
    // covers T06, T08, Q04
    for asks in [true, false] {
        let mut cluster = limited(&["dc"], &Limits::default());
        let small = Limits { node_messages: 8, ..Limits::default() };
        cluster.start(Config { limits: small, ..Config::new(node("agni"), Incarnation(1)) }, Vec::new());
        cluster.connect("agni", "dc");
        cluster.run(seconds(2));
        let (alice, eve) = (cluster.register("agni", "alice"), cluster.register("dc", "eve"));
        cluster.away("agni", "aaron");
        cluster.submit(&alice, Head { ttl_ms: Some(20_000), ..create(&alice, "bob", "m-1") });
        (0..6).for_each(|n| cluster.post(&alice, "aaron", &format!("a-{n}")));
        // These are tried before it, and take whatever room there is.
        (0..9).for_each(|n| cluster.post(&eve, "aaron", &format!("e-{n}")));
        cluster.submit(&eve, Head { create: asks, ..durable(&eve, "bob", "m-2") });
        cluster.run(seconds(5));
        assert_eq!(cluster.states(&eve, "m-2"), [State::Accepted]);
        cluster.run(seconds(120));
        assert_eq!(cluster.states(&eve, "m-2"), [State::Accepted, State::Stored]);
        let bob = cluster.register("dc", "bob");
        cluster.run(seconds(1));
        assert_eq!(cluster.messages(&bob), ["m-2"]);
    }
}

#[test]
fn a_message_whose_recipient_can_not_be_made_again_waits() {
    // covers T06, T08, Q06
    let limits = Limits { created_agents: 1, ..Limits::default() };
    let mut cluster = limited(&PAIR, &limits);
    let (alice, eve) = (cluster.register("agni", "alice"), cluster.register("dc", "eve"));
    cluster.submit(&alice, Head { ttl_ms: Some(20_000), ..create(&alice, "bob", "m-1") });
    cluster.submit(&eve, Head { ttl_ms: Some(200_000), ..create(&eve, "zoe", "m-2") });
    cluster.run(seconds(1));
    cluster.cut("agni", "dc");
    cluster.post(&eve, "bob", "m-3");
    cluster.run(seconds(40));
    cluster.connect("agni", "dc");
    cluster.run(seconds(120));
    assert_eq!(cluster.states(&eve, "m-3"), [State::Accepted], "zoe has the only place");
    cluster.run(seconds(60));
    assert_eq!(cluster.states(&eve, "m-3"), [State::Accepted, State::Stored]);
}

#[test]
fn an_agent_that_a_message_had_made_is_known_as_long_as_something_waits_for_it() {
    // covers T05, T06
    let mut cluster = Cluster::of(&["dc"]);
    let alice = cluster.register("dc", "alice");
    cluster.submit(&alice, create(&alice, "bob", "m-1"));
    cluster.run(seconds(15));
    for id in ["m-2", "m-3"] {
        cluster.wall_jump_ms += 20 * DAY_MS;
        cluster.run(seconds(15));
        cluster.post(&alice, "bob", id);
    }
    let ends = ["m-1", "m-2", "m-3"].map(|id| cluster.states(&alice, id).last().copied());
    assert_eq!(ends, [Some(State::Expired), Some(State::Stored), Some(State::Stored)]);
}

#[test]
fn a_node_that_does_not_remember_all_forgets_no_agent_for_want_of_mail() {
    // covers T05, Q04
    let mut cluster = Cluster::meshed(&PAIR);
    let alice = cluster.register("dc", "alice");
    let lost = cluster.attach("dc", "u1.1", TRANSIENT);
    cluster.submit(&alice, Head { ttl_ms: Some(5_000), ..create(&alice, "bob", "m-1") });
    cluster.run(seconds(1));
    cluster.entrance_gone(&lost);
    cluster.mesh_mut("dc").config.damaged = true;
    cluster.run(seconds(100));
    for name in ["bob", "u1.1"] {
        assert_eq!(cluster.home("agni", name), Some(("dc".into(), false)), "its mail may be what is damaged");
    }
    cluster.mesh_mut("dc").config.damaged = false;
    cluster.run(seconds(20));
    assert_eq!(["bob", "u1.1"].map(|name| cluster.home("agni", name)), [None, None]);
}

#[test]
fn mail_of_a_connection_waits_while_it_may_be_at_a_node_that_can_not_be_heard() {
    // covers T05, T06, Q02
    let mut cluster = Cluster::meshed(&PAIR);
    let alice = cluster.register("agni", "alice");
    let [moved, gone] = ["u1.1", "u1.2"].map(|name| cluster.attach("agni", name, TRANSIENT));
    cluster.run(seconds(1));
    cluster.cut("agni", "dc");
    for client in [&moved, &gone] {
        cluster.entrance_gone(client);
    }
    cluster.run(seconds(1));
    cluster.post(&alice, "u1.1", "m-1");
    let moved = cluster.attach("dc", "u1.1", As { resumed: true, ..TRANSIENT });
    cluster.run(seconds(100));
    assert_eq!(cluster.states(&alice, "m-1"), [State::Accepted, State::Stored]);
    assert_eq!(cluster.home("agni", "u1.2"), None, "nothing is lost with it");
    cluster.connect("agni", "dc");
    cluster.run(seconds(5));
    assert_eq!(cluster.messages(&moved), ["m-1"]);
    assert_eq!(cluster.mesh("agni").directory.everywhere(&moved.agent).count(), 1);
}

#[test]
fn what_was_to_be_told_to_a_sender_whom_nobody_knows_any_more_is_given_up() {
    // covers T07, B19
    for restarts in [false, true] {
        let mut cluster = Cluster::meshed(&PAIR);
        cluster.away("dc", "bob");
        let client = cluster.attach("dc", "u1.5f0c2a91", TRANSIENT);
        cluster.run(seconds(1));
        cluster.submit(&client, brief(&client, "bob", "m-1"));
        cluster.run(seconds(1));
        cluster.detach(&client, false);
        cluster.run(seconds(10));
        assert_eq!(cluster.view("dc").untold, 1);
        if restarts {
            cluster.restart("dc");
            cluster.connect("dc", "agni");
        }
        cluster.run(seconds(70));
        assert_eq!((cluster.view("dc").untold, cluster.view("dc").marks), (0, 1), "restarts: {restarts}");
        assert!(
            cluster.backup("dc").1.messages.iter().all(|kept| kept.told),
            "nor does the next start know it"
        );
        assert_eq!(cluster.mesh("dc").limits_in_use().messages, 0);
    }
}

#[test]
fn a_sender_that_is_away_is_told_within_a_week_also_after_a_restart() {
    // covers T07, B19
    for (days, told) in [(6, vec![State::Expired]), (8, vec![])] {
        let mut cluster = Cluster::of(&["dc"]);
        cluster.away("dc", "bob");
        let alice = cluster.register("dc", "alice");
        cluster.submit(&alice, brief(&alice, "bob", "m-1"));
        cluster.run(seconds(1));
        cluster.detach(&alice, false);
        cluster.run(seconds(10));
        cluster.restart("dc");
        cluster.wall_jump_ms += days * DAY_MS;
        cluster.run(seconds(100));
        assert_eq!(cluster.view("dc").untold, told.len(), "after {days} days");
        let alice = cluster.register("dc", "alice");
        cluster.run(seconds(1));
        assert_eq!(cluster.states(&alice, "m-1"), told);
    }
}

#[test]
fn a_sender_whose_node_is_out_of_reach_is_told_when_it_is_heard() {
    // covers T07, Q02
    let mut cluster = Cluster::meshed(&PAIR);
    cluster.away("dc", "bob");
    let alice = cluster.register("dc", "alice");
    cluster.submit(&alice, Head { ttl_ms: Some(20_000), ..durable(&alice, "bob", "m-1") });
    cluster.run(seconds(1));
    let moved = cluster.register("agni", "alice");
    cluster.run(seconds(1));
    cluster.cut("agni", "dc");
    cluster.run(seconds(200));
    assert_eq!(cluster.view("dc").untold, 1);
    cluster.connect("agni", "dc");
    cluster.run(seconds(10));
    assert_eq!(cluster.states(&moved, "m-1"), [State::Expired]);
    assert_eq!(cluster.view("dc").untold, 0);
}

#[test]
fn a_message_that_has_ended_keeps_no_payload_in_memory_for_its_sender() {
    // covers B19, T21
    let mut cluster = Cluster::meshed(&PAIR);
    let (alice, bob) = (cluster.register("dc", "alice"), cluster.register("dc", "bob"));
    cluster.submit(&alice, brief(&alice, "bob", "m-1"));
    cluster.post(&alice, "bob", "m-2");
    cluster.detach(&alice, false);
    cluster.run(seconds(1));
    cluster.settle(&bob, "m-1", Settlement::Nacked("no".into()));
    // What waits for it dies.
    cluster.detach(&bob, true);
    cluster.run(seconds(1));
    for _ in 0..2 {
        assert_eq!((cluster.view("dc").untold, cluster.view("dc").bytes), (2, 0));
        let letters = cluster.backup("dc").1.messages.into_iter().filter(|kept| !kept.payload.is_empty());
        assert_eq!(
            letters.map(|kept| kept.key.id.to_string()).collect::<Vec<_>>(),
            ["m-2"],
            "the dead letter"
        );
        cluster.restart("dc");
        cluster.run(seconds(1));
    }
    let alice = cluster.register("dc", "alice");
    cluster.run(seconds(1));
    let ends = ["m-1", "m-2"].map(|id| cluster.states(&alice, id).last().copied());
    assert_eq!(ends, [Some(State::Nacked), Some(State::Dead)]);
}

#[test]
fn a_message_that_is_refused_makes_no_agent() {
    // covers Q06, B19
    let small = Limits { node_messages: 8, ..Limits::default() };
    let mut cluster = limited(&["dc"], &small);
    let alice = cluster.register("dc", "alice");
    cluster.away("dc", "bob");
    (0..7).for_each(|n| cluster.post(&alice, "bob", &format!("m-{n}")));
    let known = cluster.mesh("dc").snapshot().agents_known;
    for n in 0..5 {
        cluster.submit(&alice, create(&alice, &format!("nobody-{n}"), &format!("n-{n}")));
    }
    assert_eq!(cluster.refusals(&alice), [Code::Unavailable; 5]);
    assert_eq!(cluster.mesh("dc").snapshot().agents_known, known);
}

#[test]
fn what_waits_for_nobody_counts_where_a_message_makes_its_recipient() {
    // covers Q06, B19
    let mut cluster = limited(&["dc", "agni"], &Limits { mailbox_messages: 2, ..Limits::default() });
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("agni", "bob");
    cluster.run(seconds(3));
    cluster.cut("dc", "agni");
    cluster.run(seconds(5));
    ["m-1", "m-2"].iter().for_each(|id| cluster.post(&alice, "bob", id));
    cluster.detach(&bob, true);
    cluster.connect("dc", "agni");
    cluster.run(seconds(1));
    assert_eq!(cluster.home("dc", "bob"), None);
    cluster.submit(&alice, create(&alice, "bob", "m-3"));
    cluster.run(seconds(1));
    assert_eq!(cluster.refusals(&alice), [Code::MailboxFull]);
    assert_eq!(cluster.home("dc", "bob"), None, "a message that is refused makes nobody");
}

#[test]
fn a_message_from_elsewhere_that_finds_no_room_makes_no_agent() {
    // covers Q06, B19
    let mut cluster = Cluster::meshed(&["dc"]);
    let none = Limits { node_messages: 0, ..Limits::default() };
    cluster.start(Config { limits: none, ..Config::new(node("agni"), Incarnation(1)) }, Vec::new());
    cluster.connect("agni", "dc");
    cluster.run(seconds(2));
    let alice = cluster.register("dc", "alice");
    let to = Dest {
        node: node("agni"),
        agent: None,
        number: Sequence(1),
        after: Sequence(0),
        life: Incarnation(1),
        registered_ms: 1,
    };
    let forward = Forward {
        origin: node("dc"),
        incarnation: Incarnation(1),
        to: vec![to],
        hops_left: 1,
        redelivered: false,
        unseen: true,
        age_ms: 0,
        head: create(&alice, "nobody", "m-1"),
    };
    cluster.inject("agni", "dc", Frame::Forward(forward, Bytes::from_static(b"{}")));
    cluster.run(seconds(1));
    assert_eq!(cluster.home("dc", "nobody"), None);
    let no_room = |frame: &Frame| match frame {
        Frame::Confirm(confirm) => matches!(confirm.reports[0].1, Outcome::Reached(State::Refused, Some(_))),
        _ => false,
    };
    assert!(cluster.sent.iter().any(|sent| no_room(&sent.frame)), "its node tries again");
}

#[test]
fn one_that_is_being_registered_again_is_not_forgotten_with_the_session_that_unregisters() {
    // covers T05
    let mut cluster = Cluster::meshed(&PAIR);
    let old = cluster.register("dc", "bob");
    cluster.disk("dc", Disk::Hangs);
    let new = cluster.attach("dc", "bob", PLAIN);
    cluster.detach(&old, true);
    cluster.disk("dc", Disk::Works);
    cluster.release("dc");
    cluster.run(seconds(2));
    assert!(cluster.attached(&new));
    assert_eq!(cluster.home("agni", "bob"), Some(("dc".into(), true)));
    cluster.restart("dc");
    assert_eq!(cluster.home("dc", "bob"), Some(("dc".into(), false)), "it was told that it is registered");
}

#[test]
fn one_that_is_being_registered_again_is_on_disk_although_an_older_home_elsewhere_was_newer() {
    // covers T05
    let mut cluster = Cluster::meshed(&PAIR);
    let old = cluster.register("dc", "bob");
    cluster.disk("dc", Disk::Hangs);
    let later = As { registered_ms: Some(cluster.wall_ms() + 60_000), ..PLAIN };
    let newest = cluster.attach("dc", "bob", later);
    let newer = cluster.register("agni", "bob");
    assert_eq!(cluster.evicted(&old).map(|refusal| refusal.code), Some(Code::TakenOver));
    cluster.disk("dc", Disk::Works);
    cluster.release("dc");
    cluster.run(seconds(2));
    assert!(cluster.attached(&newest) && cluster.evicted(&newest).is_none());
    assert_eq!(cluster.evicted(&newer).map(|refusal| refusal.code), Some(Code::TakenOver));
    cluster.restart("dc");
    assert_eq!(cluster.home("dc", "bob"), Some(("dc".into(), false)));
}
