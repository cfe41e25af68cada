//! The node as a process: everything in the right order, once.
//!
//! | file | what is in it |
//! |---|---|
//! | `accept` | who comes in on the UDP port |
//! | `relay` | who comes in through this machine's edge, and the way out to other machines' edges |
//! | `peers` | a dialler for every node that there is an address of |
//! | `vigil` | whether each of them is linked or being dialled |
//! | `asks` | what the command line asks that the node task alone can't do |
//! | `renew` | this machine's certificates, renewed in time |
//! | `sessions` | TLS sessions of peers on disk, so that they resume also after a restart |
//! | [`authority`] | the desk of the CA, on the machine that holds it |
//!
//! The order: read and check all that lies on disk, bind every port, then start. Whatever is wrong is said
//! before the first frame leaves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::admin;
use crate::config::limits::LimitsSection;
use crate::config::node::{self as settings, MeshSection, NodeConfig};
use crate::gateway::hub::{self, HubHandle};
use crate::identity::bundle::{Bundle, REVOKED};
use crate::identity::port::PortKeys;
use crate::identity::revocation::Revocations;
use crate::identity::{self, RoleKind, tls};
use crate::link::congestion::{Algorithm, Congestion};
use crate::link::inbox;
use crate::link::memory::{self, End};
use crate::link::quic;
use crate::link::socket::{Buffers, Port};
use crate::link::wss::Outward;
use crate::link::{self, Local, Peer, unix};
use crate::mesh;
use crate::node::records::Records;
use crate::node::{self, Disk, Started};
use crate::rt::{clock, queue, sdnotify, signals, tasks, wake};
use crate::store;
use crate::wire::frame::{Hello, ROOMS};
use crate::wire::ids::{Incarnation, NodeName};
use crate::wire::record::Past;

mod accept;
mod asks;
pub mod authority;
mod peers;
mod register;
mod relay;
mod renew;
mod sessions;
mod vigil;

use authority::{CaDesk, Neighbours};

/// Questions for the holder of the CA that may wait.
const DESK_QUEUE: usize = 64;
/// The longest that a link may be silent, unless heartbeats are rarer.
const SILENCE: Duration = Duration::from_secs(3);
/// How long peers and clients may take to notice that the node stops.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// Why the node does not run. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Certificates, keys, the CA.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// The certificate names another machine than the configuration.
    #[error(
        "{folder}: the certificate names {found}, the configuration says [node] name = \"{configured}\"; give this node its own identity folder"
    )]
    OtherName {
        /// The identity's folder.
        folder: String,
        /// As in the certificate.
        found: String,
        /// As in the configuration.
        configured: NodeName,
    },
    /// The data folder.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A port is taken, or not allowed.
    #[error("{what} {address}: {why}{hint}", hint = port_hint(.why))]
    Bind {
        /// `[mesh] listen`, `[admin] http`.
        what: &'static str,
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        why: std::io::Error,
    },
    /// The admin socket.
    #[error(transparent)]
    Socket(#[from] admin::socket::Error),
    /// The holder's desk.
    #[error(transparent)]
    Desk(#[from] authority::Error),
}

fn port_hint(why: &std::io::Error) -> &'static str {
    match why.kind() {
        std::io::ErrorKind::AddrInUse => {
            "; another process has this port: stop it (ss -lunp shows which), or set another one"
        }
        std::io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE, as the systemd unit gives it"
        }
        std::io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        _ => "",
    }
}

/// What runs under this name, for people.
pub fn software() -> String {
    format!("trishula/{}", env!("CARGO_PKG_VERSION"))
}

/// What keeps this node from going out through other machines' edges when UDP is blocked; `None`: nothing that can be
/// seen from here.
pub fn trouble_with_fallback(config: &NodeConfig) -> Option<String> {
    relay::trouble(config)
}

/// What the system gives UDP sockets when they ask for as much as this node does.
///
/// # Errors
///
/// The system gives no socket.
pub fn udp_buffers(config: &NodeConfig) -> std::io::Result<Buffers> {
    let any = SocketAddr::new(config.mesh.listen.ip(), 0);
    Buffers::ask(&std::net::UdpSocket::bind(any)?, udp_buffer(&config.mesh))
}

