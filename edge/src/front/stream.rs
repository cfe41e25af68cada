//! A client's connection, with TLS or without.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// One connection.
#[derive(Debug)]
pub enum Stream {
    /// As a rule.
    Tls(Box<TlsStream<TcpStream>>),
    /// Where the operator has switched TLS off, and from this machine for its health.
    Plain(TcpStream),
}

impl Stream {
    /// What the client agreed to speak (ALPN).
    pub fn alpn(&self) -> Option<&[u8]> {
        match self {
            Stream::Tls(tls) => tls.get_ref().1.alpn_protocol(),
            Stream::Plain(_) => None,
        }
    }

    /// The name that the client asked for in its handshake (SNI).
    pub fn server_name(&self) -> Option<&str> {
        match self {
            Stream::Tls(tls) => tls.get_ref().1.server_name(),
            Stream::Plain(_) => None,
        }
    }

    /// The certificate that the client has shown, which a configured CA was found to have issued, and those between the two.
    pub fn certificates(&self) -> Option<&[CertificateDer<'static>]> {
        match self {
            Stream::Tls(tls) => tls.get_ref().1.peer_certificates(),
            Stream::Plain(_) => None,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tls(tls) => Pin::new(tls).poll_read(cx, room),
            Stream::Plain(tcp) => Pin::new(tcp).poll_read(cx, room),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
            Stream::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, pieces),
            Stream::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Tls(tls) => tls.is_write_vectored(),
            Stream::Plain(tcp) => tcp.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Stream::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Stream::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
        }
    }
}
