//! The edge as a process: everything in the right order, once.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rand::RngExt;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use trishula::gateway::hub::{self, End, HubHandle};
use trishula::identity::bundle::Bundle;
use trishula::identity::revocation::{RevocationList, Revocations};
use trishula::identity::tls::Identity;
use trishula::identity::{self, RoleKind, Trust};
use trishula::link::socket::Port;
use trishula::link::{self, dial, quic};
use trishula::metrics;
use trishula::rt::signals::Hangups;
use trishula::rt::{accept, clock, sdnotify, tasks, wake};
use trishula::wire::close::CloseCode;
use trishula::wire::frame::Hello;
use trishula::wire::ids::Incarnation;

use crate::config::EdgeConfig;
use crate::front::measured;
use crate::front::net::{self, Net};
use crate::front::redirect;
use crate::front::reload::{self, Live, Reloader};
use crate::front::renewed::Renewed;
use crate::http::{self, Page};
use crate::listener::{self, Counts, Service, Sharers};
use crate::prepare::{self, Error, Prepared};
use crate::relay::Relay;

/// Events of links that may wait for the hub.
const EVENTS: usize = 4096;
/// How long a request on the metrics' listener may take.
const METRICS_WITHIN: Duration = Duration::from_secs(5);
/// Connections to the metrics' listener at once.
pub const METRICS_CONNECTIONS: usize = 64;
/// Clients of an edge that stops come back within so many milliseconds, not all at once.
const COME_BACK_MS: std::ops::RangeInclusive<u64> = 500..=3_000;
/// How long the node may be silent before the edge goes to another one: as long as nodes bear of an edge. It is heard every
/// 120 ms as a rule, and one that was killed is noticed at once; but a node that only has no processor or disk for a second or two
/// must not cost every client of its edge a move to another machine and back.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often the link's certificate is read again.
const RELOAD_EVERY: Duration = Duration::from_secs(60);

/// Runs an edge until `stop` is done, with the link to the node that its configuration names.
pub async fn run(
    config: &EdgeConfig,
    source: reload::Source,
    stop: impl Future<Output = &'static str>,
) -> Result<(), Error> {
    let mut stop = std::pin::pin!(stop);
    // Looked at once before anything starts: from then on signals are ours.
    if stop.as_mut().now_or_never().is_some() {
        return Ok(());
    }
    for note in &config.notes {
        tracing::info!(note, "configuration");
    }
    for warning in config.warnings() {
        tracing::warn!(warning, "configuration");
    }
    let hangups = Hangups::listen();
    let services = prepare::services(config)?;
    let listeners = Listeners::bind(config)?;
    let (events, inbox) = link::inbox::bounded("edge.link_events.first", "edge.link_events", EVENTS);
    let uplink = Uplink::start(config, events)?;
    let mut edge = Edge::start(config, services, listeners, inbox);
    edge.follow(source, hangups);
    // The hub ends only with the process.
    let _ = edge.hub.watch_silence(PATIENCE).await;
    let _revocations = uplink.keep_revocations(edge.hub.revocations());
    sdnotify::ready();
    let _watchdog = tasks::spawn("edge.watchdog", sdnotify::watchdog());
    let _wakes = wake::watch();
    let why = stop.await;
    tracing::info!(why, "stopping");
    sdnotify::stopping();
    edge.stop(Duration::from_millis(config.edge.drain_ms)).await;
    Ok(())
}

/// Every port of a configuration, taken before anything starts.
#[derive(Debug)]
pub struct Listeners {
    /// Each with the services that share it, by their places in the configuration.
    sockets: Vec<(TcpListener, Vec<usize>)>,
    metrics: TcpListener,
    redirects: Vec<TcpListener>,
}

impl Listeners {
    /// Takes them, or says which can't be taken.
    pub fn bind(config: &EdgeConfig) -> Result<Listeners, Error> {
        let mut shared: Vec<(SocketAddr, Vec<usize>)> = Vec::new();
        for (place, service) in config.services.iter().enumerate() {
            for at in &service.listen {
                match shared.iter_mut().find(|(known, _)| known == at && at.port() != 0) {
                    Some((_, services)) => services.push(place),
                    None => shared.push((*at, vec![place])),
                }
            }
        }
        let sockets = shared.into_iter().map(|(at, services)| Ok((prepare::listen(at)?, services)));
        Ok(Listeners {
            sockets: sockets.collect::<Result<_, Error>>()?,
            metrics: prepare::listen(config.metrics.listen)?,
            redirects: config
                .redirect
                .listen
                .iter()
                .map(|at| prepare::listen(*at))
                .collect::<Result<_, Error>>()?,
        })
    }
}

