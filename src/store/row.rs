//! A message as a row: what is written once (`head`), what became of it step by step (`passage`), and the checksums that
//! tell a row that was written from one that a disk has changed.
//!
//! A row is damaged on its own: sums are of one row, seeded with its key, so that parts of two rows do not fit together.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::wire::close::Refusal;
use crate::wire::envelope::{Head, MessageKey, State};
use crate::wire::ids::{AgentAddr, AgentName, Incarnation, MessageId, Namespace, NodeName, Sequence};
use crate::wire::record::{Change, Kept, Place, Upstream};

mod place;

pub use place::{PLACES, place_word};
pub(super) use place::{has_payload, place_index, read_place};

/// The first byte of `head`: how the rest is written. A head grows at its end, and a reader leaves what follows alone: so an
/// earlier release reads what this one writes.
const FORM: u8 = 1;
/// Bytes of a checksum.
const SUM: usize = 4;
/// Steps of a message that are kept from its beginning, and from its end: one that is tried for weeks must not grow for
/// weeks.
const FIRST_STEPS: usize = 8;
const LAST_STEPS: usize = 56;

/// One step of a message: taken, handed over, delivered, ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Where it lay from then on.
    #[serde(with = "place")]
    pub place: Place,
    /// How far it was.
    pub state: State,
    /// The wall clock, in milliseconds.
    pub at_ms: u64,
    /// The node that had the other copy, or that took it over.
    pub other: Option<NodeName>,
    /// Why it ended.
    pub reason: Option<Refusal>,
    /// Whether its end was told to whoever it came from.
    pub told: bool,
}

impl Step {
    /// The first step of a message that is kept.
    pub(super) fn first(kept: &Kept) -> Step {
        Step {
            place: kept.place,
            state: kept.state,
            at_ms: kept.taken_ms,
            other: kept.other.clone(),
            reason: kept.reason.as_ref().map(bounded),
            told: kept.told,
        }
    }

    /// The step that a change makes.
    pub(super) fn of(change: &Change) -> Step {
        Step {
            place: change.place,
            state: change.state,
            at_ms: change.at_ms,
            other: change.other.clone(),
            reason: change.reason.as_ref().map(bounded),
            told: change.told,
        }
    }
}

/// A reason that came from another node may be of any length; a step is at most 64 KiB.
fn bounded(reason: &Refusal) -> Refusal {
    Refusal::new(reason.code, reason.message.as_str())
}

/// How an agent is served: its column `shared`. Earlier releases write 0 or 1 there, and take all but 0 for shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct How {
    /// Its sessions share its messages.
    pub shared: bool,
    /// It is forgotten with the last of them.
    pub transient: bool,
}

impl How {
    pub fn number(self) -> i64 {
        i64::from(self.shared) | i64::from(self.transient) << 1
    }

    pub fn of(number: i64) -> How {
        How { shared: number & 1 != 0, transient: number & 2 != 0 }
    }
}

/// What is written once. The head is last: it is the part that grows.
#[derive(Serialize)]
struct FixedRef<'a> {
    upstream: Option<(&'a NodeName, Incarnation, Sequence)>,
    taken_ms: u64,
    unseen_since: u64,
    bytes: u64,
    payload_sum: u32,
    head: &'a Head,
}

#[derive(Deserialize)]
struct Fixed {
    upstream: Option<(NodeName, Incarnation, Sequence)>,
    taken_ms: u64,
    unseen_since: u64,
    bytes: u64,
    payload_sum: u32,
    head: Head,
}

/// Where a message is besides a row that is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rest {
    /// Another row of this store has it whole.
    Here,
    /// It had ended: the row was only its mark.
    Ended,
    /// This node has a copy, or has taken it over.
    At(NodeName),
    /// No other node has it.
    Nowhere,
    /// It is of a room, and other nodes that keep that may have it.
    Keepers,
    /// The row does not tell any more.
    Unknown,
}

impl Rest {
    /// As the quarantine has it.
    pub(super) fn code(&self) -> String {
        match self {
            Rest::Here => "here".into(),
            Rest::Ended => "ended".into(),
            Rest::At(node) => format!("at {node}"),
            Rest::Nowhere => "nowhere".into(),
            Rest::Keepers => "keepers".into(),
            Rest::Unknown => "unknown".into(),
        }
    }

