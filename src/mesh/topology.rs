//! Who links to whom, and the shortest way to everybody: link-state routing as in OSPF (RFC 2328), fine to
//! a hundred nodes. A link counts only when both of its ends announce it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::wire::frame::{Adjacency, LinkState};
use crate::wire::ids::{Incarnation, NodeName};

/// Nodes that are remembered; an announcement of one more is not taken.
pub const MAX_NODES: usize = 256;
/// Addresses that a node may announce, and the longest of their texts together, in bytes.
const MAX_ADDRESSES: usize = 64;
/// See [`MAX_ADDRESSES`].
const MAX_ADDRESS_BYTES: usize = 16 * 1024;
/// Longest serial number of a certificate, in hex digits (RFC 5280 section 4.1.2.2: 20 octets), and some more.
const MAX_SERIAL: usize = 64;

/// What a link costs besides its round trip, in microseconds: passing a message on is work, and a way round
/// must be shorter by more than the noise of measurements to be worth it.
const HOP_COST_US: u64 = 10_000;

/// The way to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The neighbour to send to.
    pub next: NodeName,
    /// Sum of the measured round trips and of `HOP_COST_US` a link, in microseconds.
    pub cost_us: u64,
    /// Sum of the measured round trips alone, in microseconds.
    pub rtt_us: u64,
    /// Links on the way.
    pub hops: u32,
}

/// Every node's latest announcement, and the routes that follow from them.
#[derive(Debug)]
pub struct Topology {
    me: NodeName,
    announced: BTreeMap<NodeName, LinkState>,
    routes: BTreeMap<NodeName, Route>,
    /// Serial numbers of revoked certificates; who has one is not believed any more.
    revoked: BTreeSet<String>,
    /// Nodes that were thrown out, in their last life that is known.
    expelled: BTreeMap<NodeName, Incarnation>,
    dirty: bool,
}

impl Topology {
    /// Knows only itself.
    pub fn new(own: LinkState) -> Topology {
        let me = own.origin.clone();
        let announced = BTreeMap::from([(me.clone(), own)]);
        Topology {
            me,
            announced,
            routes: BTreeMap::new(),
            revoked: BTreeSet::new(),
            expelled: BTreeMap::new(),
            dirty: true,
        }
    }

    /// Announces other links; answers the new announcement.
    pub fn announce(&mut self, links: Vec<Adjacency>) -> Option<LinkState> {
        let own = self.announced.get_mut(&self.me)?;
        own.links = links;
        own.version += 1;
        self.dirty = true;
        Some(own.clone())
    }

    /// Takes another node's announcement if it is newer; `false`: it was not, or there is no room.
    pub fn learn(&mut self, news: LinkState) -> bool {
        if news.origin == self.me || self.revoked.contains(&news.serial) || !keeps_bounds(&news) {
            return false;
        }
        match self.announced.get(&news.origin) {
            Some(old) if (old.incarnation, old.version) >= (news.incarnation, news.version) => return false,
            None if self.announced.len() >= MAX_NODES => return false,
            _ => {}
        }
        self.announced.insert(news.origin.clone(), news);
        self.dirty = true;
        true
    }

    /// Forgets the nodes whose certificates are on the list, this one excepted: it will hear it from others.
    pub fn expel(&mut self, serials: BTreeSet<String>) -> Vec<NodeName> {
        self.revoked = serials;
        let revoked = |state: &&LinkState| state.origin != self.me && self.revoked.contains(&state.serial);
        let gone: Vec<(NodeName, Incarnation)> = self
            .announced
            .values()
            .filter(revoked)
            .map(|state| (state.origin.clone(), state.incarnation))
            .collect();
        for (node, incarnation) in &gone {
            self.announced.remove(node);
            self.expelled.insert(node.clone(), *incarnation);
            self.dirty = true;
        }
        gone.into_iter().map(|(node, _)| node).collect()
    }

    /// Whether a node was thrown out in this life or a later one: with a new certificate comes a new life.
    pub fn is_expelled(&self, node: &NodeName, incarnation: Incarnation) -> bool {
        self.expelled.get(node).is_some_and(|last| incarnation <= *last)
    }

