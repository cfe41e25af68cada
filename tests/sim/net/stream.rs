//! Streams of bytes as TCP gives them: whole and in order while the way lasts, later by every loss, and silent when a machine
//! loses its power or is elsewhere. What goes to a machine's earlier life is answered with a reset.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use trishula::link::wss;
use trishula::rt::queue;

use super::{Net, SimNet, Step, nanos};

/// Most bytes of a segment, and what stands round them.
const SEGMENT: usize = 1_400;
const HEADERS: usize = 40;
/// Bytes that may be under way, and that a receiver holds unread.
const WINDOW: u64 = 64 * 1024;
const FIRST_WINDOW: u64 = 10 * SEGMENT as u64;
/// Bytes that the system takes beyond those, as [`wss::prepare`] has it.
const UNSENT: usize = wss::UNSENT as usize;
/// How long an answer is waited for beyond a round trip, twice as long each further time, and how often: 51 s in all.
const AGAIN: Duration = Duration::from_millis(200);
const MAX_TRIES: u32 = 8;
/// How often a machine is asked to open one, and how long an answer is waited for.
const CALLS: u32 = 2;
const CALL_AGAIN: Duration = Duration::from_secs(1);
/// Streams that wait to be taken.
const BACKLOG: usize = 64;

/// One end of a stream.
pub struct SimStream {
    net: SimNet,
    place: Place,
}

/// Which stream, and which of its ends: 0 opened it.
type Place = (u64, usize);

/// Streams that were opened to a machine, and from where they are seen to come.
pub type Opened = queue::Receiver<(SimStream, SocketAddr)>;

/// All of a network.
pub(super) struct Streams {
    random: StdRng,
    all: BTreeMap<u64, [End; 2]>,
    listeners: BTreeMap<SocketAddr, queue::Sender<(SimStream, SocketAddr)>>,
}

/// What is to happen to an end.
pub(super) enum Due {
    Segment { to: Place, seq: u64, bytes: Vec<u8>, last: bool },
    Acknowledged { to: Place, until: u64 },
    Again { of: Place, timer: u64 },
    Reset { to: Place },
}

struct End {
    machine: SocketAddr,
    /// Where it was seen when the stream was opened, and in which life; afterwards nothing gets through.
    seen: SocketAddr,
    life: u64,
    /// Written and not acknowledged; of a closed end, one more for its end.
    unacked: VecDeque<u8>,
    acked: u64,
    sent: u64,
    closed: bool,
    window: u64,
    tries: u32,
    timer: u64,
    waits: bool,
    /// Of which byte the round trip is measured, and since when.
    measured: Option<(u64, Instant)>,
    rtt: Duration,
    /// When the latest segment arrives: none overtakes it.
    arrives: Instant,
    got: u64,
    arrived: VecDeque<u8>,
    ended: bool,
    broken: Option<ErrorKind>,
    dropped: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Streams {
    pub(super) fn new(seed: u64) -> Streams {
        let random = StdRng::seed_from_u64(seed ^ 0x73_74_72_65_61_6d);
        Streams { random, all: BTreeMap::new(), listeners: BTreeMap::new() }
    }

    fn end(&mut self, (stream, side): Place) -> &mut End {
        &mut self.all.get_mut(&stream).unwrap()[side]
    }

    /// Nobody listens there any more.
    pub(super) fn unplug(&mut self, machine: SocketAddr) {
        self.listeners.remove(&machine);
    }
}

impl End {
    fn new(machine: SocketAddr, seen: SocketAddr, life: u64, rtt: Duration) -> End {
        End {
            machine,
            seen,
            life,
            unacked: VecDeque::new(),
            acked: 0,
            sent: 0,
            closed: false,
            window: FIRST_WINDOW,
            tries: 0,
            timer: 0,
            waits: false,
            measured: None,
            rtt,
            arrives: Instant::now(),
            got: 0,
            arrived: VecDeque::new(),
            ended: false,
            broken: None,
            dropped: false,
            reader: None,
            writer: None,
        }
    }

    fn under_way(&self) -> u64 {
        self.sent - self.acked
    }

    fn unsent(&self) -> usize {
        self.unacked.len() - self.under_way() as usize
    }

    fn close(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.unacked.push_back(0);
        }
    }

