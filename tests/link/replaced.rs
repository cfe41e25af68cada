//! The UDP socket is replaced while connections use it.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use trishula::identity::port::PortKeys;
use trishula::identity::tls;
use trishula::link::socket::Port;
use trishula::link::{Local, quic};

use crate::ends::{PATIENCE, local, server};

/// Bytes of room that are asked for.
const ROOM: usize = 256 << 10;
/// What has been sent on this machine has arrived by then.
const ARRIVED: Duration = Duration::from_millis(20);

/// A process of the peer's, as it were: it has the port from the beginning, and its keys.
struct Process {
    address: SocketAddr,
    begin: mpsc::Sender<()>,
    kill: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Process {
    /// Answers from [`Process::begin`] on; what came before waits in the socket.
    fn at(address: SocketAddr, keys: &PortKeys) -> Process {
        let socket = UdpSocket::bind(address).unwrap();
        let address = socket.local_addr().unwrap();
        let config = keys.endpoint().unwrap();
        let ((begin, begins), (kill, killed)) = (mpsc::channel(), oneshot::channel());
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                begins.recv().unwrap();
                let end = local("dc").0;
                let runtime = Arc::new(quinn::TokioRuntime);
                let endpoint = quinn::Endpoint::new(config, Some(server(&end)), socket, runtime).unwrap();
                let serve = async {
                    let mut all = Vec::new();
                    while let Some(incoming) = endpoint.accept().await {
                        all.push(incoming.await);
                    }
                };
                // Without a word to anybody.
                tokio::select! {
                    () = serve => {}
                    _ = killed => {}
                }
            });
        });
        Process { address, begin, kill, thread }
    }

    fn kill(self) -> SocketAddr {
        self.kill.send(()).unwrap();
        self.thread.join().unwrap();
        self.address
    }
}

async fn dialled(from: &Local, port: &Port, to: &Process) -> quinn::Connection {
    let tls = tls::quic_client(from.identity.client(None).unwrap()).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(quic::transport()));
    let dialled = port.endpoint().connect_with(config, to.address, "node.trishula").unwrap();
    timeout(PATIENCE, dialled).await.unwrap().unwrap()
}

/// A connection is reset in the moment in which the socket beneath it is replaced, or so many turns of the other tasks later.
async fn reset_and_replaced(turns: usize, keys: &PortKeys) {
    let from = local("agni").0;
    let any = "127.0.0.1:0".parse().unwrap();
    let port = Arc::new(Port::open(any, ROOM, keys.endpoint().unwrap(), None).unwrap());
    let first = Process::at(any, keys);
    first.begin.send(()).unwrap();
    let connection = dialled(&from, &port, &first).await;
    let second = Process::at(first.kill(), keys);
    connection.send_datagram(Bytes::from(vec![7; 200])).unwrap();
    for _ in 0..10 {
        yield_now().await;
    }
    second.begin.send(()).unwrap();
    let same = port.clone();
    let replaced = tokio::spawn(async move {
        // Timers have their turn after what has come to sockets, and before whom that is for.
        sleep(ARRIVED / 2).await;
        for _ in 0..turns {
            yield_now().await;
        }
        same.replace().unwrap();
    });
    yield_now().await;
    thread::sleep(ARRIVED);
    replaced.await.unwrap();
    let end = timeout(PATIENCE, connection.closed()).await.unwrap();
    assert_eq!(end, quinn::ConnectionError::Reset, "after {turns} turns");
    dialled(&from, &port, &second).await.close(0u32.into(), b"");
    second.kill();
}

#[tokio::test]
async fn a_connection_that_is_reset_while_its_socket_is_replaced_harms_nobody() {
    // covers T09, Q03
    let folder = tempfile::tempdir().unwrap();
    let keys = PortKeys::open(folder.path()).unwrap();
    for turns in 0..4 {
        reset_and_replaced(turns, &keys).await;
    }
}
