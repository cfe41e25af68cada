//! Certificates, TLS, QUIC and WebSocket connections.
use crate::lean::LeanUdp;
use crate::options::Settings;
use crate::way::Endpoint;
use anyhow::{Context, Result};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, accept_async_with_config, client_async_with_config};

pub type ServerSocket = WebSocketStream<server::TlsStream<TcpStream>>;
pub type ClientSocket = WebSocketStream<client::TlsStream<TcpStream>>;

const HOST: &str = "localhost";
/// A dial that takes longer hangs.
const DIAL_PATIENCE: Duration = Duration::from_secs(10);
const ALPN: &[u8] = b"bench";
/// Any free port, on loopback.
pub const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A certificate authority of this run and the one leaf that all relays share (both P-256, as PEM).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Identity {
    ca: String,
    leaf: String,
    key: String,
}

impl Identity {
    pub fn generate() -> Result<Self> {
        use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, "bench CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_pem = ca.self_signed(&ca_key)?.pem();
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new(vec![HOST.to_owned()])?.signed_by(&key, &issuer)?;
        Ok(Self { ca: ca_pem, leaf: leaf.pem(), key: key.serialize_pem() })
    }

    pub fn ca(&self) -> Result<CertificateDer<'static>> {
        Ok(CertificateDer::from_pem_slice(self.ca.as_bytes())?)
    }

    fn server_tls(&self) -> Result<rustls::ServerConfig> {
        let leaf = vec![CertificateDer::from_pem_slice(self.leaf.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())?;
        Ok(rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(leaf, key)?)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn client_tls(ca: CertificateDer<'static>) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca)?;
    Ok(rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// A QUIC endpoint that both accepts and dials, on a free port.
pub fn quic_endpoint(identity: &Identity, settings: &Settings) -> Result<quinn::Endpoint> {
    let transport = Arc::new(transport(settings)?);
    let mut tls = identity.server_tls()?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    server.transport_config(transport.clone());
    let mut tls = client_tls(identity.ca()?)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    client.transport_config(transport);

    let mut config = quinn::EndpointConfig::default();
    if settings.mtu > 0 {
        config.max_udp_payload_size(settings.mtu)?;
    }
    let socket = std::net::UdpSocket::bind(ANY)?;
    let runtime = Arc::new(quinn::TokioRuntime);
    let mut endpoint = if settings.lean {
        let socket = Arc::new(LeanUdp::new(socket)?);
        quinn::Endpoint::new_with_abstract_socket(config, Some(server), socket, runtime)?
    } else {
        quinn::Endpoint::new(config, Some(server), socket, runtime)?
    };
    endpoint.set_default_client_config(client);
    Ok(endpoint)
}

/// One long-lived stream both ways to `to`. The connection lives as long as what is returned.
pub async fn quic_dial(
    endpoint: &quinn::Endpoint,
    to: SocketAddr,
) -> Result<(quinn::Connection, quinn::SendStream, quinn::RecvStream)> {
    let connection =
        timeout(DIAL_PATIENCE, endpoint.connect(to, HOST)?).await.context("dialling hangs")??;
    let (tx, rx) = connection.open_bi().await?;
    Ok((connection, tx, rx))
}

/// The next stream that somebody opens on a connection of their own.
pub async fn quic_accept(
    endpoint: &quinn::Endpoint,
) -> Result<(quinn::Connection, quinn::SendStream, quinn::RecvStream)> {
    let connection = endpoint.accept().await.context("endpoint closed")?.await?;
    let (tx, rx) = connection.accept_bi().await?;
    Ok((connection, tx, rx))
}

fn transport(settings: &Settings) -> Result<quinn::TransportConfig> {
    let mut transport = quinn::TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_secs(5)));
    transport.enable_segmentation_offload(!settings.no_gso);
    if settings.mtu > 0 {
        let mut discovery = quinn::MtuDiscoveryConfig::default();
        discovery.upper_bound(settings.mtu);
        transport.initial_mtu(settings.mtu.min(1452)).mtu_discovery_config(Some(discovery));
    }
    if settings.ack_threshold > 0 {
        let mut acks = quinn::AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(settings.ack_threshold.into());
        acks.max_ack_delay(Some(Duration::from_millis(settings.ack_delay_ms)));
        transport.ack_frequency_config(Some(acks));
    }
    Ok(transport)
}

/// Accepts one WebSocket client over TLS.
pub async fn wss_accept(listener: &TcpListener, identity: &Identity) -> Result<ServerSocket> {
    let acceptor = TlsAcceptor::from(Arc::new(identity.server_tls()?));
    let (tcp, _) = listener.accept().await?;
    tcp.set_nodelay(true)?;
    Ok(accept_async_with_config(acceptor.accept(tcp).await?, Some(socket_config())).await?)
}

/// Connects one WebSocket client over TLS.
pub async fn wss_connect(to: &Endpoint, ca: &CertificateDer<'static>) -> Result<ClientSocket> {
    let mut request = to.url.as_str().into_client_request()?;
    let host = request.uri().host().context("a URL without a host")?.to_owned();
    let port = request.uri().port_u16().unwrap_or(443);
    if let Some(token) = &to.token {
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse()?);
    }
    let tcp = TcpStream::connect((host.as_str(), port)).await?;
    tcp.set_nodelay(true)?;
    let connector = TlsConnector::from(Arc::new(client_tls(ca.clone())?));
    let tls = connector.connect(ServerName::try_from(host)?, tcp).await?;
    Ok(client_async_with_config(request, tls, Some(socket_config())).await?.0)
}

/// The URL of a relay's WebSocket.
pub fn wss_url(port: u16) -> String {
    format!("wss://{HOST}:{port}/")
}

fn socket_config() -> WebSocketConfig {
    WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(16 * 1024)
}
