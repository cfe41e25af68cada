//! The program as its operator meets it: signals, `trishula-edge reload`, a restart on the same port, and what it believes of
//! proxies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use support::{Machine, PATIENCE, list_pem, soon, token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use trishula::identity::Role;
use trishula::identity::profile::Request;
use trishula::wire::ids::{AgentAddr, AgentName, Namespace};

/// An edge as a process, without a node: `/echo` needs none.
struct Process {
    machine: Machine,
    at: SocketAddr,
    metrics: SocketAddr,
    child: Child,
    log: mpsc::Receiver<String>,
}

/// A port that is free just now.
fn port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Process {
    /// `more` goes to the end of its one service.
    fn start(more: &str) -> Process {
        Process::start_on(Machine::new(), more)
    }

    /// The same, on a machine with more files.
    fn start_on(machine: Machine, more: &str) -> Process {
        let at = SocketAddr::from(([127, 0, 0, 1], port()));
        let metrics = SocketAddr::from(([127, 0, 0, 1], port()));
        write(&machine, at, metrics, more);
        let (child, log) = spawn(&machine);
        let mut process = Process { machine, at, metrics, child, log };
        process.says("listening");
        process
    }

    fn configure(&self, more: &str) {
        write(&self.machine, self.at, self.metrics, more);
    }

    /// Waits for a line of the log, and answers it.
    fn says(&mut self, words: &str) -> String {
        let until = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.log.recv_timeout(left) {
                Ok(line) if line.contains(words) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("{words:?} was not said; this was: {seen:#?}"),
            }
        }
    }

    fn signal(&self, name: &str) {
        let kill = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(kill.success());
    }

    fn reload(&self) -> Output {
        let mut reload = Command::new(env!("CARGO_BIN_EXE_trishula-edge"));
        reload.args(["reload", "--config"]).arg(self.machine.path()).output().unwrap()
    }

    async fn echo(&self, headers: &[(&'static str, &str)]) -> Result<Echo, WsError> {
        let tls = self.machine.tls(self.at).await;
        upgrade(tls, headers).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write(machine: &Machine, at: SocketAddr, metrics: SocketAddr, more: &str) {
    let text = format!(
        "[identity]\ndir = \"id\"\n[uplink]\nnodes = [\"unix:nowhere.sock\"]\n[metrics]\nlisten = \"{metrics}\"\n\
         [[service]]\nname = \"trishula\"\nlisten = [\"{at}\"]\nsecret_file = \"secret\"\necho = true\n{more}\n"
    );
    // As editors and deployments do it: the file is there as a whole or not at all.
    let beside = machine.folder.path().join("edge.toml.new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, machine.path()).unwrap();
}

fn spawn(machine: &Machine) -> (Child, mpsc::Receiver<String>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_trishula-edge"))
        .args(["run", "--config"])
        .arg(machine.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (sender, log) = mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    (child, log)
}

/// A client of the echo.
struct Echo(WebSocketStream<TlsStream<TcpStream>>);

async fn upgrade(tls: TlsStream<TcpStream>, headers: &[(&'static str, &str)]) -> Result<Echo, WsError> {
    let mut request = "wss://localhost/echo".into_client_request().unwrap();
    let bearer = format!("Bearer {}", token("dc"));
    for (name, value) in headers.iter().copied().chain([("authorization", bearer.as_str())]) {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    soon(tokio_tungstenite::client_async(request, tls)).await.map(|(socket, _)| Echo(socket))
}

impl Echo {
    async fn answers(&mut self) {
        soon(self.0.send(Message::text("x"))).await.unwrap();
        let answer = soon(self.0.next()).await.unwrap().unwrap();
        assert_eq!(answer, Message::text("x"));
    }

    async fn closed(&mut self) -> u16 {
        loop {
            match soon(self.0.next()).await {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

const ORIGINS: &str = "http = { origins = [\"https://example.com\"] }";
const EVIL: &[(&str, &str)] = &[("origin", "https://evil.example.net")];

fn refused(outcome: Result<Echo, WsError>) -> u16 {
    match outcome {
        Err(WsError::Http(answer)) => answer.status().as_u16(),
        Err(other) => panic!("{other}"),
        Ok(_) => 101,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_takes_another_configuration_and_nobody_is_dropped() {
    // covers B11, B29
    let mut edge = Process::start("");
    let mut before = edge.echo(EVIL).await.unwrap();
    edge.configure(ORIGINS);
    edge.signal("HUP");
    let said = edge.says("the configuration was read again");
    assert!(said.contains("service trishula: http.origins: the default -> "), "{said}");
    assert_eq!(refused(edge.echo(EVIL).await), 403);
    before.answers().await;
    // Again, with nothing to take.
    edge.signal("HUP");
    edge.signal("HUP");
    assert_eq!(refused(edge.echo(EVIL).await), 403);
    assert!(edge.child.try_wait().unwrap().is_none(), "it runs on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_taken_by_itself_and_a_bad_one_is_not() {
    // covers B29
    let mut edge = Process::start("");
    edge.configure("max_frmae = 1");
    let said = edge.says("the configuration stays as it was");
    assert!(said.contains("max_frmae"), "{said}");
    edge.echo(EVIL).await.unwrap().answers().await;
    edge.configure(ORIGINS);
    edge.says("the configuration was read again");
    assert_eq!(refused(edge.echo(EVIL).await), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_what_changed_and_refuses_what_can_not() {
    // covers B29
    let mut edge = Process::start("");
    let text = |output: &Output| {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let output = edge.reload();
    assert!(output.status.success() && text(&output).contains("nothing has changed"), "{}", text(&output));
    // Its log goes on in the new level.
    edge.configure(&format!("{ORIGINS}\n[log]\nlevel = \"debug\""));
    let output = edge.reload();
    let said = text(&output);
    // The file's own change may have been seen first.
    let taken = said.contains("log.level: the default -> \"debug\"") || said.contains("nothing has changed");
    assert!(output.status.success() && taken, "{said}");
    assert_eq!(refused(edge.echo(EVIL).await), 403);
    drop(TcpStream::connect(edge.at).await.unwrap());
    edge.says("the TLS handshake failed");
    for (more, code, says) in [
        ("max_connections = 5", 1, "service trishula: max_connections: the default -> 5: who has come in"),
        ("[edge]\nthreads = 2", 1, "edge.threads: the default -> 2: counts for the whole process"),
        ("[[service]]\nname = \"other\"\nsecret_file = \"secret\"", 1, "service other: name"),
        ("cert = \"nowhere.pem\"\nkey = \"nowhere.key\"", 64, "nowhere.pem"),
    ] {
        edge.configure(&format!("{ORIGINS}\n{more}\n"));
        let output = edge.reload();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{more}: {said}");
        assert!(said.contains("nothing was changed") && said.contains(says), "{more}: {said}");
    }
    edge.configure("max_frmae = 1");
    assert_eq!(edge.reload().status.code(), Some(64), "the command reads it itself");
    edge.configure(ORIGINS);
    edge.signal("TERM");
    edge.child.wait().unwrap();
    let output = edge.reload();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("no edge answers at"), "{}", text(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_takes_the_same_port_at_once() {
    // covers B12, B31, B27 11, B27 16
    let mut edge = Process::start("");
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(edge.echo(&[]).await.unwrap());
    }
    let began = Instant::now();
    edge.signal("TERM");
    // Each is gone when it has heard, as clients are.
    for mut client in clients {
        assert_eq!(client.closed().await, 1012);
    }
    assert_eq!(edge.child.wait().unwrap().code(), Some(0));
    // The sockets of the edge that ended linger (TIME_WAIT), as it closed first.
    (edge.child, edge.log) = spawn(&edge.machine);
    edge.says("listening");
    edge.echo(&[]).await.unwrap().answers().await;
    let took = began.elapsed();
    println!("stopped with 20 clients and served again after {took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_with_the_same_keys_reads_what_they_name_all_the_same() {
    // covers B11, B29
    let edge = Process::start("");
    let good = std::fs::read_to_string(edge.machine.folder.path().join("id/public.pem")).unwrap();
    put(&edge.machine, "id/public.pem", "no certificate\n");
    let output = edge.reload();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(said.contains("nothing was changed") && said.contains("public.pem"), "{said}");
    edge.echo(&[]).await.unwrap().answers().await;
    put(&edge.machine, "id/public.pem", &good);
    let output = edge.reload();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("nothing has changed"), "{said}");
    edge.echo(&[]).await.unwrap().answers().await;
}

/// A TLS client behind a first word in plain text.
async fn after(machine: &Machine, at: SocketAddr, word: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut tcp = TcpStream::connect(at).await.unwrap();
    tcp.write_all(word).await.unwrap();
    let name = "localhost".try_into().unwrap();
    soon(TlsConnector::from(machine.client_config()).connect(name, tcp)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_client_is_says_the_proxy_that_is_trusted() {
    // covers B13, B17
    let mut edge =
        Process::start("proxy = { protocol = true, trusted = [\"127.0.0.1\", \"198.51.100.0/24\"] }");
    let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
    let tls = after(&edge.machine, edge.at, line).await.unwrap();
    upgrade(tls, &[]).await.unwrap().answers().await;
    assert!(edge.says("a client has connected").contains("from=192.0.2.7:4711"));
    // The address of the PROXY protocol may itself be a proxy's, which then speaks HTTP.
    let line = b"PROXY TCP4 198.51.100.9 198.51.100.1 4711 443\r\n";
    let tls = after(&edge.machine, edge.at, line).await.unwrap();
    // Several lines are one list: the last one has hops that are trusted, and nobody else.
    let headers = &[
        ("x-forwarded-for", "203.0.113.1"),
        ("x-forwarded-for", "192.0.2.8, 198.51.100.3"),
        ("x-forwarded-for", "198.51.100.4, 198.51.100.5"),
    ];
    upgrade(tls, headers).await.unwrap().answers().await;
    assert!(edge.says("a client has connected").contains("from=192.0.2.8:0"));
    // Without the word nobody is let in, and what is no such word is told in the log.
    assert!(after(&edge.machine, edge.at, b"").await.is_err());
    assert!(edge.says("event=\"proxy\"").contains("PROXY"));
    assert!(after(&edge.machine, edge.at, b"PROXY TCP4 1 2 3 4\r\n").await.is_err());
    // Not even for health without TLS.
    let mut tcp = TcpStream::connect(edge.at).await.unwrap();
    tcp.write_all(b"GET /health HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = soon(tcp.read_to_end(&mut answer)).await;
    assert_eq!(answer, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_is_believed() {
    // covers B13
    let mut edge = Process::start("proxy = { trusted = [\"192.0.2.10\"] }");
    let mut client = edge.echo(&[("x-forwarded-for", "203.0.113.1")]).await.unwrap();
    client.answers().await;
    assert!(edge.says("a client has connected").contains("from=127.0.0.1:"));
    let mut only = Process::start("proxy = { protocol = true, trusted = [\"192.0.2.10\"] }");
    let line = b"PROXY TCP4 203.0.113.1 198.51.100.1 4711 443\r\n";
    assert!(after(&only.machine, only.at, line).await.is_err());
    assert!(only.says("event=\"proxy\"").contains("from=127.0.0.1:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_sent_to_tls() {
    // covers B10
    let from = SocketAddr::from(([127, 0, 0, 1], port()));
    let _edge = Process::start(&format!("[redirect]\nlisten = [\"{from}\"]"));
    let mut tcp = TcpStream::connect(from).await.unwrap();
    tcp.write_all(b"GET /ws?x=1 HTTP/1.1\r\nHost: example.com\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon(tcp.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
    assert!(answer.contains("location: https://example.com/ws?x=1\r\n"), "{answer}");
}

/// Puts a file of the machine in place of the one that is there, at once, as one should.
fn put(machine: &Machine, name: &str, text: &str) {
    let path = machine.folder.path().join(name);
    std::fs::write(path.with_extension("new"), text).unwrap();
    std::fs::rename(path.with_extension("new"), path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_refused_and_told_with_its_address() {
    // covers B14, B17, B11
    let machine = Machine::new();
    let now = trishula::rt::clock::wall().into();
    let agent = AgentAddr::new(Namespace::new("trishula").unwrap(), AgentName::new("indexer").unwrap());
    let issued = machine.ca.issue(&Request::link(Role::Agent(agent)), now).unwrap();
    let chain = CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(machine.ca.certificate().clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(trishula::identity::tls::provider());
    let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let config = Arc::new(config.with_client_auth_cert(chain, key).unwrap());
    let nobody = machine.ca.revoke(&[], None, now).unwrap();
    put(&machine, "revoked.pem", &list_pem(&nobody));
    let list = machine.ca.revoke(&[issued.serial], Some(&nobody), now).unwrap();
    let more = "ca_file = \"id/ca.pem\"\ncrl_file = \"revoked.pem\"\nverify_client = true";
    let mut edge = Process::start_on(machine, more);
    let at = edge.at;
    let echo = async || {
        let tcp = TcpStream::connect(at).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let tls = soon(TlsConnector::from(config.clone()).connect(name, tcp)).await.map_err(|_| ())?;
        upgrade(tls, &[]).await.map_err(|_| ())
    };
    let mut before = echo().await.unwrap();
    before.answers().await;
    put(&edge.machine, "revoked.pem", &list_pem(&list));
    edge.says("whose certificates are taken from clients was read again");
    assert!(echo().await.is_err());
    let said = edge.says("Revoked");
    assert!(said.contains("security event") && said.contains("from=127.0.0.1:"), "{said}");
    before.answers().await;
}
