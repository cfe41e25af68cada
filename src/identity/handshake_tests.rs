//! Certificates put to use: real handshakes over loopback, by QUIC and by Python's own TLS.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use time::{Duration, OffsetDateTime};

use super::bundle::{Bundle, Parts};
use super::ca::Authority;
use super::live::{ReloadableCert, Reloaded};
use super::profile::Request;
use super::revocation::Revocations;
use super::testing::{NOW, clock_at, edge, name, node};
use super::tls::{self, ClientCas, ClientCertificates, Identity};
use super::{PeerName, Refusal, Role, RoleKind, Trust};
use crate::wire::ids::AgentAddr;

/// A machine with its folder and what it needs for TLS.
struct Machine {
    bundle: Bundle,
    revocations: Arc<Revocations>,
    identity: Identity,
    _folder: tempfile::TempDir,
}

/// `now` is the machine's clock; its certificates were made at `NOW`.
fn machine(ca: &Authority, role: Role, now: OffsetDateTime) -> Machine {
    let folder = tempfile::tempdir().unwrap();
    let link = ca.issue(&Request::link(role.clone()), NOW).unwrap();
    let parts = Parts { ca_pem: Some(ca.certificate_pem()), link: Some(link.pair()), ..Parts::default() };
    Bundle::write(folder.path(), &parts).unwrap();
    let bundle = Bundle::load(folder.path(), role.kind(), NOW).unwrap();
    let revocations = Arc::new(Revocations::default());
    let identity = Identity::new(&bundle, revocations.clone(), clock_at(now)).unwrap();
    Machine { bundle, revocations, identity, _folder: folder }
}

fn listen(server: &Machine) -> (quinn::Endpoint, SocketAddr) {
    let config = tls::quic_server(server.identity.server().unwrap().config).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(config));
    let endpoint = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = endpoint.local_addr().unwrap();
    (endpoint, address)
}

fn dialler(config: Arc<rustls::ClientConfig>) -> quinn::Endpoint {
    let mut endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let config = tls::quic_client(config).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(config)));
    endpoint
}

fn certificates(connection: &quinn::Connection) -> Vec<CertificateDer<'static>> {
    let identity = connection.peer_identity().and_then(|identity| identity.downcast().ok());
    identity.map(|certificates| *certificates).unwrap_or_default()
}

/// What both ends of one attempt saw.
struct Attempt {
    dialled: Result<quinn::Connection, quinn::ConnectionError>,
    accepted: Result<quinn::Connection, quinn::ConnectionError>,
    /// Whom the server let in.
    admitted: Option<Result<PeerName, Refusal>>,
}

impl Attempt {
    /// How it ended, in both ends' words.
    async fn why(self) -> String {
        let dialled = match self.dialled {
            Ok(connection) => connection.closed().await,
            Err(error) => error,
        };
        let accepted = self.accepted.err().map(|error| tls::explain(&error)).unwrap_or_default();
        format!("{} | {accepted}", tls::explain(&dialled))
    }
}

async fn attempt(
    server: &Machine,
    (endpoint, address): &(quinn::Endpoint, SocketAddr),
    client: &quinn::Endpoint,
) -> Attempt {
    let accept = async { endpoint.accept().await.unwrap().await };
    let dial = async { client.connect(*address, "agni.node.trishula").unwrap().await };
    let (accepted, dialled) = tokio::join!(accept, dial);
    let admitted = accepted.as_ref().ok().map(|c| server.identity.trust().admit(&certificates(c), NOW));
    Attempt { dialled, accepted, admitted }
}

#[tokio::test]
async fn members_meet_and_know_each_other() {
    // covers T24, covers T01
    let ca = Authority::create("trishula", NOW).unwrap();
    let server = machine(&ca, node("agni"), NOW);
    let port = listen(&server);
    for role in [node("dc"), edge("agni")] {
        let client = machine(&ca, role.clone(), NOW);
        let dialler = dialler(client.identity.client(Some(name("agni"))).unwrap());
        let met = attempt(&server, &port, &dialler).await;
        assert_eq!(met.admitted.unwrap().unwrap().role, role);
        let seen = certificates(&met.dialled.unwrap());
        let peer = client.identity.trust().admit_node(&seen, Some(&name("agni")), NOW).unwrap();
        assert_eq!(peer.role, node("agni"));
    }
    assert_eq!(
        tls::provider().kx_groups.first().map(|group| group.name()),
        Some(rustls::NamedGroup::X25519MLKEM768),
        "the post-quantum hybrid comes first"
    );
}

