//! What one namespace may take of a node, and what messages may make of it.

use super::cluster::*;
use super::durable::durable;
use super::limits::{limited, reason};
use crate::mesh::{Config, Limits};
use crate::wire::close::Code;
use crate::wire::envelope::{Head, State, Target};
use crate::wire::frame::Presence;
use crate::wire::ids::{Incarnation, Namespace};

fn create(from: &Client, to: &str, id: &str) -> Head {
    Head { create: true, ..durable(from, to, id) }
}

#[test]
fn messages_make_no_more_agents_than_a_namespace_may_have() {
    // covers Q06, B19
    let limits = Limits { created_agents: 3, ..Limits::default() };
    let mut cluster = limited(&["dc"], &limits);
    let (alice, bob) = (cluster.register("dc", "alice"), cluster.register("dc", "akosha/bob"));
    for n in 0..5 {
        cluster.submit(&alice, create(&alice, &format!("nobody-{n}"), &format!("m-{n}")));
    }
    cluster.run(seconds(1));
    assert_eq!(cluster.refusals(&alice), [Code::Unavailable; 2]);
    let why = reason(&cluster, &alice);
    assert!(why.contains("namespace trishula has 3") && why.contains("created_agents"), "{why}");
    // Those that are there get more, other namespaces theirs, and whoever registers is not counted any more.
    cluster.submit(&alice, create(&alice, "nobody-0", "m-5"));
    cluster.submit(&bob, create(&bob, "akosha/nobody", "m-6"));
    let nobody = cluster.register("dc", "nobody-0");
    cluster.detach(&nobody, false);
    cluster.run(seconds(1));
    cluster.submit(&alice, create(&alice, "nobody-6", "m-7"));
    cluster.run(seconds(1));
    assert_eq!((cluster.refusals(&alice).len(), cluster.refusals(&bob).len()), (2, 0));
    // As before after a restart.
    let memory = cluster.backup("dc").1;
    cluster.restart("dc");
    assert_eq!(memory.agents.len(), 7);
    let alice = cluster.register("dc", "alice");
    cluster.submit(&alice, create(&alice, "nobody-7", "m-8"));
    cluster.run(seconds(1));
    assert_eq!(cluster.refusals(&alice), [Code::Unavailable]);
}

#[test]
fn an_agent_that_a_message_has_made_is_forgotten_with_its_last_message() {
    // covers Q04, Q06
    let mut cluster = Cluster::meshed(&["agni", "dc"]);
    let alice = cluster.register("dc", "alice");
    cluster.submit(&alice, Head { ttl_ms: Some(20_000), ..create(&alice, "nobody", "m-1") });
    cluster.submit(&alice, create(&alice, "somebody", "m-2"));
    cluster.run(seconds(15));
    assert_eq!(cluster.home("agni", "nobody"), Some(("dc".into(), false)));
    cluster.run(seconds(30));
    assert_eq!(cluster.home("agni", "nobody"), None);
    assert_eq!(cluster.home("agni", "somebody"), Some(("dc".into(), false)), "something waits for it");
    let somebody = cluster.register("agni", "somebody");
    cluster.run(seconds(30));
    assert_eq!(cluster.messages(&somebody), ["m-2"]);
    assert_eq!(cluster.home("dc", "somebody"), Some(("agni".into(), true)));
}

#[test]
fn half_of_a_node_is_kept_for_those_who_register() {
    // covers Q06, B19
    let limits = Limits { created_agents: 20_000, ..Limits::default() };
    let mut cluster = limited(&["dc"], &limits);
    let alice = cluster.register("dc", "alice");
    for n in 0..10_010 {
        cluster.submit(&alice, create(&alice, &format!("nobody-{n}"), &format!("m-{n}")));
    }
    cluster.run(seconds(2));
    assert_eq!(cluster.refusals(&alice).len(), 10);
    assert!(reason(&cluster, &alice).contains("as many as a node may"));
    assert!(cluster.mesh("dc").snapshot().agents_known > 10_000);
    let bob = cluster.register("dc", "bob");
    assert!(cluster.attached(&bob));
}

#[test]
fn a_namespace_may_have_its_share_of_a_node_and_all_where_it_is_alone() {
    // covers Q06, B19
    for by_bytes in [false, true] {
        let wide = Limits::default();
        let limits = match by_bytes {
            false => Limits { node_messages: 24, ..wide },
            // A payload of this test has some 13 bytes.
            true => Limits { node_bytes: 24 * 13, ..wide },
        };
        let mut cluster = limited(&["dc"], &limits);
        let flood = |cluster: &mut Cluster, from: &Client, to: &str, word: &str| {
            let before = cluster.refusals(from).len();
            (10..40).for_each(|n| cluster.submit(from, durable(from, to, &format!("{word}{n}"))));
            cluster.run(seconds(2));
            30 - (cluster.refusals(from).len() - before)
        };
        let (alice, bob) = (cluster.register("dc", "alice"), cluster.register("dc", "akosha/bob"));
        cluster.away("dc", "sink");
        cluster.away("dc", "akosha/sink");
        let taken = flood(&mut cluster, &alice, "sink", "m");
        assert!((9..=11).contains(&taken), "{taken}");
        assert_eq!(cluster.refusals(&alice).last(), Some(&Code::Unavailable));
        let why = reason(&cluster, &alice);
        assert!(why.contains("of namespace trishula") && why.contains("namespace_percent"), "{why}");
        assert!(flood(&mut cluster, &bob, "akosha/sink", "m") >= 9, "the other one has as much");

        let mut alone = limited(&["dc"], &limits);
        let alice = alone.register("dc", "alice");
        alone.away("dc", "sink");
        let taken = flood(&mut alone, &alice, "sink", "m");
        assert!((19..=22).contains(&taken), "{taken}");
    }
}

#[test]
fn nothing_for_all_is_kept_for_a_connection_that_is_lost() {
    // covers Q04, T05
    let mut cluster = Cluster::of(&[]);
    cluster.start(Config::new(node("dc"), Incarnation(1)), Vec::new());
    let alice = cluster.register("dc", "alice");
    cluster.away("dc", "bob");
    let lost = cluster.attach("dc", "u1.5f0c2a91", TRANSIENT);
    cluster.run(seconds(1));
    cluster.entrance_gone(&lost);
    cluster.run(seconds(1));
    assert_eq!(cluster.mesh("dc").directory.own(&lost.agent).unwrap().presence, Presence::Away);
    let all = Target::Broadcast(Namespace::new("trishula").unwrap());
    cluster.submit(&alice, Head { to: all, receipt: Some(State::Accepted), ..durable(&alice, "bob", "m-1") });
    cluster.run(seconds(1));
    let items = |name: &str| cluster.mesh("dc").has_no_mail(&agent(name));
    assert_eq!((items("bob"), items("u1.5f0c2a91")), (false, true));
}
