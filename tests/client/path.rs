//! A TCP path whose connections can die without a word.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// What comes to this port goes on to another one.
pub struct TcpPath {
    pub port: u16,
    made: Arc<AtomicUsize>,
    /// So many connections, from the first on.
    dead: Arc<AtomicUsize>,
}

impl TcpPath {
    pub fn to(port: u16) -> TcpPath {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap().port();
        let (made, dead): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
        let (count, deaths) = (made.clone(), dead.clone());
        // Ends with the test process.
        thread::spawn(move || {
            for near in listener.incoming() {
                let (near, far) = (near.unwrap(), TcpStream::connect(("127.0.0.1", port)).unwrap());
                let number = count.fetch_add(1, Ordering::SeqCst);
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to, deaths) =
                        (from.try_clone().unwrap(), to.try_clone().unwrap(), deaths.clone());
                    thread::spawn(move || carry(from, to, || number < deaths.load(Ordering::SeqCst)));
                }
            }
        });
        TcpPath { port: here, made, dead }
    }

    /// How many connections were made.
    pub fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }

    /// Those that are there are dead from now on: nothing passes, and neither end is told. New ones live.
    pub fn die(&self) {
        self.dead.store(self.made(), Ordering::SeqCst);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, is_dead: impl Fn() -> bool) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).unwrap_or(0);
        while is_dead() {
            // Both sockets stay open.
            thread::park();
        }
        if length == 0 || to.write_all(&buffer[..length]).is_err() {
            // The other direction may have done so.
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            return;
        }
    }
}
