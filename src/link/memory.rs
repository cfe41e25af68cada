//! A link within one process: between a node and its own gateways. Frames are encoded and decoded as on any
//! other link, so a gateway in the node and one in an edge see the same.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::inbox::Inbox;
use super::{Backlog, CloseOrder, Event, Handle, Lane, Outlets, Peer};
use crate::rt::{queue, tasks};
use crate::wire::close::LinkClose;
use crate::wire::frame::{Encoded, Frame};
use crate::wire::ids::LinkId;

/// Between the end of a link and the next one of the same two.
const AGAIN: Duration = Duration::from_millis(100);

/// One end of the link: who it is for the other end, under which number the other end knows the link, and
/// where the other end wants to hear of it.
pub struct End {
    /// What the other end is told about this one.
    pub peer: Peer,
    /// Our number for the link.
    pub id: LinkId,
    /// Where we hear of it.
    pub events: Inbox,
}

/// Joins two ends; the link lasts until the task is dropped or one end closes it.
pub fn join(a: End, b: End) -> tasks::Task {
    tasks::spawn("link.memory", async move {
        run(a, b).await;
    })
}

/// Joins two ends, and joins them again whenever one closes the link, as after a sleep of the machine, when each has
/// heard nothing of the other for too long. It ends with a link that is closed because the process stops.
pub fn keep<F>(mut ends: F) -> tasks::Task
where
    F: FnMut() -> (End, End) + Send + 'static,
{
    tasks::spawn("link.memory", async move {
        loop {
            let (a, b) = ends();
            if run(a, b).await == LinkClose::Stopping {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    })
}

async fn run(a: End, b: End) -> LinkClose {
    let (to_b, out_a) = Handle::new(a.id, "memory", b.peer.node.to_string());
    let (to_a, out_b) = Handle::new(b.id, "memory", a.peer.node.to_string());
    // What one end sends is not carried while it does not take what the other end sends it.
    let (of_b, of_a) = (to_b.backlog(b.peer.role), to_a.backlog(a.peer.role));
    let up_a = Event::Up { link: a.id, peer: b.peer.clone(), dialled: true, handle: to_b };
    let up_b = Event::Up { link: b.id, peer: a.peer.clone(), dialled: false, handle: to_a };
    if a.events.send(up_a).await.is_err() || b.events.send(up_b).await.is_err() {
        return LinkClose::Stopping;
    }
    let order = carry((out_a, of_a), &b, (out_b, of_b), &a).await;
    for end in [&a, &b] {
        // Who does not listen any more need not be told.
        let _ = end.events.send(Event::Down { link: end.id, why: order.why.clone() }).await;
    }
    order.code
}

struct Way {
    id: LinkId,
    backlog: Backlog,
    events: Inbox,
}

async fn carry(
    (mut out_a, of_a): (Outlets, Backlog),
    b: &End,
    (mut out_b, of_b): (Outlets, Backlog),
    a: &End,
) -> CloseOrder {
    let mut carriers = tasks::Group::default();
    let both = [(std::mem::take(&mut out_a.lanes), of_a, b), (std::mem::take(&mut out_b.lanes), of_b, a)];
    for (lanes, backlog, end) in both {
        for lane in lanes {
            let way = Way { id: end.id, backlog: backlog.clone(), events: end.events.clone() };
            carriers.spawn("link.carrier", carry_lane(lane, way));
        }
    }
    debug_assert_eq!(carriers.len(), 2 * Lane::COUNT);
    let gone = || CloseOrder { code: LinkClose::Stopping, why: "the process is stopping".into() };
    tokio::select! {
        biased;
        order = out_a.close.recv() => order.unwrap_or_else(gone),
        order = out_b.close.recv() => order.unwrap_or_else(gone),
    }
}

async fn carry_lane(mut lane: queue::Receiver<Encoded>, to: Way) {
    while let Some(encoded) = lane.recv().await {
        match decode(encoded) {
            Ok(Some(frame)) => {
                to.backlog.passes().await;
                if to.events.send(Event::frame(to.id, frame)).await.is_err() {
                    return;
                }
            }
            other => tracing::error!(?other, "a frame of ours can't be read; please report this"),
        }
    }
}

fn decode(encoded: Encoded) -> Result<Option<Frame>, crate::wire::frame::Error> {
    let mut bytes = if encoded.payload.is_empty() {
        encoded.head
    } else {
        let mut whole = BytesMut::with_capacity(encoded.len());
        whole.extend_from_slice(&encoded.head);
        whole.extend_from_slice(&encoded.payload);
        Bytes::from(whole)
    };
    Frame::decode(&mut bytes)
}
