//! The bare chain: four relay processes of the shape that ours has, and nothing else.
use crate::child::Child;
use crate::net::{self, Identity};
use crate::options::{Hop, Settings};
use crate::relay::{Job, NodeAddress, Ready, Role};
use crate::way::{Endpoint, Running, Way};
use anyhow::Result;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Edge, node, node, edge; each edge reaches its node by `hop`, the nodes each other by QUIC.
pub struct BareChain {
    hop: Hop,
    identity: Identity,
    settings: Settings,
}

impl BareChain {
    pub fn new(hop: Hop, identity: Identity, settings: Settings) -> Self {
        Self { hop, identity, settings }
    }

    fn relay(&self, name: &'static str, role: Role) -> Result<(Child, u16)> {
        let job = Job { role, identity: self.identity.clone(), settings: self.settings.clone() };
        let (child, Ready { port }) = Child::relay(name, &job)?;
        Ok((child, port))
    }
}

impl Way for BareChain {
    fn name(&self) -> &'static str {
        match self.hop {
            Hop::Quic => "bare chain, edge-node by QUIC",
            Hop::Unix => "bare chain, edge-node by Unix",
        }
    }

    fn hops(&self) -> [&'static str; 5] {
        match self.hop {
            Hop::Quic => ["WSS", "QUIC", "QUIC", "QUIC", "WSS"],
            Hop::Unix => ["WSS", "Unix", "QUIC", "Unix", "WSS"],
        }
    }

    fn start(&self) -> Result<Running> {
        let folder = tempfile::tempdir()?;
        let socket =
            |name: &str| -> Option<PathBuf> { (self.hop == Hop::Unix).then(|| folder.path().join(name)) };
        let address = |port: u16, socket: Option<PathBuf>| match socket {
            Some(path) => NodeAddress::Unix(path),
            None => NodeAddress::Quic(loopback(port)),
        };
        let (sock_a, sock_b) = (socket("a"), socket("b"));
        let (node_b, port_b) =
            self.relay("node-b", Role::Node { peer: None, edge_socket: sock_b.clone() })?;
        let peer = Some(loopback(port_b));
        let (node_a, port_a) = self.relay("node-a", Role::Node { peer, edge_socket: sock_a.clone() })?;
        let (edge_a, wss_a) = self.relay("edge-a", Role::Edge(address(port_a, sock_a)))?;
        let (edge_b, wss_b) = self.relay("edge-b", Role::Edge(address(port_b, sock_b)))?;
        let endpoint =
            |agent: &str, port| Endpoint { url: net::wss_url(port), agent: agent.to_owned(), token: None };
        Ok(Running {
            a: endpoint("a", wss_a),
            b: endpoint("b", wss_b),
            ca: self.identity.ca()?,
            processes: vec![edge_a, node_a, node_b, edge_b],
            guards: vec![Box::new(folder)],
        })
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(net::ANY.ip(), port)
}
