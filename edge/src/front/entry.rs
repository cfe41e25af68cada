//! How a connection comes in: whose it is by the PROXY protocol, and TLS.

use std::io;
use std::net::SocketAddr;

use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use trishula::identity::tls;
use trishula::metrics;

use super::net;
use super::proxy;
use super::stream::Stream;
use crate::door::Door;
use crate::site::Site;

/// First byte of a TLS record that is a handshake.
const HANDSHAKE: u8 = 0x16;

/// The door of one port.
pub struct Entry {
    /// Who is believed about addresses.
    pub proxy: proxy::Settings,
    /// Whether this machine may ask for health without TLS.
    pub plain_health: bool,
}

/// A connection that is in.
pub struct Entered {
    /// It.
    pub stream: Stream,
    /// Where it comes from, as far as is known before a request.
    pub from: SocketAddr,
    /// What may be asked over it.
    pub speaks: Speaks,
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// Everything, by HTTP/1.1.
    Http1,
    /// Everything, by HTTP/2.
    Http2,
    /// Health only: without TLS where there should be.
    Health,
}

/// A handshake that fails, in [`Refused::reason`].
const TLS: &str = "tls";
/// A client's certificate that does not hold, in [`Refused::reason`].
const CERTIFICATE: &str = "certificate";

/// Why a connection did not come in: the label for the metric, and words.
#[derive(Debug)]
pub struct Refused {
    /// `proxy`, `tls` or `certificate`.
    pub reason: &'static str,
    /// For the log.
    pub why: String,
    /// Whether it has only gone, as one that looks whether the port is open.
    pub gone: bool,
}

impl Refused {
    /// For the operator, and whoever watches over `door`. Handshakes that fail, and connections that say not where they come from,
    /// are everyday on an open port: not each of them is in the log.
    pub fn count(&self, from: SocketAddr, door: &Door) {
        match self.reason {
            TLS if self.gone => {
                metrics::EDGE_REFUSED.with_label_values(&[TLS]).inc();
                tracing::debug!(%from, why = self.why, "the TLS handshake failed");
            }
            TLS => door.log_some(from, TLS, &self.why),
            CERTIFICATE => door.log(from, CERTIFICATE, &self.why),
            reason => door.log_some(from, reason, &self.why),
        }
    }
}

impl Entry {
    /// As configured.
    pub fn new(proxy: &proxy::Settings, plain_health: bool) -> Entry {
        // Behind a proxy that speaks for others, a connection of this machine's is anybody's.
        let plain_health = plain_health && !proxy.protocol;
        Entry { proxy: proxy.clone(), plain_health }
    }

    /// Where a connection comes from, by its proxy's word. The caller gives it so much time and no more.
    ///
    /// # Errors
    ///
    /// Says why it is not served.
    pub async fn source(&self, socket: &mut TcpStream, peer: SocketAddr) -> Result<SocketAddr, Refused> {
        let refused = |why| Refused { reason: "proxy", why, gone: false };
        self.proxy.source(socket, peer).await.map_err(refused)
    }

    /// Whether an address speaks for many clients.
    pub fn trusts(&self, from: SocketAddr) -> bool {
        net::any(&self.proxy.trusted, from.ip())
    }

    /// Lets a connection to the services of a port in that comes from `from`, and by TCP from `peer`. The caller gives it so much
    /// time and no more.
    ///
    /// # Errors
    ///
    /// Says why not; the connection is gone then.
    pub async fn enter(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        from: SocketAddr,
        site: &Site,
    ) -> Result<Entered, Refused> {
        if site.called(None).tls.is_none() {
            let stream = Stream::Plain(socket);
            return Ok(Entered { stream, from, speaks: Speaks::Http1 });
        }
        if self.plain_health && peer.ip().to_canonical().is_loopback() {
            let mut first = [0u8];
            let count = socket.peek(&mut first).await.map_err(failed)?;
            // Methods of HTTP are letters; anything else is TLS's to judge.
            if count == 1 && first[0] != HANDSHAKE && first[0].is_ascii_uppercase() {
                let stream = Stream::Plain(socket);
                return Ok(Entered { stream, from, speaks: Speaks::Health });
            }
        }
        let begun = LazyConfigAcceptor::new(Acceptor::default(), socket).await.map_err(failed)?;
        let asked = site.called(begun.client_hello().server_name());
        let Some(secured) = &asked.tls else {
            let why = "the service that was asked for is served without".into();
            return Err(Refused { reason: TLS, why, gone: false });
        };
        let stream = begun.into_stream(secured.config()).await.map_err(failed)?;
        let stream = Stream::Tls(Box::new(stream));
        let speaks = if stream.alpn() == Some(tls::ALPN_H2) { Speaks::Http2 } else { Speaks::Http1 };
        Ok(Entered { stream, from, speaks })
    }
}

/// Why a handshake went wrong.
fn failed(error: io::Error) -> Refused {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(why @ rustls::Error::InvalidCertificate(_)) => {
            Refused { reason: CERTIFICATE, why: why.to_string(), gone: false }
        }
        _ => Refused { reason: TLS, why: tls::explain_io(&error), gone: is_gone(&error) },
    }
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}
