//! A node's disk as the node task sees it: a queue of records, and a queue of what came of them. Behind it is the
//! reference model of a disk that `tests/history` has too.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use trishula::node::Disk as Given;
use trishula::rt::{queue, tasks};
use trishula::store::{Done, Job};
use trishula::wire::envelope::{MessageKey, State};
use trishula::wire::ids::{Incarnation, NodeName};
use trishula::wire::record::{Kept, Place, Record, Upstream};

use crate::clock::Us;
use crate::disk::Disk;
use crate::net::SimNet;
use crate::node::Store;
use crate::rng::Rng;

/// Records that may wait for the writer.
const BOUND: usize = 65_536;

/// What a disk does wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// A message of a sender's counts as written before it is.
    AcceptsTooEarly,
    /// The same for a recipient's word.
    AcknowledgesTooEarly,
    /// What the recipient's home takes over is written nowhere.
    ForgetsToPersist,
}

impl Sabotage {
    fn lies_about(self, record: &Record) -> bool {
        match (self, record) {
            (Sabotage::AcceptsTooEarly, Record::Keep(kept)) => kept.upstream == Upstream::Sender,
            (Sabotage::AcknowledgesTooEarly, Record::Change(_, change)) => change.state == State::Acked,
            _ => self.forgets(record),
        }
    }

    fn forgets(self, record: &Record) -> bool {
        let taken_over =
            |kept: &Kept| kept.place == Place::Mailbox && matches!(kept.upstream, Upstream::Node(..));
        matches!(record, Record::Keep(kept) if self == Sabotage::ForgetsToPersist && taken_over(kept))
    }
}

struct Inner {
    disk: Disk,
    rng: Rng,
    sabotage: Option<Sabotage>,
    /// How many writes it refused, how many it had in common with another, how many a loss of power took.
    refused: u64,
    grouped: u64,
    lost: u64,
    sessions: Option<Vec<u8>>,
}

/// The disk of one machine, which outlives its node; cheap to clone.
#[derive(Clone)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
    net: SimNet,
    name: NodeName,
}

impl SimDisk {
    pub fn new(net: &SimNet, name: NodeName, seed: u64, fsync: Us, sabotage: Option<Sabotage>) -> SimDisk {
        let (disk, rng) = (Disk::new(fsync), Rng::new(seed));
        let inner = Inner { disk, rng, sabotage, refused: 0, grouped: 0, lost: 0, sessions: None };
        SimDisk { inner: Arc::new(Mutex::new(inner)), net: net.clone(), name }
    }

    /// A node starts: its life, what it is given, and the writer, which ends with the task.
    pub fn start(&self, wall_ms: u64) -> (Incarnation, Store, tasks::Task) {
        let (jobs, waiting) = queue::bounded("sim.jobs", BOUND);
        let (told, done) = queue::bounded("sim.done", BOUND);
        let mut inner = self.lock();
        let last = inner.disk.platter.lives.as_ref().map(|(last, _)| last.0);
        let incarnation = last.map_or(0, |last| last + 1).max(wall_ms);
        let past = inner.disk.platter.begin_life(incarnation);
        let store = Store { disk: Given::Store(jobs, done), memory: inner.disk.memory(), past };
        let writer = tasks::spawn("sim.writer", self.clone().write(waiting, told));
        (Incarnation(incarnation), store, writer)
    }

    /// TLS sessions as they were when the power went; one in three times they are lost with it.
    pub fn keep_tls_sessions(&self, sessions: Vec<u8>) {
        let mut inner = self.lock();
        inner.sessions = (!inner.rng.percent(33)).then_some(sessions);
    }

    pub fn tls_sessions(&self) -> Option<Vec<u8>> {
        self.lock().sessions.clone()
    }

    /// Whether something was given to it that is not written.
    pub fn is_at_work(&self) -> bool {
        self.lock().disk.is_at_work()
    }

