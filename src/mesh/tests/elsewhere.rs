//! Agents of other nodes: known again after a start, also while their node can't be reached.

use std::time::Duration;

use super::cluster::*;
use super::durable::{TRIO, durable};
use crate::mesh::directory::{Directory, Learned};
use crate::mesh::topology::MAX_NODES;
use crate::mesh::{Config, Input};
use crate::wire::close::Code;
use crate::wire::envelope::{Head, State};
use crate::wire::frame::{AgentState, Agents, Presence};
use crate::wire::ids::Incarnation;
use crate::wire::record::{Elsewhere, KnownNode, Memory, Record};

const DAY_MS: u64 = 24 * 3600 * 1000;

/// What a node has on disk of another one's agents.
fn kept(cluster: &Cluster, at: &str, of: &str) -> Vec<String> {
    let (_, memory) = cluster.backup(at);
    let known = memory.elsewhere.get(&node(of));
    known.map(|known| known.agents.keys().map(ToString::to_string).collect()).unwrap_or_default()
}

#[test]
fn a_node_that_starts_cut_off_takes_messages_for_agents_it_knew() {
    // covers T05, Q02, Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let bob = cluster.register("agni", "bob");
    cluster.run(seconds(2));
    cluster.cut("dc", "agni");
    cluster.cut("dc", "rushabdev");
    cluster.restart("dc");
    cluster.run(seconds(1));
    assert_eq!(cluster.home("dc", "bob"), Some(("agni".into(), false)), "away until its node is heard");
    let alice = cluster.register("dc", "alice");
    cluster.post(&alice, "bob", "m-1");
    cluster.post(&alice, "nobody", "m-2");
    assert_eq!(cluster.states(&alice, "m-1"), [State::Accepted]);
    assert_eq!(cluster.refusals(&alice), [Code::UnknownRecipient]);
    assert_eq!(cluster.view("dc").outbox, 1);
    cluster.connect("dc", "agni");
    cluster.run(seconds(3));
    assert_eq!(cluster.home("dc", "bob"), Some(("agni".into(), true)));
    assert_eq!(cluster.handings(&bob).len(), 1);
    assert_eq!(cluster.states(&alice, "m-1"), [State::Accepted, State::Stored]);
}

#[test]
fn the_agents_of_a_node_whose_disk_was_lost_are_remembered_by_the_others() {
    // covers Q04, T05, T07
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    cluster.away("agni", "bob");
    cluster.run(seconds(3));
    cluster.cut("dc", "agni");
    cluster.cut("rushabdev", "agni");
    cluster.run(seconds(5));
    cluster.post(&alice, "bob", "m-1");
    cluster.submit(&alice, Head { copies: 2, ..durable(&alice, "bob", "m-2") });
    cluster.run(seconds(2));
    let config = Config::new(node("agni"), Incarnation(cluster.wall_ms()));
    cluster.start(config, Vec::new());
    for other in ["dc", "rushabdev"] {
        cluster.connect(other, "agni");
    }
    cluster.run(Duration::from_secs(300));
    for name in TRIO {
        assert_eq!(cluster.home(name, "bob"), Some(("agni".into(), false)), "at {name}");
    }
    cluster.post(&alice, "bob", "m-3");
    let bob = cluster.register("agni", "bob");
    cluster.run(seconds(10));
    let got: Vec<String> = cluster.handings(&bob).into_iter().map(|(id, _)| id).collect();
    assert_eq!(got, ["m-1", "m-2", "m-3"]);
    assert!(cluster.refusals(&alice).is_empty());
}

#[test]
fn who_hears_of_a_lost_disk_from_a_third_node_forgets_nobody_for_a_moment() {
    // covers Q04, T05
    let mut cluster = Cluster::meshed(&TRIO);
    cluster.away("agni", "bob");
    cluster.run(seconds(3));
    let config = Config::new(node("agni"), Incarnation(cluster.wall_ms()));
    cluster.start(config, Vec::new());
    cluster.connect("dc", "agni");
    for _ in 0..3_000 {
        cluster.run(Duration::from_millis(1));
        assert_eq!(cluster.home("rushabdev", "bob"), Some(("agni".into(), false)));
    }
}

#[test]
fn who_has_moved_since_has_one_home_when_a_disk_is_lost() {
    // covers Q04, T05
    let mut cluster = Cluster::meshed(&TRIO);
    cluster.away("agni", "bob");
    cluster.run(seconds(3));
    cluster.cut("dc", "agni");
    cluster.cut("rushabdev", "agni");
    cluster.run(seconds(5));
    cluster.register("dc", "bob");
    cluster.run(seconds(3));
    let config = Config::new(node("agni"), Incarnation(cluster.wall_ms()));
    cluster.start(config, Vec::new());
    cluster.connect("dc", "agni");
    cluster.run(seconds(30));
    for name in TRIO {
        assert_eq!(cluster.home(name, "bob"), Some(("dc".into(), true)), "at {name}");
        assert_eq!(cluster.homes(name, "bob"), 1, "at {name}");
    }
}

