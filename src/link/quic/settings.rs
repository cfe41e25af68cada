//! Settings of every QUIC connection.

use std::time::Duration;

use super::super::Lane;
use super::super::congestion::Congestion;
use super::super::datagram;

/// What a lane's peer lets us have under way in it, in bytes. It bounds the rate of one lane: 80 Mbit/s at 100 ms.
const STREAM_WINDOW: u32 = 1 << 20;
/// What may be under way of a connection. All lanes that may be full at once leave room for the urgent ones, or those
/// would wait for them: quinn takes the bytes of all streams from this one window.
const SEND_WINDOW: u64 = (Lane::COUNT as u64 + 2) * STREAM_WINDOW as u64;
/// A first packet that is lost costs three times this, until a round trip was measured (RFC 9002 section 6.2.2 says 333 ms for
/// peers that nobody knows).
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// What every path carries (RFC 9000 section 14), in bytes of UDP payload: a connection begins with it, finds out how much more
/// there is, and comes back to it when larger packets disappear.
const LEAST_MTU: u16 = 1200;

/// Settings of every connection. Time-outs are a little longer than the mesh's own patience, which decides.
pub fn transport() -> quinn::TransportConfig {
    transport_with(Congestion::default())
}

/// The same, with this congestion control.
pub fn transport_with(congestion: Congestion) -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    transport.congestion_controller_factory(congestion.factory());
    transport.initial_rtt(INITIAL_RTT);
    transport.initial_mtu(LEAST_MTU);
    transport.min_mtu(LEAST_MTU);
    transport.mtu_discovery_config(Some(quinn::MtuDiscoveryConfig::default()));
    transport.stream_receive_window(STREAM_WINDOW.into());
    transport.send_window(SEND_WINDOW);
    transport.max_concurrent_uni_streams(64u32.into());
    transport.max_concurrent_bidi_streams(8u32.into());
    transport.datagram_send_buffer_size(datagram::BUFFER);
    transport.datagram_receive_buffer_size(Some(datagram::BUFFER));
    // Off by default in quinn; NAT bindings for UDP may last no longer than 30 s (RFC 4787 section 4.3).
    transport.keep_alive_interval(Some(Duration::from_secs(5)));
    transport.max_idle_timeout(quinn::IdleTimeout::try_from(Duration::from_secs(10)).ok());
    transport
}
