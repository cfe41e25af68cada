//! Messages that cross a connection before its handshake is confirmed (0-RTT).

use std::time::Duration;

use bytes::Bytes;

use super::cluster::*;
use super::durable::{TRIO, durable};
use crate::mesh::{Event, Input};
use crate::wire::envelope::{Class, Head, State};
use crate::wire::frame::{Confirm, Dest, Forward, Frame, MAX_HOPS, Outcome};
use crate::wire::ids::{Incarnation, LinkId, Sequence};

const SOON: Duration = Duration::from_millis(100);

impl Cluster {
    /// A forward as it was on its way from one node to another.
    fn recorded(&self, from: &str, to: &str) -> Frame {
        let on_its_way = |sent: &&Sent| {
            let forward = matches!(sent.frame, Frame::Forward(..));
            forward && sent.from == node(from) && sent.to == Some(node(to))
        };
        self.sent.iter().find(on_its_way).unwrap().frame.clone()
    }

    fn early(&mut self, at: &str, peer: &str, link: u64) {
        let early = Input::LinkEarly { link: LinkId(link), peer: node(peer), dialled: false };
        self.input(at, early);
    }

    fn repeated(&self) -> usize {
        self.events.iter().filter(|(_, event)| *event == Event::EarlyRepeated).count()
    }
}

/// A forward of alice's to bob, from dc to agni.
fn forward(class: Class, number: u64) -> Frame {
    let from = Client {
        node: node("dc"),
        link: LinkId(1),
        session: crate::wire::ids::SessionNo(1),
        agent: agent("alice"),
    };
    let head = Head { class, ttl_ms: Some(60_000), ..durable(&from, "bob", &format!("f-{number}")) };
    let dest = Dest {
        node: node("agni"),
        agent: None,
        number: Sequence(number),
        after: Sequence(0),
        life: Incarnation(0),
        registered_ms: 0,
    };
    let forward = Forward {
        origin: node("dc"),
        incarnation: Incarnation(1),
        to: vec![dest],
        hops_left: MAX_HOPS,
        redelivered: false,
        unseen: true,
        age_ms: 0,
        head,
    };
    Frame::Forward(forward, Bytes::from_static(b"{}"))
}

#[test]
fn what_waited_goes_before_the_link_is_up_and_is_confirmed_when_it_is() {
    // covers T02, Q01, Q04
    let mut cluster = Cluster::meshed(&["agni", "dc"]);
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("agni", "bob");
    cluster.cut("agni", "dc");
    cluster.run(SOON);
    cluster.post(&alice, "bob", "m-1");
    assert_eq!(cluster.handings(&bob).len(), 0);
    cluster.forget();

    let (ours, theirs) = cluster.resume("dc", "agni");
    cluster.post(&alice, "bob", "m-2");
    let handed: Vec<String> = cluster.handings(&bob).into_iter().map(|(id, _)| id).collect();
    assert_eq!(handed, ["m-1", "m-2"], "nobody has said HELLO yet");
    assert_eq!(cluster.states(&alice, "m-1"), [], "what confirms it waits for the link");
    let crossed = cluster.sent.iter().filter(|sent| sent.to.is_some());
    let others: Vec<&str> = crossed.map(|sent| sent.frame.name()).filter(|name| *name != "Forward").collect();
    assert_eq!(others, [""; 0], "and so does everything else");

    cluster.forget_but_last();
    cluster.confirm_handshake("dc", "agni", ours, theirs);
    cluster.run(SOON);
    assert_eq!(cluster.states(&alice, "m-1").last(), Some(&State::Stored));
    assert_eq!(cluster.states(&alice, "m-2").last(), Some(&State::Stored));
    let again = cluster.sent.iter().filter(|sent| matches!(sent.frame, Frame::Forward(..))).count();
    assert_eq!((again, cluster.handings(&bob).len()), (0, 2), "nothing was sent twice");
}

