//! A minute with a partition in its middle.

use std::net::SocketAddr;
use std::time::Duration;

use trishula::wire::envelope::Kind;

use crate::net::Step;
use crate::scenario::{Fate, Outcome, assert_ended, assert_flows, assert_whole, difference, run, seeds};

/// From when to when two nodes and three do not hear each other.
const CUT: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(35));
/// Silence of five seconds, found at the next of the beats that come each second, and a retransmission.
const NOTICED: Duration = Duration::from_millis(6_500);
/// The longest wait between two dials, a handshake with losses, and the routes.
const HEALED: Duration = Duration::from_secs(10);

fn side(address: SocketAddr) -> bool {
    address.port() < 4002
}

fn partitioned(seed: u64) -> Outcome {
    let cut = |now, from, to| (CUT.0..CUT.1).contains(&now) && side(from) != side(to);
    run(seed, Box::new(cut), Fate::Spared)
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
    for seed in seeds(4, 4) {
        let outcome = partitioned(seed);
        assert_whole(&outcome);
        // Without a store, what is on its way over a link that breaks is lost: sent just before the cut, or
        // before it was noticed, from one side to the other.
        let across = |nodes: &[String; 2]| nodes.iter().filter(|node| *node < &"n2".to_owned()).count() == 1;
        let at_risk = CUT.0.saturating_sub(Duration::from_millis(500))..CUT.0 + NOTICED;
        let silent = assert_ended(&outcome, |entry| at_risk.contains(&entry.sent) && across(&entry.nodes));
        assert_flows(&outcome, CUT.1 + HEALED);
        let in_cut = outcome.messages.values().filter(|entry| (CUT.0..CUT.1).contains(&entry.sent));
        let refused = in_cut.filter(|entry| !entry.refused.is_empty()).count();
        assert!(refused > 100, "{refused} messages to the other side were refused");
        let asked = outcome.messages.values().filter(|entry| entry.kind == Kind::Command).count();
        eprintln!(
            "seed {seed}: {asked} commands of {} messages; {silent} vanished in the links that broke, {refused} were refused; {} datagrams, {} lost",
            outcome.messages.len(),
            outcome.packets,
            outcome.lost
        );
    }
}
