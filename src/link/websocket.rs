//! A WebSocket (RFC 6455) as a stream of bytes: its binary messages, put together.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

/// Most bytes of a message of ours: one TLS record and what stands round it (RFC 8446 section 5.2).
const MESSAGE: usize = 16 * 1024 + 512;
/// Longest message that is taken.
const MAX_MESSAGE: usize = 128 * 1024;
/// For reading from the socket.
const READ_BUFFER: usize = 16 * 1024;

/// The bytes of one WebSocket.
#[derive(Debug)]
pub struct WebSocketBytes<S> {
    socket: WebSocketStream<S>,
    /// What is left of the message that came last.
    message: Bytes,
}

/// How such a WebSocket is set up.
pub fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        // Nothing is held back for more: whoever writes here flushes when it has to leave.
        .write_buffer_size(MESSAGE)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocketBytes<S> {
    /// The accepting end of a connection whose upgrade was just granted; `read` is what came behind the request.
    pub async fn accepted(io: S, read: Bytes) -> WebSocketBytes<S> {
        let socket = if read.is_empty() {
            WebSocketStream::from_raw_socket(io, Role::Server, Some(config())).await
        } else {
            WebSocketStream::from_partially_read(io, read.to_vec(), Role::Server, Some(config())).await
        };
        WebSocketBytes::new(socket)
    }

    /// Takes a WebSocket as it is.
    pub fn new(socket: WebSocketStream<S>) -> WebSocketBytes<S> {
        WebSocketBytes { socket, message: Bytes::new() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocketBytes<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.message.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.message = bytes,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                    let why = "a text message came where only binary ones belong";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
                }
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(e)) => return Poll::Ready(as_io(e)),
            }
        }
        let taken = self.message.len().min(out.remaining());
        out.put_slice(&self.message[..taken]);
        self.message.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocketBytes<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(io::Error::other)?;
        let taken = bytes.len().min(MESSAGE);
        let message = Message::Binary(Bytes::copy_from_slice(&bytes[..taken]));
        Pin::new(&mut self.socket).start_send(message).map_err(io::Error::other)?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(io::Error::other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.socket).poll_close(cx)) {
            Ok(()) | Err(WsError::ConnectionClosed | WsError::AlreadyClosed) => Poll::Ready(Ok(())),
            Err(e) => Poll::Ready(Err(io::Error::other(e))),
        }
    }
}

/// An end without a close is an end: whether it was meant, TLS within says.
fn as_io(error: WsError) -> io::Result<()> {
    match error {
        WsError::ConnectionClosed
        | WsError::AlreadyClosed
        | WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Ok(()),
        WsError::Io(e) => Err(e),
        e => Err(io::Error::other(e)),
    }
}
