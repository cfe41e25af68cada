//! Agents registered at this node, and through which entrance each session of theirs comes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::created::NEVER_MS;
use super::directory::bytes_of;
use super::registering::{Pending, Registering};
use super::{FORGET_AFTER_MS, Mesh, Ticket, Time};
use crate::wire::client::{MAX_CAPABILITIES, MAX_CAPABILITY};
use crate::wire::close::{Code, Refusal};
use crate::wire::frame::{AgentState, Attach, Frame, MAX_IN_HAND, Presence};
use crate::wire::ids::{AgentAddr, LinkId, NodeName, Sequence, SessionNo};
use crate::wire::record::Record;

/// An answer to AGENTS ends where it has so many bytes: more than fit into a client's frame (docs/protocol.md,
/// section 8), so that whoever writes that one sees that something is missing.
const MAX_ANSWER_BYTES: usize = 2 << 20;

/// Sessions that one entrance may have.
const MAX_SESSIONS: usize = 65_536;
/// Largest window of a session.
const MAX_WINDOW: u16 = 1024;

/// How long a session that ended may still be heard, and how many of them at once.
const LEAVING_FOR: Duration = Duration::from_secs(5);
/// See [`LEAVING_FOR`].
const MAX_LEAVING: usize = 4096;

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// By its client, its entrance or this node.
    Closed,
    /// The same, and its agent is to be forgotten.
    Unregistered,
    /// With the link of its entrance.
    Lost,
}

/// A session, named across all entrances.
pub(super) type Key = (LinkId, SessionNo);

/// One session that is registered, or about to be.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) agent: AgentAddr,
    /// Its registration is on disk and was confirmed.
    pub(super) ready: bool,
    /// When it registered here first.
    pub(super) since: Time,
    /// Durable messages that it may have in its hands at once; as many again of priority 1.
    window: usize,
    /// What it has: of priority 1, and others.
    in_hand: (InHand, InHand),
    /// Its entrance goes elsewhere, and is told when it has nothing in its hands any more.
    parting: bool,
}

/// Messages in a session's hands, and their bytes.
#[derive(Debug, Clone, Copy, Default)]
struct InHand {
    count: usize,
    bytes: usize,
}

/// Every session of this node.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_key: BTreeMap<Key, Session>,
    /// In the order in which a shared agent's sessions take turns.
    by_agent: BTreeMap<AgentAddr, VecDeque<Key>>,
    /// Sessions that have just ended: what they sent before travels in other lanes than their end.
    leaving: BTreeMap<Key, (AgentAddr, Time)>,
    registering: Registering,
}

impl Sessions {
    pub(super) fn get(&self, key: Key) -> Option<&Session> {
        self.by_key.get(&key)
    }

    /// Whether a session may speak for an agent, also when its end has overtaken its last messages.
    pub(super) fn has_just_left(&self, key: Key, agent: &AgentAddr) -> bool {
        self.leaving.get(&key).is_some_and(|(left, _)| left == agent)
    }

    /// Whether a registration of an agent waits for the disk.
    pub(super) fn is_registering(&self, agent: &AgentAddr) -> bool {
        self.registering.has(agent)
    }

    /// All sessions of an agent.
    pub(super) fn of(&self, agent: &AgentAddr) -> Vec<Key> {
        self.by_agent.get(agent).map(|keys| keys.iter().copied().collect()).unwrap_or_default()
    }

    /// The session whose turn it is to get a message.
    pub(super) fn next_of(&mut self, agent: &AgentAddr) -> Option<Key> {
        let keys = self.by_agent.get_mut(agent)?;
        if keys.len() > 1 {
            keys.rotate_left(1);
        }
        keys.back().copied()
    }

