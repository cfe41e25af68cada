//! Frames counted by kind. Each counter is looked up once, not for every frame.

use std::sync::LazyLock;

use prometheus::{IntCounter, IntCounterVec};

use crate::metrics;
use crate::wire::frame::Frame;

/// A counter for each value of a frame's first byte; kinds that are not known share one.
struct ByKind(Vec<IntCounter>);

impl ByKind {
    fn of(counters: &IntCounterVec) -> ByKind {
        ByKind((0..=u8::MAX).map(|kind| counters.with_label_values(&[Frame::name_of(kind)])).collect())
    }

    fn count(&self, frame: &Frame) {
        // There is one for every byte.
        if let Some(counter) = self.0.get(usize::from(frame.kind())) {
            counter.inc();
        }
    }
}

/// A frame came over a link.
pub(super) fn received(frame: &Frame) {
    static RECEIVED: LazyLock<ByKind> = LazyLock::new(|| ByKind::of(&metrics::FRAMES_IN));
    RECEIVED.count(frame);
}

/// A frame was queued for a link.
pub(super) fn sent(frame: &Frame) {
    static SENT: LazyLock<ByKind> = LazyLock::new(|| ByKind::of(&metrics::FRAMES_OUT));
    SENT.count(frame);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_under_their_own_names() {
        // covers T22
        let counters = IntCounterVec::new(prometheus::Opts::new("frames", "Frames"), &["kind"]).unwrap();
        let by_kind = ByKind::of(&counters);
        for frame in
            [Frame::Ping(1), Frame::Ping(2), Frame::Pong(1, 2), Frame::Unknown(200), Frame::Unknown(0)]
        {
            by_kind.count(&frame);
        }
        let counted = |kind: &str| counters.with_label_values(&[kind]).get();
        assert_eq!((counted("Ping"), counted("Pong"), counted("Unknown"), counted("Hello")), (2, 1, 2, 0));
    }
}
