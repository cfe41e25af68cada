//! A link over a WebSocket: between machines when UDP is blocked, through the edge of the one that is dialled. Edges and
//! native agents come to nodes of other machines by the same way.
//!
//! ```text
//!  node ─ TCP ─ [HTTP proxy] ─ TLS ─ WebSocket ─▶ edge ─ Unix socket ─▶ node
//!  └──────────── TLS of the mesh, trishula/2, both certificates ─────────────┘
//! ```
//!
//! The edge (and whatever else may stand between) copies bytes that it can't read. What is on a link by QUIC, is here:
//! the same identities, admitted by the same rule, looked at again each second; the same frames, in lanes
//! ([`super::stream`], cut in pieces).

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::network::{ByteStream, Network, System};
use super::proxy::{self, Proxies};
use super::quic::{Admitted, Certificate};
use super::stream::{self, Carried, Framing, PIECE, Trusted};
use super::websocket::{self, WebSocketBytes};
use super::{Error, Local, Role};
pub use crate::identity::ANY_NODE;
use crate::identity::{self, tls};
use crate::rt::{clock, platform};
use crate::wire::ids::NodeName;
use crate::wire::url::WssUrl;

/// The carrier's name.
pub const CARRIER: &str = "wss";
/// How long the peer may take for the TLS within.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Bytes that the system may hold of ours beyond what it can send: what it holds, nothing overtakes.
pub const UNSENT: u32 = PIECE as u32;
/// Most bytes of an HTTP answer that are repeated.
const MAX_SHOWN: usize = 200;
/// Longest line of the PROXY protocol, version 1, with its end.
const MAX_ANNOUNCED: usize = 107;

/// How this process gets out to other machines' edges.
#[derive(Debug)]
pub struct Outward {
    /// TLS of the outside.
    pub tls: Arc<rustls::ClientConfig>,
    /// What the environment says of proxies; a mistake in it is the answer to each dial.
    pub proxies: Result<Proxies, proxy::Error>,
    /// Where streams are opened to hosts that are reached without a proxy, and where this machine is.
    pub network: Arc<dyn Network>,
}

impl Outward {
    /// With what the environment says of proxies; `cas`: see [`tls::outer_client`].
    ///
    /// # Errors
    ///
    /// The file of CAs holds none.
    pub fn from_env(cas: Option<&Path>) -> Result<Outward, identity::Error> {
        let tls = tls::outer_client(cas, clock::for_tls())?;
        let proxies = Proxies::from_env();
        if let Err(why) = &proxies {
            tracing::warn!(%why, "the way out through other machines' edges is closed");
        }
        Ok(Outward { tls, proxies, network: Arc::new(System) })
    }
}

/// Bytes that an edge relays, under TLS of the mesh's own.
pub type Within = client::TlsStream<WebSocketBytes<client::TlsStream<ByteStream>>>;

/// A connection with TLS of the mesh on it, and who is at its other end.
#[derive(Debug)]
pub struct Connected {
    stream: Within,
    peer: Admitted,
    remote: String,
}

/// Dials a node through its edge. With `expected`, only that node will do.
///
/// # Errors
///
/// What did not answer, or not well: the proxy, the host, its TLS, the edge, or the node.
pub async fn connect(
    local: &Local,
    outward: &Outward,
    url: &WssUrl,
    expected: Option<&NodeName>,
) -> Result<Connected, Error> {
    let failed = |why: String| Error::Dial { address: url.to_string(), why };
    let inner = local.identity.relay_client(expected.cloned()).map_err(|e| failed(e.to_string()))?;
    let named = expected.and_then(|name| identity::Role::Node(name.clone()).dns_name());
    let (stream, remote) = open(outward, url, inner, named.as_deref().unwrap_or(ANY_NODE)).await?;
    let peer = admit(local, stream.get_ref().1.peer_certificates())?;
    Ok(Connected { stream, peer, remote })
}

