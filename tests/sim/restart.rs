//! A minute in which one machine loses power and comes back.

use std::time::Duration;

use trishula::wire::ids::Incarnation;

use crate::scenario::{
    Fate, Outcome, assert_ended, assert_flows, assert_whole, difference, name, run, seeds,
};

const NODE: usize = 1;
const OFF: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(32));
/// Silence of five seconds, found at the next of the beats that come each second, and a retransmission.
const NOTICED: Duration = Duration::from_millis(6_500);
const HEALED: Duration = Duration::from_secs(10);

fn restarted(seed: u64) -> Outcome {
    run(seed, Box::new(|_, _, _| false), Fate::Restarts { node: NODE, at: OFF.0, back: OFF.1 })
}

#[test]
fn the_others_go_on_and_its_new_life_replaces_the_old_one() {
    // covers T01, Q02
    for seed in seeds(11, 2) {
        let outcome = restarted(seed);
        assert_whole(&outcome);
        for status in &outcome.statuses {
            let seen = status.nodes.iter().find(|node| node.node == name(NODE)).unwrap();
            assert_eq!(seen.incarnation, Some(Incarnation(1_767_225_600_002)), "seen from {}", status.node);
        }
        let its = |nodes: &[String; 2]| nodes.iter().any(|node| node == name(NODE).as_str());
        let at_risk = OFF.0.saturating_sub(Duration::from_millis(500))..OFF.0 + NOTICED;
        let silent = assert_ended(&outcome, |entry| at_risk.contains(&entry.sent) && its(&entry.nodes));
        assert_flows(&outcome, OFF.1 + HEALED);
        for (id, entry) in outcome.messages.iter().filter(|(_, entry)| !its(&entry.nodes)) {
            assert_eq!(entry.delivered.len(), 1, "{id} had nothing to do with it: {entry:?}");
        }
        let while_off = outcome.messages.values().filter(|entry| (OFF.0..OFF.1).contains(&entry.sent));
        let refused = while_off.filter(|entry| !entry.refused.is_empty()).count();
        assert!(silent > 0 && refused > 20, "{silent} vanished, {refused} were refused");
        eprintln!("seed {seed}: {} messages, {silent} vanished, {refused} refused", outcome.messages.len());
    }
}

#[test]
fn a_restart_too_is_the_same_for_the_same_seed() {
    let (first, second) = (restarted(13), restarted(13));
    if let Some(difference) = difference(&first.trace, &second.trace) {
        panic!("seed 13 gave two minutes: {difference}");
    }
}
