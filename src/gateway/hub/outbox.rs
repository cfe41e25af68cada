//! Control frames that wait for room in the link to the node.
//!
//! While there are many, the hub takes nothing more from its sessions: they wait, and then their clients do, all of them, as it is
//! the node that does not read. A client that does not read never gets so far: what is for it waits in its own session's queues,
//! and when those are full it alone is closed. The hub still hears the node meanwhile, which might else wait for the hub as the
//! hub does for it; and a link that is silent for too long ends, and all that waits here with it.

use std::collections::VecDeque;

use super::Hub;
use crate::link;
use crate::metrics;
use crate::wire::frame::Frame;

/// Frames that may wait before sessions do. What a link that was renewed has to be told comes on top: one frame for each session,
/// and one for each of its rooms.
const BOUND: usize = 8192;
/// Its name in the metrics.
const NAME: &str = "hub.outbox";

/// What waits, in order.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    frames: VecDeque<Frame>,
}

impl Outbox {
    pub(super) fn push(&mut self, frame: Frame) {
        self.frames.push_back(frame);
        if self.frames.len() == BOUND {
            metrics::QUEUE_FULL.with_label_values(&[NAME]).inc();
        }
        self.show();
    }

    pub(super) fn pop(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front();
        self.show();
        frame
    }

    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.show();
    }

    pub(super) fn front(&self) -> Option<&Frame> {
        self.frames.front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Whether sessions have to wait.
    pub(super) fn is_full(&self) -> bool {
        self.frames.len() >= BOUND
    }

    fn show(&self) {
        metrics::HUB_OUTBOX.set(self.frames.len() as i64);
    }
}

impl Hub {
    /// Sends a control frame, behind those that wait.
    pub(super) fn control(&mut self, frame: Frame) {
        if self.outbox.is_empty()
            && let Some(handle) = self.current_handle()
            && handle.try_send(&frame).is_ok()
        {
            return self.readers.left(&frame);
        }
        self.outbox.push(frame);
    }

    /// The first of those that wait has found room, or the link is over.
    pub(super) fn front_sent(&mut self, sent: bool) {
        if !sent {
            // Its Down event settles the rest.
            return self.outbox.clear();
        }
        if let Some(frame) = self.outbox.pop() {
            self.readers.left(&frame);
        }
    }
}

/// Waits until the first frame has found room; `false`: the link is over.
pub(super) async fn send_front(link: Option<&link::Handle>, frame: Option<&Frame>) -> bool {
    match (link, frame) {
        (Some(link), Some(frame)) => link.send(frame).await.is_ok(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::gateway::testing::{Rig, agent};
    use crate::wire::frame::Attach;

    #[tokio::test(start_paused = true)]
    async fn sessions_wait_for_a_node_that_does_not_read_and_no_frame_is_lost() {
        // covers B09
        let rig = Rig::new();
        let mut node = rig.link(1, "agni").await;
        let seat = rig.hub.open().await.unwrap();
        let attach = |n| Attach {
            session: seat.no,
            agent: agent("dc"),
            capabilities: Vec::new(),
            shared: false,
            registered_ms: n,
            resumed: false,
            window: 64,
            transient: false,
        };
        // The link is up when this has come.
        seat.attach(attach(0)).await.unwrap();
        assert!(matches!(node.next().await, Frame::Attach(_)));
        let mut said = 1u64;
        // The clock goes on only when nobody can do anything more.
        while tokio::time::timeout(Duration::from_secs(1), seat.attach(attach(said))).await.is_ok() {
            said += 1;
            assert!(said < 100_000, "they never wait");
        }
        let full = metrics::QUEUE_FULL.with_label_values(&[NAME]).get();
        assert!(full >= 1 && said as usize > BOUND, "{full} {said}");
        for n in 1..said {
            let Frame::Attach(attach) = node.next().await else { panic!("no Attach") };
            assert_eq!(attach.registered_ms, n);
        }
        seat.attach(attach(said)).await.unwrap();
        let Frame::Attach(last) = node.next().await else { panic!("no Attach") };
        assert_eq!(last.registered_ms, said);
    }
}
