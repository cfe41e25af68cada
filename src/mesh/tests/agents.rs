//! Agents: registered once that is on disk, taken over, shared, away, forgotten.

use std::time::Duration;

use super::cluster::*;
use crate::mesh::{Config, Record};
use crate::wire::close::Code;
use crate::wire::frame::{AgentState, Attach, Frame, Presence};
use crate::wire::ids::{Incarnation, Sequence, SessionNo};

const PAIR: [&str; 2] = ["agni", "dc"];
/// 30 days and a bit, in milliseconds.
const LONG_MS: u64 = 31 * 24 * 3600 * 1000;

fn announced(cluster: &Cluster) -> bool {
    cluster.sent.iter().any(|sent| matches!(sent.frame, Frame::Agents(_)))
}

#[test]
fn nothing_is_said_of_a_registration_before_it_is_on_disk() {
    // covers T05
    let mut cluster = Cluster::meshed(&PAIR);
    cluster.disk("dc", Disk::Hangs);
    let bob = cluster.attach("dc", "bob", PLAIN);
    cluster.run(seconds(3));
    assert!(!cluster.attached(&bob) && !announced(&cluster));
    assert_eq!(cluster.home("agni", "bob"), None);
    let alice = cluster.register("agni", "alice");
    cluster.send(&alice, "bob", "m-1");
    assert_eq!(cluster.refusals(&alice), [Code::UnknownRecipient]);
    // It may not send either: nobody could answer it.
    cluster.submit(&bob, head(&bob, "alice", "m-2"));
    cluster.run(seconds(1));
    assert_eq!(cluster.refusals(&bob), [Code::NotRegistered]);
    assert!(cluster.messages(&alice).is_empty());

    let is_bob = |record: &Record| matches!(record, Record::Agent(state) if state.agent == agent("bob"));
    assert_eq!(cluster.records("dc").iter().filter(|record| is_bob(record)).count(), 1);
    cluster.release("dc");
    cluster.run(seconds(1));
    assert!(cluster.attached(&bob));
    assert_eq!(cluster.home("agni", "bob"), Some(("dc".into(), true)));
    cluster.send(&alice, "bob", "m-3");
    assert_eq!(cluster.messages(&bob), ["m-3"]);
}

#[test]
fn a_disk_that_refuses_ends_the_session_with_the_reason() {
    // covers T05, B19
    let mut cluster = Cluster::meshed(&PAIR);
    cluster.disk("dc", Disk::Fails);
    let bob = cluster.register("dc", "bob");
    let refusal = cluster.evicted(&bob).unwrap();
    assert_eq!(refusal.code, Code::Unavailable);
    assert!(refusal.message.contains("disk full"), "{refusal}");
    assert!(!announced(&cluster) && !cluster.attached(&bob));
    assert_eq!(cluster.mesh("dc").snapshot().agents_known, 0);
    assert_eq!(cluster.mesh("dc").snapshot().links.iter().map(|link| link.sessions).max(), Some(0));
}

#[test]
fn a_session_that_ends_while_the_disk_writes_leaves_nobody_online() {
    // covers T05
    let mut cluster = Cluster::meshed(&PAIR);
    cluster.disk("dc", Disk::Hangs);
    let bob = cluster.attach("dc", "bob", PLAIN);
    cluster.detach(&bob, false);
    cluster.release("dc");
    cluster.run(seconds(1));
    assert_ne!(cluster.home("dc", "bob"), Some(("dc".into(), true)));
}

#[test]
fn of_two_sessions_that_register_at_two_nodes_at_once_the_newer_is_left() {
    // covers T05, T06
    let mut cluster = Cluster::meshed(&PAIR);
    let alice = cluster.register("dc", "alice");
    // That there is a newer one is heard while the older is being written.
    cluster.disk("dc", Disk::Hangs);
    let older = cluster.attach("dc", "bob", PLAIN);
    let newer = cluster.register("agni", "bob");
    cluster.release("dc");
    cluster.run(seconds(1));
    assert!(!cluster.attached(&older));
    assert_eq!(cluster.evicted(&older).unwrap().code, Code::TakenOver);
    assert!(cluster.attached(&newer) && cluster.evicted(&newer).is_none());
    for node in PAIR {
        assert_eq!(cluster.home(node, "bob"), Some(("agni".into(), true)));
        assert_eq!(cluster.mesh(node).directory.everywhere(&agent("bob")).count(), 1);
    }
    cluster.send(&alice, "bob", "m-1");
    assert_eq!((cluster.messages(&older), cluster.messages(&newer)), (vec![], vec!["m-1".to_owned()]));
    assert_eq!(cluster.records("dc"), [Record::Forget(agent("bob"))], "nor is it known after a restart");
}

