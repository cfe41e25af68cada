//! Messages: to their recipient and nobody else, once, or refused to their sender.

use bytes::Bytes;

use super::cluster::*;
use crate::mesh::Event;
use crate::wire::close::Code;
use crate::wire::envelope::{Head, State, Target};
use crate::wire::frame::{Deliver, Dest, Forward, Frame, MAX_HOPS, Receipt};
use crate::wire::ids::{AgentAddr, Incarnation, Namespace, RoomName, SessionNo};

const PAIR: [&str; 2] = ["agni", "dc"];
const THREE: [&str; 3] = ["agni", "dc", "rushabdev"];

/// Five nodes: a – b – c – d, and e at c.
fn tree() -> Cluster {
    let mut cluster = Cluster::of(&["a", "b", "c", "d", "e"]);
    for (x, y) in [("a", "b"), ("b", "c"), ("c", "d"), ("c", "e")] {
        cluster.connect(x, y);
    }
    cluster.run(seconds(3));
    cluster.forget();
    cluster
}

#[test]
fn a_message_reaches_its_recipient_and_nobody_else() {
    // covers T06
    let mut cluster = Cluster::meshed(&THREE);
    let alice = cluster.register("agni", "alice");
    let others: Vec<Client> = THREE
        .iter()
        .flat_map(|name| ["x", "y"].map(|n| (*name, format!("{n}-{name}"))))
        .collect::<Vec<_>>()
        .into_iter()
        .map(|(name, agent)| cluster.register(name, &agent))
        .collect();
    cluster.send(&alice, "x-dc", "m-1");
    for other in &others {
        let expected: &[&str] = if other.agent == agent("x-dc") { &["m-1"] } else { &[] };
        assert_eq!(cluster.messages(other), expected, "{}", other.agent);
    }
    assert!(cluster.told(&alice).is_empty(), "no receipt that was not asked for");
    let Some(Frame::Deliver(deliver, payload)) = cluster.got(&others[2]).into_iter().last() else {
        panic!("the last frame is the message")
    };
    assert_eq!((&payload[..], deliver.head.from.clone()), (&b"payload of m-1"[..], alice.agent.clone()));
}

#[test]
fn local_self_and_remote_recipients_are_served_alike_and_in_order() {
    // covers T06
    let mut cluster = Cluster::meshed(&PAIR);
    let alice = cluster.register("agni", "alice");
    let (near, far) = (cluster.register("agni", "near"), cluster.register("dc", "far"));
    let ids: Vec<String> = (0..20).map(|n| format!("m-{n}")).collect();
    for id in &ids {
        for to in ["near", "far", "alice"] {
            cluster.submit(&alice, head(&alice, to, id));
        }
    }
    cluster.run(seconds(1));
    for client in [&alice, &near, &far] {
        assert_eq!(cluster.messages(client), ids, "{}", client.agent);
    }
}

#[test]
fn who_is_unknown_away_or_offline_is_refused_to_the_senders_session() {
    // covers T06, B19
    let mut cluster = Cluster::meshed(&PAIR);
    let (alice, bystander) = (cluster.register("agni", "alice"), cluster.register("agni", "carol"));
    let (near, far) = (cluster.register("agni", "near"), cluster.register("dc", "far"));
    for gone in [&near, &far] {
        cluster.detach(gone, false);
    }
    cluster.run(seconds(1));
    for (to, id) in [("nobody", "m-1"), ("near", "m-2"), ("far", "m-3")] {
        cluster.send(&alice, to, id);
    }
    let codes = [Code::UnknownRecipient, Code::RecipientOffline, Code::RecipientOffline];
    assert_eq!(cluster.refusals(&alice), codes);
    let last = cluster.told(&alice)[2];
    assert_eq!((last.id.as_str(), last.recipient.clone(), last.state), ("m-3", agent("far"), State::Refused));
    assert!(last.refusal.as_ref().unwrap().message.contains("node dc"), "it says where the agent was");
    assert!(cluster.told(&bystander).is_empty());
}

