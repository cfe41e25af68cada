//! The first message after the link was down for seconds and is up again.
//!
//! The bare ones dial at the very moment: what their handshakes cost. Our own are told nothing and must find out.
use crate::mesh::{Class, Clients, knows, outgoing};
use crate::place::Place;
use crate::quic;
use crate::tls::{HOST, Identity};
use crate::wss;
use anyhow::{Context, Result, ensure};
use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use trishula::client::Client;

/// Whoever needs longer is said to.
const PATIENCE: Duration = Duration::from_secs(20);
/// Until a first message and the tickets for the next connection have arrived.
const SETTLED: Duration = Duration::from_millis(300);

const NAMES: [&str; 5] = [
    "quic, 0-RTT",
    "quic, 1-RTT",
    "tcp + tls + websocket",
    "mesh, live (sent after)",
    "mesh, durable (sent during)",
];
/// Who it was, in the first byte of a bare message.
const ZERO: usize = 0;
const ONE: usize = 1;
const WSS: usize = 2;
const LIVE: usize = 3;
const DURABLE: usize = 4;

/// A row: milliseconds of each round from the link's being up to the arrival.
#[derive(Debug, Clone, Serialize)]
pub struct Flap {
    pub name: &'static str,
    pub ms: Vec<f64>,
}

/// The first arrival of each.
#[derive(Debug, Clone, Default)]
struct Arrivals(Arc<Mutex<[Option<Instant>; NAMES.len()]>>);

impl Arrivals {
    fn note(&self, who: usize) {
        let now = Instant::now();
        if let Some(first) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(who) {
            first.get_or_insert(now);
        }
    }

    fn get(&self, who: usize) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[who]
    }

    fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Default::default();
    }
}

/// Where the receivers listen.
struct Listening {
    quic: SocketAddr,
    wss: SocketAddr,
}

pub fn run(
    place: &Place,
    clients: &Clients,
    identity: &Identity,
    rounds: usize,
    down: Duration,
) -> Result<Vec<Flap>> {
    let mut rows = NAMES.map(|name| Flap { name, ms: Vec::new() }).to_vec();
    for round in 0..rounds {
        eprintln!("flap, down for {down:?}: round {} of {rounds}", round + 1);
        let arrivals = Arrivals::default();
        let seen = arrivals.clone();
        let up = place.both(
            |listening| async move {
                let endpoint = quic::server(place.any_port(1), identity)?;
                let listener = TcpListener::bind(place.any_port(1)).await?;
                let agent = clients.connect(1, "flapped".into()).await?;
                listening.send(Listening { quic: endpoint.local_addr()?, wss: listener.local_addr()? })?;
                tokio::select! {
                    done = over_quic(&endpoint, &seen) => done,
                    done = over_wss(&listener, identity, &seen) => done,
                    done = over_mesh(agent, &seen) => done,
                }
            },
            |to| once(place, clients, identity, to, down, &arrivals),
        )?;
        for (who, row) in rows.iter_mut().enumerate() {
            let took = |at: Instant| at.duration_since(up).as_secs_f64() * 1e3;
            row.ms.push(arrivals.get(who).map_or(f64::INFINITY, took));
        }
    }
    Ok(rows)
}

/// One flap; says when the link was up again.
async fn once(
    place: &Place,
    clients: &Clients,
    identity: &Identity,
    to: Listening,
    down: Duration,
    arrivals: &Arrivals,
) -> Result<Instant> {
    let endpoint = quinn::Endpoint::client(place.any_port(0))?;
    let kept = quic::client(identity)?;
    let before = endpoint.connect_with(kept.clone(), to.quic, HOST)?.await?;
    say(&before, ZERO).await?;
    let agent = clients.connect(0, "flapping".into()).await?;
    knows(&agent, 1).await?;
    agent.send(outgoing("flapped", json!({"who": LIVE}), Class::Live, 3)).await?;
    sleep(SETTLED).await;
    ensure!(arrivals.get(ZERO).is_some(), "nothing arrived before the flap");
    arrivals.clear();
    before.close(0u32.into(), b"");

    place.link(false);
    sleep(down / 2).await;
    agent.send(outgoing("flapped", json!({"who": DURABLE}), Class::Durable, 3)).await?;
    sleep(down / 2).await;
    let up = Instant::now();
    place.link(true);

    let zero = async {
        let connecting = endpoint.connect_with(kept, to.quic, HOST)?;
        let (connection, _) = connecting.into_0rtt().ok().context("no ticket was kept")?;
        say(&connection, ZERO).await
    };
    let one =
        async { say(&endpoint.connect_with(quic::client(identity)?, to.quic, HOST)?.await?, ONE).await };
    let wss = async {
        let mut socket = wss::connect(to.wss, identity, None).await?;
        socket.send(Message::binary(vec![WSS as u8])).await?;
        sleep(SETTLED).await;
        Ok(())
    };
    let mesh = async {
        while arrivals.get(LIVE).is_none() {
            agent.send(outgoing("flapped", json!({"who": LIVE}), Class::Live, 3)).await?;
            sleep(Duration::from_millis(5)).await;
        }
        while arrivals.get(DURABLE).is_none() {
            sleep(Duration::from_millis(5)).await;
        }
        anyhow::Ok(())
    };
    // Who is late is left out, and the row says so.
    if let Ok(done) = timeout(PATIENCE, async { tokio::try_join!(zero, one, wss, mesh) }).await {
        done?;
    }
    Ok(up)
}

/// One message; returns a while later, when it has surely arrived.
async fn say(connection: &quinn::Connection, who: usize) -> Result<()> {
    let mut stream = connection.open_uni().await?;
    stream.write_all(&[who as u8]).await?;
    stream.finish()?;
    sleep(SETTLED).await;
    Ok(())
}

async fn over_quic(endpoint: &quinn::Endpoint, arrivals: &Arrivals) -> Result<()> {
    while let Some(incoming) = endpoint.accept().await {
        let arrivals = arrivals.clone();
        tokio::spawn(async move {
            // Early data is read before the handshake is done.
            let connection = match incoming.accept()?.into_0rtt() {
                Ok((connection, _)) => connection,
                Err(connecting) => connecting.await?,
            };
            let mut who = [0];
            connection.accept_uni().await?.read_exact(&mut who).await?;
            arrivals.note(who[0].into());
            connection.closed().await;
            anyhow::Ok(())
        });
    }
    Ok(())
}

async fn over_wss(listener: &TcpListener, identity: &Identity, arrivals: &Arrivals) -> Result<()> {
    loop {
        let mut socket = wss::accept(listener, identity).await?;
        if let Some(Ok(Message::Binary(_))) = socket.next().await {
            arrivals.note(WSS);
        }
    }
}

async fn over_mesh(mut agent: Client, arrivals: &Arrivals) -> Result<()> {
    while let Some(message) = agent.next().await {
        if let Some(who) = message.read::<serde_json::Value>()?["who"].as_u64() {
            arrivals.note(who as usize);
        }
    }
    Ok(())
}
