//! Dialling: for ever, with back-off, and never while there is a link already.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::early::{Begun, Configs};
use super::quic::{self, Admitted, Local};
use super::race::{self, Networks};
use super::wss::{self, Outward};
use super::{Error, Role, unix};
use crate::metrics;
use crate::rt::backoff::Backoff;
use crate::rt::places::{self, Places};
use crate::rt::{clock, tasks, wake};
use crate::wire::ids::NodeName;
use crate::wire::url::{WSS, WssUrl};

mod carry;
mod tries;

use tries::resolve;

/// The first wait after a failure, and the longest.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// See [`FIRST_WAIT`].
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How long one address may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// The longest wait for a target on this machine.
const LONGEST_WAIT_LOCAL: Duration = Duration::from_millis(500);
/// How long one address of such a list may take.
const CONNECT_WITHIN_LOCAL: Duration = Duration::from_secs(1);
/// Looks for the socket of this machine's node when an edge starts, and the wait between them.
const UNIX_LOOKS: u32 = 5;
/// See [`UNIX_LOOKS`].
const UNIX_WAIT: Duration = Duration::from_millis(100);
/// A link that lasted so long was a good one: the next wait is short again.
const GOOD_AFTER: Duration = Duration::from_secs(5);

/// Begins an address that is the path of a Unix socket on this machine.
pub const UNIX: &str = "unix:";

/// Whom to keep a link to.
#[derive(Debug, Clone)]
pub struct Target {
    /// The node that must answer; `None`: any of this mesh.
    pub name: Option<NodeName>,
    /// `host:port`, or [`UNIX`] and a path; the best first. Of an entrance they may be several nodes': it goes to the next
    /// one that answers, and back to a better one when that is there again ([`places`]). And [`WSS`] addresses of its edge, for when UDP is
    /// blocked: of an entrance places like any other.
    pub addresses: Vec<String>,
}

