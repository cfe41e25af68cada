//! The command's side of `reload`: one request to the running edge.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::reload::{HEADER, PATH, Report};

/// How long an answer may take: certificates are read meanwhile.
const WITHIN: Duration = Duration::from_secs(10);
/// Longest answer, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody is there.
    #[error(
        "no edge answers at {at} ([metrics] listen): {why}; is it running, and with this configuration? see: systemctl status trishula-edge"
    )]
    NotThere {
        /// Where.
        at: SocketAddr,
        /// What the system said.
        why: io::Error,
    },
    /// Something else is.
    #[error("what answers at {at} ([metrics] listen) is no edge that reloads: {said}")]
    Odd {
        /// Where.
        at: SocketAddr,
        /// Its first line.
        said: String,
    },
}

/// Asks the edge whose metrics are at this address.
pub async fn reload(listen: SocketAddr) -> Result<Report, Error> {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let at = SocketAddr::new(ip, listen.port());
    let asking = async {
        let mut socket = TcpStream::connect(at).await?;
        let request = format!(
            "POST {PATH} HTTP/1.1\r\nHost: {at}\r\n{HEADER}: yes\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        socket.take(MAX_ANSWER).read_to_string(&mut answer).await?;
        Ok(answer)
    };
    let answer = tokio::time::timeout(WITHIN, asking).await;
    let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let answer = answer.map_err(|why| Error::NotThere { at, why })?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body)
        .map_err(|_| Error::Odd { at, said: answer.lines().next().unwrap_or_default().to_owned() })
}