    /// Reads [`Rest::code`].
    pub(super) fn read(code: &str) -> Rest {
        match code {
            "here" => Rest::Here,
            "ended" => Rest::Ended,
            "nowhere" => Rest::Nowhere,
            "keepers" => Rest::Keepers,
            _ => match code.strip_prefix("at ").map(NodeName::new) {
                Some(Ok(node)) => Rest::At(node),
                _ => Rest::Unknown,
            },
        }
    }
}

impl std::fmt::Display for Rest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Rest::Here => f.write_str("a later row of it is whole"),
            Rest::Ended => f.write_str("it had ended: nothing of it is lost but its mark"),
            Rest::At(node) => {
                write!(f, "node {node} holds a copy, or has taken it over: it goes on from there by itself")
            }
            Rest::Nowhere => {
                f.write_str("no other node holds a copy: it is lost unless its sender sends it again")
            }
            Rest::Keepers => {
                f.write_str("it comes back by itself if another node that keeps the room has it; else its readers are told")
            }
            Rest::Unknown => f.write_str(
                "whether another node holds a copy can't be read any more; ask with: trishula show ID",
            ),
        }
    }
}

/// The columns by which a row is found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyText {
    pub id: String,
    pub sender: String,
    pub recipient: String,
}

impl KeyText {
    pub fn of(key: &MessageKey) -> KeyText {
        // As they are displayed; without the machinery of that, as this is done for every record.
        let text = |agent: &AgentAddr| [agent.namespace.as_str(), "/", agent.name.as_str()].concat();
        KeyText { id: key.id.as_str().to_owned(), sender: text(&key.from), recipient: text(&key.to) }
    }

    pub fn read(&self) -> Option<MessageKey> {
        Some(MessageKey {
            from: read_agent(&self.sender)?,
            id: MessageId::new(&self.id).ok()?,
            to: read_agent(&self.recipient)?,
        })
    }

    /// The seed of the row's sums.
    fn sum(&self) -> u32 {
        let mut sum = crc32fast::Hasher::new();
        for part in [&self.id, &self.sender, &self.recipient] {
            sum.update(part.as_bytes());
            sum.update(&[0]);
        }
        sum.finalize()
    }
}

/// Reads `namespace/name`; what is stored always has both.
pub(super) fn read_agent(text: &str) -> Option<AgentAddr> {
    let (namespace, name) = text.split_once('/')?;
    Some(AgentAddr::new(Namespace::new(namespace).ok()?, AgentName::new(name).ok()?))
}

/// A row as it lies on disk.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub key: KeyText,
    pub order: u64,
    pub head: Vec<u8>,
    pub passage: Vec<u8>,
    pub payload: Option<Vec<u8>>,
}

/// What a row says, once its sums are right.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// The payload is there only where the row was read with it and the place needs it.
    pub kept: Kept,
    pub bytes: u64,
    pub steps: Vec<Step>,
}

/// The columns `head` and `passage` of a message that is new.
pub(super) fn encode(key: &KeyText, kept: &Kept) -> Result<(Vec<u8>, Vec<u8>), postcard::Error> {
    let seed = key.sum();
    let fixed = FixedRef {
        upstream: match &kept.upstream {
            Upstream::Sender => None,
            Upstream::Node(node, incarnation, number) => Some((node, *incarnation, *number)),
        },
        taken_ms: kept.taken_ms,
        unseen_since: kept.unseen_since,
        bytes: kept.payload.len() as u64,
        payload_sum: crc32fast::hash(&kept.payload),
        head: &kept.head,
    };
    let mut head = postcard::to_extend(&fixed, vec![FORM])?;
    let sum = head_sum(seed, kept.order, &head);
    head.extend_from_slice(&sum.to_le_bytes());
    let mut passage = Vec::with_capacity(32);
    add(&mut passage, seed, &Step::first(kept))?;
    Ok((head, passage))
}

/// Adds a step at the end of a passage; the middle of a very long one is dropped.
pub(super) fn append(passage: &mut Vec<u8>, key: &KeyText, step: &Step) -> Result<(), postcard::Error> {
    match bounds(passage) {
        // The row is damaged: its head still says what the message was, and from here on its steps are known.
        None => passage.clear(),
        Some(ends) if ends.len() >= FIRST_STEPS + LAST_STEPS => {
            passage.drain(ends[FIRST_STEPS - 1]..ends[FIRST_STEPS]);
        }
        Some(_) => {}
    }
    add(passage, key.sum(), step)
}

