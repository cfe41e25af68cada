//! The edge of a machine, as far as other machines need it where UDP is blocked: TLS, a WebSocket, and bytes passed on to
//! the node. And the way to those of others.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use trishula::identity::{Role, tls};
use trishula::link;
use trishula::link::network::{ByteStream, Network};
use trishula::link::proxy::Proxies;
use trishula::link::quic::Local;
use trishula::link::websocket::{self, WebSocketBytes};
use trishula::link::wss::{self, Outward};
use trishula::rt::tasks;
use trishula::wire::ids::NodeName;

use crate::net::{SimNet, SimStream};
use crate::pki::pki;

/// Bytes on the way between an edge and its node, and taken at once.
const BETWEEN: usize = 64 * 1024;
const CHUNK: usize = 16 * 1024;
/// How long the end of a relay may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// What a link is carried by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    Quic,
    Wss,
}

/// The links that others have dialled to a node, by their carriers; cheap to clone.
#[derive(Clone)]
pub struct Carried {
    net: SimNet,
    node: NodeName,
    links: Arc<Mutex<BTreeMap<NodeName, [usize; 2]>>>,
}

/// One of them, until this is dropped.
pub struct Link {
    carried: Carried,
    peer: NodeName,
    carrier: Carrier,
}

impl Carried {
    pub fn new(net: &SimNet, node: NodeName) -> Carried {
        Carried { net: net.clone(), node, links: Arc::default() }
    }

    /// A link has come.
    pub fn begin(&self, peer: &NodeName, carrier: Carrier) -> Link {
        let mut all = self.links.lock().unwrap();
        let links = all.entry(peer.clone()).or_default();
        let other = links[1 - carrier as usize] > 0;
        links[carrier as usize] += 1;
        self.net.note(format!(
            "{} is dialled by {peer} on {carrier:?}, and has another carrier: {other}",
            self.node
        ));
        match (carrier, other) {
            (Carrier::Quic, false) => {}
            (Carrier::Quic, true) => self.net.count("links from WSS to QUIC"),
            (Carrier::Wss, false) => self.net.count("links on WSS from the first"),
            (Carrier::Wss, true) => self.net.count("links from QUIC to WSS"),
        }
        Link { carried: self.clone(), peer: peer.clone(), carrier }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let Link { carried, peer, carrier } = self;
        if let Some(links) = carried.links.lock().unwrap().get_mut(peer) {
            links[*carrier as usize] -= 1;
        }
        carried.net.note(format!("{} has one link less from {peer} on {carrier:?}", carried.node));
    }
}

/// The network, as it is seen from a machine.
struct Outside(SimNet, SocketAddr);

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulated, from {}", self.1)
    }
}

impl Network for Outside {
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<ByteStream>> {
        let to = SocketAddr::new(host.parse().expect("hosts have no names here"), port);
        Box::pin(async move { Ok(Box::new(self.0.connect(self.1, to).await?) as ByteStream) })
    }

    fn address_towards<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Option<IpAddr>> {
        Box::pin(async { Some(self.0.seen(self.1).ip()) })
    }
}

/// The way from a machine to the edges of others.
pub fn outward(net: &SimNet, from: SocketAddr) -> Arc<Outward> {
    let tls = tls::outer_client(None, pki().clock()).unwrap();
    Arc::new(Outward { tls, proxies: Ok(Proxies::default()), network: Arc::new(Outside(net.clone(), from)) })
}

/// The edge of a machine, until the task is dropped.
pub fn serve(net: &SimNet, at: SocketAddr, local: Arc<Local>, carried: Carried) -> tasks::Task {
    let mut opened = net.listen(at);
    // Nobody looks at what the outside shows.
    let mut outside = rustls::ServerConfig::clone(&local.identity.relay_server().unwrap());
    outside.alpn_protocols = Vec::new();
    let outside = TlsAcceptor::from(Arc::new(outside));
    tasks::spawn("sim.edge", async move {
        let mut relays = tasks::Group::default();
        while let Some((stream, from)) = opened.recv().await {
            let (outside, local, carried) = (outside.clone(), local.clone(), carried.clone());
            relays.spawn("sim.relay", async move {
                let (to_node, node) = tokio::io::duplex(BETWEEN);
                let (relayed, taken) = (relay(stream, from, outside, to_node), take(local, node, carried));
                let _ = tokio::join!(relayed, taken);
            });
        }
    })
}

/// As the edge does: bytes both ways until one end is over.
async fn relay(
    stream: SimStream,
    from: SocketAddr,
    outside: TlsAcceptor,
    mut node: tokio::io::DuplexStream,
) -> io::Result<()> {
    let secured = outside.accept(stream).await?;
    let config = Some(websocket::config());
    let socket = tokio_tungstenite::accept_async_with_config(secured, config).await;
    let socket = socket.map_err(io::Error::other)?;
    node.write_all(wss::announce(from).as_bytes()).await?;
    let (mut from_peer, mut to_peer) = tokio::io::split(WebSocketBytes::new(socket));
    let (mut from_node, mut to_node) = tokio::io::split(node);
    let ended = tokio::select! {
        biased;
        ended = copy(&mut from_peer, &mut to_node) => ended,
        ended = copy(&mut from_node, &mut to_peer) => ended,
    };
    let _ = tokio::time::timeout(CLOSE_WITHIN, to_peer.shutdown()).await;
    ended
}

async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = from.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&chunk[..count]).await?;
        to.flush().await?;
    }
}

/// As the node does with what its edge relays.
async fn take(
    local: Arc<Local>,
    stream: tokio::io::DuplexStream,
    carried: Carried,
) -> Result<(), wss::Refused> {
    let within = TlsAcceptor::from(local.identity.relay_server().unwrap());
    let accepted = wss::accept(&local, &within, stream).await?;
    let Role::Node(node) = accepted.peer.role.clone() else { panic!("only nodes dial here") };
    let _carried = carried.begin(&node, Carrier::Wss);
    accepted.run(&local, node, link::Role::Node).await;
    Ok(())
}
