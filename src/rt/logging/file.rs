//! A log in a file: rotated by its size, followed when somebody moves it or cuts it, and written by a thread of its own, so that
//! nobody who logs waits for a disk.
//!
//! No line is lost unseen. One that finds no room on its way is counted, and the log says how many there were as soon as there is room
//! again; what the disk refuses is counted, and goes to standard error.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::Duration;

use crate::metrics;
use crate::rt::{clock, queue};

/// Lines that may wait for the file.
const MAX_LINES: usize = 8192;
/// Their bytes; one line fits always.
const MAX_BYTES: usize = 8 << 20;
/// How often it is looked whether the file is still there, how often a rotation that failed is tried again, and how often lines
/// without room are told; in microseconds.
const LOOK_EVERY: u64 = 1_000_000;
/// How often standard error is told what is wrong with the file, in microseconds.
const COMPLAIN_EVERY: u64 = 60_000_000;
/// How long the end of the process waits for what is not written yet.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// The group may read it; the process' umask may take that away.
const MODE: u32 = 0o640;

/// A file of the log, and what is kept of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// Where it is. Files before it are beside it: `PATH.1` is the latest.
    pub path: PathBuf,
    /// A line that would make it larger, in bytes, goes to a new one.
    pub max_bytes: u64,
    /// How many of those before it stay.
    pub keep: u64,
}

/// The log's file can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("[log] file: {path} cannot be written: {why}; {remedy}", path = path.display())]
pub struct Error {
    /// Which.
    path: PathBuf,
    /// What the system said.
    why: String,
    /// What to do.
    remedy: String,
}

impl Rotation {
    /// Whether the file can be written and rotated by this user. Leaves nothing behind.
    ///
    /// # Errors
    ///
    /// Why not, and what to do.
    pub fn check(&self) -> Result<(), Error> {
        self.probe().map_err(|why| Error::of(&self.path, &why))
    }

    fn probe(&self) -> io::Result<()> {
        if is_there(&self.path)? {
            OpenOptions::new().append(true).open(&self.path)?;
        }
        // A file that is full is renamed, and another one made: that is a right to its folder. Nothing is written, as a full disk is no
        // reason not to start; and what somebody else has put there by this name is not followed.
        let probe = folder(&self.path).join(format!(".trishula-check-{}", std::process::id()));
        let _ = fs::remove_file(&probe);
        OpenOptions::new().write(true).create_new(true).open(&probe)?;
        fs::remove_file(&probe)
    }

    fn numbered(&self, n: u64) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{n}"));
        path.into()
    }

    /// Removes those that are too many, as there were more to be kept earlier.
    fn prune(&self) {
        let mut beyond = self.keep.saturating_add(1);
        while fs::remove_file(self.numbered(beyond)).is_ok() {
            beyond = beyond.saturating_add(1);
        }
    }

    /// Gives each file the number behind its own; the one in use has none, and is there no more. The last one goes. Tried again after
    /// it failed, it pushes none of them further.
    fn shift(&self) -> io::Result<()> {
        fs::symlink_metadata(&self.path)?;
        let is_free = |n: &u64| fs::symlink_metadata(self.numbered(*n)).is_err();
        let free = (1..self.keep).find(is_free).unwrap_or(self.keep);
        for n in (1..free).rev() {
            match fs::rename(self.numbered(n), self.numbered(n + 1)) {
                Err(why) if why.kind() != ErrorKind::NotFound => return Err(why),
                _ => {}
            }
        }
        match self.keep {
            0 => fs::remove_file(&self.path)?,
            _ => fs::rename(&self.path, self.numbered(1))?,
        }
        self.prune();
        Ok(())
    }
}

