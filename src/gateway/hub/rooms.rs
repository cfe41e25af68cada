//! Rooms: what sessions have subscribed to, see [`readers`](crate::gateway::readers).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{Hub, Load, Request, Seat, Stopped, Up};
use crate::gateway::readers::{Deed, Wish};
use crate::metrics;
use crate::rt::clock;
use crate::wire::close::Refusal;
use crate::wire::frame::{Frame, ROOMS};
use crate::wire::ids::{LinkId, MessageId, Namespace, NodeName, SessionNo};
use crate::wire::room::RoomKey;

/// How long until the node is asked again for a room that it could not give, the first time; twice as long each time after
/// that, up to the other.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));

/// When the node of the link in use is asked again for rooms that sessions had, and that it could not give.
#[derive(Debug)]
pub(super) struct Again {
    at: Option<Instant>,
    /// How long is waited the next time.
    wait: Duration,
}

impl Default for Again {
    fn default() -> Again {
        Again { at: None, wait: AGAIN.0 }
    }
}

impl Again {
    /// Waits until it is so.
    pub(super) fn wait(&self) -> impl Future<Output = ()> + use<> {
        let at = self.at;
        async move {
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        }
    }
}

impl Up {
    /// Whether the node said that it serves rooms; one that did not would leave frames about them unanswered.
    pub(super) fn serves_rooms(&self) -> bool {
        self.peer.features.iter().any(|feature| feature == ROOMS)
    }
}

impl Seat {
    /// Subscribes, now and whenever the link is renewed; at the pace of `hub::pace`.
    pub async fn subscribe(&self, wish: Wish) -> Result<(), Stopped> {
        self.pace.turn().await;
        self.hub.request(Request::Subscribe(self.no, Box::new(wish))).await
    }

    /// Leaves a room; answered in its turn, at the same pace.
    pub async fn unsubscribe(&self, room: RoomKey, id: Option<MessageId>) -> Result<(), Stopped> {
        self.pace.turn().await;
        self.hub.request(Request::Unsubscribe(self.no, room, id)).await
    }
}

impl Hub {
    pub(super) fn subscribe(&mut self, no: SessionNo, wish: Wish) {
        let Some(entry) = self.sessions.get(&no).filter(|entry| entry.attach.is_some()) else { return };
        let registered = self.current.is_some() && entry.unanswered == 0;
        match self.without_rooms() {
            Some(node) => self.readers.refuse(no, wish.id, Refusal::unserved_by(&node, ROOMS)),
            None => self.readers.subscribe(no, wish, registered),
        }
        self.do_deeds();
    }

    pub(super) fn unsubscribe(&mut self, no: SessionNo, room: &RoomKey, id: Option<MessageId>) {
        self.readers.unsubscribe(no, room, id);
        self.do_deeds();
    }

    /// The node has registered a session: it subscribes again to what it had. Where the node serves no rooms that waits for
    /// another one that does; who waits for an answer is told.
    pub(super) fn subscribe_again(&mut self, no: SessionNo) {
        match self.without_rooms() {
            Some(node) => self.readers.refuse_asked(no, &Refusal::unserved_by(&node, ROOMS)),
            None => self.readers.registered(no),
        }
        self.do_deeds();
    }

    /// The node of the link in use, if it serves no rooms.
    fn without_rooms(&self) -> Option<NodeName> {
        let up = self.links.get(&self.current?)?;
        (!up.serves_rooms()).then(|| up.peer.node.clone())
    }

    /// A frame about a room; one of a link that the sessions have left says nothing any more.
    pub(super) fn room_frame(&mut self, link: LinkId, frame: Frame) {
        if self.current != Some(link) {
            return;
        }
        let published = match &frame {
            Frame::RoomMessage(message, _) => self.measure.map(|_| message.room.clone()),
            _ => None,
        };
        self.readers.frame(frame);
        if self.readers.has_held() && self.again.at.is_none() {
            self.again.at = Some(clock::now() + self.again.wait);
            self.again.wait = (self.again.wait * 2).min(AGAIN.1);
        }
        let sessions = self.do_deeds();
        if let Some(room) = published {
            self.fanned_out(&room.namespace, room.name.as_str(), sessions);
        }
    }

    /// Asks the node again for rooms that it could not give.
    pub(super) fn ask_again(&mut self) {
        self.again.at = None;
        self.readers.ask_held();
        self.do_deeds();
    }

    /// What the sessions of each namespace have.
    pub(super) fn loads(&self) -> BTreeMap<Namespace, Load> {
        let mut loads: BTreeMap<Namespace, Load> = BTreeMap::new();
        for (namespace, subscriptions) in self.readers.counts() {
            loads.entry(namespace.clone()).or_default().subscriptions += subscriptions;
        }
        for entry in self.sessions.values() {
            let Some(attach) = &entry.attach else { continue };
            loads.entry(attach.agent.namespace.clone()).or_default().waiting += entry.wires.waiting();
        }
        loads
    }

    /// Answers how many sessions have messages in their queues by it.
    fn do_deeds(&mut self) -> usize {
        let mut reached = 0;
        let served = self.current.is_some() && self.without_rooms().is_none();
        while let Some(deed) = self.readers.poll() {
            match deed {
                Deed::Send(frame) if served => self.control(frame),
                Deed::Send(_) => {}
                Deed::Tell(no, news) => {
                    let Some(entry) = self.sessions.get(&no) else { continue };
                    let has_messages = !news.texts.is_empty();
                    match entry.wires.room(news) {
                        Ok(()) => reached += usize::from(has_messages),
                        Err(slow) => self.unreachable(no, slow),
                    }
                }
            }
        }
        metrics::ROOM_SUBSCRIPTIONS.set(self.readers.count() as i64);
        reached
    }
}