/// Runs the node until it is told to stop by SIGTERM or SIGINT.
pub async fn run(config: NodeConfig) -> Result<(), Error> {
    let ready = Ready::load(config)?;
    let running = ready.start().await?;
    let _wakes = wake::watch();
    sdnotify::ready();
    let why = signals::stop_requested().await;
    tracing::info!(why, "stopping");
    sdnotify::stopping();
    running.stop().await;
    Ok(())
}

/// Everything that was read and bound; nothing runs yet.
struct Ready {
    config: NodeConfig,
    bundle: Bundle,
    identity: tls::Identity,
    store: store::Opened,
    desk: Option<CaDesk>,
    port: Port,
    http: std::net::TcpListener,
    socket: UnixListener,
    edge_socket: UnixListener,
    relay_socket: UnixListener,
    outward: Arc<Outward>,
    relayed: TlsAcceptor,
}

impl Ready {
    fn load(config: NodeConfig) -> Result<Ready, Error> {
        let now = clock::wall().into();
        let folder = &config.identity.dir;
        let bundle = Bundle::load(folder, RoleKind::Node, now)?;
        if bundle.name.role != identity::Role::Node(config.node.name.clone()) {
            return Err(Error::OtherName {
                folder: folder.display().to_string(),
                found: bundle.name.role.uri(),
                configured: config.node.name.clone(),
            });
        }
        let revocations = Arc::new(Revocations::new(bundle.revoked.clone()));
        let identity = tls::Identity::new(&bundle, revocations.clone(), clock::for_tls())?;
        let store = store::open(&config.node.data_dir, clock::wall_ms())?;
        let desk = config.identity.ca_dir.as_ref().map(|ca_dir| {
            CaDesk::open(ca_dir, &config.node.data_dir, revocations.clone(), Neighbours::of(&config))
        });
        let desk = desk.transpose()?;
        let keys = PortKeys::open(&config.node.data_dir)?;
        let port = bind_quic(&identity, &keys, &config.mesh)?;
        let http = bind_tcp("[admin] http", config.admin.http)?;
        let socket = admin::socket::bind(&config.admin.socket)?;
        let edge_socket = admin::socket::bind(&config.gateway.edge_socket)?;
        let relay_socket = admin::socket::bind(&config.gateway.relay_socket)?;
        let (outward, relayed) = relay::tls(&config, &identity)?;
        let ready = Ready {
            config,
            bundle,
            identity,
            store,
            desk,
            port,
            http,
            socket,
            edge_socket,
            relay_socket,
            outward,
            relayed,
        };
        Ok(ready)
    }