#[test]
fn a_recipient_that_left_while_the_message_travelled_is_refused_from_there() {
    // covers T06
    let mut cluster = Cluster::meshed(&PAIR);
    let (alice, bob) = (cluster.register("agni", "alice"), cluster.register("dc", "bob"));
    cluster.submit(&alice, head(&alice, "bob", "m-1"));
    cluster.detach(&bob, false);
    cluster.run(seconds(1));
    let receipt = cluster.told(&alice)[0];
    assert_eq!((receipt.node.as_str(), receipt.state), ("dc", State::Refused));
    assert_eq!(cluster.refusals(&alice), [Code::RecipientOffline]);

    let bob = cluster.register("dc", "bob");
    cluster.submit(&alice, head(&alice, "bob", "m-2"));
    cluster.detach(&bob, true);
    cluster.run(seconds(1));
    assert_eq!(cluster.refusals(&alice)[1], Code::UnknownRecipient);
}

#[test]
fn a_recipient_behind_a_cut_is_refused_as_unreachable() {
    // covers Q02
    let mut cluster = Cluster::meshed(&PAIR);
    let alice = cluster.register("agni", "alice");
    cluster.register("dc", "bob");
    cluster.cut("agni", "dc");
    cluster.run(seconds(1));
    cluster.send(&alice, "bob", "m-1");
    assert_eq!(cluster.refusals(&alice), [Code::NoRoute]);
    assert!(cluster.told(&alice)[0].refusal.as_ref().unwrap().code.retry());
}

#[test]
fn a_broadcast_reaches_each_agent_once_and_uses_each_link_once() {
    // covers T06
    let mut cluster = tree();
    let alice = cluster.register("a", "alice");
    let mut others = Vec::new();
    for name in ["a", "b", "d", "e"] {
        for n in 0..3 {
            others.push(cluster.register(name, &format!("{name}-{n}")));
        }
    }
    let stranger = cluster.register("d", "akosha/stranger");
    let away = cluster.register("c", "away");
    cluster.detach(&away, false);
    cluster.run(seconds(1));
    cluster.forget();
    cluster.send(&alice, "broadcast", "m-1");
    for other in &others {
        assert_eq!(cluster.messages(other), ["m-1"], "{}", other.agent);
    }
    assert!(cluster.messages(&alice).is_empty(), "not back to its sender");
    assert!(cluster.messages(&stranger).is_empty(), "not into another namespace");
    assert!(cluster.messages(&away).is_empty());
    let expected = [("a", "b"), ("b", "c"), ("c", "d"), ("c", "e")];
    let expected = expected.map(|(from, to)| ((from.to_owned(), to.to_owned()), 1));
    assert_eq!(cluster.forwards().into_iter().collect::<Vec<_>>(), expected);
    assert!(cluster.told(&alice).is_empty());
}

#[test]
fn a_broadcast_in_a_full_mesh_goes_straight_to_each_node_and_storms_nowhere() {
    // covers T06
    let ten: Vec<String> = (0..10).map(|i| format!("n{i}")).collect();
    let ten: Vec<&str> = ten.iter().map(String::as_str).collect();
    let mut cluster = Cluster::meshed(&ten);
    let clients: Vec<Client> = ten.iter().map(|name| cluster.register(name, &format!("at-{name}"))).collect();
    cluster.forget();
    cluster.send(&clients[0], "broadcast", "m-1");
    for client in &clients[1..] {
        assert_eq!(cluster.messages(client), ["m-1"]);
    }
    let forwards = cluster.forwards();
    assert_eq!((forwards.len(), forwards.values().sum::<usize>()), (9, 9));
}

