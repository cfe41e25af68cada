//! A message on its way: from a session to the recipient's home, to a session there, and what its sender
//! is told. Nothing is kept here yet: a message that cannot go on is refused at once, to its sender.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::topology::MAX_NODES;
use super::{Event, Hop, Mesh, Step};
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::{Class, Head, State, Target};
use crate::wire::frame::{
    Deliver, Dest, Forward, Frame, Handing, MAX_HOPS, Presence, Receipt, RoomJoined, RoomLapse, RoomMember,
    RoomMessage,
};
use crate::wire::ids::{AgentAddr, LinkId, NodeName, SessionNo};

impl Mesh {
    /// A session's message. The entrance authenticated the session; that it speaks for its own agent only is
    /// checked here again, so that one faulty edge can't speak for the clients of another.
    pub(super) fn submit(&mut self, link: LinkId, session: SessionNo, mut head: Head, payload: Bytes) {
        let refusal = match self.sessions.get((link, session)) {
            Some(known) if known.agent != head.from => {
                let message = format!("this session is {}, not {}", known.agent, head.from);
                Some(Refusal::new(Code::FromMismatch, message))
            }
            Some(known) if known.ready => refusal_of(&head),
            None if self.sessions.has_just_left((link, session), &head.from) => refusal_of(&head),
            _ => Some(Refusal::new(Code::NotRegistered, "this session is not registered")),
        };
        if let Some(refusal) = refusal {
            let receipt = self.refused(&head, refusal);
            return self.send(link, Frame::Told(session, receipt));
        }
        if let Target::Room(..) = head.to {
            return self.publish((link, session), head, payload);
        }
        if head.class == Class::Durable {
            return self.take((link, session), head, payload);
        }
        head.depth = self.depth_of(&head);
        if let Err(refusal) = self.brake(&head) {
            return self.refuse_at((link, session), &head, refusal);
        }
        match head.to.clone() {
            Target::Agent(agent) => self.send_to_agent(agent, head, payload),
            Target::Broadcast(_) => self.send_to_everybody(head, payload),
            Target::Room(..) => {}
        }
    }

    fn send_to_agent(&mut self, agent: AgentAddr, head: Head, payload: Bytes) {
        let Some((home, state)) = self.directory.home(&agent) else {
            let message = format!("no agent {agent} was ever registered");
            return self.refuse(head, Refusal::new(Code::UnknownRecipient, message));
        };
        let (home, away) = (home.clone(), state.presence != Presence::Online);
        if home == self.config.node {
            return self.deliver(&agent, head, payload, &home);
        }
        if away {
            let message = format!("{agent} is not connected; it was last at node {home}");
            return self.refuse(head, Refusal::new(Code::RecipientOffline, message));
        }
        let Some(link) = self.way_to(&home) else {
            let message = format!("no way leads to node {home}, the home of {agent}");
            return self.refuse(head, Refusal::new(Code::NoRoute, message));
        };
        let forward = Forward {
            origin: self.config.node.clone(),
            incarnation: self.config.incarnation,
            to: vec![Dest::live(home)],
            hops_left: MAX_HOPS,
            redelivered: false,
            unseen: false,
            age_ms: 0,
            head,
        };
        self.send(link, Frame::Forward(forward, payload));
    }

    fn send_to_everybody(&mut self, head: Head, payload: Bytes) {
        let nodes = self.directory.nodes_with(head.to.namespace());
        let to = nodes.filter(|node| **node != self.config.node).cloned().map(Dest::live).collect();
        let forward = Forward {
            origin: self.config.node.clone(),
            incarnation: self.config.incarnation,
            to,
            hops_left: MAX_HOPS,
            redelivered: false,
            unseen: false,
            age_ms: 0,
            head,
        };
        self.deliver_broadcast(&forward.head, &payload);
        self.send_on(forward, payload);
    }