#[test]
fn a_lost_agent_called_like_a_connection_is_waited_for_as_any_other() {
    // covers Q04, T05
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    cluster.away("agni", "report.20261123");
    cluster.run(seconds(3));
    let config = Config::new(node("agni"), Incarnation(cluster.wall_ms()));
    cluster.start(config, Vec::new());
    cluster.connect("dc", "agni");
    cluster.run(seconds(3));
    cluster.post(&alice, "report.20261123", "m-1");
    cluster.run(Duration::from_secs(300));
    let report = cluster.register("agni", "report.20261123");
    assert_eq!(cluster.handings(&report).len(), 1);
}

#[test]
fn who_was_unregistered_is_not_remembered_when_a_disk_is_lost() {
    // covers T05
    let mut cluster = Cluster::meshed(&TRIO);
    cluster.away("agni", "bob");
    let carol = cluster.register("agni", "carol");
    cluster.run(seconds(3));
    cluster.detach(&carol, true);
    cluster.run(seconds(3));
    let config = Config::new(node("agni"), Incarnation(cluster.wall_ms()));
    cluster.start(config, Vec::new());
    cluster.connect("dc", "agni");
    cluster.run(seconds(30));
    assert_eq!(cluster.home("dc", "bob"), Some(("agni".into(), false)));
    assert_eq!((cluster.home("dc", "carol"), cluster.home("agni", "carol")), (None, None));
}

#[test]
fn what_waits_for_such_an_agent_waits_through_one_more_start() {
    // covers Q04
    let mut cluster = Cluster::meshed(&TRIO);
    cluster.away("agni", "bob");
    cluster.cut("dc", "agni");
    cluster.cut("dc", "rushabdev");
    for id in ["m-1", "m-2"] {
        cluster.restart("dc");
        let alice = cluster.register("dc", "alice");
        cluster.post(&alice, "bob", id);
        assert_eq!(cluster.states(&alice, id), [State::Accepted]);
        // Longer than a message waits whose recipient was known and is not any more.
        cluster.run(seconds(90));
    }
    cluster.connect("dc", "agni");
    cluster.run(seconds(3));
    let bob = cluster.register("agni", "bob");
    let got: Vec<String> = cluster.handings(&bob).into_iter().map(|(id, _)| id).collect();
    assert_eq!(got, ["m-1", "m-2"]);
}

#[test]
fn an_agent_that_unregistered_or_moved_is_known_where_it_is_and_nowhere_else() {
    // covers T05
    let mut cluster = Cluster::meshed(&TRIO);
    let bob = cluster.register("agni", "bob");
    let eve = cluster.register("agni", "eve");
    cluster.run(seconds(1));
    assert_eq!(kept(&cluster, "dc", "agni"), ["trishula/bob", "trishula/eve"]);
    cluster.detach(&eve, true);
    cluster.register("rushabdev", "bob");
    cluster.run(seconds(1));
    assert!(cluster.evicted(&bob).is_some());
    assert_eq!(kept(&cluster, "dc", "agni"), Vec::<String>::new());
    assert_eq!(kept(&cluster, "dc", "rushabdev"), ["trishula/bob"]);
    cluster.cut("dc", "agni");
    cluster.cut("dc", "rushabdev");
    cluster.restart("dc");
    assert_eq!(cluster.home("dc", "bob"), Some(("rushabdev".into(), false)));
    assert_eq!(cluster.home("dc", "eve"), None);
}

#[test]
fn only_what_its_node_says_counts_once_that_is_heard() {
    // covers T05
    let mut cluster = Cluster::meshed(&["agni", "dc"]);
    cluster.away("agni", "bob");
    cluster.cut("dc", "agni");
    // Its disk is lost.
    cluster.start(Config::new(node("agni"), Incarnation(9)), Vec::new());
    cluster.restart("dc");
    cluster.run(seconds(1));
    assert_eq!(cluster.home("dc", "bob"), Some(("agni".into(), false)));
    cluster.connect("dc", "agni");
    cluster.run(seconds(3));
    assert_eq!(cluster.home("dc", "bob"), None);
    assert_eq!(kept(&cluster, "dc", "agni"), Vec::<String>::new());
}

#[test]
fn an_old_list_from_disk_is_not_handed_on() {
    // covers T01, T05
    let mut cluster = Cluster::meshed(&TRIO);
    let bob = cluster.register("agni", "bob");
    cluster.run(seconds(1));
    for other in ["agni", "rushabdev"] {
        cluster.cut("dc", other);
    }
    cluster.detach(&bob, true);
    cluster.run(seconds(1));
    cluster.restart("dc");
    cluster.connect("dc", "rushabdev");
    cluster.run(seconds(15));
    for name in TRIO {
        assert_eq!(cluster.home(name, "bob"), None, "at {name}");
    }
}

