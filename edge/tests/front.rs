//! What stands between a connection and its session: pages and their headers, plain health, TLS, certificates of clients,
//! HTTP/2, and a stop with many clients.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use support::{Client, Machine, World, soon, token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use trishula::identity::profile::Request as Ask;
use trishula::identity::{self, tls};
use trishula::rt::clock;
use trishula::wire::ids::{AgentAddr, AgentName, Namespace, NodeName};

/// Sends bytes without TLS, and answers all that comes back.
async fn plain(at: SocketAddr, request: &str) -> String {
    let mut socket = TcpStream::connect(at).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // One that is thrown out may see a reset.
    let _ = soon(socket.read_to_end(&mut answer)).await;
    String::from_utf8(answer).unwrap()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

fn roots(pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    roots
}

fn builder(
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(tls::provider()).with_protocol_versions(versions).unwrap()
}

async fn connect(at: SocketAddr, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(at).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    soon(TlsConnector::from(Arc::new(config)).connect(name, tcp)).await
}

async fn websocket(stream: TlsStream<TcpStream>, path: &str) -> Result<Client, WsError> {
    let address = format!("wss://localhost{path}");
    let (socket, _) = soon(tokio_tungstenite::client_async(address, stream)).await?;
    Ok(Client { socket })
}

#[tokio::test]
async fn pages_carry_security_headers_and_ready_says_whether_to_come() {
    // covers B10, B20, T20
    let mut world = World::start().await;
    let _dc = world.registered("dc").await;
    for path in ["/health", "/ready", "/nowhere", "/ws"] {
        let (_, head, _) = world.get(&get(path)).await;
        for header in [
            "strict-transport-security: max-age=31536000",
            "x-frame-options: deny",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
        ] {
            assert!(head.contains(header), "{path}: {header} is missing in {head}");
        }
    }
    let (status, _, ready) = world.get(&get("/ready")).await;
    assert_eq!((status, &ready["status"]), (200, &json!("ready")));
    for key in ["status", "server", "timestamp", "uptime", "connected_agents"] {
        assert!(!ready[key].is_null(), "{key}: {ready}");
    }
    assert_eq!(ready["checks"]["redis"], "disabled");
    assert_eq!(ready["checks"]["metrics"], "passing");
    // As HAProxy asks, and as `curl -I` does.
    for request in
        ["GET /health HTTP/1.0\r\n\r\n", "HEAD /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"]
    {
        let (status, head, _) = world.get(request).await;
        assert_eq!(status, 200, "{head}");
    }
    world.disconnect(1).await;
    let (status, _, ready) = world.get(&get("/ready")).await;
    assert_eq!(
        (status, &ready["status"], &ready["checks"]["node"]),
        (503, &json!("unready"), &json!("failing"))
    );
}

#[tokio::test]
async fn health_is_told_over_a_websocket_too() {
    // covers T20
    let world = World::start().await;
    let (mut client, _) = world.upgrade("/health", &[]).await.unwrap();
    let health = client.hear().await;
    assert_eq!(health["status"], "healthy");
    for key in ["timestamp", "connected_agents", "uptime"] {
        assert!(!health[key].is_null(), "{health}");
    }
    assert_eq!(client.closed().await.0, 1000);
}

#[tokio::test]
async fn this_machine_asks_for_health_without_tls_and_for_nothing_else() {
    // covers B10, B20
    let world = World::start().await;
    // What the check scripts of old send: curl, and HAProxy's httpchk.
    let curl = "GET /health HTTP/1.1\r\nHost: localhost:8765\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\nConnection: close\r\n\r\n";
    for request in [curl, "GET /health HTTP/1.0\r\n\r\n"] {
        let answer = plain(world.address(), request).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 ") && !head.to_ascii_lowercase().contains("strict-transport"), "{head}");
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["status"], "healthy");
    }
    let upgrade = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    assert!(plain(world.address(), upgrade).await.starts_with("HTTP/1.1 403 "));
    assert!(plain(world.address(), &get("/metrics")).await.starts_with("HTTP/1.1 403 "));
    let silent = World::start_with("http = { plain_health = false }").await;
    assert!(!plain(silent.address(), curl).await.contains("healthy"));
    // TLS goes on beside it.
    assert_eq!(silent.get(&get("/health")).await.0, 200);
}

