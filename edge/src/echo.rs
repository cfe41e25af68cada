//! `/echo`: every message comes back as it came, through the same listener, token, limits and compression as a session.
//! Operators measure proxies with it, and conformance tools of WebSocket need it. Off unless it is configured.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;
use trishula::gateway::auth::Identity;
use trishula::gateway::carrier::{Carrier, Fault};
use trishula::gateway::session::{self, Settings};
use trishula::rt::clock;
use trishula::wire::close::CloseCode;

use crate::dialect::step::Pace;
use crate::front::measured::Series;
use crate::wss::Wss;

/// Where it is served.
pub const PATH: &str = "/echo";
/// How long a message may wait for its sender to read.
const WRITE_WITHIN: Duration = Duration::from_secs(30);

/// What holds for one client, as for a session.
pub struct Limits {
    /// How fast it may be.
    pub pace: Box<dyn Pace>,
    /// How long no message may come; zero: for ever.
    pub idle: Duration,
    /// Pings, for one.
    pub settings: Arc<Settings>,
    /// Where its messages are counted.
    pub series: Arc<Series>,
}

/// Serves one client until its end; answers the code that it was closed with, if it was still there, and why.
pub async fn serve<S>(
    mut wss: Wss<S>,
    identity: Option<&Identity>,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) -> (Option<CloseCode>, String)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (code, why) = tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => (Some(CloseCode::Restart), "the process is stopping".into()),
        () = over(identity) => (Some(CloseCode::Unauthorized), "the token's time is over".into()),
        ended = answer(&mut wss, limits) => ended,
    };
    if let Some(code) = code {
        session::close(wss, code, &why).await;
    }
    (code, why)
}

/// Ends with the token, by the wall clock, which is looked at each minute: a laptop that slept must not prolong it.
async fn over(identity: Option<&Identity>) {
    let Some(at) = identity.and_then(|identity| identity.expires_at) else {
        return std::future::pending().await;
    };
    loop {
        match at.saturating_sub(clock::wall_ms()) {
            0 => return,
            left => tokio::time::sleep(Duration::from_millis(left.min(60_000))).await,
        }
    }
}

async fn answer<S>(wss: &mut Wss<S>, limits: Limits) -> (Option<CloseCode>, String)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let Limits { mut pace, idle, settings, series } = limits;
    let idle = if idle.is_zero() { Duration::MAX } else { idle };
    let mut said_at = clock::now();
    // Two silences, one of them after a ping.
    let patience = [settings.ping_interval, settings.ping_timeout.unwrap_or(2 * settings.ping_interval)];
    let mut silences = 0;
    loop {
        // What more is there is answered in the same write.
        let read = match wss.message_now() {
            Some(read) => Ok(read),
            None => {
                match tokio::time::timeout(WRITE_WITHIN, wss.flush()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(lost)) => return (None, lost.0),
                    Err(_) => return (Some(CloseCode::Slow), "it reads nothing".into()),
                }
                let left = idle.saturating_sub(clock::since(said_at));
                tokio::time::timeout(patience[silences].min(left), wss.message()).await
            }
        };
        let message = match read {
            Ok(Ok(Message::Close(_))) => return (Some(CloseCode::Normal), "the client closed".into()),
            Ok(Ok(message)) => message,
            Ok(Err(fault)) => {
                series.fault(&fault);
                return ended_by(fault);
            }
            Err(_) if clock::since(said_at) >= idle => {
                return (Some(CloseCode::GoingAway), "idle".into());
            }
            Err(_) if silences == 0 && wss.ping(0).is_ok() => {
                silences = 1;
                continue;
            }
            Err(_) => return (Some(CloseCode::HeartbeatMissed), "no sign of life".into()),
        };
        silences = 0;
        let frame = match &message {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => &bytes[..],
            // Pings are answered by the library.
            _ => continue,
        };
        said_at = clock::now();
        let (came, length, (place, _)) = (clock::micros(), frame.len(), series.received(frame));
        if let Err(wait) = pace.take(came, length) {
            series.message_error("rate_limit");
            let wait = wait.as_millis().max(1);
            return (
                Some(CloseCode::RateLimited),
                format!("too many messages or bytes; retry_after_ms={wait}"),
            );
        }
        match tokio::time::timeout(WRITE_WITHIN, wss.queue(message)).await {
            Ok(Ok(())) => {
                series.sent(place, length);
                series.done(place, came);
            }
            Ok(Err(lost)) => {
                series.message_error("send_failed");
                return (None, lost.0);
            }
            Err(_) => return (Some(CloseCode::Slow), "it reads nothing".into()),
        }
    }
}

fn ended_by(fault: Fault) -> (Option<CloseCode>, String) {
    match fault {
        Fault::TooLarge(why) => (Some(CloseCode::TooBig), why),
        Fault::NotUtf8 => (Some(CloseCode::InvalidData), "text that is not UTF-8".into()),
        Fault::Protocol(why) => (Some(CloseCode::Protocol), why),
        Fault::Lost(why) => (None, why),
    }
}