/// Dials whoever is behind an edge: `inner` is the TLS within, which must find a certificate of this name. Also says for people
/// where it leads, and through which proxy.
///
/// # Errors
///
/// What did not answer, or not well: the proxy, the host, its TLS, the edge, or the node.
pub async fn open(
    outward: &Outward,
    url: &WssUrl,
    inner: Arc<rustls::ClientConfig>,
    named: &str,
) -> Result<(Within, String), Error> {
    let failed = |why: String| Error::Dial { address: url.to_string(), why };
    let proxies = outward.proxies.as_ref().map_err(|e| failed(e.to_string()))?;
    let proxy = proxies.for_host(url.host(), url.port());
    let stream: ByteStream = match proxy {
        Some(proxy) => {
            let tcp = proxy.connect(url.host(), url.port()).await.map_err(|e| failed(e.to_string()))?;
            prepare(&tcp);
            Box::new(tcp)
        }
        None => {
            let connected = outward.network.connect(url.host(), url.port()).await;
            connected.map_err(|e| failed(e.to_string()))?
        }
    };
    let through = proxy.map(|proxy| format!(" through {proxy}")).unwrap_or_default();
    let host = ServerName::try_from(url.host().to_owned()).map_err(|e| failed(e.to_string()))?;
    let secured = TlsConnector::from(outward.tls.clone()).connect(host, stream).await;
    let secured =
        secured.map_err(|e| failed(format!("TLS with the edge{through}: {}", tls::explain_io(&e))))?;
    let request = url.to_string().into_client_request().map_err(|e| failed(e.to_string()))?;
    let upgraded =
        tokio_tungstenite::client_async_with_config(request, secured, Some(websocket::config())).await;
    let (socket, _) = upgraded.map_err(|e| failed(no_upgrade(e)))?;
    let named = ServerName::try_from(named.to_owned()).map_err(|e| failed(e.to_string()))?;
    let stream = TlsConnector::from(inner).connect(named, WebSocketBytes::new(socket)).await;
    let stream = stream.map_err(|e| failed(tls::explain_io(&e)))?;
    Ok((stream, format!("{}{through}", url.authority())))
}

/// Runs a link that was dialled until it ends, and reports its life.
pub async fn run(local: &Local, connected: Connected) {
    let Connected { stream, peer, remote } = connected;
    let carried = carried(peer, remote, true);
    stream::run(local, tokio::io::split(stream), carried).await;
}

/// Somebody of this mesh who has come in through the edge of this machine.
#[derive(Debug)]
pub struct Accepted<S> {
    /// Who.
    pub peer: identity::PeerName,
    /// Its bytes, under TLS.
    pub stream: server::TlsStream<S>,
    /// Where it came from, as the edge says.
    pub remote: String,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Accepted<S> {
    /// Runs the link of a node or of an edge until it ends, and reports its life.
    pub async fn run(self, local: &Local, node: NodeName, role: Role) {
        let peer = Admitted { node, role, certificate: Certificate::of(&self.peer) };
        stream::run(local, tokio::io::split(self.stream), carried(peer, self.remote, false)).await;
    }
}

/// Why a relayed connection became no link.
#[derive(Debug, thiserror::Error)]
#[error("{remote}: {why}")]
pub struct Refused {
    /// Where it came from, as the edge says.
    pub remote: String,
    /// What was wrong.
    pub why: Error,
}

/// Takes a connection that the edge of this machine relays: TLS, and who it is.
///
/// # Errors
///
/// Who is there is not let in.
pub async fn accept<S>(local: &Local, acceptor: &TlsAcceptor, mut stream: S) -> Result<Accepted<S>, Refused>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut remote = "an edge that does not say for whom".to_owned();
    let handshake = async {
        remote = announced(&mut stream).await?;
        acceptor.accept(stream).await
    };
    let secured = match tokio::time::timeout(HANDSHAKE_WITHIN, handshake).await {
        Ok(secured) => secured.map_err(|e| tls::explain_io(&e)),
        Err(_) => Err(format!("no handshake within {HANDSHAKE_WITHIN:?}")),
    };
    let admitted = secured.map_err(Error::Handshake).and_then(|stream| {
        let peer = trusted(local, stream.get_ref().1.peer_certificates())?;
        Ok((stream, peer))
    });
    match admitted {
        Ok((stream, peer)) => Ok(Accepted { peer, stream, remote }),
        Err(why) => Err(Refused { remote, why }),
    }
}

