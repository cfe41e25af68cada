//! Sockets and TLS, and the limits on both.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_tungstenite::tungstenite::Message;
use trishula::gateway::hub::HubHandle;
use trishula::gateway::session::{self, Opening};
use trishula::link::wss;
use trishula::rt::{accept, clock, tasks};
use trishula::wire::close::CloseCode;

use crate::deflate::{DeflateIo, Shared};
use crate::echo;
use crate::front::Rules;
use crate::front::certified::Rule;
use crate::front::entry::{Entered, Entry, Speaks};
use crate::front::h2;
use crate::front::measured::{Measured, Series};
use crate::http::{self, Grant, Page, Port, Upgraded};
use crate::prepare::Prepared;
use crate::relay::{self, Relay};
use crate::wss::Wss;

/// Largest message of a client that only asks for health, in bytes.
const MAX_SAID: usize = 1024;

/// One service while it runs.
pub struct Service {
    /// What its pages need.
    pub page: Page,
    /// How its sessions begin.
    pub opening: Opening,
    /// What is counted of it.
    pub series: Arc<Series>,
    entry: Entry,
    /// How long a handshake, or a request, may take.
    pub handshake_within: Duration,
    /// Room for connections.
    pub permits: Arc<Semaphore>,
    hub: HubHandle,
    /// Becomes true when the process ends.
    pub stop: watch::Receiver<bool>,
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
    /// The same service with another configuration. Whom it counts, what room there is, and whose links it uses stay.
    pub fn renewed(&self, prepared: Prepared, name: &str) -> Service {
        let relay = self.page.relay.clone();
        let mut service = Service::new(prepared, name, self.hub.clone(), relay, self.stop.clone());
        service.page.counts = self.page.counts.clone();
        service.page.started = self.page.started;
        service.permits = self.permits.clone();
        service
    }

    /// Makes a service of what was prepared; `stop` becomes true when the process ends.
    pub fn new(
        prepared: Prepared,
        name: &str,
        hub: HubHandle,
        relay: Option<Arc<Relay>>,
        stop: watch::Receiver<bool>,
    ) -> Service {
        let section = &prepared.section;
        let page = Page {
            server: name.to_owned(),
            namespace: Some(section.name.clone()),
            paths: section.paths.clone(),
            echo: section.echo,
            deflate: Shared::new(&section.deflate, section.max_frame),
            relay,
            rules: Rules::new(&section.proxy, &section.http, prepared.tls.is_some()),
            counts: Arc::new(Counts::default()),
            started: clock::micros(),
            hub: hub.clone(),
            reload: None,
            stop: stop.clone(),
        };
        let certified = section.ca_file.is_some();
        let certified = certified.then(|| Rule::new(section.name.clone(), section.client_identity.clone()));
        let entry = Entry::new(prepared.tls.clone(), &section.proxy, section.http.plain_health, certified);
        Service {
            page,
            series: Series::of(&section.name),
            entry,
            handshake_within: section.handshake_timeout(),
            permits: Arc::new(Semaphore::new(section.max_connections)),
            opening: prepared.opening,
            hub,
            stop,
        }
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("page", &self.page).finish_non_exhaustive()
    }
}

/// Takes connections until the process is to stop; ends when the last of them has. Each goes by the service as it is when
/// the connection comes.
pub async fn serve(listener: TcpListener, services: watch::Receiver<Arc<Service>>) {
    let mut connections = tasks::Group::default();
    let mut stop = services.borrow().stop.clone();
    let permits = services.borrow().permits.clone();
    loop {
        // A permit before the accept: what there is no room for waits in the system's queue, not in ours.
        let accepted = async {
            let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (socket, from) = listener.accept().await?;
            Ok::<_, io::Error>((permit, socket, from))
        };
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((permit, socket, from)) => {
                let service = services.borrow().clone();
                connections.spawn("edge.connection", async move {
                    connection(socket, from, &service).await;
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
async fn connection(socket: TcpStream, from: SocketAddr, service: &Arc<Service>) {
    // Without it a small frame may wait for the acknowledgement of the one before.
    if let Err(e) = socket.set_nodelay(true) {
        tracing::debug!(%from, error = %e, "TCP_NODELAY was refused");
    }
    let entered = tokio::time::timeout(service.handshake_within, service.entry.enter(socket, from)).await;
    let Entered { stream, from, speaks, identity } = match entered {
        Ok(Ok(entered)) => entered,
        Ok(Err(refused)) => {
            service.series.connection_error(refused.reason);
            return refused.count(from);
        }
        Err(_) => {
            service.series.connection_error("handshake_timeout");
            return tracing::debug!(%from, "the TLS handshake took too long");
        }
    };
    let certified;
    let opening = match identity {
        Some(identity) => {
            certified = Opening { identity: Some(identity), ..service.opening.clone() };
            &certified
        }
        None => &service.opening,
    };
    let port = match speaks {
        Speaks::Http1 => Port::Service(opening),
        Speaks::Health => Port::Health,
        Speaks::Http2 => return h2::serve(stream, from, service, opening).await,
    };
    let mut stop = service.stop.clone();
    let requests = http::serve(stream, from, &service.page, port, service.handshake_within);
    let upgraded = tokio::select! {
        biased;
        upgraded = requests => upgraded,
        _ = stop.wait_for(|stop| *stop) => return,
    };
    let Some(upgraded) = upgraded else { return };
    if matches!(upgraded.grant, Grant::Relay(_)) {
        wss::prepare(upgraded.io.tcp());
    }
    websocket(upgraded, service, opening).await;
}

/// One WebSocket, whatever carries it, to its end.
pub async fn websocket<S>(upgraded: Upgraded<S>, service: &Service, opening: &Opening)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut stop = service.stop.clone();
    let Upgraded { io, from, read, grant } = upgraded;
    let (identity, session, deflate) = match grant {
        Grant::Session { identity, served, deflate } => (identity, Some(served), deflate),
        Grant::Echo { identity, deflate } => (identity, None, deflate),
        Grant::Health(text) => {
            let mut carrier = Wss::new(io, read, MAX_SAID).await;
            // Whoever is gone needs no answer.
            let _ = carrier.queue(Message::text(text)).await;
            return session::turn_away(carrier, CloseCode::Normal).await;
        }
        Grant::Relay(way) => {
            return tokio::select! {
                () = relay::run(io, read, way) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            };
        }
    };
    tracing::info!(%from, namespace = %opening.namespace, "a client has connected");
    let mut open = service.series.open(service.page.rules.tls);
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
    let (code, reason) = match session {
        Some(true) => {
            let opening = Opening { identity, ..opening.clone() };
            let carrier = Measured::new(carrier, service.series.clone());
            let ended = session::serve(carrier, opening, &service.hub).await;
            (ended.code, ended.reason)
        }
        Some(false) => return session::turn_away(carrier, CloseCode::UnsupportedSubprotocol).await,
        None => echo::serve(carrier, identity.as_ref(), settings, stop).await,
    };
    open.closed(code);
    if code.is_some_and(is_odd) {
        tracing::warn!(%from, ?code, reason, "a client was turned away");
    }
}

/// Whether an end is worth a line with the address: a login that failed, or a client that breaks the rules.
fn is_odd(code: CloseCode) -> bool {
    use CloseCode::*;
    matches!(code, Protocol | InvalidData | TooBig | TooManyErrors | Unauthorized | Forbidden | AuthTimeout)
}

/// Also when the connection's task is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
