//! An old store brought back: a restored backup, or a copy of a disk.
//!
//! What has been delivered, acknowledged or sent since that copy was made is not in it, so this node can't tell what is
//! still to be done. It keeps what it has and answers questions, but takes nothing, hands nothing over and sends
//! nothing until the operator says how to go on.

use super::table::No;
use crate::mesh::{Event, Mesh};
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::State;
use crate::wire::frame::Known;
use crate::wire::ids::Incarnation;
use crate::wire::record::{Past, Place};

/// How an operator lets a node go on whose store is older than what others have seen of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GoOn {
    /// Everything that waits is handed over again, marked as redelivered.
    Redeliver,
    /// Everything that waits goes to the dead letters, from where it can be sent again one by one.
    Bury,
}

impl Mesh {
    /// An earlier life of this store stood still, and nobody has said how to go on: neither has a restart.
    pub(super) fn stand_still_again(&mut self) {
        let past = self.config.past.as_ref().filter(|_| !self.config.damaged);
        self.durable.whole_since = past.map_or(self.config.incarnation, |past| past.whole_since);
        if let Some(Past { missing: Some(seen), confirmed, .. }) = self.config.past {
            self.durable.rolled_back = Some(seen);
            self.event(Event::RolledBack { previous: confirmed, seen });
        }
    }

    /// A peer tells what it knows of this node: if that is a life after those in the store, the store is old.
    pub(in crate::mesh) fn look_for_rollback(&mut self, theirs: &[Known]) {
        let Some(past) = &self.config.past else { return };
        if self.durable.rolled_back.is_some() || self.durable.went_on {
            return;
        }
        let me = &self.config.node;
        let seen = theirs.iter().find(|known| known.origin == *me).map(|known| known.incarnation);
        let Some(seen) = seen.filter(|seen| *seen >= past.confirmed && *seen < self.config.incarnation)
        else {
            return;
        };
        if past.unconfirmed.contains(&seen) {
            // That life met a node and ended before it had an answer: what waits stays marked in this life.
            self.confirm_the_store();
        } else if seen == past.confirmed {
            self.trust_the_store();
            self.confirm_the_store();
        } else {
            let whole_since = self.config.incarnation;
            let (previous, past) =
                (past.confirmed, Past { missing: Some(seen), whole_since, ..past.clone() });
            (self.durable.rolled_back, self.durable.whole_since) = (Some(seen), whole_since);
            self.durable.confirmed = false;
            self.persist_past(past);
            self.event(Event::RolledBack { previous, seen });
        }
    }

    /// Others know of no life of this node that its store does not: from the next one on this one is what they are to know.
    fn confirm_the_store(&mut self) {
        if !std::mem::replace(&mut self.durable.confirmed, true) && self.config.past.is_some() {
            let past = Past { whole_since: self.durable.whole_since, ..Past::new(self.config.incarnation) };
            self.persist_past(past);
        }
    }

    /// See [`Past::whole_since`].
    pub(in crate::mesh) fn memory_is_whole_since(&self) -> Incarnation {
        self.durable.whole_since
    }

    /// Whether an agent that others know here may have been lost with what this node remembered.
    pub(in crate::mesh) fn may_have_forgotten(&self, registered_ms: u64) -> bool {
        registered_ms < self.durable.whole_since.0
    }

    /// Whether this node can tell of everything that it ever took: with a damaged store, or an old one, it can't say of a message
    /// that it does not know it.
    pub(in crate::mesh) fn remembers_all(&self) -> bool {
        self.durable.rolled_back.is_none() && !self.config.damaged
    }

    /// The life before this one is the one that the store knows: what it says nobody has got, nobody has got.
    fn trust_the_store(&mut self) {
        for no in std::mem::take(&mut self.durable.doubtful) {
            if let Some(item) = self.durable.table.get_mut(no) {
                item.redelivered = false;
            }
        }
    }

    /// The life that others have seen and the store has not, while this node stands still for it.
    pub fn rolled_back(&self) -> Option<Incarnation> {
        self.durable.rolled_back
    }

    /// What a sender is told meanwhile.
    pub(in crate::mesh) fn stands_still(&self) -> Option<Refusal> {
        self.durable.rolled_back.map(|_| {
            let message = format!(
                "the store of node {} is older than what the mesh has seen of it; its operator must say how to go on",
                self.config.node
            );
            Refusal::new(Code::Unavailable, message)
        })
    }

    /// The operator has decided.
    pub(in crate::mesh) fn go_on(&mut self, how: GoOn) {
        if self.durable.rolled_back.take().is_none() {
            return;
        }
        self.durable.went_on = true;
        self.confirm_the_store();
        let waiting: Vec<No> =
            self.durable.table.iter().filter(|(_, item)| item.is_ours()).map(|(no, _)| no).collect();
        for no in &waiting {
            if how == GoOn::Bury {
                let message = "it waited in a store that was brought back from a copy";
                self.end(*no, State::Dead, Some(Refusal::new(Code::Internal, message)));
                continue;
            }
            if let Some(item) = self.durable.table.get_mut(*no) {
                item.redelivered = true;
                if item.place == Place::Mailbox {
                    item.unseen_since = 0;
                }
            }
            self.place(*no);
        }
        self.pump_all(&waiting);
    }
}
