//! Connections that are being resumed: what may cross one before its handshake is confirmed (0-RTT).
//!
//! What comes so early may be a recording that somebody sends again. So such a connection is no link yet: nobody has said
//! HELLO on it, it replaces no other, and no route leads over it. Only messages cross it that their node keeps until they
//! are confirmed, and only from that node itself: their recipient's home recognises what comes again. Not even what
//! confirms them goes with them: an old *stored* that comes again could make a node forget what its recipient's home has
//! lost since. Everything else waits for [`Input::LinkUp`](super::Input::LinkUp), which has the connection's number.

use std::collections::BTreeMap;
use std::time::Duration;

use super::topology::MAX_NODES;
use super::{Event, Mesh, Output, Step, Time};
use crate::wire::frame::Frame;
use crate::wire::ids::{LinkId, NodeName};

/// A handshake that has taken so long will not end well; whoever drives it gives up before.
const AT_MOST: Duration = Duration::from_secs(10);

/// A connection that is no link yet.
#[derive(Debug)]
struct Early {
    peer: NodeName,
    dialled: bool,
    since: Time,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Resuming(BTreeMap<LinkId, Early>);

impl Resuming {
    /// It is a link now.
    pub(super) fn end(&mut self, link: LinkId) {
        self.0.remove(&link);
    }

    /// The newest one to this node that was dialled from here.
    fn towards(&self, node: &NodeName) -> Option<LinkId> {
        let ours = self.0.iter().filter(|(_, early)| early.dialled && early.peer == *node);
        ours.map(|(link, _)| *link).next_back()
    }
}

impl Mesh {
    /// A connection with a node that was known before. Who dialled sends at once what waits for that node, if there is no
    /// other way to it.
    pub(super) fn link_early(&mut self, link: LinkId, peer: NodeName, dialled: bool) {
        if self.resuming.0.len() >= MAX_NODES || peer == self.config.node || self.stopping {
            return;
        }
        self.resuming.0.insert(link, Early { peer: peer.clone(), dialled, since: self.now });
        if dialled && self.way_to(&peer).is_none() {
            self.send_all_again(&peer);
        }
    }

    /// A connection that will never be a link, or a link that is over. Of several that were tried at once another one may come
    /// through: what went with this one goes with that.
    pub(super) fn early_over(&mut self, link: LinkId) {
        let Some(early) = self.resuming.0.remove(&link).filter(|early| early.dialled) else { return };
        if self.way_to(&early.peer).is_none() && self.resuming.towards(&early.peer).is_some() {
            self.send_all_again(&early.peer);
        }
    }

    /// A frame of a connection that is no link (yet).
    pub(super) fn early_frame(&mut self, link: LinkId, frame: Frame) {
        if !self.resuming.0.contains_key(&link) {
            return;
        }
        match frame {
            Frame::Forward(forward, payload) if forward.is_safe_to_repeat() => {
                let before = self.outputs.len();
                self.forward(forward, payload);
                let recognised = |output: &Output| matches!(output, Output::Event(Event::Hop(hop)) if hop.step == Step::Recognised);
                if self.outputs.iter().skip(before).any(recognised) {
                    self.event(Event::EarlyRepeated);
                }
            }
            frame => self.event(Event::Ignored(link, frame.name())),
        }
    }

    /// The link that messages for a node leave by: the way there, or else a connection with it that is being resumed.
    pub(super) fn way_of_messages(&self, node: &NodeName) -> Option<LinkId> {
        self.way_to(node).or_else(|| self.resuming.towards(node))
    }

    /// The link over which a node is told what became of its messages; a neighbour before both ends have announced the
    /// link. A link that nothing has come over since that node began another connection is not relied on.
    pub(super) fn way_of_reports(&self, node: &NodeName) -> Option<LinkId> {
        let way = self.way_to(node).or_else(|| self.neighbours.get(node).copied())?;
        let began =
            self.resuming.0.values().filter(|early| early.peer == *node).map(|early| early.since).max();
        let heard = self.links.get(&way).map(|link| link.heard);
        (began < heard.map(Some)?).then_some(way)
    }

    /// Whether a node can be told soon that can't be told now.
    pub(super) fn is_coming(&self, node: &NodeName) -> bool {
        self.resuming.0.values().any(|early| early.peer == *node)
    }

    /// Once a heartbeat.
    pub(super) fn forget_resuming(&mut self) {
        let now = self.now;
        self.resuming.0.retain(|_, early| now.since(early.since) < AT_MOST);
    }
}
