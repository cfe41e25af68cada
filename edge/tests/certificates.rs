//! Certificates of clients: whom they name where services share a port, and CAs and revocation lists that change while the
//! edge runs; and handshakes for one host with requests for another.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use http_body_util::Empty;
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use support::{Client, Machine, SECRET, World, signed, soon};
use time::{Duration, OffsetDateTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use trishula::identity::profile::Request as Ask;
use trishula::identity::{self, tls};
use trishula::rt::clock;
use trishula::wire::ids::NodeName;

/// What the edge's own certificate is good for.
const NAMES: [&str; 4] = ["localhost", "one.example.com", "two.example.com", "three.example.com"];

/// A CA of clients.
struct Clients(CertifiedIssuer<'static, KeyPair>);

impl Clients {
    fn new(name: &str) -> Clients {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Clients(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A client of an edge on this machine that shows a certificate with this number, of an agent.
    fn client(&self, machine: &Machine, number: u64, namespace: &str, agent: &str) -> ClientConfig {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let name = format!("trishula://agent/{namespace}/{agent}");
        params.serial_number = Some(SerialNumber::from(number));
        params.subject_alt_names = vec![SanType::URI(name.try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &*self.0).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        trusting(machine).with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
    }

    /// Its list that ends after so long, in which certificates with these numbers are taken back.
    fn list(&self, taken_back: &[u64], life: Duration) -> String {
        let now = OffsetDateTime::from(clock::wall());
        let revoked = taken_back.iter().map(|number| RevokedCertParams {
            serial_number: SerialNumber::from(*number),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: now - Duration::days(10),
            next_update: now + life,
            crl_number: SerialNumber::from(now.unix_timestamp().unsigned_abs()),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&*self.0).unwrap().pem().unwrap()
    }
}

fn trusting(machine: &Machine) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(machine.ca.certificate().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(tls::provider());
    config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots)
}

/// Puts a file of the machine in place of the one that is there, at once, as one should.
fn put(machine: &Machine, name: &str, text: &str) {
    let path = machine.folder.path().join(name);
    identity::files::write(&path, text.as_bytes(), identity::files::Access::Private).unwrap();
}

/// A machine that has a certificate for all names, and this CA of clients.
fn machine(clients: &Clients) -> Machine {
    let machine = Machine::new();
    let role = identity::Role::Edge(NodeName::new("agni").unwrap());
    let names = NAMES.map(str::to_owned).to_vec();
    let ask = Ask::public(role, names, vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    let issued = machine.ca.issue(&ask, clock::wall().into()).unwrap();
    put(&machine, "id/public.key", &issued.key_pem);
    put(&machine, "id/public.pem", &issued.chain_pem);
    put(&machine, "clients.pem", &clients.0.pem());
    machine
}

/// An edge with these services, and a node behind it.
async fn serving(machine: Machine, services: &str) -> World {
    let config = machine.configure_services(services);
    let mut world = World::start_on(machine, config);
    world.connect(1).await;
    world
}

/// A port that is free now.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Comes in with a handshake for one host and a request for another; else answers the status, or `None` where not even the
/// handshake went well.
async fn enter(at: SocketAddr, sni: &str, host: &str, config: &ClientConfig) -> Result<Client, Option<u16>> {
    let tcp = TcpStream::connect(at).await.unwrap();
    let name = ServerName::try_from(sni.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(config.clone()));
    let Ok(stream) = soon(connector.connect(name, tcp)).await else { return Err(None) };
    let request = format!("wss://{host}/ws").into_client_request().unwrap();
    match soon(tokio_tungstenite::client_async(request, stream)).await {
        Ok((socket, _)) => Ok(Client { socket }),
        Err(WsError::Http(answer)) => Err(Some(answer.status().as_u16())),
        // In TLS 1.3 a client hears of a refusal only after its own handshake.
        Err(_) => Err(None),
    }
}

/// Registers, and answers as whom, or why not.
async fn registers(client: &mut Client, agent: Option<&str>) -> String {
    let mut frame = json!({"type": "REGISTER"});
    if let Some(agent) = agent {
        frame["agent"] = agent.into();
    }
    client.say(frame).await;
    let payload = client.hear().await["payload"].take();
    let word = payload["agent"].as_str().or(payload["code"].as_str());
    word.unwrap_or_else(|| panic!("{payload}")).to_owned()
}

#[tokio::test]
async fn where_services_share_a_port_the_one_that_is_meant_says_whom_a_certificate_names() {
    // covers B14, B01
    let (at, clients) = (free_port(), Clients::new("clients"));
    let machine = machine(&clients);
    let service = |name: &str, more: &str| {
        format!(
            "[[service]]\nname = \"{name}\"\nlisten = [\"{at}\"]\nsecret_file = \"secret\"\nca_file = \"clients.pem\"\n\
             names = [\"{name}.example.com\"]\n{more}\n"
        )
    };
    let one = clients.client(&machine, 1, "one", "indexer");
    let two = clients.client(&machine, 2, "two", "indexer");
    let services = service("one", "") + &service("two", "client_identity = { agents = [\"worker-*\"] }");
    let _world = serving(machine, &services).await;
    for (config, sni, host, worker) in [
        (&one, "one.example.com", "one.example.com", "forbidden"),
        (&two, "two.example.com", "two.example.com", "worker-1"),
        (&two, "127.0.0.1", "two.example.com", "worker-1"),
    ] {
        let mut client = enter(at, sni, host, config).await.unwrap_or_else(|why| panic!("{host}: {why:?}"));
        assert_eq!(registers(&mut client, None).await, "indexer", "{sni} {host}");
        assert_eq!(registers(&mut client, Some("worker-1")).await, worker, "{sni} {host}");
    }
    // At the other one each is a stranger.
    for (config, host) in [(&two, "one.example.com"), (&one, "two.example.com")] {
        assert_eq!(enter(at, host, host, config).await.err(), Some(Some(403)), "{host}");
    }
}

#[tokio::test]
async fn a_service_that_is_told_by_the_first_frame_says_whom_a_certificate_names() {
    // covers B14, B01
    let (at, clients) = (free_port(), Clients::new("clients"));
    let machine = machine(&clients);
    let service = |preset: &str, more: &str| {
        format!(
            "[[service]]\npreset = \"{preset}\"\nlisten = [\"{at}\"]\nsecret_file = \"secret\"\nca_file = \"clients.pem\"\n{more}\n"
        )
    };
    let theirs = clients.client(&machine, 1, "mahavishnu", "indexer");
    let ours = clients.client(&machine, 2, "trishula", "dc");
    let services = service("trishula", "")
        + &service("mahavishnu", "client_identity = { permissions = [\"pool:read\"] }");
    let _world = serving(machine, &services).await;
    let subscribe =
        json!({"type": "request", "event": "subscribe", "data": {"channel": "pool:p"}, "id": "s"});
    let mut client = enter(at, "localhost", "localhost", &theirs).await.ok().unwrap();
    client.say(subscribe.clone()).await;
    let greeting = client.hear().await;
    assert_eq!(
        (&greeting["event"], &greeting["data"]["authenticated"]),
        (&json!("session.created"), &json!(true))
    );
    assert_eq!(client.hear().await["status"], "subscribed");
    let mut client = enter(at, "localhost", "localhost", &ours).await.ok().unwrap();
    assert_eq!(registers(&mut client, None).await, "dc");
    // Somebody of the one that means the other.
    let mut client = enter(at, "localhost", "localhost", &ours).await.ok().unwrap();
    client.say(subscribe).await;
    assert_eq!(client.closed().await.0, 1008);
    let mut client = enter(at, "localhost", "localhost", &theirs).await.ok().unwrap();
    client.say(json!({"type": "REGISTER"})).await;
    assert_eq!(client.closed().await.0, 4403);
}

/// The edge looks at its files every two seconds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

/// How often whose certificates a service takes was read again, by outcome.
fn reread(service: &str, outcome: &str) -> u64 {
    trishula::metrics::CERTIFICATE_RELOADS.with_label_values(&[service, outcome]).get()
}

#[tokio::test]
async fn another_ca_of_clients_counts_by_itself_and_a_broken_file_changes_nothing() {
    // covers B11, B14
    let (old, new) = (Clients::new("old"), Clients::new("new"));
    let machine = machine(&old);
    let of_old = old.client(&machine, 1, "cas", "indexer");
    let of_new = new.client(&machine, 1, "cas", "indexer");
    let services = "[[service]]\nname = \"cas\"\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"secret\"\n\
                    ca_file = \"clients.pem\"\nverify_client = true\n";
    let world = serving(machine, services).await;
    let comes_in = async |config| enter(world.address(), "localhost", "localhost", config).await.is_ok();
    let mut before = enter(world.address(), "localhost", "localhost", &of_old).await.ok().unwrap();
    assert_eq!(registers(&mut before, None).await, "indexer");
    assert!(!comes_in(&of_new).await);
    put(&world.machine, "clients.pem", &new.0.pem());
    until("the new CA counts", async || comes_in(&of_new).await).await;
    assert!(!comes_in(&of_old).await, "the old one counts no more");
    assert!(reread("cas", "ok") >= 1);
    put(&world.machine, "clients.pem", "no certificate\n");
    until("the broken file is noticed", async || reread("cas", "refused") > 0).await;
    assert!(comes_in(&of_new).await, "what was in force stays");
    before.say(json!({"type": "HEARTBEAT", "id": "h"})).await;
    assert_eq!(before.hear().await["reply_to"], "h", "who was in stays in");
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_in_the_handshake_and_lists_are_taken_by_themselves() {
    // covers B11, B14, B17
    let (clients, day) = (Clients::new("clients"), Duration::days(1));
    let machine = machine(&clients);
    let good = clients.client(&machine, 1, "lists", "good");
    let bad = clients.client(&machine, 2, "lists", "bad");
    put(&machine, "revoked.pem", &clients.list(&[], day));
    let services = "[[service]]\nname = \"lists\"\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"secret\"\n\
                    ca_file = \"clients.pem\"\ncrl_file = \"revoked.pem\"\n";
    let world = serving(machine, services).await;
    let comes_in = async |config| enter(world.address(), "localhost", "localhost", config).await;
    let (mut still, mut no_more) = (comes_in(&good).await.unwrap(), comes_in(&bad).await.unwrap());
    // Looked at when a sign of life is due at the latest.
    for (client, heartbeat_ms) in [(&mut still, 600_000), (&mut no_more, 5_000)] {
        client.say(json!({"type": "REGISTER", "payload": {"heartbeat_ms": heartbeat_ms}})).await;
        assert_eq!(client.hear().await["type"], "REGISTERED", "nobody is revoked");
    }
    let before = trishula::metrics::EDGE_REFUSED.with_label_values(&["certificate"]).get();
    put(&world.machine, "revoked.pem", &clients.list(&[2, 7], day));
    until("it is refused", async || comes_in(&bad).await.err() == Some(None)).await;
    // Who was in by it is out, and who was in by another is not.
    let within = std::time::Duration::from_secs(60);
    let (code, why) = tokio::time::timeout(within, no_more.closed()).await.expect("it is closed");
    assert_eq!((code, why.contains("certificate")), (4401, true), "{why}");
    still.say(json!({"type": "HEARTBEAT", "id": "h-1"})).await;
    assert_eq!(still.hear().await["reply_to"], "h-1");
    assert!(comes_in(&good).await.is_ok());
    assert!(trishula::metrics::EDGE_REFUSED.with_label_values(&["certificate"]).get() > before);
    // What can't be taken changes nothing: no list at all, one that has ended, one of somebody else with the same name.
    let forged = Clients::new("clients").list(&[], day);
    for text in ["no list\n", &clients.list(&[], -day), &forged] {
        let refused = reread("lists", "refused");
        put(&world.machine, "revoked.pem", text);
        until("it is noticed", async || reread("lists", "refused") > refused).await;
        assert_eq!(comes_in(&bad).await.err(), Some(None));
        assert!(comes_in(&good).await.is_ok());
    }
    put(&world.machine, "revoked.pem", &clients.list(&[], day));
    until("it is good again", async || comes_in(&bad).await.is_ok()).await;
}

/// Three services on a port, by name; the second lets nobody in without a certificate.
fn three(at: SocketAddr) -> String {
    let service = |name: &str, more: &str| {
        format!(
            "[[service]]\nname = \"{name}\"\nlisten = [\"{at}\"]\nsecret_file = \"secret\"\n\
             names = [\"{name}.example.com\"]\n{more}\n"
        )
    };
    service("one", "")
        + &service("two", "ca_file = \"clients.pem\"\nverify_client = true")
        + &service("three", "")
}

#[tokio::test]
async fn a_handshake_with_one_service_is_none_with_another_that_asks_for_certificates() {
    // covers B01, B10, B14
    let (at, clients) = (free_port(), Clients::new("clients"));
    let machine = machine(&clients);
    let nobody = trusting(&machine).with_no_client_auth();
    let known = clients.client(&machine, 1, "two", "indexer");
    let _world = serving(machine, &three(at)).await;
    let [one, two, three] = ["one.example.com", "two.example.com", "three.example.com"];
    assert_eq!(enter(at, two, two, &nobody).await.err(), Some(None), "without a certificate");
    let mut client = enter(at, two, two, &known).await.ok().unwrap();
    assert_eq!(registers(&mut client, None).await, "indexer");
    for (sni, host) in [(one, two), ("127.0.0.1", two)] {
        assert_eq!(enter(at, sni, host, &nobody).await.err(), Some(Some(421)), "{sni} {host}");
        assert_eq!(
            enter(at, sni, host, &known).await.err(),
            Some(Some(421)),
            "{sni} {host}: nobody asked for it"
        );
    }
    assert_eq!(enter(at, two, one, &known).await.err(), Some(Some(421)));
    // Where both ask for the same, the request says which is meant, and a host that is nobody's says nothing.
    for (sni, host, namespace) in [
        (one, three, "three"),
        (three, one, "one"),
        (one, one, "one"),
        (three, "elsewhere.example.com", "three"),
    ] {
        let mut client = enter(at, sni, host, &nobody).await.ok().unwrap();
        let claims = json!({"sub": "dc", "exp": clock::wall_ms() / 1000 + 600});
        client.say(json!({"type": "auth", "token": signed(SECRET, claims)})).await;
        assert_eq!(client.hear().await["payload"]["namespace"], namespace, "{sni} {host}");
    }
}

#[tokio::test]
async fn a_connection_of_http_2_is_for_hosts_that_ask_for_the_same() {
    // covers B01, B10, B14
    let (at, clients) = (free_port(), Clients::new("clients"));
    let machine = machine(&clients);
    let mut config = trusting(&machine).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let _world = serving(machine, &three(at)).await;
    let tcp = TcpStream::connect(at).await.unwrap();
    let name = ServerName::try_from("one.example.com").unwrap();
    let stream = soon(TlsConnector::from(Arc::new(config)).connect(name, tcp)).await.unwrap();
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    for (host, status) in [("one", 200), ("two", 421), ("three", 200), ("one", 200)] {
        let request = Request::get(format!("https://{host}.example.com/health"));
        let answer = soon(send.send_request(request.body(Empty::<&[u8]>::new()).unwrap())).await.unwrap();
        assert_eq!(answer.status(), status, "{host}");
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .uri(format!("https://{host}.example.com/ws"))
            .header("sec-websocket-version", "13")
            .body(Empty::<&[u8]>::new())
            .unwrap();
        request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
        assert_eq!(soon(send.send_request(request)).await.unwrap().status(), status, "{host}");
    }
    drop(send);
    connection.abort();
}
