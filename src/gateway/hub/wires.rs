//! The hub's ends of one session's queues, with their bounds.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::{Arrival, Delivery, End, Notice, SESSION_BYTES, SESSION_QUEUE};
use crate::gateway::readers::RoomNews;
use crate::rt::queue;

/// Smaller messages are bounded well enough by their number.
const SMALL: usize = 4096;

/// The writing ends of a session's queues.
pub(super) struct Wires {
    pub(super) notices: queue::Sender<Notice>,
    messages: queue::Sender<Arrival>,
    pub(super) end: queue::Sender<End>,
    /// What is left of [`SESSION_BYTES`].
    bytes: Arc<Semaphore>,
}

impl Wires {
    /// Makes them, and the reading ends.
    pub(super) fn new() -> (Wires, queue::Receiver<Notice>, queue::Receiver<Arrival>, queue::Receiver<End>) {
        let (notices, notices_out) = queue::bounded("session.notices", SESSION_QUEUE);
        let (messages, messages_out) = queue::bounded("session.messages", SESSION_QUEUE);
        let (end, end_out) = queue::bounded("session.end", 1);
        let bytes = Arc::new(Semaphore::new(SESSION_BYTES));
        (Wires { notices, messages, end, bytes }, notices_out, messages_out, end_out)
    }

    /// Messages that the session has not taken yet.
    pub(super) fn waiting(&self) -> usize {
        self.messages.depth()
    }

    /// `Err(true)`: the client is behind; `Err(false)`: the session is over.
    pub(super) fn deliver(&self, mut delivery: Delivery, urgent: bool) -> Result<(), bool> {
        let bytes = delivery.payload.len().min(SESSION_BYTES);
        // What is to be settled, the node bounds: it puts no more into a session's hands.
        if bytes > SMALL && delivery.handing.tag == 0 {
            let place = self.bytes.clone().try_acquire_many_owned(bytes as u32);
            delivery.place = Some(place.map_err(|_| true)?);
        }
        if urgent {
            return self.notices.try_send(Notice::Urgent(delivery)).map_err(|refused| is_full(&refused));
        }
        self.messages.try_send(Arrival::Message(delivery)).map_err(|refused| is_full(&refused))
    }

    /// The same for what is about a room.
    pub(super) fn room(&self, news: RoomNews) -> Result<(), bool> {
        let bytes = news.texts.iter().map(Bytes::len).sum::<usize>().min(SESSION_BYTES);
        let mut place = None;
        if bytes > SMALL {
            let taken = self.bytes.clone().try_acquire_many_owned(bytes as u32);
            place = Some(taken.map_err(|_| true)?);
        }
        self.messages.try_send(Arrival::Room(news, place)).map_err(|refused| is_full(&refused))
    }
}

pub(super) fn is_full<T>(refused: &queue::Refused<T>) -> bool {
    matches!(refused, queue::Refused::Full(_))
}