impl Error {
    fn of(path: &Path, why: &io::Error) -> Error {
        let folder = folder(path);
        let folder = folder.display();
        let remedy = match why.kind() {
            ErrorKind::NotFound => format!("make its folder: sudo install -d -o trishula {folder}"),
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => format!(
                "this user must be allowed to make files there: sudo chown trishula: {folder}; a systemd unit also needs \
                 ReadWritePaths={folder}, or LogsDirectory= as in deploy/systemd"
            ),
            _ => "name another file, or leave `file` out: then the log goes to standard error".into(),
        };
        Error { path: path.into(), why: why.to_string(), remedy }
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What is no file can't be rotated, and opening a pipe would wait for its reader.
fn is_there(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => Ok(true),
        Ok(_) => Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file")),
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(false),
        Err(why) => Err(why),
    }
}

/// The end where lines are put in; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    queue: queue::Sender<Vec<u8>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Of lines that wait.
    bytes: AtomicUsize,
    /// Lines that found no room since the start.
    lost: AtomicU64,
    /// The file is to be looked at.
    look: AtomicBool,
    /// The process ends.
    stop: AtomicBool,
}

/// The thread that writes; dropped, it writes what waits, and ends.
#[derive(Debug)]
pub(super) struct Running {
    lines: Lines,
    ended: mpsc::Receiver<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.lines.shared.stop.store(true, SeqCst);
        self.lines.wake();
        // Nothing is ever sent: the thread's end of it goes when the thread does. A disk that hangs is not waited for.
        let _ = self.ended.recv_timeout(STOP_WITHIN);
    }
}

/// Opens the file and starts its thread.
pub(super) fn open(rotation: &Rotation) -> Result<(Lines, Running), Error> {
    rotation.check()?;
    let error = |why| Error::of(&rotation.path, &why);
    let (lines, waiting) = lines();
    let writer = Writer::open(rotation.clone(), lines.shared.clone()).map_err(error)?;
    let (alive, ended) = mpsc::channel::<()>();
    let thread = std::thread::Builder::new().name("log".into());
    thread
        .spawn(move || {
            writer.run(waiting);
            drop(alive);
        })
        .map_err(error)?;
    Ok((lines.clone(), Running { lines, ended }))
}

fn lines() -> (Lines, queue::Receiver<Vec<u8>>) {
    let (queue, waiting) = queue::bounded("log", MAX_LINES);
    (Lines { queue, shared: Arc::default() }, waiting)
}

impl Lines {
    /// Has the thread look at the file before it writes on.
    pub(super) fn look(&self) {
        self.shared.look.store(true, SeqCst);
        self.wake();
    }

    /// A thread that has something to do looks at its orders anyhow.
    fn wake(&self) {
        if self.queue.depth() == 0 {
            let _ = self.queue.try_send(Vec::new());
        }
    }

    fn put(&self, line: &[u8]) {
        let waiting = self.shared.bytes.fetch_add(line.len(), SeqCst);
        let refused = if waiting > 0 && waiting + line.len() > MAX_BYTES {
            self.queue.count_full();
            None
        } else {
            match self.queue.try_send(line.to_vec()) {
                Ok(()) => return,
                Err(queue::Refused::Full(_)) => None,
                Err(queue::Refused::Closed(line)) => Some(line),
            }
        };
        self.shared.bytes.fetch_sub(line.len(), SeqCst);
        match refused {
            // The process is at its end.
            Some(line) => aside(&line),
            None => {
                self.shared.lost.fetch_add(1, SeqCst);
            }
        }
    }
}

/// A whole line comes at once.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What can't be in the file. Where nobody reads standard error either, nobody misses it.
fn aside(line: &[u8]) {
    let _ = io::stderr().write_all(line);
}

/// What the thread has.
struct Writer {
    rotation: Rotation,
    shared: Arc<Shared>,
    file: File,
    /// Device and number, by which it is known whether it is still the one of its name.
    identity: (u64, u64),
    size: u64,
    /// When it was looked at, when rotating it failed, and when lines without room were told of; in [`clock::micros`].
    looked: u64,
    failed: Option<u64>,
    told: u64,
    /// When standard error was told what is wrong.
    complained: Option<u64>,
    /// Lines without room that were told of.
    lost: u64,
    /// The file ends amid a line.
    torn: bool,
    /// The file was removed, and none of its name could be opened: nobody would find what is written.
    gone: bool,
}

impl Writer {
    fn open(rotation: Rotation, shared: Arc<Shared>) -> io::Result<Writer> {
        rotation.prune();
        let (file, identity, size) = open_file(&rotation.path)?;
        let looked = clock::micros();
        Ok(Writer {
            rotation,
            shared,
            file,
            identity,
            size,
            looked,
            failed: None,
            told: 0,
            complained: None,
            lost: 0,
            torn: false,
            gone: false,
        })
    }

