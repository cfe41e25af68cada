//! The writing end of a link, and the queues that its carrier serves.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use super::room::Room;
use super::{CloseOrder, Closed, Lane, Role, count, datagram, twice, wss};
use crate::rt::queue;
use crate::wire::close::LinkClose;
use crate::wire::frame::{Encoded, Frame, MAX_HEAD, MAX_PAYLOAD};
use crate::wire::ids::LinkId;

/// The writing end of a link; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: LinkId,
    lanes: Vec<queue::Sender<Encoded>>,
    rooms: Vec<Room>,
    /// For what may be lost.
    datagrams: datagram::Outlet,
    close: queue::Sender<CloseOrder>,
    /// Smoothed round trip in microseconds, as the carrier measures it; 0: not known.
    rtt_us: AtomicU32,
    carrier: &'static str,
    congestion: OnceLock<&'static str>,
    remote: Mutex<String>,
}

/// The reading end that a carrier serves.
pub struct Outlets {
    /// One queue for each lane, by [`Lane::index`].
    pub lanes: Vec<queue::Receiver<Encoded>>,
    /// What may be lost; nothing comes here unless the carrier says that it has datagrams.
    pub datagrams: Option<datagram::Waiting>,
    /// What is sent twice, if the carrier says that it has datagrams.
    pub(super) copies: Option<twice::Copies>,
    /// Where it comes from.
    pub(super) copier: twice::Copier,
    /// At most one order comes.
    pub close: queue::Receiver<CloseOrder>,
}

/// Frames that may wait in one lane of one link; their bytes are bounded too.
const LANE_BOUND: usize = 4096;
/// The same for the control lane: an answer to every frame of an entrance that the node can have taken in by the time
/// it stops reading from there ([`Backlog`]).
const CONTROL_BOUND: usize = 16_384;
/// How soon an entrance that was not read is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

impl Handle {
    /// Makes both ends for a carrier.
    pub fn new(id: LinkId, carrier: &'static str, remote: String) -> (Handle, Outlets) {
        let (mut senders, mut receivers) = (Vec::new(), Vec::new());
        for lane in 0..Lane::COUNT {
            let name = match lane {
                0 => "link.control",
                1 => "link.urgent",
                n if n == Lane::Bulk.index() => "link.bulk",
                _ => "link.ordered",
            };
            let bound = if lane == Lane::Control.index() { CONTROL_BOUND } else { LANE_BOUND };
            let (sender, receiver) = queue::bounded(name, bound);
            senders.push(sender);
            receivers.push(receiver);
        }
        let (close, close_orders) = queue::bounded("link.close", 1);
        let rooms = (0..Lane::COUNT).map(|_| Room::default()).collect();
        let (datagrams, waiting) = datagram::outlet();
        let (rtt_us, congestion, remote) = (AtomicU32::new(0), OnceLock::new(), Mutex::new(remote));
        let inner =
            Inner { id, lanes: senders, rooms, datagrams, close, rtt_us, carrier, congestion, remote };
        let (copier, copies) = twice::copier();
        let (datagrams, copies, close) = (Some(waiting), Some(copies), close_orders);
        let outlets = Outlets { lanes: receivers, datagrams, copies, copier, close };
        (Handle { inner: Arc::new(inner) }, outlets)
    }

    /// Our number for the link.
    pub fn id(&self) -> LinkId {
        self.inner.id
    }

