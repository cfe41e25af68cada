//! Two ends of a link in one test, with identities made for it.

use std::net::UdpSocket;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use trishula::identity::bundle::{Bundle, Leaf};
use trishula::identity::ca::Authority;
use trishula::identity::profile::Request;
use trishula::identity::revocation::Revocations;
use trishula::identity::tls::{self, Identity};
use trishula::identity::{PeerName, Role};
use trishula::link::early::Begun;
use trishula::link::inbox::Inbox;
use trishula::link::network::System;
use trishula::link::proxy::Proxies;
use trishula::link::quic::{self, Admitted, Certificate};
use trishula::link::segments::Segments;
use trishula::link::websocket::WebSocketBytes;
use trishula::link::wss::{self, Outward};
use trishula::link::{self, Event, Local, Peer, memory, unix};
use trishula::rt::{clock, queue, tasks};
use trishula::wire::envelope::{Head, Kind, Priority, Target};
use trishula::wire::frame::{Deliver, Frame, Handing, Hello, OLDEST_VERSION, VERSION};
use trishula::wire::ids::{
    AgentAddr, AgentName, Incarnation, LinkId, MessageId, Namespace, NodeName, SessionNo,
};

/// Ten times what anything here takes, and more.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub fn hello(name: &str) -> Hello {
    Hello {
        version: VERSION,
        oldest: OLDEST_VERSION,
        node: node(name),
        incarnation: Incarnation(7),
        features: Vec::new(),
        software: "a test".into(),
    }
}

fn identity(name: &str) -> Identity {
    static CA: OnceLock<Authority> = OnceLock::new();
    let now = OffsetDateTime::from(clock::wall());
    let ca = CA.get_or_init(|| Authority::create("test", now).unwrap());
    let issued = ca.issue(&Request::link(Role::Node(node(name))), now).unwrap();
    let link = Leaf::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), "leaf", "key").unwrap();
    let bundle = Bundle {
        folder: PathBuf::new(),
        name: PeerName::from_certificate(link.certificate().unwrap()).unwrap(),
        ca: ca.certificate().clone(),
        link,
        public: None,
        revoked: None,
    };
    let clock = Arc::new(rustls::time_provider::DefaultTimeProvider);
    Identity::new(&bundle, Arc::new(Revocations::new(None)), clock).unwrap()
}

/// What one end hears.
pub type Heard = queue::Receiver<Event>;

pub fn local(name: &str) -> (Arc<Local>, Heard) {
    let (events, heard) = queue::bounded("test.link", 4096);
    (local_with(name, events), heard)
}

fn local_with(name: &str, events: impl Into<Inbox>) -> Arc<Local> {
    Local::new(hello(name), identity(name), events)
}

pub fn endpoint(local: &Local) -> quinn::Endpoint {
    endpoint_on(local, Segments::on(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap())
}

fn endpoint_on(local: &Local, socket: Arc<dyn quinn::AsyncUdpSocket>) -> quinn::Endpoint {
    let (config, runtime) = (quinn::EndpointConfig::default(), Arc::new(quinn::TokioRuntime));
    quinn::Endpoint::new_with_abstract_socket(config, Some(server(local)), socket, runtime).unwrap()
}

pub fn server(local: &Local) -> quinn::ServerConfig {
    let tls = tls::quic_server(local.identity.server().unwrap().config).unwrap();
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls));
    server.transport_config(Arc::new(quic::transport()));
    server
}

async fn connect(
    from: (&Local, &quinn::Endpoint),
    to: &quinn::Endpoint,
) -> (quinn::Connection, quinn::Connection) {
    let tls = tls::quic_client(from.0.identity.client(None).unwrap()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(tls));
    let dialled = from.1.connect_with(config, to.local_addr().unwrap(), "node.trishula").unwrap();
    let accepted = async { to.accept().await.unwrap().await.unwrap() };
    let (dialled, accepted) = tokio::join!(dialled, accepted);
    (dialled.unwrap(), accepted)
}

pub fn admitted(local: &Local, connection: &quinn::Connection) -> Admitted {
    let peer = quic::admit(local, connection).unwrap();
    let certificate = Certificate::of(&peer);
    let Role::Node(node) = peer.role else { panic!("a node dials") };
    Admitted { node, role: link::Role::Node, certificate }
}

/// A link with both ends of ours; it lasts as long as this.
pub struct Joined {
    pub a: Heard,
    pub b: Heard,
    _tasks: Vec<tasks::Task>,
    _endpoints: Vec<quinn::Endpoint>,
}

/// The carriers, by name.
pub async fn joined(carrier: &str) -> Joined {
    match carrier {
        "quic" => over_quic().await,
        "wss" => over_wss().await,
        "unix" => over_unix(),
        _ => over_memory(),
    }
}