    fn breaks(&mut self, why: ErrorKind) {
        self.broken = self.broken.or(Some(why));
        self.wake();
    }

    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl SimNet {
    /// From now on streams are taken at this address, until its machine loses power.
    pub fn listen(&self, address: SocketAddr) -> Opened {
        let (opened, taken) = queue::bounded("sim.backlog", BACKLOG);
        self.lock().streams.listeners.insert(address, opened);
        taken
    }

    /// Opens a stream from one machine to another.
    pub async fn connect(&self, from: SocketAddr, to: SocketAddr) -> io::Result<SimStream> {
        for _ in 0..CALLS {
            let takes = self.lock().round_trip(from, to);
            let Some(takes) = takes else {
                tokio::time::sleep(CALL_AGAIN).await;
                continue;
            };
            tokio::time::sleep(takes).await;
            let (opened, seen, place) = {
                let mut net = self.lock();
                let refused = || io::Error::from(ErrorKind::ConnectionRefused);
                let listener = net.streams.listeners.get(&to).cloned().ok_or_else(refused)?;
                (listener, net.seen(from), net.open(from, to, takes))
            };
            let [ours, theirs] = [0, 1].map(|side| SimStream { net: self.clone(), place: (place, side) });
            return match opened.try_send((theirs, seen)) {
                Ok(()) => Ok(ours),
                Err(_) => Err(ErrorKind::ConnectionRefused.into()),
            };
        }
        Err(ErrorKind::TimedOut.into())
    }

    /// Where a machine is seen now.
    pub fn seen(&self, machine: SocketAddr) -> SocketAddr {
        self.lock().seen(machine)
    }
}

impl Net {
    fn seen(&self, machine: SocketAddr) -> SocketAddr {
        self.seen_at.get(&machine).copied().unwrap_or(machine)
    }

    fn life(&self, machine: SocketAddr) -> Option<u64> {
        self.inboxes.get(&machine).map(|inbox| inbox.socket)
    }

    fn open(&mut self, from: SocketAddr, to: SocketAddr, rtt: Duration) -> u64 {
        self.tally.streams += 1;
        let number = self.tally.streams;
        let ends = [from, to]
            .map(|machine| End::new(machine, self.seen(machine), self.life(machine).unwrap_or(0), rtt));
        self.streams.all.insert(number, ends);
        number
    }

    /// How long it takes to get to a machine and back; `None`: there is no answer.
    fn round_trip(&mut self, from: SocketAddr, to: SocketAddr) -> Option<Duration> {
        let (there, back) = (self.passes(from, to, HEADERS), self.passes(to, from, HEADERS));
        self.life(to)?;
        Some(there? + back?)
    }

    /// How long so much takes from one machine to another; `None`: it is lost.
    fn passes(&mut self, from: SocketAddr, to: SocketAddr, bytes: usize) -> Option<Duration> {
        let (least, most) = self.weather.delay_us;
        let delay = Duration::from_micros(self.streams.random.random_range(least..=most));
        let chance = self.streams.random.random::<f64>();
        let elapsed = self.began.elapsed();
        if chance < (self.weather.lost)(elapsed, from, to) {
            return None;
        }
        let way = (self.weather.ways)(elapsed, from, to);
        Some(self.wait(from, to, bytes, way)? + delay)
    }

    /// The same, of a stream: both ends must be where they were.
    fn flows(&mut self, (stream, side): Place, bytes: usize) -> Option<Duration> {
        let ends = self.streams.all.get(&stream)?;
        let (from, to) = (ends[side].machine, ends[1 - side].machine);
        let at_home = ends.iter().all(|end| self.seen(end.machine) == end.seen);
        let alive = self.life(from) == Some(ends[side].life);
        let step = Step::Segment(nanos(self.began), from.port(), to.port(), bytes);
        self.trace.push(step);
        self.passes(from, to, bytes).filter(|_| at_home && alive)
    }

    pub(super) fn stream_is_due(&mut self, due: Due) {
        match due {
            Due::Segment { to, seq, bytes, last } => self.segment(to, seq, &bytes, last),
            Due::Acknowledged { to, until } => self.acknowledged(to, until),
            Due::Again { of, timer } => self.again(of, timer),
            Due::Reset { to } => {
                if self.is_there(to) {
                    self.streams.end(to).breaks(ErrorKind::ConnectionReset);
                }
            }
        }
    }

    /// Whether the machine of an end still lives the life in which it began.
    fn is_there(&mut self, of: Place) -> bool {
        let (machine, life) = (self.streams.end(of).machine, self.streams.end(of).life);
        self.life(machine) == Some(life)
    }

    /// Sends what may be sent.
    fn push(&mut self, of: Place) {
        let (stream, side) = of;
        loop {
            let [first, second] = self.streams.all.get_mut(&stream).unwrap();
            let (end, other) = if side == 0 { (first, second) } else { (second, first) };
            let read = other.got - other.arrived.len() as u64;
            let room = (end.acked + end.window).min(read + WINDOW).saturating_sub(end.sent);
            let count = end.unsent().min(SEGMENT).min(room as usize);
            if count == 0 || end.broken.is_some() {
                break;
            }
            let (from, seq) = (end.under_way() as usize, end.sent);
            let bytes: Vec<u8> = end.unacked.range(from..from + count).copied().collect();
            end.sent += count as u64;
            let last = end.closed && from + count == end.unacked.len();
            if end.measured.is_none() && end.tries == 0 {
                end.measured = Some((end.sent, Instant::now()));
            }
            if let Some(takes) = self.flows(of, count + HEADERS) {
                let end = self.streams.end(of);
                end.arrives = end.arrives.max(Instant::now() + takes);
                let (arrives, to) = (end.arrives, (stream, 1 - side));
                self.later(arrives, super::Due::Stream(Due::Segment { to, seq, bytes, last }));
            }
        }
        let end = self.streams.end(of);
        if end.under_way() > 0 && !end.waits && end.broken.is_none() {
            end.waits = true;
            end.timer += 1;
            let (timer, wait) = (end.timer, end.rtt + AGAIN * (1 << end.tries));
            self.later(Instant::now() + wait, super::Due::Stream(Due::Again { of, timer }));
        }
    }

