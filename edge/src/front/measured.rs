//! What the metrics of the older servers' guides say of a service's clients and their frames.
//!
//! Nothing that a client writes becomes a label: types are those of the protocols, and of channels the first 64 of a service that
//! clients have named who are known.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use trishula::gateway::carrier::{Carrier, Fault, Incoming, Lost};
use trishula::gateway::hub::{FanOut, Load};
use trishula::gateway::session::RoomTimes;
use trishula::metrics::{self, Histogram, IntCounter, IntGauge};
use trishula::rt::clock;
use trishula::wire::close::CloseCode;
use trishula::wire::ids::{Namespace, RoomName};

use super::glance;
use super::known::Known;
use super::refusing::Spoken;
use crate::dialect::{Note, services};
use crate::door::Turned;

/// Types of frames: ours, and those of the older protocols.
const TYPES: &[&str] = &[
    "COMMAND",
    "STATUS",
    "RESULT",
    "ERROR",
    "HEARTBEAT",
    "ACK",
    "NACK",
    "AUTH",
    "AUTHENTICATED",
    "REGISTER",
    "REGISTERED",
    "UNREGISTER",
    "UNREGISTERED",
    "RECEIPT",
    "AGENTS",
    "QUERY",
    "STATE",
    "SUBSCRIBE",
    "SUBSCRIBED",
    "UNSUBSCRIBE",
    "UNSUBSCRIBED",
    "PRESENCE",
    "HISTORY",
    "EXPIRING",
    "auth",
    "request",
    "response",
    "event",
    "error",
    "subscribe",
    "unsubscribe",
    "ping",
    "pong",
    "ack",
    "connected",
    "metrics_update",
    "subscription_confirmed",
];
/// What is no type of these.
const OTHER: &str = "other";
/// Names of channels that one service shows.
const MAX_CHANNELS: usize = 64;
/// Longest of them, in bytes.
const MAX_CHANNEL: usize = 64;

/// What is counted of one service.
pub struct Series {
    labels: [String; 2],
    active: [IntGauge; 3],
    /// By the place of their type in [`TYPES`], with one more for all others.
    types: Vec<OnceLock<OfType>>,
    sizes: [Histogram; 2],
    duration: Histogram,
    channels: Mutex<BTreeMap<String, OfChannel>>,
}

struct OfType {
    sent: [IntCounter; 2],
    received: [IntCounter; 2],
    latency: Histogram,
}

struct OfChannel {
    /// Messages that clients of this edge have sent to it.
    sent: IntCounter,
    /// Those that they were given, wherever they were sent, and how long each took to all of them.
    delivered: IntCounter,
    duration: Histogram,
}

/// Those of all services of this process, for as long as it runs.
static ALL: LazyLock<Mutex<BTreeMap<Namespace, Arc<Series>>>> = LazyLock::new(Mutex::default);

impl std::fmt::Debug for Series {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Series").field(&self.labels).finish()
    }
}

impl Series {
    /// Of a service: the same however often its configuration changes.
    pub fn of(namespace: &Namespace) -> Arc<Series> {
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(namespace.clone()).or_insert_with(|| Arc::new(Series::new(namespace))).clone()
    }

    fn new(namespace: &Namespace) -> Series {
        let service = namespace.to_string();
        // What it called itself in its own metrics.
        let server =
            services::Service::preset(&service).map_or(service.as_str(), |old| old.server).to_owned();
        let labels = [service.as_str(), server.as_str()];
        let sizes =
            ["sent", "received"].map(|way| metrics::WS_SIZE.with_label_values(&[labels[0], labels[1], way]));
        // So that both are there before the first connection.
        for tls in ["ws", "wss"] {
            metrics::WS_CONNECTIONS.with_label_values(&[labels[0], labels[1], tls]);
        }
        let active = [&metrics::WS_ACTIVE, &metrics::WS_CURRENT, &metrics::WS_OPEN];
        let series = Series {
            active: active.map(|gauge| gauge.with_label_values(&labels)),
            types: (0..=TYPES.len()).map(|_| OnceLock::new()).collect(),
            sizes,
            duration: metrics::WS_MESSAGE_DURATION.with_label_values(&labels),
            channels: Mutex::default(),
            labels: labels.map(str::to_owned),
        };
        series.of_type(TYPES.len());
        series
    }

    /// A WebSocket is open, until what is returned is dropped.
    pub fn open(self: &Arc<Series>) -> Open {
        self.active.iter().for_each(IntGauge::inc);
        Open { series: self.clone(), since: clock::micros(), code: None }
    }

