//! What one node's disk says of a message; the field names are what `--json` prints, and stay.

use serde::{Deserialize, Serialize};

use crate::store::{self, Found, place_word};
use crate::wire::close::Refusal;
use crate::wire::envelope::State;
use crate::wire::ids::NodeName;
use crate::wire::record::Upstream;

/// A message without a time to live has this, in milliseconds: 30 days.
const LONGEST_MS: u64 = 30 * 24 * 3600 * 1000;

/// One message for one recipient as one node has it. Times are milliseconds since the epoch, by that node's clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The node that says it.
    pub node: NodeName,
    /// Its sender.
    pub from: String,
    /// Its recipient.
    pub to: String,
    /// COMMAND, RESULT …
    pub kind: String,
    /// 1 to 5.
    pub priority: u8,
    /// How far it is: a state of the protocol.
    pub state: String,
    /// Where it lies: mailbox, outbox, copy, handed, dead or ended.
    pub place: String,
    /// Why it ended, where there is something to say.
    pub reason: Option<Reason>,
    /// When this node took it.
    pub taken_ms: u64,
    /// When its time is over.
    pub expires_ms: u64,
    /// When that state was written.
    pub at_ms: u64,
    /// The node that has the other copy, or that has taken it over.
    pub other: Option<NodeName>,
    /// The node that it came from; absent: from its sender.
    pub came_from: Option<NodeName>,
    /// Bytes of its text.
    pub bytes: u64,
    /// The dead message that it has the content of.
    pub retry_of: Option<String>,
    /// What became of it, oldest first.
    pub steps: Vec<Step>,
}

/// Why a message ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// One of the protocol's table.
    pub code: String,
    /// In a sentence.
    pub message: String,
}

/// One change of a message at one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// When.
    pub at_ms: u64,
    /// How far it was from then on.
    pub state: String,
    /// Where it lay.
    pub place: String,
    /// The other node.
    pub other: Option<NodeName>,
}

impl Row {
    pub(super) fn new(node: &NodeName, found: Found) -> Row {
        let Found { kept, bytes, steps } = found;
        let ttl_ms = kept.head.ttl_ms.unwrap_or(LONGEST_MS).min(LONGEST_MS);
        Row {
            node: node.clone(),
            from: kept.key.from.to_string(),
            to: kept.key.to.to_string(),
            kind: kept.head.kind.to_string(),
            priority: kept.head.priority.get(),
            state: kept.state.as_str().into(),
            place: place_word(kept.place).into(),
            reason: kept.reason.map(Reason::from),
            taken_ms: kept.taken_ms,
            expires_ms: kept.taken_ms.saturating_add(ttl_ms),
            at_ms: steps.last().map_or(kept.taken_ms, |step| step.at_ms),
            other: kept.other,
            came_from: match kept.upstream {
                Upstream::Sender => None,
                Upstream::Node(node, ..) => Some(node),
            },
            bytes,
            retry_of: kept.head.retry_of.map(|id| id.to_string()),
            steps: steps.into_iter().map(Step::from).collect(),
        }
    }

    /// It was written to its recipient's socket then, and is not acknowledged yet.
    pub(super) fn delivered(&mut self, at_ms: u64) {
        let state = State::Delivered.as_str();
        if self.reached() < Some(State::Delivered) {
            (self.state, self.at_ms) = (state.into(), at_ms);
            self.steps.push(Step { at_ms, state: state.into(), place: self.place.clone(), other: None });
        }
    }

    /// Its state; that of a newer release is not known here.
    pub(super) fn reached(&self) -> Option<State> {
        state_of(&self.state)
    }

    /// The node where it lies, or where it ended as far as this row knows.
    pub(super) fn lies_at(&self) -> &NodeName {
        let other = self.other.as_ref().filter(|_| matches!(self.place.as_str(), "handed" | "ended"));
        other.filter(|_| self.came_from.is_none()).unwrap_or(&self.node)
    }
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Reason {
        Reason { code: refusal.code.as_str().into(), message: refusal.message }
    }
}

impl From<store::Step> for Step {
    fn from(step: store::Step) -> Step {
        Step {
            at_ms: step.at_ms,
            state: step.state.as_str().into(),
            place: place_word(step.place).into(),
            other: step.other,
        }
    }
}

/// Every state, as far as a message can be.
const STATES: [State; 8] = [
    State::Accepted,
    State::Stored,
    State::Delivered,
    State::Acked,
    State::Nacked,
    State::Expired,
    State::Dead,
    State::Refused,
];

/// Reads the protocol's word.
pub(super) fn state_of(word: &str) -> Option<State> {
    STATES.into_iter().find(|state| state.as_str() == word)
}