    fn run(mut self, mut waiting: queue::Receiver<Vec<u8>>) {
        while let Some(line) = waiting.blocking_recv() {
            self.shared.bytes.fetch_sub(line.len(), SeqCst);
            let now = clock::micros();
            if self.shared.look.swap(false, SeqCst) || now.saturating_sub(self.looked) >= LOOK_EVERY {
                self.looked = now;
                self.follow();
            }
            if !line.is_empty() {
                self.line(&line, now);
            }
            if waiting.is_empty() || now.saturating_sub(self.told) >= LOOK_EVERY {
                self.told = now;
                self.tell_lost();
            }
            if self.shared.stop.load(SeqCst) {
                // What is in it is still written; what comes from now on goes to standard error.
                waiting.close();
            }
        }
    }

    fn tell_lost(&mut self) {
        let lines = self.shared.lost.load(SeqCst);
        if lines > self.lost {
            self.lost = lines;
            // Into the queue, like everybody's: where it finds no room itself, it is one more, and all are told of later.
            tracing::warn!(lines, "lines of the log were dropped since the start: its file was too slow");
        }
    }

    /// Somebody may have moved the file, or cut it.
    fn follow(&mut self) {
        match fs::metadata(&self.rotation.path) {
            Ok(found) if (found.dev(), found.ino()) == self.identity => self.size = found.len(),
            _ => self.reopen(),
        }
    }

    /// Goes on with the file of that name. Where it can't be opened, the old one is better than none.
    fn reopen(&mut self) {
        match open_file(&self.rotation.path) {
            Ok((file, identity, size)) => {
                (self.file, self.identity, self.size) = (file, identity, size);
                (self.torn, self.gone) = (false, false);
            }
            Err(why) => {
                self.gone = self.file.metadata().is_ok_and(|found| found.nlink() == 0);
                self.complain(&why);
            }
        }
    }

    fn line(&mut self, line: &[u8], now: u64) {
        let failed = self.failed.is_some_and(|at| now.saturating_sub(at) < LOOK_EVERY);
        if self.is_full(line) && !failed {
            // One that was moved or cut meanwhile is not to be moved once more.
            self.follow();
            if self.is_full(line) {
                self.rotate(now);
            }
        }
        if let Err(why) = self.write(line) {
            metrics::LOG_REFUSED.inc();
            self.complain(&why);
            aside(line);
        }
    }

    fn is_full(&self, line: &[u8]) -> bool {
        self.size > 0 && self.size.saturating_add(line.len() as u64) > self.rotation.max_bytes
    }

    fn rotate(&mut self, now: u64) {
        match self.rotation.shift() {
            Ok(()) => {
                self.failed = None;
                self.reopen();
            }
            Err(why) => {
                self.failed = Some(now);
                self.complain(&why);
            }
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.gone {
            return Err(io::Error::new(ErrorKind::NotFound, "it was removed"));
        }
        if self.torn {
            self.file.write_all(b"\n")?;
            (self.torn, self.size) = (false, self.size + 1);
        }
        let written = self.file.write_all(line);
        match &written {
            Ok(()) => self.size += line.len() as u64,
            Err(_) => {
                let size = self.file.metadata().map_or(self.size, |found| found.len());
                self.torn = size != self.size;
                self.size = size;
            }
        }
        written
    }

    /// On standard error, as the file is what is wrong.
    fn complain(&mut self, why: &io::Error) {
        let now = clock::micros();
        if self.complained.is_none_or(|at| now.saturating_sub(at) >= COMPLAIN_EVERY) {
            self.complained = Some(now);
            let error = Error::of(&self.rotation.path, why);
            aside(format!("{error}; what it refuses is here\n").as_bytes());
        }
    }
}

fn open_file(path: &Path) -> io::Result<(File, (u64, u64), u64)> {
    is_there(path)?;
    let file = OpenOptions::new().append(true).create(true).mode(MODE).open(path)?;
    let found = file.metadata()?;
    Ok((file, (found.dev(), found.ino()), found.len()))
}

#[cfg(test)]
mod tests;