    /// The announcement of a node.
    pub fn announced(&self, node: &NodeName) -> Option<&LinkState> {
        self.announced.get(node)
    }

    /// Every announcement, by name.
    pub fn all(&self) -> impl Iterator<Item = &LinkState> {
        self.announced.values()
    }

    /// The way to a node; `None`: there is none now.
    pub fn route(&self, to: &NodeName) -> Option<&Route> {
        self.routes.get(to)
    }

    /// The nearest node that holds the CA, this one included.
    pub fn ca_holder(&self) -> Option<&NodeName> {
        let holders = self.announced.values().filter(|state| state.holds_ca).map(|state| &state.origin);
        holders
            .filter_map(|node| {
                let cost = if *node == self.me { 0 } else { self.routes.get(node)?.cost_us };
                Some((cost, node))
            })
            .min()
            .map(|(_, node)| node)
    }

    /// Whether something has changed since the routes were computed.
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Computes the routes again if something changed; answers who became reachable and who no longer is.
    pub fn refresh(&mut self) -> (Vec<NodeName>, Vec<NodeName>) {
        if !std::mem::take(&mut self.dirty) {
            return (Vec::new(), Vec::new());
        }
        let new = self.shortest_ways();
        let old = std::mem::replace(&mut self.routes, new);
        let was: BTreeSet<&NodeName> = old.keys().collect();
        let is: BTreeSet<&NodeName> = self.routes.keys().collect();
        let gained = is.difference(&was).map(|node| (*node).clone()).collect();
        let lost = was.difference(&is).map(|node| (*node).clone()).collect();
        (gained, lost)
    }

    /// Dijkstra over the links that both ends announce. Ties go to fewer hops, then to the smaller name, so
    /// that the same announcements give the same routes everywhere.
    fn shortest_ways(&self) -> BTreeMap<NodeName, Route> {
        let mut done: BTreeMap<NodeName, Route> = BTreeMap::new();
        let mut open = BinaryHeap::new();
        self.extend(&mut open, &self.me, None);
        while let Some(Reverse((cost_us, hops, node, next))) = open.pop() {
            if *node == self.me || done.contains_key(node) {
                continue;
            }
            let rtt_us = cost_us.saturating_sub(u64::from(hops) * HOP_COST_US);
            let route = Route { next: next.clone(), cost_us, rtt_us, hops };
            self.extend(&mut open, node, Some(&route));
            done.insert(node.clone(), route);
        }
        done
    }

    fn extend<'a>(&'a self, open: &mut BinaryHeap<Step<'a>>, from: &NodeName, route: Option<&Route>) {
        let Some(state) = self.announced.get(from) else { return };
        for link in &state.links {
            let Some(there) = self.announced.get(&link.peer) else { continue };
            let Some(back) = there.links.iter().find(|back| back.peer == *from) else { continue };
            // The slower of the two measurements: a one-sided one may be stale.
            let cost = u64::from(link.rtt_us.max(back.rtt_us)) + HOP_COST_US;
            let step = match route {
                None => (cost, 1, &there.origin, there.origin.clone()),
                Some(route) => (route.cost_us + cost, route.hops + 1, &there.origin, route.next.clone()),
            };
            open.push(Reverse(step));
        }
    }
}

/// Whether an announcement is one that a node of ours could make. The work on it grows with the square of its links.
fn keeps_bounds(news: &LinkState) -> bool {
    news.links.len() <= MAX_NODES
        && news.addresses.len() <= MAX_ADDRESSES
        && news.addresses.iter().map(String::len).sum::<usize>() <= MAX_ADDRESS_BYTES
        && news.serial.len() <= MAX_SERIAL
}