    /// The session whose turn it is to get a durable message, of those that have room for it.
    pub(super) fn next_with_room(&mut self, agent: &AgentAddr, urgent: bool, bytes: usize) -> Option<Key> {
        let keys = self.by_agent.get_mut(agent)?;
        let has_room = |key: &Key| {
            self.by_key.get(key).is_some_and(|session| {
                let (first, others) = session.in_hand;
                let has = if urgent { first } else { others };
                // One message may always go, however large.
                has.count < session.window && (has.count == 0 || has.bytes + bytes <= MAX_IN_HAND)
            })
        };
        let at = keys.iter().position(has_room)?;
        keys.rotate_left(at + 1);
        keys.back().copied()
    }

    /// A durable message is in a session's hands, or is no longer.
    pub(super) fn holds(&mut self, key: Key, urgent: bool, bytes: usize, more: bool) {
        let Some(session) = self.by_key.get_mut(&key) else { return };
        let has = if urgent { &mut session.in_hand.0 } else { &mut session.in_hand.1 };
        let (count, all) = (has.count, has.bytes);
        *has = match more {
            true => InHand { count: count + 1, bytes: all + bytes },
            false => InHand { count: count.saturating_sub(1), bytes: all.saturating_sub(bytes) },
        };
    }

    /// Every agent with a session that is ready.
    pub(super) fn agents(&self) -> impl Iterator<Item = &AgentAddr> {
        self.by_agent.keys()
    }

    fn remove(&mut self, key: Key) -> Option<Session> {
        self.registering.take_back(key);
        let session = self.by_key.remove(&key)?;
        if let Some(keys) = self.by_agent.get_mut(&session.agent) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.by_agent.remove(&session.agent);
            }
        }
        Some(session)
    }
}

impl Mesh {
    /// Registers a session once that is on disk: an agent that was told it is registered stays known.
    pub(super) fn attach(&mut self, link: LinkId, mut attach: Attach) {
        let key = (link, attach.session);
        if attach.window == 0 {
            return self.part_with(key, &attach);
        }
        if let Some(refusal) = self.breaks_bounds(&attach, link) {
            return self.evict(key, refusal);
        }
        if !self.directory.has_room_for(&state_of(&attach)) {
            return self.evict(key, self.no_room());
        }
        if let Some(newer) = self.newer_elsewhere(&attach) {
            return self.evict(key, taken_over(&attach.agent, &newer));
        }
        if attach.resumed {
            // Whatever waits here for an agent that was away may be handed over from now on, and its mark for not having
            // been is the time of the registration.
            let away = |own: &&AgentState| own.presence != Presence::Online;
            let own_ms = self.directory.own(&attach.agent).filter(away).map_or(0, |own| own.registered_ms);
            attach.registered_ms = attach.registered_ms.max(own_ms + 1);
            // Its own registration at the node that it was attached to before does not count against it.
            let (ms, me) = (attach.registered_ms, &self.config.node);
            let same = |(node, state): (&NodeName, &AgentState)| node != me && state.registered_ms == ms;
            attach.registered_ms += u64::from(self.directory.everywhere(&attach.agent).any(same));
        } else {
            attach.registered_ms = attach.registered_ms.max(self.later_than_elsewhere(&attach.agent));
        }
        if self.sessions.by_key.get(&key).is_some_and(|session| session.agent != attach.agent) {
            self.session_over(link, attach.session, Over::Closed);
        }
        let state = state_of(&attach);
        let record = if attach.transient { Record::Transient(state) } else { Record::Agent(state) };
        // Registering again changes options; what is ready stays so meanwhile.
        let before = self.sessions.by_key.get(&key);
        let (ready, since, in_hand) = before.map_or((false, self.now, Default::default()), |session| {
            (session.ready, session.since, session.in_hand)
        });
        let window = usize::from(attach.window.clamp(1, MAX_WINDOW));
        let agent = attach.agent.clone();
        let session = Session { agent, ready, since, window, in_hand, parting: false };
        self.sessions.by_key.insert(key, session);
        if let Some(link) = self.links.get_mut(&link) {
            link.sessions.insert(attach.session);
        }
        let ticket = self.persist(record);
        self.sessions.registering.insert(ticket, key, attach);
    }

