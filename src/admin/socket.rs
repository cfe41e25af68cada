//! The node's side of the Unix socket. Whoever may write to the socket's file (0660: its owner and group) is the
//! operator; there is no other check.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

use super::protocol::{self, Answer, Called, Invited, MAX_REQUEST, Pong, Renewed, Request, Revoked, within};
use crate::identity::enrol::PublicNames;
use crate::node::{Handle, records};
use crate::rt::{accept, queue};
use crate::wire::frame::Method;
use crate::wire::ids::{AgentName, NodeName};

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection may be silent between requests, a request take to come, and an answer to be read: the
/// connections are few.
const SILENT_FOR: Duration = Duration::from_secs(30);
/// How long another node may take to tell its status.
const STATUS_WITHIN: Duration = Duration::from_secs(5);
/// Longest path of a socket that Linux and macOS both take, in bytes (`sun_path`, 104 with its final zero on macOS).
const MAX_PATH: usize = 103;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody answers there.
    #[error("{0}: a node is running here already; stop it, or give this one another [admin] socket")]
    InUse(PathBuf),
    /// Something else lies there.
    #[error("{0} is not a socket; remove it, or set [admin] socket to another path")]
    NotASocket(PathBuf),
    /// The system's limit.
    #[error(
        "{0}: the path of a socket may have at most {MAX_PATH} bytes; set [admin] socket to a shorter one"
    )]
    TooLong(PathBuf),
    /// Anything else.
    #[error(
        "{path}: {source}; the folder must exist and be writable for this user, or set [admin] socket to another path"
    )]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What only the whole program can do; whoever runs the node answers.
#[derive(Debug)]
pub enum Ask {
    /// See [`Request::Invite`].
    Invite {
        /// For the machine of this name.
        name: NodeName,
        /// For how long.
        expires: Duration,
        /// Where it finds the mesh.
        addresses: Vec<String>,
        /// Also if the name has certificates already.
        again: bool,
        /// Under which names clients may reach its edge; `None`: whichever it chooses.
        public: Option<PublicNames>,
        /// The ticket.
        answer: oneshot::Sender<Result<Invited, String>>,
    },
    /// See [`Request::Revoke`].
    Revoke {
        /// A name, or a serial number.
        whom: String,
        /// Why.
        reason: String,
        /// The list that is now in force.
        answer: oneshot::Sender<Result<Revoked, String>>,
    },
    /// See [`Request::Renew`].
    Renew {
        /// The new certificate.
        answer: oneshot::Sender<Result<Renewed, String>>,
    },
    /// See [`Request::Attach`]: [`protocol::Attached`] is still to be answered, then the stream is a session's.
    Attach {
        /// Which agent; `<node>.cli` when absent.
        agent: Option<AgentName>,
        /// The connection.
        stream: UnixStream,
    },
}

/// Listens. A socket that nobody answers on is left over from a crash, and replaced.
pub fn bind(path: &Path) -> Result<UnixListener, Error> {
    if path.as_os_str().len() > MAX_PATH {
        return Err(Error::TooLong(path.into()));
    }
    let failed = |source| Error::Io { path: path.into(), source };
    if let Ok(metadata) = fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return Err(Error::NotASocket(path.into()));
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(failed)?;
            }
            // A full backlog, or no permission: somebody is there.
            _ => return Err(Error::InUse(path.into())),
        }
    } else if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Before this the usual umask lets nobody but the owner write, that is, connect.
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
    Ok(listener)
}

/// Who answers what.
#[derive(Debug, Clone)]
pub struct Desks {
    /// The node task.
    pub node: Handle,
    /// Where messages stand.
    pub records: records::Handle,
    /// Everything else.
    pub asks: queue::Sender<Ask>,
}

/// Answers the command line until the node stops.
pub async fn serve(listener: UnixListener, desks: Desks) {
    accept::each(listener, "admin.connection", MAX_CONNECTIONS, |stream| {
        let desks = desks.clone();
        async move {
            if let Err(error) = connection(stream, &desks).await {
                tracing::debug!(%error, "a connection to the admin socket ended");
            }
        }
    })
    .await;
}

