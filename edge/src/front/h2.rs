//! HTTP/2: pages, and WebSockets as streams of one connection (RFC 8441). Each stream is a session like any other.

use std::convert::Infallible;
use std::error::Error as _;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::{Service as Answers, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use trishula::rt::{clock, tasks};

use super::resets::Watched;
use super::stream::Stream;
use crate::http::{self, MAX_REQUEST, REQUESTS_WITHIN, Upgraded};
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
    life: Life,
    tasks: Exec,
}

/// For how long a connection stays.
struct Life {
    /// WebSockets that are open.
    open: AtomicUsize,
    /// What a request may take.
    within: Duration,
    stop: watch::Receiver<bool>,
}

/// Serves one connection until its end; `first`: the service whose patience counts.
pub async fn serve(stream: Stream, from: SocketAddr, caller: Caller, first: &Service) {
    let tasks = Exec::default();
    let life = Life { open: AtomicUsize::new(0), within: first.handshake_within, stop: first.stop.clone() };
    let shared = Arc::new(Connection { caller, from, life, tasks: tasks.clone() });
    let answering = shared.clone();
    let answers = service_fn(move |request| {
        let shared = answering.clone();
        async move { Ok::<_, Infallible>(answer(request, &shared).await) }
    });
    let watched = shared.clone();
    let io = TokioIo::new(Watched::new(stream, move |why| watched.refused(http::REQUEST, why)));
    match until_over(io, answers, &tasks, &shared.life).await {
        Ok(Ended::GivenUp) if !*shared.life.stop.borrow() => {
            shared.refused(http::SLOW_REQUESTS, "a connection for requests has lasted long enough");
        }
        Ok(_) => {}
        Err(e) => {
            // One that broke is no refusal.
            if !e.source().is_some_and(|source| source.is::<io::Error>()) {
                shared.refused(http::REQUEST, &explained(&e));
            }
            tracing::debug!(%from, error = %e, "a connection of HTTP/2 ended");
        }
    }
    // Sessions find that their stream is gone, and end as they always do; so do answers that nobody takes.
    tasks.join_all().await;
}

impl Connection {
    /// As over HTTP/1.1, but not each is in the log: one connection may cause very many.
    fn refused(&self, event: &'static str, why: &str) {
        if let Some(door) = &self.caller.asks(None).0.page.door {
            door.log_some(self.from, event, why);
        }
    }
}

/// With what it comes from: `http2 error` alone says nothing.
fn explained(e: &hyper::Error) -> String {
    e.source().map_or_else(|| e.to_string(), |source| format!("{e}: {source}"))
}

/// How a connection ended that did not fail.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// As its client, or both, wished.
    Itself,
    /// Its client did nothing for it.
    GivenUp,
}

/// Answers on a connection until its end, which comes even if its client does nothing for it. It is gone when this returns.
async fn until_over<I, A, F>(io: I, answers: A, tasks: &Exec, life: &Life) -> hyper::Result<Ended>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    A: Answers<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible, Future = F>,
    F: Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send + 'static,
{
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
        .serve_connection(io, answers);
    let mut connection = pin!(connection);
    let mut over = pin!(over(life));
    let mut last = pin!(tokio::time::sleep(life.within));
    let mut ending = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => return ended.map(|()| Ended::Itself),
            () = over.as_mut(), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
                last.as_mut().reset(clock::now() + life.within);
            }
            // A client that says nothing at all, or takes no answer, leaves a graceful end waiting for ever.
            () = last.as_mut(), if ending => {
                if life.open.load(Ordering::Relaxed) == 0 {
                    return Ok(Ended::GivenUp);
                }
                last.as_mut().reset(clock::now() + life.within);
            }
        }
    }
}

/// When no further stream is to be taken: the process stops, or nobody has a WebSocket open for too long.
async fn over(life: &Life) {
    let mut stop = life.stop.clone();
    let idle = async {
        let mut idle = 0;
        while idle < REQUESTS_WITHIN {
            tokio::time::sleep(life.within).await;
            idle = if life.open.load(Ordering::Relaxed) == 0 { idle + 1 } else { 0 };
        }
    };
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = idle => {}
    }
}

async fn answer(mut request: Request<Incoming>, shared: &Arc<Connection>) -> Response<Full<Bytes>> {
    let host = http::host(&request).map(str::to_owned);
    let (service, port) = shared.caller.asks(host.as_deref());
    // Room for a WebSocket is given at the service's door, as on a connection of its own.
    let (answer, from, grant) = http::answer(&request, shared.from, &service.page, port).await;
    let Some(grant) = grant else { return answer };
    let upgrade = hyper::upgrade::on(&mut request);
    let connection = shared.clone();
    connection.life.open.fetch_add(1, Ordering::Relaxed);
    shared.tasks.spawn("edge.stream", async move {
        match upgrade.await {
            Ok(io) => {
                let upgraded = Upgraded { io: TokioIo::new(io), from, read: Bytes::new(), host, grant };
                let session = Box::pin(listener::websocket(upgraded, &connection.caller)).await;
                if let Some(session) = session {
                    session.await;
                }
            }
            Err(e) => tracing::debug!(%from, error = %e, "a stream ended before it was a WebSocket"),
        }
        connection.life.open.fetch_sub(1, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const WITHIN: Duration = Duration::from_millis(30);
    /// The preface, and SETTINGS by which no stream may be sent a single byte.
    const NO_WINDOW: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0";

    /// What `GET /` of a stream is: the four names are in the table of RFC 7541, appendix A.
    fn get(stream: u32) -> Vec<u8> {
        let fields = b"\x82\x84\x87\x41\x01x";
        let mut frame = vec![0, 0, fields.len() as u8, 1, 5];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(fields);
        frame
    }

    /// Serves a client that sends this and then only reads; whether the connection was given up in time.
    async fn is_given_up(said: &[u8]) -> (bool, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        client.write_all(said).await.unwrap();
        let (_stop, stop) = watch::channel(false);
        let (tasks, life) = (Exec::default(), Life { open: AtomicUsize::new(0), within: WITHIN, stop });
        let answers =
            service_fn(async |_| Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"fine")))));
        let serving = async {
            until_over(TokioIo::new(socket), answers, &tasks, &life).await.unwrap();
            tasks.join_all().await;
        };
        let mut heard = Vec::new();
        let (served, _) = tokio::join!(
            tokio::time::timeout(100 * WITHIN, serving),
            tokio::time::timeout(100 * WITHIN, client.read_to_end(&mut heard)),
        );
        (served.is_ok(), heard)
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_is_given_up() {
        // covers B19
        assert!(is_given_up(b"").await.0, "not even the preface");
        assert!(is_given_up(&NO_WINDOW[..10]).await.0, "half of it");
    }

    #[tokio::test]
    async fn a_client_that_takes_no_answer_is_given_up() {
        // covers B19
        let said = [NO_WINDOW.to_vec(), (0..100).flat_map(|n| get(2 * n + 1)).collect()].concat();
        let (given_up, heard) = is_given_up(&said).await;
        assert!(given_up);
        // A frame of HEADERS for the first stream: it was answered, as far as it let.
        assert!(heard.windows(6).any(|part| part[0] == 1 && part[2..] == [0, 0, 0, 1]), "{heard:?}");
    }
}