/// (cost, hops, node, first neighbour on the way).
type Step<'a> = Reverse<(u64, u32, &'a NodeName, NodeName)>;

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn state(name: &str, version: u64, links: &[(&str, u32)]) -> LinkState {
        LinkState {
            origin: node(name),
            incarnation: Incarnation(1),
            version,
            links: links
                .iter()
                .map(|(peer, rtt_us)| Adjacency { peer: node(peer), rtt_us: *rtt_us })
                .collect(),
            holds_ca: name == "dc",
            addresses: Vec::new(),
            serial: format!("serial of {name}"),
        }
    }

    #[test]
    fn the_way_round_is_taken_when_it_is_shorter_or_the_only_one() {
        // covers T01, Q02
        let mut topology = Topology::new(state("dc", 1, &[("agni", 50_000), ("rushabdev", 10_000)]));
        topology.learn(state("agni", 1, &[("dc", 50_000), ("rushabdev", 5_000)]));
        topology.learn(state("rushabdev", 1, &[("dc", 10_000), ("agni", 5_000)]));
        let (gained, lost) = topology.refresh();
        assert_eq!((gained.len(), lost.len()), (2, 0));
        let way = topology.route(&node("agni")).unwrap();
        assert_eq!((way.next.as_str(), way.rtt_us, way.hops), ("rushabdev", 15_000, 2));

        topology.learn(state("rushabdev", 2, &[("dc", 10_000)]));
        topology.refresh();
        assert_eq!(
            topology.route(&node("agni")).unwrap().next.as_str(),
            "agni",
            "only the direct way is left"
        );
    }

    #[test]
    fn a_link_that_one_end_denies_is_no_way() {
        // covers Q02
        let mut topology = Topology::new(state("dc", 1, &[("agni", 1_000)]));
        topology.learn(state("agni", 1, &[]));
        topology.refresh();
        assert_eq!(topology.route(&node("agni")), None);
    }

    #[test]
    fn old_news_changes_nothing_and_a_new_life_wins_over_any_version() {
        // covers T01
        let mut topology = Topology::new(state("dc", 1, &[]));
        assert!(topology.learn(state("agni", 7, &[])));
        assert!(!topology.learn(state("agni", 6, &[("dc", 1)])));
        let mut reborn = state("agni", 1, &[]);
        reborn.incarnation = Incarnation(2);
        assert!(topology.learn(reborn));
        let newest = topology.announced(&node("agni")).unwrap();
        assert_eq!((newest.incarnation, newest.version), (Incarnation(2), 1));
    }

    #[test]
    fn the_nearest_holder_of_the_ca_is_found() {
        // covers Q07
        let mut topology = Topology::new(state("agni", 1, &[("dc", 1_000)]));
        assert_eq!(topology.ca_holder(), None);
        topology.learn(state("dc", 1, &[("agni", 1_000)]));
        topology.refresh();
        assert_eq!(topology.ca_holder(), Some(&node("dc")));
    }

    #[test]
    fn a_node_whose_certificate_is_revoked_is_forgotten_and_stays_so() {
        // covers T24
        let mut topology = Topology::new(state("dc", 1, &[("agni", 1_000)]));
        topology.learn(state("agni", 1, &[("dc", 1_000)]));
        topology.refresh();
        let revoked = BTreeSet::from(["serial of agni".to_owned(), "serial of dc".to_owned()]);
        assert_eq!(topology.expel(revoked), vec![node("agni")]);
        assert_eq!(topology.refresh().1, vec![node("agni")]);
        assert!(!topology.learn(state("agni", 9, &[("dc", 1_000)])), "others may still pass on what it said");
        assert!(topology.is_expelled(&node("agni"), Incarnation(1)));
        let mut again = state("agni", 1, &[("dc", 1_000)]);
        (again.incarnation, again.serial) = (Incarnation(2), "another".into());
        assert!(topology.learn(again), "it may join again with a new certificate");
    }

    #[test]
    fn a_way_round_that_is_hardly_shorter_is_not_taken() {
        // covers Q02
        let mut topology = Topology::new(state("dc", 1, &[("agni", 4_000), ("rushabdev", 500)]));
        topology.learn(state("agni", 1, &[("dc", 4_000), ("rushabdev", 500)]));
        topology.learn(state("rushabdev", 1, &[("dc", 500), ("agni", 500)]));
        topology.refresh();
        assert_eq!(topology.route(&node("agni")).unwrap().next.as_str(), "agni");
    }
}