    /// Hands a session nothing more: its entrance moves it to another node, and no message is to be given twice for that.
    fn part_with(&mut self, key: Key, attach: &Attach) {
        if let Some(session) = self.sessions.by_key.get_mut(&key).filter(|known| known.agent == attach.agent)
        {
            (session.window, session.parting) = (0, true);
            return self.tell_parted(key);
        }
        self.send(key.0, Frame::Attached(key.1, attach.registered_ms));
    }

    /// Tells the entrance of a session that moves, when all that this had in its hands is settled.
    pub(super) fn tell_parted(&mut self, key: Key) {
        let Some(session) = self.sessions.by_key.get_mut(&key) else { return };
        let (first, others) = session.in_hand;
        if session.parting && first.count + others.count == 0 {
            session.parting = false;
            let registered_ms = self.directory.own(&session.agent).map_or(0, |own| own.registered_ms);
            self.send(key.0, Frame::Attached(key.1, registered_ms));
        }
    }

    /// What an entrance of ours never asks for: the node does not rely on it.
    fn breaks_bounds(&self, attach: &Attach, link: LinkId) -> Option<Refusal> {
        let sessions = &self.links.get(&link)?.sessions;
        if sessions.len() >= MAX_SESSIONS && !sessions.contains(&attach.session) {
            let message = format!("this entrance has {MAX_SESSIONS} sessions, and may have no more");
            return Some(Refusal::new(Code::Unavailable, message));
        }
        let long = attach.capabilities.iter().any(|capability| capability.len() > MAX_CAPABILITY);
        (long || attach.capabilities.len() > MAX_CAPABILITIES).then(|| {
            let what = format!("at most {MAX_CAPABILITIES} of {MAX_CAPABILITY} bytes are taken");
            Refusal::new(Code::BadFrame, format!("the capabilities of {}: {what}", attach.agent))
        })
    }

    pub(super) fn persisted(&mut self, ticket: Ticket) {
        let Some(Pending { key, attach, taken_back }) = self.sessions.registering.remove(ticket) else {
            return;
        };
        if taken_back {
            self.forget_unless_wanted(attach.agent);
            return self.send(key.0, Frame::Attached(key.1, attach.registered_ms));
        }
        // Others may have taken the room meanwhile.
        if !self.directory.has_room_for(&state_of(&attach)) {
            self.evict(key, self.no_room());
            return self.detach(key.0, key.1, false);
        }
        // One elsewhere that is newer took over while the disk wrote.
        if let Some(newer) = self.newer_home(&state_of(&attach)) {
            self.evict_for_good(key, taken_over(&attach.agent, &newer));
            self.persist(Record::Forget(attach.agent));
            return;
        }
        // A pool takes over from a session that did not share, and such a session from a pool.
        let joins = attach.shared && self.directory.own(&attach.agent).is_some_and(|before| before.shared);
        if !joins {
            let others = self.sessions.of(&attach.agent).into_iter().filter(|other| *other != key);
            for other in others.collect::<Vec<_>>() {
                let here = self.config.node.clone();
                self.evict_for_good(other, taken_over(&attach.agent, &here));
            }
        }
        if let Some(session) = self.sessions.by_key.get_mut(&key) {
            session.ready = true;
        }
        let keys = self.sessions.by_agent.entry(attach.agent.clone()).or_default();
        if !keys.contains(&key) {
            keys.push_back(key);
        }
        self.transients.note(&attach.agent, attach.transient);
        self.doubt_what_came_late(&attach.agent);
        self.announce_agent(state_of(&attach));
        self.send(key.0, Frame::Attached(key.1, attach.registered_ms));
        self.pump_mailbox(&attach.agent);
        self.tell_untold(&attach.agent);
    }

    /// A registration was written for nobody: the next start would know an agent that never was.
    fn forget_unless_wanted(&mut self, agent: AgentAddr) {
        if self.directory.own(&agent).is_none() && !self.sessions.is_registering(&agent) {
            self.persist(Record::Forget(agent.clone()));
        }
        self.create_if_wanted(&agent);
    }