#[tokio::test]
async fn strangers_are_refused_with_a_reason_at_both_ends() {
    // covers T24
    let (ca, other) =
        (Authority::create("trishula", NOW).unwrap(), Authority::create("trishula", NOW).unwrap());
    let server = machine(&ca, node("agni"), NOW);
    let port = listen(&server);

    // A client of another mesh notices first, as it sees the server's certificate first.
    let stranger = machine(&other, node("dc"), NOW);
    let why = attempt(&server, &port, &dialler(stranger.identity.client(None).unwrap())).await.why().await;
    assert!(why.contains("UnknownIssuer") && why.contains("not of one mesh"), "{why}");

    // One that knows our CA, but was not signed by it.
    let impostor = machine(&ca, node("dc"), NOW);
    impostor.identity.replace_link(&stranger.bundle.link);
    let why = attempt(&server, &port, &dialler(impostor.identity.client(None).unwrap())).await.why().await;
    assert!(why.contains("UnknownIssuer"), "{why}");
}

#[tokio::test]
async fn the_expired_and_the_revoked_are_refused() {
    // covers T24
    let ca = Authority::create("trishula", NOW).unwrap();
    let late = NOW + Duration::days(91);
    let server = machine(&ca, node("agni"), late);
    let client = machine(&ca, node("dc"), NOW);
    let dial = dialler(client.identity.client(None).unwrap());
    let why = attempt(&server, &listen(&server), &dial).await.why().await;
    assert!(why.contains("certificate expired") && why.contains("out of date"), "{why}");

    let server = machine(&ca, node("agni"), NOW);
    let list = ca.revoke(std::slice::from_ref(&client.bundle.name.serial), None, NOW).unwrap();
    server.revocations.offer(list);
    let why = attempt(&server, &listen(&server), &dial).await.why().await;
    assert!(why.contains("Revoked") && why.contains("new ticket"), "{why}");
}

#[tokio::test]
async fn only_the_node_that_was_meant_will_do() {
    // covers T24
    let ca = Authority::create("trishula", NOW).unwrap();
    let client = machine(&ca, node("dc"), NOW);
    for (role, expected) in
        [(edge("agni"), None), (edge("agni"), Some(name("agni"))), (node("agni"), Some(name("dc")))]
    {
        let server = machine(&ca, role.clone(), NOW);
        let dial = dialler(client.identity.client(expected).unwrap());
        let why = attempt(&server, &listen(&server), &dial).await.why().await;
        assert!(why.contains(&format!("{role} answered where")), "{why}");
    }
}

/// A round trip: the tickets come before the answer.
async fn tickets_come(a: &quinn::Connection, b: &quinn::Connection) {
    let (mut ask, mut hear) = a.open_bi().await.unwrap();
    ask.write_all(b"x").await.unwrap();
    let (mut answer, _asked) = b.accept_bi().await.unwrap();
    answer.write_all(b"y").await.unwrap();
    hear.read_chunk(1, true).await.unwrap();
}

#[tokio::test]
async fn a_try_beside_another_uses_up_no_ticket_and_brings_some() {
    // covers T02
    let ca = Authority::create("trishula", NOW).unwrap();
    let server = machine(&ca, node("agni"), NOW);
    let client = machine(&ca, node("dc"), NOW);
    let port = listen(&server);
    let (both, tickets) = client.identity.client_and_sparing(None).unwrap();
    let [first, beside] = both.map(dialler);
    // Flights that get no answer, as in an outage.
    let nobody = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let to = nobody.local_addr().unwrap();
    let resumes =
        |dial: &quinn::Endpoint| dial.connect(to, "agni.node.trishula").unwrap().into_0rtt().is_ok();
    for dial in [&first, &beside] {
        let met = attempt(&server, &port, dial).await;
        let (a, b) = (met.dialled.unwrap(), met.accepted.unwrap());
        tickets_come(&a, &b).await;
        a.close(0u32.into(), b"");
        assert!((0..20).all(|_| !resumes(&beside)), "it has none to use up");
    }
    assert_eq!(tickets.len(), 2 * super::sessions::TICKETS);
    assert_eq!((0..20).filter(|_| resumes(&first)).count(), 2 * super::sessions::TICKETS);
    assert!(tickets.is_empty());
}

