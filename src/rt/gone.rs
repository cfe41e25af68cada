//! Whether the process at the other end of a QUIC connection is gone.
//!
//! One that was killed says nothing; but the system of its machine refuses what comes for its port (ICMP, RFC 1122
//! section 3.2.2.1). A socket that serves many peers is not told of that, one that is connected is. So when an answer is
//! overdue, one byte from such a socket asks. No peer makes anything of it (RFC 9000 section 17: no QUIC packet is that short).
//! Where nothing comes back, the node may hang, or the way be cut: that is for those to notice who count its silence.

use std::future::Future;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::clock;

/// How often the counts are looked at.
const EVERY: Duration = Duration::from_millis(100);
/// How long an answer may take, and three round trips, before the port is asked.
const OVERDUE: Duration = Duration::from_millis(250);
/// How long the refusal may take.
const REFUSED_WITHIN: Duration = Duration::from_millis(500);
/// How soon a port that refused nothing is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Waits until the port at the other end of a connection refuses what comes.
pub async fn gone(connection: &quinn::Connection) {
    let counts = || {
        let stats = connection.stats();
        Counts { received: stats.udp_rx.datagrams, asked: asked(&stats), rtt: stats.path.rtt }
    };
    watch(connection.remote_address(), counts).await;
}

/// Frames that a connection has sent and that its peer must acknowledge. quinn asks again for an answer that is overdue with IMMEDIATE_ACK
/// (draft-ietf-quic-ack-frequency) and nothing else. Its probes for the path's MTU have a PING and one of those each: they are
/// left out, as one that is too large for the path gets no answer.
pub fn asked(stats: &quinn::ConnectionStats) -> u64 {
    let sent = &stats.frame_tx;
    let probes = stats.path.sent_plpmtud_probes;
    sent.stream + sent.datagram + (sent.ping + sent.immediate_ack).saturating_sub(2 * probes)
}

/// What a connection counts.
#[derive(Debug, Clone, Copy)]
struct Counts {
    /// Datagrams that came.
    received: u64,
    /// Frames sent that must be acknowledged.
    asked: u64,
    /// Smoothed round trip.
    rtt: Duration,
}

async fn watch(remote: SocketAddr, counts: impl Fn() -> Counts) {
    let (mut before, mut since): (Counts, Option<Instant>) = (counts(), None);
    loop {
        tokio::time::sleep(EVERY).await;
        let now = counts();
        if now.asked > before.asked && (since.is_none() || now.received > before.received) {
            // What came in the same moment may have come before it: only the port can tell.
            since = Some(clock::now());
        } else if now.received > before.received {
            since = None;
        }
        before = now;
        if since.is_some_and(|since| clock::since(since) >= OVERDUE + 3 * now.rtt) {
            if is_refused(remote).await {
                return;
            }
            since = None;
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}

/// Whether nobody listens there. What can't be told is no.
async fn is_refused(remote: SocketAddr) -> bool {
    refusal(remote).await.unwrap_or(false)
}

fn refusal(remote: SocketAddr) -> impl Future<Output = std::io::Result<bool>> {
    let any = match remote {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    async move {
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(remote).await?;
        socket.send(&[0]).await?;
        let answer = tokio::time::timeout(REFUSED_WITHIN, socket.recv(&mut [0; 1])).await;
        Ok(matches!(answer, Ok(Err(why)) if why.kind() == ErrorKind::ConnectionRefused))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    // covers T09, Q01
    #[test]
    fn what_asks_again_counts_and_probes_for_the_mtu_do_not() {
        let mut stats = quinn::ConnectionStats::default();
        (stats.frame_tx.ping, stats.frame_tx.immediate_ack, stats.path.sent_plpmtud_probes) = (5, 5, 5);
        assert_eq!(asked(&stats), 0);
        (stats.frame_tx.stream, stats.frame_tx.immediate_ack) = (3, 7);
        assert_eq!(asked(&stats), 5);
    }

    // covers T09, Q02
    #[tokio::test]
    async fn a_port_that_nobody_has_any_more_is_noticed_when_an_answer_is_overdue() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(peer) = UdpSocket::bind(any).await else { continue };
            let remote = peer.local_addr().unwrap();
            assert!(!is_refused(remote).await, "it is there, and hangs");
            drop(peer);
            let (asked, began) = (AtomicU64::new(0), clock::now());
            let counts = || {
                // Nothing is sent at first: then nothing is overdue.
                let asked = if clock::since(began) < Duration::from_secs(1) { 0 } else { 1 };
                Counts { received: 7, asked, rtt: Duration::ZERO }
            };
            tokio::time::timeout(LONG, watch(remote, counts)).await.unwrap();
            assert!(clock::since(began) >= Duration::from_secs(1) + OVERDUE);
            // One that answers is not asked.
            let counts = || {
                let n = asked.fetch_add(1, Ordering::Relaxed);
                Counts { received: n, asked: n, rtt: Duration::ZERO }
            };
            assert!(tokio::time::timeout(Duration::from_secs(1), watch(remote, counts)).await.is_err());
        }
    }
}