#[test]
fn a_newer_session_takes_over_at_the_same_node() {
    // covers T05
    let mut cluster = Cluster::meshed(&PAIR);
    let (alice, old) = (cluster.register("agni", "alice"), cluster.register("dc", "bob"));
    let new = cluster.register("dc", "bob");
    assert_eq!(cluster.evicted(&old).unwrap().code, Code::TakenOver);
    assert!(cluster.evicted(&new).is_none());
    cluster.send(&alice, "bob", "m-1");
    assert_eq!((cluster.messages(&old), cluster.messages(&new)), (vec![], vec!["m-1".to_owned()]));
    // What the old one still says counts for nothing.
    cluster.submit(&old, head(&old, "alice", "m-2"));
    cluster.detach(&old, true);
    cluster.run(seconds(1));
    assert!(cluster.messages(&alice).is_empty());
    assert_eq!(cluster.home("agni", "bob"), Some(("dc".into(), true)));
}

#[test]
fn a_newer_session_takes_over_at_another_node() {
    // covers T05
    let mut cluster = Cluster::meshed(&["agni", "dc", "rushabdev"]);
    let (alice, old) = (cluster.register("rushabdev", "alice"), cluster.register("dc", "bob"));
    let new = cluster.register("agni", "bob");
    let refusal = cluster.evicted(&old).unwrap();
    assert_eq!(refusal.code, Code::TakenOver);
    assert!(refusal.message.contains("agni"), "{refusal}");
    for name in ["agni", "dc", "rushabdev"] {
        assert_eq!(cluster.home(name, "bob"), Some(("agni".into(), true)), "seen from {name}");
    }
    cluster.send(&alice, "bob", "m-1");
    assert_eq!((cluster.messages(&old), cluster.messages(&new)), (vec![], vec!["m-1".to_owned()]));
}

#[test]
fn the_newest_registration_wins_whatever_the_clocks_say() {
    // covers T05, T18
    let mut cluster = Cluster::meshed(&PAIR);
    let alice = cluster.register("agni", "alice");
    let old = cluster.register("dc", "bob");
    // The clock of agni's edge is an hour behind.
    let slow = As { registered_ms: Some(1_000_000_000_000 - 3_600_000), ..PLAIN };
    let new = cluster.attach("agni", "bob", slow);
    cluster.run(seconds(1));
    assert_eq!(cluster.evicted(&old).map(|refusal| refusal.code), Some(Code::TakenOver));
    assert_eq!(cluster.evicted(&new), None);
    cluster.send(&alice, "bob", "m-1");
    assert_eq!(cluster.messages(&new), ["m-1"]);
}

#[test]
fn an_entrance_that_comes_back_does_not_take_over_from_a_newer_session() {
    // covers T05, Q02
    let mut cluster = Cluster::meshed(&PAIR);
    let new = cluster.register("agni", "bob");
    let resumed = As { registered_ms: Some(1_000), resumed: true, ..PLAIN };
    let old = cluster.attach("dc", "bob", resumed);
    cluster.run(seconds(1));
    assert_eq!(cluster.evicted(&old).unwrap().code, Code::TakenOver);
    assert!(cluster.evicted(&new).is_none());
    assert_eq!(cluster.home("dc", "bob"), Some(("agni".into(), true)));
}

