//! The socket beneath an endpoint: many packets with one system call, and another socket in its place while it is used.
//!
//! **Segmentation offload** (udp(7)): what is to be done when the kernel says that it can cut packets apart and then refuses, as it
//! does for some devices and within IPsec. quinn finds that out by trying, and counts what was refused as sent: all of it
//! would be lost, and first of all the handshake. Here it is sent once more, packet by packet.
//!
//! **Replacing**: not by [`quinn::Endpoint::rebind`], which has each connection ask for a new connection ID. One that a stateless
//! reset had ended a moment before asks as well, about a connection that is gone, and that ends the process (quinn-proto
//! 0.11, `Endpoint::handle_event`). So the endpoint has one socket for ever, and what is beneath it changes. Peers notice by
//! the next packet, which is a heartbeat at the latest, and validate the new path (RFC 9000, 9.3).

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};

use crate::metrics;

/// Tasks that are remembered to be told of another socket; with more, all are told to look for themselves.
const MAX_WAITING: usize = 1024;

/// For an endpoint. Another one like it may be put in its place.
pub struct Segments {
    sockets: Mutex<Sockets>,
}

struct Sockets {
    current: Arc<dyn AsyncUdpSocket>,
    /// The one before, until something comes to the new one: what it had got by then is still to be read.
    former: Option<Arc<dyn AsyncUdpSocket>>,
    /// Counts replacements.
    generation: u64,
    /// Who waits for the one that is there now.
    waiting: Vec<Waker>,
}

impl Sockets {
    fn remember(&mut self, waker: &Waker) {
        if self.waiting.iter().any(|known| known.will_wake(waker)) {
            return;
        }
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.drain(..).for_each(Waker::wake);
        }
        self.waiting.push(waker.clone());
    }
}

impl Segments {
    /// On this socket. Needs tokio's runtime.
    ///
    /// # Errors
    ///
    /// The system does not take its options.
    pub fn on(socket: UdpSocket) -> io::Result<Arc<Segments>> {
        let current = TokioRuntime.wrap_udp_socket(socket)?;
        let sockets = Sockets { current, former: None, generation: 0, waiting: Vec::new() };
        Ok(Arc::new(Segments { sockets: Mutex::new(sockets) }))
    }

    /// From now on this one is used. Needs tokio's runtime.
    ///
    /// # Errors
    ///
    /// The system does not take its options: the one before is used on.
    pub fn replace(&self, socket: UdpSocket) -> io::Result<()> {
        let new = TokioRuntime.wrap_udp_socket(socket)?;
        let mut sockets = self.lock();
        sockets.former = Some(std::mem::replace(&mut sockets.current, new));
        sockets.generation += 1;
        let waiting = std::mem::take(&mut sockets.waiting);
        drop(sockets);
        waiting.into_iter().for_each(Waker::wake);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Arc<dyn AsyncUdpSocket> {
        self.lock().current.clone()
    }
}

fn are_refused(socket: &Arc<dyn AsyncUdpSocket>) -> bool {
    socket.max_transmit_segments() == 1
}

/// When the system takes no more, all of them are sent again later: a packet that comes twice is recognised.
fn send_each(socket: &Arc<dyn AsyncUdpSocket>, transmit: &Transmit<'_>, size: usize) -> io::Result<()> {
    let mut each = transmit.contents.chunks(size.max(1));
    each.try_for_each(|contents| {
        socket.try_send(&Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn,
            contents,
            segment_size: None,
            src_ip: transmit.src_ip,
        })
    })
}

impl AsyncUdpSocket for Segments {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let (generation, poller) = {
            let sockets = self.lock();
            (sockets.generation, sockets.current.clone().create_io_poller())
        };
        Box::pin(Writable { segments: self, generation, poller })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let socket = self.current();
        let Some(size) = transmit.segment_size else { return socket.try_send(transmit) };
        // Prepared before it was known.
        if are_refused(&socket) {
            return send_each(&socket, transmit, size);
        }
        socket.try_send(transmit)?;
        if !are_refused(&socket) {
            return Ok(());
        }
        metrics::UDP_SEGMENTS_REFUSED.inc();
        tracing::info!("the kernel refuses segmentation offload: each packet is sent by itself");
        send_each(&socket, transmit, size)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut sockets = self.lock();
        if let Some(former) = &sockets.former {
            match former.poll_recv(context, buffers, metas) {
                Poll::Ready(Ok(count)) => return Poll::Ready(Ok(count)),
                Poll::Ready(Err(_)) => sockets.former = None,
                Poll::Pending => {}
            }
        }
        let received = sockets.current.poll_recv(context, buffers, metas);
        match received {
            Poll::Ready(_) => sockets.former = None,
            Poll::Pending => sockets.remember(context.waker()),
        }
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.current().local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.current().max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.current().max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.current().may_fragment()
    }
}

impl fmt::Debug for Segments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.current().fmt(f)
    }
}

/// One connection's wait for room in the socket that is there now.
struct Writable {
    segments: Arc<Segments>,
    generation: u64,
    poller: Pin<Box<dyn UdpPoller>>,
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut sockets = this.segments.lock();
        if this.generation != sockets.generation {
            (this.generation, this.poller) = (sockets.generation, sockets.current.clone().create_io_poller());
        }
        let writable = this.poller.as_mut().poll_writable(context);
        if writable.is_pending() {
            sockets.remember(context.waker());
        }
        writable
    }
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.poller.fmt(f)
    }
}
