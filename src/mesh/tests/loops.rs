//! Agents that answer every message are stopped, whoever answers whom; and what was accepted is no flood when it comes again.

use super::cluster::*;
use super::durable::durable;
use super::limits::limited;
use crate::mesh::Limits;
use crate::wire::close::Code;
use crate::wire::envelope::{Class, Head, State};
use crate::wire::frame::Settlement;
use crate::wire::ids::MessageId;

const DEPTH: u16 = 20;

/// Each of them answers what it gets to whom `to` says, until one is refused: how many answers that took, and with which code.
fn loops(agents: &[(&str, &str)], class: Class, to: impl Fn(usize) -> String) -> (usize, Code) {
    let limits = Limits { reply_depth: DEPTH, ..Limits::default() };
    let mut cluster = limited(&["agni", "dc", "rushabdev"], &limits);
    let clients: Vec<Client> = agents.iter().map(|(node, name)| cluster.register(node, name)).collect();
    cluster.run(seconds(1));
    let mut answered = None;
    for n in 0..10 * usize::from(DEPTH) {
        let (at, id) = (n % clients.len(), format!("m-{n}"));
        let from = &clients[at];
        let head = durable(from, &to(at), &id);
        let receipt = head.receipt.filter(|_| class == Class::Durable && to(at) != "broadcast");
        cluster.submit(from, Head { reply_to: answered.take(), class, receipt, ..head });
        cluster.run(seconds(1));
        if let Some(code) = cluster.refusals(from).last() {
            return (n, *code);
        }
        let next = &clients[(at + 1) % clients.len()];
        assert!(cluster.messages(next).contains(&id), "{id} did not come");
        if class == Class::Durable {
            // What the answerer got is known by its mark alone.
            cluster.settle(next, &id, Settlement::Acked);
        }
        answered = Some(MessageId::new(&id).unwrap());
        cluster.forget_but_last();
    }
    panic!("nobody stopped them");
}

const THREE: [(&str, &str); 3] = [("agni", "a"), ("dc", "b"), ("rushabdev", "c")];
const STOPPED: (usize, Code) = (DEPTH as usize + 1, Code::LoopStopped);

#[test]
fn a_ring_of_three_is_stopped() {
    // covers Q05, Q06
    let next = |at: usize| THREE[(at + 1) % 3].1.to_owned();
    assert_eq!(loops(&THREE, Class::Durable, next), STOPPED);
    assert_eq!(loops(&THREE, Class::Live, next), STOPPED);
}

#[test]
fn two_that_answer_live_are_stopped() {
    // covers Q05, Q06
    for pair in [&THREE[..2], &[("dc", "a"), ("dc", "b")]] {
        assert_eq!(loops(pair, Class::Live, |at| pair[1 - at].1.to_owned()), STOPPED);
    }
}

#[test]
fn two_that_answer_by_broadcast_are_stopped() {
    // covers Q05, Q06
    for pair in [&THREE[..2], &[("dc", "a"), ("dc", "b")]] {
        for class in [Class::Durable, Class::Live] {
            assert_eq!(loops(pair, class, |_| "broadcast".to_owned()), STOPPED, "{class:?}");
        }
    }
}

#[test]
fn how_deep_a_durable_message_lies_is_known_after_a_restart() {
    // covers Q04, Q05
    let limits = Limits { reply_depth: 1, ..Limits::default() };
    let mut cluster = limited(&["dc"], &limits);
    let [a, b] = ["a", "b"].map(|name| cluster.register("dc", name));
    cluster.register("dc", "c");
    cluster.post(&a, "b", "m-0");
    let reply_to = |id: &str| Some(MessageId::new(id).unwrap());
    cluster.submit(&b, Head { reply_to: reply_to("m-0"), ..durable(&b, "a", "m-1") });
    cluster.run(seconds(1));
    cluster.settle(&a, "m-1", Settlement::Acked);
    cluster.restart("dc");
    let [a, _c] = ["a", "c"].map(|name| cluster.register("dc", name));
    cluster.submit(&a, Head { reply_to: reply_to("m-1"), ..durable(&a, "c", "m-2") });
    cluster.run(seconds(1));
    assert_eq!(cluster.refusals(&a), [Code::LoopStopped]);
}

#[test]
fn a_flood_of_live_messages_or_of_broadcasts_is_braked() {
    // covers Q05, Q06
    let limits = Limits { pair_rate: 1, pair_burst: 2, ..Limits::default() };
    for (to, class) in [("b", Class::Live), ("broadcast", Class::Live), ("broadcast", Class::Durable)] {
        let mut cluster = limited(&["dc"], &limits);
        let [a, _b] = ["a", "b"].map(|name| cluster.register("dc", name));
        for n in 0..4 {
            cluster.submit(&a, Head { class, receipt: None, ..durable(&a, to, &format!("m-{n}")) });
        }
        assert_eq!(cluster.refusals(&a), [Code::RateLimited; 2], "{to} {class:?}");
    }
}

#[test]
fn what_was_accepted_and_comes_again_is_answered_and_not_braked() {
    // covers T04, Q04, Q05
    let limits = Limits { pair_rate: 1, pair_burst: 2, reply_depth: 1, ..Limits::default() };
    let mut cluster = limited(&["dc"], &limits);
    let a = cluster.register("dc", "a");
    cluster.away("dc", "b");
    let all = |id| Head { receipt: Some(State::Accepted), ..durable(&a, "broadcast", id) };
    for _ in 0..10 {
        cluster.submit(&a, durable(&a, "b", "m-1"));
        cluster.submit(&a, all("m-2"));
        cluster.run(std::time::Duration::from_millis(10));
    }
    assert_eq!(cluster.refusals(&a), []);
    assert_eq!(cluster.states(&a, "m-1").len(), 20, "accepted and stored, each time");
    assert_eq!(cluster.states(&a, "m-2"), [State::Accepted; 10]);
    // One token is left: no resend took it.
    cluster.post(&a, "b", "m-3");
    assert_eq!(cluster.states(&a, "m-3"), [State::Accepted, State::Stored]);
    let again = MessageId::new("x").unwrap();
    let mut deep = durable(&a, "b", "m-1");
    deep.reply_to = Some(again);
    cluster.submit(&a, deep);
    assert_eq!(cluster.refusals(&a), []);
}
