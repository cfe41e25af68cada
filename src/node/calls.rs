//! Answers that somebody waits for: a call to another node, until the mesh says what came of it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::handle::CallError;
use super::status::CallAnswer;
use crate::mesh::{AskFailed, Time};
use crate::wire::close::Refusal;
use crate::wire::ids::{NodeName, Sequence};

/// Where an answer goes.
pub(super) type Answer = oneshot::Sender<Result<CallAnswer, CallError>>;

struct Waiting {
    answer: Answer,
    asked: Time,
    within: Duration,
}

/// Every call that waits; the mesh bounds how many there can be.
#[derive(Default)]
pub(super) struct Calls {
    waiting: BTreeMap<Sequence, Waiting>,
    last: u64,
}

impl Calls {
    /// Remembers who waits; answers the number for the mesh.
    pub(super) fn begin(&mut self, answer: Answer, now: Time, within: Duration) -> Sequence {
        self.last += 1;
        let number = Sequence(self.last);
        self.waiting.insert(number, Waiting { answer, asked: now, within });
        number
    }

    /// Tells who waits what came of it.
    pub(super) fn end(
        &mut self,
        number: Sequence,
        now: Time,
        result: Result<(Vec<NodeName>, Bytes), AskFailed>,
    ) {
        let Some(waiting) = self.waiting.remove(&number) else { return };
        let took_ms = now.since(waiting.asked).as_secs_f64() * 1e3;
        let result = result
            .map(|(route, body)| CallAnswer { route, took_ms, body })
            .map_err(|failed| error_of(failed, waiting.within));
        // Whoever asked may have gone.
        let _ = waiting.answer.send(result);
    }
}

/// Messages that the operator sends for somebody: the mesh says at once whether it took them.
#[derive(Default)]
pub(super) struct Posts {
    waiting: BTreeMap<Sequence, oneshot::Sender<Result<(), Refusal>>>,
    last: u64,
}

impl Posts {
    /// Remembers who waits; answers the number for the mesh.
    pub(super) fn begin(&mut self, answer: oneshot::Sender<Result<(), Refusal>>) -> Sequence {
        self.last += 1;
        let number = Sequence(self.last);
        self.waiting.insert(number, answer);
        number
    }

    /// Tells who waits what came of it.
    pub(super) fn end(&mut self, number: Sequence, result: Result<(), Refusal>) {
        if let Some(answer) = self.waiting.remove(&number) {
            // Whoever asked may have gone.
            let _ = answer.send(result);
        }
    }
}

fn error_of(failed: AskFailed, within: Duration) -> CallError {
    match failed {
        AskFailed::UnknownNode(node) => CallError::UnknownNode(node.to_string()),
        AskFailed::NoHolder => CallError::NoHolder,
        AskFailed::NoRoute(node) => CallError::NoRoute(node),
        AskFailed::TimedOut(node) => CallError::TimedOut(node, within),
        AskFailed::Refused(node, why) => CallError::Refused(node, why),
        AskFailed::Busy => CallError::Busy,
    }
}