    fn segment(&mut self, to: Place, seq: u64, bytes: &[u8], last: bool) {
        let from = (to.0, 1 - to.1);
        let machine = self.streams.end(to).machine;
        if self.life(machine).is_none() {
            return;
        }
        let there = self.is_there(to);
        let end = self.streams.end(to);
        if !there || end.broken.is_some() || (end.dropped && bytes.len() > usize::from(last)) {
            return self.reset(from);
        }
        let old = end.got.saturating_sub(seq) as usize;
        // What comes behind a gap is sent again.
        if seq <= end.got && old < bytes.len() {
            end.got = seq + bytes.len() as u64;
            end.arrived.extend(&bytes[old..bytes.len() - usize::from(last)]);
            end.ended |= last;
            if let Some(reader) = end.reader.take() {
                reader.wake();
            }
        }
        let until = end.got;
        if let Some(takes) = self.flows(to, HEADERS) {
            let due = Due::Acknowledged { to: from, until };
            self.later(Instant::now() + takes, super::Due::Stream(due));
        }
    }

    fn acknowledged(&mut self, to: Place, until: u64) {
        let there = self.is_there(to);
        let end = self.streams.end(to);
        if !there || until <= end.acked {
            return;
        }
        let count = until - end.acked;
        drop(end.unacked.drain(..count as usize));
        end.acked = until;
        end.sent = end.sent.max(until);
        end.window = (end.window + count).min(WINDOW);
        if let Some((_, since)) = end.measured.take_if(|(byte, _)| *byte <= until) {
            end.rtt = since.elapsed();
        }
        (end.tries, end.waits) = (0, false);
        if let Some(writer) = end.writer.take() {
            writer.wake();
        }
        self.push(to);
    }

    fn again(&mut self, of: Place, timer: u64) {
        let there = self.is_there(of);
        let end = self.streams.end(of);
        if !there || end.timer != timer || !end.waits {
            return;
        }
        end.waits = false;
        end.tries += 1;
        end.measured = None;
        if end.tries > MAX_TRIES {
            return end.breaks(ErrorKind::TimedOut);
        }
        end.sent = end.acked;
        end.window = (end.window / 2).max(2 * SEGMENT as u64);
        self.tally.again += 1;
        self.push(of);
    }

    /// Tells one end that the other knows nothing of it. The one that says so may be of a later life.
    fn reset(&mut self, to: Place) {
        let ends = &self.streams.all[&to.0];
        let (machine, seen) = (ends[to.1].machine, ends[to.1].seen);
        let from = ends[1 - to.1].machine;
        if self.seen(machine) != seen {
            return;
        }
        if let Some(takes) = self.passes(from, machine, HEADERS) {
            self.later(Instant::now() + takes, super::Due::Stream(Due::Reset { to }));
        }
    }
}

impl fmt::Debug for SimStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulated stream {:?}", self.place)
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (place, mut net) = (self.place, self.net.lock());
        let end = net.streams.end(place);
        if let Some(why) = end.broken {
            return Poll::Ready(Err(why.into()));
        }
        if end.arrived.is_empty() && !end.ended {
            end.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = out.remaining().min(end.arrived.len());
        let bytes: Vec<u8> = end.arrived.drain(..count).collect();
        out.put_slice(&bytes);
        // There is room for more.
        net.push((place.0, 1 - place.1));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let (place, mut net) = (self.place, self.net.lock());
        let end = net.streams.end(place);
        if let Some(why) = end.broken.or(end.closed.then_some(ErrorKind::BrokenPipe)) {
            return Poll::Ready(Err(why.into()));
        }
        let count = UNSENT.saturating_sub(end.unsent()).min(bytes.len());
        if count == 0 && !bytes.is_empty() {
            end.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        end.unacked.extend(&bytes[..count]);
        net.push(place);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (place, mut net) = (self.place, self.net.lock());
        net.streams.end(place).close();
        net.push(place);
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    /// Closes it; when the machine is without power, nobody hears of that.
    fn drop(&mut self) {
        let mut net = self.net.lock();
        let (place, end) = (self.place, net.streams.end(self.place));
        end.dropped = true;
        end.close();
        let unread = !std::mem::take(&mut end.arrived).is_empty();
        net.push(place);
        if unread && net.is_there(place) {
            net.reset((place.0, 1 - place.1));
        }
    }
}
