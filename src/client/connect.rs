//! How a client reaches its node, and reaches it again.

use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Error;
use crate::link::quic;
use crate::link::race::{self, BESIDE_EVERY, BESIDE_WITHIN, MAX_BESIDE};
use crate::rt::wake::{self, Wakes};
use crate::rt::{clock, gone, places};
use crate::wire::stream;

/// Largest frame that a node may send us, in bytes.
const MAX_FRAME: usize = crate::wire::frame::MAX_PAYLOAD + 1024;
/// Bytes read at once.
const CHUNK: usize = 16 * 1024;
/// How long one address may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried.
const MAX_RESOLVED: usize = 8;
/// How long the reason of a QUIC close may take to arrive behind the end of the stream.
const REASON_WITHIN: Duration = Duration::from_secs(1);

/// Makes connections to a node.
pub trait Connect: Send + Sized + 'static {
    /// Makes one, to a node that has answered: one that hangs is none.
    fn connect(&mut self) -> impl Future<Output = Result<Connection, Error>> + Send;

    /// The ways that it is made of, the best first: each may lead to another node.
    fn apart(self) -> Ways {
        Ways(vec![Mutex::new(Box::new(self))])
    }
}

/// Several ways to nodes, the best first. A client whose node is gone, or hangs, takes the next one that answers, and goes
/// back to a better one when that is there again.
///
/// ```
/// # use trishula::client::{Connect, Connection, Error, Quic, Ways};
/// # fn example(this_machine: impl Connect, others: Quic) -> Ways {
/// Ways::default().or(this_machine).or(others)
/// # }
/// ```
#[derive(Default)]
pub struct Ways(Vec<Mutex<Box<dyn Reconnect>>>);

impl Ways {
    /// And these, should the ones before not answer.
    pub fn or(mut self, how: impl Connect) -> Ways {
        self.0.extend(how.apart().0);
        self
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// By one of them.
    pub(super) async fn connect_by(&self, place: usize) -> Result<Connection, Error> {
        let Some(way) = self.0.get(place) else { return Err(Error::Disconnected) };
        let connected = async { way.lock().await.again().await };
        let late = |_| Error::Unreachable(format!("no answer within {CONNECT_WITHIN:?}"));
        tokio::time::timeout(CONNECT_WITHIN, connected).await.map_err(late).flatten()
    }

    /// By the first that answers, of one round.
    pub(super) async fn connect_in(&self, round: &[usize]) -> Result<(usize, Connection), Error> {
        let won = places::first(round, Some(places::HEAD_START), |place| self.connect_by(place)).await;
        won.map_err(|last| last.unwrap_or(Error::Disconnected))
    }
}

impl std::fmt::Debug for Ways {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ways").field(&self.0.len()).finish()
    }
}

impl Connect for Ways {
    async fn connect(&mut self) -> Result<Connection, Error> {
        let round: Vec<usize> = (0..self.len()).collect();
        self.connect_in(&round).await.map(|(_, connection)| connection)
    }

    fn apart(self) -> Ways {
        self
    }
}

impl<F, Fut> Connect for F
where
    F: FnMut() -> Fut + Send + 'static,
    Fut: Future<Output = Result<Connection, Error>> + Send,
{
    fn connect(&mut self) -> impl Future<Output = Result<Connection, Error>> + Send {
        self()
    }
}

/// [`Connect`] as an object.
pub(super) trait Reconnect: Send {
    fn again(&mut self) -> Pin<Box<dyn Future<Output = Result<Connection, Error>> + Send + '_>>;
}

impl<T: Connect> Reconnect for T {
    fn again(&mut self) -> Pin<Box<dyn Future<Output = Result<Connection, Error>> + Send + '_>> {
        Box::pin(self.connect())
    }
}

/// What happens next on a connection.
pub(super) enum Event {
    Came(Bytes),
    /// All that was put is written.
    Written,
    /// The node has ended the stream, or it is broken.
    Ended,
}

/// A connection to a node, whatever carries it.
pub struct Connection {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    quic: Option<quinn::Connection>,
    input: BytesMut,
    output: BytesMut,
    /// Whether the output, and what the writer may hold back of it, has left.
    written: bool,
}

