//! The writer: one thread that puts all that waits into one transaction, and says what came of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, InterruptHandle};

use super::checkpoint::Checkpoints;
use super::file::{self, Lock};
use super::health::{Report, damaged_words};
use super::writes::{self, Known};
use super::{Done, GROUP, Job};
use crate::rt::{clock, queue};
use crate::wire::record::Record;

/// Bytes that share one fsync at most: a group of large payloads must not keep the next one waiting for seconds.
const GROUP_BYTES: usize = 8 << 20;
/// What a record costs in the log beside its payload, roughly.
const RECORD_BYTES: usize = 1024;
/// What a record's tables need beside it, roughly.
const SPARE_BYTES: usize = 64 * 1024;
/// After a group of at least so many records the next ones are looked for a moment before the thread sleeps: whoever wrote
/// them writes again as soon as it hears, and waking a sleeping thread takes as long as half a commit.
const BUSY_GROUP: usize = 16;
const LOOK_SECONDS: f64 = 100e-6;
/// While the disk can't be written, how often that is tried, and how often is looked whether something else is to do.
const PROBE: Duration = Duration::from_secs(1);
const GLANCE: Duration = Duration::from_millis(20);

pub(super) struct Writer {
    pub file: PathBuf,
    pub connection: Option<Connection>,
    pub known: Known,
    pub report: Report,
    pub checkpoints: Checkpoints,
    /// Pages in the log after the last commit.
    pub log_pages: Arc<AtomicUsize>,
    /// The full check of this start, while it runs.
    pub check: Option<InterruptHandle>,
    /// Bytes of the largest record that a full disk has refused; while one so large has not gone through, the store does not write
    /// again, though smaller ones may.
    pub lacking: usize,
    /// Since it was last tried whether the disk writes again.
    pub probed: clock::Stopwatch,
    /// Held as long as something may be written.
    pub lock: Lock,
}

/// What one transaction took.
#[derive(Default)]
struct Group {
    numbers: Vec<u64>,
    bytes: usize,
    /// Of its largest record.
    largest: usize,
}

impl Group {
    fn is_full(&self) -> bool {
        self.numbers.len() >= GROUP || self.bytes >= GROUP_BYTES
    }

    fn add(&mut self, job: &Job) {
        self.numbers.push(job.number);
        let payload = if let Record::Keep(kept) = &job.record { kept.payload.len() } else { 0 };
        self.bytes += RECORD_BYTES + payload;
        self.largest = self.largest.max(RECORD_BYTES + payload);
    }
}

impl Writer {
    /// Until the last sender of jobs is gone.
    pub fn run(mut self, mut waiting: queue::Receiver<Job>, done: &queue::Sender<Done>) {
        let mut last = 0;
        while let Some(first) = self.next(&mut waiting, last) {
            let mut group = Group::default();
            let began = clock::Stopwatch::start();
            let error = self.commit(first, &mut waiting, &mut group).err();
            let error = error.map(|why| {
                if why.sqlite_error_code() == Some(ErrorCode::DiskFull) {
                    self.lacking = self.lacking.max(group.largest);
                }
                self.give_up(&why, waiting.len())
            });
            last = group.numbers.len();
            if error.is_none() {
                self.committed(began.seconds(), waiting.len(), group.largest);
            }
            if done.blocking_send(Done { numbers: group.numbers, error }).is_err() {
                break;
            }
            if let Some(connection) = &self.connection
                && let Err(why) =
                    self.checkpoints.after_commit(connection, self.log_pages.load(Ordering::Relaxed))
            {
                self.give_up(&why, waiting.len());
            }
        }
        self.end_check();
        self.checkpoints.end();
        self.stop_if_damaged();
        if let Some(connection) = &self.connection {
            // The next start has nothing to catch up with.
            let _ = file::checkpoint(connection, "TRUNCATE");
        }
        // The file is let go before the lock.
        drop(self.connection);
        drop(self.lock);
    }

