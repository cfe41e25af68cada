//! Sessions over a stream of bytes: a QUIC stream of a native agent, and the Unix socket of a node.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

use super::auth::Identity;
use super::carrier::{Carrier, Fault, Incoming, Lost};
use super::hub::HubHandle;
use super::session::{self, Ended, Opening, Settings};
use crate::wire::client::DEFAULT_MAX_FRAME;
use crate::wire::close::CloseCode;
use crate::wire::ids::AgentAddr;
use crate::wire::stream;

/// Bytes that may wait to be written before the session holds the next frame back.
const WRITE_BUFFER: usize = 64 * 1024;
/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// Serves a native agent: one bidirectional stream, which the client opens, carries its frames. Who it is, its
/// certificate has said.
pub async fn serve_quic(connection: quinn::Connection, agent: AgentAddr, hub: &HubHandle) {
    let settings = Arc::new(Settings::default());
    let opened = tokio::time::timeout(settings.auth_within, connection.accept_bi()).await;
    let ended = match opened {
        Ok(Ok((writer, reader))) => {
            let carrier = Framed::new("quic", reader, writer, settings.max_frame);
            session::serve(carrier, opening(agent, settings), hub).await
        }
        Ok(Err(e)) => return tracing::debug!(%agent, error = %e, "a native agent left without a word"),
        Err(_) => {
            let reason = "no stream was opened in time".to_owned();
            Ended { code: Some(CloseCode::AuthTimeout), reason }
        }
    };
    let code = ended.code.unwrap_or(CloseCode::Normal);
    connection.close(u32::from(code.number()).into(), ended.reason.as_bytes());
}

/// Serves a tool on this machine; the permissions of the socket were its authentication.
pub async fn serve_local(stream: UnixStream, agent: AgentAddr, hub: &HubHandle) {
    serve_stream("unix", stream, agent, hub).await;
}

/// Serves an agent over any stream; `name` is for logs and metrics.
pub async fn serve_stream<S>(name: &'static str, io: S, agent: AgentAddr, hub: &HubHandle) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (reader, writer) = tokio::io::split(io);
    let carrier = Framed::new(name, reader, writer, DEFAULT_MAX_FRAME);
    session::serve(carrier, opening(agent, Arc::new(Settings::default())), hub).await
}

fn opening(agent: AgentAddr, settings: Arc<Settings>) -> Opening {
    Opening {
        namespace: agent.namespace.clone(),
        identity: Some(Identity::certified(agent.name, agent.namespace)),
        verifier: None,
        settings,
    }
}

/// Frames over a reading and a writing half.
#[derive(Debug)]
pub struct Framed<R, W> {
    name: &'static str,
    reader: R,
    writer: W,
    input: BytesMut,
    output: BytesMut,
    max_frame: usize,
    ended: bool,
}

impl<R, W> Framed<R, W> {
    /// Puts the halves together.
    pub fn new(name: &'static str, reader: R, writer: W, max_frame: usize) -> Framed<R, W> {
        let (input, output) = (BytesMut::new(), BytesMut::new());
        Framed { name, reader, writer, input, output, max_frame, ended: false }
    }
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Framed<R, W> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        while !self.output.is_empty() {
            match ready!(Pin::new(&mut self.writer).poll_write(cx, &self.output)) {
                Ok(0) => return Poll::Ready(Err(Lost("the connection takes no more".into()))),
                Ok(count) => self.output.advance(count),
                Err(e) => return Poll::Ready(Err(Lost(e.to_string()))),
            }
        }
        // What one large frame needed is not kept for the small ones that follow.
        if self.output.capacity() > 2 * WRITE_BUFFER {
            self.output = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Reads some more; `0`: the client has ended its side.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        self.input.reserve(CHUNK);
        let before = self.input.len();
        self.input.resize(before + CHUNK, 0);
        let mut room = ReadBuf::new(&mut self.input[before..]);
        let read = Pin::new(&mut self.reader).poll_read(cx, &mut room);
        let count = room.filled().len();
        self.input.truncate(before + count);
        read.map_ok(|()| count)
    }
}

impl<R, W> Carrier for Framed<R, W>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn has_ping(&self) -> bool {
        false
    }

    fn tells_close(&self) -> bool {
        self.name == "quic"
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        loop {
            match stream::take(&mut self.input, self.max_frame) {
                Ok(Some(frame)) => return Poll::Ready(Incoming::Frame(frame)),
                Ok(None) => {}
                Err(e) => return Poll::Ready(Incoming::Failed(Fault::TooLarge(e.to_string()))),
            }
            match ready!(self.poll_more(cx)) {
                Ok(0) if self.input.is_empty() => {
                    self.ended = true;
                    return Poll::Ready(Incoming::Closed("the client ended its stream".into()));
                }
                Ok(0) => {
                    let why = "the stream ended amid a frame".to_owned();
                    return Poll::Ready(Incoming::Failed(Fault::Lost(why)));
                }
                Ok(_) => {}
                Err(e) => return Poll::Ready(Incoming::Failed(Fault::Lost(e.to_string()))),
            }
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        if self.output.len() < WRITE_BUFFER { Poll::Ready(Ok(())) } else { self.poll_drain(cx) }
    }

    fn send(&mut self, frame: Bytes) -> Result<(), Lost> {
        stream::put(&mut self.output, &frame);
        Ok(())
    }

    fn ping(&mut self, _number: u64) -> Result<(), Lost> {
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.writer).poll_flush(cx).map_err(|e| Lost(e.to_string()))
    }

    fn start_close(&mut self, _code: CloseCode, _reason: &str) {}

    /// Ends our side, and waits for the client to end its own: only then has it read what we said last.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(self.poll_drain(cx)).is_err()
            || ready!(Pin::new(&mut self.writer).poll_shutdown(cx)).is_err()
        {
            return Poll::Ready(());
        }
        while !self.ended {
            self.input.clear();
            match ready!(self.poll_more(cx)) {
                Ok(0) | Err(_) => self.ended = true,
                Ok(_) => {}
            }
        }
        Poll::Ready(())
    }
}
