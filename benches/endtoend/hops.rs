//! The bare hops: one echo server each, and the round trip to it.
use crate::carrier::{Sink, Source, quic, unix};
use crate::child::Child;
use crate::load::{Timed, body, cpu, histogram, nanos, per_million};
use crate::net::{self, Identity};
use crate::options::{Settings, Size};
use crate::relay::{Job, Ready, Role};
use crate::way::Endpoint;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use std::net::SocketAddr;
use std::time::Instant;
use tokio_tungstenite::tungstenite::Message;

/// All there are; `Way::hops` uses the same names.
pub const ALL: [&str; 3] = ["WSS", "QUIC", "Unix"];

/// Starts the echo server of one hop, measures round trips to it, and ends it.
pub async fn run(hop: &str, identity: &Identity, settings: &Settings, size: &Size) -> Result<Timed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("echo");
    let role = match hop {
        "WSS" => Role::WssEcho,
        "QUIC" => Role::QuicEcho,
        _ => Role::UnixEcho(path.clone()),
    };
    let job = Job { role, identity: identity.clone(), settings: settings.clone() };
    let (child, Ready { port }) = Child::relay("echo", &job)?;
    let mut echo = match hop {
        "WSS" => {
            let at = Endpoint { url: net::wss_url(port), agent: String::new(), token: None };
            Echo::Wss(net::wss_connect(&at, &identity.ca()?).await?)
        }
        "QUIC" => {
            let endpoint = net::quic_endpoint(identity, settings)?;
            let (connection, tx, rx) =
                net::quic_dial(&endpoint, SocketAddr::new(net::ANY.ip(), port)).await?;
            let (source, sink) = quic(tx, rx);
            Echo::Frames { source, sink, batch: Vec::new(), _connection: Some((endpoint, connection)) }
        }
        _ => {
            let (source, sink) = unix(tokio::net::UnixStream::connect(&path).await?, settings)?;
            Echo::Frames { source, sink, batch: Vec::new(), _connection: None }
        }
    };
    round_trips(&mut echo, &[child], size).await
}

async fn round_trips(echo: &mut Echo, of: &[Child], size: &Size) -> Result<Timed> {
    let mut latency = histogram()?;
    let mut before = None;
    for n in 0..size.warm_up + size.round_trips {
        if n == size.warm_up {
            before = cpu(of);
        }
        let start = Instant::now();
        echo.round_trip(body(n, 0)).await?;
        if n >= size.warm_up {
            latency.record(nanos(start.elapsed()))?;
        }
    }
    Ok(Timed { latency, cpu: per_million(before, cpu(of), size.round_trips) })
}

/// The near end of a hop.
#[allow(clippy::large_enum_variant, reason = "there is one of it")]
enum Echo {
    Wss(net::ClientSocket),
    Frames {
        source: Source,
        sink: Sink,
        batch: Vec<Bytes>,
        _connection: Option<(quinn::Endpoint, quinn::Connection)>,
    },
}

impl Echo {
    async fn round_trip(&mut self, body: String) -> Result<()> {
        match self {
            Self::Wss(socket) => {
                socket.send(Message::text(body)).await?;
                socket.next().await.context("the echo has ended")??;
            }
            Self::Frames { source, sink, batch, .. } => {
                batch.clear();
                sink.write(std::iter::once(Bytes::from(body))).await?;
                ensure!(source.read(batch).await?, "the echo has ended");
            }
        }
        Ok(())
    }
}