    pub(super) fn persist_failed(&mut self, ticket: Ticket, why: &str) {
        let Some(Pending { key, attach, .. }) = self.sessions.registering.remove(ticket) else { return };
        let message = format!("{} could not be registered: the node's disk refused: {why}", attach.agent);
        self.evict(key, Refusal::new(Code::Unavailable, message));
        self.detach(key.0, key.1, false);
        self.forget_unless_wanted(attach.agent);
    }

    pub(super) fn detach(&mut self, link: LinkId, session: SessionNo, forget: bool) {
        if let Some(known) = self.sessions.get((link, session)).filter(|known| known.ready) {
            let agent = known.agent.clone();
            if self.sessions.leaving.len() < MAX_LEAVING {
                self.sessions.leaving.insert((link, session), (agent, self.now.after(LEAVING_FOR)));
            }
        }
        self.session_over(link, session, if forget { Over::Unregistered } else { Over::Closed });
        if let Some(link) = self.links.get_mut(&link) {
            link.sessions.remove(&session);
        }
    }

    /// A session ended. When it was the agent's last, the agent is away; or forgotten, if that was asked or it is transient.
    /// One whose entrance is lost may come back by another link, and is waited for.
    pub(super) fn session_over(&mut self, link: LinkId, session: SessionNo, over: Over) {
        let no = session;
        let Some(session) = self.sessions.remove((link, session)) else { return };
        let brief = over == Over::Closed && self.transients.has(&session.agent);
        let leaves = over == Over::Unregistered || (brief && !self.sessions.is_registering(&session.agent));
        self.take_back(link, no, &session.agent);
        self.leave_rooms((link, no), leaves);
        if self.sessions.by_agent.contains_key(&session.agent) {
            return;
        }
        let Some(state) = self.directory.own(&session.agent).cloned() else { return };
        // One that is being registered again goes on, whichever of the two is heard first: to forget it would be written behind that.
        if leaves && !self.sessions.is_registering(&session.agent) {
            return self.forget_agent(state);
        }
        self.transients.wait_for(&session.agent, self.now);
        self.announce_agent(AgentState { presence: Presence::Away, ..state });
    }

    /// What still waits for it is dead, unless it lives elsewhere.
    pub(super) fn forget_agent(&mut self, state: AgentState) {
        let agent = state.agent.clone();
        self.persist(Record::Forget(agent.clone()));
        self.announce_agent(AgentState { presence: Presence::Gone, ..state });
        self.bury(&agent);
    }

    /// Agents that registered elsewhere later than here: their home is there now.
    pub(super) fn yield_to_newer_homes(&mut self, agents: &[AgentAddr]) {
        for agent in agents {
            let Some(own) = self.directory.own(agent).cloned() else { continue };
            let Some(newer) = self.newer_home(&own) else { continue };
            for key in self.sessions.of(agent) {
                self.evict_for_good(key, taken_over(agent, &newer));
            }
            // One that is being registered again is forgotten if that is not the newest either, or comes to nothing.
            if !self.sessions.is_registering(agent) {
                self.persist(Record::Forget(agent.clone()));
            }
            self.announce_agent(AgentState { presence: Presence::Gone, ..own });
        }
    }

    /// Where else an agent is registered later than it is here.
    fn newer_home(&self, own: &AgentState) -> Option<NodeName> {
        let newer = self.directory.everywhere(&own.agent).find(|(node, state)| {
            **node != self.config.node
                && state.presence == Presence::Online
                && !(state.shared && own.shared)
                && (state.registered_ms, *node) > (own.registered_ms, &self.config.node)
        });
        newer.map(|(node, _)| node.clone())
    }

    pub(super) fn forget_those_who_left(&mut self) {
        let now = self.now;
        self.sessions.leaving.retain(|_, (_, until)| *until > now);
    }