impl Connection {
    /// Over a stream of bytes.
    pub fn over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: S) -> Connection {
        let (reader, writer) = tokio::io::split(io);
        Connection::new(Box::new(reader), Box::new(writer), None)
    }

    fn new(
        reader: Box<dyn AsyncRead + Send + Unpin>,
        writer: Box<dyn AsyncWrite + Send + Unpin>,
        quic: Option<quinn::Connection>,
    ) -> Connection {
        let (input, output) = Default::default();
        Connection { reader, writer, quic, input, output, written: true }
    }

    /// Reads, and writes meanwhile what was put: a node that takes nothing any more, or a path that is dead, keeps nobody from
    /// looking at other things. Losing this future loses no byte.
    pub(super) async fn next(&mut self) -> Result<Event, Error> {
        let Connection { reader, writer, input, output, written, .. } = self;
        tokio::select! {
            frame = read(reader, input) => match frame? {
                Some(frame) => Ok(Event::Came(frame)),
                None => Ok(Event::Ended),
            },
            result = write(writer, output), if !*written => {
                *written = result.is_ok();
                Ok(if *written { Event::Written } else { Event::Ended })
            }
        }
    }

    /// Waits until the node is gone, where that shows otherwise than by the end of the stream.
    pub(super) fn gone(&self) -> impl Future<Output = ()> + Send + use<> {
        let quic = self.quic.clone();
        async move {
            let Some(quic) = quic else { return std::future::pending().await };
            gone::gone(&quic).await;
        }
    }

    /// Waits until the node, or the way to it, owes an answer for too long, where the carrier tells: a dead path shows long before
    /// [`Life`](super::life::Life) gives it up.
    pub(super) fn silent(&self) -> impl Future<Output = ()> + Send + use<> {
        let quic = self.quic.clone();
        async move {
            let Some(quic) = quic else { return std::future::pending().await };
            race::silent(&quic).await;
        }
    }

    /// Puts a frame to those that are to be written.
    pub(super) fn put(&mut self, frame: &[u8]) {
        stream::put(&mut self.output, frame);
        self.written = false;
    }

    /// Whether all that was put is written.
    pub(super) fn is_written(&self) -> bool {
        self.written
    }

    /// Writes what was put, and ends our side: the node reads all of it, and then ends its own.
    pub(super) async fn end(&mut self) {
        self.written = write(&mut self.writer, &mut self.output).await.is_ok();
        // The other side may be gone already.
        let _ = self.writer.shutdown().await;
    }

    /// Ends our side, and says with which code the node ended the connection, where the carrier tells.
    pub(super) async fn finish(mut self) -> Option<(u16, String)> {
        // The other side may be gone already.
        let _ = self.writer.shutdown().await;
        let quic = self.quic.take()?;
        match tokio::time::timeout(REASON_WITHIN, quic.closed()).await {
            Ok(quinn::ConnectionError::ApplicationClosed(close)) => {
                let code = u16::try_from(close.error_code.into_inner()).ok()?;
                Some((code, String::from_utf8_lossy(&close.reason).into_owned()))
            }
            _ => None,
        }
    }
}

/// The next frame; `None`: the node has ended the stream, or it is broken. Losing this future loses no byte.
async fn read(reader: &mut (impl AsyncRead + Unpin), input: &mut BytesMut) -> Result<Option<Bytes>, Error> {
    loop {
        let taken = stream::take(input, MAX_FRAME);
        if let Some(frame) = taken.map_err(|e| Error::Malformed(e.to_string()))? {
            return Ok(Some(frame));
        }
        input.reserve(CHUNK);
        match reader.read_buf(input).await {
            Ok(0) | Err(_) => return Ok(None),
            Ok(_) => {}
        }
    }
}

/// What was written is no longer there when this future is lost.
async fn write(writer: &mut (impl AsyncWrite + Unpin), output: &mut BytesMut) -> std::io::Result<()> {
    writer.write_all_buf(output).await?;
    writer.flush().await
}

/// A node reached over QUIC, with a client certificate of the mesh.
#[derive(Debug, Clone)]
pub struct Quic {
    /// To dial from. A client dials from another one of its own, at the same address of this machine, once that has slept or
    /// was on another network.
    pub endpoint: quinn::Endpoint,
    /// With the certificate, and with whom to believe.
    pub config: quinn::ClientConfig,
    /// The name that the node's certificate must bear.
    pub server_name: String,
    /// `host:port`, the best first; they may be several nodes' ([`Ways`]).
    pub addresses: Vec<String>,
}

impl Quic {
    /// From a socket of its own that reaches addresses of both families, where this machine has both; `config` gets the
    /// settings of the mesh's connections.
    ///
    /// # Errors
    ///
    /// The system gives no socket.
    pub fn new(
        mut config: quinn::ClientConfig,
        server_name: impl Into<String>,
        addresses: Vec<String>,
    ) -> std::io::Result<Quic> {
        config.transport_config(Arc::new(quic::transport()));
        let any: [SocketAddr; 2] = [(Ipv6Addr::UNSPECIFIED, 0).into(), (Ipv4Addr::UNSPECIFIED, 0).into()];
        let endpoint = any.map(quinn::Endpoint::client).into_iter().reduce(Result::or);
        let endpoint = endpoint.unwrap_or_else(|| Err(std::io::ErrorKind::AddrNotAvailable.into()))?;
        Ok(Quic { endpoint, config, server_name: server_name.into(), addresses })
    }

