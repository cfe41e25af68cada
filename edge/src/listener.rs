//! Sockets and TLS, and the limits on both.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use trishula::gateway::hub::HubHandle;
use trishula::gateway::session::Opening;
use trishula::identity::live::ReloadableCert;
use trishula::link::wss;
use trishula::metrics;
use trishula::rt::{accept, clock, tasks};

use crate::client;
use crate::deflate::{DeflateIo, Shared};
use crate::door::Door;
use crate::echo;
use crate::http::{self, Grant, Page, Upgraded};
use crate::prepare::Prepared;
use crate::relay::{self, Relay};
use crate::site::{self, Site};
use crate::speech::Speech;
use crate::wss::Wss;

/// One service while it runs.
pub struct Service {
    /// What its pages need.
    pub page: Page,
    /// How its sessions begin.
    pub opening: Opening,
    /// What its clients speak.
    pub speech: Speech,
    /// Who comes in.
    pub door: Arc<Door>,
    /// How long nothing may be said on a connection; zero: for ever.
    pub idle: Duration,
    /// Joins its sessions with the node.
    pub hub: HubHandle,
    /// Its TLS, with its certificate.
    pub tls: Arc<ServerConfig>,
    /// Its certificate.
    pub certificate: Arc<ReloadableCert>,
    names: Vec<String>,
    max_connections: usize,
    handshake_within: Duration,
    stop: watch::Receiver<bool>,
}

/// Connections of a service.
#[derive(Debug, Default)]
pub struct Counts {
    /// Open WebSockets.
    pub active: AtomicU64,
    /// WebSockets since the start.
    pub total: AtomicU64,
}

impl Service {
    /// Makes a service of what was prepared; `stop` becomes true when the process ends.
    pub fn new(
        prepared: Prepared,
        name: &str,
        hub: HubHandle,
        relay: Option<Arc<Relay>>,
        stop: watch::Receiver<bool>,
    ) -> Service {
        let section = &prepared.section;
        let door = Arc::new(Door::new(section));
        let page = Page {
            server: name.to_owned(),
            namespace: Some(section.name.clone()),
            paths: section.paths.clone(),
            echo: section.echo,
            deflate: Shared::new(&section.deflate, section.max_frame),
            relay,
            door: Some(door.clone()),
            counts: Arc::new(Counts::default()),
            started: clock::micros(),
            hub: hub.clone(),
            stop: stop.clone(),
        };
        Service {
            page,
            speech: Speech::new(section),
            door,
            idle: Duration::from_secs(section.connection_timeout_s),
            names: section.names.clone(),
            max_connections: section.max_connections,
            tls: prepared.tls.clone(),
            certificate: prepared.certificate.clone(),
            handshake_within: section.handshake_timeout(),
            opening: prepared.opening,
            hub,
            stop,
        }
    }

    /// Whether this host name leads to it.
    pub fn is_called(&self, host: &str) -> bool {
        self.names.iter().any(|name| name.eq_ignore_ascii_case(host))
    }

    /// Whether only clients that ask for its name mean it, where the port is shared.
    pub fn has_names(&self) -> bool {
        !self.names.is_empty()
    }
}

/// Connections beyond those that find room: so many at once are told that they do not.
const TURNED_AWAY: usize = 256;