    /// Counts clients that are in: as the old servers did, who does not come in is none.
    pub fn connections(&self, tls: bool) -> IntCounter {
        let mode = if tls { "wss" } else { "ws" };
        metrics::WS_CONNECTIONS.with_label_values(&[&self.labels[0], &self.labels[1], mode])
    }

    /// Where the times of joining and leaving its rooms go.
    pub fn room_times(&self) -> RoomTimes {
        let labels = self.labels.each_ref().map(String::as_str);
        RoomTimes {
            join: metrics::WS_ROOM_JOIN.with_label_values(&labels),
            leave: metrics::WS_ROOM_LEAVE.with_label_values(&labels),
        }
    }

    /// A frame of a client came; answers the place of its type in `TYPES`, and what else is seen of it.
    pub fn received<'a>(&self, frame: &'a [u8]) -> (usize, glance::Seen<'a>) {
        let seen = glance::at(frame);
        let place = place(seen.kind);
        self.of_type(place).received.iter().for_each(IntCounter::inc);
        self.sizes[1].observe(frame.len() as f64);
        (place, seen)
    }

    /// A frame for a client is on its way.
    pub fn sent(&self, place: usize, length: usize) {
        self.of_type(place).sent.iter().for_each(IntCounter::inc);
        self.sizes[0].observe(length as f64);
    }

    /// What a frame asked for is on its way, which came at that time, in [`clock::micros`].
    pub fn done(&self, place: usize, came: u64) {
        let seconds = clock::micros().saturating_sub(came) as f64 / 1e6;
        self.duration.observe(seconds);
        self.of_type(place).latency.observe(seconds);
    }

    /// A client sent what is no message.
    pub fn fault(&self, fault: &Fault) {
        match fault {
            Fault::NotUtf8 => self.message_error("decode_error"),
            Fault::TooLarge(_) => self.message_error("too_large"),
            Fault::Protocol(_) => self.message_error("protocol"),
            Fault::Lost(_) => {}
        }
    }

    /// A connection was refused, or ended for its login.
    pub fn connection_error(&self, what: &str) {
        let labels = |what| [self.labels[0].as_str(), self.labels[1].as_str(), what];
        metrics::WS_CONNECTION_ERRORS.with_label_values(&labels(what)).inc();
        metrics::WS_ERRORS.with_label_values(&labels(what)).inc();
        metrics::WS_ERRORS.with_label_values(&labels("connection_error")).inc();
    }

    /// A message was refused, or could not be sent.
    pub fn message_error(&self, what: &str) {
        let labels = [self.labels[0].as_str(), self.labels[1].as_str(), what];
        metrics::WS_MESSAGE_ERRORS.with_label_values(&labels).inc();
        metrics::WS_ERRORS.with_label_values(&labels).inc();
    }

    fn of_type(&self, place: usize) -> &OfType {
        self.types[place.min(TYPES.len())].get_or_init(|| {
            let word = TYPES.get(place).copied().unwrap_or(OTHER);
            let labels = [self.labels[0].as_str(), self.labels[1].as_str(), word];
            let all = |way| metrics::WS_MESSAGES.with_label_values(&[labels[0], labels[1], word, way]);
            OfType {
                sent: [all("sent"), metrics::WS_SENT.with_label_values(&labels)],
                received: [all("received"), metrics::WS_RECEIVED.with_label_values(&labels)],
                latency: metrics::WS_LATENCY.with_label_values(&labels),
            }
        })
    }

    fn of_channel(&self, channel: &str, count: impl FnOnce(&OfChannel)) {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let named =
            channel.len() <= MAX_CHANNEL && (channels.len() < MAX_CHANNELS || channels.contains_key(channel));
        let channel = if named { channel } else { OTHER };
        if let Some(known) = channels.get(channel) {
            return count(known);
        }
        let labels = [self.labels[0].as_str(), self.labels[1].as_str(), channel];
        let series = OfChannel {
            sent: metrics::WS_BROADCASTS.with_label_values(&labels),
            delivered: metrics::WS_BROADCAST_DELIVERIES.with_label_values(&labels),
            duration: metrics::WS_BROADCAST_DURATION.with_label_values(&labels),
        };
        count(&series);
        channels.insert(channel.to_owned(), series);
    }
}

/// Clients of a service have a message for many in their queues.
pub fn fanned_out(fan_out: &FanOut<'_>) {
    let series = ALL.lock().unwrap_or_else(PoisonError::into_inner).get(fan_out.namespace).cloned();
    // Every service that has clients has one.
    let Some(series) = series else { return };
    series.of_channel(fan_out.channel, |of| {
        of.delivered.inc_by(fan_out.sessions as u64);
        of.duration.observe(fan_out.micros as f64 / 1e6);
    });
}

