//! Numbers of messages that have ended: by them a message whose sender counts is recognised when its mark is gone.

use std::collections::{BTreeMap, BTreeSet};

use crate::mesh::Mesh;
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::{Head, MessageKey, Numbered, Target};
use crate::wire::ids::AgentAddr;
use crate::wire::record::{self, Record};

/// Ranges that are kept of one count; of more, the lowest gap is closed.
const MAX_RANGES: usize = 32;
/// Pairs of a sender and a recipient; those beyond are treated as if they did not count.
const MAX_PAIRS: usize = 50_000;

/// Sender and recipient.
type Pair = (AgentAddr, AgentAddr);

/// The number of a message, where it has one that counts.
pub(super) fn number_of(head: &Head) -> Option<Numbered> {
    head.number.filter(|_| matches!(head.to, Target::Agent(_)))
}

/// The numbers of every pair.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    pairs: BTreeMap<Pair, Ended>,
    /// Those that are not written as they are.
    changed: BTreeSet<Pair>,
}

/// What has ended of one sender's messages to one recipient.
#[derive(Debug, Default)]
struct Ended {
    epoch: u64,
    /// First and last of each, in order, with a gap between two.
    ranges: Vec<(u64, u64)>,
}

impl Ended {
    fn add(&mut self, n: u64) {
        let at = self.ranges.partition_point(|(_, last)| last.saturating_add(1) < n);
        match self.ranges.get_mut(at) {
            Some((first, last)) if *first <= n.saturating_add(1) => {
                (*first, *last) = ((*first).min(n), (*last).max(n));
                let end = *last;
                if let Some(next) =
                    self.ranges.get(at + 1).copied().filter(|next| next.0 <= end.saturating_add(1))
                {
                    self.ranges[at].1 = next.1;
                    self.ranges.remove(at + 1);
                }
            }
            _ => self.ranges.insert(at, (n, n)),
        }
        if self.ranges.len() > MAX_RANGES {
            let (first, _) = self.ranges.remove(0);
            self.ranges[0].0 = first;
        }
    }

    fn has(&self, n: u64) -> bool {
        let at = self.ranges.partition_point(|(_, last)| *last < n);
        self.ranges.get(at).is_some_and(|(first, _)| *first <= n)
    }
}

impl Numbers {
    /// The mark of a message goes: its number stays. `false`: there is no room for it.
    pub(super) fn note(&mut self, key: &MessageKey, number: Numbered) -> bool {
        let pair = (key.from.clone(), key.to.clone());
        if self.is_full() && !self.pairs.contains_key(&pair) {
            return false;
        }
        let ended = self.pairs.entry(pair.clone()).or_default();
        if number.epoch > ended.epoch {
            *ended = Ended { epoch: number.epoch, ranges: Vec::new() };
        }
        // What is of an earlier count is recognised by that.
        if number.epoch == ended.epoch {
            ended.add(number.n);
            self.changed.insert(pair);
        }
        true
    }

    pub(super) fn restore(&mut self, numbers: Vec<record::Numbers>) {
        for record::Numbers { from, to, epoch, ranges } in numbers {
            self.pairs.insert((from, to), Ended { epoch, ranges });
        }
    }

    fn is_full(&self) -> bool {
        self.pairs.len() >= MAX_PAIRS
    }

    fn take_changed(&mut self) -> Vec<record::Numbers> {
        let changed = std::mem::take(&mut self.changed).into_iter();
        let numbers = changed.filter_map(|pair| {
            let Ended { epoch, ranges } = self.pairs.get(&pair)?;
            Some(record::Numbers { from: pair.0, to: pair.1, epoch: *epoch, ranges: ranges.clone() })
        });
        numbers.collect()
    }
}

impl Mesh {
    /// Sessions that share an agent count each for itself: nothing can be told from their numbers.
    pub(super) fn heed_number(&self, head: &mut Head) {
        if head.number.is_some() && self.directory.own(&head.from).is_some_and(|own| own.shared) {
            head.number = None;
        }
    }

    /// Whether a message without a mark is new by its number; `None`: that says nothing, and its age must do.
    pub(super) fn check_number(&self, head: &Head) -> Option<Result<(), Refusal>> {
        let Numbered { epoch, n } = number_of(head)?;
        let Target::Agent(to) = &head.to else { return None };
        let numbers = &self.durable.table.numbers;
        let Some(ended) = numbers.pairs.get(&(head.from.clone(), to.clone())) else {
            return (!numbers.is_full()).then_some(Ok(()));
        };
        let message = if epoch < ended.epoch {
            format!(
                "its number is of epoch {epoch}, and {} counts from {} on since; whether it came before is not remembered so long",
                head.from, ended.epoch
            )
        } else if epoch == ended.epoch && ended.has(n) {
            format!("number {n} of epoch {epoch} came before and has ended; how is not remembered so long")
        } else {
            return Some(Ok(()));
        };
        Some(Err(Refusal::new(Code::Duplicate, message)))
    }

    /// On disk before the marks go from there: a crash in between leaves both.
    pub(super) fn write_numbers(&mut self) {
        for numbers in self.durable.table.numbers.take_changed() {
            self.persist(Record::Numbers(numbers));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ids::{MessageId, Namespace};

    #[test]
    fn numbers_are_kept_as_few_ranges() {
        // covers Q04
        let mut ended = Ended::default();
        for n in [5, 1, 3, 2, 9, 4, 4, u64::MAX] {
            ended.add(n);
        }
        assert_eq!(ended.ranges, [(1, 5), (9, 9), (u64::MAX, u64::MAX)]);
        assert!([1, 3, 5, 9, u64::MAX].into_iter().all(|n| ended.has(n)));
        assert!(![0, 6, 8, 10].into_iter().any(|n| ended.has(n)));
        let mut ended = Ended::default();
        (1..=40).for_each(|n| ended.add(2 * n));
        assert_eq!(
            (ended.ranges.len(), ended.ranges[0]),
            (MAX_RANGES, (2, 18)),
            "the lowest gaps are closed"
        );
        assert!(ended.has(3) && !ended.has(19) && !ended.has(1));
    }
    #[test]
    fn pairs_have_a_bound_beyond_which_the_mark_is_not_noted() {
        // covers Q04, Q06
        let agent = |name: &str| AgentAddr::parse(name, &Namespace::new("trishula").unwrap()).unwrap();
        let (to, id) = (agent("bob"), MessageId::new("m-1").unwrap());
        let key = |n: usize| MessageKey { from: agent(&format!("a-{n}")), id: id.clone(), to: to.clone() };
        let mut numbers = Numbers::default();
        let number = |n| Numbered { epoch: 7, n };
        assert!((0..MAX_PAIRS).all(|n| numbers.note(&key(n), number(1))));
        assert!(!numbers.note(&key(MAX_PAIRS), number(1)) && numbers.is_full());
        assert!(numbers.note(&key(0), number(2)));
        assert_eq!((numbers.pairs.len(), numbers.take_changed().len()), (MAX_PAIRS, MAX_PAIRS));
        assert_eq!(numbers.take_changed(), []);
    }
}
