//! A UDP path that can be cut.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What comes to `address` goes on to `to`, and back, until it is cut. It may also lose some.
pub struct UdpPath {
    pub address: SocketAddr,
    /// Clients that have come …
    clients: Arc<AtomicU64>,
    /// … and for how many of them, from the first on, it is cut.
    cut: Arc<AtomicU64>,
    /// Of a hundred datagrams, each way.
    lost: Arc<AtomicU64>,
}

impl UdpPath {
    pub fn to(to: SocketAddr) -> UdpPath {
        let front = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = front.local_addr().unwrap();
        let (clients, cut, lost): (Arc<AtomicU64>, Arc<AtomicU64>, Arc<AtomicU64>) = Default::default();
        let (count, is_cut) = (clients.clone(), cut.clone());
        let passes = {
            let (lost, seed) = (lost.clone(), Arc::new(AtomicU64::new(1)));
            move |client: u64| {
                // A linear congruential generator (Knuth's MMIX): the same losses in each run.
                let step = |n: u64| {
                    Some(n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
                };
                let n = seed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap();
                client >= is_cut.load(Ordering::Relaxed) && (n >> 33) % 100 >= lost.load(Ordering::Relaxed)
            }
        };
        // Ends with the test process; a socket for each client, as a NAT would have.
        std::thread::spawn(move || {
            let mut backs: HashMap<SocketAddr, (u64, UdpSocket)> = Default::default();
            let mut buffer = [0u8; 65_536];
            while let Ok((length, client)) = front.recv_from(&mut buffer) {
                let (number, back) = backs.entry(client).or_insert_with(|| {
                    let number = count.fetch_add(1, Ordering::Relaxed);
                    let back = UdpSocket::bind("127.0.0.1:0").unwrap();
                    back.connect(to).unwrap();
                    let (answers, front) = (back.try_clone().unwrap(), front.try_clone().unwrap());
                    let passes = passes.clone();
                    std::thread::spawn(move || {
                        let mut buffer = [0u8; 65_536];
                        loop {
                            // Nobody is there yet: what was sent comes back as an error here.
                            let Ok(length) = answers.recv(&mut buffer) else { continue };
                            if passes(number) {
                                let _ = front.send_to(&buffer[..length], client);
                            }
                        }
                    });
                    (number, back)
                });
                if passes(*number) {
                    let _ = back.send(&buffer[..length]);
                }
            }
        });
        UdpPath { address, clients, cut, lost }
    }

    pub fn set_loss(&self, percent: u64) {
        self.lost.store(percent, Ordering::Relaxed);
    }

    pub fn set_open(&self, open: bool) {
        self.cut.store(if open { 0 } else { u64::MAX }, Ordering::Relaxed);
    }

    /// Cut for the sockets that have sent something so far, as if they were dead.
    #[allow(dead_code, reason = "for tests/client")]
    pub fn cut_for_those(&self) {
        self.cut.store(self.clients.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}
