//! Senders: they number their messages, and send each again, with its id, until they are told that the mesh has it or
//! does not want it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{interval, sleep, timeout};
use trishula::client::{Client, Connect, Error, Options, Outgoing, Quic, Receipt};
use trishula::wire::envelope::State;

use super::Stage;
use super::log::{Line, Log, now_ms};
use crate::wss::{Door, Wss};

/// One message of each sender each so often.
const PACE: Duration = Duration::from_millis(25);
/// Messages without an answer: then no new ones.
const WINDOW: usize = 200;
/// Who hears nothing of a message for so long tries another edge.
const PATIENCE: Duration = Duration::from_secs(4);
/// After a refusal for now, and after a failed attempt to connect.
const PAUSE: Duration = Duration::from_millis(200);

/// What a sender does, apart from how it is connected.
pub struct Sender {
    pub log: Log,
    pub recipients: Vec<String>,
    pub stage: watch::Receiver<Stage>,
    sent: u64,
}

/// A message that its sender has not done with.
#[derive(Debug, Clone)]
struct Unsettled {
    to: String,
    n: u64,
    priority: u8,
    /// In milliseconds since the epoch: a resend says the same.
    made: u64,
    /// Sent last; `None`: to be sent at once.
    at: Option<Instant>,
    /// Refused for now.
    later: bool,
}

impl Unsettled {
    fn id(&self) -> String {
        format!("{}:{}", self.to, self.n)
    }

    fn outgoing(&self) -> Outgoing {
        let payload = json!({"n": self.n, "filler": "x".repeat(200)});
        Outgoing {
            id: self.id(),
            timestamp: self.made,
            priority: Some(self.priority),
            receipt: Some(if self.n.is_multiple_of(4) { "acked" } else { "accepted" }.into()),
            copies: (self.n % 10 == 7).then_some(2),
            ..Outgoing::command(&self.to, payload)
        }
    }

    fn sent(&self, connection: u64) -> Line {
        Line::Sent { id: self.id(), to: self.to.clone(), n: self.n, priority: self.priority, connection }
    }
}

impl Sender {
    pub fn new(log: Log, recipients: Vec<String>, stage: watch::Receiver<Stage>) -> Sender {
        Sender { log, recipients, stage, sent: 0 }
    }

    /// The next message, if there is to be one.
    fn next(&mut self, unsettled: usize) -> Option<Unsettled> {
        if *self.stage.borrow() != Stage::Load || unsettled >= WINDOW {
            return None;
        }
        let all = self.recipients.len() as u64;
        let (n, recipient) = (self.sent / all, self.sent % all);
        self.sent += 1;
        let priority = [3, 3, 1, 5][n as usize % 4];
        let to = self.recipients[recipient as usize].clone();
        Some(Unsettled { to, n, priority, made: now_ms(), at: None, later: false })
    }

    fn is_over(&self) -> bool {
        *self.stage.borrow() != Stage::Load
    }
}

/// Over WebSocket, at whichever of the doors opens.
pub async fn over_wss(mut sender: Sender, doors: Vec<Door>, first: usize) {
    let mut unsettled: BTreeMap<String, (u64, Unsettled)> = BTreeMap::new();
    let (mut order, mut connection, mut door) = (0, 0, first);
    while !sender.is_over() || !unsettled.is_empty() {
        door += 1;
        let Some(mut wss) = doors[door % doors.len()].open(json!({})).await else {
            sleep(PAUSE).await;
            continue;
        };
        connection += 1;
        sender.log.write(&Line::Connected { node: wss.node.clone() });
        unsettled.values_mut().for_each(|(_, message)| message.at = None);
        let mut pace = interval(PACE);
        loop {
            tokio::select! {
                frame = wss.hear() => match frame {
                    Some(frame) => heard(&mut sender.log, &mut unsettled, &frame, connection),
                    None => break,
                },
                _ = pace.tick() => {
                    if let Some(message) = sender.next(unsettled.len()) {
                        order += 1;
                        unsettled.insert(message.id(), (order, message));
                    }
                    let said = say_all(&mut wss, &mut sender.log, &mut unsettled, connection);
                    if !matches!(timeout(PATIENCE, said).await, Ok(Some(()))) {
                        break;
                    }
                }
            }
            if sender.is_over() && unsettled.is_empty() {
                break;
            }
        }
    }
}

