//! A peer that hangs, seen by one who says nothing more to it.

use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use trishula::identity::tls;
use trishula::link::{quic, race};

use crate::ends::{PATIENCE, endpoint, local};

/// A process of the peer's, as it were: answers one datagram, and then stands still with its socket open, until `end` is dropped.
fn answers_once(
    address: oneshot::Sender<SocketAddr>,
    stands_still: oneshot::Sender<()>,
    end: mpsc::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let port = endpoint(&local("dc").0);
        address.send(port.local_addr().unwrap()).unwrap();
        let connection = port.accept().await.unwrap().await.unwrap();
        connection.send_datagram(connection.read_datagram().await.unwrap()).unwrap();
        // The answer leaves, and so do acknowledgements.
        sleep(Duration::from_millis(100)).await;
        stands_still.send(()).unwrap();
        assert!(end.recv().is_err());
    });
}

#[tokio::test]
async fn a_peer_that_hangs_is_found_silent_by_what_quic_asks_again() {
    // covers T09, Q01
    let ((address, at), (hangs, hung), (end, ends)) =
        (oneshot::channel(), oneshot::channel(), mpsc::channel());
    let peer = thread::spawn(move || answers_once(address, hangs, ends));
    let from = local("agni").0;
    let port = endpoint(&from);
    let mut config =
        quinn::ClientConfig::new(Arc::new(tls::quic_client(from.identity.client(None).unwrap()).unwrap()));
    // Nothing else that would ask by itself.
    let mut transport = quic::transport();
    transport.keep_alive_interval(None).mtu_discovery_config(None);
    config.transport_config(Arc::new(transport));
    let dialled = port.connect_with(config, at.await.unwrap(), "node.trishula").unwrap();
    let connection = timeout(PATIENCE, dialled).await.unwrap().unwrap();
    connection.send_datagram(Bytes::from_static(b"answered")).unwrap();
    timeout(PATIENCE, connection.read_datagram()).await.unwrap().unwrap();
    assert!(timeout(Duration::from_secs(2), race::silent(&connection)).await.is_err(), "it owes nothing");
    hung.await.unwrap();
    connection.send_datagram(Bytes::from_static(b"not answered")).unwrap();
    // The last that anybody says is there before the first look: only what asks again is seen.
    timeout(PATIENCE, race::silent(&connection)).await.expect("it owes an answer");
    drop(end);
    peer.join().unwrap();
}
