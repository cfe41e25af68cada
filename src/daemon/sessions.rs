//! TLS sessions of peers, written behind: a handshake never waits for the disk. What a kill loses is the latest tickets;
//! whose ticket is lost needs one round trip more, once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::identity::files::{self, Access};
use crate::identity::sessions::Sessions;
use crate::rt::{queue, tasks};

/// In the node's data folder; private, as who has it can speak as those peers for a day.
const FILE: &str = "sessions.tls";
/// Snapshots that wait for the disk.
const WAITING: usize = 1;
/// Changes that follow each other so soon are one write.
const GATHER: Duration = Duration::from_millis(200);
/// How often it is looked whether others are trusted than before, besides at each use.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the writing thread does.
enum Job {
    Write(Vec<u8>),
    /// Says when all before it is written.
    Tell(oneshot::Sender<()>),
}

/// Keeps the file up to date as long as the task runs.
pub(super) struct Keeper {
    sessions: Arc<Sessions>,
    disk: queue::Sender<Job>,
}

impl Keeper {
    /// Reads what an earlier life of this node has left, and starts the thread that writes.
    pub(super) fn open(sessions: Arc<Sessions>, folder: &Path) -> Keeper {
        let path = folder.join(FILE);
        read(&sessions, &path);
        let (disk, jobs) = queue::bounded("daemon.sessions", WAITING);
        let thread = std::thread::Builder::new().name("tls.sessions".into());
        if let Err(why) = thread.spawn(move || write(&path, jobs)) {
            tracing::error!(%why, "no thread for TLS sessions: after a restart every peer needs one round trip more");
        }
        Keeper { sessions, disk }
    }

    /// Starts the task.
    pub(super) fn start(&self) -> tasks::Task {
        let (sessions, disk) = (self.sessions.clone(), self.disk.clone());
        tasks::spawn("daemon.sessions", async move {
            loop {
                match tokio::time::timeout(LOOK_EVERY, sessions.changed()).await {
                    Ok(()) => tokio::time::sleep(GATHER).await,
                    Err(_) => {
                        sessions.look_at_trust();
                        continue;
                    }
                }
                if disk.send(Job::Write(sessions.snapshot())).await.is_err() {
                    return;
                }
            }
        })
    }

    /// Writes what there is now, at the end of the process.
    pub(super) async fn finish(self) {
        let (done, wait) = oneshot::channel();
        // The thread is gone only if it never was.
        if self.disk.send(Job::Write(self.sessions.snapshot())).await.is_ok()
            && self.disk.send(Job::Tell(done)).await.is_ok()
        {
            let _ = wait.await;
        }
    }
}

fn read(sessions: &Sessions, path: &Path) {
    let read = files::read_private(path, "remove it").map(|bytes| sessions.restore(&bytes));
    match read {
        _ if !path.exists() => {}
        Ok(Ok(count)) => tracing::debug!(count, "TLS sessions of an earlier life can be resumed"),
        Ok(Err(why)) => tracing::info!(%why, "TLS sessions of an earlier life are not used"),
        Err(why) => tracing::warn!(%why, "TLS sessions of an earlier life are not used"),
    }
}

fn write(path: &Path, mut jobs: queue::Receiver<Job>) {
    let mut failed = false;
    while let Some(job) = jobs.blocking_recv() {
        match job {
            Job::Write(bytes) => match files::write(path, &bytes, Access::Private) {
                Ok(()) => failed = false,
                // Once: a full disk would say it for ever.
                Err(why) if !failed => {
                    failed = true;
                    tracing::warn!(%why, "TLS sessions are not written: after a restart every peer needs one round trip more");
                }
                Err(_) => {}
            },
            // Who asked may have given up.
            Job::Tell(done) => drop(done.send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::server::StoresServerSessions;
    use time::OffsetDateTime;

    use super::*;
    use crate::identity::ca::Authority;
    use crate::identity::revocation::Revocations;
    use crate::identity::trust::Trust;
    use crate::rt::clock;

    #[tokio::test]
    async fn what_changes_is_written_soon_into_a_private_file() {
        // covers T02, B16
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let ca = Authority::create("trishula", OffsetDateTime::from(clock::wall())).unwrap();
        let trust = Arc::new(Trust::new(ca.certificate().clone(), Arc::new(Revocations::default())).unwrap());
        let new = || Arc::new(Sessions::new(trust.clone(), clock::for_tls()));
        let sessions = new();
        let keeper = Keeper::open(sessions.clone(), folder.path());
        let _task = keeper.start();
        sessions.put(b"one".to_vec(), b"1".to_vec());
        let path = folder.path().join(FILE);
        let written = async {
            // As after a kill: nobody says goodbye.
            while new().restore(&std::fs::read(&path).unwrap_or_default()) != Ok(1) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), written).await.expect("it is written");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        sessions.put(b"two".to_vec(), b"2".to_vec());
        keeper.finish().await;
        let again = new();
        let _keeper = Keeper::open(again.clone(), folder.path());
        assert_eq!(again.len(), 2, "a stop in good order loses none");
    }
}