/// Before `/metrics` is shown: whether clients are served, and what the sessions of each service have.
pub fn tell_standing(well: bool, loads: &BTreeMap<Namespace, Load>) {
    for (namespace, series) in ALL.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let labels = series.labels.each_ref().map(String::as_str);
        let load = loads.get(namespace).copied().unwrap_or_default();
        metrics::WS_HEALTH.with_label_values(&labels).set(well.into());
        metrics::WS_ROOM_SUBSCRIPTIONS.with_label_values(&labels).set(load.subscriptions as i64);
        metrics::WS_BROADCAST_QUEUE.with_label_values(&labels).set(load.waiting as i64);
    }
}

/// Counts a WebSocket for as long as it is open, however it ends.
#[derive(Debug)]
pub struct Open {
    series: Arc<Series>,
    since: u64,
    code: Option<u16>,
}

impl Open {
    /// The code that it was closed with; `login`: what its dialect has noted of its login, if that came to nothing.
    pub fn closed(&mut self, code: Option<CloseCode>, login: Option<Note>) {
        self.code = code.map(CloseCode::number);
        let what = match code {
            // The dialects' own words for all that is wrong with a login.
            Some(CloseCode::PolicyViolation | CloseCode::OldUnauthorized) => login.map(Note::as_str),
            Some(CloseCode::Unauthorized) => Some("auth_failed"),
            Some(CloseCode::AuthTimeout) => Some("auth_required"),
            Some(CloseCode::Forbidden) => Some("forbidden"),
            Some(CloseCode::RateLimited) => Some("rate_limit"),
            Some(CloseCode::TryAgainLater) => Some("unavailable"),
            _ => None,
        };
        if let Some(what) = what {
            self.series.connection_error(what);
        }
    }

    /// It found no way in, and is closed for that.
    pub fn turned(&mut self, turned: &Turned) {
        self.code = Some(turned.close().number());
        self.series.connection_error(turned.error_type());
    }

    /// The client was told another code, in its dialect.
    pub fn told(&mut self, code: Option<u16>) {
        self.code = self.code.and(code).or(self.code);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.series.active.iter().for_each(IntGauge::dec);
        let labels = self.series.labels.each_ref().map(String::as_str);
        let lasted = clock::micros().saturating_sub(self.since) as f64 / 1e6;
        metrics::WS_DURATION.with_label_values(&labels).observe(lasted);
        let reason = self.code.map_or_else(|| "lost".to_owned(), |code| code.to_string());
        metrics::WS_DISCONNECTIONS.with_label_values(&[labels[0], labels[1], &reason]).inc();
    }
}

/// A carrier whose frames are counted.
pub struct Measured<C> {
    inner: C,
    series: Arc<Series>,
    known: Known,
    /// Otherwise its connection counts as an error, and what it is told of that as none.
    comes_in: bool,
    /// The frame that the session has under way: its type, its channel, and when it came, in [`clock::micros`].
    under_way: Option<(usize, Option<String>, u64)>,
}

impl<C: Carrier> Measured<C> {
    /// Counts for a service; `known`: whether its client has authenticated, which may come about later; `comes_in`: it is not
    /// turned away.
    pub fn new(inner: C, series: Arc<Series>, known: Known, comes_in: bool) -> Measured<C> {
        Measured { inner, series, known, comes_in, under_way: None }
    }

    /// The session asks for the next frame: it has done with the one before.
    fn done(&mut self) {
        let Some((place, channel, at)) = self.under_way.take() else { return };
        self.series.done(place, at);
        if let Some(channel) = channel {
            self.series.of_channel(&channel, |of| of.sent.inc());
        }
    }

    fn received(&mut self, frame: &[u8]) {
        let (place, seen) = self.series.received(frame);
        let channel = match seen.to {
            Some("broadcast") => Some("broadcast"),
            // Others name a room too: those that join and leave it, and ask for what was said there.
            Some(to) if seen.kind == Some("PUBLISH") => to.strip_prefix("room:").map(|room| {
                let is_name = self.known.is_known() && RoomName::new(room).is_ok();
                if is_name { room } else { OTHER }
            }),
            _ => None,
        };
        self.under_way = Some((place, channel.map(str::to_owned), clock::micros()));
    }
}

fn place(kind: Option<&str>) -> usize {
    kind.and_then(|kind| TYPES.iter().position(|word| *word == kind)).unwrap_or(TYPES.len())
}

