//! Records on their way to the store: what one turn has to write goes there together, behind the frames of that turn.

use std::time::Duration;

use super::{Disk, Node};
use crate::mesh::{Input, Ticket, Time};
use crate::rt::clock;
use crate::store::{self, Job};
use crate::wire::record::Record;

/// How long a record that nobody waits for may wait for others: a commit of its own costs as much as one of a hundred.
const PATIENCE: Duration = Duration::from_millis(5);
/// And when the node has more to do then: the disk's thread would take a core from the message that it is at.
const AT_MOST: Duration = Duration::from_millis(10);
/// With so many it goes at once.
const MOST: usize = 256;

/// What is not handed to the store yet.
#[derive(Default)]
pub(super) struct Held {
    jobs: Vec<Job>,
    /// Since when the first of them waits.
    since: Time,
    /// Somebody waits for one of them.
    hurry: bool,
}

impl Held {
    /// Takes a record; `waited_for`: it goes with this turn. All that came before it goes along: their order is kept.
    pub(super) fn put(&mut self, now: Time, ticket: Ticket, record: Record, waited_for: bool) {
        if self.jobs.is_empty() {
            self.since = now;
        }
        self.jobs.push(Job { number: ticket.0, record });
        self.hurry |= waited_for || self.jobs.len() >= MOST;
    }

    /// When something is to go even if nothing else happens; `None`: there is nothing.
    pub(super) fn due(&self) -> Option<Time> {
        (!self.jobs.is_empty()).then(|| self.since.after(PATIENCE))
    }

    /// Whether it goes now; `idle`: the node has nothing else to do.
    pub(super) fn is_due(&self, now: Time, idle: bool) -> bool {
        let patience = if idle { PATIENCE } else { AT_MOST };
        self.hurry || (!self.jobs.is_empty() && now >= self.since.after(patience))
    }

    /// So many that they can't wait for the end of the turn.
    pub(super) fn is_full(&self) -> bool {
        self.jobs.len() >= 4 * MOST
    }

    /// Hands all of it over; answers what found no room.
    pub(super) fn hand_over(&mut self, disk: &Disk) -> Vec<Ticket> {
        self.hurry = false;
        let Disk::Store(store, _) = disk else { return Vec::new() };
        let refused = self.jobs.drain(..).filter_map(|job| {
            let ticket = Ticket(job.number);
            store.try_send(job).is_err().then_some(ticket)
        });
        refused.collect()
    }
}

impl Node {
    pub(super) fn persist(&mut self, ticket: Ticket, record: Record) {
        let now = Time(clock::micros());
        if let Disk::None = &self.settings.disk {
            return self.mesh.handle(now, Input::Persisted(ticket));
        }
        let waited_for = !is_upkeep(&record) && self.mesh.is_waited_for(ticket);
        self.held.put(now, ticket, record, waited_for);
        if self.held.is_full() {
            self.hand_to_store();
        }
    }

    /// What finds no room is the mesh's next input.
    pub(super) fn hand_to_store(&mut self) {
        for ticket in self.held.hand_over(&self.settings.disk) {
            let failed = Input::PersistFailed(ticket, "too much waits for the disk".into());
            self.mesh.handle(Time(clock::micros()), failed);
        }
    }

    pub(super) fn written(&mut self, done: store::Done) {
        for number in done.numbers {
            let ticket = Ticket(number);
            self.input(match &done.error {
                None => Input::Persisted(ticket),
                Some(why) => Input::PersistFailed(ticket, why.clone()),
            });
        }
    }
}

impl Drop for Node {
    /// However the task ends, what it had to write is written.
    fn drop(&mut self) {
        self.held.hand_over(&self.settings.disk);
        self.record_hops();
    }
}

/// The next group that is on disk; never, when there is no disk.
pub(super) async fn written(disk: &mut Disk) -> store::Done {
    match disk {
        Disk::Store(_, done) => match done.recv().await {
            Some(done) => done,
            // The writer thread is gone: nothing will be written any more, and what waits is refused by
            // the queue that nobody reads.
            None => std::future::pending().await,
        },
        Disk::None => std::future::pending().await,
    }
}

