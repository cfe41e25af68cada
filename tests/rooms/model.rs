//! What was accepted and what readers got: the plain truth that the mesh is compared with.

use std::collections::{BTreeMap, BTreeSet};

use trishula::wire::ids::NodeName;
use trishula::wire::record::RoomMessage;
use trishula::wire::room::Position;

use crate::world::World;

#[derive(Debug, Default)]
pub struct Model {
    /// Publishes whose sender was told that they are accepted.
    pub accepted: BTreeSet<String>,
    /// Every place that a node gave to a publish: two, where its sender gave it to two nodes.
    pub places: BTreeMap<String, BTreeSet<(NodeName, Position)>>,
    meanings: BTreeMap<(NodeName, Position), String>,
    /// Who is there, as each entrance was told.
    pub members: BTreeMap<usize, BTreeSet<String>>,
    pub lapses: usize,
    /// How often a reader got a publish that had two places from both.
    pub twins: usize,
    pub read: usize,
    last: u64,
    pub broken: Option<String>,
}

impl Model {
    pub fn breaks(&mut self, why: String) {
        self.broken.get_or_insert(why);
    }

    pub fn next_id(&mut self) -> String {
        self.last += 1;
        format!("m{}", self.last)
    }

    /// A node has a publish in this place.
    pub fn kept(&mut self, message: &RoomMessage) {
        let (id, place) = (message.id.as_str().to_owned(), (message.origin.clone(), message.at));
        self.places.entry(id.clone()).or_default().insert(place.clone());
        let meant = self.meanings.entry(place.clone()).or_insert_with(|| id.clone());
        if *meant != id {
            let why = format!("{place:?} means {meant} and {id}");
            self.breaks(why);
        }
    }
}

impl World {
    /// What must hold when all is whole and quiet.
    pub fn check_rest(&mut self) {
        for client in &self.clients {
            if !client.is_done() {
                let why = format!("{} has publishes that nobody accepts", client.agent);
                return self.model.breaks(why);
            }
            for id in &self.model.accepted {
                let places = &self.model.places[id];
                let excused = places.iter().any(|(origin, at)| client.excused.covers(origin, *at));
                if !client.got.contains(id) && !excused {
                    let why = format!("{} never got {id}, and was not told: {places:?}", client.agent);
                    return self.model.breaks(why);
                }
            }
        }
        let expected = self.subscribers();
        if expected.len() != self.clients.len() {
            return self.model.breaks(format!("only {expected:?} have subscribed"));
        }
        for (gate, members) in &self.model.members {
            if *members != expected {
                let why = format!("gate {gate} was told that {members:?} are there");
                return self.model.breaks(why);
            }
        }
        let asked = self.gates.iter().filter(|gate| !gate.sessions.is_empty()).count();
        if self.model.members.len() != asked {
            let why = format!("only {:?} were told who is there", self.model.members.keys());
            self.model.breaks(why);
        }
    }
}