    /// The power goes: of what was not fsynced a beginning of any length is there all the same.
    pub fn lose_power(&self) {
        let mut inner = self.lock();
        let Inner { disk, rng, lost, .. } = &mut *inner;
        *lost += disk.lose_power(rng).1 as u64;
    }

    /// Every write fails for a while.
    pub fn is_full_until(&self, until: Duration) {
        self.lock().disk.full_until = until.as_micros() as Us;
    }

    /// Every write takes long for a while.
    pub fn is_slow_until(&self, until: Duration) {
        self.lock().disk.slow_until = until.as_micros() as Us;
    }

    /// What is on the platter of a message.
    pub fn has(&self, key: &MessageKey) -> Option<(Place, State)> {
        self.lock().disk.platter.messages.get(key).map(|kept| (kept.place, kept.state))
    }

    /// What is on the platter of messages that have not ended.
    pub fn left(&self) -> Vec<String> {
        let inner = self.lock();
        let open = |kept: &&Kept| !matches!(kept.place, Place::Ended | Place::Dead);
        let shown = |kept: &Kept| format!("{} to {}: {:?}", kept.key.id, kept.key.to, kept.place);
        inner.disk.platter.messages.values().filter(open).map(shown).collect()
    }

    /// Writes refused, records that shared an fsync, records that a loss of power took.
    pub fn counts(&self) -> [u64; 3] {
        let inner = self.lock();
        [inner.refused, inner.grouped, inner.lost]
    }

    async fn write(self, mut waiting: queue::Receiver<Job>, told: queue::Sender<Done>) {
        while let Some(first) = waiting.recv().await {
            let mut group = vec![first];
            while let Ok(more) = waiting.try_recv() {
                group.push(more);
            }
            let lies = self.give(group);
            if !lies.is_empty() && told.send(Done { numbers: lies, error: None }).await.is_err() {
                return;
            }
            let Some(takes) = self.begin() else { continue };
            tokio::time::sleep(Duration::from_micros(takes)).await;
            if told.send(self.finish()).await.is_err() {
                return;
            }
        }
    }

    /// Answers those that are called written now, and are not.
    fn give(&self, group: Vec<Job>) -> Vec<u64> {
        let (mut inner, mut lies) = (self.lock(), Vec::new());
        inner.grouped += if group.len() > 1 { group.len() as u64 } else { 0 };
        let sabotage = inner.sabotage;
        for Job { number, record } in group {
            self.net.note(format!("disk of {} is given {number}: {}", self.name, shown(&record)));
            if sabotage.is_some_and(|sabotage| sabotage.lies_about(&record)) {
                lies.push(number);
            }
            if !sabotage.is_some_and(|sabotage| sabotage.forgets(&record)) {
                inner.disk.give(trishula::mesh::Ticket(number), record);
            }
        }
        lies
    }

    fn begin(&self) -> Option<Us> {
        let (mut inner, now) = (self.lock(), self.now());
        let Inner { disk, rng, .. } = &mut *inner;
        disk.begin(now, rng)
    }

    fn finish(&self) -> Done {
        let (mut inner, now) = (self.lock(), self.now());
        let written = inner.disk.finish(now);
        inner.refused += u64::from(written.failed);
        let numbers: Vec<u64> = written.tickets.iter().map(|ticket| ticket.0).collect();
        let (first, last) = (numbers.first(), numbers.last());
        self.net
            .note(format!("disk of {} wrote {first:?} to {last:?}, failed: {}", self.name, written.failed));
        Done { numbers, error: written.failed.then(|| "no space left on device".to_owned()) }
    }

    fn now(&self) -> Us {
        self.net.elapsed().as_micros() as Us
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }
}

/// A record for whoever reads the trace.
fn shown(record: &Record) -> String {
    match record {
        Record::Keep(kept) => format!("{} is {:?}, {:?}", kept.key.id, kept.place, kept.state),
        Record::Change(key, change) => {
            format!("{} becomes {:?}, {:?}, told {}", key.id, change.place, change.state, change.told)
        }
        Record::Erase(key) => format!("{} is forgotten", key.id),
        other => format!("{other:?}"),
    }
}