/// Shows from outside that a dialler does something while there is no link.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// An attempt at one address begins, or a wait or a link follows it.
    pub fn step(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn steps(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The nodes that there is a link to now, whoever dialled it.
pub type Connected = watch::Receiver<BTreeSet<NodeName>>;

/// Keeps a link to the target until the task is dropped.
pub fn keep(
    local: Arc<Local>,
    endpoint: quinn::Endpoint,
    target: Target,
    connected: Connected,
) -> tasks::Task {
    keep_with_fallback(local, endpoint, target, connected, None)
}

/// The same; with a way outward, [`WSS`] addresses are dialled too, and with a pulse its steps show.
pub fn keep_with_fallback(
    local: Arc<Local>,
    endpoint: quinn::Endpoint,
    target: Target,
    connected: Connected,
    outward: Option<(Arc<Outward>, Pulse)>,
) -> tasks::Task {
    let (blocked, lossy) = (Networks::default(), carry::Lossy::default());
    let (outward, pulse) = outward.map_or_else(Default::default, |(out, pulse)| (Some(out), pulse));
    let places = Places::new(target.addresses.len());
    let missed_since = clock::now();
    let refused = AtomicBool::new(false);
    let dialler = Dialler {
        local,
        endpoint,
        target,
        connected,
        outward,
        pulse,
        blocked,
        lossy,
        places,
        missed_since,
        refused,
    };
    tasks::spawn("link.dialler", async move { dialler.run().await })
}

enum Dialled {
    Quic(quinn::Connection, Admitted, Begun),
    Wss(Box<wss::Connected>),
    Unix(UnixStream),
}

struct Dialler {
    local: Arc<Local>,
    endpoint: quinn::Endpoint,
    target: Target,
    connected: Connected,
    outward: Option<Arc<Outward>>,
    pulse: Pulse,
    /// Networks on which QUIC does not get to this peer.
    blocked: Networks,
    lossy: carry::Lossy,
    /// Of the addresses.
    places: Places,
    /// When the latest link ended, or the machine woke up, or all this began.
    missed_since: Instant,
    /// Somebody has refused a handshake since there was a link: it may be for what is kept of the peer.
    refused: AtomicBool,
}

impl Dialler {
    async fn run(mut self) {
        let longest = if self.is_local() { LONGEST_WAIT_LOCAL } else { LONGEST_WAIT };
        let mut backoff = Backoff::new(FIRST_WAIT, longest);
        let mut failures = 0u64;
        self.wait_for_socket().await;
        loop {
            if self.until_needed().await {
                // There was a link, which the peer had dialled.
                self.missed_since = clock::now();
            }
            if self.local.is_stopping() {
                return;
            }
            let began = clock::now();
            let configs = match self.local.known.configs(&self.local, self.target.name.as_ref()) {
                Ok(configs) => configs,
                // Only a broken build gets here: the same identity made the server's configuration.
                Err(e) => return tracing::error!(why = %e, "this node cannot dial"),
            };
            let Some(ended) = wake::unless(self.connect(&configs)).await else {
                // What was on its way may be lost, and is not waited for.
                backoff.reset();
                self.missed_since = clock::now();
                continue;
            };
            match ended {
                Ok(connected) => {
                    // At an address that is not the peer's any more.
                    self.refused.store(false, Ordering::Relaxed);
                    let since = clock::now();
                    self.pulse.step();
                    self.carry(&configs, connected).await;
                    self.missed_since = clock::now();
                    failures = 0;
                    if clock::since(since) >= GOOD_AFTER {
                        backoff.reset();
                        if self.is_entrance() {
                            // Clients wait. Who waits is whoever has tried its whole list, or loses each link at once.
                            continue;
                        }
                    }
                }
                Err(Error::Stopping) => return,
                Err(e) => {
                    if self.refused.swap(false, Ordering::Relaxed) {
                        self.local.known.forget(self.target.name.as_ref());
                    }
                    failures += 1;
                    self.report(&e, failures);
                }
            }
            self.pulse.step();
            // Who was silent for long has been waited for.
            let wait = backoff.next_wait();
            let left = wait.saturating_sub(clock::since(began)).max(wait.min(FIRST_WAIT));
            if wake::or_sleep(left).await {
                backoff.reset();
                self.missed_since = clock::now();
            }
        }
    }

    /// Whether the target is on this machine: there, an answer comes at once or not at all.
    fn is_local(&self) -> bool {
        self.target.addresses.iter().any(|address| address.starts_with(UNIX))
    }

    /// A node that starts together with its edge has its socket in a moment: worth waiting for once, when there are no clients
    /// yet, before another node is taken.
    async fn wait_for_socket(&self) {
        let Some(path) = self.target.addresses.first().and_then(|first| first.strip_prefix(UNIX)) else {
            return;
        };
        for _ in 0..UNIX_LOOKS {
            if tokio::fs::try_exists(path).await.unwrap_or(true) {
                return;
            }
            tokio::time::sleep(UNIX_WAIT).await;
        }
    }

    /// Whether the addresses are a choice of an entrance's, and not just those of one other node.
    fn is_entrance(&self) -> bool {
        self.target.name.is_none() || self.is_local()
    }

    /// Waits while there is a link to the target: the peer may have dialled us. Answers whether there was one.
    async fn until_needed(&mut self) -> bool {
        let Some(name) = &self.target.name else { return false };
        let linked = self.connected.borrow().contains(name);
        // An error means that the owner of links is gone; this task is dropped in a moment.
        let _ = self.connected.wait_for(|peers| !peers.contains(name)).await;
        linked
    }

    /// QUIC first, and through the peer's edge as well when that takes long; the other way round on a network that is
    /// known to block QUIC.
    async fn connect(&mut self, configs: &Configs) -> Result<(usize, Dialled), Error> {
        let round = self.places.round();
        if !self.has_fallback() || self.is_entrance() {
            return self.connect_directly(&round, configs).await;
        }
        let network = self.network().await;
        if self.blocked.block_quic(network) {
            tracing::info!(
                peer = self.peer(),
                "QUIC failed on this network lately: the edge is dialled first"
            );
        }
        let (quic, wss) = (self.connect_directly(&round, configs), self.connect_wss());
        let won = match self.blocked.block_quic(network) {
            false => race::race(quic, wss).await,
            true => race::race(wss, quic).await,
        }?;
        self.remember(network, &won.1);
        Ok(won)
    }

    /// The one that the target is dialled from.
    async fn network(&self) -> Option<IpAddr> {
        let address = self.target.addresses.iter().find(|address| !address.starts_with(WSS))?;
        self.outward.as_ref()?.network.address_towards(address).await
    }

    /// Which carrier is better on a network.
    fn remember(&mut self, network: Option<IpAddr>, better: &Dialled) {
        match better {
            Dialled::Wss(_) => self.blocked.lost(network),
            _ => self.blocked.won(network),
        }
    }

    /// Counts what came of a try.
    async fn connect_directly(&self, round: &[usize], configs: &Configs) -> Result<(usize, Dialled), Error> {
        let result = self.connect_in_turn(round, configs).await;
        let carrier = match &result {
            Ok((_, Dialled::Wss(_))) => wss::CARRIER,
            _ if self.is_local() => "local",
            _ => "quic",
        };
        if !matches!(result, Err(Error::NoAddress)) {
            count(carrier, result.is_ok());
        }
        result
    }

    /// Of another node, whose addresses are those of one.
    async fn connect_wss(&self) -> Result<(usize, Dialled), Error> {
        let addresses = &self.target.addresses;
        let is_edge = |place: &usize| addresses.get(*place).is_some_and(|address| address.starts_with(WSS));
        let edges = (0..addresses.len()).filter(is_edge).collect();
        let won = race::in_turn(edges, |place: usize| async move {
            let Some(address) = addresses.get(place) else { return Err(Error::NoAddress) };
            self.pulse.step();
            let result = self.connect_through(address).await;
            count(wss::CARRIER, result.is_ok());
            result.map(|dialled| (place, dialled))
        });
        won.await.map_err(|last| last.unwrap_or(Error::NoAddress))
    }

    /// Through one edge.
    async fn connect_through(&self, address: &str) -> Result<Dialled, Error> {
        let Some(outward) = &self.outward else { return Err(Error::NoAddress) };
        let failed = |why: String| Error::Dial { address: address.to_owned(), why };
        let dialled = async {
            let url: WssUrl = address.parse().map_err(|e| failed(format!("{e}")))?;
            wss::connect(&self.local, outward, &url, self.target.name.as_ref()).await
        };
        let late = |_| failed(format!("no answer within {CONNECT_WITHIN:?}"));
        let connected = tokio::time::timeout(CONNECT_WITHIN, dialled).await.map_err(late).flatten()?;
        Ok(Dialled::Wss(Box::new(connected)))
    }

    /// What is silent is not waited for before the next is tried. An entrance, whose clients wait, tries those that failed again.
    async fn connect_in_turn(&self, round: &[usize], configs: &Configs) -> Result<(usize, Dialled), Error> {
        // Those of another node are raced with QUIC as a whole.
        let mine = |place: &usize| self.is_entrance() || !self.target.addresses[*place].starts_with(WSS);
        let round: Vec<usize> = round.iter().copied().filter(mine).collect();
        let won = if self.is_entrance() {
            places::first(&round, Some(places::HEAD_START), |place| self.connect_at(place, configs)).await
        } else {
            race::in_turn(
                round,
                |place: usize| async move { Ok((place, self.connect_at(place, configs).await?)) },
            )
            .await
        };
        won.map_err(|last| last.unwrap_or(Error::NoAddress))
    }

    /// One address.
    async fn connect_at(&self, place: usize, configs: &Configs) -> Result<Dialled, Error> {
        let Some(address) = self.target.addresses.get(place) else { return Err(Error::NoAddress) };
        self.pulse.step();
        if let Some(path) = address.strip_prefix(UNIX) {
            let connected = UnixStream::connect(path).await;
            return connected.map(Dialled::Unix).map_err(|why| Error::Unix { path: path.to_owned(), why });
        }
        if address.starts_with(WSS) {
            return self.connect_through(address).await;
        }
        let within = if self.is_local() { CONNECT_WITHIN_LOCAL } else { CONNECT_WITHIN };
        let late = |_| Error::Dial { address: address.clone(), why: format!("no answer within {within:?}") };
        let connected = tokio::time::timeout(within, self.connect_to(address, configs)).await;
        let (connection, peer, begun) = connected.map_err(late).flatten()?;
        Ok(Dialled::Quic(connection, peer, begun))
    }

    /// For the log.
    fn peer(&self) -> &str {
        self.target.name.as_ref().map_or("any node", |name| name.as_str())
    }

    /// The first failure is worth a warning; of many, one a minute or so.
    fn report(&self, error: &Error, failures: u64) {
        let peer = self.peer();
        if failures == 1 || failures.is_multiple_of(12) {
            tracing::warn!(peer, failures, why = %error, "dialling failed; trying again");
        } else {
            tracing::debug!(peer, failures, why = %error, "dialling failed; trying again");
        }
    }
}

fn count(carrier: &str, connected: bool) {
    let outcome = if connected { "connected" } else { "failed" };
    metrics::DIALS.with_label_values(&[carrier, outcome]).inc();
}
