//! Sockets that ask to be woken for reading only.
//!
//! tokio registers every socket for reading and writing at once. For UDP and Unix sockets the kernel then reports "may
//! write again" each time the other side has taken a message, so that every send wakes its own sender for nothing (TCP
//! reports it only after a full buffer). Here writing is registered only while a write is really blocked. And a read
//! that came back short has emptied the socket: it is not asked again before the next event.
// The successor of `with_interest` is unsafe, over types that lie about their descriptor; std's do not.
#![allow(deprecated)]
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use std::fmt;
use std::io::{self, ErrorKind, IoSliceMut, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd};

/// A UDP socket for quinn.
#[derive(Debug)]
pub struct LeanUdp {
    io: AsyncFd<UdpSocket>,
    state: UdpSocketState,
    /// The last send found the buffer full. quinn asks whether it may send before each send: only then is it worth
    /// asking the kernel.
    full: AtomicBool,
}

impl LeanUdp {
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self {
            io: AsyncFd::with_interest(socket, Interest::READABLE)?,
            state,
            full: AtomicBool::new(false),
        })
    }
}

impl AsyncUdpSocket for LeanUdp {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(LeanPoller { socket: self, blocked: Blocked::default() })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent = self.state.send(self.io.get_ref().into(), transmit);
        if sent.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            self.full.store(true, Ordering::Relaxed);
        }
        sent
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut readable = ready!(self.io.poll_read_ready(cx))?;
            match self.state.recv(self.io.get_ref().into(), bufs, meta) {
                Ok(n) => {
                    if n < bufs.len() {
                        readable.clear_ready();
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => readable.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get_ref().local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }
}

struct LeanPoller {
    socket: Arc<LeanUdp>,
    blocked: Blocked,
}

impl UdpPoller for LeanPoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.socket.full.load(Ordering::Relaxed) {
            ready!(this.blocked.poll(cx, || this.socket.io.get_ref().try_clone()))?;
            this.socket.full.store(false, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for LeanPoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeanPoller")
    }
}

/// One half of a Unix socket; clone it for the other.
#[derive(Clone)]
pub struct LeanUnix {
    io: Arc<AsyncFd<UnixStream>>,
    blocked: Blocked,
}

impl LeanUnix {
    pub fn new(socket: tokio::net::UnixStream) -> io::Result<Self> {
        let io = AsyncFd::with_interest(socket.into_std()?, Interest::READABLE)?;
        Ok(Self { io: Arc::new(io), blocked: Blocked::default() })
    }
}

impl AsyncRead for LeanUnix {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        /// Safe code has to clear what it reads into, so not too much of it.
        const READ_BYTES: usize = 8192;
        loop {
            let mut readable = ready!(self.io.poll_read_ready(cx))?;
            let space = buf.remaining().min(READ_BYTES);
            match self.io.get_ref().read(buf.initialize_unfilled_to(space)) {
                Ok(n) => {
                    if (1..space).contains(&n) {
                        readable.clear_ready();
                    }
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => readable.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for LeanUnix {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        loop {
            match this.io.get_ref().write(buf) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ready!(this.blocked.poll(cx, || this.io.get_ref().try_clone()))?;
                }
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.io.get_ref().shutdown(std::net::Shutdown::Write))
    }
}

/// A write that waits: a second descriptor of the socket, registered for writing and only as long as that.
#[derive(Default)]
struct Blocked(Option<AsyncFd<OwnedFd>>);

impl Blocked {
    fn poll<S: Into<OwnedFd>>(
        &mut self,
        cx: &mut Context<'_>,
        duplicate: impl FnOnce() -> io::Result<S>,
    ) -> Poll<io::Result<()>> {
        let waiting = match &mut self.0 {
            Some(waiting) => waiting,
            none => none.insert(AsyncFd::with_interest(duplicate()?.into(), Interest::WRITABLE)?),
        };
        ready!(waiting.poll_write_ready(cx))?.retain_ready();
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}

impl Clone for Blocked {
    fn clone(&self) -> Self {
        Self(None)
    }
}
