//! Numbered messages: recognised when their marks are gone.

use std::time::Duration;

use super::cluster::*;
use super::durable::durable;
use super::limits::{limited, reason};
use crate::mesh::Limits;
use crate::wire::close::Code;
use crate::wire::envelope::{Head, Numbered, State, Target};
use crate::wire::frame::Settlement;
use crate::wire::record::Record;

fn few_marks() -> Limits {
    Limits { marks_of_sender: 3, ..Limits::default() }
}

fn numbered(from: &Client, epoch: u64, n: u64) -> Head {
    let id = format!("m-{epoch}-{n}");
    Head { number: Some(Numbered { epoch, n }), ..durable(from, "bob", &id) }
}

impl Cluster {
    /// Sends a message, and its recipient acknowledges it.
    fn exchange(&mut self, from: &Client, to: &Client, head: Head) {
        let id = head.id.to_string();
        self.submit(from, Head { sent_ms: self.wall_ms(), ..head });
        self.run(Duration::from_millis(300));
        self.settle(to, &id, Settlement::Acked);
        self.run(Duration::from_millis(300));
    }

    /// Sends a message again; answers with what it is refused, and how often it was handed over in all.
    fn again(&mut self, from: &Client, to: &Client, head: Head) -> (Vec<Code>, usize) {
        let (before, id) = (self.refusals(from).len(), head.id.to_string());
        self.submit(from, head);
        self.run(seconds(1));
        let handed = self.handings(to).into_iter().filter(|(known, _)| *known == id).count();
        (self.refusals(from)[before..].to_vec(), handed)
    }
}

#[test]
fn a_numbered_message_is_recognised_when_its_mark_is_gone_and_another_one_is_too_old() {
    // covers Q04
    let mut cluster = limited(&["dc"], &few_marks());
    let [alice, carol, bob] = ["alice", "carol", "bob"].map(|name| cluster.register("dc", name));
    let began_ms = cluster.wall_ms();
    let plain = |n: u64| Head { sent_ms: began_ms, ..durable(&carol, "bob", &format!("u-{n}")) };
    for n in 1..=5 {
        cluster.exchange(&alice, &bob, numbered(&alice, 7, n));
        cluster.exchange(&carol, &bob, plain(n));
    }
    assert_eq!(cluster.view("dc").marks, 6);
    assert_eq!(cluster.again(&carol, &bob, plain(1)), (vec![Code::TooOld], 1));
    for n in 1..=2 {
        let old = Head { sent_ms: began_ms, ..numbered(&alice, 7, n) };
        assert_eq!(cluster.again(&alice, &bob, old), (vec![Code::Duplicate], 1));
        assert!(reason(&cluster, &alice).contains(&format!("number {n} of epoch 7 came before")));
    }
    assert_eq!(cluster.again(&alice, &bob, numbered(&alice, 7, 5)), (vec![], 1), "by its mark");
    // The age of a numbered message says nothing, also where that of others of its sender does.
    let other = |n: u64| durable(&alice, "bob", &format!("o-{n}"));
    (1..=5).for_each(|n| cluster.exchange(&alice, &bob, other(n)));
    assert_eq!(cluster.again(&alice, &bob, Head { sent_ms: 1, ..other(1) }), (vec![Code::TooOld], 1));
    let never_sent = Head { sent_ms: 1, ..numbered(&alice, 7, 6) };
    assert_eq!(cluster.again(&alice, &bob, never_sent), (vec![], 1));
    // Numbers are of one recipient.
    let dave = cluster.register("dc", "dave");
    let to_dave = Head { to: Target::Agent(agent("dave")), ..numbered(&alice, 7, 1) };
    assert_eq!(cluster.again(&alice, &dave, to_dave), (vec![], 1));
}

