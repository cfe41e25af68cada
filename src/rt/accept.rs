//! Connections taken from a listener, each served by a task of its own, and never more than so many at once.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::clock;
use super::tasks::Group;
use crate::metrics;

/// Waits after an accept that failed: too many open files do not mend themselves in less.
pub const PAUSE: Duration = Duration::from_millis(100);
/// Of connections that find a listener full, one in this time has a line of the log, in microseconds; all are counted.
const LINE_EVERY: u64 = 1_000_000;

/// What gives connections.
pub trait Listener {
    /// A connection.
    type Stream;

    /// The next one, and where it comes from, where that has an address.
    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Self::Stream, Option<SocketAddr>)>>;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, Option<SocketAddr>)>> {
        self.poll_accept(cx).map_ok(|(stream, from)| (stream, Some(from)))
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<io::Result<(UnixStream, Option<SocketAddr>)>> {
        self.poll_accept(cx).map_ok(|(stream, _)| (stream, None))
    }
}

/// Serves every connection, for ever; one that comes while `most` are open is closed, counted and logged. `name` is that of
/// the tasks.
pub async fn each<L, F>(listener: L, name: &'static str, most: usize, serve: impl Fn(L::Stream) -> F)
where
    L: Listener,
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = Group::default();
    let mut full = Full { name, most, told_at: None, untold: 0 };
    loop {
        match poll_fn(|cx| listener.poll_next(cx)).await {
            Ok((_, from)) if connections.len() >= most => full.tell(from),
            Ok((stream, _)) => connections.spawn(name, serve(stream)),
            Err(error) => {
                tracing::warn!(name, %error, "a connection could not be taken");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Tells of connections that found no room.
struct Full {
    name: &'static str,
    most: usize,
    /// When the last line was written, in [`clock::micros`], and how many had none since.
    told_at: Option<u64>,
    untold: u64,
}

impl Full {
    fn tell(&mut self, from: Option<SocketAddr>) {
        let Full { name, most, .. } = *self;
        metrics::LISTENER_FULL.with_label_values(&[name]).inc();
        let now = clock::micros();
        if self.told_at.is_some_and(|at| now.saturating_sub(at) < LINE_EVERY) {
            self.untold += 1;
            return;
        }
        self.told_at = Some(now);
        let (from, untold) = (from.map(tracing::field::display), std::mem::take(&mut self.untold));
        tracing::warn!(target: "security", name, from, most, untold, "too many connections; one more was closed");
    }
}
