//! Urgent messages sent twice: a moment after its lane, each goes in a datagram (RFC 9221) as well. When the packet with the first is
//! lost, the second is there long before the first could be sent again.
//!
//! Such a datagram is one byte, the lane's index, four that say which frame of that lane's stream it is (from 0, big-endian), and the frame.
//! The peer counts what it reads from the stream, and so takes each frame once. A copy may pass frames before it that
//! are still missing: a durable message is put in order again at its recipient's home, by its own number. A live one is left to
//! the stream then.
//!
//! The pause is what makes the copy worth having: at once, both would share one packet and be lost together. Where the window is full
//! there are no copies: each would take the place of a message that waits, and urgent ones would wait for copies of others.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::datagram::{self, Share};
use super::inbox::Inbox;
use super::{Event, Lane, congestion};
use crate::rt::queue;
use crate::wire::envelope::Class;
use crate::wire::frame::{Encoded, Frame};
use crate::wire::ids::LinkId;

/// Who says this in HELLO over QUIC reads copies.
pub(super) const FEATURE: &str = "copies";
/// Frames that may wait to be sent a second time; more are sent once.
const BOUND: usize = 64;
/// Between the two: long enough for packets of their own, short beside a round trip.
const PAUSE: Duration = Duration::from_millis(2);
/// On a shorter way the stream itself is as fast.
const WORTH: Duration = Duration::from_millis(10);
/// How often it is looked whether the way is long enough.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Copies that may be ahead of the stream; others are left to it.
const AHEAD: usize = 1024;

/// Whether it is worth a copy: messages of priority 1.
pub(super) fn may_come_twice(frame: &Frame) -> bool {
    matches!(frame, Frame::Forward(forward, _) if Lane::of(&forward.head) == Lane::Urgent)
}

/// The way from the urgent lane's writer to whoever sends again.
#[derive(Debug, Clone)]
pub(super) struct Copier {
    queue: queue::Sender<(u32, Encoded)>,
    wanted: Arc<AtomicBool>,
    /// Of the stream's next frame.
    number: u32,
}

/// The other end of it.
#[derive(Debug)]
pub struct Copies {
    queue: queue::Receiver<(u32, Encoded)>,
    wanted: Arc<AtomicBool>,
}

/// Both ends. Nothing goes this way before the peer is known to read it.
pub(super) fn copier() -> (Copier, Copies) {
    let (sender, receiver) = queue::bounded("link.copies", BOUND);
    let wanted = Arc::<AtomicBool>::default();
    (Copier { queue: sender, wanted: wanted.clone(), number: 0 }, Copies { queue: receiver, wanted })
}

impl Copier {
    /// The stream has taken its next frames.
    pub(super) fn wrote(&mut self, frames: Vec<Encoded>) {
        for frame in frames {
            let number = self.number;
            self.number = number.wrapping_add(1);
            if self.wanted.load(Ordering::Relaxed) && self.queue.try_send((number, frame)).is_err() {
                datagram::count("copy_dropped");
            }
        }
    }
}

impl Copies {
    /// Sends again what was written, until the connection is over.
    pub(super) async fn send(mut self, connection: quinn::Connection) {
        let mut share = Share::default();
        let mut written = Vec::new();
        loop {
            self.wanted.store(connection.rtt() >= WORTH, Ordering::Relaxed);
            let next = tokio::time::timeout(LOOK_AGAIN, self.queue.recv_many(&mut written, BOUND));
            match next.await {
                Ok(0) => return,
                Ok(_) => tokio::time::sleep(PAUSE).await,
                Err(_) => continue,
            }
            if !congestion::has_room(&connection) {
                written.drain(..).for_each(|_| datagram::count("copy_spared"));
            }
            for (number, frame) in written.drain(..) {
                let copy = datagram::pack(Lane::Urgent.index() as u8, number, &frame);
                let (length, most) = (copy.len(), connection.max_datagram_size().unwrap_or(0));
                // The queue of a lane holds frames that are encoded already; few come here.
                let is_copied = |(_, _, frame): (u8, u32, Frame)| may_come_twice(&frame);
                if length > most || !datagram::parse(copy.clone()).is_some_and(is_copied) {
                    continue;
                }
                match connection.send_datagram_wait(copy).await {
                    Ok(()) => datagram::count("copy_sent"),
                    Err(quinn::SendDatagramError::TooLarge) => datagram::count("copy_dropped"),
                    Err(_) => return self.wanted.store(false, Ordering::Relaxed),
                }
                share.used(&connection, length).await;
            }
        }
    }
}

