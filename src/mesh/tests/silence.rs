//! How soon a dead link is noticed, and what is borne.

use std::time::Duration;

use super::cluster::*;
use crate::mesh::{Config, Input, Output};
use crate::wire::envelope::{Class, Head};
use crate::wire::frame::Frame;
use crate::wire::ids::Incarnation;

const THREE: [&str; 3] = ["agni", "dc", "rushabdev"];

/// Three nodes with short heartbeats, long enough together that each link is known to be a good one.
fn attentive() -> Cluster {
    let mut cluster = Cluster::of(&[]);
    for name in THREE {
        let heartbeat = Duration::from_millis(120);
        cluster.start(Config { heartbeat, ..Config::new(node(name), Incarnation(1)) }, Vec::new());
    }
    cluster.connect("agni", "dc");
    cluster.connect("agni", "rushabdev");
    cluster.connect("dc", "rushabdev");
    cluster.run(seconds(20));
    cluster.forget();
    cluster
}

#[test]
fn a_good_link_that_dies_is_noticed_within_half_a_second() {
    // covers T09, Q02
    let mut cluster = attentive();
    cluster.block("agni", "dc", true);
    cluster.run(Duration::from_millis(320));
    assert!(cluster.closed.is_empty(), "two signs of life may be missing");
    cluster.run(Duration::from_millis(180));
    assert_eq!(cluster.closed.len(), 2, "{:?}", cluster.closed);
    assert_eq!(cluster.next_hop("agni", "dc").as_deref(), Some("rushabdev"));
}

#[test]
fn a_link_that_is_silent_now_and_then_has_more_patience() {
    // covers T09, Q02
    let mut cluster = attentive();
    // At first for less than counts, then for more than a good link may be.
    for silent_ms in [200, 500, 1_200, 300, 700] {
        cluster.block("agni", "dc", true);
        cluster.run(Duration::from_millis(silent_ms));
        cluster.block("agni", "dc", false);
        cluster.run(seconds(2));
    }
    assert!(cluster.closed.is_empty(), "{:?}", cluster.closed);
    cluster.block("agni", "dc", true);
    cluster.run(Duration::from_millis(3_200));
    assert_eq!(cluster.closed.len(), 2, "its patience ends with the configured silence");
}

#[test]
fn a_node_that_stood_still_hears_what_came_before_it_closes_a_link() {
    // covers T09
    let mut cluster = attentive();
    let links = cluster.mesh("dc").snapshot().links;
    // It had no turn for ten seconds; the ticks before what links brought.
    let now = cluster.now.after(seconds(10));
    let dc = cluster.mesh_mut("dc");
    dc.handle(now, Input::Tick(0));
    let outputs: Vec<Output> = std::iter::from_fn(|| dc.poll_output()).collect();
    assert!(!outputs.iter().any(|output| matches!(output, Output::Close(..))), "{outputs:?}");
    for link in links {
        let asked = |output: &Output| matches!(output, Output::Send(id, Frame::Ping(_)) if *id == link.link);
        assert!(outputs.iter().any(asked), "each is asked for a sign of life");
    }
    // Once: who stands still all the time would not notice anything else.
    dc.handle(now.after(seconds(10)), Input::Tick(0));
    let closed = std::iter::from_fn(|| dc.poll_output()).filter(|output| matches!(output, Output::Close(..)));
    assert_eq!(closed.count(), 2);
}

#[test]
fn what_came_while_a_node_stood_still_is_marked_for_a_recipient_that_was_elsewhere_and_is_back() {
    // covers T07, Q02
    // The recipient is back before, or after, the node has read what came.
    for early in [false, true] {
        let mut cluster = Cluster::meshed(&["agni", "dc"]);
        let feeder = cluster.register("agni", "feeder");
        let first = cluster.register("dc", "worker");
        cluster.run(seconds(5));
        cluster.stand_still("dc");
        cluster.detach(&first, false);
        let message = Head { class: Class::Durable, ..head(&feeder, "worker", "m-1") };
        cluster.submit(&feeder, message);
        cluster.run(seconds(30));
        let elsewhere = cluster.register("agni", "worker");
        assert_eq!(cluster.messages(&elsewhere), ["m-1"]);
        cluster.detach(&elsewhere, false);
        cluster.run(seconds(1));
        // A link and its first frame.
        let again = cluster.attach("dc", "worker", PLAIN);
        cluster.go_on("dc", if early { 2 } else { 0 });
        cluster.run(seconds(1));
        let handed = cluster.handings(&again);
        assert_eq!(handed.len(), 1, "early: {early}");
        assert!(handed[0].1.redelivered, "it got m-1 at agni; early: {early}");
    }
}
