//! Faults planted on purpose between the core and the world: each breaks a promise, and must be found.

use trishula::wire::frame::{Frame, RoomJoined, RoomSays, RoomState, RoomSubscribe};
use trishula::wire::room::Position;

use crate::rng::Rng;
use crate::scenario;

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// A publish counts as written before it is.
    AcceptsTooEarly,
    /// Histories are gone at a restart.
    ForgetsHistory,
    /// A node counts on from the life before.
    LivesTheSameLife,
    /// Nobody says which publish comes before which, and some are lost.
    HidesGaps,
    /// An entrance subscribes again as if for the first time.
    ForgetsThePlace,
    /// Keepers never tell each other what they have.
    AsksNobody,
    /// What can't be had any more is not told.
    TellsNoLapse,
    /// Whoever subscribes is told that nothing is missing.
    CallsAllRecovered,
    /// What a reader missed is given to it from the beginning.
    BeginsTooEarly,
    /// The last thing that a reader missed is left out.
    EndsTooEarly,
}

pub const ALL: &[Sabotage] = &[
    Sabotage::AcceptsTooEarly,
    Sabotage::ForgetsHistory,
    Sabotage::LivesTheSameLife,
    Sabotage::HidesGaps,
    Sabotage::ForgetsThePlace,
    Sabotage::AsksNobody,
    Sabotage::TellsNoLapse,
    Sabotage::CallsAllRecovered,
    Sabotage::BeginsTooEarly,
    Sabotage::EndsTooEarly,
];

impl Sabotage {
    /// A frame as it crosses the wire; `None`: not at all.
    pub fn tamper(fault: Option<Sabotage>, frame: &Frame, rng: &mut Rng) -> Option<Frame> {
        let mut frame = frame.clone();
        match (fault, &mut frame) {
            (Some(Sabotage::HidesGaps), Frame::RoomEntry(entry, _)) => {
                entry.after = Position::default();
                if rng.percent(3) {
                    return None;
                }
            }
            (Some(Sabotage::ForgetsThePlace), Frame::RoomSubscribe(RoomSubscribe { cursor, .. })) => {
                *cursor = None
            }
            (Some(Sabotage::AsksNobody), Frame::RoomState(RoomState { says, .. }))
                if *says != RoomSays::Have =>
            {
                return None;
            }
            (Some(Sabotage::TellsNoLapse), Frame::RoomLapse(_)) => return None,
            (Some(Sabotage::TellsNoLapse), Frame::RoomMessage(message, _)) => {
                message.after = Position::default()
            }
            (Some(Sabotage::CallsAllRecovered), Frame::RoomJoined(RoomJoined { recovered, .. }, _)) => {
                *recovered = true;
            }
            (
                Some(Sabotage::BeginsTooEarly),
                Frame::RoomSubscribe(RoomSubscribe { cursor: Some(cursor), .. }),
            ) => {
                cursor.at.pop_first();
            }
            (Some(Sabotage::EndsTooEarly), Frame::RoomJoined(RoomJoined { messages, .. }, _)) => {
                messages.pop();
            }
            _ => {}
        }
        Some(frame)
    }
}

#[test]
fn each_planted_fault_is_found() {
    // covers B07
    for fault in ALL {
        let found =
            (0..1_000).find_map(|seed| Some((seed, scenario::run_with(seed, false, Some(*fault)).0?)));
        match found {
            Some((seed, why)) => eprintln!("{fault:?}: seed {seed}: {why}"),
            None => panic!("{fault:?} was not found"),
        }
    }
}
