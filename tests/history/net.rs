//! Wires between machines, and between an entrance and its node: each keeps the order of a lane, lanes do not wait for
//! each other, and what is under way when a wire breaks is lost.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use trishula::link::Lane;
use trishula::wire::frame::Frame;
use trishula::wire::ids::LinkId;

use crate::clock::Us;
use crate::rng::Rng;

pub type WireNo = u64;

/// Who holds an end of a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// A machine's node, in this life of it.
    Node(usize, u64),
    /// An entrance, in this life of it.
    Gate(usize, u64),
}

#[derive(Debug)]
pub struct End {
    pub who: Party,
    pub link: LinkId,
    /// It was told that messages may cross the wire already.
    pub early: bool,
    /// It was told that the wire is up.
    pub up: bool,
    /// It was told, or knows, that the wire is over.
    pub gone: bool,
}

#[derive(Debug)]
pub struct Wire {
    pub ends: [End; 2],
    pub delay: Us,
    pub jitter: Us,
    /// Nothing comes through any more, and whoever does not know yet finds out.
    pub broken: bool,
    /// When the last frame of each lane arrives, by the end that sends.
    last: [[Us; Lane::COUNT]; 2],
    /// What waits for the way to open again, by the end that sends.
    held: [Vec<(usize, Bytes)>; 2],
}

impl Wire {
    pub fn works(&self) -> bool {
        !self.broken && self.ends.iter().all(|end| end.up && !end.gone)
    }

    /// When a frame that is sent now arrives.
    pub fn arrival(&mut self, side: usize, lane: usize, now: Us, rng: &mut Rng) -> Us {
        let at = now + self.delay + rng.below(self.jitter + 1);
        let at = at.max(self.last[side][lane] + 1);
        self.last[side][lane] = at;
        at
    }

    /// Messages from this end may arrive from then on, whatever the other one knows.
    pub fn messages_from(&mut self, side: usize, at: Us) {
        let control = Lane::Control.index();
        self.last[side]
            .iter_mut()
            .enumerate()
            .filter(|(lane, _)| *lane != control)
            .for_each(|(_, last)| *last = at);
    }

    pub fn hold(&mut self, side: usize, lane: usize, bytes: Bytes) {
        self.held[side].push((lane, bytes));
    }

    pub fn take_held(&mut self, side: usize) -> Vec<(usize, Bytes)> {
        std::mem::take(&mut self.held[side])
    }
}

#[derive(Debug, Default)]
pub struct Net {
    pub wires: BTreeMap<WireNo, Wire>,
    by_link: BTreeMap<LinkId, (WireNo, usize)>,
    /// From one machine to another nothing gets through until then.
    pub blocked: BTreeMap<(usize, usize), Us>,
    last: u64,
}

impl Net {
    /// A wire whose ends are not told yet; `up` is when each will be.
    pub fn lay(&mut self, who: [Party; 2], delay: Us, jitter: Us, up: [Us; 2]) -> WireNo {
        self.last += 1;
        let number = self.last;
        let links = [LinkId(number * 2), LinkId(number * 2 + 1)];
        let end =
            |side: usize| End { who: who[side], link: links[side], early: false, up: false, gone: false };
        // Nothing arrives at an end before it knows of the wire.
        let last = [[up[1]; Lane::COUNT], [up[0]; Lane::COUNT]];
        let held = [Vec::new(), Vec::new()];
        let wire = Wire { ends: [end(0), end(1)], delay, jitter, broken: false, last, held };
        self.wires.insert(number, wire);
        self.by_link.insert(links[0], (number, 0));
        self.by_link.insert(links[1], (number, 1));
        number
    }

    /// For a link whose other end is nobody's.
    pub fn number_for_a_stranger(&mut self) -> LinkId {
        self.last += 1;
        LinkId(self.last * 2)
    }

    pub fn find(&self, link: LinkId) -> Option<(WireNo, usize)> {
        self.by_link.get(&link).copied()
    }

    /// The end knows that the wire is over; when both do, it is forgotten.
    pub fn leave(&mut self, number: WireNo, side: usize) {
        let Some(wire) = self.wires.get_mut(&number) else { return };
        wire.ends[side].gone = true;
        if wire.ends.iter().all(|end| end.gone) {
            for end in &wire.ends {
                self.by_link.remove(&end.link);
            }
            self.wires.remove(&number);
        }
    }

    pub fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.blocked.contains_key(&(from, to))
    }

    /// Wires that fulfil a condition, by number.
    pub fn select(&self, wanted: impl Fn(&Wire) -> bool) -> Vec<WireNo> {
        self.wires.iter().filter(|(_, wire)| wanted(wire)).map(|(number, _)| *number).collect()
    }
}

/// Every frame crosses a wire as bytes.
pub fn encode(frame: &Frame) -> Bytes {
    let encoded = frame.encode();
    let mut bytes = BytesMut::with_capacity(encoded.len());
    bytes.extend_from_slice(&encoded.head);
    bytes.extend_from_slice(&encoded.payload);
    bytes.freeze()
}

pub fn decode(mut bytes: Bytes) -> Frame {
    let frame = Frame::decode(&mut bytes).expect("a frame of ours can be read").expect("it is whole");
    assert!(bytes.is_empty(), "nothing is left of it");
    frame
}
