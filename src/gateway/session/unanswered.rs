//! Messages whose sender has asked for a receipt and has had no word of them: if the link breaks, nobody knows whether they have
//! reached the node, and he is told so.

use std::collections::VecDeque;

use crate::metrics;
use crate::wire::envelope::{Class, Head};
use crate::wire::ids::MessageId;

/// As many are remembered; of more, the oldest are not, which is counted.
const MOST: usize = 1024;

/// In the order in which they were sent.
#[derive(Debug, Default)]
pub(super) struct Unanswered(VecDeque<MessageId>);

impl Unanswered {
    /// A message is on its way to the node. What is live may get lost without a word.
    pub(super) fn sent(&mut self, head: &Head) {
        if head.receipt.is_none() || head.class == Class::Live {
            return;
        }
        if self.0.len() >= MOST {
            self.0.pop_front();
            metrics::QUEUE_FULL.with_label_values(&["session.unanswered"]).inc();
        }
        self.0.push_back(head.id.clone());
    }

    /// Something is known of it.
    pub(super) fn answered(&mut self, id: &MessageId) {
        if let Some(at) = self.0.iter().position(|sent| sent == id) {
            self.0.remove(at);
        }
    }

    /// All of them, which are forgotten here.
    pub(super) fn take(&mut self) -> VecDeque<MessageId> {
        std::mem::take(&mut self.0)
    }
}
