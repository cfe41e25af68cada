//! How deep the latest messages of this node's agents lie in answers to answers: by this an answer's own depth is known, whoever
//! sent what it answers, and to whomever it goes.

use std::collections::{BTreeMap, VecDeque};

use crate::wire::envelope::Head;
use crate::wire::ids::{AgentAddr, MessageId};

/// Messages that are remembered; of more, the oldest are forgotten: an answer to one of those counts as an answer to the first of
/// a chain. Only answers are here, as whatever answers nothing has the depth 0.
const MOST: usize = 65_536;

/// Who got it, and what its sender calls it.
type Name = (AgentAddr, MessageId);

/// What was handed over here lately, and answers something.
#[derive(Debug, Default)]
pub(super) struct Depths {
    known: BTreeMap<Name, (u64, u16)>,
    /// By age. A name that was noted again is here again, and only its latest place counts.
    ages: VecDeque<(u64, Name)>,
    last: u64,
}

impl Depths {
    /// How many are remembered.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// A message is handed to this agent.
    pub(super) fn note(&mut self, to: &AgentAddr, head: &Head) {
        if head.depth == 0 && self.known.is_empty() {
            return;
        }
        let name = (to.clone(), head.id.clone());
        if head.depth == 0 {
            // What was called so before was another message.
            self.known.remove(&name);
            return;
        }
        self.last += 1;
        self.known.insert(name.clone(), (self.last, head.depth));
        self.ages.push_back((self.last, name));
        while self.ages.len() > MOST {
            let Some((age, name)) = self.ages.pop_front() else { return };
            if self.known.get(&name).is_some_and(|(latest, _)| *latest == age) {
                self.known.remove(&name);
            }
        }
    }

    /// The depth of what this agent got under this name.
    pub(super) fn of(&self, to: &AgentAddr, id: &MessageId) -> Option<u16> {
        self.known.get(&(to.clone(), id.clone())).map(|(_, depth)| *depth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::envelope::{Kind, Target};
    use crate::wire::ids::Namespace;

    fn head(id: &str, depth: u16) -> (AgentAddr, Head) {
        let agent = |name| AgentAddr::parse(name, &Namespace::new("trishula").unwrap()).unwrap();
        let id = MessageId::new(id).unwrap();
        let head = Head::new(agent("alice"), Target::Agent(agent("bob")), id, Kind::Result);
        (agent("bob"), Head { depth, ..head })
    }

    #[test]
    fn the_latest_are_remembered_and_a_name_that_is_used_again_is_another_message() {
        // covers Q06, B09
        let mut depths = Depths::default();
        for n in 0..2 * MOST {
            let (bob, head) = head(&format!("m-{n}"), 3);
            depths.note(&bob, &head);
        }
        assert_eq!((depths.len(), depths.ages.len()), (MOST, MOST));
        let (bob, again) = head("m-100000", 0);
        assert_eq!(depths.of(&bob, &again.id), Some(3));
        depths.note(&bob, &again);
        assert_eq!(depths.of(&bob, &again.id), None);
        assert_eq!(depths.of(&bob, &head("m-1", 0).1.id), None, "long ago");
        for _ in 0..2 * MOST {
            depths.note(&bob, &head("m-2", 5).1);
        }
        assert_eq!((depths.len(), depths.ages.len()), (1, MOST));
    }
}