#[test]
fn a_new_epoch_begins_a_new_count_and_ends_those_before() {
    // covers Q04
    let mut cluster = limited(&["dc"], &few_marks());
    let [alice, bob] = ["alice", "bob"].map(|name| cluster.register("dc", name));
    for n in 1..=4 {
        cluster.exchange(&alice, &bob, numbered(&alice, 7, n));
    }
    for n in 1..=3 {
        cluster.exchange(&alice, &bob, numbered(&alice, 9, n));
    }
    // Of the new epoch no mark has gone yet.
    assert_eq!(cluster.again(&alice, &bob, numbered(&alice, 7, 4)), (vec![Code::Duplicate], 1));
    cluster.exchange(&alice, &bob, numbered(&alice, 7, 5));
    cluster.exchange(&alice, &bob, numbered(&alice, 9, 4));
    assert_eq!(cluster.again(&alice, &bob, numbered(&alice, 9, 1)), (vec![Code::Duplicate], 1));
    assert_eq!(cluster.again(&alice, &bob, numbered(&alice, 7, 8)), (vec![Code::Duplicate], 0));
    assert!(
        reason(&cluster, &alice).contains("alice counts from 9 on since"),
        "{}",
        reason(&cluster, &alice)
    );
    assert_eq!(cluster.again(&alice, &bob, numbered(&alice, 9, 5)), (vec![], 1));
}

#[test]
fn the_home_recognises_what_comes_by_way_of_another_node() {
    // covers Q04
    let mut cluster = limited(&["agni", "dc", "rushabdev"], &few_marks());
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("agni", "bob");
    for n in 1..=5 {
        cluster.exchange(&alice, &bob, numbered(&alice, 7, n));
    }
    let moved = cluster.register("rushabdev", "alice");
    cluster.submit(&moved, numbered(&moved, 7, 1));
    cluster.run(seconds(2));
    let told = cluster.told(&moved);
    let last = told.iter().rfind(|receipt| receipt.id.as_str() == "m-7-1").unwrap();
    assert_eq!(last.refusal.as_ref().map(|why| why.code), Some(Code::Duplicate));
    assert!(matches!(last.state, State::Dead | State::Refused));
    assert_eq!(cluster.handings(&bob).iter().filter(|(id, _)| id == "m-7-1").count(), 1);
    assert_eq!(cluster.again(&moved, &bob, numbered(&moved, 7, 6)), (vec![], 1), "and what is new goes on");
}

#[test]
fn numbers_are_on_disk_before_the_marks_are_gone_from_there() {
    // covers Q04, T10
    let mut cluster = limited(&["dc"], &few_marks());
    let [alice, bob] = ["alice", "bob"].map(|name| cluster.register("dc", name));
    for n in 1..=4 {
        cluster.exchange(&alice, &bob, numbered(&alice, 7, n));
    }
    cluster.restart("dc");
    let [alice, bob] = ["alice", "bob"].map(|name| cluster.register("dc", name));
    assert_eq!(cluster.again(&alice, &bob, numbered(&alice, 7, 1)), (vec![Code::Duplicate], 0));
    assert_eq!(cluster.again(&alice, &bob, numbered(&alice, 7, 2)), (vec![], 0), "its mark is there");

    cluster.disk("dc", Disk::Hangs);
    cluster.submit(&alice, numbered(&alice, 7, 5));
    for _ in 0..5 {
        cluster.run(seconds(1));
        cluster.disk("dc", Disk::Works);
        cluster.release("dc");
        if !cluster.handings(&bob).is_empty() {
            break;
        }
    }
    cluster.disk("dc", Disk::Hangs);
    cluster.settle(&bob, "m-7-5", Settlement::Acked);
    cluster.release("dc");
    cluster.run(seconds(1));
    let records = cluster.records("dc");
    let at = |wanted: fn(&Record) -> bool| records.iter().position(wanted);
    let numbers = at(|record| matches!(record, Record::Numbers(_)));
    let erase = at(|record| matches!(record, Record::Erase(_)));
    assert!(numbers.is_some() && erase.is_some() && numbers < erase, "{records:?}");
}

#[test]
fn sessions_that_share_an_agent_can_not_count() {
    // covers Q04
    let mut cluster = limited(&["dc"], &few_marks());
    let bob = cluster.register("dc", "bob");
    let [one, other] = [0, 1].map(|_| cluster.attach("dc", "pool", SHARED));
    cluster.run(seconds(1));
    for n in 1..=5 {
        cluster.exchange(&one, &bob, numbered(&one, 9, n));
    }
    let new = Head { sent_ms: cluster.wall_ms(), ..numbered(&other, 7, 1) };
    assert_eq!(
        cluster.again(&other, &bob, new),
        (vec![], 1),
        "what is new is not taken for an earlier count's"
    );
}