#[test]
fn a_broadcast_goes_as_one_frame_to_an_entrance_with_many_sessions() {
    // covers T06, B08
    let mut cluster = Cluster::meshed(&PAIR);
    let alice = cluster.register("agni", "alice");
    let first = cluster.register("dc", "b-0");
    let mut all = vec![first.clone()];
    for n in 1..5 {
        let session = SessionNo(first.session.0 + 1000 + n);
        let client = Client { session, agent: agent(&format!("b-{n}")), ..first.clone() };
        cluster.attach_again(&client, PLAIN);
        all.push(client);
    }
    cluster.run(seconds(1));
    cluster.forget();
    cluster.send(&alice, "broadcast", "m-1");
    assert!(all.iter().all(|client| cluster.messages(client) == ["m-1"]));
    let delivered = cluster.sent.iter().filter(|sent| matches!(sent.frame, Frame::Deliver(..))).count();
    assert_eq!(delivered, 1);
}

#[test]
fn a_shared_agent_gets_one_copy_of_a_broadcast() {
    // covers T06
    let mut cluster = Cluster::meshed(&THREE);
    let alice = cluster.register("agni", "alice");
    let mut pool = vec![cluster.attach("dc", "pool", SHARED), cluster.attach("dc", "pool", SHARED)];
    // The pool is spread over two nodes, each of which has another agent too.
    pool.push(cluster.attach("rushabdev", "pool", SHARED));
    cluster.register("dc", "bob");
    cluster.register("rushabdev", "carol");
    cluster.run(seconds(1));
    assert!(pool.iter().all(|member| cluster.attached(member) && cluster.evicted(member).is_none()));
    cluster.send(&alice, "broadcast", "m-1");
    let copies: usize = pool.iter().map(|member| cluster.messages(member).len()).sum();
    assert_eq!(copies, 1);
}

#[test]
fn a_broadcast_tells_its_sender_of_nodes_that_it_cannot_reach() {
    // covers T06, Q02
    let mut cluster = tree();
    let alice = cluster.register("a", "alice");
    cluster.register("d", "dave");
    let bob = cluster.register("b", "bob");
    cluster.cut("c", "d");
    cluster.run(seconds(1));
    cluster.send(&alice, "broadcast", "m-1");
    assert_eq!(cluster.messages(&bob), ["m-1"]);
    assert_eq!(cluster.refusals(&alice), [Code::NoRoute]);
}

#[test]
fn nobody_sends_into_another_namespace() {
    // covers T08
    let mut cluster = Cluster::meshed(&PAIR);
    let alice = cluster.register("agni", "alice");
    let stranger = cluster.register("dc", "akosha/bob");
    cluster.send(&alice, "akosha/bob", "m-1");
    cluster.send(&alice, "akosha/broadcast", "m-2");
    assert_eq!(cluster.refusals(&alice), [Code::Forbidden, Code::Forbidden]);
    assert!(cluster.messages(&stranger).is_empty());
    cluster.send(&alice, "bob", "m-3");
    assert_eq!(cluster.refusals(&alice)[2], Code::UnknownRecipient, "a name means the sender's namespace");
    assert!(cluster.forwards().is_empty());
}

#[test]
fn a_session_speaks_for_its_own_agent_only() {
    // covers T08, B19
    let mut cluster = Cluster::meshed(&PAIR);
    let (alice, bob) = (cluster.register("agni", "alice"), cluster.register("dc", "bob"));
    let forged = Head { from: agent("carol"), ..head(&alice, "bob", "m-1") };
    cluster.submit(&alice, forged);
    let foreign = AgentAddr::parse("akosha/alice", &Namespace::new("akosha").unwrap()).unwrap();
    cluster.submit(&alice, Head { from: foreign, ..head(&alice, "bob", "m-2") });
    // A session that was never registered, at an entrance that is.
    let nobody = Client { session: SessionNo(77_777), ..alice.clone() };
    cluster.submit(&nobody, head(&nobody, "bob", "m-3"));
    cluster.run(seconds(1));
    assert_eq!(cluster.refusals(&alice), [Code::FromMismatch, Code::FromMismatch]);
    assert_eq!(cluster.refusals(&nobody), [Code::NotRegistered]);
    assert!(cluster.messages(&bob).is_empty());
}

