//! Links between nodes and to entrances: made, cut, blocked, full, slow; and what is carried over them.

use std::time::Duration;

use super::{Client, Cluster, DELAY, Sent, node};
use crate::mesh::{Input, Role};
use crate::wire::close::LinkClose;
use crate::wire::frame::Frame;
use crate::wire::ids::{Incarnation, LinkId, NodeName};

/// One end of a link.
pub(super) struct LinkEnd {
    pub(super) owner: NodeName,
    /// The other end; `None`: an entrance.
    pub(super) peer: Option<(NodeName, LinkId)>,
    /// What is sent is lost, and nobody notices.
    pub(super) blocked: bool,
    /// Nothing fits into its queue.
    full: bool,
    /// How long what it sends is under way.
    delay: Duration,
}

impl Cluster {
    /// `dialler` connects to `other`: both ends are up at once.
    pub fn connect(&mut self, dialler: &str, other: &str) -> (LinkId, LinkId) {
        self.connect_at(dialler, other, Duration::ZERO, Duration::ZERO)
    }

    /// Both ends of a link that nobody knows of yet.
    fn lay(&mut self, dialler: &str, other: &str) -> (LinkId, LinkId) {
        let (a, b) = (LinkId(self.number()), LinkId(self.number()));
        let (from, to) = (node(dialler), node(other));
        let end = |owner: &NodeName, peer: &NodeName, id| LinkEnd {
            owner: owner.clone(),
            peer: Some((peer.clone(), id)),
            blocked: false,
            full: false,
            delay: DELAY,
        };
        self.links.insert(a, end(&from, &to, b));
        self.links.insert(b, end(&to, &from, a));
        (a, b)
    }

    /// The same, with the times after which the two ends notice that it is up.
    pub fn connect_at(
        &mut self,
        dialler: &str,
        other: &str,
        first: Duration,
        second: Duration,
    ) -> (LinkId, LinkId) {
        self.connect_by(dialler, other, first, second, false)
    }

    /// The same, over a carrier that may be a fallback.
    pub fn connect_by(
        &mut self,
        dialler: &str,
        other: &str,
        first: Duration,
        second: Duration,
        fallback: bool,
    ) -> (LinkId, LinkId) {
        let (a, b) = self.lay(dialler, other);
        let (from, to) = (node(dialler), node(other));
        for (link, me, peer, dialled, wait) in [(a, &from, &to, true, first), (b, &to, &from, false, second)]
        {
            let incarnation = self.machines[peer].mesh.config.incarnation;
            let (peer, role) = (peer.clone(), Role::Node);
            let up = Input::LinkUp { link, peer, role, incarnation, dialled, fallback, rtt_us: 0 };
            self.at(self.now.after(wait), me, up);
        }
        (a, b)
    }

    /// `dialler` resumes a connection with `other`: messages may cross it.
    pub fn resume(&mut self, dialler: &str, other: &str) -> (LinkId, LinkId) {
        let (a, b) = self.lay(dialler, other);
        self.input(other, Input::LinkEarly { link: b, peer: node(dialler), dialled: false });
        self.input(dialler, Input::LinkEarly { link: a, peer: node(other), dialled: true });
        (a, b)
    }

    /// The handshake of a resumed connection is confirmed, and both ends have said HELLO.
    pub fn confirm_handshake(&mut self, dialler: &str, other: &str, a: LinkId, b: LinkId) {
        let both = [(a, node(dialler), node(other), true), (b, node(other), node(dialler), false)];
        for (link, me, peer, dialled) in both {
            let incarnation = self.machines[&peer].mesh.config.incarnation;
            self.input(
                me.as_str(),
                Input::LinkUp {
                    link,
                    peer,
                    role: Role::Node,
                    incarnation,
                    dialled,
                    fallback: false,
                    rtt_us: 0,
                },
            );
        }
    }

    /// A node's ends of its links to another.
    pub fn links_of(&self, owner: &str, peer: &str) -> Vec<LinkId> {
        let mut links = self.between(owner, peer);
        links.retain(|id| self.links[id].owner == node(owner));
        links
    }

