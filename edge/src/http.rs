//! Requests on a connection: the upgrade to WebSocket, `/health`, `/ready` and `/metrics`.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use trishula::gateway::auth::Identity;
use trishula::gateway::hub::HubHandle;
use trishula::gateway::session::Opening;
use trishula::metrics;
use trishula::wire::close::{Code, Refusal};
use trishula::wire::ids::Namespace;
use trishula::wire::url::RELAY_PATH;

use crate::client::Entrant;
use crate::config::{ANY_PATH, Refuse};
use crate::deflate::{Agreed, Shared};
use crate::door::{Door, Seat, Turned};
use crate::echo;
use crate::front::handshake::{is_connect, says, switch};
use crate::front::head::{self, MAX_HEADERS};
use crate::front::measured::Series;
use crate::front::pinned::Pinned;
use crate::front::{self, health, reload};
use crate::listener::Counts;
use crate::msgpack;
use crate::relay::{Relay, Way};
use crate::shown::{Form, Offered, SUBPROTOCOL_JSON, token};

/// Largest request, in bytes: a token in the URL and one in a header fit, and some more.
pub(crate) const MAX_REQUEST: usize = 32 * 1024;
/// A connection that does not become a WebSocket ends after so many times what a request may take: one that sends
/// requests and reads no answer would stay for ever.
pub(crate) const REQUESTS_WITHIN: u32 = 6;
/// Characters of a request's path that the log shows.
const SHOWN_PATH: usize = 100;
/// A request that can't be read or does not come, in the metrics and the log.
pub(crate) const REQUEST: &str = "request";
/// A connection that ends as nothing came of its requests, likewise.
pub(crate) const SLOW_REQUESTS: &str = "slow_requests";

/// What the pages of one listener are made of.
#[derive(Clone)]
pub struct Page {
    /// The listener's name.
    pub server: String,
    /// Whose agents are shown; `None`: all.
    pub namespace: Option<Namespace>,
    /// Paths on which a WebSocket is served.
    pub paths: Vec<String>,
    /// Whether `/echo` is served.
    pub echo: bool,
    /// For compression; `None`: none is agreed to.
    pub deflate: Option<Arc<Shared>>,
    /// For other nodes; `None`: they are not passed on.
    pub relay: Option<Arc<Relay>>,
    /// Who comes in; `None`: there is nothing to come in to.
    pub door: Option<Arc<Door>>,
    /// Whose word and whose pages are taken, and what browsers are told.
    pub rules: Arc<front::Rules>,
    /// Its connections.
    pub counts: Arc<Counts>,
    /// When it started, in [`trishula::rt::clock::micros`].
    pub started: u64,
    /// For who is connected.
    pub hub: HubHandle,
    /// Whom to ask to read the configuration again.
    pub reload: Option<reload::Asker>,
    /// Whether the process is stopping.
    pub stop: watch::Receiver<bool>,
}

impl Page {
    /// An upgrade was refused. Requests cost nothing: they are counted, and of one address only some are in the log.
    fn count_refused(&self, answer: &Answer, from: SocketAddr, path: &str) {
        let what = match (answer.extensions().get::<ErrorType>(), answer.status()) {
            (Some(ErrorType(what)), _) => what,
            (None, StatusCode::UNAUTHORIZED) => "auth_required",
            (None, StatusCode::FORBIDDEN) => "forbidden",
            (None, StatusCode::SERVICE_UNAVAILABLE) => "unavailable",
            (None, _) => "handshake",
        };
        if let Some(namespace) = &self.namespace {
            Series::of(namespace).connection_error(what);
        }
        // What the door has refused it has told.
        if let (None, Some(door)) = (answer.extensions().get::<ErrorType>(), &self.door) {
            let path: String = path.chars().take(SHOWN_PATH).collect();
            door.log_some(from, what, &format!("an upgrade was refused: {}, {path}", answer.status()));
        }
    }
}

/// Goes with an answer: what the metrics call the refusal.
#[derive(Clone, Copy)]
struct ErrorType(&'static str);

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").field("server", &self.server).finish_non_exhaustive()
    }
}

/// A connection that became a WebSocket.
pub struct Upgraded<S> {
    /// The connection.
    pub io: S,
    /// Where the request came from.
    pub from: SocketAddr,
    /// What came behind the request.
    pub read: Bytes,
    /// The host that the request asked for.
    pub host: Option<String>,
    /// For what.
    pub grant: Grant,
}