#[test]
fn what_this_release_does_not_serve_is_refused_and_not_sent_without() {
    // covers B19
    let mut cluster = Cluster::meshed(&PAIR);
    let (alice, bob) = (cluster.register("agni", "alice"), cluster.register("dc", "bob"));
    let plain = |id: &str| head(&alice, "bob", id);
    let room = Target::Room(Namespace::new("trishula").unwrap(), RoomName::new("r").unwrap());
    let refused = [
        (Head { to: room, ttl_ms: Some(5), ..plain("m-1") }, Code::Unsupported),
        (Head { copies: 2, ..plain("m-2") }, Code::Unsupported),
        (Head { not_before_ms: Some(5), ..plain("m-3") }, Code::Unsupported),
        (Head { receipt: Some(State::Accepted), ..plain("m-4") }, Code::Unsupported),
        (Head { receipt: Some(State::Acked), ..plain("m-5") }, Code::Unsupported),
        (Head { receipt: Some(State::Delivered), ..head(&alice, "broadcast", "m-6") }, Code::Unsupported),
        (Head { ttl_ms: Some(0), ..plain("m-7") }, Code::Expired),
    ];
    let codes: Vec<Code> = refused.iter().map(|(_, code)| *code).collect();
    for (head, _) in refused {
        cluster.submit(&alice, head);
    }
    cluster.run(seconds(1));
    assert_eq!(cluster.refusals(&alice), codes);
    assert!(cluster.messages(&bob).is_empty());
    cluster.submit(&alice, Head { not_before_ms: Some(0), ttl_ms: Some(1), ..plain("m-8") });
    cluster.run(seconds(1));
    assert_eq!(cluster.messages(&bob), ["m-8"]);
}

#[test]
fn a_receipt_finds_its_way_back_through_a_third_node() {
    // covers T07
    let mut cluster = tree();
    let (alice, dave) = (cluster.register("a", "alice"), cluster.register("d", "dave"));
    let wants = Head { receipt: Some(State::Delivered), ..head(&alice, "dave", "m-1") };
    cluster.submit(&alice, wants);
    cluster.run(seconds(1));
    let Some(Frame::Deliver(Deliver { head, confirm, .. }, _)) = cluster.got(&dave).into_iter().last() else {
        panic!("dave got nothing")
    };
    assert_eq!(confirm.as_ref(), Some(&node("a")));
    let receipt = Receipt {
        to: node("a"),
        sender: head.from.clone(),
        id: head.id.clone(),
        recipient: agent("dave"),
        counts: None,
        node: node("d"),
        state: State::Delivered,
        refusal: None,
        asked: true,
        keeper: crate::wire::ids::NodeName::new("agni").unwrap(),
        hops_left: MAX_HOPS,
    };
    cluster.frame(&dave, Frame::Receipt(receipt));
    cluster.run(seconds(1));
    let told = cluster.told(&alice);
    assert_eq!((told.len(), told[0].state, told[0].node.as_str()), (1, State::Delivered, "d"));
}

#[test]
fn a_link_that_has_no_room_is_told_to_the_sender() {
    // covers T06
    let mut cluster = Cluster::meshed(&THREE);
    let (alice, bob) = (cluster.register("agni", "alice"), cluster.register("dc", "bob"));
    cluster.fill("agni", "dc");
    cluster.send(&alice, "bob", "m-1");
    assert_eq!(cluster.refusals(&alice), [Code::Unavailable]);
    assert!(cluster.messages(&bob).is_empty());
}