#[test]
fn a_node_that_stays_away_for_thirty_days_is_forgotten_and_known_again_when_it_comes_back() {
    // covers T05
    let mut cluster = Cluster::meshed(&["agni", "dc"]);
    let bob = cluster.register("agni", "bob");
    cluster.run(seconds(2));
    cluster.cut("dc", "agni");
    cluster.restart("dc");
    cluster.wall_jump_ms += 29 * DAY_MS;
    cluster.run(seconds(4_000));
    assert_eq!(cluster.home("dc", "bob"), Some(("agni".into(), false)));
    cluster.wall_jump_ms += 2 * DAY_MS;
    cluster.run(seconds(2));
    assert_eq!((cluster.home("dc", "bob"), kept(&cluster, "dc", "agni").len()), (None, 0));
    // The same life of it, with the same list.
    cluster.connect("dc", "agni");
    cluster.run(seconds(15));
    assert_eq!(cluster.home("dc", "bob"), Some(("agni".into(), true)));
    assert_eq!(kept(&cluster, "dc", "agni"), ["trishula/bob"]);
    drop(bob);
}

#[test]
fn a_node_that_was_off_for_weeks_finds_its_links_before_it_forgets_anybody() {
    // covers Q03
    let mut cluster = Cluster::meshed(&["agni", "dc"]);
    cluster.register("agni", "bob");
    cluster.run(seconds(2));
    cluster.cut("dc", "agni");
    cluster.wall_jump_ms += 40 * DAY_MS;
    cluster.restart("dc");
    cluster.run(seconds(600));
    assert_eq!(cluster.home("dc", "bob"), Some(("agni".into(), false)));
    cluster.connect("dc", "agni");
    cluster.run(seconds(4_000));
    assert_eq!(cluster.home("dc", "bob"), Some(("agni".into(), true)));
}

#[test]
fn what_the_disk_refuses_is_written_later_and_presence_is_not_written_at_all() {
    // covers B19, T05
    let mut cluster = Cluster::meshed(&["agni", "dc"]);
    cluster.disk("dc", Disk::Fails);
    let bob = cluster.register("agni", "bob");
    cluster.run(seconds(3));
    assert_eq!(kept(&cluster, "dc", "agni").len(), 0);
    cluster.disk("dc", Disk::Works);
    cluster.run(seconds(2));
    assert_eq!(kept(&cluster, "dc", "agni"), ["trishula/bob"]);
    cluster.disk("dc", Disk::Hangs);
    cluster.detach(&bob, false);
    cluster.run(seconds(2));
    let about_agents = |record: &Record| matches!(record, Record::Elsewhere(_, Elsewhere::Agent(_)));
    assert!(!cluster.records("dc").iter().any(about_agents));
}

#[test]
fn a_revoked_nodes_agents_are_gone_from_the_disk() {
    // covers T24
    let mut cluster = Cluster::of(&["dc"]);
    let agni = Config { serial: "0a".into(), ..Config::new(node("agni"), Incarnation(1)) };
    cluster.start(agni, Vec::new());
    cluster.connect("dc", "agni");
    cluster.run(seconds(1));
    cluster.register("agni", "bob");
    cluster.run(seconds(1));
    assert_eq!(kept(&cluster, "dc", "agni").len(), 1);
    let list = Input::Revocations(1, bytes::Bytes::from_static(b"list"), ["0a".to_owned()].into());
    cluster.input("dc", list);
    cluster.run(Duration::from_millis(100));
    assert_eq!(kept(&cluster, "dc", "agni").len(), 0);
}

#[test]
fn a_new_node_has_room_beside_as_many_that_are_only_remembered() {
    // covers T01
    let known = |name: &str| {
        let state = AgentState {
            agent: agent(name),
            presence: Presence::Online,
            registered_ms: 1,
            shared: false,
            capabilities: Vec::new(),
        };
        KnownNode { heard_ms: 1, agents: [(state.agent.clone(), state)].into() }
    };
    let elsewhere =
        (0..2 * MAX_NODES).map(|n| (node(&format!("n{n:04}")), known(&format!("a{n}")))).collect();
    let memory = Memory { elsewhere, ..Memory::default() };
    let mut directory = Directory::new(node("dc"), Incarnation(1), memory.agents, memory.elsewhere);
    assert_eq!(directory.others().count(), MAX_NODES - 1);
    let new = known("new").agents.into_values().collect();
    let news =
        Agents { origin: node("new"), incarnation: Incarnation(1), base: None, version: 1, agents: new };
    assert_eq!(directory.learn(news), Learned::News(vec![agent("new")]));
    assert_eq!(directory.others().count(), MAX_NODES - 1);
    let gone = (node("n0000"), Elsewhere::Forget(agent("a0")));
    assert!(directory.to_write(9).contains(&gone), "and the disk forgets it");
}