#[test]
fn two_that_registered_on_both_sides_of_a_cut_are_settled_when_it_heals() {
    // covers T05, Q02
    let mut cluster = Cluster::meshed(&PAIR);
    cluster.cut("agni", "dc");
    let old = cluster.register("agni", "bob");
    let new = cluster.register("dc", "bob");
    cluster.connect("dc", "agni");
    cluster.run(seconds(2));
    assert_eq!(cluster.evicted(&old).unwrap().code, Code::TakenOver);
    assert!(cluster.evicted(&new).is_none());
    for name in PAIR {
        assert_eq!(cluster.home(name, "bob"), Some(("dc".into(), true)), "seen from {name}");
    }
}

#[test]
fn a_shared_agents_sessions_take_turns() {
    // covers T05, T06
    let mut cluster = Cluster::meshed(&PAIR);
    let alice = cluster.register("agni", "alice");
    let pool: Vec<Client> = (0..3).map(|_| cluster.attach("dc", "pool", SHARED)).collect();
    cluster.run(seconds(1));
    assert!(pool.iter().all(|member| cluster.attached(member) && cluster.evicted(member).is_none()));
    for n in 0..9 {
        cluster.send(&alice, "pool", &format!("m-{n}"));
    }
    let shares: Vec<usize> = pool.iter().map(|member| cluster.messages(member).len()).collect();
    assert_eq!(shares, [3, 3, 3]);
    // One leaves: the agent stays, and the others share.
    cluster.detach(&pool[0], false);
    cluster.run(seconds(1));
    assert_eq!(cluster.home("agni", "pool"), Some(("dc".into(), true)));
    cluster.forget();
    for n in 0..4 {
        cluster.send(&alice, "pool", &format!("n-{n}"));
    }
    let shares: Vec<usize> = pool.iter().map(|member| cluster.messages(member).len()).collect();
    assert_eq!(shares, [0, 2, 2]);
}

#[test]
fn sessions_of_a_pool_at_another_node_stand_by_and_go_on_when_none_is_left_there() {
    // covers T05, T06
    let mut cluster = Cluster::meshed(&PAIR);
    let alice = cluster.register("agni", "alice");
    let first = cluster.attach("dc", "pool", SHARED);
    cluster.run(seconds(1));
    let newest = cluster.attach("agni", "pool", SHARED);
    cluster.run(seconds(1));
    assert!(cluster.evicted(&first).is_none());
    for n in 0..4 {
        cluster.send(&alice, "pool", &format!("m-{n}"));
    }
    assert_eq!([&first, &newest].map(|member| cluster.messages(member).len()), [0, 4]);
    cluster.detach(&newest, false);
    cluster.run(seconds(1));
    cluster.send(&alice, "pool", "n-0");
    assert_eq!([&first, &newest].map(|member| cluster.messages(member).len()), [1, 4]);
}

#[test]
fn shared_and_not_shared_take_over_from_each_other() {
    // covers T05
    let mut cluster = Cluster::meshed(&PAIR);
    let alone = cluster.register("dc", "bob");
    let pool: Vec<Client> = (0..2).map(|_| cluster.attach("dc", "bob", SHARED)).collect();
    cluster.run(seconds(1));
    assert_eq!(cluster.evicted(&alone).map(|refusal| refusal.code), Some(Code::TakenOver));
    assert!(pool.iter().all(|member| cluster.evicted(member).is_none()));
    let again = cluster.register("dc", "bob");
    assert!(pool.iter().all(|member| cluster.evicted(member).is_some()), "one that is not shared takes all");
    assert!(cluster.evicted(&again).is_none());
}

#[test]
fn a_session_that_registers_again_keeps_its_place_and_may_change_its_name() {
    // covers T05
    let mut cluster = Cluster::meshed(&PAIR);
    let (alice, mut bob) = (cluster.register("agni", "alice"), cluster.register("dc", "bob"));
    cluster.attach_again(&bob, PLAIN);
    cluster.send(&alice, "bob", "m-1");
    assert_eq!(cluster.messages(&bob), ["m-1"]);
    bob.agent = agent("robert");
    cluster.attach_again(&bob, PLAIN);
    cluster.run(seconds(1));
    assert_eq!(cluster.home("agni", "bob"), Some(("dc".into(), false)), "the earlier one stays known");
    cluster.send(&alice, "robert", "m-2");
    assert_eq!(cluster.messages(&bob), ["m-1", "m-2"]);
}