/// Sends what is to be sent now, in order. `None`: the connection is of no use.
async fn say_all(
    wss: &mut Wss,
    log: &mut Log,
    unsettled: &mut BTreeMap<String, (u64, Unsettled)>,
    connection: u64,
) -> Option<()> {
    let mut due: Vec<&mut (u64, Unsettled)> = unsettled.values_mut().collect();
    due.sort_by_key(|(order, _)| *order);
    for (_, message) in due {
        let waited = message.at.map(|at| at.elapsed());
        match waited {
            None => {}
            Some(waited) if message.later && waited > PAUSE => {}
            Some(waited) if waited > PATIENCE => return None,
            Some(_) => continue,
        }
        log.write(&message.sent(connection));
        (message.at, message.later) = (Some(Instant::now()), false);
        wss.say(serde_json::to_value(message.outgoing()).unwrap()).await?;
    }
    Some(())
}

fn heard(log: &mut Log, unsettled: &mut BTreeMap<String, (u64, Unsettled)>, frame: &Value, connection: u64) {
    let Some(id) = frame["reply_to"].as_str().map(str::to_owned) else { return };
    let payload = &frame["payload"];
    let text = |field: &str| payload[field].as_str().unwrap_or_default().to_owned();
    if frame["type"] == "RECEIPT" {
        unsettled.remove(&id);
        log.write(&Line::Told { id, state: text("state"), node: text("node"), connection });
    } else if frame["type"] == "ERROR" {
        let retry = payload["retry"] == true;
        log.write(&Line::Refused { id: id.clone(), code: text("code"), retry });
        match unsettled.get_mut(&id) {
            Some((_, message)) if retry => (message.at, message.later) = (Some(Instant::now()), true),
            _ => drop(unsettled.remove(&id)),
        }
    }
}

type Told = (Unsettled, Result<Receipt, Error>, u64);

/// With the library's client, which comes back and sends again by itself.
pub async fn over_quic(mut sender: Sender, quic: Quic) {
    let connections = Arc::new(AtomicU64::new(0));
    let (mut waiting, mut again) =
        (FuturesUnordered::<Pin<Box<dyn Future<Output = Told> + Send>>>::new(), Vec::new());
    while !sender.is_over() || !waiting.is_empty() || !again.is_empty() {
        let Ok(mut client) = Client::connect(counted(&quic, &connections), Options::default()).await else {
            sleep(PAUSE).await;
            continue;
        };
        let mut pace = interval(PACE);
        loop {
            tokio::select! {
                Some((message, result, connection)) = waiting.next() => {
                    let ended = matches!(result, Err(Error::Ended { .. }));
                    again.extend(told(&mut sender.log, message, result, connection));
                    if ended { break }
                }
                message = client.next() => if message.is_none() { break },
                _ = pace.tick() => {
                    let due = again.extract_if(.., |m: &mut Unsettled| m.at.is_none_or(|at| at.elapsed() > PAUSE));
                    let mut due: Vec<Unsettled> = due.collect();
                    due.extend(sender.next(waiting.len() + again.len() + due.len()));
                    for message in due {
                        let before = connections.load(Ordering::SeqCst);
                        sender.log.write(&message.sent(before));
                        let (half, count) = (client.sender(), connections.clone());
                        let mut asks: Pin<Box<dyn Future<Output = Told> + Send>> = Box::pin(async move {
                            let within = Duration::from_secs(60);
                            let result = half.send_and_wait(message.outgoing(), State::Accepted, within).await;
                            (message, result, count.load(Ordering::SeqCst))
                        });
                        // The first look puts it into the client's queue: in this order.
                        let first = std::future::poll_fn(|context| Poll::Ready(asks.as_mut().poll(context))).await;
                        match first {
                            Poll::Pending => waiting.push(asks),
                            Poll::Ready((message, result, connection)) => {
                                again.extend(told(&mut sender.log, message, result, connection));
                            }
                        }
                    }
                }
            }
            if sender.is_over() && waiting.is_empty() && again.is_empty() {
                break;
            }
        }
    }
}

/// Writes down what the client said; a message that is to be sent again comes back.
fn told(
    log: &mut Log,
    message: Unsettled,
    result: Result<Receipt, Error>,
    connection: u64,
) -> Option<Unsettled> {
    let id = message.id();
    let again = Unsettled { at: Some(Instant::now()), ..message };
    match result {
        Ok(Receipt { state, node, .. }) => {
            log.write(&Line::Told { id, state: state.as_str().into(), node, connection });
            None
        }
        Err(Error::Refused { code, retry, .. }) => {
            log.write(&Line::Refused { id, code, retry });
            retry.then_some(again)
        }
        Err(Error::Undelivered { state, .. }) => {
            log.write(&Line::Told { id, state, node: String::new(), connection });
            None
        }
        Err(_) => Some(again),
    }
}

/// Counts the connections that are made.
pub fn counted(quic: &Quic, count: &Arc<AtomicU64>) -> impl Connect + use<> {
    let (quic, count) = (quic.clone(), count.clone());
    move || {
        let mut quic = quic.clone();
        count.fetch_add(1, Ordering::SeqCst);
        async move { quic.connect().await }
    }
}
