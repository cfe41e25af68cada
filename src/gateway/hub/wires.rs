//! The hub's ends of one session's queues, with their bounds.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};

use super::{Arrival, Delivery, End, Notice, SESSION_BYTES, SESSION_QUEUE};
use crate::gateway::readers::RoomNews;
use crate::rt::queue;

/// Smaller messages are bounded well enough by their number.
const SMALL: usize = 4096;

/// A session's end of a queue. Items are boxed as a queue has places for 32 of them from its first moment on (tokio's
/// blocks): in themselves they would take 16 KiB of each session that is silent.
pub type Wire<T> = queue::Receiver<Box<T>>;

/// Where a session hears that it is to end. One order ends it: a queue would keep room for more.
pub type Order = oneshot::Receiver<Box<End>>;

/// The writing ends of a session's queues.
pub(super) struct Wires {
    notices: queue::Sender<Box<Notice>>,
    messages: queue::Sender<Box<Arrival>>,
    /// `None`: the order was given.
    end: Option<oneshot::Sender<Box<End>>>,
    /// What is left of [`SESSION_BYTES`].
    bytes: Arc<Semaphore>,
}

impl Wires {
    /// Makes them, and the reading ends.
    pub(super) fn new() -> (Wires, Wire<Notice>, Wire<Arrival>, Order) {
        let (notices, notices_out) = queue::bounded("session.notices", SESSION_QUEUE);
        let (messages, messages_out) = queue::bounded("session.messages", SESSION_QUEUE);
        let (end, end_out) = oneshot::channel();
        let bytes = Arc::new(Semaphore::new(SESSION_BYTES));
        (Wires { notices, messages, end: Some(end), bytes }, notices_out, messages_out, end_out)
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
            return self.notice(Notice::Urgent(delivery));
        }
        self.message(Arrival::Message(delivery))
    }

    /// Goes ahead of messages; answers as [`Wires::deliver`].
    pub(super) fn notice(&self, notice: Notice) -> Result<(), bool> {
        self.notices.try_send(Box::new(notice)).map_err(|refused| is_full(&refused))
    }

    fn message(&self, arrival: Arrival) -> Result<(), bool> {
        self.messages.try_send(Box::new(arrival)).map_err(|refused| is_full(&refused))
    }

    /// Ends the session. An order that is there already ends it just as well.
    pub(super) fn end(&mut self, order: End) {
        if let Some(end) = self.end.take() {
            // The session may be over.
            let _ = end.send(Box::new(order));
        }
    }

    /// The same for what is about a room.
    pub(super) fn room(&self, news: RoomNews) -> Result<(), bool> {
        let bytes = news.texts.iter().map(Bytes::len).sum::<usize>().min(SESSION_BYTES);
        let mut place = None;
        if bytes > SMALL {
            let taken = self.bytes.clone().try_acquire_many_owned(bytes as u32);
            place = Some(taken.map_err(|_| true)?);
        }
        self.message(Arrival::Room(news, place))
    }
}

fn is_full<T>(refused: &queue::Refused<T>) -> bool {
    matches!(refused, queue::Refused::Full(_))
}
