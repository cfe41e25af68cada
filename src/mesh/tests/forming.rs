//! Nodes find each other, lose each other, and go round what is broken.

use std::collections::BTreeSet;
use std::time::Duration;

use super::cluster::*;
use crate::mesh::{Config, Event, Input};
use crate::wire::close::LinkClose;
use crate::wire::envelope::{Class, Head};
use crate::wire::frame::Frame;
use crate::wire::ids::Incarnation;

const THREE: [&str; 3] = ["agni", "dc", "rushabdev"];

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn three_nodes_form_a_mesh() {
    // covers T01
    let cluster = Cluster::meshed(&THREE);
    for name in THREE {
        assert_eq!(cluster.reachable(name), names(&THREE), "from {name}");
        let view = cluster.mesh(name).snapshot();
        assert_eq!(view.nodes[0].node.as_str(), name, "this node comes first");
        assert_eq!(view.links.len(), 2);
        for link in view.links {
            assert_eq!(link.rtt_us, 20_000, "a round trip is twice the delay");
        }
    }
}

#[test]
fn a_node_that_only_dials_out_is_a_full_member() {
    // covers T01
    let mut cluster = Cluster::of(&THREE);
    cluster.connect("dc", "agni");
    cluster.connect("dc", "rushabdev");
    cluster.run(seconds(2));
    assert_eq!(cluster.reachable("agni"), names(&THREE), "through dc, which nobody can dial");
    assert_eq!(cluster.next_hop("agni", "rushabdev").as_deref(), Some("dc"));
    let links = cluster.mesh("dc").snapshot().links;
    assert!(links.iter().all(|link| link.dialled));
    let alice = cluster.register("agni", "alice");
    let bob = cluster.register("rushabdev", "bob");
    let carol = cluster.register("dc", "carol");
    cluster.send(&alice, "bob", "m-1");
    cluster.send(&alice, "carol", "m-2");
    assert_eq!((cluster.messages(&bob), cluster.messages(&carol)), (vec!["m-1".into()], vec!["m-2".into()]));
}

#[test]
fn ten_nodes_in_a_ring_all_reach_each_other_by_the_shorter_side() {
    // covers T01
    let ten: Vec<String> = (0..10).map(|i| format!("n{i}")).collect();
    let ten: Vec<&str> = ten.iter().map(String::as_str).collect();
    let mut cluster = Cluster::of(&ten);
    for i in 0..10 {
        cluster.connect(ten[i], ten[(i + 1) % 10]);
    }
    cluster.run(seconds(3));
    for name in &ten {
        assert_eq!(cluster.reachable(name), names(&ten), "from {name}");
    }
    assert_eq!(cluster.next_hop("n0", "n3").as_deref(), Some("n1"));
    assert_eq!(cluster.next_hop("n0", "n7").as_deref(), Some("n9"));
    cluster.cut("n0", "n1");
    cluster.run(seconds(1));
    assert_eq!(cluster.next_hop("n0", "n3").as_deref(), Some("n9"), "the long way round is the only one");
}

#[test]
fn a_cut_link_is_gone_round_and_its_return_is_used() {
    // covers T01, Q02
    let mut cluster = Cluster::meshed(&THREE);
    let (alice, bob) = (cluster.register("agni", "alice"), cluster.register("dc", "bob"));
    cluster.cut("agni", "dc");
    cluster.run(seconds(1));
    assert_eq!(cluster.next_hop("agni", "dc").as_deref(), Some("rushabdev"));
    cluster.forget();
    cluster.send(&alice, "bob", "m-1");
    assert_eq!(cluster.messages(&bob), ["m-1"]);
    let ways: Vec<_> = cluster.forwards().into_keys().collect();
    let way = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    assert_eq!(ways, [way("agni", "rushabdev"), way("rushabdev", "dc")]);

    cluster.connect("dc", "agni");
    cluster.run(seconds(2));
    cluster.forget();
    cluster.send(&alice, "bob", "m-2");
    assert_eq!(cluster.messages(&bob), ["m-2"]);
    assert_eq!(cluster.forwards().into_keys().collect::<Vec<_>>(), [way("agni", "dc")]);
}

#[test]
fn a_node_that_loses_every_link_is_unreachable_and_comes_back() {
    // covers T01, Q02
    let mut cluster = Cluster::meshed(&THREE);
    cluster.cut("dc", "agni");
    cluster.cut("dc", "rushabdev");
    cluster.run(seconds(1));
    assert_eq!(cluster.reachable("agni"), names(&["agni", "rushabdev"]));
    assert_eq!(cluster.reachable("dc"), names(&["dc"]));
    assert!(cluster.events.contains(&(node("agni"), Event::Unreachable(node("dc")))));
    cluster.connect("dc", "agni");
    cluster.run(seconds(2));
    assert_eq!(cluster.reachable("rushabdev"), names(&THREE));
    assert!(cluster.events.contains(&(node("rushabdev"), Event::Reachable(node("dc")))));
}