/// What a granted request leaves for after its answer.
pub enum Grant {
    /// A client's session.
    Session {
        /// What its request says of it.
        entrant: Entrant,
        /// Whether its messages may be compressed, and how.
        deflate: Option<Agreed>,
    },
    /// Whose messages come back.
    Echo {
        /// Who it is; `None`: anybody may.
        identity: Option<Identity>,
        /// Its room.
        seat: Seat,
        /// As for a session.
        deflate: Option<Agreed>,
    },
    /// Another node.
    Relay(Way),
    /// Whoever asks for health by WebSocket: this is said, and that is all.
    Health(String),
}

/// What may be asked on a connection.
#[derive(Clone, Copy)]
pub enum Port<'a> {
    /// Everything of a service.
    Service(Terms<'a>),
    /// Nothing of a service: the handshake was for another, which asks its clients for other certificates.
    Misdirected,
    /// Health only: of a service, without TLS.
    Health,
    /// Health and metrics.
    Metrics,
}

/// How a service takes a client.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    /// How its sessions begin.
    pub opening: &'a Opening,
    /// Why its certificate names nobody of the service; `None`: it does, or there is none.
    pub stranger: Option<&'a str>,
    /// How it is refused if it does not come in.
    pub refuses: Refuse,
}

/// An answer without an end that is not known yet.
pub type Answer = Response<Full<Bytes>>;

/// What is served where a client asks for this host.
pub type Pages<'a> = dyn Fn(Option<&str>) -> (&'a Page, Port<'a>) + Send + Sync + 'a;

/// Where a grant came from, and the host that was asked for.
type Granted = (SocketAddr, Option<String>, Grant);

