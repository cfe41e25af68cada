//! Whose a port is that can't be taken: `check` on a machine where the edge runs finds it at its own ports, and that is no fault.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::config::EdgeConfig;
use crate::prepare::{self, Error};

/// How long whoever has a port may take with its answer.
const WITHIN: Duration = Duration::from_secs(2);
/// Longest answer, in bytes.
const MAX_ANSWER: u64 = 1 << 20;
/// Two ports that tell times so near to each other are one process's, in seconds.
const SAME_START: f64 = 3.0;

/// What `/health` tells of an edge, on any of its ports.
#[derive(Debug, Deserialize)]
struct Health {
    server: String,
    uptime: f64,
}

/// Tries every port of a configuration, and lets go of it. Answers those that the edge of this configuration has, which runs: it has the
/// same name, and says on them how long it has run as it does at `[metrics] listen`.
///
/// # Errors
///
/// The first port that can't be taken and is not its own.
pub async fn try_ports(config: &EdgeConfig) -> Result<Vec<SocketAddr>, Error> {
    let mut all: Vec<SocketAddr> = config.services.iter().flat_map(|s| s.listen.clone()).collect();
    all.sort_unstable();
    all.dedup_by(|one, other| one == other && one.port() != 0);
    all.push(config.metrics.listen);
    all.extend(&config.redirect.listen);
    let (mut held, mut own) = (Vec::new(), Vec::new());
    let running = health(config.metrics.listen).await.filter(|health| health.server == config.edge.name);
    for at in all {
        match (prepare::listen(at), &running) {
            (Ok(socket), _) => held.push(socket),
            (Err(Error::InUse { .. } | Error::Privileged { .. }), Some(running))
                if is_of(at, running, config).await =>
            {
                own.push(at);
            }
            (Err(why), _) => return Err(why),
        }
    }
    Ok(own)
}

async fn is_of(at: SocketAddr, running: &Health, config: &EdgeConfig) -> bool {
    if config.redirect.listen.contains(&at) {
        // It tells no more than that.
        return ask(at).await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 308 "));
    }
    health(at).await.is_some_and(|health| {
        health.server == running.server && (health.uptime - running.uptime).abs() < SAME_START
    })
}

/// As an edge tells it to its own machine; `None`: whoever is there tells none.
async fn health(at: SocketAddr) -> Option<Health> {
    let answer = ask(at).await.ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

async fn ask(at: SocketAddr) -> io::Result<String> {
    let ip = match at.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let asking = async {
        let mut socket = TcpStream::connect(SocketAddr::new(ip, at.port())).await?;
        let request = format!("GET /health HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        socket.take(MAX_ANSWER).read_to_string(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(WITHIN, asking).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