#[test]
fn of_two_connections_both_ends_keep_the_same() {
    // covers T01
    let wait = Duration::from_millis;
    // Whoever sees which of the two first.
    for (a1, b1, a2, b2) in [(0, 0, 5, 5), (5, 5, 0, 0), (0, 9, 5, 5), (9, 0, 5, 5), (0, 0, 0, 0)] {
        let mut cluster = Cluster::of(&["agni", "dc"]);
        let by_agni = cluster.connect_at("agni", "dc", wait(a1), wait(b1));
        let _by_dc = cluster.connect_at("dc", "agni", wait(b2), wait(a2));
        cluster.run(seconds(5));
        let links = |name| cluster.mesh(name).snapshot().links;
        let (agni, dc) = (links("agni"), links("dc"));
        assert_eq!((agni.len(), dc.len()), (1, 1), "one link is left at each end");
        assert_eq!((agni[0].link, dc[0].link), by_agni, "that which the smaller name dialled");
        assert!(cluster.closed.iter().all(|(_, _, code)| *code == LinkClose::Duplicate));
        assert_eq!(cluster.reachable("agni"), names(&["agni", "dc"]));
    }
}

#[test]
fn a_fallback_is_kept_only_as_long_as_there_is_nothing_better() {
    // covers T01, Q01
    let wait = Duration::from_millis;
    // Whoever dialled which, and whoever sees which first; the last column: who dialled the fallback and the other.
    for (fallback_by, better_by) in [("agni", "dc"), ("dc", "agni"), ("dc", "dc"), ("agni", "agni")] {
        for (first, second) in [(0, 0), (3, 9), (9, 3)] {
            let other = |name| if name == "dc" { "agni" } else { "dc" };
            let mut cluster = Cluster::of(&["agni", "dc"]);
            let before = fallback_by == better_by;
            cluster.connect_by(fallback_by, other(fallback_by), wait(first), wait(second), true);
            if before {
                // One after the other: who dials both has the first one when it dials the second.
                cluster.run(seconds(1));
            }
            let better = cluster.connect_by(better_by, other(better_by), wait(second), wait(first), false);
            cluster.run(seconds(5));
            for (name, kept) in [(better_by, better.0), (other(better_by), better.1)] {
                let links: Vec<_> =
                    cluster.mesh(name).snapshot().links.iter().map(|link| link.link).collect();
                assert_eq!(
                    links,
                    [kept],
                    "{name}: {fallback_by} dialled the fallback, {better_by} the other"
                );
            }
        }
    }
}

#[test]
fn who_dialled_a_link_may_replace_it_by_a_fallback() {
    // covers Q01
    let mut cluster = Cluster::of(&["agni", "dc"]);
    cluster.connect("dc", "agni");
    let (alice, bob) = (cluster.register("agni", "alice"), cluster.register("dc", "bob"));
    // Nothing gets through any more, and only dc has noticed.
    cluster.block("agni", "dc", true);
    let durable = |from, to, id| Head { class: Class::Durable, ..head(from, to, id) };
    cluster.submit(&alice, durable(&alice, "bob", "m-1"));
    cluster.submit(&bob, durable(&bob, "alice", "m-2"));
    let now = Duration::ZERO;
    let fallback = cluster.connect_by("dc", "agni", now, now, true);
    cluster.run(Duration::from_millis(200));
    assert_eq!((cluster.messages(&bob), cluster.messages(&alice)), (vec!["m-1".into()], vec!["m-2".into()]));
    cluster.run(seconds(5));
    let links = cluster.mesh("dc").snapshot().links;
    let links: Vec<_> = links.iter().filter(|l| l.peer == node("agni")).map(|link| link.link).collect();
    assert_eq!(links, [fallback.0]);
}