/// What an edge writes before the bytes that it relays: whose they are (PROXY protocol, version 1). It is for people:
/// nothing is allowed or refused by it.
pub fn announce(from: SocketAddr) -> String {
    let (ip, port) = (from.ip().to_canonical(), from.port());
    // Where it came in is not worth telling.
    let (family, at) = if ip.is_ipv4() { ("TCP4", "0.0.0.0") } else { ("TCP6", "::") };
    format!("PROXY {family} {ip} {at} {port} 0\r\n")
}

async fn announced(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        if line.len() >= MAX_ANNOUNCED {
            return Err(std::io::Error::other("it does not begin with a line of the PROXY protocol"));
        }
        line.push(stream.read_u8().await?);
    }
    let line = String::from_utf8_lossy(&line);
    let mut words = line.split_ascii_whitespace();
    let (first, _family, from, _at, port) =
        (words.next(), words.next(), words.next(), words.next(), words.next());
    match (first, from.and_then(|from| from.parse().ok()), port.and_then(|port| port.parse().ok())) {
        (Some("PROXY"), Some(from), Some(port)) => Ok(SocketAddr::new(from, port).to_string()),
        _ => Err(std::io::Error::other("it does not begin with a line of the PROXY protocol")),
    }
}

/// Settings of a connection that carries a link, relays one, or is a client's: no small frame waits for the acknowledgement of the one
/// before, and nothing urgent for more than [`UNSENT`].
pub fn prepare(tcp: &TcpStream) {
    // Neither is needed for it to work.
    for (what, set) in [
        ("TCP_NODELAY", tcp.set_nodelay(true)),
        ("TCP_NOTSENT_LOWAT", platform::keep_unsent_short(tcp, UNSENT)),
    ] {
        if let Err(why) = set {
            tracing::debug!(what, %why, "the system refused a setting");
        }
    }
}

fn carried(peer: Admitted, remote: String, dialled: bool) -> Carried {
    let peer = Trusted::Certificate(peer);
    Carried { carrier: CARRIER, remote, peer, dialled, framing: Framing::Cut }
}

/// The same rule as for QUIC.
fn trusted(
    local: &Local,
    certificates: Option<&[rustls::pki_types::CertificateDer<'static>]>,
) -> Result<identity::PeerName, Error> {
    let peer = local.identity.trust().admit(certificates.unwrap_or_default(), clock::wall().into());
    peer.map_err(Error::NotAdmitted)
}

/// Whoever is dialled must be a node.
fn admit(
    local: &Local,
    certificates: Option<&[rustls::pki_types::CertificateDer<'static>]>,
) -> Result<Admitted, Error> {
    let peer = trusted(local, certificates)?;
    let certificate = Certificate::of(&peer);
    match peer.role {
        identity::Role::Node(node) => Ok(Admitted { node, role: Role::Node, certificate }),
        other => Err(Error::WrongRole(other.uri())),
    }
}

fn no_upgrade(error: WsError) -> String {
    let WsError::Http(answer) = error else { return format!("the edge granted no WebSocket: {error}") };
    let body = answer.body().as_deref().unwrap_or_default();
    let body: String = String::from_utf8_lossy(body).chars().take(MAX_SHOWN).collect();
    let hint = match answer.status().as_u16() {
        404 => "; is it an edge of this release, and [relay] on in its edge.toml?",
        _ => "",
    };
    format!("the edge granted no WebSocket: {}{hint} {body}", answer.status())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_edge_says_whose_bytes_it_relays() {
        // covers Q01
        for (from, shown) in [
            ("198.51.100.7:5000", "198.51.100.7:5000"),
            ("[::ffff:198.51.100.7]:5000", "198.51.100.7:5000"),
            ("[2001:db8::7]:5000", "[2001:db8::7]:5000"),
        ] {
            let line = announce(from.parse().unwrap());
            assert!(line.len() <= MAX_ANNOUNCED);
            let mut bytes = [line.as_bytes(), b"\x16\x03rest"].concat();
            let mut stream = &bytes[..];
            assert_eq!(announced(&mut stream).await.unwrap(), shown);
            assert_eq!(stream, b"\x16\x03rest", "not a byte more");
            bytes[0] = b'X';
            assert!(announced(&mut &bytes[..]).await.is_err());
        }
        assert!(announced(&mut &[b'A'; 500][..]).await.is_err());
    }
}
