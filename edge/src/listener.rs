//! Sockets and TLS, and the limits on both.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_tungstenite::tungstenite::Message;
use trishula::gateway::auth::Identity;
use trishula::gateway::hub::HubHandle;
use trishula::gateway::session::{self, Opening};
use trishula::link::wss;
use trishula::rt::{accept, clock, tasks};
use trishula::wire::close::CloseCode;

use crate::client::{self, Session};
use crate::config::Refuse;
use crate::deflate::{DeflateIo, Shared};
use crate::door::{Door, Seat};
use crate::echo;
use crate::front::Rules;
use crate::front::certified::Rule;
use crate::front::entry::{Entered, Entry, Refused, Speaks};
use crate::front::h2;
use crate::front::measured::Series;
use crate::front::secured::{Policy, Secured};
use crate::front::stream::Stream;
use crate::http::{self, Grant, Page, Port, Terms, Upgraded};
use crate::prepare::Prepared;
use crate::relay::{self, Relay};
use crate::site::Site;
use crate::speech::Speech;
use crate::wss::Wss;

/// Largest message of a client that only asks for health, in bytes.
const MAX_SAID: usize = 1024;

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
    /// Its TLS; `None`: plain text.
    pub tls: Option<Arc<Secured>>,
    /// What is counted of it.
    pub series: Arc<Series>,
    /// How long a handshake, or a request, may take.
    pub handshake_within: Duration,
    /// Becomes true when the process ends.
    pub stop: watch::Receiver<bool>,
    certified: Option<Rule>,
    names: Vec<String>,
    max_connections: usize,
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
        let of_all = self.door.of_all().clone();
        let mut service = Service::new(prepared, name, of_all, self.hub.clone(), relay, self.stop.clone());
        service.page.counts = self.page.counts.clone();
        service.page.started = self.page.started;
        service.door = self.door.clone();
        service.page.door = Some(self.door.clone());
        service
    }

    /// Makes a service of what was prepared; `of_all`: room for the connections of all services; `stop` becomes true when the
    /// process ends.
    pub fn new(
        prepared: Prepared,
        name: &str,
        of_all: Arc<Semaphore>,
        hub: HubHandle,
        relay: Option<Arc<Relay>>,
        stop: watch::Receiver<bool>,
    ) -> Service {
        let section = &prepared.section;
        let door = Arc::new(Door::new(section, of_all));
        let certified = section.ca_file.is_some();
        let certified = certified.then(|| Rule::new(section.name.clone(), section.client_identity.clone()));
        let page = Page {
            server: name.to_owned(),
            namespace: Some(section.name.clone()),
            paths: section.paths.clone(),
            echo: section.echo,
            deflate: Shared::new(&section.deflate, section.max_frame),
            relay,
            door: Some(door.clone()),
            rules: Rules::new(&section.proxy, &section.http, prepared.tls.is_some()),
            counts: Arc::new(Counts::default()),
            started: clock::micros(),
            hub: hub.clone(),
            reload: None,
            stop: stop.clone(),
        };
        Service {
            page,
            speech: Speech::new(section),
            door,
            idle: Duration::from_secs(section.connection_timeout_s),
            names: section.names.clone(),
            max_connections: section.max_connections,
            tls: prepared.tls,
            series: Series::of(&section.name),
            certified,
            handshake_within: section.handshake_timeout(),
            opening: prepared.opening,
            hub,
            stop,
        }
    }

    /// What it asks of its clients in the handshake; `None`: there is none.
    fn policy(&self) -> Option<&Policy> {
        self.tls.as_ref().map(|tls| tls.policy())
    }

    /// How a session begins of a client that has shown this certificate.
    fn opening_of(&self, shown: &[CertificateDer<'static>]) -> Result<Opening, String> {
        let mut identity = match (&self.certified, shown.first()) {
            (Some(rule), Some(own)) => Some(rule.identity(own)?),
            _ => None,
        };
        if let (Some(identity), Some(tls)) = (&mut identity, &self.tls) {
            identity.certificate = Some(tls.watched(shown));
        }
        let identity = identity.or_else(|| self.opening.identity.clone());
        Ok(Opening { identity, ..self.opening.clone() })
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

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("page", &self.page).finish_non_exhaustive()
    }
}

/// Connections beyond those that find room: so many at once are told that they do not, or ask for pages.
pub const TURNED_AWAY: usize = 256;

/// Services that share a port, as they are now.
pub type Sharers = Vec<watch::Receiver<Arc<Service>>>;

/// What a connection meets: the services behind its port, and the door of all of them.
struct Place {
    site: Site,
    entry: Entry,
}