    async fn start(self) -> Result<Running, Error> {
        let me = self.config.node.name.clone();
        let incarnation = self.store.incarnation;
        let serial = self.bundle.name.serial.to_string();
        let (desk_in, desk_questions) = queue::bounded("daemon.desk", DESK_QUEUE);
        let (for_node, records, inquiries) = node::records::inbox();
        let (reader, health) = (self.store.reader, self.store.health);
        let past = (self.store.past, self.store.damaged.is_some());
        let (recorder, trace) = store::trace::open(&self.config.node.data_dir);
        let started = node::start(node::Settings {
            mesh: mesh_config(&self.config, incarnation, past, serial),
            memory: self.store.memory,
            disk: Disk::Store(self.store.jobs, self.store.done),
            records: Some(for_node),
            trace: Some(recorder),
            health: Some(health.clone()),
            trust: self.identity.trust().clone(),
            revocations_file: Some(self.bundle.folder.join(REVOKED)),
            desk: self.desk.is_some().then_some(desk_in),
            software: software(),
        });
        let Started { handle, connected, addresses, task } = started;
        let hello = Hello::new(me.clone(), incarnation, software());
        let local = local(hello, &self.identity, &handle, &self.config.mesh);
        let sessions = sessions::Keeper::open(self.identity.sessions().clone(), &self.config.node.data_dir);
        let (node, endpoint) = (handle.clone(), self.port.endpoint().clone());
        let written = (health.clone(), trace.ended());
        let tasks = vec![task, sessions.start()];
        let mut running =
            Running { node, local: local.clone(), endpoint: endpoint.clone(), tasks, sessions, written };
        let answers = Records { me: me.clone(), node: handle.clone(), reader, trace, health };
        running.tasks.push(answers.start(inquiries));

        let (hub, hub_task, joined) = gateway_in_memory(&me, incarnation, &local);
        running.tasks.extend([hub_task, joined]);
        let native = self.config.gateway.native.then(|| hub.clone());
        let accept = accept::Accept {
            endpoint: endpoint.clone(),
            local: local.clone(),
            hub: native.clone(),
            node: handle.clone(),
        };
        running.tasks.push(accept.start());
        let relayed = relay::Relayed { local: local.clone(), acceptor: self.relayed, hub: native };
        let relayed = relayed.serve(self.relay_socket);
        running.tasks.extend([unix::serve(self.edge_socket, local.clone()), relayed]);
        let peers = peers::Peers {
            configured: configured_peers(&self.config),
            heard: addresses,
            connected,
            local,
            endpoint,
            outward: self.outward,
            me: me.clone(),
        };
        running.tasks.extend([peers.start(), self.port.follow_wakes()]);

        let renewer = renew::Renewer::new(&self.config, self.identity, handle.clone());
        let (asks_in, asked) = queue::bounded("daemon.asks", DESK_QUEUE);
        let asks = asks::Asks { node: handle.clone(), hub, renewer: renewer.handle(), me };
        running.tasks.extend([renewer.start(), asks.start(self.desk, desk_questions, asked)]);
        let http = listener(self.http, self.config.admin.http)?;
        let desks = admin::socket::Desks { node: handle.clone(), records, asks: asks_in };
        running.tasks.push(tasks::spawn("admin.socket", admin::socket::serve(self.socket, desks)));
        running.tasks.push(tasks::spawn("admin.http", admin::http::serve(http, handle)));
        running.tasks.push(tasks::spawn("daemon.watchdog", sdnotify::watchdog()));
        Ok(running)
    }
}

/// A node that runs.
struct Running {
    node: node::Handle,
    local: Arc<Local>,
    endpoint: quinn::Endpoint,
    tasks: Vec<tasks::Task>,
    sessions: sessions::Keeper,
    /// Of the store and of the trace: closed when its thread has written all it has.
    written: (watch::Receiver<store::Health>, watch::Receiver<()>),
}

impl Running {
    /// Peers are told first, so that they use other ways before this node is gone.
    async fn stop(self) {
        let all = async {
            self.local.stop();
            self.endpoint.set_server_config(None);
            self.node.stop().await;
            // Links drain what is queued, then close.
            while self.endpoint.open_connections() > 0 || self.local.open_streams() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            self.endpoint.close(0u32.into(), b"this node is stopping");
        };
        if tokio::time::timeout(STOP_WITHIN, all).await.is_err() {
            tracing::warn!("some peers did not take notice of the stop in time");
        }
        drop(self.tasks);
        let sessions = self.sessions.finish();
        if tokio::time::timeout(STOP_WITHIN, sessions).await.is_err() {
            tracing::warn!("the disk is slow: after the next start some peers need one round trip more");
        }
        // Nobody can hand the disk more: its threads write what they have, and end.
        let (mut store, mut trace) = self.written;
        let written = async {
            while store.changed().await.is_ok() {}
            while trace.changed().await.is_ok() {}
        };
        if tokio::time::timeout(STOP_WITHIN, written).await.is_err() {
            tracing::warn!(
                "the disk is slow: what was accepted is on it, what nobody waited for may be missing"
            );
        }
    }
}

fn mesh_config(
    config: &NodeConfig,
    incarnation: Incarnation,
    (past, damaged): (Option<Past>, bool),
    serial: String,
) -> mesh::Config {
    let heartbeat = Duration::from_millis(config.mesh.heartbeat_ms);
    mesh::Config {
        rooms: mesh::RoomLimits::default(),
        holds_ca: config.identity.ca_dir.is_some(),
        addresses: {
            let (direct, fallback) = (&config.mesh.advertise, &config.mesh.advertise_fallback);
            direct.iter().map(ToString::to_string).chain(fallback.iter().map(ToString::to_string)).collect()
        },
        serial,
        heartbeat,
        silence: (heartbeat * 3).max(SILENCE),
        past,
        damaged,
        limits: mesh_limits(&config.limits),
        ..mesh::Config::new(config.node.name.clone(), incarnation)
    }
}

