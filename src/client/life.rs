//! Whether a node still says anything.

use std::future::Future;

use tokio::time::Instant;

use super::task::{ASK_AFTER, PATIENCE};
use crate::rt::clock;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    Fine,
    /// Ask for a sign of life.
    Ask,
    /// The node hangs.
    Gone,
}

/// Notes when something came last.
#[derive(Debug)]
pub(super) struct Life {
    /// Nothing is looked at where there is no other node to go to.
    watched: bool,
    heard: Instant,
    asked: bool,
}

impl Life {
    pub(super) fn new(watched: bool) -> Life {
        Life { watched, heard: clock::now(), asked: false }
    }

    pub(super) fn heard(&mut self) {
        (self.heard, self.asked) = (clock::now(), false);
    }

    /// Waits until it is time to look, or for another moment, where that is earlier.
    pub(super) fn due(&self, or: Option<Instant>) -> impl Future<Output = ()> + use<> {
        let look = self.watched.then(|| self.next_look());
        let next = [look, or.filter(|at| *at > clock::now())].into_iter().flatten().min();
        async move {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        }
    }

    fn next_look(&self) -> Instant {
        self.heard + if self.asked { PATIENCE } else { ASK_AFTER }
    }

    /// A look that comes late means that this process stood still: what came meanwhile was not read yet.
    pub(super) fn look(&mut self) -> Sign {
        let next = self.next_look();
        let late = clock::since(next);
        if !self.watched || clock::now() < next {
            return Sign::Fine;
        }
        if late >= PATIENCE - ASK_AFTER {
            (self.heard, self.asked) = (clock::now() - ASK_AFTER, true);
            return Sign::Ask;
        }
        if std::mem::replace(&mut self.asked, true) { Sign::Gone } else { Sign::Ask }
    }
}
