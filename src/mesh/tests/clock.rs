//! The hybrid logical clock: it follows those of other nodes, and not far.

use std::time::Duration;

use bytes::Bytes;

use super::cluster::*;
use super::durable::{TRIO, durable};
use crate::wire::envelope::Head;
use crate::wire::frame::{Dest, Forward, Frame};
use crate::wire::ids::{Incarnation, Sequence};

/// A node's reading says milliseconds of a wall clock, and counts in what is below.
fn milliseconds(reading: u64) -> u64 {
    reading >> 16
}

/// What agni says, by a clock of its own, of a message that it took for an agent of dc.
fn says(cluster: &mut Cluster, from: &Client, number: u64, taken: u64) {
    let forward = Forward {
        origin: node("agni"),
        incarnation: Incarnation(1),
        to: vec![Dest {
            node: node("dc"),
            agent: None,
            number: Sequence(number),
            after: Sequence(0),
            life: Incarnation(1),
            registered_ms: 0,
        }],
        hops_left: 1,
        redelivered: false,
        unseen: false,
        age_ms: 0,
        head: Head { taken, ..durable(from, "alice", &format!("their-{number}")) },
    };
    cluster.inject("dc", "agni", Frame::Forward(forward, Bytes::from_static(b"{}")));
    cluster.run(seconds(1));
}

/// The clock's reading of the next message that dc takes.
fn next_reading(cluster: &mut Cluster, alice: &Client, id: &str) -> u64 {
    cluster.forget();
    cluster.post(alice, "bob", id);
    let taken =
        cluster.sent.iter().filter(|sent| sent.from == node("dc")).find_map(|sent| match &sent.frame {
            Frame::Forward(forward, _) => Some(forward.head.taken),
            _ => None,
        });
    taken.unwrap()
}

#[test]
fn a_clock_that_is_far_ahead_is_not_followed() {
    // covers B19, T18
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("agni", "bob");
    cluster.run(seconds(1));

    // More than a minute, by a little, by much, and by all that fits in.
    let mut last = next_reading(&mut cluster, &alice, "m-0");
    let ahead_by = [61_000, 3_600_000, 365 * 24 * 3_600_000];
    let far = ahead_by.map(|ahead_ms| (cluster.wall_ms() + ahead_ms) << 16);
    for (n, theirs) in (1..).zip(far.into_iter().chain([u64::MAX])) {
        says(&mut cluster, &bob, n, theirs);
        let ours = next_reading(&mut cluster, &alice, &format!("m-{n}"));
        assert!(ours > last, "it never goes back");
        assert!(
            milliseconds(ours) <= cluster.wall_ms(),
            "{} ms ahead",
            milliseconds(ours) - cluster.wall_ms()
        );
        last = ours;
    }

    // Within a minute it is: what is taken here later has the later reading, and still none a minute ahead.
    let theirs = (cluster.wall_ms() + 50_000) << 16 | 7;
    says(&mut cluster, &bob, 9, theirs);
    let ours = next_reading(&mut cluster, &alice, "m-9");
    assert!(ours > theirs, "what comes after a message has a later reading");
    assert!(milliseconds(ours) <= cluster.wall_ms() + 60_000);
    // Ours counts on until the wall clock has passed it, and is then that of the wall again.
    cluster.run(seconds(60));
    let ours = next_reading(&mut cluster, &alice, "m-10");
    assert!(milliseconds(ours).abs_diff(cluster.wall_ms()) < 1_000);
}

#[test]
fn a_node_whose_clock_is_behind_makes_no_message_younger() {
    // covers T07, T18: given again at such a node, it would reach a recipient that had it elsewhere without a mark.
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    cluster.register("agni", "bob");
    cluster.run(seconds(1));

    // An agent whose clock is right sent it five seconds ago by the clock here, which is half a minute behind agni's.
    let head = Head { sent_ms: cluster.wall_ms() - 5_000, ..durable(&alice, "bob", "m-1") };
    cluster.inject("dc", "agni", Frame::Pong(0, cluster.wall_ms() + 30_000));
    cluster.forget();
    cluster.submit(&alice, head);
    cluster.run(Duration::from_millis(200));
    let age_ms =
        cluster.sent.iter().filter(|sent| sent.from == node("dc")).find_map(|sent| match &sent.frame {
            Frame::Forward(forward, _) => Some(forward.age_ms),
            _ => None,
        });
    assert!((35_000..36_000).contains(&age_ms.unwrap()), "{age_ms:?} ms old");
}
