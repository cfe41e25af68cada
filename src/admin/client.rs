//! The command line's side of the Unix socket.

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::protocol::{self, Answer, MAX_ANSWER, Request};

/// Why the node did not answer, or what it answered instead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens.
    #[error(
        "no node answers at {0}; is it running? start it with: trishula run --config FILE (another socket: --socket PATH or --config FILE)"
    )]
    NotRunning(PathBuf),
    /// The socket's mode.
    #[error(
        "{0} may be used only by its owner and its group ({1}); use sudo, or join that group: sudo usermod -aG {1} $USER, then log in again"
    )]
    NotAllowed(PathBuf, String),
    /// Anything else.
    #[error("the node at {path} did not answer: {source}; see its log")]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It closed the connection.
    #[error("the node at {0} stopped before it answered; see its log")]
    Gone(PathBuf),
    /// It answered with an error.
    #[error("{0}")]
    Refused(String),
    /// It answered something else.
    #[error("the node's answer can't be read ({0}); use its own version of trishula")]
    Malformed(String),
}

/// A connection to the node of this machine.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: UnixStream,
}

impl Client {
    /// Connects.
    pub async fn connect(path: &Path) -> Result<Client, Error> {
        let stream = UnixStream::connect(path).await.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::NotRunning(path.into()),
            io::ErrorKind::PermissionDenied => Error::NotAllowed(path.into(), group_of(path)),
            _ => Error::Io { path: path.into(), source },
        })?;
        Ok(Client { path: path.into(), stream })
    }

    /// Asks one thing.
    pub async fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, Error> {
        let failed = |source| Error::Io { path: self.path.clone(), source };
        protocol::write(&mut self.stream, request).await.map_err(failed)?;
        match protocol::read(&mut self.stream, MAX_ANSWER).await.map_err(failed)? {
            None => Err(Error::Gone(self.path.clone())),
            Some(Answer::Error(why)) => Err(Error::Refused(why)),
            Some(Answer::Ok(value)) => {
                serde_json::from_value(value).map_err(|e| Error::Malformed(e.to_string()))
            }
        }
    }

    /// The connection, after [`Request::Attach`] was answered.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }
}

/// The name of the group that a file belongs to, or of the nearest folder above it that can be seen.
fn group_of(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let gid = path.ancestors().find_map(|path| std::fs::metadata(path).ok()).map(|metadata| metadata.gid());
    let Some(gid) = gid else { return "trishula".into() };
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let of_gid = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        (fields.nth(1)?.parse() == Ok(gid)).then_some(name)
    };
    groups.lines().find_map(of_gid).unwrap_or_else(|| gid.to_string())
}
