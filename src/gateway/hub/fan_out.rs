//! One message on its way to the sessions that it is for, and what is measured of one for many: a broadcast, or a publish in a room.

use std::sync::Arc;

use bytes::Bytes;

use super::{Delivery, Hub};
use crate::link;
use crate::rt::clock;
use crate::wire::envelope::Target;
use crate::wire::frame::Deliver;
use crate::wire::ids::{LinkId, Namespace};

/// What a broadcast to a namespace is called among its rooms.
const BROADCAST: &str = "broadcast";

/// A broadcast or a publish that sessions of this process got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FanOut<'a> {
    /// Whose sessions.
    pub namespace: &'a Namespace,
    /// The room's name, or `broadcast`.
    pub channel: &'a str,
    /// Into the queues of how many it was put.
    pub sessions: usize,
    /// From its arrival at the hub until it was in the last one's queue, in microseconds.
    pub micros: u64,
}

/// Takes what is measured, on the hub's own time.
pub type Measure = fn(&FanOut<'_>);

impl Hub {
    pub(super) fn deliver(&mut self, link: LinkId, deliver: Deliver, payload: Bytes) {
        let urgent = link::Lane::of(&deliver.head) == link::Lane::Urgent;
        let current = self.current == Some(link);
        let deliver = Arc::new(deliver);
        let mut reached = 0;
        for handing in &deliver.to {
            // The node takes back what a link that the sessions have left was to bring.
            if handing.tag != 0 && !current {
                continue;
            }
            let delivery = Delivery {
                deliver: deliver.clone(),
                handing: *handing,
                link,
                payload: payload.clone(),
                place: None,
            };
            let Some(entry) = self.sessions.get(&handing.session) else { continue };
            match entry.wires.deliver(delivery, urgent) {
                Ok(()) => reached += 1,
                Err(slow) => self.unreachable(handing.session, slow),
            }
        }
        if let Target::Broadcast(namespace) = &deliver.head.to {
            self.fanned_out(namespace, BROADCAST, reached);
        }
    }

    /// So many sessions have it in their queues now.
    pub(super) fn fanned_out(&self, namespace: &Namespace, channel: &str, sessions: usize) {
        if let Some(measure) = self.measure.filter(|_| sessions > 0) {
            let micros = clock::micros().saturating_sub(self.came);
            measure(&FanOut { namespace, channel, sessions, micros });
        }
    }
}
