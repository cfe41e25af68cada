//! What the relay processes run: an edge, a node, or one bare echo.
use crate::carrier::{Sink, Source, pump, quic, unix, wss};
use crate::child::read_job;
use crate::net::{self, Identity};
use crate::options::Settings;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::net::{TcpListener, UnixListener, UnixStream};

/// What a relay is told on standard input.
#[derive(Serialize, Deserialize)]
pub struct Job {
    pub role: Role,
    pub identity: Identity,
    pub settings: Settings,
}

#[derive(Serialize, Deserialize)]
pub enum Role {
    /// Serves one WSS client and carries it to a node.
    Edge(NodeAddress),
    /// Joins the edge that dials it, by QUIC or over `edge_socket`, to a peer: one that it dials, or that dials it.
    Node {
        peer: Option<SocketAddr>,
        edge_socket: Option<PathBuf>,
    },
    WssEcho,
    QuicEcho,
    UnixEcho(PathBuf),
}

/// Where an edge finds its node.
#[derive(Serialize, Deserialize)]
pub enum NodeAddress {
    Quic(SocketAddr),
    Unix(PathBuf),
}

/// What a relay says once it listens: its port, TCP or UDP; 0 when it listens on a path.
#[derive(Serialize, Deserialize)]
pub struct Ready {
    pub port: u16,
}

/// The first byte of a QUIC stream says who dials.
const EDGE: u8 = b'E';
const PEER: u8 = b'P';

/// The relay process: reads its job, runs it until it is killed.
pub fn main() -> Result<()> {
    let job: Job = read_job()?;
    let mut runtime = if job.settings.threads > 1 {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(job.settings.threads);
        runtime
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    runtime.enable_all().build()?.block_on(run(job))
}

async fn run(Job { role, identity, settings }: Job) -> Result<()> {
    match role {
        Role::Edge(node) => edge(node, &identity, &settings).await,
        Role::Node { peer, edge_socket } => node(peer, edge_socket, &identity, &settings).await,
        Role::WssEcho => {
            let listener = TcpListener::bind(net::ANY).await?;
            ready(listener.local_addr()?.port())?;
            let (from, to) = wss(net::wss_accept(&listener, &identity).await?);
            pump(from, to, settings.flush_each).await
        }
        Role::QuicEcho => {
            let endpoint = net::quic_endpoint(&identity, &settings)?;
            ready(endpoint.local_addr()?.port())?;
            let (_connection, tx, rx) = net::quic_accept(&endpoint).await?;
            let (from, to) = quic(tx, rx);
            pump(from, to, settings.flush_each).await
        }
        Role::UnixEcho(path) => {
            let listener = UnixListener::bind(path)?;
            ready(0)?;
            let (from, to) = unix(listener.accept().await?.0, &settings)?;
            pump(from, to, settings.flush_each).await
        }
    }
}

async fn edge(node: NodeAddress, identity: &Identity, settings: &Settings) -> Result<()> {
    let listener = TcpListener::bind(net::ANY).await?;
    let endpoint;
    let _connection;
    let up = match node {
        NodeAddress::Quic(address) => {
            endpoint = net::quic_endpoint(identity, settings)?;
            let (connection, mut tx, rx) = net::quic_dial(&endpoint, address).await?;
            _connection = connection;
            tx.write_all(&[EDGE]).await?;
            quic(tx, rx)
        }
        NodeAddress::Unix(path) => unix(UnixStream::connect(path).await?, settings)?,
    };
    ready(listener.local_addr()?.port())?;
    let down = wss(net::wss_accept(&listener, identity).await?);
    join(down, up, settings).await
}

async fn node(
    peer: Option<SocketAddr>,
    edge_socket: Option<PathBuf>,
    identity: &Identity,
    settings: &Settings,
) -> Result<()> {
    let endpoint = net::quic_endpoint(identity, settings)?;
    let mut connections = Vec::new();
    let (mut edge, mut other) = (None, None);
    let unix_edges = edge_socket.map(UnixListener::bind).transpose()?;
    if let Some(address) = peer {
        let (connection, mut tx, rx) = net::quic_dial(&endpoint, address).await?;
        connections.push(connection);
        tx.write_all(&[PEER]).await?;
        other = Some(quic(tx, rx));
    }
    ready(endpoint.local_addr()?.port())?;
    while other.is_none() || (edge.is_none() && unix_edges.is_none()) {
        let (connection, tx, mut rx) = net::quic_accept(&endpoint).await?;
        connections.push(connection);
        let mut who = [0];
        rx.read_exact(&mut who).await?;
        match who[0] {
            EDGE => edge = Some(quic(tx, rx)),
            PEER => other = Some(quic(tx, rx)),
            byte => bail!("a stream that begins with {byte}"),
        }
    }
    if let Some(listener) = unix_edges {
        edge = Some(unix(listener.accept().await?.0, settings)?);
    }
    join(edge.context("no edge")?, other.context("no peer")?, settings).await
}

/// Pumps both ways, a task each, until either ends.
async fn join(a: (Source, Sink), b: (Source, Sink), settings: &Settings) -> Result<()> {
    let each = settings.flush_each;
    let there = tokio::spawn(pump(a.0, b.1, each));
    let back = tokio::spawn(pump(b.0, a.1, each));
    tokio::select! {
        done = there => done?,
        done = back => done?,
    }
}

fn ready(port: u16) -> Result<()> {
    println!("{}", serde_json::to_string(&Ready { port })?);
    Ok(())
}