/// Nobody is told anything once this is on disk.
fn is_upkeep(record: &Record) -> bool {
    matches!(record, Record::Erase(_) | Record::Horizon(..) | Record::Numbers(_) | Record::Forget(_))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use tokio::sync::watch;

    use super::*;
    use crate::identity::{Trust, ca::Authority};
    use crate::mesh::Config;
    use crate::node::task::Settings;
    use crate::rt::queue;
    use crate::wire::ids::{AgentAddr, AgentName, Incarnation, Namespace, NodeName};
    use crate::wire::record::Memory;

    fn record() -> Record {
        Record::Forget(AgentAddr::new(Namespace::new("trishula").unwrap(), AgentName::new("dc").unwrap()))
    }

    fn disk(bound: usize) -> (Disk, queue::Receiver<Job>, queue::Sender<store::Done>) {
        let (jobs, waiting) = queue::bounded("test", bound);
        let (done_in, done) = queue::bounded("test", 1);
        (Disk::Store(jobs, done), waiting, done_in)
    }

    #[test]
    fn what_nobody_waits_for_goes_with_what_somebody_waits_for_and_in_order() {
        // covers Q04, T14
        let (disk, mut waiting, _done) = disk(8);
        let (mut held, start) = (Held::default(), Time(1_000_000));
        assert_eq!(held.due(), None);
        held.put(start, Ticket(1), record(), false);
        held.put(start.after(PATIENCE / 2), Ticket(2), record(), false);
        assert!(!held.is_due(start.after(PATIENCE / 2), true), "nobody waits for them");
        assert_eq!(held.due(), Some(start.after(PATIENCE)), "the first has waited long enough");
        assert!(held.is_due(start.after(PATIENCE), true) && !held.is_due(start.after(PATIENCE), false));
        assert!(held.is_due(start.after(AT_MOST), false), "no longer, whatever the node does");
        held.put(start.after(PATIENCE / 2), Ticket(3), record(), true);
        assert!(held.is_due(start.after(PATIENCE / 2), false), "somebody waits for the third");
        assert_eq!(held.hand_over(&disk), vec![]);
        assert_eq!(held.due(), None);
        let numbers: Vec<u64> =
            std::iter::from_fn(|| waiting.try_recv().ok()).map(|job| job.number).collect();
        assert_eq!(numbers, vec![1, 2, 3]);
        held.put(start.after(AT_MOST), Ticket(4), record(), false);
        assert!(!held.is_due(start.after(AT_MOST), false), "its time begins anew");
    }

    #[test]
    fn many_do_not_wait_and_what_finds_no_room_is_said() {
        // covers B09
        let (disk, _waiting, _done) = disk(MOST - 1);
        let (mut held, now) = (Held::default(), Time(1_000_000));
        for n in 1..MOST as u64 {
            held.put(now, Ticket(n), record(), false);
        }
        assert!(!held.is_due(now, true));
        held.put(now, Ticket(MOST as u64), record(), false);
        assert!(held.is_due(now, false) && !held.is_full());
        assert_eq!(held.hand_over(&disk), vec![Ticket(MOST as u64)]);
    }

    #[test]
    fn a_node_that_ends_writes_what_nobody_waited_for() {
        // covers Q04
        let ca = Authority::create("trishula", clock::wall().into()).unwrap();
        let (disk, mut waiting, _done) = disk(8);
        let name = NodeName::new("agni").unwrap();
        let settings = Settings {
            mesh: Config::new(name, Incarnation(1)),
            memory: Memory::default(),
            disk,
            trust: Arc::new(Trust::new(ca.certificate().clone(), Arc::default()).unwrap()),
            revocations_file: None,
            desk: None,
            records: None,
            trace: None,
            health: None,
            software: "test".into(),
        };
        let mut node =
            Node::new(settings, watch::channel(BTreeSet::new()).0, watch::channel(BTreeMap::new()).0);
        node.persist(Ticket(1), record());
        assert!(waiting.try_recv().is_err(), "nobody waits for it");
        drop(node);
        assert_eq!(waiting.try_recv().unwrap().number, 1);
    }
}