#[tokio::test]
async fn a_resumed_session_is_looked_at_again() {
    // covers T24, covers T02
    let ca = Authority::create("trishula", NOW).unwrap();
    let server = machine(&ca, node("agni"), NOW);
    let client = machine(&ca, node("dc"), NOW);
    let port = listen(&server);
    let dial = dialler(client.identity.client(None).unwrap());
    let first = attempt(&server, &port, &dial).await;
    assert!(first.admitted.unwrap().is_ok());
    let (a, b) = (first.dialled.unwrap(), first.accepted.unwrap());
    tickets_come(&a, &b).await;
    a.close(0u32.into(), b"");

    // The session says who it was, before anything of this handshake is verified.
    let dialled = dial.connect(port.1, "agni.node.trishula").unwrap().into_0rtt();
    let (dialled, early) = dialled.map_err(|_| "no ticket").unwrap();
    let mut accepted = port.0.accept().await.unwrap().accept().unwrap();
    accepted.handshake_data().await.unwrap();
    let (accepted, over) = accepted.into_0rtt().map_err(|_| "never at this end").unwrap();
    let resumed = certificates(&accepted);
    assert_eq!(server.identity.trust().admit(&resumed, NOW).unwrap(), client.bundle.name);
    assert!(early.await, "what was sent early is accepted");
    over.await;
    let list = ca.revoke(std::slice::from_ref(&client.bundle.name.serial), None, NOW).unwrap();
    let revoked = Arc::new(Revocations::new(Some(list.clone())));
    let later = Trust::new(ca.certificate().clone(), revoked).unwrap();
    assert!(matches!(later.admit(&resumed, NOW), Err(Refusal::Revoked { .. })));
    let ended = server.identity.trust().admit(&resumed, NOW + Duration::days(90));
    assert!(matches!(ended, Err(Refusal::Expired { .. })), "{ended:?}");
    dialled.close(0u32.into(), b"");

    // Once others are trusted than before, nobody resumes: the handshake is a whole one, and looks.
    assert!(!server.identity.sessions().is_empty());
    server.revocations.offer(list);
    let why = attempt(&server, &port, &dial).await.why().await;
    assert!(why.contains("Revoked") && why.contains("new ticket"), "{why}");
    assert!(server.identity.sessions().is_empty());
}

#[tokio::test]
async fn a_joiner_believes_only_the_ca_of_its_ticket_and_is_no_peer() {
    // covers Q07
    let (ca, other) =
        (Authority::create("trishula", NOW).unwrap(), Authority::create("trishula", NOW).unwrap());
    let server = machine(&ca, node("agni"), NOW);
    let port = listen(&server);
    let join = |fingerprint| dialler(tls::join_client(fingerprint, clock_at(NOW)).unwrap());
    let met = attempt(&server, &port, &join(ca.fingerprint())).await;
    let data = met.accepted.as_ref().unwrap().handshake_data().unwrap();
    let data = data.downcast::<quinn::crypto::rustls::HandshakeData>().unwrap();
    assert_eq!(data.protocol.as_deref(), Some(tls::ALPN_JOIN));
    assert_eq!(met.admitted.unwrap(), Err(Refusal::NoCertificate));

    let why = attempt(&server, &port, &join(other.fingerprint())).await.why().await;
    assert!(why.contains("UnknownIssuer"), "{why}");

    // A member that would pass for the node: its chain has the CA, but its own leaf is an edge's.
    let false_node = machine(&ca, edge("agni"), NOW);
    let why = attempt(&false_node, &listen(&false_node), &join(ca.fingerprint())).await.why().await;
    assert!(why.contains("edge agni answered where a node was expected"), "{why}");
}

#[test]
fn admit_gives_the_exact_reason() {
    // covers T24
    let ca = Authority::create("trishula", NOW).unwrap();
    let trust = |ca: &Authority| Trust::new(ca.certificate().clone(), Arc::default()).unwrap();
    let ours = trust(&ca);
    let member = machine(&ca, node("dc"), NOW);
    let chain = &member.bundle.link.chain;
    assert_eq!(ours.admit(chain, NOW).unwrap(), member.bundle.name);
    assert_eq!(ours.admit(&[], NOW), Err(Refusal::NoCertificate));
    assert_eq!(trust(&Authority::create("x", NOW).unwrap()).admit(chain, NOW), Err(Refusal::Stranger));
    assert!(matches!(ours.admit(chain, NOW + Duration::days(90)), Err(Refusal::Expired { .. })));
    assert!(matches!(ours.admit(chain, NOW - Duration::days(1)), Err(Refusal::NotYetValid { .. })));
    let garbage = [CertificateDer::from(vec![1, 2, 3])];
    assert!(matches!(ours.admit(&garbage, NOW), Err(Refusal::Invalid(_))));

    // What an edge shows its clients opens no link.
    let public = Request::public(edge("agni"), vec!["localhost".into()], vec![]);
    let public = ca.issue(&public, NOW).unwrap();
    let (chain, key) = public.pair();
    let public = super::bundle::Leaf::from_pem(chain.as_bytes(), key.as_bytes(), "c", "k").unwrap();
    let refusal = ours.admit(&public.chain, NOW).unwrap_err();
    assert!(matches!(refusal, Refusal::Invalid(_)), "{refusal}");

    // The CA itself is nobody.
    let own = [ca.certificate().clone()];
    assert!(ours.admit(&own, NOW).is_err());
    assert_eq!(member.bundle.name.role.kind(), RoleKind::Node);
}

