//! Tries to connect with one peer by QUIC: beside each other where there is no answer, and with early data where there is a ticket.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::super::early::{self, Begun, Configs};
use super::super::quic::{self, Admitted, Certificate};
use super::super::race::{self, BESIDE_EVERY, BESIDE_WITHIN, MAX_BESIDE};
use super::super::{Error, Role};
use super::Dialler;
use crate::identity;
use crate::rt::clock;

/// How long early data that follows a handshake may take, in round trips of that handshake …
const FOLLOWS_WITHIN_RTTS: u32 = 3;
/// … and at least: a busy peer is not taken for one that is gone.
const FOLLOWS_WITHIN: Duration = Duration::from_millis(200);

/// Addresses of one name that are tried.
const MAX_RESOLVED: usize = 8;

/// A connection, who is there, and how it began.
pub(super) type Reached = (quinn::Connection, Admitted, Begun);

/// Why there is no connection.
enum Failed {
    /// At this one of the target's addresses.
    Here(String),
    /// And it would be no better at another.
    For(Error),
}

impl Dialler {
    /// By any of the name's addresses: one that is silent keeps the others waiting for no longer than its head start.
    pub(super) async fn connect_to(&self, address: &str, configs: &Configs) -> Result<Reached, Error> {
        let failed = |why: String| Error::Dial { address: address.to_owned(), why };
        let named = self.target.name.clone().and_then(|name| identity::Role::Node(name).dns_name());
        let server_name = named.unwrap_or_else(|| identity::ANY_NODE.to_owned());
        let found = resolve(address, self.endpoint.local_addr().ok()).await;
        let found = found.map_err(|e| failed(e.to_string()))?;
        let reached = race::in_turn(found, |remote| {
            let reached = self.reach(remote, &server_name, configs);
            async move {
                match reached.await {
                    Err(Failed::Here(why)) => Err(why),
                    // That decides.
                    Err(Failed::For(e)) => Ok(Err(e)),
                    Ok(connected) => Ok(Ok(connected)),
                }
            }
        });
        let none = || "the name has no address that this machine's socket can reach".to_owned();
        reached.await.map_err(|why| failed(why.unwrap_or_else(none))).flatten()
    }

    /// One address: not long after there was a link by several tries, the first of which that ends decides.
    async fn reach(
        &self,
        remote: SocketAddr,
        server_name: &str,
        configs: &Configs,
    ) -> Result<Reached, Failed> {
        let recent = clock::since(self.missed_since) < BESIDE_WITHIN;
        let most = if recent { MAX_BESIDE } else { 1 };
        let follows = AtomicBool::new(false);
        race::beside(most, BESIDE_EVERY, |_| self.connect_once((remote, server_name), configs, &follows))
            .await
    }

    /// One try. It has early data while tickets can be spared. In a long outage they can't: then a whole handshake finds out
    /// that the way is open, and early data follows it: messages are there a round trip sooner than after HELLO. What
    /// `follows` is one for all tries.
    async fn connect_once(
        &self,
        to: (SocketAddr, &str),
        configs: &Configs,
        follows: &AtomicBool,
    ) -> Result<Reached, Failed> {
        if configs.can_spare() {
            return self.handshake(to, configs.first.clone()).await;
        }
        let whole = self.handshake(to, configs.whole.clone()).await?;
        if configs.tickets.is_empty() || !early::may_begin(&self.local, self.target.name.as_ref()) {
            return Ok(whole);
        }
        if follows.swap(true, Ordering::Relaxed) {
            // That of another try decides.
            return std::future::pending().await;
        }
        let within = (whole.0.rtt() * FOLLOWS_WITHIN_RTTS).max(FOLLOWS_WITHIN);
        match tokio::time::timeout(within, self.handshake(to, configs.first.clone())).await {
            Ok(Ok(early)) if matches!(early.2, Begun::Resumed(_)) => Ok(early),
            // The peer has forgotten the session, or that flight was lost.
            _ => Ok(whole),
        }
    }

    /// To its end, and whose it is.
    async fn handshake(
        &self,
        (remote, server_name): (SocketAddr, &str),
        config: quinn::ClientConfig,
    ) -> Result<Reached, Failed> {
        let connecting = match self.endpoint.connect_with(config, remote, server_name) {
            Err(quinn::ConnectError::EndpointStopping) => return Err(Failed::For(Error::Stopping)),
            other => other.map_err(|e| Failed::Here(e.to_string()))?,
        };
        let name = self.target.name.as_ref();
        let connected = match early::begin(&self.local, name, connecting) {
            Ok(attempt) => attempt.settle(&self.local).await,
            Err(connecting) => connecting.await.map(|connection| (connection, Begun::Dialled)),
        };
        let (connection, begun) = match connected {
            Ok(both) => both,
            Err(quinn::ConnectionError::LocallyClosed) => return Err(Failed::For(Error::Stopping)),
            Err(e) => {
                if !matches!(e, quinn::ConnectionError::TimedOut) {
                    self.refused.store(true, Ordering::Relaxed);
                }
                return Err(Failed::Here(identity::tls::explain(&e)));
            }
        };
        match quic::admit(&self.local, &connection).and_then(admitted_node) {
            Ok(peer) => {
                self.local.known.answered(name, &peer, connection.rtt());
                Ok((connection, peer, begun))
            }
            Err(e) => {
                // It may have resumed what it showed before its certificate was renewed.
                self.local.known.forget(name);
                Err(Failed::For(e))
            }
        }
    }
}

fn admitted_node(peer: identity::PeerName) -> Result<Admitted, Error> {
    let certificate = Certificate::of(&peer);
    match peer.role {
        identity::Role::Node(node) => Ok(Admitted { node, role: Role::Node, certificate }),
        other => Err(Error::WrongRole(other.uri())),
    }
}

/// Addresses that this socket can reach, in the order in which they are tried: one bound to IPv4 can't send to IPv6.
pub(super) async fn resolve(address: &str, local: Option<SocketAddr>) -> std::io::Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host(address).await?;
    let reachable = found.filter(|to| local.is_none_or(|local| local.is_ipv6() || to.is_ipv4()));
    let mut ordered = race::by_turns(reachable);
    ordered.truncate(MAX_RESOLVED);
    Ok(ordered)
}
