//! Every metric, in one place. No label takes a value that a client chooses, but for `channel`: of a service the first 64.

use std::sync::LazyLock;

/// For whoever counts often: a counter that was found by its labels once.
pub use prometheus::{Histogram, IntCounter, IntGauge};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

/// What `/metrics` shows.
pub static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::new);

// The names below are constants of ours: a name that prometheus refuses is found by the test at the end.
macro_rules! metric {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $make:expr;)*) => {
        $($(#[$doc])* pub static $name: LazyLock<$type> = LazyLock::new(|| {
            #[allow(clippy::expect_used)]
            let metric: $type = $make.expect("a metric's name and labels are constants that a test checks");
            // Registering twice is the only failure, and a static is made once.
            let _ = REGISTRY.register(Box::new(metric.clone()));
            metric
        });)*

        /// Makes every metric known to the registry, so that `/metrics` shows zeros from the start.
        pub fn init() {
            $(LazyLock::force(&$name);)*
        }
    };
}

fn counters(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(Opts::new(name, help), labels)
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    IntGaugeVec::new(Opts::new(name, help), labels)
}

const SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

fn seconds(name: &str, help: &str) -> prometheus::Result<Histogram> {
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()))
}

/// One for each state that a sender may ask to be told of, all there from the start.
fn seconds_to_states(name: &str, help: &str) -> prometheus::Result<HistogramVec> {
    let all = histograms(name, help, &["state"], SECONDS)?;
    for state in ["accepted", "stored", "delivered", "acked"] {
        all.get_metric_with_label_values(&[state])?;
    }
    Ok(all)
}

/// Names and labels of the servers that an edge stands in for, with the labels of both of their guides. Each is counted from the
/// first connection on; `channel` has at most 64 values of a service.
const SERVER: &[&str] = &["service", "server"];
const SERVER_TYPE: &[&str] = &["service", "server", "message_type"];
const SERVER_ERROR: &[&str] = &["service", "server", "error_type"];
const SERVER_CHANNEL: &[&str] = &["service", "server", "channel"];
/// Seconds, as those servers have them.
const OLD_BUCKETS: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
const LATENCY_BUCKETS: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const LIFE_BUCKETS: &[f64] = &[1.0, 10.0, 60.0, 300.0, 1_800.0, 3_600.0, 14_400.0, 86_400.0, 604_800.0];
const SIZE_BUCKETS: &[f64] =
    &[64.0, 256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 16_777_216.0];

fn histograms(name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> prometheus::Result<HistogramVec> {
    HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)
}