    /// The next job; while the disk can't be written, it is tried in between whether it can.
    fn next(&mut self, waiting: &mut queue::Receiver<Job>, last: usize) -> Option<Job> {
        let tried = clock::Stopwatch::start();
        while last >= BUSY_GROUP && tried.seconds() < LOOK_SECONDS {
            if let Ok(job) = waiting.try_recv() {
                return Some(job);
            }
            std::thread::yield_now();
        }
        loop {
            if self.report.is_writable() || self.report.damage().is_some() {
                return waiting.blocking_recv();
            }
            if self.probed.seconds() > PROBE.as_secs_f64() {
                self.probed = clock::Stopwatch::start();
                match self.probe() {
                    Ok(()) => self.committed(self.probed.seconds(), waiting.len(), self.lacking),
                    Err(why) => drop(self.give_up(&why, waiting.len())),
                }
            }
            match waiting.try_recv() {
                Ok(job) => return Some(job),
                Err(tokio::sync::mpsc::error::TryRecvError::Disconnected) => return None,
                Err(tokio::sync::mpsc::error::TryRecvError::Empty) => std::thread::sleep(GLANCE),
            }
        }
    }

    /// Something is on disk whose largest record has so many bytes.
    fn committed(&mut self, seconds: f64, waiting: usize, largest: usize) {
        let enough = largest >= self.lacking;
        if enough {
            self.lacking = 0;
        }
        self.report.committed(seconds, waiting, &self.known.tally, enough);
    }

    /// One transaction: this job, and all that have come by the time it would be over.
    fn commit(
        &mut self,
        first: Job,
        waiting: &mut queue::Receiver<Job>,
        group: &mut Group,
    ) -> rusqlite::Result<()> {
        group.add(&first);
        if let Some(why) = self.stop_if_damaged() {
            return Err(file::failure(rusqlite::ffi::SQLITE_CORRUPT, &why));
        }
        self.connect()?;
        let Some(connection) = &self.connection else { return Ok(()) };
        let transaction = connection.unchecked_transaction()?;
        writes::write(&transaction, &first.record, &mut self.known)?;
        while !group.is_full()
            && let Ok(job) = waiting.try_recv()
        {
            group.add(&job);
            writes::write(&transaction, &job.record, &mut self.known)?;
        }
        transaction.commit()
    }

    /// Lets go of a damaged file as it is; answers what is wrong with it. The full check may find it at any time.
    fn stop_if_damaged(&mut self) -> Option<String> {
        let damage = self.report.damage()?;
        if let Some(connection) = self.connection.take() {
            // At worst the log is written into the file, of which it is a part.
            let _ = file::leave_log(&connection);
        }
        Some(damage)
    }

    /// Opens the file again after a failure.
    fn connect(&mut self) -> rusqlite::Result<()> {
        if self.connection.is_none() {
            let connection = file::connect(&self.file, self.log_pages.clone())?;
            writes::look_again(&connection, &mut self.known)?;
            self.connection = Some(connection);
        }
        Ok(())
    }

    /// Something small that is written as a message would be; and whether there is room for what a full disk has refused.
    fn probe(&mut self) -> rusqlite::Result<()> {
        self.connect()?;
        let Some(connection) = &self.connection else { return Ok(()) };
        connection.execute("UPDATE life SET incarnation = incarnation", [])?;
        if self.lacking > 0 && !file::has_room(&self.file, self.lacking + self.lacking / 4 + SPARE_BYTES) {
            return Err(file::failure(rusqlite::ffi::SQLITE_FULL, "database or disk is full"));
        }
        Ok(())
    }

    /// The group is refused as a whole, and the file is opened again before the next: after a failed fsync nobody knows
    /// what of it is on disk, and trying it again would say that it is (the system forgets what it could not write).
    fn give_up(&mut self, why: &rusqlite::Error, waiting: usize) -> String {
        if file::is_damage(why) {
            self.report.damaged(&self.file, &why.to_string());
        }
        let damage = self.stop_if_damaged();
        self.connection = None;
        self.probed = clock::Stopwatch::start();
        // It reads, and what is opened again must be alone with its log for a moment.
        self.end_check();
        let said = match &damage {
            Some(damage) => damaged_words(&self.file, damage),
            None => explain(&self.file, why),
        };
        self.report.failed(&said, &self.file, waiting);
        said
    }

    fn end_check(&mut self) {
        if let Some(check) = self.check.take() {
            check.interrupt();
        }
    }
}

/// The disk's word, and what to do.
pub(super) fn explain(file: &std::path::Path, why: &rusqlite::Error) -> String {
    let file = file.display();
    match why.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            format!("{file}: the disk is full; make room, and the store writes again by itself")
        }
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => format!(
            "{file}: the data folder can't be written ({why}); mount it writable or give the user of this process the right, and the store writes again by itself"
        ),
        Some(ErrorCode::SystemIoFailure) => {
            format!("{file}: the disk reports a fault ({why}); see the system's log (dmesg)")
        }
        _ => format!("{file}: {why}"),
    }
}