async fn over_quic() -> Joined {
    let ((a, heard_a), (b, heard_b)) = (local("agni"), local("dc"));
    join_over_quic(a, heard_a, b, heard_b).await
}

/// Over QUIC, to an end with two queues, of which the second, small one is returned.
pub async fn to_two_queues() -> (Joined, Heard) {
    let (a, heard_a) = local("agni");
    let ((first, heard_first), (rest, heard_rest)) =
        (queue::bounded("test.first", 16), queue::bounded("test.rest", 16));
    let b = local_with("dc", Inbox::new(first, rest));
    (join_over_quic(a, heard_a, b, heard_first).await, heard_rest)
}

/// Over QUIC, from one socket to another.
pub async fn over_sockets(sockets: [Arc<dyn quinn::AsyncUdpSocket>; 2]) -> Joined {
    let ((a, heard_a), (b, heard_b)) = (local("agni"), local("dc"));
    let [from, to] = sockets;
    let endpoints = (endpoint_on(&a, from), endpoint_on(&b, to));
    join_endpoints(a, heard_a, b, heard_b, endpoints).await
}

async fn join_over_quic(a: Arc<Local>, heard_a: Heard, b: Arc<Local>, heard_b: Heard) -> Joined {
    let endpoints = (endpoint(&a), endpoint(&b));
    join_endpoints(a, heard_a, b, heard_b, endpoints).await
}

async fn join_endpoints(
    a: Arc<Local>,
    heard_a: Heard,
    b: Arc<Local>,
    heard_b: Heard,
    (from, to): (quinn::Endpoint, quinn::Endpoint),
) -> Joined {
    let (dialled, accepted) = connect((&a, &from), &to).await;
    let (peer_of_a, peer_of_b) = (admitted(&a, &dialled), admitted(&b, &accepted));
    let tasks = vec![
        tasks::spawn("test.a", async move { quic::run(&a, dialled, peer_of_a, Begun::Dialled).await }),
        tasks::spawn("test.b", async move { quic::run(&b, accepted, peer_of_b, Begun::Accepted).await }),
    ];
    Joined { a: heard_a, b: heard_b, _tasks: tasks, _endpoints: vec![from, to] }
}

