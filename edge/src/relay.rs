//! Other nodes that get no UDP through: their bytes, from a WebSocket on `/mesh` to this machine's own node and back.
//!
//! Nobody is asked who he is: within the bytes runs TLS of the mesh, of which the edge knows nothing, and the node lets
//! in whom it knows. So there are limits here, on how many there are and on how long nothing comes, and the one place
//! that can be reached is the node's socket for it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use trishula::link::websocket::WebSocketBytes;
use trishula::link::wss;
use trishula::metrics;
use trishula::rt::platform;
use trishula::wire::close::{Code, Refusal};

use crate::addresses;
use crate::config::RelaySection;

/// How long the node may take to answer at its socket.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// A relay over which nothing went in one direction for so long is over. The node itself finds out much earlier: a
/// link is silent for three heartbeats at most, of a minute each at the longest.
const IDLE: Duration = Duration::from_secs(200);
/// How long the end of a relay may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// Bytes taken at once, and so kept from those that come behind them.
const CHUNK: usize = 16 * 1024;
/// Bytes that the node's socket holds before the node has read them.
const UNREAD: usize = 64 * 1024;

/// What an edge relays, for all of its services.
#[derive(Debug)]
pub struct Relay {
    socket: PathBuf,
    most: usize,
    /// Of one address no more than a quarter of all.
    most_of_one: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// A relay that may begin: the node has answered.
#[derive(Debug)]
pub struct Way {
    node: UnixStream,
    from: SocketAddr,
    _place: Place,
}

/// A place among the relays, until it is dropped.
#[derive(Debug)]
struct Place {
    relay: Arc<Relay>,
    of: IpAddr,
}

impl Relay {
    /// As configured; `None`: nothing is relayed.
    pub fn new(section: &RelaySection) -> Option<Arc<Relay>> {
        let relay = Relay {
            socket: section.socket.clone(),
            most: section.max_relays,
            most_of_one: (section.max_relays / 4).max(1),
            open: Mutex::default(),
        };
        if section.serve && !relay.socket.exists() {
            let socket = relay.socket.display();
            tracing::info!(%socket, "the node's socket for relays is not there yet; without it (the node is on another machine, or not running) no other node is passed on");
        }
        section.serve.then(|| Arc::new(relay))
    }

    /// How many at once.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Takes a place and connects to the node.
    ///
    /// # Errors
    ///
    /// There are too many, or the node does not answer at its socket.
    pub async fn open(self: &Arc<Relay>, from: SocketAddr) -> Result<Way, Refusal> {
        let refuse = |reason: &str, why: String| {
            metrics::RELAYS_REFUSED.with_label_values(&[reason]).inc();
            Refusal::new(Code::Unavailable, why)
        };
        let place = self.place(from.ip());
        let place = place.ok_or_else(|| refuse("full", "too many nodes are relayed here already".into()))?;
        let connecting = async {
            let mut node = UnixStream::connect(&self.socket).await?;
            platform::keep_unread_short(&node, UNREAD)?;
            node.write_all(wss::announce(from).as_bytes()).await?;
            Ok::<_, io::Error>(node)
        };
        let connected = tokio::time::timeout(CONNECT_WITHIN, connecting).await;
        let why = match connected {
            Ok(Ok(node)) => return Ok(Way { node, from, _place: place }),
            Ok(Err(e)) => e.to_string(),
            Err(_) => format!("no answer within {CONNECT_WITHIN:?}"),
        };
        // The path is for the operator of this machine, not for whoever asks from outside.
        let socket = self.socket.display();
        tracing::warn!(%socket, why, "a node can't be relayed: is the node of this machine running, and [relay] socket right?");
        Err(refuse("no_node", "the node behind this edge can't be reached".into()))
    }

    /// For an address, or a network that counts as one.
    fn place(self: &Arc<Relay>, address: IpAddr) -> Option<Place> {
        let of = addresses::group(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.values().sum::<usize>() >= self.most || open.get(&of).is_some_and(|n| *n >= self.most_of_one)
        {
            return None;
        }
        *open.entry(of).or_default() += 1;
        metrics::RELAYS.inc();
        Some(Place { relay: self.clone(), of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.relay.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.of);
            }
        }
        metrics::RELAYS.dec();
    }
}

/// Copies bytes both ways until one end is over, or nothing went in one direction for too long. `read` is what came
/// behind the request for the upgrade.
pub async fn run<S>(io: S, read: Bytes, way: Way)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Way { node, from, _place } = way;
    let (mut from_peer, mut to_peer) = tokio::io::split(WebSocketBytes::accepted(io, read).await);
    let (mut from_node, mut to_node) = node.into_split();
    tracing::debug!(%from, "a node is relayed");
    let ended = tokio::select! {
        ended = copy(&mut from_peer, &mut to_node) => ended,
        ended = copy(&mut from_node, &mut to_peer) => ended,
    };
    // What the node said last has left; the peer is told that it is over, if it still listens.
    let _ = tokio::time::timeout(CLOSE_WITHIN, to_peer.shutdown()).await;
    let why = ended.err().map_or_else(|| "closed".to_owned(), |e| e.to_string());
    tracing::debug!(%from, why, "a relay ended");
}

async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let once = async {
            let count = from.read(&mut chunk).await?;
            to.write_all(&chunk[..count]).await?;
            to.flush().await?;
            Ok::<_, io::Error>(count)
        };
        match tokio::time::timeout(IDLE, once).await {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(_)) => {}
            Ok(Err(e)) => return Err(e),
            Err(_) => return Err(io::Error::other(format!("nothing went for {IDLE:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv6_has_no_more_places_than_an_address() {
        // covers B09
        let section = RelaySection { max_relays: 4, ..RelaySection::default() };
        let relay = Relay::new(&section).unwrap();
        let place = |address: &str| relay.place(address.parse().unwrap());
        let taken = place("2001:db8:1:2::3");
        assert!(taken.is_some());
        assert!(place("2001:db8:1:2:ffff::4").is_none(), "a customer has a whole network");
        assert!(place("2001:db8:1:3::3").is_some() && place("::ffff:192.0.2.1").is_some());
        drop(taken);
        assert!(place("2001:db8:1:2:ffff::4").is_some());
    }
}
