//! What the edge's tests share: a mesh in miniature behind a link, an edge on ports of its own, and clients
//! over real TLS.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use trishula::gateway::auth::{NewToken, issue};
use trishula::gateway::secret::Secret;
use trishula::identity::bundle::{Bundle, Parts};
use trishula::identity::ca::Authority;
use trishula::identity::profile::Request;
use trishula::identity::revocation::RevocationList;
use trishula::identity::{Role, tls};
use trishula::link::{Event, Handle, Outlets, Peer};
use trishula::rt::{clock, queue, tasks};
use trishula::wire::close::{Code, Refusal};
use trishula::wire::envelope::{State, Target};
use trishula::wire::frame::{
    AgentState, Attach, Deliver, Frame, Handing, Presence, ROOMS, Receipt, RoomJoined, Settlement,
};
use trishula::wire::ids::{AgentAddr, AgentName, Incarnation, LinkId, Namespace, NodeName, SessionNo};
use trishula::wire::room::{RoomKey, Vector};
use trishula_edge::config::EdgeConfig;
use trishula_edge::prepare;
use trishula_edge::run::{Edge, Listeners};

pub const SECRET: &[u8] = b"a secret of the tests, long enough to be one";
/// Everything waits for an event, and for no longer than this.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it took too long")
}

/// A folder with an edge's identity, its secret and a configuration on ports that the system chooses.
pub struct Machine {
    pub folder: tempfile::TempDir,
    pub ca: Authority,
}

impl Machine {
    pub fn new() -> Machine {
        let folder = tempfile::tempdir().unwrap();
        let now = clock::wall().into();
        let ca = Authority::create("test", now).unwrap();
        let role = || Role::Edge(NodeName::new("agni").unwrap());
        let link = ca.issue(&Request::link(role()), now).unwrap();
        let names = vec!["localhost".to_owned()];
        let ips = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let public = ca.issue(&Request::public(role(), names, ips), now).unwrap();
        let parts = Parts {
            ca_pem: Some(ca.certificate_pem()),
            link: Some(link.pair()),
            public: Some(public.pair()),
            revoked: None,
        };
        Bundle::write(&folder.path().join("id"), &parts).unwrap();
        std::fs::write(folder.path().join("secret"), SECRET).unwrap();
        Machine { folder, ca }
    }

    pub fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("edge.toml")
    }

    /// A connection to an edge of this machine.
    pub async fn tls(&self, address: SocketAddr) -> TlsStream<TcpStream> {
        self.tls_as("localhost", address).await
    }

    /// The same, that asks for this host; one that is an address is not asked for.
    pub async fn tls_as(&self, host: &str, address: SocketAddr) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        soon(TlsConnector::from(self.client_config()).connect(name, tcp)).await.unwrap()
    }

    /// The TLS of a client that trusts this machine's CA.
    pub fn client_config(&self) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.certificate().clone()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }

    /// The configuration with these services.
    pub fn configure_services(&self, services: &str) -> EdgeConfig {
        let text = format!("[identity]\ndir = \"id\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n{services}\n");
        std::fs::write(self.path(), text).unwrap();
        EdgeConfig::load(&self.path(), std::iter::empty(), Vec::new()).unwrap()
    }

    /// Writes the configuration; `more` goes to the service's end.
    pub fn configure(&self, more: &str) -> EdgeConfig {
        let text = format!(
            "[identity]\ndir = \"id\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n[[service]]\nname = \"trishula\"\n\
             listen = [\"127.0.0.1:0\"]\nsecret_file = \"secret\"\n{more}\n"
        );
        std::fs::write(self.path(), text).unwrap();
        EdgeConfig::load(&self.path(), std::iter::empty(), Vec::new()).unwrap()
    }
}

/// An edge with a mesh in miniature behind it.
pub struct World {
    pub machine: Machine,
    pub edge: Edge,
    pub node: FakeNode,
    events: queue::Sender<Event>,
}

impl World {
    pub async fn start() -> World {
        World::start_with("").await
    }

