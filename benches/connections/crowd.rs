//! The clients, all in one process: so one clock says when something was sent and when it came.
use crate::Size;
use crate::bare;
use crate::process::{Process, lines, say};
use crate::server::Server;
use crate::socket::{Dialler, Socket};
use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt, stream};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

/// The flag by which this program is the clients.
pub const FLAG: &str = "--crowd";
/// Between two broadcasts.
const PAUSE: Duration = Duration::from_millis(5);
/// A broadcast that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// The publisher's name; the others have numbers.
const PUBLISHER: &str = "publisher";
/// What stands before a broadcast's number in its text.
const MARK: &str = "bench-n:";
const PAYLOAD_BYTES: usize = 256;

/// Which server they are at, and how they come in.
#[derive(Serialize, Deserialize)]
pub struct Job {
    pub port: u16,
    pub ca: PathBuf,
    /// See [`Server::secret`].
    pub secret: Option<PathBuf>,
    /// Handshakes at once.
    pub at_once: usize,
    /// Whether they offer compression.
    pub deflate: bool,
}

/// What they are asked.
#[derive(Serialize, Deserialize)]
enum Ask {
    /// So many more connect.
    Open(usize),
    /// So many of those that are there subscribe to the room, and one more connects that publishes.
    Subscribe(usize),
    /// That one publishes, each time to so many.
    Publish { to: To, times: u64, receivers: usize },
    /// Are all still there?
    Check,
}

/// To whom something is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum To {
    Room,
    All,
}

/// From handing a broadcast to its sender's task to reading it, in milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Heard {
    /// The first one that gets it: the median.
    pub first_ms: f64,
    /// Over all that get it.
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// The last one: the median.
    pub last_ms: f64,
}

/// The process with the clients.
pub struct Crowd(Process);

impl Crowd {
    pub fn start(server: &Server, ca: &Path, size: &Size, deflate: bool) -> Result<Crowd> {
        let Size { at_once, connections, .. } = *size;
        let (port, secret) = (server.port, server.secret.clone());
        let job = Job { port, ca: ca.to_owned(), secret, at_once, deflate };
        Ok(Crowd(Process::role("clients", FLAG, connections, &job)?))
    }

    /// Returns when all of them are in, with how long that took, in seconds.
    pub fn open(&mut self, count: usize) -> Result<f64> {
        self.ask(&Ask::Open(count))
    }

    pub fn subscribe(&mut self, count: usize) -> Result<()> {
        self.ask(&Ask::Subscribe(count))
    }

    pub fn publish(&mut self, to: To, times: u64, receivers: usize) -> Result<Heard> {
        self.ask(&Ask::Publish { to, times, receivers })
    }

    /// An error if one of them has lost its connection.
    pub fn check(&mut self) -> Result<()> {
        self.ask(&Ask::Check)
    }

    fn ask<A: serde::de::DeserializeOwned>(&mut self, what: &Ask) -> Result<A> {
        self.0.ask::<Result<A, String>>(what)?.map_err(anyhow::Error::msg)
    }
}

/// The clients' process.
pub fn main() -> Result<()> {
    let mut asked = lines();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let job: Job = serde_json::from_str(&asked.recv().await.context("no job")?)?;
        let mut clients = Clients::new(&job)?;
        while let Some(line) = asked.recv().await {
            match serde_json::from_str(&line)? {
                Ask::Open(count) => answer(clients.open(count).await)?,
                Ask::Subscribe(count) => answer(clients.subscribe(count).await)?,
                Ask::Publish { to, times, receivers } => {
                    answer(clients.publish(to, times, receivers).await)?;
                }
                Ask::Check => answer(clients.check())?,
            }
        }
        Ok(())
    })
}

fn answer<T: Serialize>(result: Result<T>) -> Result<()> {
    say(&result.map_err(|error| format!("{error:#}")))
}

/// What a client's task tells.
enum Event {
    /// A broadcast came.
    Heard(u64, Instant),
    /// Something else came.
    Answer(String),
    Lost(String),
}

struct Clients {
    dialler: Dialler,
    ours: bool,
    at_once: usize,
    /// What each of them is to send.
    open: Vec<mpsc::UnboundedSender<String>>,
    publisher: Option<mpsc::UnboundedSender<String>>,
    published: u64,
    tell: mpsc::UnboundedSender<Event>,
    told: mpsc::UnboundedReceiver<Event>,
}

impl Clients {
    fn new(job: &Job) -> Result<Clients> {
        let (tell, told) = mpsc::unbounded_channel();
        Ok(Clients {
            dialler: Dialler::new(job.port, &job.ca, job.secret.as_deref(), job.deflate)?,
            ours: job.secret.is_some(),
            at_once: job.at_once,
            open: Vec::new(),
            publisher: None,
            published: 0,
            tell,
            told,
        })
    }

    async fn open(&mut self, count: usize) -> Result<f64> {
        let (dialler, began) = (&self.dialler, Instant::now());
        let from = self.open.len();
        let dials = (from..from + count).map(|n| async move {
            dialler.dial(n, &format!("c-{n}")).await.with_context(|| format!("connection {}", n + 1))
        });
        let mut dials = stream::iter(dials).buffer_unordered(self.at_once);
        while let Some(socket) = dials.next().await {
            let (to_send, sending) = mpsc::unbounded_channel();
            tokio::spawn(hold(socket?, sending, Some(self.tell.clone())));
            self.open.push(to_send);
        }
        Ok(began.elapsed().as_secs_f64())
    }

