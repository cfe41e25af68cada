//! A minute with a partition in its middle.

use std::net::SocketAddr;
use std::time::Duration;

use trishula::wire::envelope::Kind;

use crate::net::Step;
use crate::scenario::{NODES, Outcome, run};

/// From when to when two nodes and three do not hear each other.
const CUT: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(35));
/// Silence of five seconds, found at the next of the beats that come each second, and a retransmission.
const NOTICED: Duration = Duration::from_millis(6500);

fn partitioned(seed: u64) -> Outcome {
    run(
        seed,
        Box::new(|now, from: SocketAddr, to: SocketAddr| {
            let side = |address: SocketAddr| address.port() < 4002;
            (CUT.0..CUT.1).contains(&now) && side(from) != side(to)
        }),
    )
}

/// The first step in which two runs differ, for people.
fn difference(a: &[Step], b: &[Step]) -> Option<String> {
    let at = a.iter().zip(b).position(|(a, b)| a != b);
    let at = at.or((a.len() != b.len()).then_some(a.len().min(b.len())))?;
    let near = |steps: &[Step]| {
        format!("{:#?}", steps.iter().skip(at.saturating_sub(2)).take(5).collect::<Vec<_>>())
    };
    Some(format!("step {at} of {} and {}:\n{}\n{}", a.len(), b.len(), near(a), near(b)))
}

#[test]
fn the_same_seed_gives_the_same_minute() {
    // Compared is every datagram (virtual nanosecond, sender, receiver, length) and everything that an agent
    // sent, got or was told, in order. Contents are not: keys, nonces and signatures are new each time.
    let mut minutes: Vec<Vec<Step>> = Vec::new();
    for seed in [1, 2, 3] {
        let (first, second) = (partitioned(seed), partitioned(seed));
        if let Some(difference) = difference(&first.trace, &second.trace) {
            panic!("seed {seed} gave two minutes: {difference}");
        }
        assert!(first.packets > 5_000 && first.lost > 100, "{} packets", first.packets);
        assert!(!minutes.contains(&first.trace), "another seed gives another minute");
        minutes.push(first.trace);
    }
}

#[test]
fn every_message_ends_and_the_mesh_is_whole_again() {
    // covers T01, T06, Q02
    for seed in [4, 5] {
        let outcome = partitioned(seed);
        whole_again(&outcome);
        let silent = every_message_ended(&outcome);
        let asked = outcome.messages.values().filter(|entry| entry.kind == Kind::Command).count();
        eprintln!(
            "seed {seed}: {asked} commands, {} messages, {silent} lost with the links that broke, {} packets, {} of them lost",
            outcome.messages.len(),
            outcome.packets,
            outcome.lost
        );
    }
}

fn whole_again(outcome: &Outcome) {
    for status in &outcome.statuses {
        assert!(status.whole, "{status:?}");
        assert_eq!((status.nodes.len(), status.agents_online), (NODES, 2 * NODES), "{}", status.node);
        let peers = status.links.iter().filter(|link| link.role == "node").count();
        assert_eq!(peers, NODES - 1, "one link to each other node: {:#?}", status.links);
        let rtts = status.links.iter().filter(|link| link.role == "node").filter_map(|link| link.rtt_ms);
        assert!(rtts.clone().count() == NODES - 1 && rtts.clone().all(|rtt| (40.0..120.0).contains(&rtt)));
    }
}

/// Answers how many messages vanished with a link that broke.
fn every_message_ended(outcome: &Outcome) -> usize {
    let at_risk = |sent: Duration| {
        // On its way when the cut came, or sent before it was noticed.
        (CUT.0.saturating_sub(Duration::from_millis(500))..CUT.0 + NOTICED).contains(&sent)
    };
    let (mut silent, mut refused_in_cut, mut after_heal) = (0, 0, 0);
    for (id, entry) in &outcome.messages {
        assert!(entry.delivered.len() <= 1, "{id} was delivered twice: {entry:?}");
        assert!(entry.delivered.is_empty() || entry.refused.is_empty(), "{id} has two ends: {entry:?}");
        assert!(entry.refused.len() <= 1, "{id} was refused twice: {entry:?}");
        if entry.delivered.is_empty() && entry.refused.is_empty() {
            assert!(at_risk(entry.sent), "{id} has no end: {entry:?}");
            silent += 1;
        }
        refused_in_cut += usize::from(!entry.refused.is_empty() && (CUT.0..CUT.1).contains(&entry.sent));
        if entry.sent > CUT.1 + Duration::from_secs(10) {
            assert_eq!(entry.delivered.len(), 1, "{id} after the heal: {entry:?}");
            after_heal += 1;
            let took = entry.delivered[0] - entry.sent;
            assert!(took < Duration::from_secs(3), "{id} took {took:?}");
        }
    }
    assert!(refused_in_cut > 100, "messages to the other side are refused: {refused_in_cut}");
    assert!(after_heal > 500, "messages flow again: {after_heal}");
    silent
}
