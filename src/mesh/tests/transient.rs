//! Agents that are there only as long as their sessions.

use super::cluster::*;
use super::durable::durable;
use crate::mesh::Record;
use crate::wire::close::Code;
use crate::wire::envelope::State;

/// Longer than an entrance is waited for.
const LATER: u64 = 65;

impl Cluster {
    fn transient(&mut self, name: &str, agent: &str) -> Client {
        let client = self.attach(name, agent, TRANSIENT);
        self.run(seconds(1));
        client
    }

    fn known(&self, name: &str) -> usize {
        self.mesh(name).snapshot().agents_known
    }
}

#[test]
fn an_agent_that_is_transient_is_forgotten_whoever_closes_its_session() {
    // covers T05, B19
    let mut cluster = Cluster::meshed(&["agni", "dc"]);
    let alice = cluster.register("agni", "alice");
    let brief = cluster.transient("dc", "u1.5f0c2a91");
    let shared = As { shared: true, ..TRANSIENT };
    let pool = [(); 2].map(|()| cluster.attach("dc", "pool", shared));
    let plain = cluster.register("dc", "bob");
    assert_eq!(cluster.home("agni", "u1.5f0c2a91"), Some(("dc".into(), true)));
    // Nobody asks for them to be forgotten: their server closes, a token ends, a client is lost.
    for client in [&brief, &pool[0], &plain] {
        cluster.detach(client, false);
    }
    cluster.run(seconds(1));
    assert_eq!(cluster.home("agni", "u1.5f0c2a91"), None);
    assert_eq!(cluster.home("agni", "pool"), Some(("dc".into(), true)), "with the last of its sessions");
    assert_eq!(cluster.home("agni", "bob"), Some(("dc".into(), false)));
    cluster.detach(&pool[1], false);
    cluster.run(seconds(1));
    assert_eq!((cluster.home("agni", "pool"), cluster.known("dc")), (None, 2));
    cluster.post(&alice, "u1.5f0c2a91", "m-1");
    assert_eq!(cluster.refusals(&alice), [Code::UnknownRecipient]);
    // Nor does the next start know it.
    cluster.restart("dc");
    cluster.run(seconds(1));
    assert_eq!(cluster.home("dc", "u1.5f0c2a91"), None);
}

#[test]
fn what_counts_is_what_an_agent_said_last() {
    // covers T05
    let mut cluster = Cluster::meshed(&["agni", "dc"]);
    let (one, other) = (cluster.transient("dc", "one"), cluster.register("dc", "other"));
    cluster.attach_again(&one, PLAIN);
    cluster.attach_again(&other, TRANSIENT);
    cluster.run(seconds(1));
    cluster.detach(&one, false);
    cluster.detach(&other, false);
    cluster.run(seconds(1));
    assert_eq!(cluster.home("agni", "one"), Some(("dc".into(), false)));
    assert_eq!(cluster.home("agni", "other"), None);
}

#[test]
fn one_that_is_registered_again_before_its_old_session_ends_goes_on() {
    // covers T05
    let mut cluster = Cluster::meshed(&["agni", "dc"]);
    let alice = cluster.register("agni", "alice");
    let old = cluster.transient("dc", "brief");
    cluster.disk("dc", Disk::Hangs);
    let new = cluster.attach("dc", "brief", TRANSIENT);
    cluster.detach(&old, false);
    cluster.run(seconds(1));
    cluster.submit(&alice, durable(&alice, "brief", "m-1"));
    cluster.disk("dc", Disk::Works);
    cluster.release("dc");
    cluster.run(seconds(2));
    assert_eq!((cluster.refusals(&alice), cluster.messages(&new)), (vec![], vec!["m-1".into()]));
    cluster.restart("dc");
    assert_eq!(cluster.home("dc", "brief"), Some(("dc".into(), false)));
}

#[test]
fn one_whose_entrance_is_lost_is_waited_for_a_minute() {
    // covers T05, T09, B19
    let mut cluster = Cluster::meshed(&["agni", "dc"]);
    let alice = cluster.register("agni", "alice");
    let [gone, back, moved] = ["u1.1", "u1.2", "u1.3"].map(|name| cluster.transient("dc", name));
    for client in [&gone, &back, &moved] {
        cluster.entrance_gone(client);
    }
    cluster.run(seconds(1));
    for (to, id) in [("u1.1", "m-1"), ("u1.2", "m-2"), ("u1.3", "m-3")] {
        cluster.post(&alice, to, id);
    }
    assert_eq!(cluster.refusals(&alice), [], "it waits as for anybody who is away");
    // The entrance of two is there again: here, and at another node.
    let resumed = As { resumed: true, ..TRANSIENT };
    let back = cluster.attach("dc", back.agent.name.as_str(), resumed);
    let moved = cluster.attach("agni", moved.agent.name.as_str(), resumed);
    cluster.run(seconds(5));
    assert_eq!((cluster.messages(&back), cluster.messages(&moved)), (vec!["m-2".into()], vec!["m-3".into()]));
    assert_eq!(cluster.home("agni", "u1.1"), Some(("dc".into(), false)));
    cluster.run(seconds(LATER));
    let homes = ["u1.1", "u1.2", "u1.3"].map(|name| cluster.home("agni", name));
    assert_eq!(homes, [None, Some(("dc".into(), true)), Some(("agni".into(), true))]);
    // As after UNREGISTER, its sender is told.
    assert_eq!(cluster.states(&alice, "m-1").last(), Some(&State::Dead));
    let forgets = |record: &Record| matches!(record, Record::Forget(gone) if *gone == agent("u1.1"));
    cluster.restart("dc");
    assert_eq!(cluster.home("dc", "u1.1"), None);
    assert!(!cluster.records("dc").iter().any(forgets));
}

#[test]
fn a_node_that_was_restarted_waits_for_the_sessions_of_its_edge() {
    // covers T05, T09, B19
    let mut cluster = Cluster::meshed(&["agni", "dc"]);
    for name in ["u1.1", "u1.2", "bob"] {
        cluster.attach("dc", name, if name == "bob" { PLAIN } else { TRANSIENT });
    }
    cluster.run(seconds(1));
    cluster.restart("dc");
    cluster.connect("dc", "agni");
    cluster.run(seconds(2));
    let alice = cluster.register("agni", "alice");
    cluster.submit(&alice, durable(&alice, "u1.1", "m-1"));
    let back = cluster.attach("dc", "u1.1", As { resumed: true, ..TRANSIENT });
    cluster.run(seconds(1));
    assert_eq!((cluster.messages(&back), cluster.refusals(&alice)), (vec!["m-1".into()], vec![]));
    cluster.run(seconds(LATER));
    let homes = ["u1.1", "u1.2", "bob"].map(|name| cluster.home("agni", name));
    assert_eq!(homes, [Some(("dc".into(), true)), None, Some(("dc".into(), false))]);
}