    async fn subscribe(&mut self, count: usize) -> Result<()> {
        let socket = self.dialler.dial(0, PUBLISHER).await.context("the publisher")?;
        let (to_send, sending) = mpsc::unbounded_channel();
        tokio::spawn(hold(socket, sending, None));
        self.publisher = Some(to_send);
        let ours = r#"{"type":"SUBSCRIBE","to":"room:crowd","id":"s"}"#;
        let text = if self.ours { ours } else { bare::SUBSCRIBE };
        ensure!(count <= self.open.len(), "{count} of {} are to subscribe", self.open.len());
        for chunk in self.open[..count].chunks(self.at_once) {
            for client in chunk {
                client.send(text.to_owned())?;
            }
            for _ in chunk {
                match timeout(PATIENCE, self.told.recv()).await.context("subscribing hangs")? {
                    Some(Event::Answer(text)) if !text.contains(r#""type":"ERROR""#) => {}
                    other => return unexpected(other),
                }
            }
        }
        Ok(())
    }

    async fn publish(&mut self, to: To, times: u64, receivers: usize) -> Result<Heard> {
        let mut histograms = [histogram()?, histogram()?, histogram()?];
        for _ in 0..times {
            let wait = timeout(PATIENCE, self.publish_one(to, receivers, &mut histograms));
            wait.await.context("a broadcast does not reach everybody")??;
            sleep(PAUSE).await;
        }
        let [all, first, last] = histograms;
        let ms = |histogram: &Histogram<u64>, share| histogram.value_at_quantile(share) as f64 / 1e6;
        Ok(Heard {
            first_ms: ms(&first, 0.5),
            p50_ms: ms(&all, 0.5),
            p99_ms: ms(&all, 0.99),
            last_ms: ms(&last, 0.5),
        })
    }

    async fn publish_one(
        &mut self,
        to: To,
        receivers: usize,
        [all, first, last]: &mut [Histogram<u64>; 3],
    ) -> Result<()> {
        self.published += 1;
        let n = self.published;
        let text = self.text(to, n);
        let publisher = self.publisher.as_ref().context("nobody has subscribed")?;
        let sent = Instant::now();
        publisher.send(text)?;
        let (mut least, mut most) = (u64::MAX, 0);
        for _ in 0..receivers {
            match self.told.recv().await {
                Some(Event::Heard(heard, at)) => {
                    ensure!(heard == n, "broadcast {heard} came in place of {n}");
                    let took = at.duration_since(sent).as_nanos() as u64;
                    all.record(took)?;
                    (least, most) = (least.min(took), most.max(took));
                }
                other => return unexpected(other),
            }
        }
        first.record(least)?;
        last.record(most)?;
        Ok(())
    }

    /// The text of a broadcast; the bare server sends on what it got, so it is as long.
    fn text(&self, to: To, n: u64) -> String {
        let payload = format!("{:x<PAYLOAD_BYTES$}", format!("{MARK}{n};"));
        let frame = match to {
            To::Room => {
                format!(r#"{{"type":"PUBLISH","to":"room:crowd","id":"p-{n}","payload":"{payload}"}}"#)
            }
            // The bare server keeps nothing either.
            To::All => {
                format!(
                    r#"{{"type":"STATUS","to":"broadcast","id":"p-{n}","class":"live","payload":"{payload}"}}"#
                )
            }
        };
        match (self.ours, to) {
            (false, To::All) => format!("{}{frame}", bare::TO_ALL),
            _ => frame,
        }
    }

    /// Between broadcasts nothing should come.
    fn check(&mut self) -> Result<()> {
        match self.told.try_recv() {
            Err(_) => Ok(()),
            Ok(event) => unexpected(Some(event)),
        }
    }
}

fn unexpected<T>(event: Option<Event>) -> Result<T> {
    match event {
        Some(Event::Lost(why)) => bail!("a connection was lost: {why}"),
        Some(Event::Answer(text)) => bail!("nobody was asked, yet this came: {text}"),
        Some(Event::Heard(n, _)) => bail!("broadcast {n} came once more"),
        None => bail!("the clients are gone"),
    }
}

/// In nanoseconds, to three digits.
fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new(3)?)
}

/// One client's life: reads, so that pings are answered, and sends what it is given. `tell`: whether what it reads matters.
async fn hold(
    mut socket: Socket,
    mut sending: mpsc::UnboundedReceiver<String>,
    tell: Option<mpsc::UnboundedSender<Event>>,
) {
    let why = loop {
        tokio::select! {
            read = socket.next() => {
                let text = match read {
                    Some(Ok(Message::Text(text))) => text,
                    Some(Ok(Message::Close(frame))) => break format!("closed: {frame:?}"),
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => break error.to_string(),
                    None => break "the end".to_owned(),
                };
                let Some(tell) = &tell else { continue };
                let event = match number(&text) {
                    Some(n) => Event::Heard(n, Instant::now()),
                    None => Event::Answer(text.to_string()),
                };
                // The process is ending.
                let _ = tell.send(event);
            }
            text = sending.recv() => {
                let Some(text) = text else { break "nobody wants it".to_owned() };
                if let Err(error) = socket.send(Message::text(text)).await {
                    break error.to_string();
                }
            }
        }
    };
    match tell {
        Some(tell) => drop(tell.send(Event::Lost(why))),
        None => eprintln!("the publisher was lost: {why}"),
    }
}

/// The number of a broadcast.
fn number(text: &str) -> Option<u64> {
    text.split_once(MARK)?.1.split_once(';')?.0.parse().ok()
}