fn add(passage: &mut Vec<u8>, seed: u32, step: &Step) -> Result<(), postcard::Error> {
    let begin = passage.len();
    passage.extend_from_slice(&[0, 0]);
    let mut extended = postcard::to_extend(step, std::mem::take(passage))?;
    let length = (extended.len() - begin - 2) as u16;
    extended[begin..begin + 2].copy_from_slice(&length.to_le_bytes());
    let sum = sum_of(seed, &[&extended[begin + 2..]]);
    extended.extend_from_slice(&sum.to_le_bytes());
    *passage = extended;
    Ok(())
}

/// Where each step ends; `None`: the lengths do not fit.
fn bounds(passage: &[u8]) -> Option<Vec<usize>> {
    let mut ends = Vec::new();
    let mut at = 0;
    while at < passage.len() {
        let length = passage.get(at..at + 2)?;
        at += 2 + usize::from(u16::from_le_bytes([length[0], length[1]])) + SUM;
        ends.push(at);
    }
    (at == passage.len()).then_some(ends)
}

impl Row {
    /// Checks the sums and reads the row; `payload` is whether that column was read too.
    pub fn decode(self, payload: bool) -> Result<Message, &'static str> {
        let key = self.key.read().ok_or("its key is none")?;
        let fixed = self.fixed()?;
        let steps = steps(self.key.sum(), &self.passage)?;
        let last = steps.last().ok_or("it has no step")?.clone();
        let payload = match self.payload {
            Some(bytes) if payload && has_payload(last.place) => {
                let right = bytes.len() as u64 == fixed.bytes && crc32fast::hash(&bytes) == fixed.payload_sum;
                right.then(|| Bytes::from(bytes)).ok_or("the checksum of its payload does not match")?
            }
            // One that was handed over and came back without being kept anew has none, by right.
            None if payload
                && has_payload(last.place)
                && fixed.bytes > 0
                && steps.iter().all(|step| has_payload(step.place)) =>
            {
                return Err("its payload is missing");
            }
            _ => Bytes::new(),
        };
        let kept = Kept {
            key,
            order: self.order,
            place: last.place,
            upstream: match fixed.upstream {
                None => Upstream::Sender,
                Some((node, incarnation, number)) => Upstream::Node(node, incarnation, number),
            },
            head: fixed.head,
            payload,
            state: last.state,
            reason: last.reason,
            taken_ms: fixed.taken_ms,
            unseen_since: fixed.unseen_since,
            other: last.other,
            told: last.told,
        };
        Ok(Message { kept, bytes: fixed.bytes, steps })
    }

    fn fixed(&self) -> Result<Fixed, &'static str> {
        let (fixed, sum) = self.head.split_last_chunk::<SUM>().ok_or("its head is cut off")?;
        if u32::from_le_bytes(*sum) != head_sum(self.key.sum(), self.order, fixed) {
            return Err("the checksum of its head does not match");
        }
        let [FORM, fixed @ ..] = fixed else { return Err("its head is of a form that is not known") };
        // Rows of schema 3 and earlier end before the number: a 0 behind them says that there is none.
        postcard::from_bytes(&[fixed, &[0]].concat()).map_err(|_| "its head can't be read")
    }

    /// Where the message is besides, by what can still be read: for a row that is damaged.
    pub fn rest(&self) -> Rest {
        let last = steps(self.key.sum(), &self.passage).ok().and_then(|mut steps| steps.pop());
        let fixed = self.fixed().ok();
        match (last, fixed) {
            (Some(Step { place: Place::Ended, .. }), _) => Rest::Ended,
            (Some(Step { other: Some(node), .. }), _) => Rest::At(node),
            // Whoever it came from keeps the second copy.
            (_, Some(Fixed { upstream: Some((node, ..)), head, .. })) if head.copies > 1 => Rest::At(node),
            (Some(_), Some(_)) => Rest::Nowhere,
            _ => Rest::Unknown,
        }
    }
}

