//! HTTP/2: pages, and WebSockets as streams of one connection (RFC 8441). Each stream is a session like any other.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use trishula::rt::tasks;

use super::stream::Stream;
use crate::http::{self, MAX_REQUEST, Port, REQUESTS_WITHIN, Upgraded};
use crate::listener::{self, Caller, Service};

/// WebSockets and requests of one connection at once.
const MAX_STREAMS: u32 = 128;
/// What a client may have under way to us: on a stream, and on all together.
const WINDOWS: (u32, u32) = (64 * 1024, 1024 * 1024);
/// What waits for a slow client on one stream, in bytes.
const MAX_UNSENT: usize = 64 * 1024;
/// The connection itself is asked for a sign of life, as WebSockets are.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// What the streams of one connection share.
struct Connection {
    caller: Caller,
    from: SocketAddr,
    /// WebSockets that are open.
    open: AtomicUsize,
    tasks: Exec,
    within: Duration,
    stop: watch::Receiver<bool>,
}

/// Serves one connection until its end; `first`: the service whose patience counts.
pub async fn serve(stream: Stream, from: SocketAddr, caller: Caller, first: &Service) {
    let tasks = Exec::default();
    let shared = Arc::new(Connection {
        caller,
        from,
        open: AtomicUsize::new(0),
        tasks: tasks.clone(),
        within: first.handshake_within,
        stop: first.stop.clone(),
    });
    let answering = shared.clone();
    let answers = service_fn(move |request| {
        let shared = answering.clone();
        async move { Ok::<_, Infallible>(answer(request, &shared).await) }
    });
    let connection = hyper::server::conn::http2::Builder::new(tasks.clone())
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_REQUEST as u32)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_send_buf_size(MAX_UNSENT)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .serve_connection(TokioIo::new(stream), answers);
    let mut connection = pin!(connection);
    let mut over = pin!(over(&shared));
    let mut ending = false;
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            () = over.as_mut(), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(e) = ended {
        tracing::debug!(%from, error = %e, "a connection of HTTP/2 ended");
    }
    // Sessions find that their stream is gone, and end as they always do.
    tasks.join_all().await;
}

/// When no further stream is to be taken: the process stops, or nobody has a WebSocket open for too long.
async fn over(shared: &Connection) {
    let mut stop = shared.stop.clone();
    let idle = async {
        let mut idle = 0;
        while idle < REQUESTS_WITHIN {
            tokio::time::sleep(shared.within).await;
            idle = if shared.open.load(Ordering::Relaxed) == 0 { idle + 1 } else { 0 };
        }
    };
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = idle => {}
    }
}

async fn answer(mut request: Request<Incoming>, shared: &Arc<Connection>) -> Response<Full<Bytes>> {
    let host = http::host(&request).map(str::to_owned);
    let (service, opening) = shared.caller.asks(host.as_deref());
    // Room for a WebSocket is given at the service's door, as on a connection of its own.
    let (answer, from, grant) =
        http::answer(&request, shared.from, &service.page, Port::Service(opening)).await;
    let Some(grant) = grant else { return answer };
    let upgrade = hyper::upgrade::on(&mut request);
    let connection = shared.clone();
    connection.open.fetch_add(1, Ordering::Relaxed);
    shared.tasks.spawn("edge.stream", async move {
        match upgrade.await {
            Ok(io) => {
                let upgraded = Upgraded { io: TokioIo::new(io), from, read: Bytes::new(), host, grant };
                listener::websocket(upgraded, &connection.caller).await;
            }
            Err(e) => tracing::debug!(%from, error = %e, "a stream ended before it was a WebSocket"),
        }
        connection.open.fetch_sub(1, Ordering::Relaxed);
    });
    answer
}

/// Tasks of one connection, supervised as all are.
#[derive(Clone, Default)]
struct Exec(Arc<Mutex<tasks::Group>>);

impl Exec {
    fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).spawn(name, work);
    }

    async fn join_all(&self) {
        let mut group = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        group.join_all().await;
    }
}

impl<F> hyper::rt::Executor<F> for Exec
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, work: F) {
        self.spawn("edge.h2", work);
    }
}