/// Through an edge that is no more than it must be: TLS, the upgrade, and bytes both ways.
async fn over_wss() -> Joined {
    let ((a, heard_a), (b, heard_b)) = (local("agni"), local("dc"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("wss://127.0.0.1:{}/mesh", listener.local_addr().unwrap().port()).parse().unwrap();
    let (node, mut from_edge) = tokio::net::UnixStream::pair().unwrap();
    // Nobody looks at what the outside shows: any certificate is good enough for a test.
    let mut outside = rustls::ServerConfig::clone(&b.identity.relay_server().unwrap());
    outside.alpn_protocols = Vec::new();
    let outside = TlsAcceptor::from(Arc::new(outside));
    let edge = async move {
        let (tcp, from) = listener.accept().await.unwrap();
        wss::prepare(&tcp);
        let secured = outside.accept(tcp).await.unwrap();
        let socket = tokio_tungstenite::accept_async(secured).await.unwrap();
        from_edge.write_all(wss::announce(from).as_bytes()).await.unwrap();
        let mut socket = WebSocketBytes::new(socket);
        let _ = tokio::io::copy_bidirectional(&mut socket, &mut from_edge).await;
    };
    let within = TlsAcceptor::from(b.identity.relay_server().unwrap());
    let mut tasks = vec![
        tasks::spawn("test.edge", edge),
        tasks::spawn("test.b", async move {
            let accepted = wss::accept(&b, &within, node).await.unwrap();
            accepted.run(&b, crate::ends::node("agni"), link::Role::Node).await;
        }),
    ];
    let outward = Outward {
        tls: tls::outer_client(None, Arc::new(rustls::time_provider::DefaultTimeProvider)).unwrap(),
        proxies: Ok(Proxies::default()),
        network: Arc::new(System),
    };
    let connected = wss::connect(&a, &outward, &url, Some(&crate::ends::node("dc"))).await.unwrap();
    tasks.push(tasks::spawn("test.a", async move { wss::run(&a, connected).await }));
    Joined { a: heard_a, b: heard_b, _tasks: tasks, _endpoints: Vec::new() }
}

fn over_unix() -> Joined {
    let ((a, heard_a), (b, heard_b)) = (local("agni"), local("agni"));
    let (one, other) = tokio::net::UnixStream::pair().unwrap();
    let tasks = vec![
        tasks::spawn("test.a", async move {
            unix::run(&a, one, link::Role::Node).await;
        }),
        tasks::spawn("test.b", async move {
            unix::run(&b, other, link::Role::Entrance).await;
        }),
    ];
    Joined { a: heard_a, b: heard_b, _tasks: tasks, _endpoints: Vec::new() }
}

fn over_memory() -> Joined {
    let (mut ends, a, b) = ends_in_memory();
    let (one, other) = ends();
    Joined { a, b, _tasks: vec![memory::join(one, other)], _endpoints: Vec::new() }
}

/// A link within the process that is joined again after its end.
pub fn kept_in_memory() -> Joined {
    let (ends, a, b) = ends_in_memory();
    Joined { a, b, _tasks: vec![memory::keep(ends)], _endpoints: Vec::new() }
}

type Ends = (memory::End, memory::End);

fn ends_in_memory() -> (impl FnMut() -> Ends + Send + 'static, Heard, Heard) {
    let (events_a, a) = queue::bounded("test.a", 4096);
    let (events_b, b) = queue::bounded("test.b", 4096);
    let peer = |role| Peer {
        node: node("agni"),
        role,
        incarnation: Incarnation(7),
        features: Vec::new(),
        software: String::new(),
        serial: String::new(),
    };
    let mut links = 0;
    let ends = move || {
        links += 1;
        let end = |role, events: &queue::Sender<Event>| memory::End {
            peer: peer(role),
            id: LinkId(links),
            events: events.clone().into(),
        };
        (end(link::Role::Entrance, &events_a), end(link::Role::Node, &events_b))
    };
    (ends, a, b)
}

/// Our end of a QUIC link, and a bare connection with which the test is the peer, `dc`.
pub struct Bare {
    pub heard: Heard,
    pub peer: quinn::Connection,
    _task: tasks::Task,
    _endpoints: Vec<quinn::Endpoint>,
}

pub async fn bare() -> Bare {
    let ((ours, heard), (theirs, _)) = (local("agni"), local("dc"));
    let (from, to) = (endpoint(&theirs), endpoint(&ours));
    let (peer, accepted) = connect((&theirs, &from), &to).await;
    let expected = admitted(&ours, &accepted);
    let task =
        tasks::spawn("test.ours", async move { quic::run(&ours, accepted, expected, Begun::Accepted).await });
    Bare { heard, peer, _task: task, _endpoints: vec![from, to] }
}

impl Bare {
    /// Opens a lane and writes frames to it.
    pub async fn lane(&self, index: u8, frames: &[Frame]) -> quinn::SendStream {
        let mut stream = self.peer.open_uni().await.unwrap();
        stream.write_all(&[index]).await.unwrap();
        for frame in frames {
            let encoded = frame.encode();
            stream.write_all(&encoded.head).await.unwrap();
            stream.write_all(&encoded.payload).await.unwrap();
        }
        stream
    }

    /// With which code and reason our end closed.
    pub async fn closed(&self) -> (u64, String) {
        match tokio::time::timeout(PATIENCE, self.peer.closed()).await.unwrap() {
            quinn::ConnectionError::ApplicationClosed(close) => {
                (close.error_code.into_inner(), String::from_utf8_lossy(&close.reason).into_owned())
            }
            other => panic!("closed by {other}"),
        }
    }
}

pub async fn next(heard: &mut Heard) -> Event {
    tokio::time::timeout(PATIENCE, heard.recv()).await.expect("an event in time").expect("an event")
}

/// The handle of the Up event that must come first.
pub async fn up(heard: &mut Heard) -> (Peer, link::Handle) {
    match next(heard).await {
        Event::Up { peer, handle, .. } => (peer, handle),
        other => panic!("{other:?} came before Up"),
    }
}

/// The next frame that is not one of the link's own.
pub async fn frame(heard: &mut Heard) -> Frame {
    match next(heard).await {
        Event::Frame { frame, .. } => frame,
        other => panic!("{other:?} where a frame was awaited"),
    }
}

/// A message from one agent to another; the number is its id.
pub fn message(from: &str, to: &str, number: usize, priority: u8, payload: Bytes) -> Frame {
    let agent =
        |name: &str| AgentAddr::new(Namespace::new("trishula").unwrap(), AgentName::new(name).unwrap());
    let head = Head {
        priority: Priority::new(priority).unwrap(),
        ..Head::new(
            agent(from),
            Target::Agent(agent(to)),
            MessageId::new(&format!("m-{number}")).unwrap(),
            Kind::Status,
        )
    };
    Frame::Deliver(Deliver { to: vec![Handing::live(SessionNo(1))], head, confirm: None }, payload)
}

pub fn id_of(frame: &Frame) -> String {
    match frame {
        Frame::Deliver(deliver, _) => deliver.head.id.to_string(),
        other => panic!("{} is no message", other.name()),
    }
}