#[test]
fn a_full_link_further_on_and_a_full_entrance_are_told_to_the_sender_too() {
    // covers T06, B08
    let mut cluster = tree();
    let (alice, dave) = (cluster.register("a", "alice"), cluster.register("d", "dave"));
    let eve = cluster.register("e", "eve");
    cluster.fill("c", "d");
    cluster.send(&alice, "dave", "m-1");
    cluster.fill_entrance(&eve);
    cluster.send(&alice, "eve", "m-2");
    assert_eq!(cluster.refusals(&alice), [Code::Unavailable, Code::Unavailable]);
    let from: Vec<&str> = cluster.told(&alice).iter().map(|receipt| receipt.node.as_str()).collect();
    assert_eq!(from, ["c", "e"]);
    assert!(cluster.messages(&dave).is_empty());
}

#[test]
fn a_message_that_goes_in_circles_ends_and_its_sender_is_told() {
    // covers T06
    let mut cluster = tree();
    let (alice, dave) = (cluster.register("a", "alice"), cluster.register("d", "dave"));
    let mut lost = Forward {
        origin: node("a"),
        incarnation: Incarnation(1),
        to: vec![Dest::live(node("d"))],
        redelivered: false,
        unseen: false,
        age_ms: 0,
        hops_left: 1,
        head: head(&alice, "dave", "m-1"),
    };
    cluster.inject("b", "a", Frame::Forward(lost.clone(), Bytes::new()));
    cluster.run(seconds(1));
    assert_eq!(cluster.refusals(&alice), [Code::HopLimit], "c is one hop too far");
    lost.hops_left = 3;
    cluster.inject("b", "a", Frame::Forward(lost, Bytes::new()));
    cluster.run(seconds(1));
    assert_eq!(cluster.messages(&dave), ["m-1"]);
}

#[test]
fn frames_that_make_no_sense_on_a_link_are_ignored_and_counted() {
    // covers B19
    let mut cluster = Cluster::meshed(&PAIR);
    let alice = cluster.register("agni", "alice");
    cluster.forget();
    // A node submits, an entrance forwards, a peer speaks of tomorrow, somebody answers nothing.
    cluster.inject("dc", "agni", Frame::Submit(SessionNo(1), head(&alice, "alice", "m-1"), Bytes::new()));
    cluster.inject("dc", "agni", Frame::Unknown(200));
    let forward = Forward {
        origin: node("dc"),
        incarnation: Incarnation(1),
        to: vec![Dest::live(node("dc"))],
        redelivered: false,
        unseen: false,
        age_ms: 0,
        hops_left: 9,
        head: head(&alice, "alice", "m-2"),
    };
    cluster.frame(&alice, Frame::Forward(forward, Bytes::new()));
    cluster.frame(&alice, Frame::Pong(99, 0));
    cluster.run(seconds(1));
    let ignored: Vec<&str> = cluster
        .events
        .iter()
        .filter_map(|(_, event)| match event {
            Event::Ignored(_, name) => Some(*name),
            _ => None,
        })
        .collect();
    assert_eq!(ignored, ["Submit", "Unknown", "Forward"]);
    assert!(cluster.messages(&alice).is_empty());
}

#[test]
fn a_message_that_its_senders_end_has_overtaken_is_still_delivered_but_not_for_long() {
    // covers T05, T06
    let mut cluster = Cluster::meshed(&PAIR);
    let (alice, bob) = (cluster.register("agni", "alice"), cluster.register("dc", "bob"));
    // The two travel in different lanes of the entrance's link.
    cluster.detach(&alice, true);
    cluster.submit(&alice, head(&alice, "bob", "m-1"));
    cluster.run(seconds(1));
    assert_eq!(cluster.messages(&bob), ["m-1"]);
    cluster.run(seconds(8));
    cluster.submit(&alice, head(&alice, "bob", "m-2"));
    cluster.run(seconds(1));
    assert_eq!(cluster.messages(&bob), ["m-1"], "a session that is long over says nothing");
}