#[test]
fn an_entrance_that_is_lost_leaves_its_agents_away() {
    // covers T05, Q02
    let mut cluster = Cluster::meshed(&PAIR);
    let (alice, bob) = (cluster.register("agni", "alice"), cluster.register("dc", "bob"));
    cluster.entrance_gone(&bob);
    cluster.run(seconds(1));
    assert_eq!(cluster.home("agni", "bob"), Some(("dc".into(), false)));
    cluster.send(&alice, "bob", "m-1");
    assert_eq!(cluster.refusals(&alice), [Code::RecipientOffline]);
    // It comes back, as the same registration.
    let resumed = As { registered_ms: Some(cluster.wall_ms()), resumed: true, ..PLAIN };
    let again = cluster.attach("dc", "bob", resumed);
    cluster.run(seconds(1));
    cluster.send(&alice, "bob", "m-2");
    assert_eq!(cluster.messages(&again), ["m-2"]);
}

#[test]
fn to_unregister_is_to_be_forgotten_on_disk_and_everywhere() {
    // covers T05
    let mut cluster = Cluster::meshed(&PAIR);
    let (alice, bob) = (cluster.register("agni", "alice"), cluster.register("dc", "bob"));
    cluster.disk("dc", Disk::Hangs);
    cluster.detach(&bob, true);
    cluster.run(seconds(1));
    assert_eq!(cluster.records("dc"), [Record::Forget(agent("bob"))]);
    assert_eq!(cluster.home("agni", "bob"), None);
    cluster.send(&alice, "bob", "m-1");
    assert_eq!(cluster.refusals(&alice), [Code::UnknownRecipient]);
}

#[test]
fn an_agent_of_an_unreachable_node_is_shown_as_away() {
    // covers T05, Q02
    let mut cluster = Cluster::meshed(&PAIR);
    let alice = cluster.register("agni", "alice");
    cluster.register("dc", "bob");
    let other = crate::wire::ids::Namespace::new("akosha").unwrap();
    cluster.frame(&alice, Frame::AskAgents(alice.session, Sequence(7)));
    cluster.cut("agni", "dc");
    cluster.run(seconds(1));
    cluster.frame(&alice, Frame::AskAgents(alice.session, Sequence(8)));
    let got = cluster.got(&alice).into_iter();
    let lists: Vec<_> = got
        .filter_map(|frame| match frame {
            Frame::AgentList(_, number, list) => Some((number.0, list.clone())),
            _ => None,
        })
        .collect();
    let bob = |list: &[(AgentState, _)]| {
        list.iter().find(|(state, _)| state.agent == agent("bob")).map(|(state, _)| state.presence)
    };
    assert_eq!(lists.len(), 2);
    assert_eq!((lists[0].0, bob(&lists[0].1)), (7, Some(Presence::Online)));
    assert_eq!((lists[1].0, bob(&lists[1].1)), (8, Some(Presence::Away)));
    assert!(cluster.mesh("agni").agents_seen(Some(&other)).is_empty(), "a namespace shows its own agents");
}

#[test]
fn an_agent_is_forgotten_thirty_days_after_it_was_there_not_after_it_registered() {
    // covers T05
    let mut cluster = Cluster::of(&["dc"]);
    let bob = cluster.register("dc", "bob");
    cluster.wall_jump_ms += LONG_MS;
    cluster.run(seconds(2));
    cluster.detach(&bob, false);
    cluster.run(seconds(2));
    assert_eq!(cluster.home("dc", "bob"), Some(("dc".into(), false)), "it left a moment ago");
    cluster.wall_jump_ms += LONG_MS;
    cluster.run(seconds(2));
    assert_eq!(cluster.home("dc", "bob"), None);
}

#[test]
fn agents_known_from_before_a_restart_are_not_forgotten_before_they_can_return() {
    // covers T05
    let mut cluster = Cluster::of(&[]);
    let bob = AgentState {
        agent: agent("bob"),
        presence: Presence::Online,
        registered_ms: cluster.wall_ms() - LONG_MS,
        shared: false,
        capabilities: Vec::new(),
    };
    cluster.start(Config::new(node("dc"), Incarnation(2)), vec![bob]);
    cluster.run(seconds(5));
    assert_eq!(cluster.home("dc", "bob"), Some(("dc".into(), false)));
    cluster.wall_jump_ms += LONG_MS;
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.home("dc", "bob"), None);
}