#[test]
fn when_the_kept_connection_turns_out_to_be_dead_the_retiring_one_is_used_again() {
    // covers Q01, Q02
    let mut cluster = Cluster::of(&["agni", "dc"]);
    let dead = cluster.connect("agni", "dc");
    cluster.run(seconds(1));
    // dc has noticed, and comes in by a fallback; agni still believes in what it dialled.
    cluster.input("dc", Input::LinkDown(dead.1));
    let now = Duration::ZERO;
    let fallback = cluster.connect_by("dc", "agni", now, now, true);
    cluster.run(Duration::from_millis(50));
    cluster.input("agni", Input::LinkDown(dead.0));
    cluster.run(seconds(5));
    for (name, kept) in [("agni", fallback.1), ("dc", fallback.0)] {
        let links: Vec<_> = cluster.mesh(name).snapshot().links.iter().map(|link| link.link).collect();
        assert_eq!(links, [kept], "{name}");
        assert_eq!(cluster.reachable(name), names(&["agni", "dc"]));
    }
    assert!(cluster.closed.is_empty(), "{:?}", cluster.closed);
}

#[test]
fn what_is_under_way_on_the_connection_that_is_not_kept_arrives() {
    // covers T06, Q02
    let wait = Duration::from_millis;
    let mut cluster = Cluster::of(&["agni", "dc"]);
    cluster.connect("dc", "agni");
    let (alice, bob) = (cluster.register("agni", "alice"), cluster.register("dc", "bob"));
    for n in 0..40 {
        if n == 15 {
            // Each sees it at another time.
            cluster.connect_at("agni", "dc", wait(2), wait(7));
        }
        cluster.submit(&alice, head(&alice, "bob", &format!("a-{n}")));
        cluster.submit(&bob, head(&bob, "alice", &format!("b-{n}")));
        cluster.run(wait(1));
    }
    cluster.run(seconds(5));
    let ids = |from: &str| (0..40).map(|n| format!("{from}-{n}")).collect::<Vec<_>>();
    assert_eq!((cluster.messages(&bob), cluster.messages(&alice)), (ids("a"), ids("b")));
    assert_eq!(
        cluster.mesh("agni").snapshot().links.iter().filter(|link| link.peer == node("dc")).count(),
        1
    );
}

#[test]
fn a_second_connection_of_the_same_dialler_replaces_the_first() {
    // covers T01, Q03
    let mut cluster = Cluster::of(&["agni", "dc"]);
    cluster.connect("dc", "agni");
    cluster.run(seconds(1));
    // dc has a new address; agni has not noticed that the old link is dead.
    let new = cluster.connect("dc", "agni");
    cluster.run(seconds(5));
    let links = |name| cluster.mesh(name).snapshot().links;
    assert_eq!((links("dc")[0].link, links("agni")[0].link), new);
    assert_eq!((links("dc").len(), links("agni").len()), (1, 1));
}

#[test]
fn silence_closes_a_link_and_traffic_goes_round() {
    // covers T05, Q02
    let mut cluster = Cluster::meshed(&THREE);
    cluster.block("agni", "dc", true);
    cluster.run(seconds(2));
    assert!(cluster.closed.is_empty(), "two seconds of silence are borne");
    cluster.run(seconds(3));
    let mut closed: Vec<_> = cluster.closed.iter().map(|(name, _, code)| (name.as_str(), *code)).collect();
    closed.sort_by_key(|(name, _)| *name);
    assert_eq!(closed, [("agni", LinkClose::Silent), ("dc", LinkClose::Silent)]);
    assert_eq!(cluster.next_hop("agni", "dc").as_deref(), Some("rushabdev"));
}

#[test]
fn a_link_that_speaks_is_never_silent() {
    // covers T05
    let mut cluster = Cluster::meshed(&THREE);
    cluster.run(seconds(120));
    assert!(cluster.closed.is_empty());
    let states = cluster.sent.iter().filter(|sent| matches!(sent.frame, Frame::LinkState(_))).count();
    assert_eq!(states, 0, "nothing changes, nothing is announced");
}

#[test]
fn a_link_costs_the_least_of_its_latest_round_trips() {
    // covers T01, Q02
    let slow = Duration::from_millis(400);
    let mut cluster = Cluster::meshed(&THREE);
    let announced = |cluster: &Cluster| {
        cluster.sent.iter().filter(|sent| matches!(sent.frame, Frame::LinkState(_))).count()
    };
    // The pongs of one heartbeat wait somewhere.
    cluster.delay("agni", "dc", slow);
    cluster.run(slow + DELAY);
    cluster.delay("agni", "dc", DELAY);
    for (from, to) in [("agni", "dc"), ("dc", "agni")] {
        let links = cluster.mesh(from).snapshot().links;
        let link = links.iter().find(|link| link.peer == node(to)).unwrap();
        assert_eq!(link.rtt_us, (7 * 20_000 + 410_000) / 8, "{from} has measured it");
    }
    for _ in 0..20 {
        cluster.run(seconds(1));
        assert_eq!(cluster.next_hop("agni", "dc").as_deref(), Some("dc"));
        assert_eq!(cluster.next_hop("dc", "agni").as_deref(), Some("agni"));
    }
    assert_eq!(announced(&cluster), 0, "one slow measurement changes nothing");

    // A link that stays slow is gone round when no better measurement is left: seven seconds are too few.
    cluster.delay("agni", "dc", slow);
    cluster.run(seconds(7));
    assert_eq!((announced(&cluster), cluster.next_hop("agni", "dc").as_deref()), (0, Some("dc")));
    cluster.run(seconds(5));
    assert!(announced(&cluster) > 0);
    assert_eq!(cluster.next_hop("agni", "dc").as_deref(), Some("rushabdev"));
    assert!(cluster.closed.is_empty());
    // And one good measurement is enough to come back.
    cluster.delay("agni", "dc", DELAY);
    cluster.run(seconds(3));
    assert_eq!(cluster.next_hop("agni", "dc").as_deref(), Some("dc"));
}

