//! Who comes in: room for connections, in all and of one address, and addresses that failed to show a good token. Each
//! refusal has a close code and an HTTP status, is counted, and is logged with the address.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use trishula::gateway::auth::Identity;
use trishula::metrics;
use trishula::rt::clock;
use trishula::wire::close::{CloseCode, Code, Refusal};
use trishula::wire::ids::Namespace;

use crate::addresses::{Counted, Failures, Place, Rates};
use crate::config::{Refuse, ServiceSection};

/// Failed tokens a minute where the operator says nothing.
const FAILURES: u32 = 10;
/// Lines of the log a minute of what anybody can cause who connects, for one address.
const LINES: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);
/// The same of refusals at the door: so many are what somebody guesses who is turned away after ten of them.
const REFUSAL_LINES: NonZeroU32 = NonZeroU32::MIN.saturating_add(29);
/// Connections of one address that it has in any case, where the operator says nothing.
const AT_LEAST: usize = 64;

/// The limits of one service.
pub struct Door {
    service: Namespace,
    /// How a client is refused.
    pub refuse: Refuse,
    seats: Arc<Semaphore>,
    /// Those of all services.
    of_all: Arc<Semaphore>,
    open: Arc<Counted>,
    /// Connections that are not in yet, nor turned away.
    waiting: Arc<Counted>,
    of_one: usize,
    failures: Option<Failures>,
    /// Tokens that may be wrong at once.
    tries: u32,
    /// Whether this machine's own addresses have those two limits as well: only where the operator set them.
    limits_own: (bool, bool),
    /// Frames of each address.
    pub frames: Option<Rates>,
    lines: Rates,
    /// The same of refusals at the door: cheaper noise must not hide them.
    refusal_lines: Rates,
}

/// Room for one connection; given back when dropped.
#[derive(Debug)]
pub struct Seat {
    _permits: [OwnedSemaphorePermit; 2],
    _place: Place,
}

/// Why somebody does not come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turned {
    /// The service has as many connections as it may.
    Full,
    /// All services together have.
    AllFull,
    /// The address has.
    AddressFull,
    /// Tokens from this address were wrong too often; for so long.
    Failed(Duration),
    /// The token is wrong.
    Token(Refusal),
    /// The certificate names nobody of the service.
    Stranger,
    /// A browser's page of an origin that may not connect.
    Origin,
}

impl Turned {
    /// What a client is told.
    pub fn refusal(&self) -> Refusal {
        match self {
            Turned::Full => Refusal::new(Code::Unavailable, "the service is full"),
            Turned::AllFull => Refusal::new(Code::Unavailable, "the edge is full"),
            Turned::AddressFull => {
                Refusal::new(Code::RateLimited, "there are too many connections from this address")
            }
            Turned::Failed(wait) => {
                let message = format!(
                    "tokens from this address were wrong too often; retry_after_ms={}",
                    wait.as_millis().max(1)
                );
                Refusal::new(Code::RateLimited, message)
            }
            Turned::Token(refusal) => refusal.clone(),
            Turned::Stranger => {
                Refusal::new(Code::Forbidden, "the client's certificate names no agent of this service")
            }
            Turned::Origin => Refusal::new(Code::Forbidden, "pages of this origin may not connect"),
        }
    }

    /// The close that says so.
    pub fn close(&self) -> CloseCode {
        match self {
            Turned::Full | Turned::AllFull | Turned::AddressFull => CloseCode::TryAgainLater,
            Turned::Failed(_) => CloseCode::RateLimited,
            Turned::Token(_) => CloseCode::Unauthorized,
            Turned::Stranger | Turned::Origin => CloseCode::Forbidden,
        }
    }

    /// Whole seconds after which to try again; `None`: not with the same token or certificate.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Turned::Full | Turned::AllFull | Turned::AddressFull => Some(1),
            Turned::Failed(wait) => Some(wait.as_secs() + 1),
            Turned::Token(_) | Turned::Stranger | Turned::Origin => None,
        }
    }

    /// What the metrics of the older servers call it.
    pub fn error_type(&self) -> &'static str {
        match self {
            Turned::Full | Turned::AllFull | Turned::AddressFull => "max_connections",
            Turned::Failed(_) => "rate_limit",
            Turned::Token(_) => "auth_failed",
            Turned::Stranger | Turned::Origin => "forbidden",
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Turned::Full => "full",
            Turned::AllFull => "all_full",
            Turned::AddressFull => "address_full",
            Turned::Failed(_) => "auth_failures",
            Turned::Token(_) => "token",
            Turned::Stranger => "certificate",
            Turned::Origin => "origin",
        }
    }
}

impl Door {
    /// As configured; `of_all`: room for the connections of all services.
    pub fn new(section: &ServiceSection, of_all: Arc<Semaphore>) -> Door {
        let usual = (section.max_connections / 4).max(AT_LEAST.min(section.max_connections));
        let failures = section.auth_failures_per_minute;
        Door {
            service: section.name.clone(),
            refuse: section.refuse,
            seats: Arc::new(Semaphore::new(section.max_connections)),
            of_all,
            open: Arc::new(Counted::new("connections")),
            waiting: Arc::new(Counted::new("waiting")),
            of_one: section.max_connections_per_address.unwrap_or(usual),
            failures: Failures::per_minute(failures.unwrap_or(FAILURES)),
            tries: failures.unwrap_or(FAILURES),
            limits_own: (section.max_connections_per_address.is_some(), failures.is_some()),
            frames: Rates::per_second("frames", section.message_rate_limit_per_address),
            lines: Rates::per_minute("log_lines", LINES),
            refusal_lines: Rates::per_minute("refusal_lines", REFUSAL_LINES),
        }
    }