    /// A message from another node: for this one, or to be passed on, or both.
    pub(super) fn forward(&mut self, mut forward: Forward, payload: Bytes) {
        if forward.to.len() > MAX_NODES {
            let message = format!("names {} nodes; a mesh has at most {MAX_NODES}", forward.to.len());
            return self.refuse_to(&forward.origin, forward.head, Refusal::new(Code::BadFrame, message));
        }
        forward.hops_left = forward.hops_left.min(MAX_HOPS);
        if forward.hops_left == 0 {
            let nodes: Vec<&NodeName> = forward.to.iter().map(|dest| &dest.node).collect();
            let message = format!("went through {MAX_HOPS} nodes without reaching {nodes:?}");
            if forward.head.class == Class::Durable {
                return self.event(Event::Refused(Code::HopLimit.as_str()));
            }
            return self.refuse_to(&forward.origin, forward.head, Refusal::new(Code::HopLimit, message));
        }
        forward.hops_left -= 1;
        if forward.head.class == Class::Durable {
            return self.forward_durable(forward, payload);
        }
        if let Some(at) = forward.to.iter().position(|dest| dest.node == self.config.node) {
            forward.to.swap_remove(at);
            match forward.head.to.clone() {
                Target::Agent(agent) => {
                    return self.deliver(&agent, forward.head, payload, &forward.origin);
                }
                Target::Broadcast(_) => self.deliver_broadcast(&forward.head, &payload),
                Target::Room(..) => {}
            }
        }
        self.send_on(forward, payload);
    }

    /// A message that its origin keeps until it is told that it was stored: what can't go on is sent again.
    fn forward_durable(&mut self, mut forward: Forward, payload: Bytes) {
        let (here, on): (Vec<Dest>, Vec<Dest>) =
            std::mem::take(&mut forward.to).into_iter().partition(|dest| dest.node == self.config.node);
        for dest in here {
            self.arrive(&forward, dest, payload.clone());
        }
        if !on.is_empty() {
            forward.to = on;
            self.relayed(&forward);
            self.send_on(forward, payload);
        }
    }

    fn relayed(&mut self, forward: &Forward) {
        for dest in &forward.to {
            let Some(key) = forward.key_at(dest) else { continue };
            let (node, link) = (Some(dest.node.clone()), self.way_to(&dest.node));
            let hop = Hop { key, taken: forward.head.taken, step: Step::Relayed, node, link };
            self.event(Event::Hop(Box::new(hop)));
        }
    }

    /// Sends a message on, once a link, with those of its nodes that lie behind that link.
    fn send_on(&mut self, mut forward: Forward, payload: Bytes) {
        if let [only] = forward.to.as_slice()
            && let Some(link) = self.way_to(&only.node)
        {
            return self.send(link, Frame::Forward(forward, payload));
        }
        let mut by_link: BTreeMap<LinkId, Vec<Dest>> = BTreeMap::new();
        let mut lost = Vec::new();
        for dest in std::mem::take(&mut forward.to) {
            match self.way_to(&dest.node) {
                Some(link) => by_link.entry(link).or_default().push(dest),
                None => lost.push(dest.node),
            }
        }
        for (link, to) in by_link {
            self.send(link, Frame::Forward(Forward { to, ..forward.clone() }, payload.clone()));
        }
        if forward.head.class == Class::Durable {
            return;
        }
        for node in lost {
            let message = format!("no way leads to node {node}");
            let head = forward.head.clone();
            self.refuse_to(&forward.origin, head, Refusal::new(Code::NoRoute, message));
        }
    }

    /// To one session of an agent of this node.
    fn deliver(&mut self, agent: &AgentAddr, head: Head, payload: Bytes, origin: &NodeName) {
        let Some((link, session)) = self.sessions.next_of(agent) else {
            let (code, message) = match self.directory.own(agent) {
                Some(_) => (Code::RecipientOffline, format!("{agent} is not connected")),
                None => {
                    (Code::UnknownRecipient, format!("{agent} is not registered at {}", self.config.node))
                }
            };
            return self.refuse_to(origin, head, Refusal::new(code, message));
        };
        let confirm = (head.receipt == Some(State::Delivered)).then(|| origin.clone());
        self.note_depth(agent, &head);
        self.event(Event::HandedOver);
        self.send(link, Frame::Deliver(Deliver { to: vec![Handing::live(session)], head, confirm }, payload));
    }

    /// To every agent of the namespace that is connected here, but not back to the sender: one frame for
    /// each entrance, however many sessions it has.
    fn deliver_broadcast(&mut self, head: &Head, payload: &Bytes) {
        let namespace = head.to.namespace();
        // An agent that several nodes share gets its copy at its home.
        let at_home =
            |agent: &AgentAddr| self.directory.home(agent).is_some_and(|(node, _)| *node == self.config.node);
        let wanted =
            |agent: &&AgentAddr| agent.namespace == *namespace && **agent != head.from && at_home(agent);
        let agents: Vec<AgentAddr> = self.sessions.agents().filter(wanted).cloned().collect();
        let mut by_link: BTreeMap<LinkId, Vec<Handing>> = BTreeMap::new();
        for agent in agents {
            if let Some((link, session)) = self.sessions.next_of(&agent) {
                self.note_depth(&agent, head);
                by_link.entry(link).or_default().push(Handing::live(session));
            }
        }
        for (link, to) in by_link {
            self.event(Event::HandedOver);
            let deliver = Deliver { to, head: head.clone(), confirm: None };
            self.send(link, Frame::Deliver(deliver, payload.clone()));
        }
    }