fn steps(seed: u32, passage: &[u8]) -> Result<Vec<Step>, &'static str> {
    let mut begin = 0;
    let mut steps = Vec::new();
    for end in bounds(passage).ok_or("its passage is cut off")? {
        let step = &passage[begin + 2..end - SUM];
        if sum_of(seed, &[step]).to_le_bytes() != passage[end - SUM..end] {
            return Err("the checksum of a step does not match");
        }
        steps.push(postcard::from_bytes(step).map_err(|_| "a step can't be read")?);
        begin = end;
    }
    Ok(steps)
}

fn head_sum(seed: u32, order: u64, head: &[u8]) -> u32 {
    sum_of(seed, &[&order.to_le_bytes(), head])
}

fn sum_of(seed: u32, parts: &[&[u8]]) -> u32 {
    let mut sum = crc32fast::Hasher::new_with_initial(seed);
    parts.iter().for_each(|part| sum.update(part));
    sum.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{change, kept};

    #[test]
    fn a_row_gives_back_what_was_put_in_and_notices_every_changed_byte() {
        // covers T10
        let mut kept = kept(7, Place::Mailbox, b"a payload");
        kept.upstream = Upstream::Node(NodeName::new("agni").unwrap(), Incarnation(9), Sequence(3));
        let key = KeyText::of(&kept.key);
        let (head, mut passage) = encode(&key, &kept).unwrap();
        append(&mut passage, &key, &Step::of(&change(Place::Mailbox, State::Delivered))).unwrap();
        let row = Row { key, order: kept.order, head, passage, payload: Some(kept.payload.to_vec()) };
        let read = row.clone().decode(true).unwrap();
        assert_eq!(read.steps.len(), 2);
        let expected = Kept { state: State::Delivered, other: read.kept.other.clone(), ..kept };
        assert_eq!(read.kept, expected);

        for at in 0..row.head.len() {
            let mut bad = row.clone();
            bad.head[at] ^= 4;
            assert!(bad.decode(true).is_err(), "byte {at} of the head");
        }
        for at in 0..row.passage.len() {
            let mut bad = row.clone();
            bad.passage[at] ^= 4;
            assert!(bad.decode(true).is_err(), "byte {at} of the passage");
        }
        let mut bad = row.clone();
        bad.payload = Some(b"a pawload".to_vec());
        assert!(bad.decode(true).is_err());
        let mut bad = row.clone();
        bad.order += 1;
        assert!(bad.decode(true).is_err());
        let mut bad = row.clone();
        bad.key.recipient.push('x');
        assert!(bad.decode(true).is_err(), "a row under another's key");
    }

    #[test]
    fn a_passage_has_a_bound_and_keeps_its_beginning_and_its_end() {
        // covers T10
        let kept = kept(7, Place::Mailbox, b"");
        let key = KeyText::of(&kept.key);
        let (_, mut passage) = encode(&key, &kept).unwrap();
        for at_ms in 1..=1000 {
            let step = Step { at_ms, ..Step::first(&kept) };
            append(&mut passage, &key, &step).unwrap();
        }
        let times: Vec<u64> = steps(key.sum(), &passage).unwrap().iter().map(|step| step.at_ms).collect();
        assert_eq!(times.len(), FIRST_STEPS + LAST_STEPS);
        assert_eq!(times[..3], [kept.taken_ms, 1, 2]);
        assert_eq!(times[FIRST_STEPS..], (1001 - LAST_STEPS as u64..=1000).collect::<Vec<_>>());
    }

    #[test]
    fn rows_that_an_earlier_release_wrote_can_be_read() {
        // covers B26
        let golden = include_str!("../../tests/vectors/store-2.txt");
        let hex = |text: &str| -> Vec<u8> {
            let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
            (0..text.len()).step_by(2).map(digit).collect()
        };
        let lines: Vec<&str> = golden.lines().filter(|line| !line.starts_with('#')).collect();
        let kept = kept(7, Place::Dead, b"a payload");
        let key = KeyText::of(&kept.key);
        let row = Row {
            key,
            order: 7,
            head: hex(lines[0]),
            passage: hex(lines[1]),
            payload: Some(kept.payload.to_vec()),
        };
        assert_eq!(row.decode(true).unwrap().kept, kept);
    }
}