#[test]
fn a_peer_that_was_started_again_takes_what_comes_early_once() {
    // covers T02, Q02
    let mut cluster = Cluster::meshed(&["agni", "dc"]);
    let alice = cluster.register("dc", "alice");
    cluster.away("agni", "bob");
    cluster.restart("agni");
    cluster.cut("agni", "dc");
    cluster.run(SOON);
    cluster.post(&alice, "bob", "m-1");
    let (ours, theirs) = cluster.resume("dc", "agni");
    cluster.run(SOON);
    assert_eq!(cluster.view("agni").mailbox, 1);
    cluster.confirm_handshake("dc", "agni", ours, theirs);
    cluster.run(seconds(1));
    let bob = cluster.register("agni", "bob");
    assert_eq!(cluster.handings(&bob).len(), 1);
    assert_eq!(cluster.states(&alice, "m-1"), [State::Accepted, State::Stored]);
}

#[test]
fn early_data_that_is_rejected_is_sent_again() {
    // covers T02, Q04
    let mut cluster = Cluster::meshed(&["agni", "dc"]);
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("agni", "bob");
    cluster.cut("agni", "dc");
    cluster.run(SOON);
    cluster.lost = |frame| matches!(frame, Frame::Forward(..));
    let (ours, _) = cluster.resume("dc", "agni");
    cluster.post(&alice, "bob", "m-1");
    assert_eq!(cluster.handings(&bob).len(), 0);
    cluster.input("dc", Input::LinkDown(ours));
    cluster.lost = |_| false;
    cluster.connect("dc", "agni");
    cluster.run(SOON);
    assert_eq!(cluster.handings(&bob).len(), 1);
    assert_eq!(cluster.states(&alice, "m-1"), [State::Accepted, State::Stored]);
}

#[test]
fn what_left_with_one_of_several_tries_leaves_again_with_the_one_that_is_left() {
    // covers T02, Q04
    let mut cluster = Cluster::meshed(&["agni", "dc"]);
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("agni", "bob");
    cluster.cut("agni", "dc");
    cluster.run(SOON);
    let (older, theirs) = cluster.resume("dc", "agni");
    cluster.lost = |frame| matches!(frame, Frame::Forward(..));
    let (newer, _) = cluster.resume("dc", "agni");
    cluster.post(&alice, "bob", "m-1");
    cluster.lost = |_| false;
    assert_eq!(cluster.handings(&bob).len(), 0, "it went with the newer one");
    // The older one comes through, and the other is given up before that is a link.
    cluster.input("dc", Input::LinkDown(newer));
    cluster.post(&alice, "bob", "m-2");
    cluster.confirm_handshake("dc", "agni", older, theirs);
    cluster.run(SOON);
    let handed: Vec<String> = cluster.handings(&bob).into_iter().map(|(id, _)| id).collect();
    assert_eq!(handed, ["m-1", "m-2"]);
    assert_eq!(cluster.states(&alice, "m-1"), [State::Accepted, State::Stored]);
}

#[test]
fn a_recording_that_is_sent_again_is_recognised_and_harms_no_link() {
    // covers T02, T24, Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("agni", "bob");
    cluster.post(&alice, "bob", "m-1");
    let recorded = cluster.recorded("dc", "agni");
    cluster.forget_but_last();
    for (n, acked) in [(0, false), (1, false), (2, true)] {
        let link = 1_000 + n;
        if acked {
            cluster.settle(&bob, "m-1", crate::wire::frame::Settlement::Acked);
        }
        cluster.early("agni", "dc", link);
        cluster.input("agni", Input::Frame(LinkId(link), recorded.clone()));
        cluster.input("agni", Input::LinkDown(LinkId(link)));
        cluster.run(SOON);
    }
    assert_eq!((cluster.repeated(), cluster.handings(&bob).len()), (3, 1));
    let touched = |event: &Event| matches!(event, Event::Settled { .. } | Event::Unreachable(_));
    assert!(!cluster.events.iter().any(|(_, event)| touched(event)) && cluster.closed.is_empty());
    assert_eq!(cluster.states(&alice, "m-1").last(), Some(&State::Acked));
}

