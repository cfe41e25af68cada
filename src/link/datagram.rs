//! Live telemetry between nodes, in QUIC datagrams (RFC 9221): what is lost is not sent again, and holds up nothing behind it.
//!
//! A datagram is one byte that says which flow it is of, four that count that flow's datagrams (big-endian), and one frame. One that
//! was overtaken by a later one of its flow is dropped: it is worth nothing any more, and so the rest keep their order. quinn puts datagrams
//! into packets before all streams; so that urgent messages wait for no more than one of them, and streams have
//! most of the way, they leave at a share of its rate, and what finds no room meanwhile is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::inbox::Inbox;
use super::twice::{self, Seen};
use super::{CloseOrder, Event, Lane};
use crate::metrics;
use crate::rt::queue;
use crate::wire::envelope::{Class, Kind, Priority};
use crate::wire::frame::{Encoded, Frame, Reader};
use crate::wire::ids::LinkId;

/// Who says this in HELLO over QUIC reads datagrams; releases that do not say it would take them and read none.
pub(super) const FEATURE: &str = "datagrams";
/// Frames that may wait to leave.
pub(super) const BOUND: usize = 64;
/// What quinn keeps in either direction, in bytes: the frames above, and what comes while the node has more to do.
pub(super) const BUFFER: usize = 256 * 1024;
/// Flow and number.
const HEADER: usize = 5;
/// Of the rate at which the path takes bytes, datagrams have one part in so many.
const SHARE: u32 = 4;
/// Timers are no finer.
const LEAST_WAIT: Duration = Duration::from_millis(2);

/// Whether a message may be lost on the way, and one that is late is worth nothing: live signs of life, and live states whose sender
/// says by their priority that they matter little. Whoever made a message live and no more than that still has it
/// sent again when a packet is lost. Acknowledgements may not be lost: who waits for one asks again only much later.
pub(super) fn may_be_lost(frame: &Frame) -> bool {
    let Frame::Forward(forward, _) = frame else { return false };
    let head = &forward.head;
    let least = match head.kind {
        Kind::Heartbeat => head.priority >= Priority::DEFAULT,
        Kind::Status => head.priority > Priority::DEFAULT,
        Kind::Command | Kind::Result | Kind::Error | Kind::Ack => false,
    };
    least && head.class == Class::Live && head.receipt.is_none()
}

/// The way from a link's handle to its carrier.
#[derive(Debug)]
pub(super) struct Outlet {
    queue: queue::Sender<(u8, Encoded)>,
    /// The most bytes that a datagram takes now; 0: there are none on this link.
    most: Arc<AtomicUsize>,
}

/// The carrier's end of it.
#[derive(Debug)]
pub struct Waiting {
    queue: queue::Receiver<(u8, Encoded)>,
    most: Arc<AtomicUsize>,
}

/// Both ends. Nothing goes this way before the carrier begins to send.
pub(super) fn outlet() -> (Outlet, Waiting) {
    let (sender, receiver) = queue::bounded("link.datagrams", BOUND);
    let most = Arc::<AtomicUsize>::default();
    (Outlet { queue: sender, most: most.clone() }, Waiting { queue: receiver, most })
}

impl Outlet {
    /// Takes a frame that may go this way; `false`: it is one for its lane.
    pub(super) fn takes(&self, frame: &Frame, encoded: &Encoded) -> bool {
        let fits = HEADER + encoded.len() <= self.most.load(Ordering::Relaxed);
        if !fits || !may_be_lost(frame) {
            return false;
        }
        let flow = Lane::flow_of(frame);
        match self.queue.try_send((flow, encoded.clone())) {
            Ok(()) => {}
            Err(queue::Refused::Full(_)) => count("dropped"),
            Err(queue::Refused::Closed(_)) => return false,
        }
        true
    }
}

impl Waiting {
    /// Sends what waits, until the connection is over.
    pub(super) async fn send(mut self, connection: quinn::Connection) {
        let mut numbers = [0u32; 256];
        let mut share = Share::default();
        loop {
            self.most.store(connection.max_datagram_size().unwrap_or(0), Ordering::Relaxed);
            let Some((flow, frame)) = self.queue.recv().await else { return };
            let number = &mut numbers[usize::from(flow)];
            *number = number.wrapping_add(1);
            let bytes = pack(flow, *number, &frame);
            let length = bytes.len();
            match connection.send_datagram_wait(bytes).await {
                Ok(()) => count("sent"),
                // The path takes less than a moment ago.
                Err(quinn::SendDatagramError::TooLarge) => count("dropped"),
                Err(_) => return self.most.store(0, Ordering::Relaxed),
            }
            share.used(&connection, length).await;
        }
    }
}

/// Keeps datagrams to their share of the path.
#[derive(Debug, Default)]
pub(super) struct Share {
    owed: Duration,
}

impl Share {
    /// Waits for as long as so many bytes have used up.
    pub(super) async fn used(&mut self, connection: &quinn::Connection, bytes: usize) {
        self.owed += takes(connection, bytes) * SHARE;
        if self.owed >= LEAST_WAIT {
            tokio::time::sleep(std::mem::take(&mut self.owed)).await;
        }
    }
}

/// How long the path takes for so many bytes.
fn takes(connection: &quinn::Connection, bytes: usize) -> Duration {
    let path = connection.stats().path;
    path.rtt.mul_f64(bytes as f64 / path.cwnd.max(1) as f64)
}

/// Reads datagrams until the connection is over, or what comes belongs into a lane.
pub(super) async fn read(
    connection: quinn::Connection,
    (link, events): (LinkId, Inbox),
    urgent: Arc<Seen>,
    failed: queue::Sender<CloseOrder>,
) {
    let mut newest = [0u32; 256];
    while let Ok(datagram) = connection.read_datagram().await {
        let Some((flow, number, frame)) = parse(datagram) else {
            // Another reader may have failed before.
            let _ = failed.try_send(CloseOrder::protocol("a datagram is no message that may come in one"));
            return;
        };
        let taken = if !may_be_lost(&frame) {
            urgent.copy(link, number, frame, &events).await
        } else if is_newer(&mut newest[usize::from(flow)], number) {
            count("received");
            events.send(Event::frame(link, frame)).await.is_ok()
        } else {
            count("late");
            true
        };
        if !taken {
            return;
        }
    }
}

/// Numbers go round (RFC 1982).
fn is_newer(newest: &mut u32, number: u32) -> bool {
    let newer = number.wrapping_sub(*newest) as i32 > 0;
    if newer {
        *newest = number;
    }
    newer
}

pub(super) fn pack(flow: u8, number: u32, frame: &Encoded) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEADER + frame.len());
    bytes.put_u8(flow);
    bytes.put_u32(number);
    bytes.extend_from_slice(&frame.head);
    bytes.extend_from_slice(&frame.payload);
    bytes.freeze()
}

pub(super) fn parse(mut datagram: Bytes) -> Option<(u8, u32, Frame)> {
    if datagram.len() < HEADER {
        return None;
    }
    let header = datagram.split_to(HEADER);
    let (flow, number) = header.split_first()?;
    let number = u32::from_be_bytes(number.try_into().ok()?);
    let mut reader = Reader::default();
    reader.push(datagram);
    let frame = reader.next_frame().ok().flatten();
    let frame = frame.filter(|frame| may_be_lost(frame) || twice::may_come_twice(frame))?;
    Some((*flow, number, frame))
}

pub(super) fn count(what: &str) {
    metrics::DATAGRAMS.with_label_values(&[what]).inc();
}
