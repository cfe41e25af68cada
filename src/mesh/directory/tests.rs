//! Lists of several nodes, in every order: homes, who is connected where, and what is missing.

use super::*;
use crate::wire::ids::AgentName;

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn agent(name: &str) -> AgentAddr {
    AgentAddr::new(Namespace::new("trishula").unwrap(), AgentName::new(name).unwrap())
}

fn state(name: &str, presence: Presence, registered_ms: u64) -> AgentState {
    AgentState { agent: agent(name), presence, registered_ms, shared: false, capabilities: Vec::new() }
}

fn news(origin: &str, base: Option<u64>, version: u64, agents: Vec<AgentState>) -> Agents {
    Agents { origin: node(origin), incarnation: Incarnation(1), base, version, agents }
}

#[test]
fn the_newest_registration_is_the_home_and_a_connected_one_wins() {
    // covers T05, T06
    let mut directory = Directory::new(node("dc"), Incarnation(1), Vec::new(), BTreeMap::new());
    directory.learn(news("agni", None, 1, vec![state("planner", Presence::Online, 10)]));
    directory.learn(news("rushabdev", None, 1, vec![state("planner", Presence::Away, 20)]));
    assert_eq!(directory.home(&agent("planner")).unwrap().0.as_str(), "agni");
    directory.learn(news("rushabdev", Some(1), 2, vec![state("planner", Presence::Online, 20)]));
    assert_eq!(directory.home(&agent("planner")).unwrap().0.as_str(), "rushabdev");
    directory.learn(news("rushabdev", Some(2), 3, vec![state("planner", Presence::Gone, 20)]));
    assert_eq!(directory.home(&agent("planner")).unwrap().0.as_str(), "agni");
}

#[test]
fn a_broadcast_knows_the_nodes_with_connected_agents_however_the_lists_change() {
    // covers T06
    let mut directory =
        Directory::new(node("dc"), Incarnation(1), vec![state("old", Presence::Away, 1)], BTreeMap::new());
    let with = |directory: &Directory| {
        let namespace = Namespace::new("trishula").unwrap();
        let nodes =
            directory.nodes_with(&namespace).map(|node| (node.to_string(), directory.online_at(node)));
        nodes.collect::<Vec<_>>()
    };
    let is = |nodes: &[(&str, usize)]| {
        nodes.iter().map(|(node, online)| ((*node).to_owned(), *online)).collect::<Vec<_>>()
    };
    assert_eq!(with(&directory), is(&[]), "an agent that is away is nobody to send to");
    let two = vec![state("a", Presence::Online, 1), state("b", Presence::Online, 1)];
    directory.learn(news("agni", None, 1, two.clone()));
    directory.change(state("old", Presence::Online, 2));
    assert_eq!(with(&directory), is(&[("agni", 2), ("dc", 1)]));
    directory.change(state("old", Presence::Online, 3));
    directory.learn(news("agni", Some(1), 2, vec![state("a", Presence::Away, 1)]));
    assert_eq!(with(&directory), is(&[("agni", 1), ("dc", 1)]), "registering again counts once");
    directory.learn(news("agni", Some(2), 3, vec![state("b", Presence::Gone, 1)]));
    assert_eq!(with(&directory), is(&[("dc", 1)]));
    directory.learn(news("agni", None, 4, two.clone()));
    directory.learn(news("agni", None, 5, two));
    assert_eq!(with(&directory), is(&[("agni", 2), ("dc", 1)]), "a whole list replaces the one before");
    directory.forget(&node("agni"));
    directory.change(state("old", Presence::Away, 4));
    assert_eq!(with(&directory), is(&[]));
}

#[test]
fn a_change_whose_base_is_missing_asks_for_the_whole_list() {
    // covers T01
    let mut directory = Directory::new(node("dc"), Incarnation(1), Vec::new(), BTreeMap::new());
    assert_eq!(directory.learn(news("agni", Some(4), 5, vec![])), Learned::Gap);
    let whole = news("agni", None, 5, vec![state("a", Presence::Online, 1)]);
    assert_eq!(directory.learn(whole.clone()), Learned::News(vec![agent("a")]));
    assert_eq!(directory.learn(whole), Learned::Old);
    let later = news("agni", None, 7, vec![state("b", Presence::Online, 1)]);
    assert_eq!(directory.learn(later), Learned::News(vec![agent("a"), agent("b")]));
    assert!(directory.home(&agent("a")).is_none(), "what the whole list lacks is gone");
}

#[test]
fn an_agent_that_came_back_has_been_away_only_since_it_left_again() {
    // covers T05
    let mut directory = Directory::new(node("dc"), Incarnation(1), Vec::new(), BTreeMap::new());
    let set = |directory: &mut Directory, presence| {
        directory.change(state("bob", presence, 1)).unwrap();
    };
    set(&mut directory, Presence::Away);
    assert!(directory.own_away_for(100, 0).is_empty());
    set(&mut directory, Presence::Online);
    assert!(directory.own_away_for(100, 200).is_empty(), "it is there");
    set(&mut directory, Presence::Away);
    // Said again, as when its capabilities change: it has not been there meanwhile.
    assert!(directory.own_away_for(100, 250).is_empty());
    set(&mut directory, Presence::Away);
    assert!(directory.own_away_for(100, 350).is_empty());
    assert_eq!(directory.own_away_for(100, 351), [agent("bob")]);
    set(&mut directory, Presence::Gone);
    assert!(directory.own_away_for(100, 900).is_empty(), "it is known no more");
}
