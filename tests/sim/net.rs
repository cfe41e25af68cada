//! A network in memory for quinn: each datagram is lost, or comes after a while that the seed decides.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;
use tokio::time::Instant;
use trishula::rt::tasks;

/// Which share of the datagrams from one address to another is lost by chance at this time since the start; 1: all.
pub type Lost = Box<dyn Fn(Duration, SocketAddr, SocketAddr) -> f64 + Send>;

/// What the network does to datagrams.
pub struct Weather {
    /// One way, in microseconds.
    pub delay_us: (u64, u64),
    pub lost: Lost,
}

/// Everything that happened, in order. Two runs are the same when these are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A datagram was sent: nanoseconds since the start, ports of sender and receiver, length.
    Packet(u64, u16, u16, usize),
    /// An agent sent, got or was told something.
    Agent(u64, String),
}

struct Packet {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Inbox {
    /// Of the socket that is at this address now; an earlier one is deaf and dumb.
    socket: u64,
    waiting: VecDeque<(SocketAddr, Vec<u8>)>,
    reader: Option<Waker>,
}

struct Net {
    began: Instant,
    random: StdRng,
    weather: Weather,
    inboxes: BTreeMap<SocketAddr, Inbox>,
    due: BTreeMap<(Instant, u64), Packet>,
    sockets: u64,
    sent: u64,
    lost: u64,
    trace: Vec<Step>,
}

/// The network; cheap to clone.
#[derive(Clone)]
pub struct SimNet {
    net: Arc<Mutex<Net>>,
    earlier: Arc<Notify>,
}

impl SimNet {
    /// Starts it; it runs as long as the task.
    pub fn start(seed: u64, weather: Weather) -> (SimNet, tasks::Task) {
        let net = Net {
            began: Instant::now(),
            random: StdRng::seed_from_u64(seed),
            weather,
            inboxes: BTreeMap::new(),
            due: BTreeMap::new(),
            sockets: 0,
            sent: 0,
            lost: 0,
            trace: Vec::new(),
        };
        let net = SimNet { net: Arc::new(Mutex::new(net)), earlier: Arc::default() };
        let courier = tasks::spawn("sim.courier", net.clone().carry());
        (net, courier)
    }

    /// A socket at this address; what came for an earlier one there is gone.
    pub fn bind(&self, address: SocketAddr) -> Arc<dyn AsyncUdpSocket> {
        let mut net = self.lock();
        net.sockets += 1;
        let number = net.sockets;
        net.inboxes.insert(address, Inbox { socket: number, ..Inbox::default() });
        Arc::new(Socket { address, number, net: self.clone() })
    }

    /// The machine at this address loses power: nothing leaves it any more, not even a goodbye.
    pub fn unplug(&self, address: SocketAddr) {
        self.lock().inboxes.remove(&address);
    }

    /// Since the start.
    pub fn elapsed(&self) -> Duration {
        Instant::now() - self.lock().began
    }

    /// Waits until so much time has passed since the start.
    pub async fn wait_until(&self, at: Duration) {
        let when = self.lock().began + at;
        tokio::time::sleep_until(when).await;
    }

    /// Writes what an agent did into the trace.
    pub fn note(&self, what: String) {
        let mut net = self.lock();
        let now = nanos(net.began);
        net.trace.push(Step::Agent(now, what));
    }

    /// Datagrams sent, datagrams lost, and the trace.
    pub fn finish(&self) -> (u64, u64, Vec<Step>) {
        let mut net = self.lock();
        (net.sent, net.lost, std::mem::take(&mut net.trace))
    }

    fn lock(&self) -> MutexGuard<'_, Net> {
        self.net.lock().unwrap()
    }

    async fn carry(self) {
        loop {
            let next = self.lock().due.first_key_value().map(|((when, _), _)| *when);
            let at_next = async {
                match next {
                    Some(when) => tokio::time::sleep_until(when).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.earlier.notified() => {}
                () = at_next => self.hand_over(),
            }
        }
    }

    fn hand_over(&self) {
        let mut net = self.lock();
        let now = Instant::now();
        while let Some(entry) = net.due.first_entry().filter(|entry| entry.key().0 <= now) {
            let packet = entry.remove();
            if let Some(inbox) = net.inboxes.get_mut(&packet.to) {
                inbox.waiting.push_back((packet.from, packet.bytes));
                if let Some(reader) = inbox.reader.take() {
                    reader.wake();
                }
            }
        }
    }

    fn send(&self, socket: &Socket, to: SocketAddr, bytes: &[u8]) {
        let (mut net, from) = (self.lock(), socket.address);
        if net.inboxes.get(&from).is_none_or(|inbox| inbox.socket != socket.number) {
            return;
        }
        let step = Step::Packet(nanos(net.began), from.port(), to.port(), bytes.len());
        net.trace.push(step);
        net.sent += 1;
        // Both are drawn for every datagram, so that a partition does not shift what comes after it.
        let chance = net.random.random::<f64>();
        let (least, most) = net.weather.delay_us;
        let delay = Duration::from_micros(net.random.random_range(least..=most));
        if chance < (net.weather.lost)(net.began.elapsed(), from, to) {
            net.lost += 1;
            return;
        }
        let key = (Instant::now() + delay, net.sent);
        net.due.insert(key, Packet { from, to, bytes: bytes.to_vec() });
        if net.due.first_key_value().is_some_and(|(first, _)| *first == key) {
            self.earlier.notify_one();
        }
    }
}

fn nanos(began: Instant) -> u64 {
    began.elapsed().as_nanos() as u64
}

struct Socket {
    address: SocketAddr,
    number: u64,
    net: SimNet,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulated {}", self.address)
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.net.send(self, transmit.destination, transmit.contents);
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut net = self.net.lock();
        let inbox = net.inboxes.get_mut(&self.address).filter(|inbox| inbox.socket == self.number);
        let Some(inbox) = inbox else { return Poll::Pending };
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas.iter_mut()) {
            let Some((from, bytes)) = inbox.waiting.pop_front() else { break };
            buffer[..bytes.len()].copy_from_slice(&bytes);
            *meta = RecvMeta {
                addr: from,
                len: bytes.len(),
                stride: bytes.len(),
                ecn: None,
                dst_ip: Some(self.address.ip()),
            };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        inbox.reader = Some(context.waker().clone());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
