//! Durable broadcasts: one receipt that counts, whichever node they are given to, and two that stay two.

use bytes::Bytes;

use super::cluster::*;
use super::durable::{TRIO, durable};
use super::moves::{ids, to_agni};
use crate::wire::close::Code;
use crate::wire::envelope::{Head, State};
use crate::wire::frame::Frame;

#[test]
fn a_broadcast_has_one_receipt_that_counts() {
    // covers T07, Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    for (home, name) in [("dc", "bob"), ("agni", "carol"), ("rushabdev", "dave")] {
        cluster.away(home, name);
    }
    cluster.disk("dc", Disk::Hangs);
    let all = |id| Head { receipt: Some(State::Accepted), ..durable(&alice, "broadcast", id) };
    cluster.submit(&alice, all("m-1"));
    cluster.run(seconds(1));
    assert_eq!(cluster.states(&alice, "m-1"), [], "nothing is on disk yet");
    cluster.disk("dc", Disk::Works);
    cluster.release("dc");
    cluster.run(seconds(1));
    cluster.submit(&alice, all("m-1"));
    cluster.run(seconds(1));
    let told = |cluster: &Cluster, id: &str| {
        let told = cluster.told(&alice).into_iter().filter(|receipt| receipt.id.as_str() == id);
        told.map(|receipt| (receipt.state, receipt.counts)).collect::<Vec<_>>()
    };
    let accepted = (State::Accepted, Some((3, 0)));
    assert_eq!(told(&cluster, "m-1"), [accepted, accepted], "once each time it is given");

    cluster.disk("dc", Disk::Fails);
    cluster.submit(&alice, all("m-2"));
    cluster.run(seconds(1));
    assert_eq!(told(&cluster, "m-2"), [(State::Refused, Some((0, 3)))]);
    assert_eq!(cluster.refusals(&alice), [Code::Unavailable]);
}

#[test]
fn broadcasts_that_two_nodes_took_at_the_same_time_stay_two() {
    // covers T06, Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    let incarnation = cluster.life("dc");
    for (n, (id, recipient)) in [("m-1", "bob"), ("m-2", "carol")].into_iter().enumerate() {
        cluster.away("agni", recipient);
        let head = Head { taken: 77, ..durable(&alice, "broadcast", id) };
        let mut forward = to_agni(incarnation, n as u64 + 1, head);
        forward.to[0].agent = Some(agent(recipient));
        cluster.inject("agni", "dc", Frame::Forward(forward, Bytes::from(id)));
    }
    cluster.run(seconds(1));
    // Both are on their way to the new home, and are sent again together.
    cluster.lost = |frame| matches!(frame, Frame::Forward(..));
    let clients = ["bob", "carol"].map(|name| cluster.register("rushabdev", name));
    cluster.run(seconds(2));
    cluster.lost = |_| false;
    cluster.run(seconds(8));
    assert_eq!(clients.map(|client| ids(&cluster, &client)), [["m-1"], ["m-2"]]);
}

#[test]
fn a_broadcast_that_is_given_to_a_home_of_its_recipients_is_answered_there_too() {
    // covers T07, Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    cluster.away("agni", "bob");
    let all = Head { receipt: Some(State::Accepted), ..durable(&alice, "broadcast", "m-1") };
    cluster.submit(&alice, all.clone());
    cluster.run(seconds(1));
    cluster.detach(&alice, false);
    cluster.run(seconds(1));
    let again = cluster.register("agni", "alice");
    cluster.submit(&again, all);
    cluster.run(seconds(1));
    assert_eq!(cluster.states(&again, "m-1"), [State::Accepted]);
    assert_eq!(cluster.view("agni").counting, 0);
}
