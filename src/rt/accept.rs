//! Connections taken from a listener, each served by a task of its own, and never more than so many at once.

use std::future::{Future, poll_fn};
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::tasks::Group;

/// Waits after an accept that failed: too many open files do not mend themselves in less.
pub const PAUSE: Duration = Duration::from_millis(100);

/// What gives connections.
pub trait Listener {
    /// A connection.
    type Stream;

    /// The next one.
    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<io::Result<Self::Stream>>;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        self.poll_accept(cx).map_ok(|(stream, _)| stream)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        self.poll_accept(cx).map_ok(|(stream, _)| stream)
    }
}

/// Serves every connection, for ever; one that comes while `most` are open is closed. `name` is that of the
/// tasks.
pub async fn each<L, F>(listener: L, name: &'static str, most: usize, serve: impl Fn(L::Stream) -> F)
where
    L: Listener,
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = Group::default();
    loop {
        match poll_fn(|cx| listener.poll_next(cx)).await {
            Ok(_) if connections.len() >= most => {
                tracing::warn!(name, most, "too many connections; one more was closed");
            }
            Ok(stream) => connections.spawn(name, serve(stream)),
            Err(error) => {
                tracing::warn!(name, %error, "a connection could not be taken");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
