//! Requests on a connection: the upgrade to WebSocket, `/health` and `/metrics`.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use trishula::gateway::auth::Identity;
use trishula::gateway::hub::{HubHandle, Snapshot};
use trishula::gateway::session::Opening;
use trishula::metrics;
use trishula::rt::clock;
use trishula::wire::close::{Code, Refusal};
use trishula::wire::ids::Namespace;
use trishula::wire::url::RELAY_PATH;

use crate::client::Entrant;
use crate::config::{ANY_PATH, Refuse};
use crate::deflate::{Agreed, Shared};
use crate::door::{Door, Turned};
use crate::echo;
use crate::listener::Counts;
use crate::msgpack;
use crate::relay::{Relay, Way};
use crate::shown::{Form, Offered, SUBPROTOCOL_JSON, token};

/// Largest request, in bytes: a token in the URL and one in a header fit, and some more.
const MAX_REQUEST: usize = 32 * 1024;
/// A connection that does not become a WebSocket ends after so many times what a request may take: one that sends
/// requests and reads no answer would stay for ever.
const REQUESTS_WITHIN: u32 = 6;
/// Agents that `/health` names.
const MAX_NAMED: usize = 1000;

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
    /// Its connections.
    pub counts: Arc<Counts>,
    /// When it started, in [`clock::micros`].
    pub started: u64,
    /// For who is connected.
    pub hub: HubHandle,
    /// Whether the process is stopping.
    pub stop: watch::Receiver<bool>,
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").field("server", &self.server).finish_non_exhaustive()
    }
}

/// A connection that became a WebSocket.
pub struct Upgraded<S> {
    /// The connection.
    pub io: S,
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
        /// As for a session.
        deflate: Option<Agreed>,
    },
    /// Another node.
    Relay(Way),
}

type Answer = Response<Full<Bytes>>;

/// What is served where a client asks for this host: its pages, and how sessions begin; without the latter there are none.
pub type Pages<'a> = dyn Fn(Option<&str>) -> (&'a Page, Option<&'a Opening>) + Send + Sync + 'a;