    pub(super) fn between(&self, a: &str, b: &str) -> Vec<LinkId> {
        let (a, b) = (node(a), node(b));
        let joins = |end: &LinkEnd| {
            let peer = end.peer.as_ref().map(|(peer, _)| peer);
            (end.owner == a && peer == Some(&b)) || (end.owner == b && peer == Some(&a))
        };
        self.links.iter().filter(|(_, end)| joins(end)).map(|(id, _)| *id).collect()
    }

    /// The link breaks, and both ends notice.
    pub fn cut(&mut self, a: &str, b: &str) {
        for link in self.between(a, b) {
            let end = self.links.remove(&link).unwrap();
            self.at(self.now, &end.owner, Input::LinkDown(link));
        }
    }

    /// What the two send each other is lost from now on (or no longer), and nobody notices.
    pub fn block(&mut self, a: &str, b: &str, blocked: bool) {
        for link in self.between(a, b) {
            self.links.get_mut(&link).unwrap().blocked = blocked;
        }
    }

    /// What the two send each other takes so long from now on.
    pub fn delay(&mut self, a: &str, b: &str, delay: Duration) {
        for link in self.between(a, b) {
            self.links.get_mut(&link).unwrap().delay = delay;
        }
    }

    /// Nothing fits into the queue of this node's end of the link any more.
    pub fn fill(&mut self, owner: &str, peer: &str) {
        for link in self.between(owner, peer) {
            let end = self.links.get_mut(&link).unwrap();
            end.full |= end.owner == node(owner);
        }
    }

    /// Every queue has room again.
    pub fn make_room(&mut self) {
        self.links.values_mut().for_each(|end| end.full = false);
    }

    /// The same for the link to a client's entrance.
    pub fn fill_entrance(&mut self, client: &Client) {
        self.links.get_mut(&client.link).unwrap().full = true;
    }

    /// Opens an entrance for clients of a node.
    pub fn entrance(&mut self, name: &str) -> LinkId {
        let link = LinkId(self.number());
        let end = LinkEnd { owner: node(name), peer: None, blocked: false, full: false, delay: DELAY };
        self.links.insert(link, end);
        let up = Input::LinkUp {
            link,
            peer: node(name),
            role: Role::Entrance,
            incarnation: Incarnation(1),
            dialled: false,
            fallback: false,
            rtt_us: 0,
        };
        self.input(name, up);
        link
    }

    pub fn entrance_gone(&mut self, client: &Client) {
        self.links.remove(&client.link);
        self.input(client.node.as_str(), Input::LinkDown(client.link));
    }

    pub(super) fn carry(&mut self, name: &NodeName, link: LinkId, frame: Frame) {
        let Some(end) = self.links.get(&link) else { return };
        if end.full {
            let when = self.now;
            return self.at(when, name, Input::Unsent(link, frame));
        }
        let frame = through_the_wire(&frame);
        let (to, blocked, delay) = (end.peer.clone(), end.blocked, end.delay);
        let sent = Sent { from: name.clone(), to: to.clone().map(|(peer, _)| peer), frame: frame.clone() };
        self.sent.push(sent);
        match to {
            None => {
                if let Frame::Ping(number) = frame {
                    self.at(self.now, name, Input::Frame(link, Frame::Pong(number, 0)));
                }
                self.inboxes.entry(link).or_default().push(frame);
            }
            Some(_) if blocked || (self.lost)(&frame) => {}
            Some((peer, id)) => self.at(self.now.after(delay), &peer, Input::Frame(id, frame)),
        }
    }

    pub(super) fn close(&mut self, name: &NodeName, link: LinkId, code: LinkClose) {
        self.closed.push((name.clone(), link, code));
        let Some(end) = self.links.remove(&link) else { return };
        self.at(self.now, name, Input::LinkDown(link));
        if let Some((peer, id)) = end.peer.filter(|_| !end.blocked)
            && self.links.remove(&id).is_some()
        {
            self.at(self.now.after(DELAY), &peer, Input::LinkDown(id));
        }
    }
}

/// Encoded and decoded, as every frame is on its way.
fn through_the_wire(frame: &Frame) -> Frame {
    let encoded = frame.encode();
    let mut bytes = bytes::BytesMut::from(&encoded.head[..]);
    bytes.extend_from_slice(&encoded.payload);
    Frame::decode(&mut bytes.freeze()).unwrap().unwrap()
}
