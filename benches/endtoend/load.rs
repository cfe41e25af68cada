//! The two clients and the three kinds of load: ping-pong, 1,000 messages a second, and as many as go.
use crate::child::Child;
use crate::net::{self, ClientSocket};
use crate::options::Size;
use crate::way::{Endpoint, Running, Way};
use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use hdrhistogram::Histogram;
use rustls::pki_types::CertificateDer;
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

/// Messages are so long, as text, before a way wraps them.
pub const BODY_BYTES: usize = 256;
/// Full rate: so many may be unacknowledged, and the receiver says every so often how far it is.
const WINDOW: u64 = 256;
const ACKNOWLEDGE_EVERY: u64 = 64;
/// A phase that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// What one round of one way gave.
#[derive(Debug, Clone)]
pub struct Round {
    /// Round trips, in nanoseconds; CPU per million round trips.
    pub ping_pong: Timed,
    /// One way, in nanoseconds; CPU per million messages.
    pub paced: Timed,
    pub full_per_second: f64,
    pub full_cpu: Cpu,
}

#[derive(Debug, Clone)]
pub struct Timed {
    pub latency: Histogram<u64>,
    pub cpu: Cpu,
}

/// CPU seconds per million, by process; `None` where that is not measured.
pub type Cpu = Option<Vec<(&'static str, f64)>>;

/// Starts the way, puts the three loads on it one after the other, and ends it.
pub async fn run(way: &dyn Way, size: &Size) -> Result<Round> {
    let running = way.start()?;
    let Running { a, b, ca, processes, .. } = &running;
    let what = |phase: &str| format!("{}: {phase}", way.name());
    let phase = async { tokio::try_join!(Client::connect(way, a, b, ca), Client::connect(way, b, a, ca)) };
    let (mut left, mut right) =
        timeout(PATIENCE, phase).await.with_context(|| what("connecting hangs"))??;
    let phase = async {
        meet(&mut left, &mut right).await?;
        meet(&mut right, &mut left).await
    };
    timeout(PATIENCE, phase).await.with_context(|| what("the first message hangs"))??;

    let phase = ping_pong(&mut left, &mut right, processes, size);
    let ping_pong = timeout(PATIENCE, phase).await.with_context(|| what("ping-pong hangs"))??;
    let phase = paced(&mut left, &mut right, processes, size.paced_for);
    let paced = timeout(PATIENCE, phase).await.with_context(|| what("1,000/s hangs"))??;
    let phase = full(&mut left, &mut right, processes, size.full);
    let (full_per_second, full_cpu) =
        timeout(PATIENCE, phase).await.with_context(|| what("full rate hangs"))??;
    // Before the clients, so that no relay has time to complain of a lost client.
    drop(running);
    Ok(Round { ping_pong, paced, full_per_second, full_cpu })
}

/// Sends until one message comes: news of who has registered takes a moment to the other end, which refuses messages until then.
async fn meet(a: &mut Client<'_>, b: &mut Client<'_>) -> Result<()> {
    loop {
        a.send(0, 0).await?;
        tokio::select! {
            came = b.next() => return came.map(drop),
            answer = a.frame() => match answer? {
                Came::Refusal(_) => {}
                Came::Body(n, _) => bail!("nobody answers here, yet {n} came"),
            },
        }
        sleep(Duration::from_millis(10)).await;
    }
}

async fn ping_pong(a: &mut Client<'_>, b: &mut Client<'_>, of: &[Child], size: &Size) -> Result<Timed> {
    let all = size.warm_up + size.round_trips;
    let echo = async {
        for _ in 0..all {
            let (n, stamp) = b.next().await?;
            b.send(n, stamp).await?;
        }
        anyhow::Ok(())
    };
    let ping = async {
        let mut latency = histogram()?;
        let mut before = None;
        for n in 0..all {
            if n == size.warm_up {
                before = cpu(of);
            }
            let start = Instant::now();
            a.send(n, 0).await?;
            let (answer, _) = a.next().await?;
            let taken = start.elapsed();
            ensure!(answer == n, "sent {n}, {answer} came back");
            if n >= size.warm_up {
                latency.record(nanos(taken))?;
            }
        }
        anyhow::Ok(Timed { latency, cpu: per_million(before, cpu(of), size.round_trips) })
    };
    Ok(tokio::try_join!(ping, echo)?.0)
}

async fn paced(a: &mut Client<'_>, b: &mut Client<'_>, of: &[Child], time: Duration) -> Result<Timed> {
    let messages = time.as_millis() as u64;
    let epoch = Instant::now();
    let before = cpu(of);
    let send = async {
        let mut ticks = interval(Duration::from_millis(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut n = 0;
        while n < messages {
            tokio::select! {
                _ = ticks.tick() => {
                    a.send(n, nanos(epoch.elapsed())).await?;
                    n += 1;
                }
                // Receipts are read as they come, or they would pile up.
                stray = a.next() => bail!("nobody answers here, yet {stray:?} came"),
            }
        }
        Ok(())
    };
    let receive = async {
        let mut latency = histogram()?;
        for n in 0..messages {
            let (got, stamp) = b.next().await?;
            ensure!(got == n, "expected {n}, {got} came");
            latency.record(nanos(epoch.elapsed()).saturating_sub(stamp))?;
        }
        Ok(latency)
    };
    let latency = tokio::try_join!(send, receive)?.1;
    Ok(Timed { latency, cpu: per_million(before, cpu(of), messages) })
}

async fn full(a: &mut Client<'_>, b: &mut Client<'_>, of: &[Child], messages: u64) -> Result<(f64, Cpu)> {
    let before = cpu(of);
    let start = Instant::now();
    let send = async {
        let (mut sent, mut done) = (0, 0);
        while done < messages {
            while sent < messages && sent - done < WINDOW {
                a.feed(sent, 0).await?;
                sent += 1;
            }
            a.flush().await?;
            done = a.next().await?.0;
        }
        anyhow::Ok(())
    };
    let receive = async {
        for n in 0..messages {
            let (got, _) = b.next().await?;
            ensure!(got == n, "expected {n}, {got} came");
            if (n + 1) % ACKNOWLEDGE_EVERY == 0 || n + 1 == messages {
                b.send(n + 1, 0).await?;
            }
        }
        Ok(())
    };
    tokio::try_join!(send, receive)?;
    let per_second = messages as f64 / start.elapsed().as_secs_f64();
    Ok((per_second, per_million(before, cpu(of), messages)))
}

/// What a client reads.
enum Came {
    /// A message's number and stamp.
    Body(u64, u64),
    Refusal(String),
}

/// One of the two clients. It sends to the other only.
struct Client<'w> {
    way: &'w dyn Way,
    peer: Endpoint,
    socket: ClientSocket,
}

impl<'w> Client<'w> {
    async fn connect(
        way: &'w dyn Way,
        me: &Endpoint,
        peer: &Endpoint,
        ca: &CertificateDer<'static>,
    ) -> Result<Self> {
        let mut socket = net::wss_connect(me, ca).await?;
        if let Some(greeting) = way.greeting(me) {
            socket.send(Message::text(greeting)).await?;
            socket.next().await.context("closed instead of greeted")??;
        }
        Ok(Self { way, peer: peer.clone(), socket })
    }

    async fn feed(&mut self, n: u64, stamp: u64) -> Result<()> {
        let text = self.way.wrap(&self.peer, n, body(n, stamp));
        Ok(self.socket.feed(Message::text(text)).await?)
    }

    async fn flush(&mut self) -> Result<()> {
        Ok(self.socket.flush().await?)
    }

    async fn send(&mut self, n: u64, stamp: u64) -> Result<()> {
        self.feed(n, stamp).await?;
        self.flush().await
    }

    /// The next message's number and stamp.
    async fn next(&mut self) -> Result<(u64, u64)> {
        match self.frame().await? {
            Came::Body(n, stamp) => Ok((n, stamp)),
            Came::Refusal(why) => bail!("a message was refused: {why}"),
        }
    }

    /// The next message or refusal; frames that are neither are passed over.
    async fn frame(&mut self) -> Result<Came> {
        loop {
            let message = self.socket.next().await.context("the connection has ended")??;
            let Message::Text(text) = message else { continue };
            if let Some(body) = self.way.unwrap(&text) {
                let (n, stamp) = parse(body).with_context(|| format!("not a body of ours: {body}"))?;
                return Ok(Came::Body(n, stamp));
            }
            if self.way.refuses(&text) {
                return Ok(Came::Refusal(text.to_string()));
            }
        }
    }
}

/// Number and stamp as strings of fixed length, so that every body is as long as every other.
pub fn body(n: u64, stamp: u64) -> String {
    let mut body = format!(r#"{{"n":"{n:010}","t":"{stamp:020}","pad":""#);
    body.extend(std::iter::repeat_n('x', BODY_BYTES - 2 - body.len()));
    body.push_str("\"}");
    body
}

fn parse(body: &str) -> Option<(u64, u64)> {
    let field = |key: &str, digits: usize| -> Option<u64> {
        let at = body.find(key)? + key.len();
        body.get(at..at + digits)?.parse().ok()
    };
    Some((field(r#""n":""#, 10)?, field(r#""t":""#, 20)?))
}

/// From 1 µs up to 60 s, in nanoseconds, to three digits.
pub fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1_000, 60_000_000_000, 3)?)
}

pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// CPU seconds so far, by process.
pub fn cpu(of: &[Child]) -> Cpu {
    of.iter().map(|child| Some((child.name, child.cpu_seconds()?))).collect()
}

pub fn per_million(before: Cpu, after: Cpu, count: u64) -> Cpu {
    let scale = 1e6 / count as f64;
    let pairs = after?.into_iter().zip(before?);
    Some(pairs.map(|((name, after), (_, before))| (name, (after - before) * scale)).collect())
}