    /// Lets a client in, if there is room. `token`: what became of the one that its request has; `None`: it has none.
    ///
    /// # Errors
    ///
    /// Says why not, counted and logged already.
    pub fn admit(
        &self,
        from: SocketAddr,
        token: Option<impl FnOnce() -> Result<Identity, Refusal>>,
    ) -> Result<(Option<Identity>, Seat), Turned> {
        let admitted = self.blocked(from).and_then(|()| {
            let identity = token.map(|verify| verify()).transpose().map_err(Turned::Token)?;
            Ok((identity, self.seat(from.ip())?))
        });
        admitted.inspect_err(|turned| {
            if matches!(turned, Turned::Token(_)) {
                self.failed(from);
            }
            self.log_limited(&self.refusal_lines, from, turned.word(), &turned.refusal().message);
        })
    }

    /// Whether a token from there is looked at now, which is to be asked at each one that comes over an open connection: who opens
    /// a hundred first is not to have a hundred tries.
    ///
    /// # Errors
    ///
    /// Tokens from there were wrong too often; counted and logged already.
    pub fn hears_tokens(&self, from: SocketAddr) -> Result<(), Turned> {
        self.blocked(from).inspect_err(|turned| {
            self.log_limited(&self.refusal_lines, from, turned.word(), &turned.refusal().message);
        })
    }

    /// Tokens of an address that may be wrong at once; one more, and none of its is looked at for a while.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// A token that was to replace a good one was wrong. Its client stays, and the address has one try less.
    pub fn refresh_failed(&self, from: SocketAddr) {
        self.failed(from);
        self.log_limited(
            &self.refusal_lines,
            from,
            "auth_failed",
            "a token that was to replace a good one was refused",
        );
    }

    /// Lets a connection begin with its handshakes, if there are not too many of its address at that; it holds the place until
    /// it is in. `None`: there are, counted and logged already. `speaks_for_many`: it is a proxy's.
    pub fn knock(&self, from: SocketAddr, speaks_for_many: bool) -> Option<Place> {
        let limited = !speaks_for_many && (self.limits_own.0 || !is_own(from.ip()));
        // A client may try several ways in at once, and ask for pages beside.
        let most = if limited { self.of_one.max(AT_LEAST) } else { usize::MAX };
        let place = self.waiting.take(from.ip(), most);
        if place.is_none() {
            self.log_some(from, "waiting_full", "too many connections of this address have not come in yet");
        }
        place
    }

    /// Room for the connections of all services.
    pub fn of_all(&self) -> &Arc<Semaphore> {
        &self.of_all
    }

    /// Turns a client away whose certificate names nobody here; `why` is for the log.
    pub fn stranger(&self, from: SocketAddr, why: &str) -> Turned {
        self.log_limited(&self.refusal_lines, from, Turned::Stranger.word(), why);
        Turned::Stranger
    }

    /// Turns a page away whose origin is not among those that may connect.
    pub fn foreign(&self, from: SocketAddr, origin: &str) -> Turned {
        self.log_limited(&self.refusal_lines, from, Turned::Origin.word(), origin);
        Turned::Origin
    }

    fn blocked(&self, from: SocketAddr) -> Result<(), Turned> {
        let Some(failures) = self.failures.as_ref().filter(|_| self.limits_own.1 || !is_own(from.ip()))
        else {
            return Ok(());
        };
        failures.blocked(from.ip(), clock::micros()).map_or(Ok(()), |wait| Err(Turned::Failed(wait)))
    }

    fn seat(&self, from: IpAddr) -> Result<Seat, Turned> {
        let most = if self.limits_own.0 || !is_own(from) { self.of_one } else { usize::MAX };
        let place = self.open.take(from, most).ok_or(Turned::AddressFull)?;
        let of_service = self.seats.clone().try_acquire_owned().map_err(|_| Turned::Full)?;
        let of_all = self.of_all.clone().try_acquire_owned().map_err(|_| Turned::AllFull)?;
        Ok(Seat { _permits: [of_service, of_all], _place: place })
    }

    /// A token from there was wrong.
    pub fn failed(&self, from: SocketAddr) {
        if let Some(failures) = &self.failures {
            failures.note(from.ip(), clock::micros());
        }
    }

    /// A security event: for whoever watches the log, and counted.
    pub fn log(&self, from: SocketAddr, event: &'static str, why: &str) {
        metrics::EDGE_REFUSED.with_label_values(&[event]).inc();
        tracing::warn!(target: "security", %from, service = %self.service, event, why, "security event");
    }

    /// The same of what costs nothing to cause: it is always counted, and of one address only some are in the log.
    pub fn log_some(&self, from: SocketAddr, event: &'static str, why: &str) {
        self.log_limited(&self.lines, from, event, why);
    }

    /// The same of refusals at the door, and of how connections end, which have lines of their own.
    pub fn log_refusal(&self, from: SocketAddr, event: &'static str, why: &str) {
        self.log_limited(&self.refusal_lines, from, event, why);
    }

    fn log_limited(&self, lines: &Rates, from: SocketAddr, event: &'static str, why: &str) {
        if lines.take(from.ip(), clock::micros()).is_ok() {
            return self.log(from, event, why);
        }
        metrics::EDGE_REFUSED.with_label_values(&[event]).inc();
        tracing::debug!(%from, service = %self.service, event, why, "security event, one of many of this address");
    }
}

/// Whether it is this machine itself: a proxy on it speaks for many.
fn is_own(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}
