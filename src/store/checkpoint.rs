//! The log is written into the database by a thread of its own: it costs as much as the commits it is for, and nobody's
//! answer waits for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::file;

/// Pages in the log (of 4 KiB) after which it is written into the database, beside the commits that go on.
const BESIDE: usize = 1000;
/// What was added to the log meanwhile is written between two commits if it is not more than this: only when all is in the
/// database the log begins anew, and while it is written over it does not grow, which spares the disk half of its work.
const REST: usize = 256;
/// And after which the commits wait for the rest however large: under full load it never gets small.
const WAIT: usize = 8192;

/// When that is done.
pub(super) struct Checkpoints {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    is_done: Arc<AtomicBool>,
    /// Length of the log when the thread was woken last.
    woken_at: usize,
}

impl Checkpoints {
    /// Starts the thread; it ends with this value.
    pub fn start(path: &Path) -> std::io::Result<Checkpoints> {
        let (wake, woken) = sync_channel(1);
        let (path, is_done) = (PathBuf::from(path), Arc::new(AtomicBool::new(false)));
        let done = is_done.clone();
        let thread = std::thread::Builder::new().name("store.checkpoint".into());
        let thread = thread.spawn(move || run(&path, &woken, &done))?;
        Ok(Checkpoints { wake: Some(wake), thread: Some(thread), is_done, woken_at: 0 })
    }

    /// After each commit, when what waited for it has been answered; `pages` is the length of the log.
    pub fn after_commit(&mut self, connection: &Connection, pages: usize) -> rusqlite::Result<()> {
        // Shorter than it was: it began anew.
        self.woken_at = if pages < self.woken_at { 0 } else { self.woken_at };
        let is_done = self.is_done.swap(false, Ordering::Relaxed);
        if pages >= WAIT || (is_done && pages - self.woken_at <= REST) {
            return file::checkpoint(connection, "PASSIVE");
        }
        if pages >= self.woken_at + BESIDE
            && let Some(wake) = &self.wake
        {
            self.woken_at = pages;
            // Full: it is at it already.
            let _ = wake.try_send(());
        }
        Ok(())
    }

    /// Waits until the thread has let go of the file.
    pub fn end(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            // It has no panic of its own that is worth more than its line in the log.
            let _ = thread.join();
        }
    }
}

fn run(path: &Path, woken: &Receiver<()>, is_done: &AtomicBool) {
    let mut connection: Option<Connection> = None;
    while woken.recv().is_ok() {
        let done = match &connection {
            Some(connection) => file::checkpoint(connection, "PASSIVE"),
            None => file::connect_for_checkpoints(path).and_then(|new| {
                let new = connection.insert(new);
                file::checkpoint(new, "PASSIVE")
            }),
        };
        if let Err(why) = done {
            // What failed is done again as a whole: the log keeps its pages until they are in the database. When it
            // can't be, the writer hears it as its log grows.
            tracing::warn!(file = %path.display(), %why, "the store's log could not be written into the database; it is tried again");
            connection = None;
        } else {
            is_done.store(true, Ordering::Relaxed);
        }
    }
}
