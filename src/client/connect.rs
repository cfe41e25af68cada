//! How a client reaches its node, and reaches it again.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Error;
use crate::wire::stream;

/// Largest frame that a node may send us, in bytes.
const MAX_FRAME: usize = crate::wire::frame::MAX_PAYLOAD + 1024;
/// Bytes read at once.
const CHUNK: usize = 16 * 1024;
/// How long one address may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long the reason of a QUIC close may take to arrive behind the end of the stream.
const REASON_WITHIN: Duration = Duration::from_secs(1);

/// Makes connections to a node.
pub trait Connect: Send + 'static {
    /// Makes one.
    fn connect(&mut self) -> impl Future<Output = Result<Connection, Error>> + Send;
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
    fn can(&self) -> bool {
        true
    }
}

impl<T: Connect> Reconnect for T {
    fn again(&mut self) -> Pin<Box<dyn Future<Output = Result<Connection, Error>> + Send + '_>> {
        Box::pin(self.connect())
    }
}

/// Of a connection that was given.
pub(super) struct Never;

impl Reconnect for Never {
    fn again(&mut self) -> Pin<Box<dyn Future<Output = Result<Connection, Error>> + Send + '_>> {
        Box::pin(std::future::ready(Err(Error::Disconnected)))
    }
    fn can(&self) -> bool {
        false
    }
}

/// A connection to a node, whatever carries it.
pub struct Connection {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    quic: Option<quinn::Connection>,
    input: BytesMut,
    output: BytesMut,
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
        Connection { reader, writer, quic, input: BytesMut::new(), output: BytesMut::new() }
    }

    /// The next frame; `None`: the node has ended the stream. Losing this future loses no byte.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let taken = stream::take(&mut self.input, MAX_FRAME);
            if let Some(frame) = taken.map_err(|e| Error::Malformed(e.to_string()))? {
                return Ok(Some(frame));
            }
            self.input.reserve(CHUNK);
            match self.reader.read_buf(&mut self.input).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(_) => return Ok(None),
            }
        }
    }

    /// Puts a frame to those that the next flush writes.
    pub(super) fn put(&mut self, frame: &[u8]) {
        stream::put(&mut self.output, frame);
    }

    pub(super) async fn flush(&mut self) -> Result<(), Error> {
        self.writer.write_all_buf(&mut self.output).await.map_err(|_| Error::Disconnected)?;
        self.writer.flush().await.map_err(|_| Error::Disconnected)
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

/// A node reached over QUIC, with a client certificate of the mesh.
#[derive(Debug, Clone)]
pub struct Quic {
    /// To dial from.
    pub endpoint: quinn::Endpoint,
    /// With the certificate, and with whom to believe.
    pub config: quinn::ClientConfig,
    /// The name that the node's certificate must bear.
    pub server_name: String,
    /// `host:port`, tried in this order.
    pub addresses: Vec<String>,
}

impl Quic {
    async fn dial(&self, remote: SocketAddr) -> Result<Connection, String> {
        let connecting = self.endpoint.connect_with(self.config.clone(), remote, &self.server_name);
        let connection = connecting.map_err(|e| e.to_string())?.await.map_err(|e| e.to_string())?;
        let (writer, reader) = connection.open_bi().await.map_err(|e| e.to_string())?;
        Ok(Connection::new(Box::new(reader), Box::new(writer), Some(connection)))
    }
}

impl Connect for Quic {
    async fn connect(&mut self) -> Result<Connection, Error> {
        let mut last = "no address was given".to_owned();
        for address in &self.addresses {
            let remotes = match tokio::net::lookup_host(address).await {
                Ok(remotes) => remotes,
                Err(e) => {
                    last = format!("{address}: {e}");
                    continue;
                }
            };
            for remote in remotes {
                match tokio::time::timeout(CONNECT_WITHIN, self.dial(remote)).await {
                    Ok(Ok(connection)) => return Ok(connection),
                    Ok(Err(why)) => last = format!("{address}: {why}"),
                    Err(_) => last = format!("{address}: no answer within {CONNECT_WITHIN:?}"),
                }
            }
        }
        Err(Error::Unreachable(last))
    }
}