/// Answers requests until the connection ends or becomes a WebSocket.
pub async fn serve<S>(io: S, from: SocketAddr, pages: &Pages<'_>, within: Duration) -> Option<Upgraded<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let granted: Mutex<Option<(Grant, Option<String>)>> = Mutex::new(None);
    let service = service_fn(|request: Request<Incoming>| {
        let granted = &granted;
        async move {
            let host = host(&request);
            let (page, opening) = pages(host);
            let (answer, grant) = answer(&request, from, page, opening).await;
            if let Some(grant) = grant {
                let grant = (grant, host.map(str::to_owned));
                *granted.lock().unwrap_or_else(PoisonError::into_inner) = Some(grant);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(within)
        .max_headers(64)
        .max_buf_size(MAX_REQUEST)
        .serve_connection(TokioIo::new(io), Pinned(service));
    // Taken back by hand, the connection stays what it was; hyper's own upgrade would box it.
    let served = tokio::time::timeout(within * REQUESTS_WITHIN, connection.without_shutdown());
    let parts = match served.await {
        Ok(Ok(parts)) => parts,
        Ok(Err(e)) => {
            if e.is_parse() || e.is_parse_too_large() || e.is_timeout() {
                refused(from, pages, "request", &e.to_string());
            }
            tracing::debug!(%from, error = %e, "a connection ended amid a request");
            return None;
        }
        Err(_) => {
            refused(from, pages, "slow_requests", "a connection for requests has lasted long enough");
            return None;
        }
    };
    let (io, read) = (parts.io.into_inner(), parts.read_buf);
    let (grant, host) = granted.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    Some(Upgraded { io, read, host, grant })
}

/// No request came, or none that could be read.
fn refused(from: SocketAddr, pages: &Pages<'_>, event: &'static str, why: &str) {
    if let Some(door) = &pages(None).0.door {
        door.log(from, event, why);
    }
}

/// The host that a request asks for, without its port.
fn host(request: &Request<Incoming>) -> Option<&str> {
    if let Some(host) = request.uri().host() {
        return Some(host);
    }
    let host = request.headers().get(header::HOST)?.to_str().ok()?;
    // An address of IPv6 has a bracket behind its colons.
    Some(host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(host, |(host, _)| host))
}

/// A service whose futures are boxed, as taking a connection back by hand needs them to be movable.
struct Pinned<T>(T);

impl<T, R, F> hyper::service::Service<R> for Pinned<T>
where
    T: hyper::service::Service<R, Future = F>,
    F: Future<Output = Result<T::Response, T::Error>>,
{
    type Response = T::Response;
    type Error = T::Error;
    type Future = std::pin::Pin<Box<F>>;
    fn call(&self, request: R) -> Self::Future {
        Box::pin(self.0.call(request))
    }
}

async fn answer(
    request: &Request<Incoming>,
    from: SocketAddr,
    page: &Page,
    opening: Option<&Opening>,
) -> (Answer, Option<Grant>) {
    match granted(request, from, page, opening).await {
        Ok((answer, grant)) => (answer, grant),
        Err(answer) => (*answer, None),
    }
}

async fn granted(
    request: &Request<Incoming>,
    from: SocketAddr,
    page: &Page,
    opening: Option<&Opening>,
) -> Result<(Answer, Option<Grant>), Box<Answer>> {
    let path = request.uri().path();
    let known = match (path, opening) {
        ("/health", _) => true,
        ("/metrics", None) => true,
        (RELAY_PATH, Some(_)) if page.relay.is_some() => true,
        (echo::PATH, Some(_)) if page.echo => true,
        (path, Some(_)) => page.paths.iter().any(|served| served == path || served == ANY_PATH),
        _ => false,
    };
    if !known {
        let hint = "see docs/protocol.md, HTTP";
        return Err(Box::new(refuse(StatusCode::NOT_FOUND, "not_found", "there is nothing here", hint)));
    }
    if request.method() != Method::GET {
        let mut answer = refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "only GET is served here",
            "use GET",
        );
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return Err(Box::new(answer));
    }
    match (path, opening) {
        ("/health", _) => Ok((health(page).await, None)),
        ("/metrics", None) => {
            let agents = page.hub.snapshot().await.map_or(0, |snapshot| snapshot.agents.len());
            metrics::CONNECTED_AGENTS.set(agents as i64);
            Ok((with_type(StatusCode::OK, metrics::CONTENT_TYPE, metrics::render().into()), None))
        }
        (path, Some(opening)) => {
            let stopping = *page.stop.borrow();
            let upgraded = match page.relay.as_ref().filter(|_| path == RELAY_PATH) {
                Some(relay) => upgrade_to_relay(request, relay, from, stopping).await,
                None => upgrade(request, page, opening, from, stopping),
            };
            if let Err(answer) = &upgraded {
                tracing::warn!(%from, status = answer.status().as_u16(), path, "an upgrade was refused");
            }
            upgraded.map(|(answer, grant)| (answer, Some(grant)))
        }
        _ => Err(Box::new(refuse(StatusCode::NOT_FOUND, "not_found", "there is nothing here", ""))),
    }
}

fn upgrade(
    request: &Request<Incoming>,
    page: &Page,
    opening: &Opening,
    from: SocketAddr,
    stopping: bool,
) -> Result<(Answer, Grant), Box<Answer>> {
    let refuses = page.door.as_ref().map_or(Refuse::Http, |door| door.refuse);
    // Whoever gives up on a status is let in and gets the close of all.
    let mut answer = switch(request, stopping && refuses == Refuse::Http)?;
    let entry = match &page.door {
        Some(door) => door.admit(from, token(request, opening).map(|shown| || shown.identity(opening))),
        None => return Err(Box::new(busy(&Refusal::new(Code::Unavailable, "there is no service here")))),
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
        let identity = entry.map_err(|turned| turned_away(&turned))?.0.or(opening.identity.clone());
        if identity.is_none() {
            let refusal = Refusal::new(Code::Unauthenticated, "the echo takes a token with the request");
            return Err(unauthorized(&refusal, "Bearer"));
        }
        return Ok((answer, Grant::Echo { identity, deflate }));
    }
    // A token is never selected: it would stand in the answer, where proxies log it.
    let offered = Offered::read(request.headers());
    let selected = offered.form.map(|form| match form {
        Form::Json => SUBPROTOCOL_JSON,
        Form::MessagePack => msgpack::SUBPROTOCOL,
    });
    if let Some(selected) = selected {
        let selected = HeaderValue::from_static(selected);
        answer.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, selected);
    }
    let form = offered.form.or((!offered.other).then_some(Form::Json));
    let entrant = Entrant { entry, ours: offered.form.is_some(), form };
    Ok((answer, Grant::Session { entrant, deflate }))
}

/// A refusal as a status.
fn turned_away(turned: &Turned) -> Box<Answer> {
    let refusal = turned.refusal();
    let status = match turned {
        Turned::Token(_) => return unauthorized(&refusal, "Bearer error=\"invalid_token\""),
        Turned::Full => StatusCode::SERVICE_UNAVAILABLE,
        Turned::AddressFull | Turned::Failed(_) => StatusCode::TOO_MANY_REQUESTS,
    };
    let mut answer = refuse_by(status, &refusal);
    if let Some(seconds) = turned.retry_after() {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    Box::new(answer)
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

/// The answer to a request for a WebSocket (RFC 6455 section 4.2).
fn switch(request: &Request<Incoming>, stopping: bool) -> Result<Answer, Box<Answer>> {
    let headers = request.headers();
    let says = |name, word: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
    };
    let version = headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let http = request.version() == Version::HTTP_11;
    if !says(header::CONNECTION, "upgrade") || !says(header::UPGRADE, "websocket") || !version || !http {
        let mut answer = refuse(
            StatusCode::UPGRADE_REQUIRED,
            "bad_frame",
            "this is a WebSocket endpoint (RFC 6455, version 13)",
            "connect with a WebSocket client: wss://HOST/ws",
        );
        answer.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        return Err(Box::new(answer));
    }
    if !request.body().is_end_stream() {
        let why = "the request has a body: what follows it could be taken for frames";
        return Err(Box::new(refuse(StatusCode::BAD_REQUEST, "bad_frame", why, "use a WebSocket library")));
    }
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key.as_bytes())) else {
        let why = "Sec-WebSocket-Key is missing or not 16 bytes in base64";
        return Err(Box::new(refuse(StatusCode::BAD_REQUEST, "bad_frame", why, "use a WebSocket library")));
    };
    if stopping {
        return Err(Box::new(busy(&Refusal::new(Code::Unavailable, "the server is stopping"))));
    }
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = answer.headers_mut();
    out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        out.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    Ok(answer)
}

/// It may work in a moment.
fn busy(refusal: &Refusal) -> Answer {
    let mut answer = refuse_by(StatusCode::SERVICE_UNAVAILABLE, refusal);
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

/// Whether it is base64 of 16 bytes: 22 characters and the padding.
fn is_key(key: &[u8]) -> bool {
    let digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(digit)
}

/// `/health`, field by field as docs/protocol.md has it.
#[derive(Serialize)]
struct Health<'a> {
    status: &'static str,
    server: &'a str,
    timestamp: String,
    uptime: f64,
    connected_agents: Vec<&'a str>,
    checks: Checks,
    metrics: Numbers,
}

#[derive(Serialize)]
struct Checks {
    websocket: &'static str,
    node: &'static str,
}

#[derive(Serialize)]
struct Numbers {
    active_connections: u64,
    total_connections: u64,
    uptime_seconds: u64,
}

async fn health(page: &Page) -> Answer {
    let snapshot = page.hub.snapshot().await;
    let stopping = snapshot.is_err() || *page.stop.borrow();
    let snapshot: Snapshot = snapshot.unwrap_or_default();
    let passing = |ok: bool| if ok { "passing" } else { "failing" };
    let well = snapshot.node.is_some() && !stopping;
    let uptime = clock::micros().saturating_sub(page.started);
    let timestamp = OffsetDateTime::from(clock::wall());
    let timestamp = timestamp.replace_nanosecond(0).unwrap_or(timestamp).format(&Rfc3339).unwrap_or_default();
    let ours = |namespace: &Namespace| page.namespace.as_ref().is_none_or(|own| own == namespace);
    let body = Health {
        status: if well { "healthy" } else { "unhealthy" },
        server: &page.server,
        timestamp,
        uptime: uptime as f64 / 1e6,
        connected_agents: snapshot
            .agents
            .iter()
            .filter(|agent| ours(&agent.namespace))
            .map(|agent| agent.name.as_str())
            .take(MAX_NAMED)
            .collect(),
        checks: Checks { websocket: passing(!stopping), node: passing(snapshot.node.is_some()) },
        metrics: Numbers {
            active_connections: page.counts.active.load(Ordering::Relaxed),
            total_connections: page.counts.total.load(Ordering::Relaxed),
            uptime_seconds: uptime / 1_000_000,
        },
    };
    json(if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
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

fn refuse(status: StatusCode, code: &str, message: &str, hint: &str) -> Answer {
    json(status, &Refused { code, message, hint })
}

fn json<T: Serialize>(status: StatusCode, body: &T) -> Answer {
    with_type(status, "application/json", serde_json::to_vec(body).unwrap_or_default())
}

fn with_type(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