    pub(super) fn forget_old_agents(&mut self, wall_ms: u64) {
        for agent in self.directory.own_away_for(FORGET_AFTER_MS, wall_ms) {
            let Some(state) = self.directory.own(&agent).cloned() else { continue };
            // One that a message had made is known as long as something waits for it.
            if state.registered_ms == NEVER_MS && !self.has_no_mail(&agent) {
                continue;
            }
            self.forget_agent(state);
        }
    }

    pub(super) fn list_agents(&mut self, link: LinkId, session: SessionNo, number: Sequence) {
        let Some(asking) = self.sessions.get((link, session)) else { return };
        let namespace = asking.agent.namespace.clone();
        let mut bytes = 0;
        let fits = |(node, state): &(&NodeName, &AgentState)| {
            bytes += bytes_of(state) + node.as_str().len() + 1;
            bytes <= MAX_ANSWER_BYTES
        };
        let list = self.directory.agents(Some(&namespace)).take_while(fits);
        let list = list.map(|(node, state)| (self.seen_from_here(node, state), node.clone())).collect();
        self.send(link, Frame::AgentList(session, number, list));
    }

    /// An agent whose node can't be reached is not there, whatever its node said last.
    pub(super) fn seen_from_here(&self, node: &NodeName, state: &AgentState) -> AgentState {
        let there = *node == self.config.node || self.topology.route(node).is_some();
        let presence = if there { state.presence } else { Presence::Away };
        AgentState { presence, ..state.clone() }
    }

    pub(super) fn announce_agent(&mut self, state: AgentState) {
        let agent = state.agent.clone();
        self.created.note(&state);
        if state.presence == Presence::Gone {
            self.transients.remove(&agent);
        }
        if let Some(news) = self.directory.change(state) {
            self.flood(&Frame::Agents(news), None);
        }
        self.rehome(&[agent]);
    }

    fn no_room(&self) -> Refusal {
        let message = format!("node {} has all the agents it can hold", self.config.node);
        Refusal::new(Code::Unavailable, message)
    }

    fn evict(&mut self, key: Key, refusal: Refusal) {
        self.send(key.0, Frame::Evict(key.1, refusal));
    }

    /// The session is over at once, and nothing is announced of it.
    fn evict_for_good(&mut self, key: Key, refusal: Refusal) {
        self.evict(key, refusal);
        if let Some(session) = self.sessions.remove(key) {
            self.take_back(key.0, key.1, &session.agent);
            self.leave_rooms(key, false);
        }
        if let Some(link) = self.links.get_mut(&key.0) {
            link.sessions.remove(&key.1);
        }
    }

    /// A registration made after another was known is the newer one, whatever the clocks of the two say.
    fn later_than_elsewhere(&self, agent: &AgentAddr) -> u64 {
        let elsewhere = self.directory.everywhere(agent).filter(|(node, _)| **node != self.config.node);
        elsewhere.map(|(_, state)| state.registered_ms.saturating_add(1)).max().unwrap_or(0)
    }

    /// Only an entrance that attaches again can be late: its client registered before.
    fn newer_elsewhere(&self, attach: &Attach) -> Option<NodeName> {
        let (node, state) = self.directory.home(&attach.agent)?;
        let newer = *node != self.config.node
            && state.presence == Presence::Online
            && !(state.shared && attach.shared)
            && state.registered_ms > attach.registered_ms;
        (attach.resumed && newer).then(|| node.clone())
    }
}

fn state_of(attach: &Attach) -> AgentState {
    AgentState {
        agent: attach.agent.clone(),
        presence: Presence::Online,
        registered_ms: attach.registered_ms,
        shared: attach.shared,
        capabilities: attach.capabilities.clone(),
    }
}

fn taken_over(agent: &AgentAddr, node: &NodeName) -> Refusal {
    Refusal::new(Code::TakenOver, format!("a newer session of {agent} registered at node {node}"))
}