#[test]
fn a_goodbye_moves_traffic_while_the_link_still_carries() {
    // covers Q02
    let mut cluster = Cluster::meshed(&THREE);
    let (alice, bob) = (cluster.register("agni", "alice"), cluster.register("dc", "bob"));
    cluster.cut("agni", "dc");
    cluster.run(seconds(1));
    assert_eq!(cluster.next_hop("agni", "dc").as_deref(), Some("rushabdev"));
    cluster.connect("dc", "agni");
    cluster.run(seconds(2));
    cluster.input("rushabdev", Input::Stop(1000));
    // What rushabdev was given before still passes through it.
    cluster.send(&alice, "bob", "m-1");
    assert_eq!(cluster.messages(&bob), ["m-1"]);
    assert_eq!(cluster.reachable("agni"), names(&["agni", "dc"]), "no way leads over a node that leaves");
    assert_eq!(cluster.mesh("agni").snapshot().links.len(), 2 + 1, "the link is still there");
}

#[test]
fn a_missed_announcement_is_caught_up_with() {
    // covers T01
    let mut cluster = Cluster::of(&["agni", "dc"]);
    cluster.connect("dc", "agni");
    cluster.run(seconds(2));
    cluster.lost = |frame| matches!(frame, Frame::Agents(_));
    cluster.register("dc", "bob");
    cluster.lost = |_| false;
    assert_eq!(cluster.home("agni", "bob"), None, "the announcement was lost");
    cluster.run(seconds(11));
    assert_eq!(cluster.home("agni", "bob"), Some(("dc".into(), true)));

    // The same with who links to whom: a third node comes, and agni is not told.
    cluster.start(Config::new(node("rushabdev"), Incarnation(1)), Vec::new());
    cluster.lost = |frame| matches!(frame, Frame::LinkState(_));
    cluster.connect("rushabdev", "dc");
    cluster.run(seconds(1));
    cluster.lost = |_| false;
    assert_eq!(cluster.reachable("agni"), names(&["agni", "dc"]));
    cluster.run(seconds(11));
    assert_eq!(cluster.reachable("agni"), names(&THREE));
}

#[test]
fn an_announcement_crosses_each_link_once() {
    // covers T06
    let mut cluster = Cluster::of(&["a", "b", "c", "d"]);
    for (x, y) in [("a", "b"), ("b", "c"), ("c", "d")] {
        cluster.connect(x, y);
    }
    cluster.run(seconds(2));
    cluster.forget();
    cluster.register("b", "bob");
    let ways = cluster.sent.iter().filter(|sent| matches!(sent.frame, Frame::Agents(_)));
    let mut ways: Vec<(&str, &str)> =
        ways.map(|sent| (sent.from.as_str(), sent.to.as_ref().unwrap().as_str())).collect();
    ways.sort_unstable();
    assert_eq!(ways, [("b", "a"), ("b", "c"), ("c", "d")], "and not back to where it came from");
}

#[test]
fn a_ping_that_found_no_room_is_sent_again_at_the_next_beat() {
    // covers T05
    let mut cluster = Cluster::of(&["agni", "dc"]);
    cluster.connect("dc", "agni");
    cluster.run(Duration::from_millis(1_900));
    // The queue is full for a moment, as in a burst.
    cluster.fill("agni", "dc");
    cluster.fill("dc", "agni");
    cluster.run(seconds(2));
    cluster.make_room();
    cluster.run(seconds(10));
    assert!(cluster.closed.is_empty(), "{:?}", cluster.closed);
}

