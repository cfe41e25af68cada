//! Behind nginx, HAProxy or a load balancer: who is believed about where a connection comes from, and how it is told.

use std::net::{IpAddr, SocketAddr};

use hyper::header::HeaderMap;
use serde::Deserialize;
use tokio::net::TcpStream;

use super::forwarded::{self, HeaderKind};
use super::net::{self, Net};
use super::proxy_protocol::{self, Header};

/// `proxy` of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Whether every connection begins with a PROXY protocol header. Then nobody but [`Settings::trusted`] may connect.
    pub protocol: bool,
    /// The proxies: only they are believed.
    pub trusted: Vec<Net>,
    /// Where they tell of the client, once HTTP is spoken.
    pub header: HeaderKind,
}

impl Settings {
    /// The key at fault, and why.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.protocol && self.trusted.is_empty() {
            let why = "is empty, and with protocol = true nobody could connect; give the proxies' addresses, such as \
                       [\"192.0.2.10\"]";
            return Err(("proxy.trusted", why.into()));
        }
        Ok(())
    }

    /// Where a connection comes from, before anything else of it is read; `Err` says why it is not served.
    pub async fn source(&self, socket: &mut TcpStream, peer: SocketAddr) -> Result<SocketAddr, String> {
        if !self.protocol {
            return Ok(peer);
        }
        if !net::any(&self.trusted, peer.ip()) {
            return Err("only the configured proxies may connect here".into());
        }
        match proxy_protocol::read(socket).await {
            Ok(Header::From(from)) => Ok(from),
            Ok(Header::Local) => Ok(peer),
            Err(why) => Err(why.to_string()),
        }
    }

    /// Where a request comes from. A proxy that tells nothing of ports leaves none.
    pub fn client(&self, from: SocketAddr, headers: &HeaderMap) -> SocketAddr {
        if self.trusted.is_empty() {
            return from;
        }
        let client: IpAddr = forwarded::client(from.ip(), headers, self.header, &self.trusted);
        if client == from.ip().to_canonical() { from } else { SocketAddr::new(client, 0) }
    }
}
