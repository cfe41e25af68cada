//! The client's count of its messages to each recipient, by which the mesh recognises one that is sent again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::message::{Outgoing, Registered};
use crate::rt::clock;
use crate::wire::envelope::{Class, Kind, Numbered, Target};
use crate::wire::ids::{AgentAddr, Namespace};

/// Recipients that are counted; what goes to others has no number, and is recognised by its id for a time.
const MAX_COUNTED: usize = 10_000;

/// One count for all halves of a client.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers(Option<Arc<Mutex<Count>>>);

#[derive(Debug)]
struct Count {
    epoch: u64,
    namespace: Namespace,
    last: BTreeMap<AgentAddr, u64>,
}

impl Numbers {
    /// A count that begins now.
    pub(super) fn new(registered: &Registered) -> Numbers {
        let Ok(namespace) = Namespace::new(&registered.namespace) else { return Numbers::default() };
        // In microseconds: another count may have begun a moment ago.
        let count = Count { epoch: clock::wall_us(), namespace, last: BTreeMap::new() };
        Numbers(Some(Arc::new(Mutex::new(count))))
    }

    /// Gives a message its number, unless it has one or needs none.
    pub(super) fn give(&self, message: Outgoing) -> Outgoing {
        if message.number.is_some() || !is_durable(&message) {
            return message;
        }
        let number = self.0.as_ref().and_then(|count| {
            let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
            count.next(&message.to)
        });
        Outgoing { number, ..message }
    }
}

impl Count {
    fn next(&mut self, to: &str) -> Option<Numbered> {
        // One recipient may be written in two ways.
        let Ok(Target::Agent(to)) = Target::parse(to, &self.namespace) else { return None };
        if self.last.len() >= MAX_COUNTED && !self.last.contains_key(&to) {
            return None;
        }
        let n = self.last.entry(to).or_default();
        *n += 1;
        Some(Numbered { epoch: self.epoch, n: *n })
    }
}

fn is_durable(message: &Outgoing) -> bool {
    let Some(kind) = Kind::parse(message.kind) else { return false };
    message.class.map_or(kind.default_class() == Class::Durable, |class| class == "durable")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn durable_messages_to_one_agent_are_counted_and_keep_their_number() {
        // covers Q04
        let registered = Registered {
            agent: "dc".into(),
            namespace: "trishula".into(),
            node: "dc".into(),
            session: "s".into(),
        };
        let numbers = Numbers::new(&registered);
        let to = |to: &str| numbers.give(Outgoing::command(to, Value::Null));
        let n = |message: &Outgoing| message.number.map(|number| number.n);
        let first = to("agni");
        let again = numbers.clone().give(first.clone());
        assert_eq!((n(&first), again.number), (Some(1), first.number));
        assert_eq!(
            (n(&to("trishula/agni")), n(&to("rushabdev")), n(&to("agni"))),
            (Some(2), Some(1), Some(3))
        );
        assert_eq!((n(&to("broadcast")), n(&to("room:a")), n(&to("mesh"))), (None, None, None));
        assert_eq!(n(&numbers.give(Outgoing::new(Kind::Ack, "agni", Value::Null))), None);
        let live = Outgoing { class: Some("live"), ..Outgoing::command("agni", Value::Null) };
        assert_eq!(n(&numbers.give(live)), None);
        assert_eq!(n(&Numbers::default().give(Outgoing::command("agni", Value::Null))), None);
        let frame = String::from_utf8(first.to_frame().unwrap().to_vec()).unwrap();
        let epoch = first.number.unwrap().epoch;
        assert!(frame.contains(&format!(r#""number":{{"epoch":{epoch},"n":1}}"#)), "{frame}");
    }
}