    /// `quic`, `wss`, `unix` or `memory`.
    pub fn carrier(&self) -> &'static str {
        self.inner.carrier
    }

    /// The congestion control that the connection has, where it is the carrier's own.
    pub fn congestion(&self) -> Option<&'static str> {
        self.inner.congestion.get().copied()
    }

    /// For the carrier: what its connection has.
    pub(super) fn set_congestion(&self, word: &'static str) {
        // A connection keeps what it began with.
        let _ = self.inner.congestion.set(word);
    }

    /// Whether the carrier is for when there is no better one.
    pub fn is_fallback(&self) -> bool {
        self.inner.carrier == wss::CARRIER
    }

    /// The peer's address, for people: where it is now.
    pub fn remote(&self) -> String {
        self.inner.remote.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For the carrier: the peer may have moved. Answers whether it has.
    pub(super) fn moved_to(&self, remote: String) -> bool {
        let mut known = self.inner.remote.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = *known != remote;
        *known = remote;
        moved
    }

    /// Smoothed round trip in microseconds; 0: not known yet.
    pub fn rtt_us(&self) -> u32 {
        self.inner.rtt_us.load(Ordering::Relaxed)
    }

    /// For the carrier: what it measured.
    pub fn set_rtt_us(&self, rtt: u32) {
        self.inner.rtt_us.store(rtt, Ordering::Relaxed);
    }

    /// Queues a frame if its lane has room.
    pub fn try_send(&self, frame: &Frame) -> Result<(), queue::Refused<()>> {
        let lane = Lane::for_frame(frame).index();
        let sender = &self.inner.lanes[lane];
        let encoded = frame.encode();
        if !is_readable(&encoded, frame) {
            return Err(queue::Refused::Full(()));
        }
        if self.inner.datagrams.takes(frame, &encoded) {
            count::sent(frame);
            return Ok(());
        }
        let Some(encoded) = self.inner.rooms[lane].try_take(encoded) else {
            sender.count_full();
            return Err(queue::Refused::Full(()));
        };
        sender.try_send(encoded).map_err(|refused| match refused {
            queue::Refused::Full(_) => queue::Refused::Full(()),
            queue::Refused::Closed(_) => queue::Refused::Closed(()),
        })?;
        count::sent(frame);
        Ok(())
    }

    /// Waits until the frame's lane has room; `Err`: the link is over.
    pub async fn send(&self, frame: &Frame) -> Result<(), Closed> {
        let lane = Lane::for_frame(frame).index();
        let sender = &self.inner.lanes[lane];
        let encoded = frame.encode();
        if !is_readable(&encoded, frame) {
            return Ok(());
        }
        if self.inner.datagrams.takes(frame, &encoded) {
            count::sent(frame);
            return Ok(());
        }
        let encoded = tokio::select! {
            encoded = self.inner.rooms[lane].take(encoded) => encoded,
            () = sender.closed() => return Err(Closed),
        };
        sender.send(encoded).await.map_err(|_| Closed)?;
        count::sent(frame);
        Ok(())
    }

    /// For the carrier's reader.
    pub(super) fn backlog(&self, peer: Role) -> Backlog {
        Backlog(if peer == Role::Entrance { Arc::downgrade(&self.inner) } else { Weak::new() })
    }

    /// Asks the carrier to close; what is queued may be lost.
    pub fn close(&self, code: LinkClose, why: impl Into<String>) {
        // A second order changes nothing: the first is on its way.
        let _ = self.inner.close.try_send(CloseOrder { code, why: why.into() });
    }

    /// Whether the link is over.
    pub fn is_closed(&self) -> bool {
        self.inner.close.is_closed()
    }

    /// Waits until the link is over.
    pub async fn closed(&self) {
        self.inner.close.closed().await;
    }
}

/// Whether the peer can take a frame. One that it must refuse would cost the link, and all who use it, instead of
/// the one frame; somebody made it so large.
fn is_readable(encoded: &Encoded, frame: &Frame) -> bool {
    let fits = encoded.head.len() <= MAX_HEAD && encoded.payload.len() <= MAX_PAYLOAD;
    if !fits {
        tracing::error!(frame = frame.name(), bytes = encoded.len(), "a frame is too large to be sent");
    }
    fits
}

/// Whether an entrance takes what it is told. One that does not is not read either: else a flood of its clients
/// would fill the control lane with refusals, and what all its other clients wait for would be dropped.
/// A node is always read: two that wait for each other would wait for ever.
#[derive(Debug, Clone)]
pub(super) struct Backlog(Weak<Inner>);

impl Backlog {
    /// Waits while the control lane is more than half full.
    pub(super) async fn passes(&self) {
        let control = Lane::Control.index();
        while self.0.upgrade().is_some_and(|link| link.lanes[control].depth() > CONTROL_BOUND / 2) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::close::{Code, Refusal};
    use crate::wire::ids::SessionNo;

    fn evict(words: usize) -> Frame {
        let refusal = Refusal { code: Code::Internal, message: "x".repeat(words) };
        Frame::Evict(SessionNo(1), refusal)
    }

    #[tokio::test]
    async fn a_frame_that_the_peer_would_have_to_refuse_is_not_sent() {
        // covers B19
        let (handle, mut outlets) = Handle::new(LinkId(1), "test", String::new());
        assert!(matches!(handle.try_send(&evict(MAX_HEAD)), Err(queue::Refused::Full(()))));
        handle.send(&evict(MAX_HEAD)).await.unwrap();
        handle.try_send(&evict(1)).unwrap();
        let control = &mut outlets.lanes[Lane::Control.index()];
        assert_eq!(control.try_recv().unwrap(), evict(1).encode());
        assert!(control.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_entrance_that_does_not_take_what_it_is_told_is_not_read() {
        // covers B09
        for (role, waits) in [(Role::Entrance, true), (Role::Node, false)] {
            let (handle, mut outlets) = Handle::new(LinkId(1), "test", String::new());
            let backlog = handle.backlog(role);
            for _ in 0..=CONTROL_BOUND / 2 {
                handle.try_send(&Frame::Ping(1)).unwrap();
            }
            let passes = tokio::time::timeout(Duration::from_secs(3600), backlog.passes());
            assert_eq!(passes.await.is_err(), waits);
            assert!(outlets.lanes[Lane::Control.index()].try_recv().is_ok());
            backlog.passes().await;
        }
    }
}
