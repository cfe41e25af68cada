//! What `/mesh` of an edge lets in, and where it leads.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use trishula::identity::RoleKind;
use trishula::identity::bundle::Bundle;
use trishula::identity::revocation::Revocations;
use trishula::identity::tls::{self, Identity};
use trishula::link::websocket::WebSocketBytes;

use super::Pair;
use crate::harness::{Machine, Mesh, until};

fn identity(folder: &Path, kind: RoleKind) -> Identity {
    let bundle = Bundle::load(folder, kind, SystemTime::now().into()).unwrap();
    let clock = Arc::new(rustls::time_provider::DefaultTimeProvider);
    Identity::new(&bundle, Arc::new(Revocations::new(bundle.revoked.clone())), clock).unwrap()
}

/// Believes anybody: the one who refuses must be the other end.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Goes through the edge's `/mesh` with this TLS within, and answers what came back before the end; `Err`: not even TLS
/// came up.
async fn knock(edge_port: u16, within: rustls::ClientConfig) -> Result<Vec<u8>, std::io::Error> {
    let clock = Arc::new(rustls::time_provider::DefaultTimeProvider);
    let outside = TlsConnector::from(tls::outer_client(None, clock).unwrap());
    let tcp = TcpStream::connect(("127.0.0.1", edge_port)).await?;
    let secured = outside.connect(ServerName::try_from("localhost").unwrap(), tcp).await?;
    let request = "wss://localhost/mesh".into_client_request().unwrap();
    let (socket, _) = tokio_tungstenite::client_async(request, secured).await.unwrap();
    let name = ServerName::try_from("node.trishula").unwrap();
    let stream = TlsConnector::from(Arc::new(within)).connect(name, WebSocketBytes::new(socket)).await?;
    let (mut read, _write) = tokio::io::split(stream);
    let mut said = Vec::new();
    // Whoever is refused is told by an alert, or by the end.
    let _ = tokio::time::timeout(crate::harness::PATIENCE, read.read_to_end(&mut said)).await.unwrap();
    Ok(said)
}

fn refused_at(agni: &Machine, within: rustls::ClientConfig, says: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let said = runtime.block_on(knock(agni.edge_port, within)).unwrap_or_default();
    assert!(said.is_empty(), "a frame was said to who is not let in");
    until(&format!("the log says: {says}"), || {
        let log = agni.node_log();
        log.lines().any(|line| {
            line.contains("a relayed peer was not admitted")
                && line.contains("remote=\"127.0.0.1:")
                && line.contains(says)
        })
    });
}

// covers T24, Q01, B17
#[test]
fn who_is_not_of_the_mesh_is_refused_within_the_websocket() {
    let mut pair = Pair::new();
    pair.start();
    pair.mesh.wait_whole();
    let theirs = Mesh::init(&["evil", "other"]);
    let own = |identity: &Identity| {
        let mut config = rustls::ClientConfig::clone(&identity.relay_client(None).unwrap());
        config.dangerous().set_certificate_verifier(Arc::new(Trusting));
        config
    };
    let agni = pair.mesh.machine("agni");
    // Of another mesh, and one who shows nothing at all.
    let stranger = identity(&theirs.folder.path().join("evil/identity"), RoleKind::Node);
    refused_at(agni, own(&stranger), "the two are not of one mesh");
    let clock = Arc::new(rustls::time_provider::DefaultTimeProvider);
    let mut nobody = rustls::ClientConfig::clone(&tls::outer_client(None, clock).unwrap());
    nobody.alpn_protocols = vec![tls::ALPN_LINK.to_vec()];
    refused_at(agni, nobody.clone(), "no certificate was shown");
    // Machines that join have no certificate either: not here.
    nobody.alpn_protocols = vec![tls::ALPN_JOIN.to_vec()];
    refused_at(agni, nobody, "any known protocol");
    let dc = pair.mesh.machine("dc").status().unwrap();
    let nodes: Vec<_> = dc["nodes"].as_array().unwrap().iter().filter_map(|n| n["node"].as_str()).collect();
    assert_eq!(nodes, ["dc", "agni"], "nothing that they said is believed");
}

// covers T24, Q01
#[test]
fn an_edge_leads_to_its_own_node_only() {
    // dc is told that agni is where its own edge is.
    let mut pair = Pair::new();
    pair.path.set_open(false);
    let base = pair.mesh.base;
    let file = pair.mesh.folder.path().join("dc/node.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let wrong =
        text.replace(&format!("localhost:{}/mesh", base + 12), &format!("localhost:{}/mesh", base + 2));
    assert_ne!(wrong, text);
    std::fs::write(&file, wrong).unwrap();
    pair.start();
    until("dc says who answered", || {
        pair.mesh.machine("dc").node_log().contains("node dc answered where node agni was expected")
    });
    assert!(!pair.mesh.machine("dc").reaches("agni"));
}

// covers T24, Q01, B14
#[test]
fn a_node_whose_certificate_is_revoked_is_cut_off_in_the_websocket_too() {
    let mut pair = Pair::new();
    pair.path.set_open(false);
    pair.start();
    pair.mesh.wait_whole();
    assert_eq!(pair.carrier().as_deref(), Some("wss"));
    let revoked = pair.mesh.machine("dc").run(&["cert", "revoke", "agni"]);
    assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
    let took = until("the link is closed", || pair.carrier().is_none());
    assert!(took.as_secs() < 10, "it took {took:?}");
    until("and does not come up again", || pair.mesh.machine("dc").node_log().contains("was revoked"));
    assert_eq!(pair.carrier(), None);
}