async fn connection(mut stream: UnixStream, desks: &Desks) -> io::Result<()> {
    loop {
        let request = within_time(protocol::read::<Request>(&mut stream, MAX_REQUEST)).await;
        let request = match request {
            Ok(None) => return Ok(()),
            Ok(Some(request)) => request,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let why = format!(
                    "this node does not understand the request ({error}); use its own version of trishula"
                );
                return protocol::write(&mut stream, &Answer::Error(why)).await;
            }
            Err(error) => return Err(error),
        };
        if let Request::Attach { agent } = request {
            // Nobody takes it: the node stops, and the client sees the connection end.
            let _ = desks.asks.send(Ask::Attach { agent, stream }).await;
            return Ok(());
        }
        let answer = match answer(request, desks).await {
            Ok(value) => Answer::Ok(value),
            Err(why) => Answer::Error(why),
        };
        within_time(protocol::write(&mut stream, &answer)).await?;
    }
}

async fn within_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the other side was silent for too long");
    tokio::time::timeout(SILENT_FOR, work).await.map_err(|_| late())?
}

async fn answer(request: Request, desks: &Desks) -> Result<Value, String> {
    let Desks { node, records, asks } = desks;
    let why = |error: crate::node::CallError| error.to_string();
    match request {
        Request::Status { node: None } => json(&node.status().await.map_err(why)?),
        Request::Status { node: Some(other) } => {
            let called =
                node.call(Some(other), Method::Status, Bytes::new(), STATUS_WITHIN).await.map_err(why)?;
            serde_json::from_slice(&called.body).map_err(|e| format!("its answer can't be read: {e}"))
        }
        Request::Agents { namespace } => json(&node.agents(namespace).await.map_err(why)?),
        Request::Ping { node: other, within_ms } => {
            let called =
                node.call(Some(other), Method::Ping, Bytes::new(), within(within_ms)).await.map_err(why)?;
            json(&Pong { route: called.route, took_ms: called.took_ms })
        }
        Request::Call { to, method, body, within_ms } => {
            let body = STANDARD.decode(body).map_err(|e| format!("body is not base64: {e}"))?;
            let called = node.call(to, method, body.into(), within(within_ms)).await.map_err(why)?;
            let body = STANDARD.encode(&called.body);
            json(&Called { route: called.route, took_ms: called.took_ms, body })
        }
        Request::Show { from, id } => json(&records.show(from, id).await?),
        Request::Trace { from, id } => json(&records.trace(from, id).await?),
        Request::Resume { redeliver } => json(&node.resume(redeliver).await.map_err(why)?),
        Request::Takeover { node: away } => {
            let taken = node.take_over(away.clone()).await.map_err(why)?;
            json(&taken.map_err(|why| format!("nothing is taken over from {away}: {why}"))?)
        }
        Request::Records { node, inquiry } => records.one(node, inquiry).await,
        Request::Invite { name, expires_ms, addresses, again, public } => {
            let expires = Duration::from_millis(expires_ms);
            json(&ask(asks, |answer| Ask::Invite { name, expires, addresses, again, public, answer }).await?)
        }
        Request::Revoke { whom, reason } => {
            json(&ask(asks, |answer| Ask::Revoke { whom, reason, answer }).await?)
        }
        Request::Renew => json(&ask(asks, |answer| Ask::Renew { answer }).await?),
        Request::Attach { .. } => Err("attach is answered by the session".into()),
    }
}

async fn ask<T>(
    asks: &queue::Sender<Ask>,
    make: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Ask,
) -> Result<T, String> {
    let stopping = || "this node is stopping".to_owned();
    let (answer, wait) = oneshot::channel();
    asks.send(make(answer)).await.map_err(|_| stopping())?;
    wait.await.map_err(|_| stopping())?
}

fn json<T: Serialize>(value: &T) -> Result<Value, String> {
    serde_json::to_value(value).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn half_a_request_holds_its_place_for_a_while_only() {
        // covers B09
        for half in [&b""[..], &[0, 0, 1], &[0, 0, 1, 0, b'{']] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let (requests, _asked) = queue::bounded("test.requests", 1);
            let (links, _events) = queue::bounded("test.links", 1);
            let (asks, _taken) = queue::bounded("test.asks", 1);
            theirs.write_all(half).await.unwrap();
            let (_, records, _inquiries) = records::inbox();
            let desks = Desks { node: Handle::new(requests, links.into()), records, asks };
            let ended = connection(ours, &desks).await;
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert_eq!(theirs.read(&mut [0; 1]).await.unwrap(), 0);
        }
    }
}