/// The bounds of each value are the configuration's: none of these can be too large for its type.
fn mesh_limits(given: &LimitsSection) -> mesh::Limits {
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let mib = |number: u64| count(number << 20);
    mesh::Limits {
        mailbox_messages: count(given.mailbox_messages),
        mailbox_bytes: mib(given.mailbox_mib),
        reply_depth: given.reply_depth.try_into().unwrap_or(u16::MAX),
        pair_rate: given.pair_per_second.try_into().unwrap_or(u32::MAX),
        pair_burst: given.pair_burst.try_into().unwrap_or(u32::MAX),
        node_messages: count(given.node_messages),
        node_bytes: mib(given.node_mib),
        namespace_percent: count(given.namespace_percent),
        receipts_of_sender: count(given.receipts_of_sender),
        marks_of_sender: count(given.marks_of_sender),
        created_agents: count(given.created_agents),
        broadcast_recipients: count(given.broadcast_recipients),
        takes_over_after: Duration::from_secs(given.takeover_seconds),
    }
}

fn congestion(mesh: &MeshSection) -> Congestion {
    let algorithm = match mesh.congestion {
        settings::Congestion::Cubic => Algorithm::Cubic,
        settings::Congestion::Bbr => Algorithm::Bbr,
    };
    Congestion { algorithm, floor: mesh.congestion_floor_kib << 10 }
}

fn configured_peers(config: &NodeConfig) -> node::Addresses {
    let address = |peer: &crate::config::node::PeerSection| -> Vec<String> {
        let fallback = peer.fallback.iter().map(ToString::to_string);
        peer.addresses.iter().map(ToString::to_string).chain(fallback).collect()
    };
    let peers = config.mesh.peers.iter().map(|peer| (peer.name.clone(), address(peer)));
    peers.filter(|(_, addresses)| !addresses.is_empty()).collect()
}

fn local(hello: Hello, identity: &tls::Identity, node: &node::Handle, mesh: &MeshSection) -> Arc<Local> {
    let local = Local::with_congestion(hello, identity.clone(), node.links(), congestion(mesh));
    local.allow_early_data();
    local
}

/// The hub for native agents and tools, and the link in memory that joins it with the node task for good.
fn gateway_in_memory(
    me: &NodeName,
    incarnation: Incarnation,
    local: &Arc<Local>,
) -> (HubHandle, tasks::Task, tasks::Task) {
    let (events, incoming) = inbox::bounded("hub.links.first", "hub.links", 1024);
    let (hub, task) = hub::start(incoming);
    let (me, local) = (me.clone(), local.clone());
    let ends = move || {
        let peer = |role| Peer {
            node: me.clone(),
            role,
            incarnation,
            features: vec![ROOMS.to_owned()],
            software: software(),
            serial: String::new(),
        };
        // Each link has a number of its own at both ends: what was handed out over the one before is known by it.
        let id = local.next_id();
        let node_end = End { peer: peer(link::Role::Node), id, events: local.events.clone() };
        (node_end, End { peer: peer(link::Role::Entrance), id, events: events.clone() })
    };
    (hub, task, memory::keep(ends))
}

fn bind_quic(identity: &tls::Identity, keys: &PortKeys, mesh: &MeshSection) -> Result<Port, Error> {
    let address = mesh.listen;
    let tls = tls::quic_server(identity.server()?.config)?;
    let mut server = quinn::ServerConfig::new(Arc::new(tls), keys.tokens()?);
    server.transport_config(Arc::new(quic::transport_with(congestion(mesh))));
    let endpoint = keys.endpoint()?;
    let opened = Port::open(address, udp_buffer(mesh), endpoint, Some(server));
    opened.map_err(|why| Error::Bind { what: "[mesh] listen", address, why })
}

fn udp_buffer(mesh: &MeshSection) -> usize {
    usize::try_from(mesh.udp_buffer_kib << 10).unwrap_or(usize::MAX)
}

fn bind_tcp(what: &'static str, address: SocketAddr) -> Result<std::net::TcpListener, Error> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|why| Error::Bind { what, address, why })
}

fn listener(bound: std::net::TcpListener, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::from_std(bound).map_err(|why| Error::Bind { what: "[admin] http", address, why })
}
