//! What the core tells, for the log and the metrics.

use crate::mesh::{Event, Step};
use crate::metrics;

/// Tells it.
pub fn report(event: &Event) {
    match event {
        Event::Reachable(node) => tracing::info!(%node, "node reachable"),
        Event::Unreachable(node) => tracing::warn!(%node, "node unreachable"),
        Event::Settled { peer, kept, closed } => {
            tracing::debug!(%peer, %kept, %closed, "two connections to one node: one is closed");
        }
        Event::HandedOver => metrics::MESSAGES_DELIVERED.inc(),
        Event::Refused(code) => metrics::MESSAGES_REFUSED.with_label_values(&[*code]).inc(),
        Event::Hop(hop) => match hop.step {
            Step::Recognised => metrics::MESSAGES_RECOGNISED.inc(),
            Step::TookOver => metrics::MESSAGES_TAKEN_OVER.inc(),
            _ => {}
        },
        Event::EarlyRepeated => metrics::EARLY_MESSAGES.with_label_values(&["repeated"]).inc(),
        Event::Stray(frame) => {
            tracing::debug!(frame, "a frame that says nothing to this node was left alone")
        }
        Event::RolledBack { previous, seen } => {
            tracing::error!(
                %previous, %seen,
                "this node's store is an old one: others have seen a later life of this node. It takes and sends nothing until you say how to go on: trishula store resume --redeliver, or --bury"
            );
        }
        Event::NameClash(link) => {
            tracing::error!(%link, "another process calls itself by this node's name");
        }
        Event::Ignored(link, frame) => tracing::debug!(%link, frame, "a frame was ignored"),
    }
}
