//! A node as the daemon runs it, on the simulated network.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use trishula::identity::sessions::Sessions;
use trishula::identity::{self, tls};
use trishula::link::wss::Outward;
use trishula::link::{self, dial, early, memory, quic};
use trishula::mesh::Config;
use trishula::node::{self, Disk, Handle, Settings};
use trishula::rt::{queue, tasks};
use trishula::wire::frame::Hello;
use trishula::wire::ids::{Incarnation, LinkId, NodeName};
use trishula::wire::record::{Memory, Past};

use crate::edge::{self, Carried, Carrier};
use crate::net::SimNet;
use crate::pki::pki;

/// Which node, where, and whom it dials.
#[derive(Debug, Clone)]
pub struct Plan {
    pub name: NodeName,
    pub address: SocketAddr,
    pub incarnation: Incarnation,
    pub dials: Vec<(NodeName, SocketAddr)>,
    /// Whether each machine has an edge, through which it can be reached where UDP is blocked.
    pub edges: bool,
    pub seed: u64,
}

/// Where a node's records go, and what it has from there.
pub struct Store {
    pub disk: Disk,
    pub memory: Memory,
    pub past: Option<Past>,
}

impl Store {
    pub fn none() -> Store {
        Store { disk: Disk::None, memory: Memory::default(), past: None }
    }
}

/// A node that runs until this is dropped.
pub struct SimNode {
    pub name: NodeName,
    pub handle: Handle,
    local: Arc<quic::Local>,
    endpoint: quinn::Endpoint,
    tasks: Vec<tasks::Task>,
}

impl SimNode {
    pub fn start(net: &SimNet, plan: &Plan, store: Store) -> SimNode {
        let identity = pki().identity(&plan.name);
        let mut mesh = Config::new(plan.name.clone(), plan.incarnation);
        mesh.past = store.past;
        let started = node::start(Settings {
            mesh,
            memory: store.memory,
            disk: store.disk,
            trust: identity.trust().clone(),
            revocations_file: None,
            desk: None,
            records: None,
            trace: None,
            health: None,
            software: "simulated".into(),
        });
        let hello = Hello::new(plan.name.clone(), plan.incarnation, "simulated");
        let local = quic::Local::new(hello, identity, started.handle.links());
        local.allow_early_data();
        let endpoint = endpoint(net, plan, &local);
        let carried = Carried::new(net, plan.name.clone());
        let mut tasks = vec![started.task, accept(local.clone(), endpoint.clone(), carried.clone())];
        let outward = plan.edges.then(|| edge::outward(net, plan.address));
        if plan.edges {
            tasks.push(edge::serve(net, plan.address, local.clone(), carried));
        }
        tasks.extend(diallers((&local, &endpoint), plan, started.connected, outward));
        SimNode { name: plan.name.clone(), handle: started.handle, local, endpoint, tasks }
    }

    /// TLS sessions that its peers can resume.
    pub fn sessions(&self) -> &Sessions {
        self.local.identity.sessions()
    }

    /// Stops in good order: no more connections, goodbye to the peers, time to drain, and then the endpoint.
    pub async fn stop(&self) {
        self.endpoint.set_server_config(None);
        self.handle.stop().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.endpoint.close(0u32.into(), b"this node is stopping");
        let _ = tokio::time::timeout(Duration::from_secs(2), self.endpoint.wait_idle()).await;
    }

    /// An entrance for clients within the node's process: what it hears.
    pub fn entrance(&mut self) -> queue::Receiver<link::Event> {
        let (events, heard) = queue::bounded("sim.entrance", 4096);
        self.entrance_to(LinkId(1), events);
        heard
    }

    /// An entrance that tells what it hears under this number.
    pub fn entrance_to(&mut self, id: LinkId, events: queue::Sender<link::Event>) {
        let peer = |role| link::Peer {
            node: self.name.clone(),
            role,
            incarnation: self.local.hello.incarnation,
            features: Vec::new(),
            software: "simulated".into(),
            serial: String::new(),
        };
        let node = memory::End {
            peer: peer(link::Role::Node),
            id: self.local.next_id(),
            events: self.handle.links(),
        };
        let entrance = memory::End { peer: peer(link::Role::Entrance), id, events: events.into() };
        self.tasks.push(memory::join(node, entrance));
    }
}

fn endpoint(net: &SimNet, plan: &Plan, local: &quic::Local) -> quinn::Endpoint {
    let server = tls::quic_server(local.identity.server().unwrap().config).unwrap();
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(server));
    server.transport_config(Arc::new(quic::transport()));
    let mut config = quinn::EndpointConfig::default();
    let mut seed = [0u8; 32];
    seed[..8].copy_from_slice(&plan.seed.to_le_bytes());
    seed[8..10].copy_from_slice(&plan.address.port().to_le_bytes());
    seed[10..18].copy_from_slice(&plan.incarnation.0.to_le_bytes());
    config.rng_seed(Some(seed));
    let runtime = Arc::new(quinn::TokioRuntime);
    let socket = net.bind(plan.address);
    quinn::Endpoint::new_with_abstract_socket(config, Some(server), socket, runtime).unwrap()
}

fn accept(local: Arc<quic::Local>, endpoint: quinn::Endpoint, carried: Carried) -> tasks::Task {
    tasks::spawn("sim.accept", async move {
        let mut links = tasks::Group::default();
        while let Some(incoming) = endpoint.accept().await {
            let (local, carried) = (local.clone(), carried.clone());
            links.spawn("sim.link", async move {
                let Ok(connecting) = incoming.accept() else { return };
                let Ok((connection, begun)) = early::accept(connecting).await else { return };
                let data = connection
                    .handshake_data()
                    .and_then(|data| data.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?.protocol);
                assert_eq!(data.as_deref(), Some(tls::ALPN_LINK));
                let peer = quic::admit(&local, &connection).unwrap();
                let certificate = quic::Certificate::of(&peer);
                let identity::Role::Node(node) = peer.role else { panic!("only nodes dial here") };
                let _carried = carried.begin(&node, Carrier::Quic);
                let admitted = quic::Admitted { node, role: link::Role::Node, certificate };
                quic::run(&local, connection, admitted, begun).await;
            });
        }
    })
}

/// A dialler for each peer. The node's own channel would wake several of them in any order: each gets one of
/// its own, filled in turn.
fn diallers(
    (local, endpoint): (&Arc<quic::Local>, &quinn::Endpoint),
    plan: &Plan,
    mut connected: watch::Receiver<BTreeSet<NodeName>>,
    outward: Option<Arc<Outward>>,
) -> Vec<tasks::Task> {
    let (mut tasks, mut channels) = (Vec::new(), Vec::new());
    for (name, address) in &plan.dials {
        let (sender, receiver) = watch::channel(BTreeSet::new());
        let mut addresses = vec![address.to_string()];
        addresses.extend(plan.edges.then(|| format!("wss://{address}/mesh")));
        let target = dial::Target { name: Some(name.clone()), addresses };
        let outward = outward.clone().map(|outward| (outward, dial::Pulse::default()));
        let (local, endpoint) = (local.clone(), endpoint.clone());
        tasks.push(dial::keep_with_fallback(local, endpoint, target, receiver, outward));
        channels.push(sender);
    }
    tasks.push(tasks::spawn("sim.connected", async move {
        while connected.changed().await.is_ok() {
            let now = connected.borrow_and_update().clone();
            for channel in &channels {
                channel.send_replace(now.clone());
            }
        }
    }));
    tasks
}