/// The public side of an edge with its files; the clock is the real one, as Python's is.
fn public_files(ca: &Authority, now: OffsetDateTime) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    put_public(ca, folder.path(), now);
    std::fs::write(folder.path().join("ca.pem"), ca.certificate_pem()).unwrap();
    let (certificate, key) = (folder.path().join("public.pem"), folder.path().join("public.key"));
    (folder, certificate, key)
}

fn put_public(ca: &Authority, folder: &std::path::Path, now: OffsetDateTime) {
    let ips = vec![Ipv4Addr::LOCALHOST.into()];
    let issued = ca.issue(&Request::public(edge("agni"), vec!["localhost".into()], ips), now).unwrap();
    let parts = Parts { public: Some(issued.pair()), ..Parts::default() };
    Bundle::write(folder, &parts).unwrap();
}

fn https(
    certificate: &std::path::Path,
    key: &std::path::Path,
    clients: ClientCertificates<'_>,
    now: OffsetDateTime,
) -> Result<(Arc<rustls::ServerConfig>, Arc<ReloadableCert>), super::Error> {
    let certificate = Arc::new(ReloadableCert::open(certificate, key)?);
    let server = tls::https_server(certificate.clone(), clients, clock_at(now))?;
    Ok((Arc::new(server.config), certificate))
}

#[tokio::test]
async fn a_reloaded_certificate_is_shown_without_a_restart() {
    // covers B11, covers T24
    let ca = Authority::create("trishula", NOW).unwrap();
    let (folder, certificate, key) = public_files(&ca, NOW);
    let (server, live) = https(&certificate, &key, ClientCertificates::Unasked, NOW).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.certificate().clone()).unwrap();
    let mut client = rustls::ClientConfig::builder_with_details(tls::provider(), clock_at(NOW))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    // A resumed session would repeat the certificate of the first.
    client.resumption = rustls::client::Resumption::disabled();
    let client = tokio_rustls::TlsConnector::from(Arc::new(client));
    let server = tokio_rustls::TlsAcceptor::from(server);
    let shown = async || {
        let (a, b) = tokio::io::duplex(1 << 16);
        let dial = client.connect(ServerName::try_from("localhost").unwrap(), a);
        let (dialled, accepted) = tokio::join!(dial, server.accept(b));
        accepted.unwrap();
        super::ca::Fingerprint::of(&dialled.unwrap().get_ref().1.peer_certificates().unwrap()[0])
    };
    let before = shown().await;
    assert_eq!(live.fingerprint(), Some(before));
    put_public(&ca, folder.path(), NOW);
    assert_eq!(shown().await, before, "not before it is asked to");
    let Reloaded::Changed { was, now, .. } = live.reload().unwrap() else { panic!("it has changed") };
    assert_eq!((was, now), (Some(before), shown().await));
}