    /// By any of the addresses that the names have now: one that is silent keeps no other waiting. With so many tries beside each
    /// other at each.
    async fn reach(&self, most: usize) -> Result<Connection, Error> {
        let (mut found, mut why) = (Vec::new(), "no address was given".to_owned());
        let both = self.endpoint.local_addr().is_ok_and(|local| local.is_ipv6());
        for address in &self.addresses {
            match tokio::net::lookup_host(address).await {
                Ok(remotes) => {
                    let mut remotes = race::by_turns(remotes.filter(|remote| both || remote.is_ipv4()));
                    remotes.truncate(MAX_RESOLVED);
                    why = format!("{address}: the name has no address that this machine's socket can reach");
                    found.extend(remotes);
                }
                Err(e) => why = format!("{address}: the name is not known: {e}"),
            }
        }
        let reached = race::in_turn(found, |remote: SocketAddr| async move {
            let tries = race::beside(most, BESIDE_EVERY, |_| self.dial(remote));
            let late = |_| format!("{remote}: no answer within {CONNECT_WITHIN:?}");
            let reached = tokio::time::timeout(CONNECT_WITHIN, tries).await.map_err(late)?;
            reached.map_err(|why| format!("{remote}: {why}"))
        });
        reached.await.map_err(|last| Error::Unreachable(last.unwrap_or(why)))
    }

    async fn dial(&self, remote: SocketAddr) -> Result<Connection, String> {
        let connecting = self.endpoint.connect_with(self.config.clone(), remote, &self.server_name);
        let connection = connecting.map_err(|e| e.to_string())?.await.map_err(|e| e.to_string())?;
        let (writer, reader) = connection.open_bi().await.map_err(|e| e.to_string())?;
        Ok(Connection::new(Box::new(reader), Box::new(writer), Some(connection)))
    }
}

impl Connect for Quic {
    async fn connect(&mut self) -> Result<Connection, Error> {
        self.reach(1).await
    }

    fn apart(self) -> Ways {
        let one = |address: &String| Quic { addresses: vec![address.clone()], ..self.clone() };
        let roaming = |quic| Roaming { quic, wakes: wake::subscribe(), missed_since: None };
        let each = self.addresses.iter().map(|address| roaming(one(address)));
        Ways(each.map(|roaming| Mutex::new(Box::new(roaming) as Box<dyn Reconnect>)).collect())
    }
}

/// Dials from another socket when the machine has woken up: on some systems one that slept is dead for ever.
struct Roaming {
    quic: Quic,
    wakes: Wakes,
    /// When the first try after a connection began.
    missed_since: Option<Instant>,
}

impl Connect for Roaming {
    async fn connect(&mut self) -> Result<Connection, Error> {
        if self.wakes.any() {
            self.missed_since = None;
            let local = self.quic.endpoint.local_addr();
            match local.and_then(|local| quinn::Endpoint::client((local.ip(), 0).into())) {
                Ok(endpoint) => self.quic.endpoint = endpoint,
                Err(why) => tracing::warn!(%why, "the UDP socket could not be replaced: it is used on"),
            }
        }
        let missed_since = *self.missed_since.get_or_insert_with(clock::now);
        let most = if clock::since(missed_since) < BESIDE_WITHIN { MAX_BESIDE } else { 1 };
        let connected = self.quic.reach(most).await?;
        self.missed_since = None;
        Ok(connected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_is_read_while_what_was_put_finds_no_room() {
        // covers T09
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut connection = Connection::over(ours);
        let large: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        connection.put(&large);
        let mut hello = BytesMut::new();
        stream::put(&mut hello, b"hello");
        theirs.write_all(&hello).await.unwrap();
        let came = tokio::time::timeout(CONNECT_WITHIN, connection.next()).await.unwrap();
        assert!(matches!(&came, Ok(Event::Came(frame)) if **frame == *b"hello"));
        assert!(!connection.is_written());
        // What was interrupted so goes on where it was.
        let mut written = vec![0; large.len() + 4];
        let (read, event) = tokio::join!(theirs.read_exact(&mut written), connection.next());
        assert!(matches!(event, Ok(Event::Written)) && connection.is_written());
        assert_eq!((read.unwrap(), &written[4..]), (large.len() + 4, &large[..]));
    }
}