/// Keeps the link to the node.
struct Uplink {
    _renewed: tasks::Task,
    trust: Arc<Trust>,
    _dialler: tasks::Task,
    _port: tasks::Task,
    /// Diallers stand back while somebody else has a link; an edge has one dialler only.
    _connected: watch::Sender<BTreeSet<trishula::wire::ids::NodeName>>,
}

impl Uplink {
    fn start(config: &EdgeConfig, events: link::inbox::Inbox) -> Result<Uplink, Error> {
        let bundle = prepare::bundle(config)?;
        let revocations = Arc::new(Revocations::new(bundle.revoked.clone()));
        let identity = Identity::new(&bundle, revocations, clock::for_tls())?;
        let identity::Role::Edge(node) = bundle.name.role.clone() else {
            return Err(Error::Identity(identity::Error::WrongRole {
                place: config.identity.dir.display().to_string(),
                found: bundle.name.to_string(),
                expected: "an edge".into(),
                remedy: "node and edge have a folder each; check the configured one",
            }));
        };
        // An edge numbers nothing that outlives it; a start later than the last is enough.
        let incarnation = Incarnation(clock::wall_ms());
        let hello = Hello::new(node, incarnation, concat!("trishula-edge/", env!("CARGO_PKG_VERSION")));
        let local = quic::Local::new(hello, identity, events);
        let port = Port::any().map_err(Error::Endpoint)?;
        let endpoint = port.endpoint().clone();
        let target =
            dial::Target { name: config.uplink.node.clone(), addresses: config.uplink.nodes.clone() };
        let outward = (Arc::new(prepare::outward(config)?), dial::Pulse::default());
        let (connected, nobody) = watch::channel(BTreeSet::new());
        let renewed =
            follow_renewals(config.identity.dir.clone(), bundle.name.serial.clone(), &local.identity);
        Ok(Uplink {
            _renewed: renewed,
            trust: local.identity.trust().clone(),
            _dialler: dial::keep_with_fallback(local, endpoint, target, nobody, Some(outward)),
            _port: port.follow_wakes(),
            _connected: connected,
        })
    }

    /// Takes the revocation lists that the node passes on, once the CA's signature was found good: a node that
    /// was thrown out is then not believed by its edge either.
    fn keep_revocations(&self, mut offered: watch::Receiver<hub::Offered>) -> tasks::Task {
        let trust = self.trust.clone();
        tasks::spawn("edge.revocations", async move {
            while offered.changed().await.is_ok() {
                let Some((number, der)) = offered.borrow_and_update().clone() else { continue };
                let newer = match RevocationList::parse(&der, trust.ca()) {
                    Ok(list) => trust.revocations().offer(list),
                    Err(why) => {
                        tracing::warn!(%why, "the node passed on a revocation list that does not hold");
                        false
                    }
                };
                if newer {
                    // Not written: the node does that, and passes it on again on each link.
                    tracing::info!(number, "a newer revocation list is in force");
                }
            }
        })
    }
}

/// Shows the node a renewed link certificate without a restart: the node of this machine renews it in time.
fn follow_renewals(folder: PathBuf, shown: identity::Serial, identity: &Identity) -> tasks::Task {
    let (identity, mut shown) = (identity.clone(), shown);
    tasks::spawn("edge.identity", async move {
        loop {
            tokio::time::sleep(RELOAD_EVERY).await;
            match Bundle::load(&folder, RoleKind::Edge, clock::wall().into()) {
                Ok(bundle) if bundle.name.serial != shown => {
                    identity.replace_link(&bundle.link);
                    shown = bundle.name.serial;
                    tracing::info!(serial = %shown, "a renewed certificate of the link is in use");
                }
                Ok(_) => {}
                Err(why) => tracing::warn!(%why, "the certificate of the link could not be read again"),
            }
        }
    })
}

/// An edge that runs.
#[derive(Debug)]
pub struct Edge {
    hub: HubHandle,
    stop: watch::Sender<bool>,
    listeners: Vec<tasks::Task>,
    addresses: Vec<SocketAddr>,
    metrics_address: Option<SocketAddr>,
    _redirects: Vec<tasks::Task>,
    _hub: tasks::Task,
    _metrics: tasks::Task,
    _renewed: tasks::Task,
    /// What may be replaced, until somebody does.
    live: Option<(Vec<Live>, Renewed, reload::Asked)>,
    reloader: Option<tasks::Task>,
}

