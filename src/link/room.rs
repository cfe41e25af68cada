//! How many bytes may wait in a lane. The number of frames alone would let a few clients fill the memory: 4,096
//! frames of 16 MiB each are more than any machine has.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::wire::frame::Encoded;

/// Bytes of large frames that may wait in one lane, until the carrier has done with them. One frame fits always.
pub(super) const LANE_BYTES: usize = 16 << 20;
/// Smaller frames are bounded well enough by their number.
const SMALL: usize = 4096;

/// The room of one lane.
#[derive(Debug)]
pub(super) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Room {
        Room(Arc::new(Semaphore::new(LANE_BYTES)))
    }
}

impl Room {
    /// Takes room for a frame, which gives it back when its last byte is dropped; `None`: there is none.
    pub(super) fn try_take(&self, frame: Encoded) -> Option<Encoded> {
        let Some(bytes) = needed(&frame) else { return Some(frame) };
        self.0.clone().try_acquire_many_owned(bytes).ok().map(|place| held(frame, place))
    }

    /// The same, but waits for it.
    pub(super) async fn take(&self, frame: Encoded) -> Encoded {
        let Some(bytes) = needed(&frame) else { return frame };
        match self.0.clone().acquire_many_owned(bytes).await {
            Ok(place) => held(frame, place),
            // It is never closed.
            Err(_) => frame,
        }
    }
}

fn needed(frame: &Encoded) -> Option<u32> {
    let bytes = frame.len().min(LANE_BYTES);
    (bytes > SMALL).then_some(bytes as u32)
}

struct Held {
    bytes: Bytes,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn held(frame: Encoded, place: OwnedSemaphorePermit) -> Encoded {
    let Encoded { head, payload } = frame;
    let hold = |bytes| Bytes::from_owner(Held { bytes, _place: place });
    if payload.len() >= head.len() {
        Encoded { head, payload: hold(payload) }
    } else {
        Encoded { head: hold(head), payload }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: usize) -> Encoded {
        Encoded { head: Bytes::from_static(b"head"), payload: Bytes::from(vec![7; payload]) }
    }

    #[tokio::test]
    async fn large_frames_take_no_more_than_their_room_and_give_it_back() {
        // covers B09, B19
        let room = Room::default();
        let first = room.try_take(frame(LANE_BYTES / 2)).unwrap();
        let second = room.try_take(frame(LANE_BYTES / 2 - 100)).unwrap();
        assert!(room.try_take(frame(SMALL)).is_none());
        assert!(room.try_take(frame(100)).is_some(), "small ones are counted elsewhere");
        let Encoded { head, payload } = first;
        drop(head);
        assert!(room.try_take(frame(SMALL)).is_none(), "its payload may still be on its way");
        assert!(payload.iter().all(|byte| *byte == 7));
        drop(payload);
        let larger_than_the_room = frame(2 * LANE_BYTES);
        tokio::join!(
            async { assert_eq!(room.take(larger_than_the_room).await.payload.len(), 2 * LANE_BYTES) },
            async { drop(second) }
        );
        assert!(room.try_take(frame(LANE_BYTES)).is_some());
    }
}
