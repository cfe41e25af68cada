//! Clients of the front: without TLS, and with every kind of it.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Error as WsError;
use trishula::identity::tls;

use crate::support::{Client, Machine, soon};

/// Sends bytes without TLS, and answers all that comes back.
pub async fn plain(at: SocketAddr, request: &str) -> String {
    let mut socket = TcpStream::connect(at).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // One that is thrown out may see a reset.
    let _ = soon(socket.read_to_end(&mut answer)).await;
    String::from_utf8(answer).unwrap()
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

pub fn roots(pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    roots
}

pub fn builder(
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(tls::provider()).with_protocol_versions(versions).unwrap()
}

pub async fn connect(at: SocketAddr, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(at).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    soon(TlsConnector::from(Arc::new(config)).connect(name, tcp)).await
}

pub async fn websocket(stream: TlsStream<TcpStream>, path: &str) -> Result<Client, WsError> {
    let address = format!("wss://localhost{path}");
    let (socket, _) = soon(tokio_tungstenite::client_async(address, stream)).await?;
    Ok(Client { socket })
}

pub fn no_certificate(machine: &Machine) -> ClientConfig {
    builder(rustls::ALL_VERSIONS)
        .with_root_certificates(roots(machine.ca.certificate_pem()))
        .with_no_client_auth()
}
