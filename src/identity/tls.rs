//! The TLS configurations of links, of joining, and of an edge's public side.
//!
//! Handshake errors carry their reason in their text; [`explain`] turns what a connection ended with into a line for
//! the log.

use std::path::Path;
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use time::OffsetDateTime;

use super::bundle::{Bundle, Leaf};
use super::ca::Fingerprint;
use super::error::Error;
use super::files;
use super::live::{ByAlpn, LiveCertificate, ReloadableCert};
use super::revocation::Revocations;
use super::sessions::{self, Sessions};
use super::trust::{Trust, from_unix_time};
use crate::wire::ids::NodeName;

mod clients;
mod tickets;
mod verifiers;

pub use clients::{ClientCas, ClientCertificates};
pub use tickets::Tickets;

/// Links: nodes, edges, native agents.
pub const ALPN_LINK: &[u8] = b"trishula/2";
/// A machine without a certificate that comes with a ticket.
pub const ALPN_JOIN: &[u8] = b"trishula-join/1";
/// Browsers (WebTransport).
pub const ALPN_H3: &[u8] = b"h3";
/// Clients of an edge.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";
/// Clients of an edge that open WebSockets over HTTP/2 (RFC 8441).
pub const ALPN_H2: &[u8] = b"h2";

/// What a node's UDP port speaks. `h3` is added here once the node answers it.
const NODE_ALPN: &[&[u8]] = &[ALPN_LINK, ALPN_JOIN];

/// Where TLS gets the time from; the daemon gives its one clock.
pub type Clock = Arc<dyn TimeProvider>;

/// The one cryptographic provider: aws-lc-rs. Its first key exchange is the post-quantum hybrid (X25519MLKEM768).
/// None of our programs installs another for its process; a simulation does, to have signatures of one length.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    let ours = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    PROVIDER.get_or_init(|| CryptoProvider::get_default().cloned().unwrap_or_else(ours)).clone()
}

/// Who we are on links, and whom we believe: what the configurations of both directions share.
#[derive(Debug, Clone)]
pub struct Identity {
    link: Arc<LiveCertificate>,
    trust: Arc<Trust>,
    clock: Clock,
    sessions: Arc<Sessions>,
}

/// What [`Identity::client_and_sparing`] makes.
pub type Dialling = ([Arc<ClientConfig>; 2], Arc<Tickets>);

/// Which certificate is shown on links, and who is believed. What was made in another epoch is not to be used on.
#[derive(Clone)]
pub struct Epoch {
    shown: Option<Arc<CertifiedKey>>,
    list: u64,
}

impl PartialEq for Epoch {
    fn eq(&self, other: &Epoch) -> bool {
        let same = match (&self.shown, &other.shown) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        same && self.list == other.list
    }
}

impl Identity {
    /// From a bundle. `revocations` is the process's own, begun with the bundle's list.
    pub fn new(bundle: &Bundle, revocations: Arc<Revocations>, clock: Clock) -> Result<Self, Error> {
        let trust = Arc::new(Trust::new(bundle.ca.clone(), revocations)?);
        let sessions = Arc::new(Sessions::new(trust.clone(), clock.clone()));
        Ok(Self { link: Arc::new(LiveCertificate::new(Some(&bundle.link))), trust, clock, sessions })
    }

    /// Whom we believe; [`Trust::admit`] is to be asked after each handshake.
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// Sessions that peers can resume with us.
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// The epoch that it is now.
    pub fn epoch(&self) -> Epoch {
        let list = self.trust.revocations().current().map_or(0, |list| list.number());
        Epoch { shown: self.link.current(), list }
    }

    /// Shows a renewed leaf from now on, in both directions.
    pub fn replace_link(&self, leaf: &Leaf) {
        self.link.replace(leaf);
    }