#[test]
fn a_change_after_a_missed_one_fetches_the_whole_list_at_once() {
    // covers T01
    let mut cluster = Cluster::of(&["agni", "dc"]);
    cluster.connect("dc", "agni");
    cluster.run(seconds(2));
    cluster.lost = |frame| matches!(frame, Frame::Agents(_));
    cluster.register("dc", "bob");
    cluster.lost = |_| false;
    cluster.register("dc", "carol");
    assert_eq!(cluster.home("agni", "bob"), Some(("dc".into(), true)));
    assert_eq!(cluster.home("agni", "carol"), Some(("dc".into(), true)));
}

#[test]
fn a_node_that_started_again_replaces_its_earlier_life() {
    // covers T01, Q02
    let mut cluster = Cluster::meshed(&THREE);
    cluster.register("dc", "bob");
    cluster.register("dc", "carol");
    assert_eq!(cluster.home("agni", "bob"), Some(("dc".into(), true)));
    let bob = crate::wire::frame::AgentState {
        agent: agent("bob"),
        presence: crate::wire::frame::Presence::Online,
        registered_ms: 1_000_000_000_001,
        shared: false,
        capabilities: Vec::new(),
    };
    // Killed and started again at once: the others still hold its old links. It remembers bob only.
    cluster.start(Config::new(node("dc"), Incarnation(2)), vec![bob]);
    cluster.connect("dc", "agni");
    cluster.run(seconds(1));
    let superseded = cluster
        .closed
        .iter()
        .filter(|(name, _, code)| name.as_str() == "agni" && *code == LinkClose::Superseded);
    assert_eq!(superseded.count(), 1);
    for name in ["agni", "rushabdev"] {
        let view = cluster.mesh(name).snapshot();
        let dc = view.nodes.iter().find(|view| view.node == node("dc")).unwrap();
        assert_eq!((dc.incarnation, dc.reachable), (Incarnation(2), true), "seen from {name}");
        assert_eq!(cluster.home(name, "bob"), Some(("dc".into(), false)), "known, and away until it is back");
        assert_eq!(cluster.home(name, "carol"), None, "what the new life does not know is gone");
    }
    let dave = cluster.register("dc", "dave");
    let alice = cluster.register("rushabdev", "alice");
    cluster.send(&alice, "dave", "m-1");
    assert_eq!(cluster.messages(&dave), ["m-1"]);
}

#[test]
fn a_late_connection_of_an_earlier_life_is_closed() {
    // covers T01
    let mut cluster = Cluster::of(&["agni", "dc"]);
    let late = Duration::from_millis(500);
    let old = cluster.connect_at("dc", "agni", late, late);
    cluster.start(Config::new(node("dc"), Incarnation(2)), Vec::new());
    let new = cluster.connect("dc", "agni");
    cluster.run(seconds(1));
    let links = cluster.mesh("agni").snapshot().links;
    assert_eq!(links.iter().map(|link| link.link).collect::<Vec<_>>(), [new.1]);
    assert!(cluster.closed.contains(&(node("agni"), old.1, LinkClose::Superseded)));
}

#[test]
fn a_node_of_the_same_name_is_turned_away() {
    // covers B19
    let mut cluster = Cluster::of(&["dc"]);
    cluster.connect("dc", "dc");
    cluster.run(seconds(1));
    assert!(cluster.mesh("dc").snapshot().links.is_empty());
    assert!(cluster.events.iter().any(|(_, event)| matches!(event, Event::NameClash(_))));
}

#[test]
fn a_revocation_list_reaches_every_node_and_entrance_once() {
    // covers T24
    let mut cluster = Cluster::meshed(&THREE);
    let entrance = cluster.register("rushabdev", "alice");
    cluster.forget();
    cluster.input("agni", Input::Revocations(3, bytes::Bytes::from_static(b"list 3"), Default::default()));
    cluster.run(seconds(1));
    for name in THREE {
        assert_eq!(cluster.mesh(name).snapshot().revocation_list, 3);
    }
    let to_entrances = cluster.sent.iter().filter(|sent| sent.to.is_none());
    assert_eq!(to_entrances.filter(|sent| matches!(sent.frame, Frame::Revocations(3, _))).count(), 1);
    cluster.forget();
    cluster.inject("agni", "dc", Frame::Revocations(2, bytes::Bytes::from_static(b"list 2")));
    cluster.run(seconds(1));
    assert_eq!(cluster.mesh("agni").snapshot().revocation_list, 3, "never back to an older one");
    // Who comes later gets it too.
    let late = cluster.entrance(entrance.node.as_str());
    let got = cluster.sent.last().unwrap();
    assert!(matches!(got.frame, Frame::Ping(_)) && late.0 > 0);
    assert!(
        cluster.sent.iter().any(|sent| sent.to.is_none() && matches!(sent.frame, Frame::Revocations(3, _)))
    );
}
