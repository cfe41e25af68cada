//! `GET /health` and `GET /metrics` of a node, for the machine itself: plain HTTP on loopback.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::{TcpListener, TcpStream};

use crate::metrics;
use crate::node::Handle;
use crate::node::status::{DurableStatus, Status, StoreStatus};
use crate::rt::{accept, clock};

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take to say what it wants.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may last: one that sends requests and reads no answer would stay for ever.
const REQUESTS_WITHIN: Duration = Duration::from_secs(60);
/// A node task that takes longer than this is not healthy.
const HEALTH_WITHIN: Duration = Duration::from_secs(2);
/// Fewer days than this on the certificate are a warning.
const CERTIFICATE_WARNING_DAYS: i64 = 30;

/// Answers until the node stops.
pub async fn serve(listener: TcpListener, node: Handle) {
    accept::each(listener, "admin.http", MAX_CONNECTIONS, |stream| connection(stream, node.clone())).await;
}

async fn connection(stream: TcpStream, node: Handle) {
    let service = service_fn(move |request| {
        let node = node.clone();
        async move { Ok::<_, Infallible>(answer(&request, &node).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(REQUESTS_WITHIN, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection for health or metrics ended"),
        Err(_) => tracing::debug!("a connection for health or metrics has lasted long enough"),
    }
}

async fn answer(request: &Request<Incoming>, node: &Handle) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let known = matches!(path, "/health" | "/metrics");
    if known && !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n");
        refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        "/health" => {
            let (status, body) = health(node).await;
            respond(status, "application/json", format!("{body}\n"))
        }
        "/metrics" => respond(StatusCode::OK, metrics::CONTENT_TYPE, metrics::render()),
        _ => text(StatusCode::NOT_FOUND, "there are /health and /metrics\n"),
    }
}

/// 200 while the node task answers and takes messages, 503 otherwise. A mesh that is not whole is a warning, and so is a disk
/// that is slow: this node still serves.
async fn health(node: &Handle) -> (StatusCode, Value) {
    let timestamp = OffsetDateTime::from(clock::wall()).format(&Rfc3339).unwrap_or_default();
    match tokio::time::timeout(HEALTH_WITHIN, node.status()).await {
        Ok(Ok(status)) => checked(&status, &timestamp),
        _ => {
            let body = json!({
                "status": "unhealthy",
                "server": "trishula",
                "timestamp": timestamp,
                "checks": { "node": "failing" },
            });
            (StatusCode::SERVICE_UNAVAILABLE, body)
        }
    }
}

/// 503 also while the disk refuses, or the node stands still as its store is an old copy: senders are refused until that is mended.
fn checked(status: &Status, timestamp: &str) -> (StatusCode, Value) {
    let store = status.durable.as_ref().and_then(|durable| durable.store.as_ref());
    let trouble = status.durable.as_ref().and_then(DurableStatus::trouble);
    let mesh = if status.whole { "passing" } else { "warning" };
    let certificate = match status.certificate_days_left {
        Some(days) if days < CERTIFICATE_WARNING_DAYS => "warning",
        _ => "passing",
    };
    let disk = match (&trouble, store.is_some_and(StoreStatus::is_slow)) {
        (Some(_), _) => "failing",
        (None, true) => "warning",
        (None, false) => "passing",
    };
    let all_pass = [mesh, certificate, disk] == ["passing"; 3];
    let (code, word) = match &trouble {
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
        None if all_pass => (StatusCode::OK, "healthy"),
        None => (StatusCode::OK, "degraded"),
    };
    let body = json!({
        "status": word,
        "server": status.node,
        "timestamp": timestamp,
        "uptime": status.uptime_seconds,
        "connected_agents": status.agents_online,
        "checks": { "node": "passing", "store": disk, "mesh": mesh, "certificate": certificate },
        "store_error": trouble,
        "metrics": {
            "links": status.links.len(),
            "nodes": status.nodes.len(),
            "nodes_reachable": status.nodes.iter().filter(|node| node.reachable).count(),
            "agents_known": status.agents_known,
            "certificate_days_left": status.certificate_days_left,
            "uptime_seconds": status.uptime_seconds,
        },
    });
    (code, body)
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body.to_owned())
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::{Instant, interval, timeout};

    use super::*;
    use crate::rt::{queue, tasks};

    const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    /// Half of what a client may take from one request to the next.
    const PAUSE: Duration = Duration::from_secs(5);

    /// Asks again and again and reads the answers, until the connection ends.
    async fn asks_on(address: SocketAddr) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut pause = interval(PAUSE);
        let mut answer = vec![0; 64 * 1024];
        loop {
            tokio::select! {
                count = stream.read(&mut answer) => if !matches!(count, Ok(1..)) { return },
                _ = pause.tick() => stream.write_all(REQUEST).await.unwrap(),
            }
        }
    }

    /// Asks without a pause and reads nothing, until the connection ends.
    async fn floods(address: SocketAddr) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let many = REQUEST.repeat(1000);
        while stream.write_all(&many).await.is_ok() {}
    }

    async fn lasts(client: impl Future<Output = ()>) -> Duration {
        let began = Instant::now();
        timeout(10 * REQUESTS_WITHIN, client).await.expect("the connection does not end");
        began.elapsed()
    }

    #[test]
    fn a_node_whose_disk_refuses_is_not_healthy() {
        // covers T20, B20
        let status = |writable: bool, damaged: Option<&str>| -> Status {
            let store = json!({
                "writable": writable, "since_ms": 1, "damaged": damaged,
                "error": damaged.is_none().then_some("no space left"),
                "slowest_commit_ms": 0.5, "waiting": 0, "quarantined": 0,
            });
            serde_json::from_value(json!({
                "node": "agni", "incarnation": 1, "software": "test", "uptime_seconds": 1, "whole": true,
                "nodes": [], "links": [], "agents_online": 0, "agents_known": 0, "revocation_list": 0,
                "certificate_days_left": 90,
                "durable": {
                    "mailbox": 0, "in_hand": 0, "outbox": 0, "handed": 0, "copies": 0, "untold": 0, "held": 0,
                    "unwritten": 0, "marks": 0, "bytes": 0, "dead_letters": 0, "store": store,
                },
            }))
            .unwrap()
        };
        for (status, code, word, error) in [
            (status(true, None), 200, "passing", Value::Null),
            (status(false, None), 503, "failing", json!("no space left")),
            (status(false, Some("page 7")), 503, "failing", json!("page 7")),
        ] {
            let (found, body) = checked(&status, "now");
            assert_eq!(
                (found.as_u16(), &body["checks"]["store"], &body["store_error"]),
                (code, &json!(word), &error)
            );
            assert_eq!(body["status"] == "unhealthy", code == 503);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_after_a_minute_whatever_its_client_does() {
        // covers B09
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ((requests, _node), (links, _links)) = (queue::bounded("test", 1), queue::bounded("test", 1));
        let _serving = tasks::spawn("test.http", serve(listener, Handle::new(requests, links.into())));
        let (asking, flooding) = tokio::join!(lasts(asks_on(address)), lasts(floods(address)));
        assert_eq!((asking.as_secs(), flooding.as_secs()), (60, 60));
    }
}