    pub async fn start_with(more: &str) -> World {
        let mut world = World::start_alone(more);
        world.connect(1).await;
        world
    }

    /// With these services, and a node.
    pub async fn serving(services: &str) -> World {
        World::serving_from(Machine::new(), services).await
    }

    /// The same on a machine that has what they need already.
    pub async fn serving_from(machine: Machine, services: &str) -> World {
        let config = machine.configure_services(services);
        let mut world = World::start_on(machine, config);
        world.connect(1).await;
        world
    }

    /// Without a node.
    pub fn start_alone(more: &str) -> World {
        World::start_prepared(more, |_| {})
    }

    /// The same, with more files in the machine's folder.
    pub fn start_prepared(more: &str, prepare_files: impl FnOnce(&Machine)) -> World {
        let machine = Machine::new();
        prepare_files(&machine);
        let config = machine.configure(more);
        World::start_on(machine, config)
    }

    /// On this machine, with the configuration that it has.
    pub fn start_loaded(machine: Machine) -> World {
        let config = EdgeConfig::load(&machine.path(), std::iter::empty(), Vec::new()).unwrap();
        World::start_on(machine, config)
    }

    /// On this machine, as configured.
    pub fn start_on(machine: Machine, config: EdgeConfig) -> World {
        let services = prepare::services(&config).unwrap();
        let listeners = Listeners::bind(&config).unwrap();
        let (events, inbox) = queue::bounded("test.events", 64);
        let edge = Edge::start(&config, services, listeners, inbox.into());
        World { machine, edge, node: FakeNode::none(), events }
    }

    /// Gives the edge a (new) link to the node.
    pub async fn connect(&mut self, link: u64) {
        self.node = FakeNode::start(LinkId(link), self.events.clone()).await;
    }

    pub async fn disconnect(&mut self, link: u64) {
        self.node = FakeNode::none();
        let down = Event::Down { link: LinkId(link), why: "the test said so".into() };
        self.events.send(down).await.unwrap();
    }

    pub fn address(&self) -> SocketAddr {
        self.edge.addresses()[0]
    }

    pub async fn tls(&self) -> TlsStream<TcpStream> {
        self.machine.tls(self.address()).await
    }

    /// A WebSocket to `path` with headers.
    pub async fn upgrade(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<(Client, Response), WsError> {
        let mut request = format!("wss://localhost{path}").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let stream = self.tls().await;
        let (socket, response) = soon(tokio_tungstenite::client_async(request, stream)).await?;
        Ok((Client { socket }, response))
    }

    /// A client that has shown its token in a header.
    pub async fn client(&self, agent: &str) -> Client {
        let bearer = format!("Bearer {}", token(agent));
        self.upgrade("/ws", &[("authorization", &bearer)]).await.unwrap().0
    }

    /// The same, and it is registered.
    pub async fn registered(&self, agent: &str) -> Client {
        let mut client = self.client(agent).await;
        client.say(json!({"type": "REGISTER"})).await;
        assert_eq!(client.hear().await["type"], "REGISTERED");
        client
    }

    /// One request without an upgrade; answers status and body.
    pub async fn get(&self, request: &str) -> (u16, String, Value) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = self.tls().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // What matters is what came; servers may end TLS as they like.
        let _ = soon(stream.read_to_end(&mut answer)).await;
        let text = String::from_utf8(answer).unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (status, head.to_ascii_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null))
    }
}

pub fn token(agent: &str) -> String {
    token_with(agent, 3600, &[])
}

