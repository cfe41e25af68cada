//! A minute in which one machine loses power and comes back.

use std::time::Duration;

use trishula::wire::ids::Incarnation;

use crate::agents::Entry;
use crate::scenario::{
    Fate, Outcome, assert_ended, assert_flows, assert_whole, difference, name, run, seeds,
};

const NODE: usize = 1;
const OFF: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(32));
/// Silence of five seconds, found at the next of the beats that come each second, and a retransmission.
const NOTICED: Duration = Duration::from_millis(6_500);
const HEALED: Duration = Duration::from_secs(10);

fn restarted(seed: u64, gently: bool) -> Outcome {
    run(seed, Box::new(|_, _, _| false), Fate::Restarts { gently, node: NODE, at: OFF.0, back: OFF.1 })
}

/// Whether a message came from or went to the machine that was off.
fn concerns_it(entry: &Entry) -> bool {
    entry.nodes.iter().any(|node| node == name(NODE).as_str())
}

/// What holds however it went down; answers how many messages vanished, and how many were refused while it was off.
fn assert_survived(outcome: &Outcome, noticed: Duration) -> (usize, usize) {
    assert_whole(outcome);
    for status in &outcome.statuses {
        let seen = status.nodes.iter().find(|node| node.node == name(NODE)).unwrap();
        assert_eq!(seen.incarnation, Some(Incarnation(1_767_225_600_002)), "seen from {}", status.node);
    }
    let at_risk = OFF.0.saturating_sub(Duration::from_millis(500))..OFF.0 + noticed;
    let silent = assert_ended(outcome, |entry| at_risk.contains(&entry.sent) && concerns_it(entry));
    assert_flows(outcome, OFF.1 + HEALED);
    for (id, entry) in outcome.messages.iter().filter(|(_, entry)| !concerns_it(entry)) {
        assert_eq!(entry.delivered.len(), 1, "{id} had nothing to do with it: {entry:?}");
    }
    let while_off = outcome.messages.values().filter(|entry| (OFF.0..OFF.1).contains(&entry.sent));
    (silent, while_off.filter(|entry| !entry.refused.is_empty()).count())
}

#[test]
fn the_others_go_on_and_its_new_life_replaces_the_old_one() {
    // covers T01, Q02
    for seed in seeds(11, 2) {
        let outcome = restarted(seed, false);
        let (silent, refused) = assert_survived(&outcome, NOTICED);
        assert!(silent > 0 && refused > 20, "{silent} vanished, {refused} were refused");
        eprintln!("seed {seed}: {} messages, {silent} vanished, {refused} refused", outcome.messages.len());
    }
}

#[test]
fn a_stop_in_good_order_is_noticed_at_once() {
    // covers Q02
    for seed in seeds(21, 2) {
        let outcome = restarted(seed, true);
        // Under way when it stopped, or sent before its goodbye came.
        let (silent, refused) = assert_survived(&outcome, Duration::from_secs(1));
        assert!(refused > 50, "{silent} vanished, {refused} were refused");
        eprintln!("seed {seed}: {} messages, {silent} vanished, {refused} refused", outcome.messages.len());
    }
}

#[test]
fn a_restart_too_is_the_same_for_the_same_seed() {
    let (first, second) = (restarted(13, true), restarted(13, true));
    if let Some(difference) = difference(&first.trace, &second.trace) {
        panic!("seed 13 gave two minutes: {difference}");
    }
}