#[tokio::test]
async fn an_edge_may_ask_its_clients_for_certificates() {
    // covers B14
    let ca = Authority::create("trishula", NOW).unwrap();
    let (folder, certificate, key) = public_files(&ca, NOW);
    let roots = folder.path().join("ca.pem");
    let agent = AgentAddr::new("trishula".parse().unwrap(), "dc.service".parse().unwrap());
    let agent = ca.issue(&Request::link(Role::Agent(agent)), NOW).unwrap();
    let (chain, key_pem) = agent.pair();
    let agent = super::bundle::Leaf::from_pem(chain.as_bytes(), key_pem.as_bytes(), "c", "k").unwrap();
    let trust = Trust::new(ca.certificate().clone(), Arc::default()).unwrap();

    // Whom the edge sees, when a client comes with or without its certificate; none if it does not let it in.
    let meet = async |clients, shown: Option<&super::bundle::Leaf>| {
        let (config, _) = https(&certificate, &key, clients, NOW).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.certificate().clone()).unwrap();
        let client = rustls::ClientConfig::builder_with_details(tls::provider(), clock_at(NOW))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(super::live::LiveCertificate::new(shown)));
        let (a, b) = tokio::io::duplex(1 << 16);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let dial = connector.connect(ServerName::try_from("localhost").unwrap(), a);
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        let (_dialled, accepted) = tokio::join!(dial, acceptor.accept(b));
        accepted.ok().map(|tls| trust.admit(tls.get_ref().1.peer_certificates().unwrap_or_default(), NOW))
    };
    let named = |seen: Option<Result<PeerName, Refusal>>| seen.unwrap().unwrap().to_string();
    let given = |ca_file| ClientCas { ca_file, crl_file: None };
    let required = ClientCertificates::Required(given(&roots));
    assert_eq!(named(meet(required, Some(&agent)).await), "agent trishula/dc.service");
    assert_eq!(meet(required, None).await, None);
    let optional = ClientCertificates::Optional(given(&roots));
    assert_eq!(named(meet(optional, Some(&agent)).await), "agent trishula/dc.service");
    assert_eq!(meet(optional, None).await, Some(Err(Refusal::NoCertificate)));
    assert_eq!(meet(ClientCertificates::Unasked, Some(&agent)).await, Some(Err(Refusal::NoCertificate)));
    let no_roots = ClientCertificates::Required(given(&key));
    assert!(https(&certificate, &key, no_roots, NOW).is_err(), "a key is no CA");
}

/// What Python 3.13 does by default, told explicitly so that an older Python is as strict.
const PYTHON_CLIENT: &str = r"
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[1])
context.verify_flags |= ssl.VERIFY_X509_STRICT | getattr(ssl, 'VERIFY_X509_PARTIAL_CHAIN', 0)
for host in ('127.0.0.1', 'localhost'):
    with socket.create_connection(('127.0.0.1', int(sys.argv[2]))) as tcp:
        with context.wrap_socket(tcp, server_hostname=host) as tls:
            tls.recv(1)
            print(sys.version.split()[0], host, tls.version())
";

/// A Python that starts: 3.13 if there is one (also pyenv's, whose shim may be there without a version behind it).
fn python() -> Option<PathBuf> {
    let pyenv = std::env::home_dir().unwrap_or_default().join(".pyenv/versions");
    let kept = std::fs::read_dir(pyenv).into_iter().flatten().flatten();
    let kept = kept.map(|entry| entry.path().join("bin/python3.13"));
    let mut candidates: Vec<PathBuf> = vec!["python3.13".into()];
    candidates.extend(kept);
    candidates.push("python3".into());
    candidates.into_iter().find(|python| {
        Command::new(python).args(["-c", "import ssl"]).output().is_ok_and(|out| out.status.success())
    })
}

#[tokio::test]
async fn strict_python_verifies_our_public_leaf() {
    // covers T24
    let python = python().expect(
        "no python3 with ssl found: install Python 3.13 (apt install python3, or pyenv install 3.13)",
    );
    // The one test that needs the time of day: Python has no other.
    #[allow(clippy::disallowed_methods)]
    let now = OffsetDateTime::from(std::time::SystemTime::now());
    let ca = Authority::create("trishula", now).unwrap();
    let (folder, certificate, key) = public_files(&ca, now);
    let (config, _) = https(&certificate, &key, ClientCertificates::Unasked, now).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = async {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            // Python's verdict is what counts; a handshake that it broke off is an error here too.
            if let Ok(mut tls) = acceptor.accept(tcp).await {
                let _ = tokio::io::AsyncWriteExt::write_all(&mut tls, b"x").await;
                let _ = tokio::io::AsyncWriteExt::shutdown(&mut tls).await;
            }
        }
    };
    let ask = tokio::process::Command::new(python)
        .args(["-c", PYTHON_CLIENT])
        .arg(folder.path().join("ca.pem"))
        .arg(port.to_string())
        .output();
    let answer = tokio::select! { answer = ask => answer.unwrap(), () = serve => unreachable!() };
    let (said, why) = (String::from_utf8_lossy(&answer.stdout), String::from_utf8_lossy(&answer.stderr));
    assert!(answer.status.success(), "{why}");
    assert_eq!(said.lines().count(), 2, "{said}");
}
