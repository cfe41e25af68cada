//! The loads: WebSocket clients at the real edges.
use crate::net::{self, ClientSocket};
use crate::programs::TwoMachines;
use crate::{Figures, PAYLOAD, histogram};
use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

/// A phase that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// Agents that never come: one mailbox would be full too soon.
const ABSENT: u64 = 64;

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    reply_to: Option<&'a str>,
    #[serde(default)]
    id: &'a str,
}

/// Submits, and waits for `accepted`.
pub struct Publisher {
    socket: ClientSocket,
    sent: u64,
    /// When each was handed to the socket, in order.
    began: Vec<Instant>,
}

impl Publisher {
    pub async fn connect(machines: &TwoMachines, agent: &str) -> Result<Publisher> {
        Ok(Publisher { socket: connect(machines, 0, agent).await?, sent: 0, began: Vec::new() })
    }

    /// So many messages, n of them unanswered.
    pub async fn publish(&mut self, in_flight: usize, messages: usize, copies: u8) -> Result<Figures> {
        timeout(PATIENCE, self.run(in_flight, messages, copies)).await.context("publishing hangs")?
    }

    async fn run(&mut self, in_flight: usize, messages: usize, copies: u8) -> Result<Figures> {
        let (mut histogram, start) = (histogram(), Instant::now());
        let (first, all) = (self.sent, self.sent + messages as u64);
        self.began.clear();
        let mut answered = 0;
        while answered < messages {
            while self.sent < all && (self.sent - first) as usize - answered < in_flight {
                let (n, body) = (self.sent, "x".repeat(PAYLOAD));
                let to = n % ABSENT;
                let text = format!(
                    r#"{{"type":"COMMAND","to":"absent-{to}","id":"p-{n}","receipt":"accepted","create":true,"copies":{copies},"payload":"{body}"}}"#
                );
                self.began.push(Instant::now());
                self.socket.feed(Message::text(text)).await?;
                self.sent += 1;
            }
            self.socket.flush().await?;
            let Message::Text(text) = self.socket.next().await.context("closed")?? else { continue };
            let answer: Answer<'_> = serde_json::from_str(&text)?;
            ensure!(answer.kind == "RECEIPT", "not a receipt: {text}");
            let id = answer.reply_to.and_then(|id| id.strip_prefix("p-")).context("no id")?;
            let n: u64 = id.parse()?;
            histogram.record(self.began[(n - first) as usize].elapsed().as_nanos() as u64)?;
            answered += 1;
        }
        Ok(Figures::of(&histogram, start.elapsed()))
    }
}

async fn connect(machines: &TwoMachines, machine: u16, agent: &str) -> Result<ClientSocket> {
    let endpoint = machines.endpoint(machine, agent)?;
    let mut socket = net::wss_connect(&endpoint, &machines.ca).await?;
    socket.send(Message::text(r#"{"type":"REGISTER","id":"r"}"#)).await?;
    socket.next().await.context("closed instead of registered")??;
    Ok(socket)
}

/// What is asked of a message on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Live,
    /// Its sender is told when it does not arrive, and nothing else.
    Durable,
    /// Its sender waits for `accepted`.
    Receipt,
}

pub const CLASSES: [Class; 3] = [Class::Live, Class::Durable, Class::Receipt];

impl Class {
    pub fn name(self) -> &'static str {
        match self {
            Class::Live => "live",
            Class::Durable => "durable",
            Class::Receipt => "durable, with receipt",
        }
    }

    fn fields(self) -> &'static str {
        match self {
            Class::Live => r#""class":"live""#,
            Class::Durable => r#""class":"durable""#,
            Class::Receipt => r#""class":"durable","receipt":"accepted""#,
        }
    }
}

/// One way from a client of one machine to one of the other.
///
/// One message at a time, in an order by chance; behind each a pause by chance, of 1 to 6 ms to the microsecond. So what a
/// message leaves behind (commits, confirmations, its acknowledgement) falls on each class alike, and no timer of the
/// programs stays in step with the clients.
pub struct Forwarder {
    sender: ClientSocket,
    recipient: ClientSocket,
    sent: u64,
}

impl Forwarder {
    pub async fn connect(machines: &TwoMachines) -> Result<Forwarder> {
        let mut sender = connect(machines, 0, "sender").await?;
        let mut recipient = connect(machines, 1, "recipient").await?;
        // News of the recipient take their time: the first that arrives says that they are there.
        let start = Instant::now();
        loop {
            ensure!(start.elapsed() < PATIENCE, "the recipient does not become known");
            sender
                .send(Message::text(r#"{"type":"STATUS","to":"recipient","id":"hello","class":"live"}"#))
                .await?;
            match timeout(Duration::from_millis(200), recipient.next()).await {
                Ok(Some(frame)) => {
                    if frame?.is_text() {
                        break;
                    }
                }
                Ok(None) => bail!("closed"),
                Err(_) => {}
            }
        }
        Ok(Forwarder { sender, recipient, sent: 0 })
    }

    /// So many of each class; figures in the order of [`CLASSES`].
    pub async fn forward(&mut self, of_each: usize) -> Result<Vec<Figures>> {
        let start = Instant::now();
        let mut histograms = CLASSES.map(|_| histogram());
        let mut order: Vec<usize> = (0..CLASSES.len()).cycle().take(CLASSES.len() * of_each).collect();
        for n in (1..order.len()).rev() {
            order.swap(n, rand::random_range(0..=n));
        }
        for class in order {
            self.pause().await?;
            let took = timeout(PATIENCE, self.one(CLASSES[class])).await.context("forwarding hangs")??;
            histograms[class].record(took.as_nanos() as u64)?;
        }
        Ok(histograms.iter().map(|histogram| Figures::of(histogram, start.elapsed())).collect())
    }

    async fn one(&mut self, class: Class) -> Result<Duration> {
        let (n, fields, body) = (self.sent, class.fields(), "x".repeat(PAYLOAD));
        self.sent += 1;
        let id = format!("f-{n}");
        let text = format!(r#"{{"type":"STATUS","to":"recipient","id":"{id}",{fields},"payload":"{body}"}}"#);
        let began = Instant::now();
        self.sender.send(Message::text(text)).await?;
        loop {
            tokio::select! {
                biased;
                frame = self.recipient.next() => {
                    let Message::Text(text) = frame.context("closed")?? else { continue };
                    let took = began.elapsed();
                    let frame: Answer<'_> = serde_json::from_str(&text)?;
                    if frame.id == id {
                        return Ok(took);
                    }
                }
                frame = self.sender.next() => told(frame)?,
            }
        }
    }

    /// Both sockets are read meanwhile: the recipient's library answers pings.
    async fn pause(&mut self) -> Result<()> {
        let pause = sleep(Duration::from_millis(rand::random_range(1..=5)));
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                frame = self.sender.next() => told(frame)?,
                frame = self.recipient.next() => drop(frame.context("closed")??),
            }
        }
        // The runtime's timers tick by the millisecond.
        std::thread::sleep(Duration::from_micros(rand::random_range(0..1000)));
        Ok(())
    }
}

/// What the sender hears: receipts at most.
fn told(frame: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>) -> Result<()> {
    if let Message::Text(text) = frame.context("closed")?? {
        let answer: Answer<'_> = serde_json::from_str(&text)?;
        // The first ones may have come before the recipient was known.
        ensure!(answer.kind != "ERROR" || answer.reply_to == Some("hello"), "refused: {text}");
    }
    Ok(())
}
