//! A WebSocket client that knows no more than docs/protocol.md says, and a native one at the same machines.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use trishula::client::Quic;
use trishula::identity::bundle::Bundle;
use trishula::identity::revocation::Revocations;
use trishula::identity::{RoleKind, tls};
use trishula::link::quic;

use crate::harness::{Machine, PATIENCE};

/// How long a connection may take: one to a stopped process takes for ever.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// Where a client can connect, and as whom.
#[derive(Debug, Clone)]
pub struct Door {
    port: u16,
    /// The address of this machine that is connected from, if it matters.
    from: Option<std::net::Ipv4Addr>,
    token: String,
    tls: Arc<rustls::ClientConfig>,
}

impl Door {
    pub fn of(machine: &Machine, agent: &str) -> Door {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(machine.ca()).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Door { port: machine.edge_port, from: None, token: machine.token(agent), tls: Arc::new(config) }
    }

    /// The same at this port.
    pub fn at(self, port: u16) -> Door {
        Door { port, ..self }
    }

    /// The same through a proxy at this port, from this address of the machine.
    pub fn through(self, port: u16, from: std::net::Ipv4Addr) -> Door {
        Door { port, from: Some(from), ..self }
    }

    /// A connection that has registered; `None`: nobody answers here now.
    pub async fn open(&self, register: Value) -> Option<Wss> {
        timeout(CONNECT_WITHIN, self.registered(register)).await.ok()?
    }

    /// Only the TLS connection.
    pub async fn tls(&self) -> Option<TlsStream<TcpStream>> {
        let socket = tokio::net::TcpSocket::new_v4().ok()?;
        if let Some(from) = self.from {
            socket.bind((from, 0).into()).ok()?;
        }
        let tcp = socket.connect(([127, 0, 0, 1], self.port).into()).await.ok()?;
        tcp.set_nodelay(true).ok()?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(self.tls.clone()).connect(name, tcp).await.ok()
    }

    async fn registered(&self, register: Value) -> Option<Wss> {
        let stream = self.tls().await?;
        let mut request = format!("wss://localhost:{}/", self.port).into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        if self.from.is_some() {
            // What a client writes itself is not to be believed behind a proxy either.
            request.headers_mut().insert("x-forwarded-for", "203.0.113.1".parse().unwrap());
        }
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await.ok()?;
        let mut wss = Wss { socket, node: String::new(), closed: None };
        wss.say(json!({"type": "REGISTER", "id": "register", "payload": register})).await?;
        // What waits for the agent comes behind the answer.
        let answer = wss.hear().await?;
        wss.node = answer["payload"]["node"].as_str()?.to_owned();
        (answer["type"] == "REGISTERED").then_some(wss)
    }

    /// The same where it must succeed.
    pub async fn must_open(&self, register: Value) -> Wss {
        self.open(register).await.expect("the edge takes a client")
    }
}

/// One connection.
#[derive(Debug)]
pub struct Wss {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    /// The node that REGISTERED named.
    pub node: String,
    /// The close code, once there is one.
    pub closed: Option<u16>,
}

impl Wss {
    /// `None`: the connection is broken.
    pub async fn say(&mut self, frame: Value) -> Option<()> {
        self.socket.send(Message::text(frame.to_string())).await.ok()
    }

    /// Closes it as a client should, and waits for the edge's half.
    pub async fn close(&mut self) {
        self.socket.close(None).await.unwrap();
        while self.hear().await.is_some() {}
    }

    /// The next frame; pings are answered on the way. Losing this future loses nothing.
    pub async fn hear(&mut self) -> Option<Value> {
        loop {
            match self.socket.next().await?.ok()? {
                Message::Text(text) => return serde_json::from_str(&text).ok(),
                Message::Close(frame) => {
                    self.closed = frame.map(|frame| frame.code.into());
                    return None;
                }
                _ => {}
            }
        }
    }

    /// The next frame that is so; others are passed over.
    pub async fn until(&mut self, what: &str, mut is: impl FnMut(&Value) -> bool) -> Value {
        let found = timeout(PATIENCE, async {
            loop {
                let frame = self.hear().await?;
                if is(&frame) {
                    return Some(frame);
                }
            }
        });
        let found = found.await.unwrap_or_else(|_| panic!("after {PATIENCE:?} still not: {what}"));
        found.unwrap_or_else(|| panic!("closed with {:?} instead of: {what}", self.closed))
    }

    /// The next answer of the mesh's to a frame of ours: RECEIPT, ERROR or STATE.
    pub async fn answer(&mut self, id: &str) -> Value {
        self.until(&format!("an answer to {id}"), |f| f["from"] == "mesh" && f["reply_to"] == id).await
    }

    /// The next message of an agent's.
    pub async fn message(&mut self) -> Value {
        self.until("a message", |f| f["from"] != "mesh").await
    }

    /// Acknowledges a message.
    pub async fn ack(&mut self, message: &Value) -> Option<()> {
        self.say(json!({"type": "ACK", "to": message["from"], "reply_to": message["id"]})).await
    }
}

/// Makes an identity for a native agent: only where the key of the CA is.
pub fn issue(holder: &Machine, agent: &str) -> std::path::PathBuf {
    let out = holder.folder.join(format!("agent-{agent}"));
    let made = holder.run(&["cert", "issue", "--agent", agent, "--out", &out.display().to_string()]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    out
}

/// How a native agent reaches the nodes behind these ports, in this order. Needs a runtime.
pub fn native(identity: &Path, ports: &[u16]) -> Quic {
    let bundle = Bundle::load(identity, RoleKind::Agent, std::time::SystemTime::now().into()).unwrap();
    let clock = Arc::new(rustls::time_provider::DefaultTimeProvider);
    let identity = tls::Identity::new(&bundle, Arc::new(Revocations::new(None)), clock).unwrap();
    let mut config =
        quinn::ClientConfig::new(Arc::new(tls::quic_client(identity.client(None).unwrap()).unwrap()));
    config.transport_config(Arc::new(quic::transport()));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let addresses = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    Quic { endpoint, config, server_name: "node.trishula".into(), addresses }
}
