//! Registrations that wait for the disk. After a restart of a node with a large entrance there are tens of thousands of them, and it
//! is asked of each agent and each session whether one waits: so there is an index for either.

use std::collections::{BTreeMap, BTreeSet};

use super::Ticket;
use super::sessions::Key;
use crate::wire::frame::Attach;
use crate::wire::ids::AgentAddr;

/// One of them. Each is answered, also one that was taken back meanwhile: the entrance counts the answers.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) key: Key,
    pub(super) attach: Attach,
    pub(super) taken_back: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Registering {
    pending: BTreeMap<Ticket, Pending>,
    of_session: BTreeSet<(Key, Ticket)>,
    /// How many of an agent there are that were not taken back; no zeros.
    of_agent: BTreeMap<AgentAddr, usize>,
}

impl Registering {
    pub(super) fn has(&self, agent: &AgentAddr) -> bool {
        self.of_agent.contains_key(agent)
    }

    pub(super) fn insert(&mut self, ticket: Ticket, key: Key, attach: Attach) {
        *self.of_agent.entry(attach.agent.clone()).or_default() += 1;
        self.of_session.insert((key, ticket));
        self.pending.insert(ticket, Pending { key, attach, taken_back: false });
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Pending> {
        let pending = self.pending.remove(&ticket)?;
        self.of_session.remove(&(pending.key, ticket));
        if !pending.taken_back {
            self.one_less(&pending.attach.agent);
        }
        Some(pending)
    }

    /// A session is over: nobody is to be registered by it any more.
    pub(super) fn take_back(&mut self, key: Key) {
        let all = (key, Ticket(0))..=(key, Ticket(u64::MAX));
        let tickets: Vec<Ticket> = self.of_session.range(all).map(|(_, ticket)| *ticket).collect();
        for ticket in tickets {
            let Some(pending) = self.pending.get_mut(&ticket).filter(|pending| !pending.taken_back) else {
                continue;
            };
            pending.taken_back = true;
            let agent = pending.attach.agent.clone();
            self.one_less(&agent);
        }
    }

    fn one_less(&mut self, agent: &AgentAddr) {
        match self.of_agent.get_mut(agent) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.of_agent.remove(agent)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::tests::cluster::agent;
    use crate::wire::ids::{LinkId, SessionNo};

    fn attach(session: u64, name: &str) -> (Key, Attach) {
        let session = SessionNo(session);
        let attach = Attach {
            session,
            agent: agent(name),
            capabilities: Vec::new(),
            shared: false,
            registered_ms: 1,
            resumed: false,
            window: 64,
            transient: false,
        };
        ((LinkId(1), session), attach)
    }

    #[test]
    fn each_registration_counts_until_it_is_answered_or_taken_back() {
        // covers T05, B19
        let mut all = Registering::default();
        for (ticket, session, name) in [(1, 1, "bob"), (2, 2, "bob"), (3, 2, "bob"), (4, 3, "eve")] {
            let (key, attach) = attach(session, name);
            all.insert(Ticket(ticket), key, attach);
        }
        all.take_back((LinkId(1), SessionNo(2)));
        all.take_back((LinkId(1), SessionNo(2)));
        assert!(all.has(&agent("bob")) && all.has(&agent("eve")) && !all.has(&agent("alice")));
        let answered = [2, 3, 1].map(|ticket| all.remove(Ticket(ticket)).map(|pending| pending.taken_back));
        assert_eq!(answered, [Some(true), Some(true), Some(false)]);
        assert!(!all.has(&agent("bob")) && all.has(&agent("eve")));
        assert!(all.remove(Ticket(1)).is_none());
        all.take_back((LinkId(1), SessionNo(3)));
        assert!(!all.has(&agent("eve")));
        all.remove(Ticket(4));
        assert!(all.pending.is_empty() && all.of_session.is_empty() && all.of_agent.is_empty());
    }
}