impl Edge {
    /// Starts on ports that were taken; `events` is where links report.
    pub fn start(
        config: &EdgeConfig,
        services: Vec<Prepared>,
        listeners: Listeners,
        events: link::inbox::Incoming,
    ) -> Edge {
        let (hub, hub_task) = hub::start_with(events, Some(measured::fanned_out));
        let (stop, stopped) = watch::channel(false);
        let (mut tasks, mut addresses) = (Vec::new(), Vec::new());
        let relay = Relay::new(&config.relay);
        let (renewed, mut live) = (Renewed::default(), Vec::new());
        let (asker, asked) = reload::channel();
        let (of_all, all) = room(config, listeners.sockets.len());
        for prepared in services {
            renewed.add(&prepared);
            let namespace = prepared.section.name.clone();
            let name = &config.edge.name;
            let (of_all, hub) = (of_all.clone(), hub.clone());
            let service = Service::new(prepared, name, of_all, hub, relay.clone(), stopped.clone());
            live.push(Live { namespace, service: watch::Sender::new(Arc::new(service)) });
        }
        for (socket, sharers) in listeners.sockets {
            let sharers = sharers.into_iter().filter_map(|place| live.get(place));
            let sharers: Sharers = sharers.map(|live| live.service.subscribe()).collect();
            if let Ok(address) = socket.local_addr() {
                let names: Vec<String> =
                    sharers.iter().map(|s| s.borrow().opening.namespace.to_string()).collect();
                tracing::info!(services = names.join(" "), %address, "listening");
                addresses.push(address);
            }
            tasks.push(tasks::spawn("edge.listener", listener::serve(socket, sharers, all.clone())));
        }
        let to_port = config.redirect.to_port;
        let redirects = listeners.redirects.into_iter();
        let redirects =
            redirects.map(|socket| tasks::spawn("edge.redirect", redirect::serve(socket, to_port)));
        let page = Page {
            server: config.edge.name.clone(),
            namespace: None,
            paths: Vec::new(),
            echo: false,
            deflate: None,
            relay: None,
            door: None,
            rules: Arc::default(),
            counts: Arc::new(Counts::default()),
            started: clock::micros(),
            hub: hub.clone(),
            reload: Some(asker),
            stop: stopped,
        };
        Edge {
            hub,
            stop,
            listeners: tasks,
            addresses,
            metrics_address: listeners.metrics.local_addr().ok(),
            _redirects: redirects.collect(),
            _hub: hub_task,
            _metrics: tasks::spawn(
                "edge.metrics",
                serve_metrics(listeners.metrics, page, config.metrics.allow.clone()),
            ),
            _renewed: tasks::spawn("edge.renewed", renewed.clone().follow()),
            live: Some((live, renewed, asked)),
            reloader: None,
        }
    }

    /// Takes another configuration from the same source whenever there is one.
    pub fn follow(&mut self, source: reload::Source, hangups: Hangups) {
        if let Some((live, renewed, asked)) = self.live.take() {
            let reloader = Reloader::new(source, live, renewed);
            self.reloader = Some(tasks::spawn("edge.reload", reloader.run(hangups, asked)));
        }
    }

    /// Where it listens, in the order of the configuration.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where health and metrics are.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Takes no more connections, tells every client when to come back, and waits for them to go.
    pub async fn stop(self, drain: Duration) {
        // Nobody listens only when every listener has ended already.
        let _ = self.stop.send(true);
        let order = || End {
            code: Some(CloseCode::Restart),
            refusal: None,
            reason: format!("retry_after_ms={}", rand::rng().random_range(COME_BACK_MS)),
        };
        let _ = self.hub.end_all(order).await;
        let gone = async {
            for listener in self.listeners {
                listener.join().await;
            }
        };
        if tokio::time::timeout(drain, gone).await.is_err() {
            tracing::warn!(drain_ms = drain.as_millis() as u64, "some connections did not end in time");
        }
    }
}

/// Seats for clients of all services, and room for what the process may have open. Nobody waits for a seat, but for that room: it
/// keeps the process within its descriptors. Each listener holds a place while it waits for the next connection.
fn room(config: &EdgeConfig, listeners: usize) -> (Arc<Semaphore>, Arc<Semaphore>) {
    let seats = config.edge.max_connections;
    let beside = listener::TURNED_AWAY + config.relay.max_relays + listeners;
    (Arc::new(Semaphore::new(seats)), Arc::new(Semaphore::new(seats + beside)))
}

/// Serves health and metrics on their own port, to whom the operator lets in.
async fn serve_metrics(listener: TcpListener, page: Page, allow: Vec<Net>) {
    accept::each(listener, "edge.metrics_connection", METRICS_CONNECTIONS, |socket| {
        let page = page.clone();
        let from = socket.peer_addr().ok().filter(|from| {
            let allowed = net::any(&allow, from.ip());
            if !allowed {
                metrics::EDGE_REFUSED.with_label_values(&["address"]).inc();
                tracing::warn!(%from, "an address that is not in [metrics] allow asked for metrics");
            }
            allowed
        });
        async move {
            let Some(from) = from else { return };
            http::serve(socket, from, &|_| (&page, http::Port::Metrics), METRICS_WITHIN).await;
        }
    })
    .await;
}