    /// What became of a message: for a sender of this node, or to be passed on.
    pub(super) fn receipt(&mut self, mut receipt: Receipt) {
        // It goes into a client's frame, and into the log of its session.
        receipt.refusal = receipt.refusal.map(|refusal| Refusal::new(refusal.code, refusal.message));
        if receipt.to == self.config.node {
            if receipt.keeper != self.config.node && self.comes_too_late(&receipt) {
                return;
            }
            let sessions = self.sessions.of(&receipt.sender);
            for (link, session) in &sessions {
                self.send(*link, Frame::Told(*session, receipt.clone()));
            }
            if !sessions.is_empty() && receipt.keeper != self.config.node {
                self.confirm_heard(receipt);
            }
            return;
        }
        let to = receipt.to.clone();
        self.pass_on(&to, receipt.hops_left, |hops_left| Frame::Receipt(Receipt { hops_left, ..receipt }));
    }

    /// A frame did not fit into its link's queue. A message's sender is told; announcements and calls are
    /// caught up with, or time out.
    pub(super) fn unsent(&mut self, link: LinkId, frame: Frame) {
        let full = |what: &str| Refusal::new(Code::Unavailable, format!("the queue towards {what} is full"));
        let peer = self.links.get(&link).map_or_else(String::new, |link| link.peer.to_string());
        match frame {
            Frame::Forward(forward, _) if forward.head.class == Class::Durable => self.unsent_items(&forward),
            Frame::Deliver(deliver, _) if deliver.head.class == Class::Durable => {
                self.unsent_handings(link, &deliver);
            }
            Frame::Forward(forward, _) => self.refuse_to(&forward.origin, forward.head, full(&peer)),
            Frame::Deliver(deliver, _) => {
                let origin = match self.directory.home(&deliver.head.from) {
                    Some((home, _)) => home.clone(),
                    None => return,
                };
                self.refuse_to(&origin, deliver.head, full("the recipient"));
            }
            Frame::RoomJoined(RoomJoined { room, .. }, _)
            | Frame::RoomMessage(RoomMessage { room, .. }, _)
            | Frame::RoomLapse(RoomLapse { room, .. })
            | Frame::RoomMember(RoomMember { room, .. })
            | Frame::RoomAgain(room) => self.unsent_of_room(link, room),
            frame => self.event(Event::Ignored(link, frame.name())),
        }
    }

    fn refuse(&mut self, head: Head, refusal: Refusal) {
        let here = self.config.node.clone();
        self.refuse_to(&here, head, refusal);
    }

    fn refuse_to(&mut self, origin: &NodeName, head: Head, refusal: Refusal) {
        let receipt = Receipt { to: origin.clone(), ..self.refused(&head, refusal) };
        self.receipt(receipt);
    }

    pub(super) fn refused(&mut self, head: &Head, refusal: Refusal) -> Receipt {
        self.event(Event::Refused(refusal.code.as_str()));
        let recipient = match &head.to {
            Target::Agent(agent) => agent.clone(),
            // A broadcast is refused as a whole only before it has recipients: its sender stands for them.
            Target::Broadcast(_) | Target::Room(..) => head.from.clone(),
        };
        Receipt {
            to: self.config.node.clone(),
            sender: head.from.clone(),
            id: head.id.clone(),
            recipient,
            counts: None,
            node: self.config.node.clone(),
            state: State::Refused,
            refusal: Some(refusal),
            asked: false,
            keeper: self.config.node.clone(),
            hops_left: MAX_HOPS,
        }
    }
}

/// What can be said of a message before looking for its recipient.
fn refusal_of(head: &Head) -> Option<Refusal> {
    if head.ttl_ms == Some(0) {
        return Some(Refusal::new(Code::Expired, "ttl_ms: 0 milliseconds were left on arrival"));
    }
    head.refusal()
}