/// A token of another service, or another kind of one.
pub fn signed(secret: &[u8], claims: Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(secret);
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

pub fn token_with(agent: &str, seconds: i64, agents: &[&str]) -> String {
    let now = clock::wall_ms() / 1000;
    let token = NewToken {
        sub: AgentName::new(agent).unwrap(),
        aud: Namespace::new("trishula").unwrap(),
        permissions: Vec::new(),
        agents: agents.iter().map(|name| (*name).to_owned()).collect(),
        jti: format!("{agent}-{now}"),
        iat: now,
        exp: Some(now.checked_add_signed(seconds).unwrap()),
    };
    issue(&Secret::new(SECRET, "test").unwrap(), &token).unwrap()
}

/// One WebSocket client.
pub struct Client {
    pub socket: WebSocketStream<TlsStream<TcpStream>>,
}

impl Client {
    pub async fn say(&mut self, frame: Value) {
        self.send(Message::text(frame.to_string())).await;
    }

    pub async fn send(&mut self, message: Message) {
        soon(self.socket.send(message)).await.unwrap();
    }

    /// The next frame.
    pub async fn hear(&mut self) -> Value {
        serde_json::from_str(&self.hear_text().await).unwrap()
    }

    pub async fn hear_text(&mut self) -> String {
        loop {
            match soon(self.socket.next()).await {
                Some(Ok(Message::Text(text))) => return text.to_string(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("a frame was expected, and this came: {other:?}"),
            }
        }
    }

    /// Code and reason of the close; frames before it are dropped.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match soon(self.socket.next()).await {
                Some(Ok(Message::Close(Some(frame)))) => {
                    return (frame.code.into(), frame.reason.to_string());
                }
                Some(Ok(_)) => {}
                other => panic!("a close was expected, and this came: {other:?}"),
            }
        }
    }
}

/// A list of what a CA took back, as `crl_file` has it.
pub fn list_pem(list: &RevocationList) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(list.der());
    format!("-----BEGIN X509 CRL-----\n{text}\n-----END X509 CRL-----\n")
}

/// Reads the certificates of a PEM file.
pub fn certificates(path: &Path) -> usize {
    rustls::pki_types::CertificateDer::pem_file_iter(path).unwrap().count()
}

/// A node that knows just enough: it registers, delivers, confirms and refuses.
pub struct FakeNode {
    _task: Option<tasks::Task>,
}

impl FakeNode {
    fn none() -> FakeNode {
        FakeNode { _task: None }
    }

    pub async fn start(link: LinkId, events: queue::Sender<Event>) -> FakeNode {
        let (handle, outlets) = Handle::new(link, "memory", "test".into());
        let peer = Peer {
            node: NodeName::new("agni").unwrap(),
            role: trishula::link::Role::Node,
            incarnation: Incarnation(1),
            features: vec![ROOMS.to_owned()],
            software: "fake".into(),
            serial: String::new(),
        };
        events.send(Event::Up { link, peer, dialled: true, handle }).await.unwrap();
        let mesh = Miniature { link, events, agents: HashMap::new(), handed: HashMap::new() };
        FakeNode { _task: Some(tasks::spawn("fake.node", mesh.run(outlets))) }
    }
}

struct Miniature {
    link: LinkId,
    events: queue::Sender<Event>,
    agents: HashMap<AgentAddr, (SessionNo, Attach)>,
    /// What was handed out to be acknowledged, by its tag: who is told, and what.
    handed: HashMap<u64, (SessionNo, Receipt)>,
}

impl Miniature {
    async fn run(mut self, mut outlets: Outlets) {
        loop {
            let encoded = std::future::poll_fn(|cx| {
                for lane in &mut outlets.lanes {
                    if let std::task::Poll::Ready(Some(encoded)) = lane.poll_recv(cx) {
                        return std::task::Poll::Ready(encoded);
                    }
                }
                std::task::Poll::Pending
            });
            let encoded = encoded.await;
            let mut bytes = BytesMut::from(&encoded.head[..]);
            bytes.extend_from_slice(&encoded.payload);
            let frame = Frame::decode(&mut bytes.freeze()).unwrap().unwrap();
            self.frame(frame).await;
        }
    }

