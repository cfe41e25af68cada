//! The filter between TLS and the WebSocket.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use trishula::metrics;

use super::inbound::Inbound;
use super::outbound::{HIGH, Outbound};
use super::{Agreed, Shared};

/// Bytes read at once.
const READ: usize = 4096;

/// A connection whose WebSocket messages are compressed on it, and not above it. One for which that was not agreed
/// passes every byte as it is.
#[derive(Debug)]
pub struct DeflateIo<S> {
    inner: S,
    filter: Option<Box<Filter>>,
}

#[derive(Debug)]
struct Filter {
    inbound: Inbound,
    outbound: Outbound,
    /// To be written.
    out: BytesMut,
    ended: bool,
    _open: Open,
}

/// Counts a connection, as long as it is there.
#[derive(Debug)]
struct Open;

impl Open {
    fn new() -> Open {
        metrics::DEFLATE_CONNECTIONS.inc();
        Open
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        metrics::DEFLATE_CONNECTIONS.dec();
    }
}

impl<S> DeflateIo<S> {
    /// A connection on which nothing is compressed.
    pub fn plain(inner: S) -> DeflateIo<S> {
        DeflateIo { inner, filter: None }
    }

    /// A connection for which it was agreed. `read` is what came behind the request.
    pub fn agreed(inner: S, agreed: &Agreed, shared: &Arc<Shared>, read: &[u8]) -> DeflateIo<S> {
        let mut inbound = Inbound::new(shared.clone(), agreed);
        inbound.feed(read);
        let outbound = Outbound::new(shared.clone(), agreed);
        let filter = Filter { inbound, outbound, out: BytesMut::new(), ended: false, _open: Open::new() };
        DeflateIo { inner, filter: Some(Box::new(filter)) }
    }

    /// The connection below; what was not written yet is lost.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl Filter {
    /// Writes what is there to be written.
    fn poll_drain<S: AsyncWrite + Unpin>(
        &mut self,
        inner: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let n = ready!(Pin::new(&mut *inner).poll_write(cx, &self.out))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(n);
        }
        self.out = BytesMut::new();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for DeflateIo<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let DeflateIo { inner, filter } = self.get_mut();
        // Behind a refusal nothing is read any more but to be dropped.
        let Some(filter) = filter.as_deref_mut().filter(|filter| !filter.ended) else {
            return Pin::new(inner).poll_read(cx, buf);
        };
        loop {
            if buf.remaining() == 0 || filter.inbound.read(buf.remaining(), |bytes| buf.put_slice(bytes)) {
                return Poll::Ready(Ok(()));
            }
            if let Err(refused) = filter.inbound.cook() {
                filter.ended = true;
                metrics::DEFLATE_REFUSED.with_label_values(&[refused.reason()]).inc();
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refused)));
            }
            if filter.inbound.read(buf.remaining(), |bytes| buf.put_slice(bytes)) {
                return Poll::Ready(Ok(()));
            }
            let mut room = [const { MaybeUninit::uninit() }; READ];
            let mut chunk = ReadBuf::uninit(&mut room);
            ready!(Pin::new(&mut *inner).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                filter.ended = true;
                return Poll::Ready(Ok(()));
            }
            filter.inbound.feed(chunk.filled());
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for DeflateIo<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let DeflateIo { inner, filter } = self.get_mut();
        let Some(filter) = filter else { return Pin::new(inner).poll_write(cx, bytes) };
        if filter.out.len() >= HIGH {
            ready!(filter.poll_drain(inner, cx))?;
        }
        let taken = filter.outbound.take(bytes, &mut filter.out);
        // What does not go now goes with the next write, or the flush.
        if let Poll::Ready(Err(e)) = filter.poll_drain(inner, cx) {
            return Poll::Ready(Err(e));
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let DeflateIo { inner, filter } = self.get_mut();
        if let Some(filter) = filter {
            ready!(filter.poll_drain(inner, cx))?;
        }
        Pin::new(inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let DeflateIo { inner, filter } = self.get_mut();
        if let Some(filter) = filter {
            ready!(filter.poll_drain(inner, cx))?;
        }
        Pin::new(inner).poll_shutdown(cx)
    }
}
