//! A network in memory, for quinn and for streams of bytes: each datagram is lost, or comes after a while that the seed decides, or twice; ways may be far
//! or narrow for a while, and a machine that nobody dials may come to another address.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
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

mod stream;

pub use stream::SimStream;
use stream::Streams;

/// Which share of the datagrams from one address to another is lost by chance at this time since the start; 1: all.
pub type Lost = Box<dyn Fn(Duration, SocketAddr, SocketAddr) -> f64 + Send>;

/// What is in the way from one address to another at this time since the start.
pub type Ways = Box<dyn Fn(Duration, SocketAddr, SocketAddr) -> Way + Send>;

/// What makes a way bad without losing anything by chance.
#[derive(Debug, Clone, Copy, Default)]
pub struct Way {
    /// So much longer, in microseconds.
    pub more_us: u64,
    /// How many bytes it carries in a second; what finds [`QUEUE`] before it is lost. 0: as many as come.
    pub bytes_per_s: u64,
}

/// How long a datagram waits at most before a narrow way.
const QUEUE: Duration = Duration::from_millis(200);

/// What the network does to datagrams.
pub struct Weather {
    /// One way, in microseconds.
    pub delay_us: (u64, u64),
    pub lost: Lost,
    /// The same, of datagrams alone: they are blocked, and streams pass.
    pub udp_lost: Lost,
    /// Which share comes twice.
    pub twice: f64,
    pub ways: Ways,
}

impl Weather {
    /// Nothing but delay and loss.
    pub fn calm(delay_us: (u64, u64), lost: Lost) -> Weather {
        let (udp_lost, ways) = (Box::new(|_, _, _| 0.0), Box::new(|_, _, _| Way::default()));
        Weather { delay_us, lost, udp_lost, twice: 0.0, ways }
    }
}

/// What the network did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Datagrams that were sent.
    pub sent: u64,
    /// Those that chance or a partition took.
    pub lost: u64,
    /// Those that came twice.
    pub twice: u64,
    /// Those that waited before a narrow way.
    pub waited: u64,
    /// Those for which there was no room.
    pub dropped: u64,
    /// Those for an address that its machine has left.
    pub astray: u64,
    /// Those that were blocked.
    pub blocked: u64,
    /// Streams that were opened.
    pub streams: u64,
    /// How often one of them had to say something again.
    pub again: u64,
}

/// Everything that happened, in order. Two runs are the same when these are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A datagram was sent: nanoseconds since the start, ports of sender and receiver, length.
    Packet(u64, u16, u16, usize),
    /// A segment of a stream was sent: the same.
    Segment(u64, u16, u16, usize),
    /// An agent sent, got or was told something.
    Agent(u64, String),
}