/// Takes connections to services that share a port until the process is to stop; ends when the last of them has. `all`: room
/// for connections of the whole process.
pub async fn serve(listener: TcpListener, site: Site, all: Arc<Semaphore>) {
    let mut connections = tasks::Group::default();
    let services = site.services();
    let Some(mut stop) = services.first().map(|service| service.stop.clone()) else { return };
    let room: usize = services.iter().map(|service| service.max_connections).sum();
    let permits = Arc::new(Semaphore::new((room + TURNED_AWAY).min(Semaphore::MAX_PERMITS)));
    let certificates = services.iter().map(|service| (service.names.clone(), service.certificate.clone()));
    let first = site.called(None);
    let tls = site::with_certificates((&first.tls, &first.certificate), certificates.collect());
    let (site, tls) = (Arc::new(site), TlsAcceptor::from(tls));
    loop {
        // A permit before the accept: what there is no room for waits in the system's queue, not in ours.
        let accepted = async {
            let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
            let of_all = all.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (socket, from) = listener.accept().await?;
            Ok::<_, io::Error>(((permit, of_all), socket, from))
        };
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((permit, socket, from)) => {
                let (site, tls) = (site.clone(), tls.clone());
                connections.spawn("edge.connection", async move {
                    connection(socket, from, &site, &tls).await;
                    drop(permit);
                });
            }
            Err(e) => {
                tracing::warn!(error = %e, "a connection could not be taken");
                tokio::time::sleep(accept::PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.join_all().await;
}

/// One connection: TLS, requests, and then perhaps a session.
async fn connection(socket: TcpStream, from: SocketAddr, site: &Site, tls: &TlsAcceptor) {
    // Without it a small frame may wait for the acknowledgement of the one before.
    if let Err(e) = socket.set_nodelay(true) {
        tracing::debug!(%from, error = %e, "TCP_NODELAY was refused");
    }
    let within = site.called(None).handshake_within;
    let secured = tokio::time::timeout(within, tls.accept(socket)).await;
    let tls = match secured {
        Ok(Ok(tls)) => tls,
        // Everyday on an open port.
        Ok(Err(e)) => {
            metrics::EDGE_REFUSED.with_label_values(&["tls"]).inc();
            return tracing::debug!(%from, error = %e, "the TLS handshake failed");
        }
        Err(_) => {
            return site.called(None).door.log(from, "handshake_timeout", "the TLS handshake took too long");
        }
    };
    let sni = tls.get_ref().1.server_name().filter(|name| site.knows(name)).map(str::to_owned);
    let asked = |host: Option<&str>| site.called(sni.as_deref().or(host));
    let pages = |host: Option<&str>| {
        let service = asked(host);
        (&service.page, Some(&service.opening))
    };
    let mut stop = site.called(None).stop.clone();
    let requests = http::serve(tls, from, &pages, within);
    let upgraded = tokio::select! {
        biased;
        upgraded = requests => upgraded,
        _ = stop.wait_for(|stop| *stop) => return,
    };
    let Some(Upgraded { io, read, grant, host }) = upgraded else { return };
    let service = asked(host.as_deref());
    let deflate = match &grant {
        Grant::Session { deflate, .. } | Grant::Echo { deflate, .. } => *deflate,
        Grant::Relay(_) => None,
    };
    if let Grant::Relay(way) = grant {
        wss::prepare(io.get_ref().0);
        return tokio::select! {
            () = relay::run(io, read, way) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        };
    }
    let counts = &service.page.counts;
    counts.active.fetch_add(1, Ordering::Relaxed);
    counts.total.fetch_add(1, Ordering::Relaxed);
    let _open = OnDrop(|| {
        counts.active.fetch_sub(1, Ordering::Relaxed);
    });
    let (io, read) = match service.page.deflate.as_ref().zip(deflate) {
        Some((shared, agreed)) => (DeflateIo::agreed(io, &agreed, shared, &read), Bytes::new()),
        None => (DeflateIo::plain(io), read),
    };
    let settings = &service.opening.settings;
    let carrier = Wss::new(io, read, settings.max_frame).await;
    match grant {
        Grant::Session { entrant, .. } => {
            client::serve(carrier, from, site, service, &service.opening, entrant).await;
        }
        Grant::Echo { identity, .. } => {
            let (code, reason) = echo::serve(carrier, identity.as_ref(), settings, stop).await;
            if let Some(event) = code.and_then(client::event) {
                service.door.log(from, event, &reason);
            }
        }
        Grant::Relay(_) => {}
    }
}

/// Also when the connection's task is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
