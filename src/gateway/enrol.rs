//! The way in for a machine with a ticket (ALPN `trishula-join/1`): one question on one stream, relayed to the holder
//! of the CA. This node reads nothing of it; the ticket's secret protects both ways.
//!
//! The answer's first byte says whether the rest is the reply (0) or why there is none (1).

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::metrics;
use crate::node::Handle;
use crate::rt::message;
use crate::wire::frame::Method;

/// Largest question and answer, in bytes.
const MAX_MESSAGE: usize = 64 * 1024;
/// How long a joiner may take to ask, and the mesh to answer.
const WITHIN: Duration = Duration::from_secs(10);
/// Joiners at the same time: whoever comes here has no certificate yet.
const AT_ONCE: usize = 4;

const REPLY: u8 = 0;
const REFUSED: u8 = 1;

/// Why a joiner's question did not come, or its answer did not go.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("the connection broke: {0}")]
    Connection(#[from] quinn::ConnectionError),
    #[error("nothing was asked within {WITHIN:?}")]
    Silent,
    #[error("the question broke off: {0}")]
    Read(io::Error),
    #[error("the answer could not be written: {0}")]
    Write(io::Error),
}

/// Serves one joiner, then closes.
pub async fn serve(connection: quinn::Connection, node: Handle) {
    static SERVED: AtomicUsize = AtomicUsize::new(0);
    let remote = connection.remote_address();
    let Some(_place) = Place::take(&SERVED) else {
        metrics::NOT_ADMITTED.with_label_values(&["join_busy"]).inc();
        return connection.close(1u32.into(), b"others are joining; try again in a few seconds");
    };
    match relay(&connection, &node).await {
        Ok(Ok(())) => tracing::info!(%remote, "a joiner was answered by the holder of the CA"),
        Ok(Err(why)) => tracing::warn!(%remote, why, "a joiner was refused"),
        Err(error) => tracing::warn!(%remote, %error, "a joiner was not served"),
    }
    connection.close(0u32.into(), b"done");
}

async fn relay(connection: &quinn::Connection, node: &Handle) -> Result<Result<(), String>, Failed> {
    let asked = async {
        let (send, mut receive) = connection.accept_bi().await?;
        Ok::<_, Failed>((send, whole_message(&mut receive).await.map_err(Failed::Read)?))
    };
    let (mut send, question) = tokio::time::timeout(WITHIN, asked).await.map_err(|_| Failed::Silent)??;
    let answer = node.call(None, Method::Enrol, question, WITHIN).await;
    let answer = answer.map(|answer| answer.body).map_err(|error| error.to_string());
    message::write(&mut send, &encode_answer(&answer)).await.map_err(Failed::Write)?;
    // Finished twice can't be: the stream is ours alone. Then the joiner closes, or has gone.
    let _ = send.finish();
    let _ = tokio::time::timeout(WITHIN, connection.closed()).await;
    Ok(answer.map(|_| ()))
}

fn encode_answer(answer: &Result<Bytes, String>) -> Vec<u8> {
    let (tag, body): (u8, &[u8]) = match answer {
        Ok(body) => (REPLY, body),
        Err(why) => (REFUSED, &why.as_bytes()[..why.len().min(4096)]),
    };
    [&[tag], body].concat()
}

/// For the joiner: asks, and reads the reply, or why there is none.
pub async fn ask(connection: &quinn::Connection, question: &[u8]) -> io::Result<Result<Bytes, String>> {
    let (mut send, mut receive) = connection.open_bi().await?;
    message::write(&mut send, question).await?;
    send.finish().map_err(io::Error::other)?;
    let answer = whole_message(&mut receive).await?;
    match answer.split_first() {
        Some((&REPLY, _)) => Ok(Ok(answer.slice(1..))),
        Some((&REFUSED, why)) => Ok(Err(String::from_utf8_lossy(why).into_owned())),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is of another version of trishula")),
    }
}

async fn whole_message(from: &mut quinn::RecvStream) -> io::Result<Bytes> {
    message::read(from, MAX_MESSAGE).await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// One of the few places; given back when dropped.
struct Place(&'static AtomicUsize);

impl Place {
    fn take(served: &'static AtomicUsize) -> Option<Place> {
        let taken = served.fetch_add(1, Ordering::Relaxed);
        let place = Place(served);
        (taken < AT_ONCE).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