/// What comes to somebody at a time.
enum Due {
    Packet(Packet),
    Stream(stream::Due),
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
    due: BTreeMap<(Instant, u64), Due>,
    /// Wakes the courier when something is due before all else.
    earlier: Arc<Notify>,
    /// Until when a narrow way is busy.
    busy: BTreeMap<(SocketAddr, SocketAddr), Instant>,
    /// Where machines that have moved are seen, by their own addresses.
    seen_at: BTreeMap<SocketAddr, SocketAddr>,
    /// Where nobody is any more.
    left: BTreeSet<SocketAddr>,
    sockets: u64,
    streams: Streams,
    /// Numbers what is due.
    queued: u64,
    tally: Tally,
    /// How often other things happened.
    counts: BTreeMap<&'static str, u64>,
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
        let earlier = Arc::new(Notify::new());
        let net = Net {
            began: Instant::now(),
            random: StdRng::seed_from_u64(seed),
            weather,
            inboxes: BTreeMap::new(),
            due: BTreeMap::new(),
            earlier: earlier.clone(),
            busy: BTreeMap::new(),
            seen_at: BTreeMap::new(),
            left: BTreeSet::new(),
            sockets: 0,
            streams: Streams::new(seed),
            queued: 0,
            tally: Tally::default(),
            counts: BTreeMap::new(),
            trace: Vec::new(),
        };
        let net = SimNet { net: Arc::new(Mutex::new(net)), earlier };
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
        let mut net = self.lock();
        net.inboxes.remove(&address);
        net.streams.unplug(address);
    }

    /// From now on the machine with this address is seen at another one, as behind a NAT or in another network; what is for the
    /// one where it was seen before does not come.
    pub fn moves(&self, address: SocketAddr, seen_at: SocketAddr) {
        let mut net = self.lock();
        let before = net.seen_at.insert(address, seen_at).unwrap_or(address);
        net.left.insert(before);
        net.left.remove(&seen_at);
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

    /// Counts something that happened.
    pub fn count(&self, what: &'static str) {
        *self.lock().counts.entry(what).or_default() += 1;
    }

    /// What was counted.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.lock().counts.clone()
    }

    /// What it did, and the trace.
    pub fn finish(&self) -> (Tally, Vec<Step>) {
        let mut net = self.lock();
        (net.tally, std::mem::take(&mut net.trace))
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
            let packet = match entry.remove() {
                Due::Packet(packet) => packet,
                Due::Stream(due) => {
                    net.stream_is_due(due);
                    continue;
                }
            };
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
        net.tally.sent += 1;
        // All are drawn for every datagram, so that a partition does not shift what comes after it.
        let chance = net.random.random::<f64>();
        let again = net.weather.twice > 0.0 && net.random.random::<f64>() < net.weather.twice;
        let delays = [net.delay(), if again { net.delay() } else { Duration::ZERO }];
        let Some(to) = net.machine_at(to) else {
            net.tally.astray += 1;
            return;
        };
        let elapsed = net.began.elapsed();
        if chance < (net.weather.lost)(elapsed, from, to) {
            net.tally.lost += 1;
            return;
        }
        if chance < (net.weather.udp_lost)(elapsed, from, to) {
            net.tally.blocked += 1;
            return;
        }
        let way = (net.weather.ways)(elapsed, from, to);
        let Some(wait) = net.wait(from, to, bytes.len(), way) else { return };
        net.tally.twice += u64::from(again);
        let seen = net.seen_at.get(&from).copied().unwrap_or(from);
        for delay in &delays[..if again { 2 } else { 1 }] {
            let packet = Packet { from: seen, to, bytes: bytes.to_vec() };
            net.later(Instant::now() + wait + *delay, Due::Packet(packet));
        }
    }
}

impl Net {
    fn later(&mut self, when: Instant, due: Due) {
        self.queued += 1;
        let key = (when, self.queued);
        self.due.insert(key, due);
        if self.due.first_key_value().is_some_and(|(first, _)| *first == key) {
            self.earlier.notify_one();
        }
    }

    fn delay(&mut self) -> Duration {
        let (least, most) = self.weather.delay_us;
        Duration::from_micros(self.random.random_range(least..=most))
    }

    /// Whose address this is now; `None`: its machine has left it.
    fn machine_at(&self, seen: SocketAddr) -> Option<SocketAddr> {
        if self.left.contains(&seen) {
            return None;
        }
        let moved = self.seen_at.iter().find(|(_, at)| **at == seen);
        Some(moved.map_or(seen, |(machine, _)| *machine))
    }

    /// How much longer a datagram takes by what is in its way; `None`: it is lost there.
    fn wait(&mut self, from: SocketAddr, to: SocketAddr, bytes: usize, way: Way) -> Option<Duration> {
        let more = Duration::from_micros(way.more_us);
        if way.bytes_per_s == 0 {
            return Some(more);
        }
        let now = Instant::now();
        let busy = self.busy.entry((from, to)).or_insert(now);
        let queued = busy.saturating_duration_since(now);
        if queued > QUEUE {
            self.tally.dropped += 1;
            return None;
        }
        self.tally.waited += u64::from(!queued.is_zero());
        let takes = Duration::from_micros(bytes as u64 * 1_000_000 / way.bytes_per_s);
        *busy = now + queued + takes;
        Some(more + queued + takes)
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
