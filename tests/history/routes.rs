//! Whether the ways of all nodes lead somewhere: from each to each other one, step by step, as messages go.

use std::collections::BTreeMap;

use trishula::mesh::Role;
use trishula::wire::frame::MAX_HOPS;
use trishula::wire::ids::NodeName;

use crate::world::World;

/// Of one node: the neighbour that each other node's messages go to, and its neighbours.
struct Ways {
    next: BTreeMap<NodeName, NodeName>,
    neighbours: Vec<NodeName>,
}

impl World {
    /// A way that goes in a circle, is too long, ends on the way or takes a link that is not there.
    pub fn way_astray(&self) -> Option<String> {
        let mut ways = BTreeMap::new();
        for machine in &self.machines {
            ways.insert(&machine.name, ways_of(machine.mesh.as_ref()?));
        }
        let names = || self.machines.iter().map(|machine| &machine.name);
        names().find_map(|from| {
            let others = names().filter(|to| *to != from);
            others.filter_map(|to| follow(&ways, from, to).err()).next()
        })
    }
}

fn ways_of(mesh: &trishula::mesh::Mesh) -> Ways {
    let snapshot = mesh.snapshot();
    let next = snapshot.nodes.into_iter().filter_map(|node| Some((node.node, node.next_hop?))).collect();
    let links = snapshot.links.into_iter().filter(|link| link.role == Role::Node);
    Ways { next, neighbours: links.map(|link| link.peer).collect() }
}

/// Goes from one node to another; answers how it failed.
fn follow(ways: &BTreeMap<&NodeName, Ways>, from: &NodeName, to: &NodeName) -> Result<(), String> {
    let mut way = vec![from];
    while let Some(here) = way.last().copied().filter(|here| *here != to) {
        let shown = || way.iter().map(|node| node.as_str()).collect::<Vec<_>>().join(" > ");
        let Some(next) = ways.get(here).and_then(|known| known.next.get(to)) else {
            return Err(format!("the way to {to} ends: {}", shown()));
        };
        if way.contains(&next) {
            return Err(format!("the way to {to} goes in a circle: {} > {next}", shown()));
        }
        if way.len() > usize::from(MAX_HOPS) {
            return Err(format!("the way to {to} is longer than {MAX_HOPS} links: {}", shown()));
        }
        if !ways[here].neighbours.contains(next) {
            return Err(format!("the way to {to} takes a link that is not there: {} > {next}", shown()));
        }
        way.push(next);
    }
    Ok(())
}
