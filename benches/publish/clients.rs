//! The loads: WebSocket clients at the real edges.
use crate::machines::Machines;
use crate::net::{self, ClientSocket};
use crate::{Figures, PAYLOAD, histogram};
use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval, timeout};
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
    pub async fn connect(machines: &Machines, agent: &str) -> Result<Publisher> {
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

async fn connect(machines: &Machines, machine: u16, agent: &str) -> Result<ClientSocket> {
    let endpoint = machines.endpoint(machine, agent)?;
    let mut socket = net::wss_connect(&endpoint, &machines.ca).await?;
    socket.send(Message::text(r#"{"type":"REGISTER","id":"r"}"#)).await?;
    socket.next().await.context("closed instead of registered")??;
    Ok(socket)
}

/// One way from a client of one machine to one of the other: live, and durable.
pub async fn forwarding(machines: &Machines, messages: u64) -> Result<(Figures, Figures)> {
    let mut sender = connect(machines, 0, "sender").await?;
    let mut recipient = connect(machines, 1, "recipient").await?;
    let mut began: Vec<Instant> = Vec::new();
    let (mut live, mut durable) = (histogram(), histogram());
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
    let mut ticks = interval(Duration::from_millis(2));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut got = 0;
    while got < 2 * messages {
        tokio::select! {
            frame = recipient.next() => {
                let Message::Text(text) = frame.context("closed")?? else { continue };
                let frame: Answer<'_> = serde_json::from_str(&text)?;
                let Some(n) = frame.id.strip_prefix("f-") else { continue };
                let n: usize = n.parse()?;
                let of = if n.is_multiple_of(2) { &mut live } else { &mut durable };
                of.record(began[n].elapsed().as_nanos() as u64)?;
                got += 1;
            }
            frame = sender.next() => {
                let frame = frame.context("closed")??;
                ensure!(!frame.is_text() || start.elapsed() < PATIENCE, "{frame}");
            }
            _ = ticks.tick(), if (began.len() as u64) < 2 * messages => {
                let n = began.len();
                let class = if n.is_multiple_of(2) { "live" } else { "durable" };
                let body = "x".repeat(PAYLOAD);
                let text = format!(r#"{{"type":"STATUS","to":"recipient","id":"f-{n}","class":"{class}","payload":"{body}"}}"#);
                began.push(Instant::now());
                sender.send(Message::text(text)).await?;
            }
        }
    }
    Ok((Figures::of(&live, start.elapsed()), Figures::of(&durable, start.elapsed())))
}
