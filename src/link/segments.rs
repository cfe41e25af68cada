//! Many packets with one system call, where the kernel can cut them apart (segmentation offload, udp(7)), and what is to be done
//! when it says that it can and then refuses, as it does for some devices and within IPsec.
//!
//! quinn finds that out by trying, and counts what was refused as sent: all of it would be lost, and first of all the
//! handshake. Here it is sent once more, packet by packet.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};

use crate::metrics;

/// For an endpoint, on this socket. Needs tokio's runtime.
///
/// # Errors
///
/// The system does not take its options.
pub fn wrap(socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    Ok(Arc::new(Segments { inner: TokioRuntime.wrap_udp_socket(socket)? }))
}

struct Segments {
    inner: Arc<dyn AsyncUdpSocket>,
}

impl Segments {
    fn are_refused(&self) -> bool {
        self.inner.max_transmit_segments() == 1
    }

    /// When the system takes no more, all of them are sent again later: a packet that comes twice is recognised.
    fn send_each(&self, transmit: &Transmit<'_>, size: usize) -> io::Result<()> {
        let mut each = transmit.contents.chunks(size.max(1));
        each.try_for_each(|contents| {
            self.inner.try_send(&Transmit {
                destination: transmit.destination,
                ecn: transmit.ecn,
                contents,
                segment_size: None,
                src_ip: transmit.src_ip,
            })
        })
    }
}

impl AsyncUdpSocket for Segments {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(size) = transmit.segment_size else { return self.inner.try_send(transmit) };
        // Prepared before it was known.
        if self.are_refused() {
            return self.send_each(transmit, size);
        }
        self.inner.try_send(transmit)?;
        if !self.are_refused() {
            return Ok(());
        }
        metrics::UDP_SEGMENTS_REFUSED.inc();
        tracing::info!("the kernel refuses segmentation offload: each packet is sent by itself");
        self.send_each(transmit, size)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(context, buffers, metas)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

impl fmt::Debug for Segments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
