//! Questions from node to node.

use bytes::Bytes;

use super::cluster::*;
use crate::mesh::{AskFailed, Config};
use crate::wire::frame::{Frame, MAX_HOPS, Method, Reply};
use crate::wire::ids::{Incarnation, NodeName, Sequence};

/// agni – dc – rushabdev.
fn chain() -> Cluster {
    let mut cluster = Cluster::of(&[]);
    for name in ["agni", "dc", "rushabdev"] {
        let config = Config { holds_ca: name == "rushabdev", ..Config::new(node(name), Incarnation(1)) };
        cluster.start(config, Vec::new());
    }
    cluster.connect("dc", "agni");
    cluster.connect("dc", "rushabdev");
    cluster.run(seconds(2));
    cluster.forget();
    cluster
}

fn route(names: &[&str]) -> Vec<NodeName> {
    names.iter().map(|name| node(name)).collect()
}

#[test]
fn a_ping_tells_the_way_there_and_back() {
    // covers T01, Q02
    let mut cluster = chain();
    let asked = cluster.ask("agni", Some("rushabdev"), Method::Ping);
    cluster.run(seconds(1));
    let way = route(&["agni", "dc", "rushabdev", "dc", "agni"]);
    assert_eq!(cluster.answered[&asked], Ok((way, Bytes::from_static(b"body"))));
    let itself = cluster.ask("agni", Some("agni"), Method::Ping);
    cluster.run(seconds(1));
    assert_eq!(cluster.answered[&itself], Ok((route(&["agni"]), Bytes::from_static(b"body"))));
}

#[test]
fn a_call_that_nobody_answers_times_out() {
    // covers B19
    let mut cluster = chain();
    cluster.mute("rushabdev");
    let asked = cluster.ask("agni", Some("rushabdev"), Method::Status);
    cluster.run(seconds(4));
    assert_eq!(cluster.answered.get(&asked), None);
    cluster.run(seconds(2));
    assert_eq!(cluster.answered[&asked], Err(AskFailed::TimedOut(node("rushabdev"))));
}

#[test]
fn an_answer_that_comes_too_late_or_to_an_earlier_life_answers_nobody() {
    // covers B19
    let mut cluster = chain();
    cluster.mute("rushabdev");
    let (_, number) = cluster.ask("agni", Some("rushabdev"), Method::Ping);
    let reply = |incarnation| Reply {
        to: node("agni"),
        incarnation: Incarnation(incarnation),
        number,
        from: node("rushabdev"),
        ok: true,
        route: Vec::new(),
        hops_left: 3,
    };
    cluster.inject("agni", "dc", Frame::Reply(reply(0), Bytes::new()));
    assert!(cluster.answered.is_empty());
    cluster.run(seconds(6));
    assert_eq!(cluster.answered.len(), 1, "timed out");
    // The harness refuses a second answer to the same call.
    cluster.inject("agni", "dc", Frame::Reply(reply(1), Bytes::new()));
}

#[test]
fn the_holder_of_the_ca_is_found_without_its_name() {
    // covers Q07
    let mut cluster = chain();
    let asked = cluster.ask("agni", None, Method::Renew);
    cluster.run(seconds(1));
    let (way, _) = cluster.answered[&asked].clone().unwrap();
    assert_eq!(way[2], node("rushabdev"));
    cluster.cut("dc", "rushabdev");
    cluster.run(seconds(1));
    let asked = cluster.ask("agni", None, Method::Renew);
    assert_eq!(cluster.answered[&asked], Err(AskFailed::NoHolder));
}

#[test]
fn who_cannot_be_asked_is_said_at_once() {
    // covers B19
    let mut cluster = chain();
    let unknown = cluster.ask("agni", Some("nowhere"), Method::Ping);
    assert_eq!(cluster.answered[&unknown], Err(AskFailed::UnknownNode(node("nowhere"))));
    cluster.cut("dc", "rushabdev");
    cluster.run(seconds(1));
    let cut_off = cluster.ask("agni", Some("rushabdev"), Method::Ping);
    assert_eq!(cluster.answered[&cut_off], Err(AskFailed::NoRoute(node("rushabdev"))));
}

#[test]
fn a_node_on_the_way_that_knows_no_further_says_so() {
    // covers B19, Q02
    let mut cluster = chain();
    // agni does not know yet that the link behind dc is gone.
    cluster.lost = |frame| matches!(frame, Frame::LinkState(_));
    cluster.cut("dc", "rushabdev");
    cluster.run(std::time::Duration::from_millis(100));
    let asked = cluster.ask("agni", Some("rushabdev"), Method::Ping);
    cluster.run(seconds(1));
    let Err(AskFailed::Refused(by, why)) = &cluster.answered[&asked] else { panic!("it was answered") };
    assert_eq!(by, &node("dc"));
    assert!(why.contains("no way to rushabdev"), "{why}");
}

#[test]
fn a_call_in_circles_ends_with_an_answer() {
    // covers B19
    let mut cluster = chain();
    let many = vec![node("dc"); usize::from(MAX_HOPS)];
    let mut call = Cluster::call_of("agni", "rushabdev", many);
    call.number = Sequence(5);
    cluster.inject("dc", "agni", Frame::Call(call, Bytes::new()));
    cluster.run(seconds(1));
    let reply = cluster.sent.iter().find_map(|sent| match &sent.frame {
        Frame::Reply(reply, body) => Some((reply, body)),
        _ => None,
    });
    let (reply, body) = reply.expect("dc answers for the one it cannot reach");
    assert!(!reply.ok && reply.to == node("agni"));
    assert!(String::from_utf8_lossy(body).contains("16 nodes"), "{body:?}");
    assert!(!cluster.sent.iter().any(|sent| matches!(sent.frame, Frame::Call(..))), "it goes no further");
}

#[test]
fn calls_that_wait_are_bounded() {
    // covers B19
    let mut cluster = chain();
    cluster.mute("rushabdev");
    for _ in 0..1024 {
        cluster.ask("agni", Some("rushabdev"), Method::Ping);
    }
    assert!(cluster.answered.is_empty());
    let one_more = cluster.ask("agni", Some("rushabdev"), Method::Ping);
    assert_eq!(cluster.answered[&one_more], Err(AskFailed::Busy));
    cluster.run(seconds(6));
    let again = cluster.ask("agni", Some("dc"), Method::Ping);
    cluster.run(seconds(1));
    assert!(cluster.answered[&again].is_ok(), "room again after the time-outs");
}