/// Answers requests until the connection ends or becomes a WebSocket.
pub async fn serve<S>(io: S, from: SocketAddr, pages: &Pages<'_>, within: Duration) -> Option<Upgraded<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let granted: Mutex<Option<Granted>> = Mutex::new(None);
    let service = service_fn(|request: Request<Incoming>| {
        let granted = &granted;
        async move {
            let host = host(&request);
            let (page, port) = pages(host);
            let (answer, from, grant) = answer(&request, from, page, port).await;
            if let Some(grant) = grant {
                let grant = (from, host.map(str::to_owned), grant);
                *granted.lock().unwrap_or_else(PoisonError::into_inner) = Some(grant);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(within)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_REQUEST)
        .serve_connection(TokioIo::new(io), Pinned(service));
    // Taken back by hand, the connection stays what it was; hyper's own upgrade would box it.
    let served = tokio::time::timeout(within * REQUESTS_WITHIN, connection.without_shutdown());
    let parts = match served.await {
        Ok(Ok(parts)) => parts,
        Ok(Err(e)) => {
            if e.is_parse() || e.is_parse_too_large() || e.is_timeout() {
                refused(from, pages, REQUEST, &e.to_string());
            }
            tracing::debug!(%from, error = %e, "a connection ended amid a request");
            return None;
        }
        Err(_) => {
            refused(from, pages, SLOW_REQUESTS, "a connection for requests has lasted long enough");
            return None;
        }
    };
    let (io, read) = (parts.io.into_inner(), parts.read_buf);
    let (from, host, grant) = granted.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    Some(Upgraded { io, from, read, host, grant })
}

/// No request came, or none that could be read.
fn refused(from: SocketAddr, pages: &Pages<'_>, event: &'static str, why: &str) {
    if let Some(door) = &pages(None).0.door {
        door.log_some(from, event, why);
    }
}

/// The host that a request asks for, without its port.
pub(crate) fn host(request: &Request<Incoming>) -> Option<&str> {
    if let Some(host) = request.uri().host() {
        return Some(host);
    }
    request.headers().get(header::HOST)?.to_str().ok().map(without_port)
}

pub(crate) fn without_port(host: &str) -> &str {
    // An address of IPv6 has a bracket behind its colons.
    host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(host, |(host, _)| host)
}

/// The answer to one request, where it came from, and what the connection becomes if it is an upgrade that is granted.
pub async fn answer(
    request: &Request<Incoming>,
    from: SocketAddr,
    page: &Page,
    port: Port<'_>,
) -> (Answer, SocketAddr, Option<Grant>) {
    let from = page.rules.proxy.client(from, request.headers());
    let (mut answer, grant) = match granted(request, from, page, port).await {
        Ok((answer, grant)) => (answer, Some(grant)),
        Err(answer) => {
            head::misplaced(answer.status(), from, page.door.as_deref());
            (*answer, None)
        }
    };
    if grant.is_none() && !matches!(port, Port::Metrics) {
        let secure = page.rules.tls && matches!(port, Port::Service(..));
        front::headers::secure(answer.headers_mut(), &page.rules.http, secure);
    }
    (answer, from, grant)
}

async fn granted(
    request: &Request<Incoming>,
    from: SocketAddr,
    page: &Page,
    port: Port<'_>,
) -> Result<(Answer, Grant), Box<Answer>> {
    let path = request.uri().path();
    head::check(request, from, page.door.as_deref())?;
    if matches!(port, Port::Misdirected) {
        return Err(Box::new(misdirected(page, from)));
    }
    let is_page = match (path, port) {
        (health::HEALTH | health::READY, _) => true,
        ("/metrics", Port::Metrics) => true,
        (reload::PATH, Port::Metrics) => return Err(Box::new(reload::answer(request, &page.reload).await)),
        (RELAY_PATH, Port::Service(..)) if page.relay.is_some() => false,
        (echo::PATH, Port::Service(..)) if page.echo => false,
        (path, Port::Service(..)) if page.paths.iter().any(|served| served == path || served == ANY_PATH) => {
            false
        }
        (_, Port::Health) => {
            let why = "this port is served with TLS; without, it only tells this machine its health";
            return Err(Box::new(refuse(StatusCode::FORBIDDEN, "forbidden", why, "use https:// or wss://")));
        }
        _ => {
            let hint = "see docs/protocol.md, HTTP";
            return Err(Box::new(refuse(StatusCode::NOT_FOUND, "not_found", "there is nothing here", hint)));
        }
    };
    let connects = is_connect(request);
    if !(request.method() == Method::GET || connects || is_page && request.method() == Method::HEAD) {
        let why = "only GET is served here";
        let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", why, "use GET");
        let allowed = if is_page { "GET, HEAD" } else { "GET" };
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
        return Err(Box::new(answer));
    }
    match (path, port) {
        (health::HEALTH, Port::Service(..))
            if connects || says(request.headers(), header::UPGRADE, "websocket") =>
        {
            let (_, body) = health::health(page).await;
            // That the process is stopping is for the answer to say.
            Ok((switch(request, false)?, Grant::Health(body)))
        }
        (health::HEALTH, _) => Err(Box::new(told(health::health(page).await))),
        (health::READY, _) => Err(Box::new(told(health::ready(page).await))),
        (path, Port::Service(terms)) => {
            let stopping = *page.stop.borrow();
            let upgraded = match page.relay.as_ref().filter(|_| path == RELAY_PATH) {
                Some(relay) => upgrade_to_relay(request, relay, from, stopping).await,
                None => upgrade(request, page, terms, from, stopping),
            };
            if let Err(answer) = &upgraded {
                page.count_refused(answer, from, path);
            }
            upgraded
        }
        _ => {
            let snapshot = page.hub.snapshot().await.unwrap_or_default();
            metrics::CONNECTED_AGENTS.set(snapshot.agents.len() as i64);
            let well = snapshot.node.is_some() && !*page.stop.borrow();
            front::measured::tell_standing(well, &snapshot.namespaces);
            let text = metrics::render().into();
            Err(Box::new(with_type(StatusCode::OK, metrics::CONTENT_TYPE, text)))
        }
    }
}

fn told((status, body): (StatusCode, String)) -> Answer {
    with_type(status, "application/json", body.into_bytes())
}

fn upgrade(
    request: &Request<Incoming>,
    page: &Page,
    Terms { opening, stranger, refuses }: Terms<'_>,
    from: SocketAddr,
    stopping: bool,
) -> Result<(Answer, Grant), Box<Answer>> {
    let offered = Offered::read(request.headers());
    // Whoever asks for our protocol by name means the service that it asks, on a port of several as well.
    let refuses = match &page.door {
        Some(door) if offered.form.is_some() => door.refuse,
        _ => refuses,
    };
    // Whoever gives up on a status is let in and gets the close of all.
    let mut answer = switch(request, stopping && refuses == Refuse::Http)?;
    let Some(door) = &page.door else {
        return Err(Box::new(busy(&Refusal::new(Code::Unavailable, "there is no service here"))));
    };
    let entry = match (page.rules.http.admits(request.headers()), stranger) {
        (Err(origin), _) => Err(door.foreign(from, &origin)),
        (Ok(()), Some(why)) => Err(door.stranger(from, why)),
        (Ok(()), None) => door.admit(from, token(request, opening).map(|shown| || shown.identity(opening))),
    };
    let entry = match entry {
        Err(turned) if refuses == Refuse::Http => return Err(turned_away(&turned)),
        entry => entry,
    };
    let offers = request.headers().get_all(header::SEC_WEBSOCKET_EXTENSIONS);
    let offers = offers.iter().filter_map(|value| value.to_str().ok());
    let agreed = page.deflate.as_ref().and_then(|shared| shared.agree(offers));
    if let Some((_, value)) = &agreed
        && let Ok(value) = HeaderValue::from_str(value)
    {
        answer.headers_mut().insert(header::SEC_WEBSOCKET_EXTENSIONS, value);
    }
    let deflate = agreed.map(|(agreed, _)| agreed);
    if page.echo && request.uri().path() == echo::PATH {
        // Its messages are nobody's frames: an AUTH among them would come back like the others.
        let (identity, seat) = entry.map_err(|turned| turned_away(&turned))?;
        let identity = identity.or(opening.identity.clone());
        if identity.is_none() {
            let refusal = Refusal::new(Code::Unauthenticated, "the echo takes a token with the request");
            return Err(unauthorized(&refusal, "Bearer"));
        }
        return Ok((answer, Grant::Echo { identity, seat, deflate }));
    }
    // A token is never selected: it would stand in the answer, where proxies log it.
    let selected = offered.form.map(|form| match form {
        Form::Json => SUBPROTOCOL_JSON,
        Form::MessagePack => msgpack::SUBPROTOCOL,
    });
    if let Some(selected) = selected {
        let selected = HeaderValue::from_static(selected);
        answer.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, selected);
    }
    let form = offered.form.or((!offered.other).then_some(Form::Json));
    let origins = request.headers().get_all(header::ORIGIN).iter();
    let origins = origins.map(|origin| (header::ORIGIN, origin.clone())).collect();
    let entrant = Entrant { entry, origins, ours: offered.form.is_some(), form };
    Ok((answer, Grant::Session { entrant, deflate }))
}

/// A refusal as a status.
fn turned_away(turned: &Turned) -> Box<Answer> {
    let refusal = turned.refusal();
    let mut answer = match turned {
        Turned::Token(_) => unauthorized(&refusal, "Bearer error=\"invalid_token\""),
        Turned::Stranger | Turned::Origin => Box::new(refuse_by(StatusCode::FORBIDDEN, &refusal)),
        Turned::Full | Turned::AllFull => Box::new(refuse_by(StatusCode::SERVICE_UNAVAILABLE, &refusal)),
        Turned::AddressFull | Turned::Failed(_) => {
            Box::new(refuse_by(StatusCode::TOO_MANY_REQUESTS, &refusal))
        }
    };
    if let Some(seconds) = turned.retry_after() {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer.extensions_mut().insert(ErrorType(turned.error_type()));
    answer
}

/// The connection is no good for the host that is asked for (RFC 9110 section 15.5.20). Browsers come again on one of its own.
fn misdirected(page: &Page, from: SocketAddr) -> Answer {
    let why = "the TLS handshake was for another host, whose clients are asked for other certificates";
    if let Some(door) = &page.door {
        door.log_some(from, "misdirected", why);
    }
    let hint = "connect anew, and name this host in the handshake (SNI)";
    refuse(StatusCode::MISDIRECTED_REQUEST, "misdirected", why, hint)
}

fn unauthorized(refusal: &Refusal, challenge: &'static str) -> Box<Answer> {
    metrics::CLIENT_ERRORS.with_label_values(&[refusal.code.as_str()]).inc();
    let mut answer = refuse_by(StatusCode::UNAUTHORIZED, refusal);
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    Box::new(answer)
}

/// For another node. It shows no token: who it is, it shows to the node.
async fn upgrade_to_relay(
    request: &Request<Incoming>,
    relay: &Arc<Relay>,
    from: SocketAddr,
    stopping: bool,
) -> Result<(Answer, Grant), Box<Answer>> {
    let answer = switch(request, stopping)?;
    match relay.open(from).await {
        Ok(way) => Ok((answer, Grant::Relay(way))),
        Err(refusal) => Err(Box::new(busy(&refusal))),
    }
}

/// It may work in a moment.
pub(crate) fn busy(refusal: &Refusal) -> Answer {
    let mut answer = refuse_by(StatusCode::SERVICE_UNAVAILABLE, refusal);
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

#[derive(Serialize)]
struct Refused<'a> {
    code: &'a str,
    message: &'a str,
    hint: &'a str,
}

fn refuse_by(status: StatusCode, refusal: &Refusal) -> Answer {
    refuse(status, refusal.code.as_str(), &refusal.message, refusal.code.hint())
}

pub(crate) fn refuse(status: StatusCode, code: &str, message: &str, hint: &str) -> Answer {
    json(status, &Refused { code, message, hint })
}

fn json<T: Serialize>(status: StatusCode, body: &T) -> Answer {
    with_type(status, "application/json", serde_json::to_vec(body).unwrap_or_default())
}

pub(crate) fn with_type(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
