//! One client's connection: TLS, the upgrade, and with ours the registration.
use crate::tls;
use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use trishula::gateway::auth::{NewToken, issue};
use trishula::gateway::secret::Secret;
use trishula::rt::clock;
use trishula::wire::ids::{AgentName, DEFAULT_NAMESPACE, Namespace};

pub type Socket = WebSocketStream<TlsStream<TcpStream>>;

const HOST: &str = "localhost";
/// A dial that takes longer hangs.
const WITHIN: Duration = Duration::from_secs(30);
/// Connections from one address: a system gives some 28,000 ports to each.
const PER_ADDRESS: usize = 20_000;
/// How long tokens are good, in seconds.
const TOKEN_TTL: u64 = 3600;
const EXTENSIONS: &str = "sec-websocket-extensions";
const DEFLATE: &str = "permessage-deflate";

/// Connects clients to one server.
pub struct Dialler {
    port: u16,
    connector: TlsConnector,
    secret: Option<Secret>,
    deflate: bool,
}

impl Dialler {
    /// `secret`: signs the clients' tokens, where the server is ours. `deflate`: they offer compression, and are to be silent
    /// then, as they can't inflate.
    pub fn new(port: u16, ca: &Path, secret: Option<&Path>, deflate: bool) -> Result<Dialler> {
        let secret = secret.map(Secret::from_file).transpose()?;
        Ok(Dialler { port, connector: TlsConnector::from(tls::client(ca)?), secret, deflate })
    }

    /// The n-th connection, as this agent; with ours it is registered then.
    pub async fn dial(&self, n: usize, agent: &str) -> Result<Socket> {
        timeout(WITHIN, self.enter(n, agent)).await.context("dialling hangs")?
    }

    async fn enter(&self, n: usize, agent: &str) -> Result<Socket> {
        let mut request = format!("wss://{HOST}:{}/", self.port).into_client_request()?;
        if let Some(secret) = &self.secret {
            let token = token(secret, agent)?;
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse()?);
        }
        if self.deflate {
            request.headers_mut().insert(EXTENSIONS, DEFLATE.parse()?);
        }
        let tcp = TcpSocket::new_v4()?;
        if n >= PER_ADDRESS {
            let last = u8::try_from(1 + n / PER_ADDRESS).context("so many addresses are not taken")?;
            tcp.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)))?;
        }
        let tcp = tcp.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))).await?;
        tcp.set_nodelay(true)?;
        let tls = self.connector.connect(ServerName::try_from(HOST)?, tcp).await?;
        let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(16 * 1024);
        let (mut socket, answer) = client_async_with_config(request, tls, Some(config)).await?;
        ensure!(answer.headers().contains_key(EXTENSIONS) == self.deflate, "compression: {answer:?}");
        if self.secret.is_some() {
            // The second registers as well, and its answer is too short to be compressed.
            let first = if self.deflate { "HEARTBEAT" } else { "REGISTER" };
            socket.send(Message::text(format!(r#"{{"type":"{first}","id":"r"}}"#))).await?;
            match socket.next().await.context("closed")?? {
                Message::Text(text) if text.contains(&format!(r#""type":"{first}"#)) => {}
                other => bail!("not registered: {other:?}"),
            }
        }
        Ok(socket)
    }
}

fn token(secret: &Secret, agent: &str) -> Result<String> {
    let now = clock::wall_ms() / 1000;
    let token = NewToken {
        sub: AgentName::new(agent)?,
        aud: Namespace::new(DEFAULT_NAMESPACE)?,
        permissions: Vec::new(),
        agents: Vec::new(),
        jti: format!("t-{agent}"),
        iat: now,
        exp: Some(now + TOKEN_TTL),
    };
    Ok(issue(secret, &token)?)
}
