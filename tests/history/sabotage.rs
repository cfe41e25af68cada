//! Faults planted on purpose between the core and the world: each breaks a promise, and must be found.

use trishula::wire::close::{Code, Refusal};
use trishula::wire::envelope::State;
use trishula::wire::frame::{Frame, Outcome};
use trishula::wire::ids::Sequence;
use trishula::wire::record::{Memory, Place, Record, Upstream};

use crate::runs::replay_line;
use crate::scenario;

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// A message counts as written before it is, where its sender gave it.
    AcceptsTooEarly,
    /// The same at its recipient's home.
    TakesOverTooEarly,
    /// The same for a recipient's word.
    AcknowledgesTooEarly,
    /// The marks of messages that have ended are gone at a restart.
    ForgetsMarks,
    /// What waits for recipients is gone at a restart.
    ForgetsMailboxes,
    /// What is on its way to another node is gone at a restart.
    ForgetsOutboxes,
    /// A node counts on from the life before.
    LivesTheSameLife,
    /// No delivery is marked as a second one.
    MarksNothing,
    /// Nobody says which message comes before which.
    LosesThePlace,
    /// What became of messages is never passed back.
    TellsNoEnd,
    /// The same of those whose time was over.
    TellsNoExpiry,
    /// The time that is left is not passed on.
    LivesForEver,
    /// A message is delivered before its time.
    CannotWait,
    /// Takes a message's word for being written twice, and writes it nowhere.
    HoldsNoCopy,
    /// Calls a message expired that was acknowledged.
    TellsAnotherEnd,
    /// Buries what waits for a word of its recipient.
    BuriesTheLiving,
}

pub const ALL: &[Sabotage] = &[
    Sabotage::AcceptsTooEarly,
    Sabotage::TakesOverTooEarly,
    Sabotage::AcknowledgesTooEarly,
    Sabotage::ForgetsMarks,
    Sabotage::ForgetsMailboxes,
    Sabotage::ForgetsOutboxes,
    Sabotage::LivesTheSameLife,
    Sabotage::MarksNothing,
    Sabotage::LosesThePlace,
    Sabotage::TellsNoEnd,
    Sabotage::TellsNoExpiry,
    Sabotage::LivesForEver,
    Sabotage::CannotWait,
    Sabotage::HoldsNoCopy,
    Sabotage::TellsAnotherEnd,
    Sabotage::BuriesTheLiving,
];

impl Sabotage {
    /// Whether the core is told at once that this is on disk.
    pub fn lies_about(self, record: &Record) -> bool {
        match (self, record) {
            (Sabotage::AcceptsTooEarly, Record::Keep(kept)) => kept.upstream == Upstream::Sender,
            (Sabotage::TakesOverTooEarly, Record::Keep(kept)) => {
                kept.upstream != Upstream::Sender && kept.place == Place::Mailbox
            }
            (Sabotage::HoldsNoCopy, Record::Keep(kept)) => kept.place == Place::Copy,
            (Sabotage::AcknowledgesTooEarly, Record::Change(_, change)) => change.state == State::Acked,
            _ => false,
        }
    }

    /// What a node is told at its start.
    pub fn edit_memory(self, memory: &mut Memory) {
        match self {
            Sabotage::ForgetsMarks => {
                memory.messages.retain(|kept| !matches!(kept.place, Place::Ended | Place::Handed));
            }
            Sabotage::ForgetsMailboxes => memory.messages.retain(|kept| kept.place != Place::Mailbox),
            Sabotage::ForgetsOutboxes => memory.messages.retain(|kept| kept.place != Place::Outbox),
            _ => {}
        }
    }

    /// What leaves a node.
    pub fn edit_frame(self, frame: &mut Frame) {
        match (self, frame) {
            (Sabotage::MarksNothing, Frame::Deliver(deliver, _)) => {
                deliver.to.iter_mut().for_each(|handing| handing.redelivered = false);
            }
            (Sabotage::LosesThePlace, Frame::Forward(forward, _)) => {
                forward.to.iter_mut().for_each(|dest| dest.after = Sequence(0));
            }
            (Sabotage::LivesForEver, Frame::Forward(forward, _)) => forward.head.ttl_ms = None,
            (Sabotage::CannotWait, Frame::Forward(forward, _)) => forward.head.not_before_ms = None,
            (Sabotage::TellsNoEnd, Frame::Confirm(confirm)) => {
                confirm
                    .reports
                    .retain(|(_, outcome)| !matches!(outcome, Outcome::Reached(state, _) if state.is_end()));
            }
            (Sabotage::TellsNoExpiry, Frame::Confirm(confirm)) => {
                confirm
                    .reports
                    .retain(|(_, outcome)| !matches!(outcome, Outcome::Reached(State::Expired, _)));
            }
            (Sabotage::TellsAnotherEnd, Frame::Told(_, receipt)) if receipt.state == State::Acked => {
                receipt.state = State::Expired;
            }
            (Sabotage::BuriesTheLiving, Frame::Confirm(confirm)) => {
                for (_, outcome) in &mut confirm.reports {
                    if *outcome == Outcome::Reached(State::Acked, None) {
                        let why = Refusal::new(Code::UnknownRecipient, "planted");
                        *outcome = Outcome::Reached(State::Dead, Some(why));
                    }
                }
            }
            _ => {}
        }
    }
}

#[test]
fn every_planted_fault_is_found() {
    // covers T06, Q04
    let mut missed = Vec::new();
    for sabotage in ALL {
        let found = (1..=1_000).find_map(|seed| {
            let why = scenario::run_with(seed, false, Some(*sabotage)).broken?;
            // Without the fault the same history must be whole, or something else was found.
            scenario::run(seed, false).broken.is_none().then_some((seed, why))
        });
        match found {
            Some((seed, why)) => {
                let why: String = why.chars().take(160).collect();
                eprintln!("{sabotage:?}: found by seed {seed}: {why}");
            }
            None => missed.push(sabotage),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}; without them: {}", replay_line(1));
}
