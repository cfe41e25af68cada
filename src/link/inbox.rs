//! Where links report. There are two queues, so that priority 1 and control do not wait behind what came before them, also
//! when their owner has much to do.

use super::{Event, Lane};
use crate::rt::queue;
use crate::wire::frame::Frame;

/// How often in a row what is first may be taken while something else waits: a flood of it delays the rest, and does not
/// stop it.
const FIRST_IN_A_ROW: u32 = 8;

/// The writing end, for carriers.
#[derive(Debug, Clone)]
pub struct Inbox {
    first: queue::Sender<Event>,
    rest: queue::Sender<Event>,
}

/// The reading end, for the owner of links.
#[derive(Debug)]
pub struct Incoming {
    first: Option<queue::Receiver<Event>>,
    rest: queue::Receiver<Event>,
    /// Of the rest, while what is first goes before it.
    taken: Vec<Event>,
    in_a_row: u32,
}

/// Makes both ends; each queue holds at most `bound` events.
pub fn bounded(first: &'static str, rest: &'static str, bound: usize) -> (Inbox, Incoming) {
    let (to_first, first) = queue::bounded(first, bound);
    let (to_rest, rest) = queue::bounded(rest, bound);
    (Inbox::new(to_first, to_rest), Incoming { first: Some(first), ..Incoming::from(rest) })
}

impl Inbox {
    /// Of two queues.
    pub fn new(first: queue::Sender<Event>, rest: queue::Sender<Event>) -> Inbox {
        Inbox { first, rest }
    }

    /// Waits for room; the event comes back when nobody reads any more.
    pub async fn send(&self, event: Event) -> Result<(), Event> {
        self.queue(&event).send(event).await
    }

    /// Waits for room for this event; `None`: nobody reads any more.
    pub(super) async fn reserve(&self, event: &Event) -> Option<queue::Permit<'_, Event>> {
        self.queue(event).reserve().await
    }

    /// Puts an event in if there is room; else it is counted and dropped.
    pub fn try_send(&self, event: Event) {
        // Whoever cannot wait cannot do anything about it either.
        let _ = self.queue(&event).try_send(event);
    }

    fn queue(&self, event: &Event) -> &queue::Sender<Event> {
        if is_first(event) { &self.first } else { &self.rest }
    }
}

/// One queue for everything.
impl From<queue::Sender<Event>> for Inbox {
    fn from(one: queue::Sender<Event>) -> Inbox {
        Inbox { first: one.clone(), rest: one }
    }
}

impl From<queue::Receiver<Event>> for Incoming {
    fn from(one: queue::Receiver<Event>) -> Incoming {
        Incoming { first: None, rest: one, taken: Vec::new(), in_a_row: 0 }
    }
}

/// The end of a link comes behind all that it brought; so does the end of a session behind what it submitted.
fn is_first(event: &Event) -> bool {
    match event {
        Event::Up { .. } | Event::Early { .. } => true,
        Event::Down { .. } | Event::Frame { frame: Frame::Attach(..) | Frame::Detach(..), .. } => false,
        Event::Frame { frame, .. } => Lane::for_frame(frame) <= Lane::Urgent,
    }
}

impl Incoming {
    /// Waits for events and takes about `most` of them; 0: nobody writes any more. Losing this future loses nothing.
    pub async fn recv_many(&mut self, events: &mut Vec<Event>, most: usize) -> usize {
        let before = events.len();
        let rest_is_due = self.in_a_row >= FIRST_IN_A_ROW && !self.rest.is_empty();
        if let Some(first) = self.first.as_mut().filter(|_| !rest_is_due) {
            tokio::select! {
                biased;
                count = first.recv_many(events, most) => {
                    if count > 0 {
                        self.in_a_row += 1;
                        return count;
                    }
                    self.first = None;
                }
                _ = self.rest.recv_many(&mut self.taken, most) => {}
            }
        }
        if self.taken.is_empty() {
            self.rest.recv_many(&mut self.taken, most).await;
        }
        self.in_a_row = 0;
        // A link that began meanwhile is known before what it brings.
        while let Some(event) = self.first.as_mut().and_then(|first| first.try_recv().ok()) {
            events.push(event);
        }
        events.append(&mut self.taken);
        events.len() - before
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::wire::envelope::{Head, Kind, Priority, Target};
    use crate::wire::frame::Deliver;
    use crate::wire::ids::{AgentAddr, LinkId, MessageId, Namespace};

    fn frame(priority: u8) -> Event {
        let agent = |name| AgentAddr::parse(name, &Namespace::new("trishula").unwrap()).unwrap();
        let id = MessageId::new("m").unwrap();
        let head = Head {
            priority: Priority::new(priority).unwrap(),
            ..Head::new(agent("a"), Target::Agent(agent("b")), id, Kind::Status)
        };
        let frame = Frame::Deliver(Deliver { to: Vec::new(), head, confirm: None }, Bytes::new());
        Event::Frame { link: LinkId(1), frame }
    }

    fn priorities(events: &[Event]) -> Vec<Option<u8>> {
        let of = |event: &Event| match event {
            Event::Frame { frame: Frame::Deliver(deliver, _), .. } => Some(deliver.head.priority.get()),
            _ => None,
        };
        events.iter().map(of).collect()
    }

    #[tokio::test]
    async fn what_is_urgent_is_taken_first_and_the_end_of_a_link_last() {
        // covers T01, T26
        let (inbox, mut incoming) = bounded("test.first", "test.rest", 64);
        for priority in [3, 5, 1, 3] {
            inbox.send(frame(priority)).await.unwrap();
        }
        inbox.send(Event::Down { link: LinkId(1), why: String::new() }).await.unwrap();
        inbox.send(frame(1)).await.unwrap();
        let mut events = Vec::new();
        while events.len() < 6 {
            incoming.recv_many(&mut events, 4).await;
        }
        assert_eq!(priorities(&events), [Some(1), Some(1), Some(3), Some(5), Some(3), None]);
        drop(inbox);
        assert_eq!(incoming.recv_many(&mut events, 4).await, 0);
    }

    #[tokio::test]
    async fn a_flood_of_urgent_ones_does_not_stop_the_rest() {
        // covers T26
        let (inbox, mut incoming) = bounded("test.first", "test.rest", 64);
        inbox.send(frame(3)).await.unwrap();
        let mut events = Vec::new();
        for _ in 0..=FIRST_IN_A_ROW {
            inbox.send(frame(1)).await.unwrap();
            incoming.recv_many(&mut events, 1).await;
        }
        assert!(priorities(&events).contains(&Some(3)), "{events:?}");
    }
}
