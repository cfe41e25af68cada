//! Announcements: passed on to every other neighbour when they are news, and caught up with by comparing
//! what both ends of a link have, when it comes up and every ten seconds.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::directory::Learned;
use super::topology::MAX_NODES;
use super::{Mesh, Output};
use crate::wire::frame::{AgentState, Agents, Frame, Known, LinkState, Presence, Remembers};
use crate::wire::ids::{LinkId, NodeName};
use crate::wire::record::Record;

impl Mesh {
    /// Sends a frame to every neighbour but the one it came from.
    pub(super) fn flood(&mut self, frame: &Frame, except: Option<LinkId>) {
        let links: Vec<LinkId> = self.neighbours.values().copied().filter(|id| Some(*id) != except).collect();
        for link in links {
            self.send(link, frame.clone());
        }
    }

    pub(super) fn link_state(&mut self, from: LinkId, news: LinkState) {
        if self.topology.learn(news.clone()) {
            self.flood(&Frame::LinkState(news), Some(from));
        }
    }

    pub(super) fn agents(&mut self, from: LinkId, news: Agents) {
        if news.origin == self.config.node {
            return self.remember_again(news);
        }
        // A list can come before its node's links, but not of a node that was thrown out.
        if self.topology.is_expelled(&news.origin, news.incarnation) {
            return;
        }
        match self.directory.learn(news.clone()) {
            Learned::Old => {}
            Learned::Gap => self.send_digest(from),
            Learned::News(changed) => {
                if let Some(link) = self.neighbours.get(&news.origin).copied()
                    && let Some(lost) = self.directory.lost_at(&news.origin)
                {
                    self.send(link, Frame::Agents(lost));
                }
                // Who gets the whole list by this way is told as well who may only be missing in it.
                if let Some(since) = self.remembers(&news).filter(|_| news.base.is_none()) {
                    self.flood(&Frame::Remembers(since), Some(from));
                }
                self.flood(&Frame::Agents(news), Some(from));
                self.write_elsewhere();
                self.yield_to_newer_homes(&changed);
                self.rehome(&changed);
                for agent in &changed {
                    self.tell_untold(agent);
                }
            }
        }
    }

    /// A peer remembers agents of this node that its own disk has lost. Of those that are only as long as their sessions it does
    /// not know that: they wait as long as the others, and nothing is lost of them.
    fn remember_again(&mut self, lost: Agents) {
        if lost.incarnation != self.config.incarnation {
            return;
        }
        for state in lost.agents {
            let known =
                self.directory.own(&state.agent).is_some() || self.sessions.is_registering(&state.agent);
            let state = AgentState { presence: Presence::Away, ..state };
            let wanted = self.may_have_forgotten(state.registered_ms)
                && !self.directory.is_newer_elsewhere(&self.config.node, &state);
            if !known && wanted && self.directory.has_room_for(&state) {
                self.persist(Record::Agent(state.clone()));
                self.announce_agent(state);
            }
        }
    }

    pub(super) fn send_digests(&mut self) {
        let links: Vec<LinkId> = self.neighbours.values().copied().collect();
        for link in links {
            self.send_digest(link);
        }
    }

    pub(super) fn send_digest(&mut self, link: LinkId) {
        let known = |state: &LinkState| {
            let (incarnation, agents_version) = self.directory.version(&state.origin);
            // The two kinds of announcement can be of different lives; an older list counts as none.
            let agents_version = if incarnation == state.incarnation { agents_version } else { 0 };
            Known {
                origin: state.origin.clone(),
                incarnation: state.incarnation,
                links_version: state.version,
                agents_version,
            }
        };
        let digest = self.topology.all().map(known).collect();
        self.send(link, Frame::Digest(digest));
        self.send_room_digest(link);
    }

    /// Sends what the peer lacks of what we have; what we lack it sends for our own digest.
    pub(super) fn digest(&mut self, link: LinkId, theirs: &[Known]) {
        let theirs = &theirs[..theirs.len().min(MAX_NODES)];
        self.look_for_rollback(theirs);
        let nodes: Vec<NodeName> = self.topology.all().map(|state| state.origin.clone()).collect();
        for node in nodes {
            let known = theirs.iter().find(|known| known.origin == node);
            if self.neighbours.get(&node) == Some(&link)
                && let Some(lost) = self.directory.lost_at(&node)
            {
                self.send(link, Frame::Agents(lost));
            }
            let has = known.map(|k| (k.incarnation, k.links_version));
            if let Some(state) = self.topology.announced(&node)
                && has < Some((state.incarnation, state.version))
            {
                let state = state.clone();
                self.send(link, Frame::LinkState(state));
            }
            let has = known.map(|k| (k.incarnation, k.agents_version));
            if has < Some(self.directory.version(&node))
                && let Some(whole) = self.directory.whole(&node)
            {
                if let Some(since) = self.remembers(&whole) {
                    self.send(link, Frame::Remembers(since));
                }
                self.send(link, Frame::Agents(whole));
            }
        }
    }

    /// What goes before a whole list.
    fn remembers(&self, whole: &Agents) -> Option<Remembers> {
        let Agents { origin, incarnation, .. } = whole;
        let since = if *origin == self.config.node {
            self.memory_is_whole_since()
        } else {
            self.directory.remembers_since(origin, *incarnation)?
        };
        Some(Remembers { origin: origin.clone(), incarnation: *incarnation, since })
    }

    /// A peer has a newer revocation list than we: the driver verifies it first.
    pub(super) fn offered_revocations(&mut self, number: u64, der: Bytes) {
        if self.revocations.as_ref().is_none_or(|(have, _)| *have < number) {
            self.outputs.push_back(Output::Revocations(number, der));
        }
    }

    /// A verified list: it goes to every link, entrances too.
    pub(super) fn set_revocations(&mut self, number: u64, der: Bytes, serials: BTreeSet<String>) {
        if self.revocations.as_ref().is_some_and(|(have, _)| *have >= number) {
            return;
        }
        self.revocations = Some((number, der.clone()));
        for node in self.topology.expel(serials) {
            self.forget_node(&node);
        }
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            self.send(link, Frame::Revocations(number, der.clone()));
        }
    }
}