impl Place {
    fn of(sharers: &mut Sharers) -> Option<Arc<Place>> {
        let services = sharers.iter_mut().map(|service| service.borrow_and_update().clone()).collect();
        let site = Site::new(services)?;
        let rules = &site.called(None).page.rules;
        let entry = Entry::new(&rules.proxy, rules.http.plain_health);
        Some(Arc::new(Place { site, entry }))
    }
}

/// Takes connections to services that share a port until the process is to stop; ends when the last of them has. Each goes by
/// the services as they are when it comes. `all`: room for what the whole process may have open, which is more than there are seats,
/// so that who finds none is told.
pub async fn serve(listener: TcpListener, mut sharers: Sharers, all: Arc<Semaphore>) {
    let mut connections = tasks::Group::default();
    let Some(mut place) = Place::of(&mut sharers) else { return };
    let mut stop = place.site.called(None).stop.clone();
    let room: usize = place.site.services().iter().map(|service| service.max_connections).sum();
    let relays = place.site.called(None).page.relay.as_ref().map_or(0, |relay| relay.most());
    let permits = Arc::new(Semaphore::new((room + relays + TURNED_AWAY).min(Semaphore::MAX_PERMITS)));
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
                if sharers.iter().any(|service| service.has_changed().unwrap_or(false)) {
                    place = Place::of(&mut sharers).unwrap_or(place);
                }
                let place = place.clone();
                connections.spawn("edge.connection", async move {
                    // Boxed, so that what only the way in needs is given back with it.
                    let session = Box::pin(enter(socket, from, place)).await;
                    if let Some(session) = session {
                        session.await;
                    }
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

/// How a client that has come in finds its service: by the name that it asked for, and with who its certificate says it is.
pub struct Caller {
    /// The services of its port.
    pub site: Site,
    sni: Option<String>,
    /// The one whose TLS it has met.
    met: Arc<Service>,
    /// How its sessions begin at each service of the site by its certificate, or why that names nobody there; empty: it has
    /// shown none.
    certified: Vec<Result<Opening, String>>,
}

impl Caller {
    fn new(site: &Site, stream: &Stream) -> Caller {
        let sni = stream.server_name().filter(|name| site.knows(name)).map(str::to_owned);
        let certified = match stream.certificates() {
            Some(shown) => site.services().iter().map(|service| service.opening_of(shown)).collect(),
            None => Vec::new(),
        };
        let met = site.called(sni.as_deref()).clone();
        Caller { site: site.clone(), sni, met, certified }
    }

    /// The service for this host, and what may be asked of it. A host that is a service's is what a request is for (RFC 9110
    /// section 7.2), whatever the handshake was for; any other says no more than that did.
    pub fn asks(&self, host: Option<&str>) -> (&Arc<Service>, Port<'_>) {
        let service = self.site.called(host.filter(|host| self.site.knows(host)).or(self.sni.as_deref()));
        // Who has shown what to one service has not shown it to another that asks otherwise.
        if service.policy() != self.met.policy() {
            return (service, Port::Misdirected);
        }
        // Where its first message is to say which service a client means, a refusal is not for one of them to give.
        let is_one_of_many = self.site.choice(service).is_some();
        let (opening, stranger) = match self.opening(service) {
            Ok(opening) => (opening, None),
            Err(why) => (&service.opening, Some(why).filter(|_| !is_one_of_many)),
        };
        let refuses = if is_one_of_many { Refuse::Close } else { service.door.refuse };
        (service, Port::Service(Terms { opening, stranger, refuses }))
    }

    /// How sessions begin at a service of the site.
    ///
    /// # Errors
    ///
    /// Why the client's certificate names nobody there.
    pub fn opening<'a>(&'a self, service: &'a Arc<Service>) -> Result<&'a Opening, &'a str> {
        let place = self.site.services().iter().position(|other| Arc::ptr_eq(other, service));
        match place.and_then(|place| self.certified.get(place)) {
            Some(certified) => certified.as_ref().map_err(String::as_str),
            None => Ok(&service.opening),
        }
    }
}

/// One connection up to its session, if it comes to one.
async fn enter(socket: TcpStream, from: SocketAddr, place: Arc<Place>) -> Option<Session> {
    let (upgraded, caller) = connection(socket, from, place).await?;
    websocket(upgraded, &caller).await
}

/// One connection: TLS, and requests; `None`: it is over, as none of them was for a WebSocket of its own.
async fn connection(
    mut socket: TcpStream,
    from: SocketAddr,
    place: Arc<Place>,
) -> Option<(Upgraded<Stream>, Caller)> {
    wss::prepare(&socket);
    let (site, first) = (&place.site, place.site.called(None));
    let entry = &place.entry;
    let enter = async {
        let client = entry.source(&mut socket, from).await.map_err(|refused| (from, refused))?;
        let Some(waiting) = first.door.knock(client, entry.trusts(client)) else { return Ok(None) };
        let entered = entry.enter(socket, from, client, site).await;
        Ok::<_, (SocketAddr, Refused)>(Some((entered.map_err(|refused| (client, refused))?, waiting)))
    };
    let entered = tokio::time::timeout(first.handshake_within, enter).await;
    let (Entered { stream, from, speaks }, waiting) = match entered {
        Ok(Ok(Some(entered))) => entered,
        Ok(Ok(None)) => return None,
        Ok(Err((from, refused))) => {
            first.series.connection_error(refused.reason);
            refused.count(from, &first.door);
            return None;
        }
        Err(_) => {
            first.series.connection_error("handshake_timeout");
            first.door.log(from, "handshake_timeout", "the TLS handshake took too long");
            return None;
        }
    };
    let caller = Caller::new(site, &stream);
    if speaks == Speaks::Http2 {
        // Many seats may come and go on it; its place stays its own.
        h2::serve(stream, from, caller, first).await;
        return None;
    }
    let pages = |host: Option<&str>| {
        let (service, port) = caller.asks(host);
        (&service.page, if speaks == Speaks::Health { Port::Health } else { port })
    };
    let mut stop = first.stop.clone();
    let requests = http::serve(stream, from, &pages, first.handshake_within);
    let upgraded = tokio::select! {
        biased;
        upgraded = requests => upgraded,
        _ = stop.wait_for(|stop| *stop) => return None,
    }?;
    // Its seat counts from now on.
    drop(waiting);
    Some((upgraded, caller))
}

/// One WebSocket, whatever carries it, up to what lasts; `None`: it is over.
pub async fn websocket<S>(upgraded: Upgraded<S>, caller: &Caller) -> Option<Session>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Upgraded { io, from, read, host, grant } = upgraded;
    let service = caller.asks(host.as_deref()).0.clone();
    let mut stop = service.stop.clone();
    let deflate = match grant {
        Grant::Session { deflate, .. } | Grant::Echo { deflate, .. } => deflate,
        Grant::Relay(way) => {
            return Some(Box::pin(async move {
                tokio::select! {
                    () = relay::run(io, read, way) => {}
                    _ = stop.wait_for(|stop| *stop) => {}
                }
            }));
        }
        Grant::Health(text) => {
            let mut carrier = Wss::new(io, read, MAX_SAID).await;
            // Whoever is gone needs no answer.
            let _ = carrier.queue(Message::text(text)).await;
            session::turn_away(carrier, CloseCode::Normal).await;
            return None;
        }
    };
    tracing::info!(%from, namespace = %service.opening.namespace, "a client has connected");
    let active = Active::new(service.clone());
    let (io, read) = match service.page.deflate.as_ref().zip(deflate) {
        Some((shared, agreed)) => (DeflateIo::agreed(io, &agreed, shared, &read), Bytes::new()),
        None => (DeflateIo::plain(io), read),
    };
    let carrier = Wss::new(io, read, service.opening.settings.max_frame).await;
    let session: Session = match grant {
        Grant::Session { entrant, .. } => client::meet(carrier, from, caller, &service, entrant).await?,
        Grant::Echo { identity, seat, .. } => {
            Box::pin(echoed(carrier, from, service, Echoed { identity, stop, _seat: seat }))
        }
        Grant::Relay(_) | Grant::Health(_) => return None,
    };
    Some(Box::pin(async move {
        session.await;
        drop(active);
    }))
}

/// What goes with an echo.
struct Echoed {
    identity: Option<Identity>,
    stop: watch::Receiver<bool>,
    _seat: Seat,
}

async fn echoed<S>(carrier: Wss<S>, from: SocketAddr, service: Arc<Service>, with: Echoed)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut open = service.series.open();
    service.series.connections(service.tls.is_some()).inc();
    let limits = echo::Limits {
        pace: service.speech.pace(&service.door, from),
        idle: service.idle,
        settings: service.opening.settings.clone(),
        series: service.series.clone(),
    };
    let (code, reason) = echo::serve(carrier, with.identity.as_ref(), limits, with.stop).await;
    open.closed(code, None);
    if let Some(event) = code.and_then(client::event) {
        service.door.log(from, event, &reason);
    }
}

/// One client more, until it is dropped: also with the connection's task.
struct Active(Arc<Service>);

impl Active {
    fn new(service: Arc<Service>) -> Active {
        let counts = &service.page.counts;
        counts.active.fetch_add(1, Ordering::Relaxed);
        counts.total.fetch_add(1, Ordering::Relaxed);
        Active(service)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.page.counts.active.fetch_sub(1, Ordering::Relaxed);
    }
}