#[test]
fn nothing_but_durable_messages_comes_early() {
    // covers T24
    let mut cluster = Cluster::meshed(&["agni", "dc"]);
    let bob = cluster.register("agni", "bob");
    cluster.cut("agni", "dc");
    cluster.run(SOON);
    cluster.forget();
    let confirm = Confirm {
        to: node("agni"),
        incarnation: Incarnation(1),
        node: node("dc"),
        reports: vec![(Sequence(1), Outcome::Unknown)],
        hops_left: MAX_HOPS,
    };
    let frames = [forward(Class::Live, 1), Frame::Ping(1), Frame::Goodbye(0), Frame::Confirm(confirm)];
    cluster.early("agni", "dc", 1_000);
    for frame in frames {
        cluster.input("agni", Input::Frame(LinkId(1_000), frame));
    }
    cluster.run(SOON);
    let ignored = cluster.events.iter().filter(|(_, event)| matches!(event, Event::Ignored(..))).count();
    let delivered = cluster.got(&bob).iter().filter(|frame| matches!(frame, Frame::Deliver(..))).count();
    let answered = cluster.sent.iter().filter(|sent| sent.to.is_some()).count();
    assert_eq!((ignored, delivered, answered), (4, 0, 0));
    cluster.input("agni", Input::Frame(LinkId(1_000), forward(Class::Durable, 2)));
    cluster.input("agni", Input::Frame(LinkId(1_001), forward(Class::Durable, 3)));
    cluster.run(SOON);
    assert_eq!(cluster.handings(&bob).len(), 1, "of a connection that is known");
    // One that never ends is forgotten.
    cluster.run(seconds(11));
    cluster.input("agni", Input::Frame(LinkId(1_000), forward(Class::Durable, 4)));
    cluster.run(SOON);
    assert_eq!(cluster.handings(&bob).len(), 1);
}

#[test]
fn a_way_round_is_not_left_for_a_connection_that_is_no_link_yet() {
    // covers Q02
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("agni", "bob");
    cluster.cut("agni", "dc");
    cluster.run(seconds(1));
    cluster.forget();
    let (_, theirs) = cluster.resume("dc", "agni");
    cluster.post(&alice, "bob", "m-1");
    assert_eq!(cluster.handings(&bob).len(), 1);
    let by = |to: &str| {
        let forward = |sent: &&Sent| matches!(sent.frame, Frame::Forward(..)) && sent.from == node("dc");
        cluster.sent.iter().filter(forward).filter(|sent| sent.to == Some(node(to))).count()
    };
    assert_eq!((by("agni"), by("rushabdev")), (0, 1));
    assert_eq!(cluster.states(&alice, "m-1").last(), Some(&State::Stored), "{theirs} holds up nothing");
}

#[test]
fn an_end_that_has_not_noticed_tells_over_the_new_link() {
    // covers T02, Q04
    let mut cluster = Cluster::meshed(&["agni", "dc"]);
    let alice = cluster.register("agni", "alice");
    let bob = cluster.register("dc", "bob");
    // Only agni finds out that the way is dead.
    cluster.block("agni", "dc", true);
    let ours = cluster.links_of("agni", "dc");
    ours.into_iter().for_each(|link| cluster.input("agni", Input::LinkDown(link)));
    cluster.post(&alice, "bob", "m-1");
    let (ours, theirs) = cluster.resume("agni", "dc");
    cluster.run(SOON);
    assert_eq!(cluster.handings(&bob).len(), 1);
    cluster.confirm_handshake("agni", "dc", ours, theirs);
    cluster.run(SOON);
    assert_eq!(cluster.states(&alice, "m-1"), [State::Accepted, State::Stored]);
}