    /// For the port on which nodes, edges, native agents and joiners come in. A client certificate is asked for but
    /// not demanded, as browsers and joiners have none: for [`ALPN_LINK`], [`Trust::admit`] demands it.
    pub fn server(&self) -> Result<NodeServer, Error> {
        let certificates = Arc::new(ByAlpn { link: self.link.clone(), h3: LiveCertificate::new(None) });
        let mut config = ServerConfig::builder_with_details(provider(), self.clock.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(Arc::new(verifiers::Peers { trust: self.trust.clone() }))
            .with_cert_resolver(certificates.clone());
        config.alpn_protocols = NODE_ALPN.iter().map(|p| p.to_vec()).collect();
        // With a stateful store, or rustls takes no early data; QUIC knows only this size and none (RFC 9001, 4.6.1).
        config.session_storage = self.sessions.clone();
        config.max_early_data_size = u32::MAX;
        config.send_tls13_tickets = sessions::TICKETS;
        Ok(NodeServer { config: Arc::new(config), certificates })
    }

    /// For dialling a node; with `expected`, only that one will do. The server name to dial is
    /// [`super::Role::dns_name`]. Keep one configuration for each peer: it holds the tickets for 0-RTT.
    pub fn client(&self, expected: Option<NodeName>) -> Result<Arc<ClientConfig>, Error> {
        let verifier = verifiers::Node { trust: self.trust.clone(), expected };
        let mut config = ClientConfig::builder_with_details(provider(), self.clock.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(self.link.clone());
        config.alpn_protocols = vec![ALPN_LINK.to_vec()];
        config.enable_early_data = true;
        Ok(Arc::new(config))
    }

    /// The same, and one for tries beside it: that one uses up no ticket, and those that it gets are kept for the first. And
    /// those tickets.
    pub fn client_and_sparing(&self, expected: Option<NodeName>) -> Result<Dialling, Error> {
        let mut config = ClientConfig::clone(&*self.client(expected)?);
        let tickets = Arc::new(Tickets::default());
        config.resumption = Resumption::store(tickets.clone());
        let mut sparing = config.clone();
        sparing.resumption = Resumption::store(Arc::new(tickets::Sparing(tickets.clone())));
        Ok(([config, sparing].map(Arc::new), tickets))
    }

    /// The accepting side of a link within a stream of bytes that an edge relays. Each handshake is a whole one: there
    /// are few, and no ticket of QUIC's is good here.
    pub fn relay_server(&self) -> Result<Arc<ServerConfig>, Error> {
        let mut config = ServerConfig::clone(&*self.server()?.config);
        config.alpn_protocols = vec![ALPN_LINK.to_vec()];
        config.max_early_data_size = 0;
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Arc::new(config))
    }

    /// The dialling side of the same.
    pub fn relay_client(&self, expected: Option<NodeName>) -> Result<Arc<ClientConfig>, Error> {
        let mut config = ClientConfig::clone(&*self.client(expected)?);
        config.enable_early_data = false;
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// The server side of a node.
#[derive(Debug, Clone)]
pub struct NodeServer {
    /// For TLS over anything; [`quic_server`] makes it QUIC's.
    pub config: Arc<ServerConfig>,
    /// What it shows to whom.
    pub certificates: Arc<ByAlpn>,
}

/// For joining by a ticket: believes exactly the node whose chain ends in the CA with this fingerprint; shows nothing.
pub fn join_client(ca: Fingerprint, clock: Clock) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifiers::Pinned { ca }))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The public side of an edge.
#[derive(Debug, Clone)]
pub struct HttpsServer {
    /// For TLS.
    pub config: ServerConfig,
    /// When the first of the lists of revoked client certificates ends; `None`: there are none.
    pub lists_until: Option<OffsetDateTime>,
    /// What looks at certificates of clients.
    pub verifier: Arc<dyn ClientCertVerifier>,
}

/// For the public side of an edge: TLS 1.2 and 1.3, HTTP/1.1, with a certificate from files that may be renewed. CAs and lists
/// that change need another configuration.
/// Who a client with a certificate is, [`Trust::admit`] says if its CA is the mesh's; for others it is configured.
pub fn https_server(
    certificate: Arc<ReloadableCert>,
    clients: ClientCertificates<'_>,
    clock: Clock,
) -> Result<HttpsServer, Error> {
    let now = clock.current_time().ok_or_else(|| unusable("nobody tells the time"))?;
    let checks = clients.checks(from_unix_time(now))?;
    let mut config = ServerConfig::builder_with_details(provider(), clock)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_client_cert_verifier(checks.verifier.clone())
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
    if clients != ClientCertificates::Unasked {
        // A resumed session would bring in a certificate that nobody has looked at again.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(HttpsServer { config, lists_until: checks.lists_until, verifier: checks.verifier })
}

/// For the outside of a link through an edge: ordinary TLS as browsers speak it. With `cas` (PEM), the edge must show a
/// certificate of one of them for its host name. Without, whatever it shows will do: the link's own TLS within, which
/// knows both ends, is what protects it, and nothing else is sent.
pub fn outer_client(cas: Option<&Path>, clock: Clock) -> Result<Arc<ClientConfig>, Error> {
    let builder = ClientConfig::builder_with_details(provider(), clock)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let mut config = match cas {
        Some(path) => builder
            .with_root_certificates(roots(path, "check the configured fallback_ca")?)
            .with_no_client_auth(),
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifiers::Anybody))
            .with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
    Ok(Arc::new(config))
}

/// Makes a server configuration QUIC's.
pub fn quic_server(config: Arc<ServerConfig>) -> Result<QuicServerConfig, Error> {
    config.try_into().map_err(unusable)
}

/// Makes a client configuration QUIC's.
pub fn quic_client(config: Arc<ClientConfig>) -> Result<QuicClientConfig, Error> {
    config.try_into().map_err(unusable)
}

/// What a connection ended with, for the log: with what to do, where TLS said why it would not go on.
pub fn explain(error: &quinn::ConnectionError) -> String {
    let code = match error {
        quinn::ConnectionError::TransportError(error) => u64::from(error.code),
        quinn::ConnectionError::ConnectionClosed(close) => u64::from(close.error_code),
        other => return other.to_string(),
    };
    // QUIC carries TLS alerts as 0x100 + alert (RFC 9001, 4.8).
    match code.checked_sub(0x100).and_then(advice) {
        Some(advice) => format!("{error} ({advice})"),
        None => error.to_string(),
    }
}

/// Whether the peer ended it without a word (RFC 9000 section 10.2.3), as one does that has dialled several times at once and got
/// through with another.
pub fn was_dropped(error: &quinn::ConnectionError) -> bool {
    const APPLICATION_ERROR: u64 = 0xc;
    match error {
        quinn::ConnectionError::ConnectionClosed(close) => {
            u64::from(close.error_code) == APPLICATION_ERROR && close.reason.is_empty()
        }
        quinn::ConnectionError::ApplicationClosed(close) => {
            close.error_code.into_inner() == 0 && close.reason.is_empty()
        }
        _ => false,
    }
}

/// [`explain`] for TLS over a stream of bytes.
pub fn explain_io(error: &std::io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let alert = match tls {
        Some(rustls::Error::AlertReceived(alert)) => u64::from(u8::from(*alert)),
        Some(rustls::Error::InvalidCertificate(why)) => {
            u64::from(u8::from(rustls::AlertDescription::from(why.clone())))
        }
        _ => return error.to_string(),
    };
    advice(alert).map_or_else(|| error.to_string(), |advice| format!("{error} ({advice})"))
}

/// What to do about a TLS alert (RFC 8446, 6.2).
fn advice(alert: u64) -> Option<&'static str> {
    Some(match alert {
        44 => "a certificate was revoked: join again with a new ticket",
        45 => "a certificate is out of date, or a clock is wrong: `trishula cert show` on both machines",
        42 | 46 | 48 => {
            "the two are not of one mesh, or not who they should be: `trishula cert show` on both machines"
        }
        116 => "a certificate of this mesh is needed: `trishula join TICKET`",
        120 => "the two speak no common version: update the older one",
        _ => return None,
    })
}

/// The CAs of a PEM file; there must be one.
fn roots(path: &Path, remedy: &'static str) -> Result<RootCertStore, Error> {
    store(path, cas(path, remedy)?)
}

fn cas(path: &Path, remedy: &'static str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let wrong = |why: String| Error::malformed(path.display().to_string(), why);
    let pem = files::read(path, remedy)?;
    let cas = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let cas = cas.map_err(|e| wrong(e.to_string()))?;
    if cas.is_empty() {
        return Err(wrong("there is no certificate in it".into()));
    }
    Ok(cas)
}

/// `path`: where they come from.
fn store(path: &Path, cas: Vec<CertificateDer<'static>>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for ca in cas {
        roots.add(ca).map_err(|e| Error::malformed(path.display().to_string(), e))?;
    }
    Ok(roots)
}

fn unusable(error: impl std::fmt::Display) -> Error {
    Error::Tls(error.to_string())
}