/// What a refusal that goes to a client is called: the word of docs/protocol.md, or that of the older servers' own metrics.
fn error_type(frame: &[u8]) -> Option<&'static str> {
    let spoken = Spoken::read(frame)?;
    if spoken.of_agent() {
        return None;
    }
    if let Some(code) = spoken.error_code.as_deref() {
        return Some(match code {
            "DECODE_ERROR" => "decode_error",
            "RATE_LIMIT_EXCEEDED" => "rate_limit",
            "FORBIDDEN" => "forbidden",
            "AUTH_FAILED" | "INVALID_TOKEN" => "auth_failed",
            "AUTH_REQUIRED" => "auth_required",
            "UNKNOWN_REQUEST" => "unknown_request",
            _ => OTHER,
        });
    }
    spoken.of_mesh()?.word()
}

impl<C: Carrier> Carrier for Measured<C> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn has_ping(&self) -> bool {
        self.inner.has_ping()
    }

    fn tells_close(&self) -> bool {
        self.inner.tells_close()
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        self.done();
        let incoming = self.inner.poll_recv(cx);
        match &incoming {
            Poll::Ready(Incoming::Frame(frame)) => self.received(frame),
            Poll::Ready(Incoming::NoFrame(_)) => self.series.message_error("decode_error"),
            Poll::Ready(Incoming::Failed(fault)) => self.series.fault(fault),
            _ => {}
        }
        incoming
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        self.inner.poll_ready(cx)
    }

    fn send(&mut self, frame: Bytes) -> Result<(), Lost> {
        let kind = glance::at(&frame).kind;
        if self.comes_in
            && matches!(kind, Some("ERROR" | "error"))
            && let Some(what) = error_type(&frame)
            // A login that comes to nothing counts as such when the connection ends for it.
            && (self.known.is_known() || !matches!(what, "auth_failed" | "auth_required"))
        {
            self.series.message_error(what);
        }
        self.series.sent(place(kind), frame.len());
        self.inner.send(frame).inspect_err(|_| self.series.message_error("send_failed"))
    }

    fn ping(&mut self, number: u64) -> Result<(), Lost> {
        self.inner.ping(number)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        self.inner.poll_flush(cx)
    }

    fn start_close(&mut self, code: CloseCode, reason: &str) {
        self.known.closing(code);
        self.inner.start_close(code, reason);
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.inner.poll_closed(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_and_types_are_bounded() {
        // covers B22
        let namespace = Namespace::new("measured-test").unwrap();
        let series = Series::of(&namespace);
        for n in 0..200 {
            series.of_channel(&format!("room-{n}"), |of| of.sent.inc());
        }
        series.of_channel(&"x".repeat(1000), |of| of.sent.inc());
        for channel in ["room-1", "room-199"] {
            fanned_out(&FanOut { namespace: &namespace, channel, sessions: 1_000, micros: 2_000 });
        }
        assert_eq!(series.channels.lock().unwrap().len(), MAX_CHANNELS + 1);
        assert!(Arc::ptr_eq(&series, &Series::of(&namespace)), "a reload counts on");
        assert_eq!(
            (place(Some("STATUS")), place(Some("status")), place(None)),
            (1, TYPES.len(), TYPES.len())
        );
        let text = metrics::render();
        let line = "websocket_broadcast_total{channel=\"other\",server=\"measured-test\",service=\"measured-test\"} 137";
        assert!(text.contains(line), "{text}");
        for channel in ["room-1", "other"] {
            let labels =
                format!("{{channel=\"{channel}\",server=\"measured-test\",service=\"measured-test\"}}");
            for line in [
                format!("websocket_broadcast_deliveries_total{labels} 1000\n"),
                format!("websocket_broadcast_duration_seconds_sum{labels} 0.002\n"),
            ] {
                assert!(text.contains(&line), "{line}{text}");
            }
        }
    }

    #[test]
    fn refusals_have_the_words_of_both_protocols() {
        // covers B21
        let of = |frame: serde_json::Value| error_type(frame.to_string().as_bytes());
        let ours =
            |code: &str| of(serde_json::json!({"type": "ERROR", "from": "mesh", "payload": {"code": code}}));
        assert_eq!(ours("bad_frame"), Some("decode_error"));
        assert_eq!(ours("unknown_recipient"), Some("unknown_recipient"));
        assert_eq!(ours("invented"), None);
        assert_eq!(of(serde_json::json!({"type": "ERROR", "from": "agni", "payload": {"code": "x"}})), None);
        assert_eq!(
            of(serde_json::json!({"type": "error", "error_code": "DECODE_ERROR"})),
            Some("decode_error")
        );
        assert_eq!(of(serde_json::json!({"type": "error", "error_code": "INVENTED"})), Some("other"));
    }
}