#[tokio::test]
async fn a_service_without_tls() {
    // covers B02
    let world = World::start_with("tls = false").await;
    let answer = plain(world.address(), &get("/health")).await;
    assert!(
        answer.contains(" 200 ") && !answer.to_ascii_lowercase().contains("strict-transport"),
        "{answer}"
    );
    let tcp = TcpStream::connect(world.address()).await.unwrap();
    let address = format!("ws://localhost/ws?token={}", token("dc"));
    let (mut socket, _) = soon(tokio_tungstenite::client_async(address, tcp)).await.unwrap();
    socket.send(Message::text(r#"{"type":"REGISTER"}"#)).await.unwrap();
    let Some(Ok(Message::Text(text))) = soon(socket.next()).await else { panic!("no answer") };
    assert!(text.contains("REGISTERED"), "{text}");
}

#[tokio::test]
async fn pages_of_other_origins_may_not_connect() {
    // covers B10, B17
    let world = World::start_with("http = { origins = [\"https://*.example.com\"] }").await;
    let bearer = format!("Bearer {}", token("dc"));
    let with = |origin: &'static str| [("authorization", bearer.as_str()), ("origin", origin)];
    assert!(world.upgrade("/ws", &with("https://app.example.com")).await.is_ok());
    assert!(world.upgrade("/ws", &[("authorization", &bearer)]).await.is_ok(), "no browser");
    let Err(WsError::Http(answer)) = world.upgrade("/ws", &with("https://evil.example.net")).await else {
        panic!("not refused")
    };
    assert_eq!(answer.status(), 403);
    let metrics = plain(world.edge.metrics_address().unwrap(), &get("/metrics")).await;
    let counted =
        metrics.lines().find_map(|l| l.strip_prefix("trishula_edge_refused_total{reason=\"origin\"} "));
    assert_eq!(counted, Some("1"), "{metrics}");
}

#[tokio::test]
async fn metrics_only_for_whom_the_operator_lets_in() {
    // covers B18
    let machine = Machine::new();
    machine.configure("");
    let text = std::fs::read_to_string(machine.path()).unwrap();
    let text = text.replace("[metrics]\n", "[metrics]\nallow = [\"192.0.2.0/24\"]\n");
    std::fs::write(machine.path(), text).unwrap();
    let world = World::start_loaded(machine);
    assert_eq!(plain(world.edge.metrics_address().unwrap(), &get("/metrics")).await, "");
    let open = World::start_alone("");
    let address = open.edge.metrics_address().unwrap();
    assert!(
        plain(address, &get("/metrics")).await.contains("trishula_edge_refused_total{reason=\"address\"}")
    );
    // Only the command reloads, and a page in a browser can't send its header.
    assert!(plain(address, &get("/reload")).await.contains(" 405 "));
    let post = "POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert!(plain(address, post).await.contains(" 405 "));
}

#[tokio::test]
async fn tls_is_1_2_or_1_3_with_strong_suites() {
    // covers B10, B27 09
    let world = World::start().await;
    let pem = world.machine.ca.certificate_pem().to_owned();
    for (versions, expected) in [
        (&[&rustls::version::TLS12][..], rustls::ProtocolVersion::TLSv1_2),
        (&[&rustls::version::TLS13][..], rustls::ProtocolVersion::TLSv1_3),
    ] {
        let config = builder(versions).with_root_certificates(roots(&pem)).with_no_client_auth();
        let stream = connect(world.address(), config).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(expected));
    }
    // What rustls can't even say, OpenSSL says.
    let openssl = |args: &'static [&'static str]| {
        let at = world.address().to_string();
        tokio::task::spawn_blocking(move || {
            let mut client = Command::new("openssl");
            client.args(["s_client", "-connect", &at, "-servername", "localhost"]).args(args);
            let output =
                client.stdin(std::process::Stdio::null()).output().expect("tests/run.sh: openssl is missing");
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    };
    let agreed = |text: &str, cipher: &str| text.contains(&format!("Cipher is {cipher}"));
    for cipher in
        ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"]
    {
        let text = match cipher {
            "ECDHE-ECDSA-AES128-GCM-SHA256" => {
                openssl(&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"])
            }
            "ECDHE-ECDSA-AES256-GCM-SHA384" => {
                openssl(&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"])
            }
            _ => openssl(&["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"]),
        };
        let text = soon(text).await.unwrap();
        assert!(agreed(&text, cipher), "{cipher}: {text}");
    }
    for refused in [
        &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"][..],
        &["-tls1", "-cipher", "ALL:@SECLEVEL=0"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384:@SECLEVEL=0"],
        &["-tls1_2", "-cipher", "AES128-GCM-SHA256:AES256-SHA:aNULL:eNULL:@SECLEVEL=0"],
    ] {
        let text = soon(openssl(refused)).await.unwrap();
        assert!(agreed(&text, "(NONE)"), "{refused:?}: {text}");
    }
}

/// Puts a certificate for an agent of a namespace beside the configuration, and makes a client's TLS of it.
fn certified(machine: &Machine, namespace: &str, agent: &str) -> ClientConfig {
    let address = AgentAddr::new(Namespace::new(namespace).unwrap(), AgentName::new(agent).unwrap());
    let issued = machine.ca.issue(&Ask::link(identity::Role::Agent(address)), clock::wall().into()).unwrap();
    let chain = CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    builder(rustls::ALL_VERSIONS)
        .with_root_certificates(roots(machine.ca.certificate_pem()))
        .with_client_auth_cert(chain, key)
        .unwrap()
}

#[tokio::test]
async fn a_certificate_in_place_of_a_token() {
    // covers B14
    let more = "ca_file = \"id/ca.pem\"\nclient_identity = { agents = [\"worker-*\"] }";
    let world = World::start_with(more).await;
    let stream = connect(world.address(), certified(&world.machine, "trishula", "indexer")).await.unwrap();
    let mut indexer = websocket(stream, "/ws").await.unwrap();
    indexer.say(json!({"type": "REGISTER"})).await;
    let answer = indexer.hear().await;
    assert_eq!((&answer["type"], &answer["payload"]["agent"]), (&json!("REGISTERED"), &json!("indexer")));
    indexer.say(json!({"type": "REGISTER", "agent": "worker-1"})).await;
    assert_eq!(indexer.hear().await["payload"]["agent"], "worker-1");
    indexer.say(json!({"type": "REGISTER", "agent": "dc"})).await;
    assert_eq!(indexer.hear().await["payload"]["code"], "forbidden");
    // Who shows none still needs a token, and who shows one of another namespace is not let in at all.
    let mut nobody = world.upgrade("/ws", &[]).await.unwrap().0;
    nobody.say(json!({"type": "REGISTER"})).await;
    assert_eq!(nobody.hear().await["payload"]["code"], "unauthenticated");
    let stream = connect(world.address(), certified(&world.machine, "other", "indexer")).await.unwrap();
    assert!(websocket(stream, "/ws").await.is_err());
    let stranger = certified(&Machine::new(), "trishula", "indexer");
    let mut config = certified(&world.machine, "trishula", "x");
    config.client_auth_cert_resolver = stranger.client_auth_cert_resolver;
    let refused = match connect(world.address(), config).await {
        Ok(stream) => websocket(stream, "/ws").await.is_err(),
        Err(_) => true,
    };
    assert!(refused, "a certificate of another CA");
}

#[tokio::test]
async fn a_certificate_is_a_token_in_older_dialects_as_well() {
    // covers B14
    let machine = Machine::new();
    let config = machine.configure_services(
        "[[service]]\npreset = \"mahavishnu\"\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"secret\"\n\
         ca_file = \"id/ca.pem\"\nclient_identity = { permissions = [\"pool:read\"] }\n",
    );
    let mut world = World::start_on(machine, config);
    world.connect(1).await;
    let stream = connect(world.address(), certified(&world.machine, "mahavishnu", "indexer")).await.unwrap();
    let mut client = websocket(stream, "/").await.unwrap();
    let greeting = client.hear().await;
    assert_eq!(
        (&greeting["event"], &greeting["data"]["authenticated"]),
        (&json!("session.created"), &json!(true))
    );
    client
        .say(json!({"type": "request", "event": "subscribe", "data": {"channel": "pool:p"}, "id": "s"}))
        .await;
    assert_eq!(client.hear().await["status"], "subscribed");
}

#[tokio::test]
async fn the_echo_has_the_limits_of_its_service() {
    // covers B09
    let bearer = format!("Bearer {}", token("dc"));
    let headers = &[("authorization", bearer.as_str())][..];
    let world = World::start_with("echo = true\nmax_connections = 1\nmessage_rate_limit = 2").await;
    let mut client = world.upgrade("/echo", headers).await.unwrap().0;
    client.say(json!(1)).await;
    assert_eq!(client.hear().await, 1);
    match world.upgrade("/echo", headers).await {
        Err(WsError::Http(answer)) => assert_eq!(answer.status(), 503),
        _ => panic!("there was no room"),
    }
    for n in 0..4 {
        client.say(json!(n)).await;
    }
    assert_eq!(client.closed().await.0, 4029);
    let world = World::start_with("echo = true\nconnection_timeout_s = 1").await;
    let mut silent = world.upgrade("/echo", headers).await.unwrap().0;
    assert_eq!(silent.closed().await, (1001, "idle".into()));
}

#[tokio::test]
async fn an_address_has_only_so_many_connections_that_are_not_in_yet() {
    // covers B09, B19
    const AT_LEAST: usize = 64;
    // This machine itself has a limit only where the operator says so.
    let world = World::start_with("max_connections_per_address = 3\nhandshake_timeout_ms = 600000").await;
    let mut client = world.registered("dc").await;
    let mut half_open = Vec::new();
    for _ in 0..AT_LEAST {
        let mut socket = TcpStream::connect(world.address()).await.unwrap();
        // The beginning of a TLS record.
        socket.write_all(&[0x16, 3, 1]).await.unwrap();
        half_open.push(socket);
    }
    let mut more = TcpStream::connect(world.address()).await.unwrap();
    assert!(matches!(soon(more.read(&mut [0])).await, Ok(0) | Err(_)), "it is not even listened to");
    client.say(json!({"type": "REGISTER"})).await;
    assert_eq!(client.hear().await["type"], "REGISTERED", "who is in stays in");
    drop(half_open.pop());
    let at = clock::now();
    while connect(world.address(), no_certificate(&world.machine)).await.is_err() {
        assert!(clock::since(at) < Duration::from_secs(5), "there is a place again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let trusting = "max_connections_per_address = 3\nproxy = { trusted = [\"127.0.0.1\"] }";
    let world = World::start_with(trusting).await;
    let mut half_open = Vec::new();
    for _ in 0..=AT_LEAST {
        half_open.push(TcpStream::connect(world.address()).await.unwrap());
    }
    drop(world.tls().await);
}

fn no_certificate(machine: &Machine) -> ClientConfig {
    builder(rustls::ALL_VERSIONS)
        .with_root_certificates(roots(machine.ca.certificate_pem()))
        .with_no_client_auth()
}

#[tokio::test]
async fn only_clients_with_a_certificate() {
    // covers B14
    let world = World::start_with("ca_file = \"id/ca.pem\"\nverify_client = true").await;
    let config = builder(rustls::ALL_VERSIONS)
        .with_root_certificates(roots(world.machine.ca.certificate_pem()))
        .with_no_client_auth();
    // In TLS 1.3 a client hears of it after its own handshake.
    let refused = match connect(world.address(), config).await {
        Ok(mut stream) => {
            let _ = stream.write_all(get("/health").as_bytes()).await;
            let mut answer = Vec::new();
            let _ = soon(stream.read_to_end(&mut answer)).await;
            answer.is_empty()
        }
        Err(_) => true,
    };
    assert!(refused);
    let stream = connect(world.address(), certified(&world.machine, "trishula", "indexer")).await.unwrap();
    let mut indexer = websocket(stream, "/ws").await.unwrap();
    indexer.say(json!({"type": "REGISTER"})).await;
    assert_eq!(indexer.hear().await["payload"]["agent"], "indexer");
}

#[tokio::test]
async fn a_certificate_is_made_for_development() {
    // covers B02
    let world = World::start_with("auto_cert = true").await;
    let ca = world.machine.folder.path().join("auto-cert/trishula/ca.pem");
    let pem = std::fs::read_to_string(ca).unwrap();
    let config = builder(rustls::ALL_VERSIONS).with_root_certificates(roots(&pem)).with_no_client_auth();
    let stream = connect(world.address(), config).await.unwrap();
    let mut dc = websocket(stream, &format!("/ws?token={}", token("dc"))).await.unwrap();
    dc.say(json!({"type": "REGISTER"})).await;
    assert_eq!(dc.hear().await["type"], "REGISTERED");
}

fn put_certificate(machine: &Machine) -> CertificateDer<'static> {
    let role = identity::Role::Edge(NodeName::new("agni").unwrap());
    let ask = Ask::public(role, vec!["localhost".into()], Vec::new());
    let issued = machine.ca.issue(&ask, clock::wall().into()).unwrap();
    let put = |name: &str, text: &str| {
        let path = machine.folder.path().join("id").join(name);
        identity::files::write(Path::new(&path), text.as_bytes(), identity::files::Access::Private).unwrap();
    };
    put("public.key", &issued.key_pem);
    put("public.pem", &issued.chain_pem);
    CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap()
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_and_nobody_is_dropped() {
    // covers B11, T24
    let world = World::start().await;
    let mut dc = world.registered("dc").await;
    let new = put_certificate(&world.machine);
    let shown = async {
        loop {
            let stream = world.tls().await;
            if stream.get_ref().1.peer_certificates().unwrap()[0] == new {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon(shown).await;
    dc.say(json!({"type": "STATUS", "to": "dc", "payload": 1})).await;
    assert_eq!(dc.hear().await["payload"], 1);
}

#[tokio::test]
async fn websockets_over_http_2() {
    // covers B10
    let mut world = World::start().await;
    let mut config = builder(rustls::ALL_VERSIONS)
        .with_root_certificates(roots(world.machine.ca.certificate_pem()))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = connect(world.address(), config.clone()).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let page = Request::get("https://localhost/health").body(Empty::<&[u8]>::new()).unwrap();
    let answer = soon(send.send_request(page)).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.headers().contains_key("strict-transport-security"));
    let body = soon(answer.into_body().collect()).await.unwrap().to_bytes();
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["status"], "healthy");
    // Two agents on one connection, and their messages.
    let mut sockets = Vec::new();
    for agent in ["dc", "agni"] {
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .uri("https://localhost/ws")
            .header("sec-websocket-version", "13")
            .header("authorization", format!("Bearer {}", token(agent)))
            .body(Empty::<&[u8]>::new())
            .unwrap();
        request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
        let answer = soon(send.send_request(request)).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(!answer.headers().contains_key("sec-websocket-accept"));
        let io = TokioIo::new(soon(hyper::upgrade::on(answer)).await.unwrap());
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
        socket.send(Message::text(r#"{"type":"REGISTER"}"#)).await.unwrap();
        let Some(Ok(Message::Text(text))) = soon(socket.next()).await else { panic!("no answer") };
        assert!(text.contains("REGISTERED"), "{text}");
        sockets.push(socket);
    }
    let said = json!({"type": "STATUS", "to": "agni", "payload": "x".repeat(200_000)}).to_string();
    sockets[0].send(Message::text(said)).await.unwrap();
    let heard = loop {
        match soon(sockets[1].next()).await {
            Some(Ok(Message::Text(text))) => break text,
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(serde_json::from_str::<Value>(&heard).unwrap()["from"], "dc");
    // A wrong token is refused on its stream, and the connection goes on.
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri("https://localhost/ws?token=nonsense")
        .header("sec-websocket-version", "13")
        .body(Empty::<&[u8]>::new())
        .unwrap();
    request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
    assert_eq!(soon(send.send_request(request)).await.unwrap().status(), 401);
    // Whoever offers only HTTP/1.1, as browsers do for a WebSocket, gets it.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = connect(world.address(), config).await.unwrap();
    let mut third = websocket(stream, &format!("/ws?token={}", token("third"))).await.unwrap();
    third.say(json!({"type": "REGISTER"})).await;
    assert_eq!(third.hear().await["type"], "REGISTERED");
    // A stop tells each stream, and ends the connection.
    let edge = std::mem::replace(&mut world.edge, World::start_alone("").edge);
    let stop = tokio::spawn(async move { edge.stop(Duration::from_secs(5)).await });
    for socket in &mut sockets {
        let code = loop {
            match soon(socket.next()).await {
                Some(Ok(Message::Close(Some(frame)))) => break u16::from(frame.code),
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(code, 1012);
    }
    drop((sockets, send));
    soon(stop).await.unwrap();
    let _ = soon(connection).await.unwrap();
}

#[tokio::test]
async fn a_service_may_be_without_http_2() {
    // covers B10
    let world = World::start_with("http = { http2 = false }").await;
    let mut config = builder(rustls::ALL_VERSIONS)
        .with_root_certificates(roots(world.machine.ca.certificate_pem()))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = connect(world.address(), config).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn many_clients_of_a_stop_come_back_one_after_the_other() {
    // covers B12, B27 11
    let world = World::start().await;
    let mut clients = Vec::new();
    for n in 0..60 {
        clients.push(world.registered(&format!("agent-{n}")).await);
    }
    let stop = world.edge.stop(Duration::from_secs(5));
    let told = async {
        let mut told = Vec::new();
        for client in &mut clients {
            let (code, reason) = client.closed().await;
            assert_eq!(code, 1012);
            told.push(reason.strip_prefix("retry_after_ms=").unwrap().parse::<u64>().unwrap());
        }
        told
    };
    let (mut told, ()) = tokio::join!(told, soon(stop));
    told.sort_unstable();
    println!("told to come back after: {told:?} ms");
    assert!(told[0] >= 500 && told[59] <= 3000);
    // By chance all over the 2.5 s: no half second without anybody, none with half of them.
    for slot in 0..5 {
        let (from, to) = (500 + slot * 500, 1000 + slot * 500);
        let here = told.iter().filter(|ms| (from..to + u64::from(slot == 4)).contains(ms)).count();
        assert!((1..30).contains(&here), "{here} of 60 from {from} to {to} ms: {told:?}");
    }
}