/// Registers an agent with as many and as long capabilities as there may be.
fn attach_large(cluster: &mut Cluster, at: &Client, n: u64) -> Client {
    let session = SessionNo(1_000_000 + n);
    let client = Client { session, agent: agent(&format!("{}-large-{n}", at.node)), ..at.clone() };
    let attach = Attach {
        session,
        agent: client.agent.clone(),
        capabilities: vec!["c".repeat(64); 64],
        shared: false,
        registered_ms: 1,
        resumed: false,
        window: 64,
        transient: false,
    };
    cluster.frame(&client, Frame::Attach(attach));
    client
}

#[test]
fn a_list_that_would_not_fit_into_a_frame_takes_no_more_agents() {
    // covers B19
    let mut cluster = Cluster::of(&PAIR);
    let first = cluster.register("dc", "first");
    let all: Vec<Client> = (0..1_200).map(|n| attach_large(&mut cluster, &first, n)).collect();
    cluster.run(seconds(1));
    let refused = all.iter().filter_map(|client| cluster.evicted(client));
    let (refused, codes): (Vec<_>, Vec<Code>) = refused.map(|refusal| (refusal, refusal.code)).unzip();
    assert!(refused.len() > 100 && refused.len() < 700, "{} of 1200 were refused", refused.len());
    assert!(codes.iter().all(|code| *code == Code::Unavailable));
    // The harness reads every frame as a peer does: one over the limit would end the test here.
    cluster.connect("dc", "agni");
    cluster.run(seconds(2));
    assert_eq!(cluster.mesh("agni").agents_online(), 1 + 1_200 - codes.len());
    // Room again when some are gone.
    for client in all.iter().take(50) {
        cluster.detach(client, true);
    }
    let again = attach_large(&mut cluster, &first, 9_999);
    cluster.run(seconds(1));
    assert!(cluster.attached(&again));
}

#[test]
fn a_list_for_a_client_is_cut_where_a_frame_ends() {
    // covers B19
    let mut cluster = Cluster::meshed(&["agni", "dc", "rushabdev"]);
    for name in ["agni", "dc", "rushabdev"] {
        let first = cluster.register(name, &format!("first-{name}"));
        (0..700).for_each(|n| drop(attach_large(&mut cluster, &first, n)));
    }
    cluster.run(seconds(2));
    let alice = cluster.register("dc", "alice");
    assert!(cluster.mesh("dc").agents_online() > 2_000);
    cluster.frame(&alice, Frame::AskAgents(alice.session, Sequence(7)));
    let list = cluster.got(&alice).into_iter().find_map(|frame| match frame {
        Frame::AgentList(_, _, list) => Some(list.len()),
        _ => None,
    });
    // More than a client's frame can hold, so that whoever writes that one sees that something is missing.
    assert!(list.is_some_and(|len| (400..1_000).contains(&len)), "{list:?}");
}

#[test]
fn every_registration_is_answered_also_one_that_was_taken_back() {
    // covers T05
    let mut cluster = Cluster::meshed(&["dc", "agni"]);
    cluster.disk("dc", Disk::Hangs);
    let client = cluster.attach("dc", "alice", PLAIN);
    cluster.detach(&client, true);
    cluster.attach_again(&client, PLAIN);
    cluster.release("dc");
    cluster.run(seconds(1));
    let answers = cluster.got(&client).into_iter().filter(|frame| matches!(frame, Frame::Attached(..)));
    assert_eq!(answers.count(), 2, "the entrance counts them");
    assert_eq!(cluster.home("agni", "trishula/alice"), Some(("dc".into(), true)));

    let brief = cluster.attach("dc", "bob", PLAIN);
    cluster.detach(&brief, false);
    cluster.release("dc");
    let forgets = |record: &Record| matches!(record, Record::Forget(gone) if *gone == agent("bob"));
    assert!(cluster.records("dc").iter().any(forgets), "nobody was registered: nothing may be left of it");
}