    async fn frame(&mut self, frame: Frame) {
        match frame {
            Frame::Attach(attach) => {
                let session = attach.session;
                let old = self.agents.insert(attach.agent.clone(), (session, attach.clone()));
                if let Some((old, _)) = old.filter(|(old, _)| *old != session) {
                    let message = format!("a newer session of {}", attach.agent);
                    self.tell(Frame::Evict(old, Refusal::new(Code::TakenOver, message))).await;
                }
                self.tell(Frame::Attached(session, 0)).await;
            }
            Frame::Detach(session, _) => self.agents.retain(|_, (own, _)| *own != session),
            Frame::Submit(session, head, payload) => self.submit(session, head, payload).await,
            Frame::AskAgents(session, number) => {
                let list = self.agents.values().map(|(_, attach)| {
                    let state = AgentState {
                        agent: attach.agent.clone(),
                        presence: Presence::Online,
                        registered_ms: attach.registered_ms,
                        shared: attach.shared,
                        capabilities: attach.capabilities.clone(),
                    };
                    (state, NodeName::new("agni").unwrap())
                });
                let list = list.collect();
                self.tell(Frame::AgentList(session, number, list)).await;
            }
            Frame::RoomSubscribe(ask) => {
                let joined = RoomJoined {
                    session: ask.session,
                    number: ask.number,
                    room: RoomKey::new(self.namespace_of(ask.session), ask.room),
                    refusal: None,
                    cursor: ask.cursor.unwrap_or_default(),
                    recovered: true,
                    members: Vec::new(),
                    messages: Vec::new(),
                    now: Vector::default(),
                };
                self.tell(Frame::RoomJoined(joined, Bytes::new())).await;
            }
            Frame::Settle(_, settled) => {
                for (tag, settlement) in settled {
                    if settlement == Settlement::Acked
                        && let Some((sender, receipt)) = self.handed.remove(&tag)
                    {
                        self.tell(Frame::Told(sender, receipt)).await;
                    }
                }
            }
            Frame::Receipt(receipt) => {
                let (session, _) = self.agents[&receipt.sender];
                self.tell(Frame::Told(session, receipt)).await;
            }
            _ => {}
        }
    }

    fn namespace_of(&self, session: SessionNo) -> Namespace {
        let mut agents = self.agents.iter();
        agents.find(|(_, (own, _))| *own == session).unwrap().0.namespace.clone()
    }

    async fn submit(&mut self, session: SessionNo, head: trishula::wire::envelope::Head, payload: Bytes) {
        let to: Vec<SessionNo> = match &head.to {
            Target::Agent(agent) => self.agents.get(agent).map(|(no, _)| *no).into_iter().collect(),
            _ => self.agents.values().map(|(no, _)| *no).filter(|no| *no != session).collect(),
        };
        if let Target::Agent(agent) = &head.to {
            let mut receipt = Receipt {
                to: NodeName::new("agni").unwrap(),
                sender: head.from.clone(),
                id: head.id.clone(),
                recipient: agent.clone(),
                counts: None,
                node: NodeName::new("agni").unwrap(),
                state: State::Acked,
                refusal: None,
                asked: true,
                keeper: NodeName::new("agni").unwrap(),
                hops_left: 1,
            };
            let Some(recipient) = to.first() else {
                receipt.state = State::Refused;
                receipt.refusal =
                    Some(Refusal::new(Code::UnknownRecipient, format!("no agent {agent} is known")));
                return self.tell(Frame::Told(session, receipt)).await;
            };
            if head.receipt == Some(State::Acked) {
                let tag = self.handed.len() as u64 + 1;
                self.handed.insert(tag, (session, receipt));
                let to = vec![Handing { session: *recipient, tag, redelivered: true }];
                return self.tell(Frame::Deliver(Deliver { to, head, confirm: None }, payload)).await;
            }
        }
        let confirm = head.receipt.map(|_| NodeName::new("agni").unwrap());
        let to = to.into_iter().map(Handing::live).collect();
        self.tell(Frame::Deliver(Deliver { to, head, confirm }, payload)).await;
    }

    async fn tell(&self, frame: Frame) {
        self.events.send(Event::Frame { link: self.link, frame }).await.unwrap();
    }
}