metric! {
    /// Tasks that run now, by name.
    TASKS: IntGaugeVec = gauges("trishula_tasks", "Tasks that run now", &["task"]);
    /// Tasks that panicked, by name.
    TASK_PANICS: IntCounterVec = counters("trishula_task_panics_total", "Tasks that panicked", &["task"]);
    /// Items refused because a queue was full, by queue.
    QUEUE_FULL: IntCounterVec = counters("trishula_queue_full_total", "Items refused by a full queue", &["queue"]);
    /// Lines of the log that its file did not take: they are on standard error. Those that found no room on the way to it are in
    /// `trishula_queue_full_total{queue="log"}`.
    LOG_REFUSED: IntCounter = IntCounter::new("trishula_log_refused_total", "Lines of the log that its file did not take, and that went to standard error");
    /// Links that are up, by role of the peer.
    LINKS: IntGaugeVec = gauges("trishula_links", "Links that are up", &["role"]);
    /// Dial attempts, by carrier (quic, wss; local: an edge's to its own machine) and outcome.
    DIALS: IntCounterVec = counters("trishula_dials_total", "Dial attempts", &["carrier", "outcome"]);
    /// Links that changed their carrier: QUIC was silent, lossy, or works again; and entrances that went home.
    CARRIER_CHANGES: IntCounterVec = counters("trishula_carrier_changes_total", "Links that went from QUIC to a WebSocket (silent, lossy) or back (works), and of an edge back to a better node (home)", &["why"]);
    /// Live telemetry in datagrams between nodes: sent, dropped for want of room, received, late (overtaken by a later one).
    DATAGRAMS: IntCounterVec = counters("trishula_datagrams_total", "Live telemetry, and copies of urgent messages, in datagrams between nodes", &["what"]);
    /// How often an edge read again by what a service's tokens are checked, by service and outcome (ok, refused).
    TRUST_RELOADS: IntCounterVec = counters("trishula_trust_reloads_total", "Times that secrets, keys or revoked tokens were read again", &["service", "outcome"]);
    /// Connections of other nodes that an edge relays to its own.
    RELAYS: IntGauge = IntGauge::new("trishula_relays", "Connections of other nodes, edges and native agents that this edge relays to its node");
    /// Those that it refused, by reason.
    RELAYS_REFUSED: IntCounterVec = counters("trishula_relays_refused_total", "Connections of other nodes, edges and native agents that this edge did not relay", &["reason"]);
    /// Which address of its list an edge is at: 1 is the best, 0 none.
    UPLINK_PLACE: IntGauge = IntGauge::new("trishula_uplink_place", "Which address of its list an edge is at: 1 is the first, 0 none");
    /// How often the machine woke up or was on another network, by what showed it.
    WAKES: IntCounterVec = counters("trishula_wakes_total", "Times that the machine woke up or was on another network", &["why"]);
    /// What the system gives the UDP socket, by what it is: receive, send; and what was asked for each of them: wanted.
    UDP_BUFFER: IntGaugeVec = gauges("trishula_udp_buffer_bytes", "Buffers of the UDP socket: as asked for (wanted), and as given", &["what"]);
    /// UDP sockets on which the kernel refused several packets at once, though it had said that it takes them.
    UDP_SEGMENTS_REFUSED: IntCounter = IntCounter::new("trishula_udp_segments_refused_total", "Sockets on which the kernel refused segmentation offload");
    /// Attempts to replace the UDP socket after a wake, by outcome: replaced, or kept as the system gave no other.
    UDP_REBINDS: IntCounterVec = counters("trishula_udp_rebinds_total", "Times that the UDP socket was to be replaced", &["outcome"]);
    /// Links of nodes that this node closed, by reason.
    LINKS_CLOSED: IntCounterVec = counters("trishula_links_closed_total", "Links that this node closed, by reason", &["reason"]);
    /// Links whose peer went on from another address.
    LINKS_MOVED: IntCounter = IntCounter::new("trishula_links_moved_total", "Times that the peer of a link went on from another address");
    /// Nodes that there is an address of and no link to.
    DOWN: IntGauge = IntGauge::new("trishula_links_down", "Nodes that there is an address of and no link to");
    /// For how long nothing has been done about one of them: the longest. An attempt, or the wait for the next, takes five
    /// seconds at most.
    DOWN_IDLE_SECONDS: IntGauge = IntGauge::new("trishula_links_down_idle_seconds", "The longest that nothing has been done about a link that is down");
    /// Nodes that were neither linked nor being dialled, and are dialled anew. Always 0, or there is a fault in the program.
    NOT_DIALLED: IntCounter = IntCounter::new("trishula_links_not_dialled_total", "Times that a link was down and nobody dialled: 0, or there is a fault in the program");
    /// Connections that were resumed with early data (0-RTT), by what became of it: offered, and of those accepted, rejected
    /// or dropped as the dialler sees it; received as the other end does.
    EARLY_DATA: IntCounterVec = counters("trishula_early_data_total", "Connections resumed with early data", &["outcome"]);
    /// Messages that came as early data: all, and those that had come before and were recognised.
    EARLY_MESSAGES: IntCounterVec = counters("trishula_early_messages_total", "Messages that came as early data", &["what"]);
    /// Peers that were not admitted, by reason.
    NOT_ADMITTED: IntCounterVec = counters("trishula_not_admitted_total", "Peers that were not admitted", &["reason"]);
    /// Frames received over links, by kind; a link within the process counts at both of its ends.
    FRAMES_IN: IntCounterVec = counters("trishula_frames_received_total", "Frames received over links", &["kind"]);
    /// Frames queued for links, by kind.
    FRAMES_OUT: IntCounterVec = counters("trishula_frames_sent_total", "Frames queued for links", &["kind"]);
    /// Messages that this process took from its clients, by recipient: agent, broadcast or room. Each message
    /// counts once in the whole mesh: at its entrance.
    MESSAGES_SENT: IntCounterVec = counters("trishula_messages_sent_total", "Messages taken from the clients of this process", &["target"]);
    /// Messages handed to entrances for their sessions.
    MESSAGES_DELIVERED: IntCounter = IntCounter::new("trishula_messages_delivered_total", "Messages handed to an entrance for delivery");
    /// Messages refused, by code.
    MESSAGES_REFUSED: IntCounterVec = counters("trishula_messages_refused_total", "Messages refused", &["code"]);
    /// Messages that came again and were recognised.
    MESSAGES_RECOGNISED: IntCounter = IntCounter::new("trishula_messages_recognised_total", "Messages that came again and were recognised");
    /// Messages that went on from their second copy.
    MESSAGES_TAKEN_OVER: IntCounter = IntCounter::new("trishula_messages_taken_over_total", "Messages whose first holder stayed away and that went on from their second copy");
    /// Durable messages that this node keeps, by where they are: mailbox (those in hands included), in_hand, outbox
    /// (those included whose recipient's node has no room), no_room, handed, copy, untold, held, dead.
    MESSAGES_KEPT: IntGaugeVec = gauges("trishula_messages_kept", "Durable messages that this node keeps", &["place"]);
    /// Marks by which messages that have ended are recognised.
    MARKS: IntGauge = IntGauge::new("trishula_marks", "Marks of messages that have ended");
    /// Answers that agents of this node got lately, whose depth in answers to answers is remembered; at most 65,536.
    ANSWERS_REMEMBERED: IntGauge = IntGauge::new("trishula_answers_remembered", "Answers whose depth in a chain of answers is remembered, against loops");
    /// Payloads of durable messages in memory.
    KEPT_BYTES: IntGauge = IntGauge::new("trishula_kept_bytes", "Bytes of the payloads of durable messages that this node keeps");
    /// By how much the wall clocks of the nodes that there is a link to are ahead of this one's; a mesh has at most 256.
    CLOCK_SKEW: IntGaugeVec = gauges("trishula_clock_skew_ms", "How far the wall clock of a neighbour is ahead, in milliseconds", &["peer"]);
    /// Agents connected now. Set by the node task and by an edge's `/metrics`.
    CONNECTED_AGENTS: IntGauge = IntGauge::new("trishula_connected_agents", "Connected agents: of a node in the whole mesh, of an edge its own");
    /// Sessions of clients that this process holds.
    SESSIONS: IntGaugeVec = gauges("trishula_sessions", "Client sessions that are open", &["gateway"]);
    /// Control frames of its sessions that wait for room in the link to the node; beyond 8,192 the sessions wait.
    HUB_OUTBOX: IntGauge = IntGauge::new("trishula_hub_outbox", "Control frames of sessions that wait for room in the link to the node");
    /// Subscriptions of this process's sessions to rooms.
    ROOM_SUBSCRIPTIONS: IntGauge = IntGauge::new("trishula_room_subscriptions", "Subscriptions of client sessions to rooms");
    /// Rooms that this node keeps; at most 4,096.
    ROOMS: IntGauge = IntGauge::new("trishula_rooms", "Rooms kept at this node");
    /// Rooms that are kept no more, of which this node knows how far they reached; at most 16,384.
    ROOMS_FORGOTTEN: IntGauge = IntGauge::new("trishula_rooms_forgotten", "Forgotten rooms whose last places are known");
    /// Bytes of messages for rooms that wait for the disk or for other keepers; at most 64 MiB.
    ROOM_WAITING_BYTES: IntGauge = IntGauge::new("trishula_room_waiting_bytes", "Bytes of messages for rooms that wait to be taken");
    /// Messages of their histories, and their bytes; at most 128 MiB, and of one room about 1,000 and 4 MiB.
    ROOM_MESSAGES: IntGauge = IntGauge::new("trishula_room_messages", "Messages in the histories of rooms");
    /// See there.
    ROOM_BYTES: IntGauge = IntGauge::new("trishula_room_bytes", "Bytes of the histories of rooms");
    /// Sessions that ended, by reason.
    SESSIONS_CLOSED: IntCounterVec = counters("trishula_sessions_closed_total", "Client sessions that ended", &["gateway", "code"]);
    /// Frames of clients refused, by code.
    CLIENT_ERRORS: IntCounterVec = counters("trishula_client_errors_total", "Client frames refused", &["code"]);
    /// Connections and upgrades that an edge refused, by reason: proxy, tls, certificate, misdirected, origin, address, and those of a service's door, among them token_ended.
    EDGE_REFUSED: IntCounterVec = counters("trishula_edge_refused_total", "Connections and upgrades that an edge refused", &["reason"]);
    /// Connections that a listener of few closed at once, as it had as many as it may: metrics, redirect, the admin socket and others.
    LISTENER_FULL: IntCounterVec = counters("trishula_listener_full_total", "Connections that were closed as their listener was full", &["listener"]);
    /// Addresses that an edge remembers something of, by what it is: connections, waiting, auth_failures, frames, log_lines, refusal_lines.
    EDGE_ADDRESSES: IntGaugeVec = gauges("trishula_edge_addresses", "Addresses that an edge remembers something of", &["table"]);
    /// Certificates of services that an edge read again, by service and outcome (ok, refused).
    CERTIFICATE_RELOADS: IntCounterVec = counters("trishula_certificate_reloads_total", "Certificates that changed and were read again", &["service", "outcome"]);
    /// How often an edge read its configuration again, by outcome (changed, unchanged, refused).
    CONFIG_RELOADS: IntCounterVec = counters("trishula_config_reloads_total", "Times that the configuration was read again", &["outcome"]);
    /// WebSocket clients that have compression (permessage-deflate).
    DEFLATE_CONNECTIONS: IntGauge = IntGauge::new("trishula_deflate_connections", "WebSocket connections on which messages may be compressed");
    /// Bytes of compressed messages, by direction (in, out) and form: on the wire, and plain as they are read.
    DEFLATE_BYTES: IntCounterVec = counters("trishula_deflate_bytes_total", "Bytes of compressed WebSocket messages, compressed (wire) and not (plain)", &["direction", "form"]);
    /// Compressed messages that ended their connection, by reason: too_large, ratio, garbage, interleaved.
    DEFLATE_REFUSED: IntCounterVec = counters("trishula_deflate_refused_total", "Compressed WebSocket messages that were refused", &["reason"]);
    /// What old clients did that is worth a look, by what it was.
    DIALECT_NOTES: IntCounterVec = counters("trishula_dialect_notes_total", "Refused or dropped frames of clients that speak an older dialect", &["what"]);
    /// WebSockets that were opened; `tls_mode` is ws or wss.
    WS_CONNECTIONS: IntCounterVec = counters("websocket_connections_total", "Total number of WebSocket connections established", &["service", "server", "tls_mode"]);
    /// Those that are open, by the name of the one guide,
    WS_ACTIVE: IntGaugeVec = gauges("websocket_connections_active", "Current number of active WebSocket connections", SERVER);
    /// of the other,
    WS_CURRENT: IntGaugeVec = gauges("websocket_connections_current", "Current number of WebSocket connections", SERVER);
    /// and of the second dashboard.
    WS_OPEN: IntGaugeVec = gauges("websocket_connections", "Number of WebSocket connections", SERVER);
    /// 1 while clients of a service are served: there is a node, and the process does not stop.
    WS_HEALTH: IntGaugeVec = gauges("websocket_health", "1 while the service is healthy", SERVER);
    /// Those that ended, by reason: the close code, or lost.
    WS_DISCONNECTIONS: IntCounterVec = counters("websocket_disconnections_total", "Total number of WebSocket connections that ended", &["service", "server", "reason"]);
    /// How long they lasted.
    WS_DURATION: HistogramVec = histograms("websocket_connection_duration_seconds", "Duration of WebSocket connections", SERVER, LIFE_BUCKETS);
    /// Frames of clients and to clients, by their `type` (`other`: none that is known) and direction (sent, received).
    WS_MESSAGES: IntCounterVec = counters("websocket_messages_total", "Total number of messages processed", &["service", "server", "message_type", "direction"]);
    /// The same to clients.
    WS_SENT: IntCounterVec = counters("websocket_messages_sent_total", "Total number of messages sent", SERVER_TYPE);
    /// The same of clients.
    WS_RECEIVED: IntCounterVec = counters("websocket_messages_received_total", "Total number of messages received", SERVER_TYPE);
    /// Size of frames in bytes, uncompressed, by direction.
    WS_SIZE: HistogramVec = histograms("websocket_message_size_bytes", "Size of messages", &["service", "server", "direction"], SIZE_BUCKETS);
    /// From a frame's arrival until its client is read again: what it asked for is on its way.
    WS_MESSAGE_DURATION: HistogramVec = histograms("websocket_message_duration_seconds", "WebSocket message processing duration", SERVER, OLD_BUCKETS);
    /// The same by type.
    WS_LATENCY: HistogramVec = histograms("websocket_latency_seconds", "WebSocket message processing latency", SERVER_TYPE, LATENCY_BUCKETS);
    /// Messages of clients to everybody or to a room: counted where their senders come in.
    WS_BROADCASTS: IntCounterVec = counters("websocket_broadcast_total", "Total number of broadcast operations", SERVER_CHANNEL);
    /// Of such messages, from wherever: how many clients here had them put into their queues.
    WS_BROADCAST_DELIVERIES: IntCounterVec = counters("websocket_broadcast_deliveries_total", "Broadcast messages handed to clients, one for each", SERVER_CHANNEL);
    /// From the arrival of one until it is in the queue of the last of these.
    WS_BROADCAST_DURATION: HistogramVec = histograms("websocket_broadcast_duration_seconds", "Time taken to broadcast messages to rooms", SERVER_CHANNEL, OLD_BUCKETS);
    /// Messages that wait until their client takes more: as they are when this is asked for.
    WS_BROADCAST_QUEUE: IntGaugeVec = gauges("websocket_broadcast_queue_size", "Messages that wait to be written to clients", SERVER);
    /// Subscriptions of clients to rooms, likewise.
    WS_ROOM_SUBSCRIPTIONS: IntGaugeVec = gauges("room_subscriptions", "Subscriptions of clients to rooms", SERVER);
    /// From a client's wish to join a room until its answer is queued for it.
    WS_ROOM_JOIN: HistogramVec = histograms("websocket_room_join_duration_seconds", "Time taken to join a room", SERVER, OLD_BUCKETS);
    /// The same to leave it.
    WS_ROOM_LEAVE: HistogramVec = histograms("websocket_room_leave_duration_seconds", "Time taken to leave a room", SERVER, OLD_BUCKETS);
    /// Connections that were refused, or ended for their login.
    WS_CONNECTION_ERRORS: IntCounterVec = counters("websocket_connection_errors_total", "Total number of WebSocket connection errors", SERVER_ERROR);
    /// Frames that were refused.
    WS_MESSAGE_ERRORS: IntCounterVec = counters("websocket_message_errors_total", "Total number of message processing errors", SERVER_ERROR);
    /// Both; those of connections also as connection_error.
    WS_ERRORS: IntCounterVec = counters("websocket_errors_total", "Total number of WebSocket errors", SERVER_ERROR);
    /// By one clock, at the sender's entrance: from its socket until the receipt is back there, by the receipt's state. Of
    /// `delivered` this is to the recipient's socket and back. Only receipts that the sender asked for.
    MESSAGE_LATENCY: HistogramVec = seconds_to_states("trishula_message_latency_seconds", "From a message's arrival to each receipt that its sender asked for");
    /// Time of one turn of the node task.
    NODE_TURN: Histogram = seconds("trishula_node_turn_seconds", "One turn of the node task");
    /// Time of one fsync with what it wrote.
    STORE_COMMIT: Histogram = seconds("trishula_store_commit_seconds", "One group commit of the store");
    /// Whether the store writes what it is given.
    STORE_WRITABLE: IntGauge = IntGauge::new("trishula_store_writable", "1 while the store writes what it is given, 0 while the disk refuses");
    /// Damaged messages that the store has put aside.
    STORE_QUARANTINED: IntGauge = IntGauge::new("trishula_store_quarantined", "Damaged messages that the store has put aside");
    /// Full checks of the store, by what they found.
    STORE_CHECKS: IntCounterVec = counters("trishula_store_checks_total", "Full checks of the store's file, by result", &["result"]);
    /// Days until the first of our certificates ends.
    CERTIFICATE_DAYS: IntGaugeVec = gauges("trishula_certificate_days_left", "Days until a certificate ends", &["certificate"]);
}

/// Media type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The text that `/metrics` answers (Prometheus exposition format 0.0.4).
pub fn render() -> String {
    init();
    TextEncoder::new().encode_to_string(&REGISTRY.gather()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_metric_can_be_made_and_is_shown() {
        // covers T22
        super::TASKS.with_label_values(&["test"]).set(1);
        let text = super::render();
        assert!(text.contains("trishula_tasks{task=\"test\"} 1"), "{text}");
        assert!(text.contains("# TYPE trishula_connected_agents gauge"), "{text}");
        for state in ["accepted", "stored", "delivered", "acked"] {
            let series = format!("trishula_message_latency_seconds_count{{state=\"{state}\"}} ");
            assert!(text.contains(&series), "{series} before the first message: {text}");
        }
    }
}
