//! What is written next where all lanes share one stream: control, then urgent, then the ordered lanes in turn,
//! then bulk.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};

use super::Lane;
use crate::rt::queue;
use crate::wire::frame::Encoded;

/// Bytes before each piece: its lane and its length.
const PIECE_HEAD: usize = 3;
/// A write with less room than this is full: a piece of a few bytes is not worth its head.
const WORTH: usize = 256;

/// The lanes' queues, and which ordered lane is next.
pub(super) struct Lanes {
    queues: Vec<queue::Receiver<Encoded>>,
    turn: usize,
}

impl Lanes {
    pub(super) fn new(queues: Vec<queue::Receiver<Encoded>>) -> Lanes {
        Lanes { queues, turn: 0 }
    }

    /// The next frame by lane; waits when there is none, `None` when there will never be one.
    pub(super) async fn next(&mut self) -> Option<(usize, Encoded)> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next frame if there is one now.
    pub(super) fn next_now(&mut self) -> Option<(usize, Encoded)> {
        self.order().find_map(|lane| {
            let frame = self.queues.get_mut(lane)?.try_recv().ok()?;
            self.took(lane);
            Some((lane, frame))
        })
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<(usize, Encoded)>> {
        let mut open = false;
        for lane in self.order() {
            let Some(queue) = self.queues.get_mut(lane) else { continue };
            match queue.poll_recv(cx) {
                Poll::Ready(Some(frame)) => {
                    self.took(lane);
                    return Poll::Ready(Some((lane, frame)));
                }
                Poll::Ready(None) => {}
                Poll::Pending => open = true,
            }
        }
        if open { Poll::Pending } else { Poll::Ready(None) }
    }

    /// Control, urgent, then the ordered lanes from the one whose turn it is, then bulk.
    fn order(&self) -> impl Iterator<Item = usize> + use<> {
        let (first, bulk, turn) = (Lane::Ordered(0).index(), Lane::Bulk.index(), self.turn);
        let ordered = bulk - first;
        (0..first).chain((0..ordered).map(move |n| first + (turn + n) % ordered)).chain([bulk])
    }

    fn took(&mut self, lane: usize) {
        let (first, bulk) = (Lane::Ordered(0).index(), Lane::Bulk.index());
        if (first..bulk).contains(&lane) {
            self.turn = lane - first + 1;
        }
    }
}

/// Frames cut into pieces, so that a large one of one lane delays no other lane.
pub(super) struct Pieces {
    lanes: Lanes,
    /// What is left of the frame that a lane has begun.
    begun: Vec<Encoded>,
}

impl Pieces {
    pub(super) fn new(lanes: Lanes) -> Pieces {
        let begun = (0..Lane::COUNT).map(|_| Encoded { head: Bytes::new(), payload: Bytes::new() });
        Pieces { lanes, begun: begun.collect() }
    }

    /// Puts what is next into `out`, up to `most` bytes; waits when there is nothing. `false`: there will never be
    /// more.
    pub(super) async fn gather(&mut self, out: &mut BytesMut, most: usize) -> bool {
        loop {
            while out.len() + PIECE_HEAD + WORTH <= most && self.put_next(out, most) {}
            if !out.is_empty() {
                return true;
            }
            let Some((lane, frame)) = self.lanes.next().await else { return false };
            if let Some(begun) = self.begun.get_mut(lane) {
                *begun = frame;
            }
        }
    }

    /// One piece of the lane that is next; `false`: there is none now.
    fn put_next(&mut self, out: &mut BytesMut, most: usize) -> bool {
        let (control, urgent) = (Lane::Control.index(), Lane::Urgent.index());
        // The agents of a large node are megabytes: the rest of such a frame waits for what is urgent.
        let first = self.begun.get(control).is_some_and(|begun| !begun.is_empty()).then_some(urgent);
        for lane in first.into_iter().chain(self.lanes.order()) {
            let Some(begun) = self.begun.get_mut(lane) else { continue };
            if begun.is_empty() {
                let Some(Ok(frame)) = self.lanes.queues.get_mut(lane).map(|queue| queue.try_recv()) else {
                    continue;
                };
                *begun = frame;
            }
            let room = most - out.len() - PIECE_HEAD;
            let is_head = !begun.head.is_empty();
            let part = if is_head { &mut begun.head } else { &mut begun.payload };
            let piece = part.split_to(part.len().min(room));
            put_piece(out, lane, &piece);
            // A payload follows its head at once; then the others have their turn.
            if !is_head || !begun.head.is_empty() || begun.is_empty() {
                self.lanes.took(lane);
            }
            return true;
        }
        false
    }
}

/// One piece: at most 65,535 bytes.
pub(super) fn put_piece(out: &mut BytesMut, lane: usize, bytes: &[u8]) {
    out.put_u8(lane as u8);
    out.put_u16(bytes.len() as u16);
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Written {
        lanes: Vec<queue::Sender<Encoded>>,
        pieces: Pieces,
    }

    fn writer() -> Written {
        let (lanes, queues) = (0..Lane::COUNT).map(|_| queue::bounded("test.lane", 64)).unzip();
        Written { lanes, pieces: Pieces::new(Lanes::new(queues)) }
    }

    impl Written {
        fn queue(&self, lane: Lane, payload: usize) {
            let frame = Encoded { head: Bytes::from_static(b"head"), payload: Bytes::from(vec![7; payload]) };
            self.lanes[lane.index()].try_send(frame).unwrap();
        }

        /// Lane and length of each piece of the next write.
        async fn next(&mut self, most: usize) -> Vec<(usize, usize)> {
            let mut out = BytesMut::new();
            assert!(self.pieces.gather(&mut out, most).await);
            assert!(out.len() <= most, "{} bytes in a write of at most {most}", out.len());
            let mut found = Vec::new();
            while !out.is_empty() {
                let head = out.split_to(PIECE_HEAD);
                let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
                let _ = out.split_to(length);
                found.push((usize::from(head[0]), length));
            }
            found
        }
    }

    #[tokio::test]
    async fn what_is_urgent_waits_for_one_write_and_large_frames_take_turns() {
        // covers T02, Q01
        let mut writer = writer();
        let (control, urgent) = (Lane::Control.index(), Lane::Urgent.index());
        let ordered = |n| Lane::Ordered(n).index();
        writer.queue(Lane::Ordered(3), 3_000);
        writer.queue(Lane::Ordered(5), 1_500);
        assert_eq!(writer.next(1_000).await, [(ordered(3), 4), (ordered(3), 990)]);
        writer.queue(Lane::Urgent, 10);
        let second = [(urgent, 4), (urgent, 10), (ordered(5), 4), (ordered(5), 970)];
        assert_eq!(writer.next(1_000).await, second, "the frame that was begun waits");
        assert_eq!(writer.next(1_000).await, [(ordered(3), 997)]);
        // The rest of the one, and a piece of the other.
        assert_eq!(writer.next(1_000).await, [(ordered(5), 530), (ordered(3), 464)]);
        assert_eq!(writer.next(1_000).await, [(ordered(3), 549)]);

        writer.queue(Lane::Control, 3_000);
        assert_eq!(writer.next(1_000).await, [(control, 4), (control, 990)]);
        writer.queue(Lane::Urgent, 10);
        assert_eq!(writer.next(1_000).await[..2], [(urgent, 4), (urgent, 10)]);
    }
}