/// What of the peer's urgent lane has come, by either way.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<Came>);

#[derive(Debug, Default)]
struct Came {
    /// The number of the frame that the stream brings next.
    next: u32,
    /// Of those and later ones, what came as a copy.
    early: BTreeSet<u32>,
}

impl Seen {
    /// The stream brought its next frame: it is passed on, unless it has come before. `false`: nobody takes it.
    pub(super) async fn stream(&self, link: LinkId, frame: Frame, events: &Inbox) -> bool {
        let event = Event::frame(link, frame);
        let Some(room) = events.reserve(&event).await else { return false };
        let mut came = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if came.stream() {
            room.send(event);
        }
        true
    }

    /// A copy of the stream's frame with this number came; the same.
    pub(super) async fn copy(&self, link: LinkId, number: u32, frame: Frame, events: &Inbox) -> bool {
        let keeps_order = matches!(&frame, Frame::Forward(forward, _) if forward.head.class == Class::Live);
        let event = Event::frame(link, frame);
        // Room first: from here on nothing can come between this frame's turn and its place in the queue.
        let Some(room) = events.reserve(&event).await else { return false };
        let mut came = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = came.copy(number, keeps_order);
        datagram::count(if first { "copy_first" } else { "copy_late" });
        if first {
            room.send(event);
        }
        true
    }
}

impl Came {
    /// Whether the stream's next frame comes for the first time.
    fn stream(&mut self) -> bool {
        let number = self.next;
        self.next = number.wrapping_add(1);
        !self.early.remove(&number)
    }

    /// Whether this copy is to be taken: as the first, and where it must `keep_order` behind all that was sent before it.
    fn copy(&mut self, number: u32, keeps_order: bool) -> bool {
        // Numbers go round (RFC 1982); one behind is far ahead.
        let ahead = number.wrapping_sub(self.next);
        let before = |n| self.early.contains(&self.next.wrapping_add(n));
        let fits = (ahead as usize) < AHEAD && (!keeps_order || (0..ahead).all(before));
        fits && self.early.insert(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_frame_is_taken_once_by_whichever_way_it_comes_first() {
        // covers T02
        let mut seen = Came::default();
        assert!(seen.stream(), "0 by the stream");
        assert!(!seen.copy(0, false));
        assert!(seen.copy(2, false) && seen.copy(1, false), "and in any order");
        assert!(!seen.copy(2, false));
        assert!(!seen.stream() && !seen.stream(), "1 and 2");
        assert!(seen.stream(), "3");
        assert!(!seen.copy(4 + AHEAD as u32, false), "too far ahead");
        assert!(seen.copy(3 + AHEAD as u32, false));
    }

    #[test]
    fn what_must_keep_its_order_is_not_taken_before_what_was_sent_before_it() {
        // covers T02
        let mut seen = Came { next: u32::MAX, ..Came::default() };
        assert!(!seen.copy(0, true), "the one before is missing");
        assert!(seen.copy(u32::MAX, true) && seen.copy(0, true) && seen.copy(1, false));
        assert!(seen.copy(2, true) && !seen.copy(4, true));
        assert!(!seen.stream() && !seen.stream() && !seen.stream() && !seen.stream());
        assert!(seen.stream() && seen.copy(4, true));
    }
}
