//! The task that owns a client's connection.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::oneshot;

use super::connect::{Connection, Reconnect};
use super::message::{self, Message, Name, Registered, Verdict};
use super::{Error, Options, comes_back, standing};
use crate::rt::backoff::Backoff;
use crate::rt::queue::Refused;
use crate::rt::{clock, queue};
use crate::wire::client::ErrorPayload;
use crate::wire::envelope::{Kind, State};

/// The first wait before coming back, and the longest (docs/protocol.md).
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// See [`FIRST_WAIT`].
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A connection that lasted so long was a good one: the next wait is short again.
const GOOD_AFTER_US: u64 = 30_000_000;
/// How long the node may take to register us.
const REGISTER_WITHIN: Duration = Duration::from_secs(10);
/// Frames written with one flush.
const BATCH: usize = 64;
/// How many of those who ask may wait at once.
const MAX_PENDING: usize = 4096;
/// Messages that are remembered to be acknowledged: more than a node has under way to us.
const MAX_DONE: usize = 1024;

/// What the task is told.
#[derive(Debug)]
pub(super) enum Command {
    Send(Bytes, oneshot::Sender<Result<(), Error>>),
    Ask { frame: Bytes, id: String, wanted: Wanted, answer: Answer },
    Settle(Name, Verdict),
    Forget(String),
    Close,
}

/// What answers a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// RESULT or ERROR of the recipient.
    Answer,
    /// RECEIPT of the mesh, of this state or of an end.
    Receipt(State),
    /// STATE of the mesh.
    State,
    /// AGENTS of the mesh.
    Agents,
}

/// How a batch of commands went.
enum Wrote {
    All,
    /// And nothing is to follow.
    Last,
    Failed,
}

type Answer = oneshot::Sender<Result<Message, Error>>;

/// Somebody who waits for an answer.
struct Waiting {
    wanted: Wanted,
    answer: Answer,
    /// What was asked, if it is to be asked again over another connection.
    frame: Option<Bytes>,
    /// The how-manieth question it was.
    order: u64,
}

pub(super) struct Task {
    how: Box<dyn Reconnect>,
    options: Options,
    commands: queue::Receiver<Command>,
    inbox: queue::Sender<Message>,
    connection: Option<Connection>,
    pending: HashMap<String, Waiting>,
    asked: u64,
    /// What the ids of our ACK and NACK begin with: nobody is told that one of them came to nothing.
    settles: String,
    settled: u64,
    /// What was acknowledged last, by its order: if that did not arrive, it is delivered once more.
    done: (VecDeque<Name>, HashSet<Name>),
    /// Frames of our own to be written.
    own: Vec<Bytes>,
    /// The last error of the mesh's that answered nothing: perhaps why it closes.
    parting: Option<ErrorPayload>,
}

impl Task {
    pub(super) fn new(
        how: Box<dyn Reconnect>,
        options: Options,
        commands: queue::Receiver<Command>,
        inbox: queue::Sender<Message>,
    ) -> Task {
        let (pending, asked, settled, done, own) = Default::default();
        let settles = format!("{}.", message::new_id());
        Task {
            how,
            options,
            commands,
            inbox,
            connection: None,
            pending,
            asked,
            settles,
            settled,
            done,
            own,
            parting: None,
        }
    }

    /// Registers over a new connection, and keeps it.
    pub(super) async fn register(&mut self, mut connection: Connection) -> Result<Registered, Error> {
        let id = message::new_id();
        let frame = json!({"type": "REGISTER", "id": id, "payload": {
            "agent": self.options.agent,
            "capabilities": self.options.capabilities,
            "shared": self.options.shared,
        }});
        connection.put(frame.to_string().as_bytes());
        let registered = tokio::time::timeout(REGISTER_WITHIN, async {
            connection.flush().await?;
            loop {
                let Some(frame) = connection.next().await? else { return Err(Error::Disconnected) };
                let message = Message::parse(&frame)?;
                if message.reply_to.as_deref() != Some(&id) || !message.is_from_mesh() {
                    self.arrived(message);
                } else if message.kind == "REGISTERED" {
                    return message.read::<Registered>();
                } else {
                    return Err(message.read::<ErrorPayload>()?.into());
                }
            }
        });
        match registered.await {
            Ok(Ok(registered)) => {
                self.connection = Some(connection);
                Ok(registered)
            }
            Ok(Err(Error::Disconnected)) => Err(match connection.finish().await {
                Some((code, reason)) => Error::Ended { code: Some(code), reason },
                None => self.parting.take().map_or(Error::Disconnected, Error::from),
            }),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(Error::TimedOut(REGISTER_WITHIN)),
        }
    }

    /// Serves until the client is dropped, or the session has ended for good.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let since = clock::micros();
            if let Some(connection) = self.connection.take()
                && !self.serve(connection).await
            {
                return;
            }
            if clock::micros().saturating_sub(since) >= GOOD_AFTER_US {
                backoff.reset();
            }
            if !self.how.can() {
                return;
            }
            tokio::time::sleep(backoff.next_wait()).await;
            let again = match self.how.again().await {
                Ok(connection) => self.register(connection).await,
                Err(e) => Err(e),
            };
            match again {
                Ok(registered) => {
                    tracing::info!(agent = registered.agent, node = registered.node, "connected again")
                }
                Err(Error::Ended { code: Some(code), reason }) if !comes_back(code) => {
                    return tracing::warn!(code, reason, "the session was ended for good");
                }
                Err(Error::Refused { code, message, retry: false, .. }) => {
                    return tracing::warn!(code, message, "the session was refused for good");
                }
                Err(e) => tracing::debug!(error = %e, "the node can't be reached; trying again"),
            }
        }
    }

    /// Serves one connection; `false`: there is to be no other.
    async fn serve(&mut self, mut connection: Connection) -> bool {
        let mut batch = Vec::with_capacity(BATCH);
        self.parting = None;
        // What has no receipt yet may not have arrived.
        let mut again: Vec<&Waiting> = self.pending.values().filter(|w| !w.answer.is_closed()).collect();
        again.sort_by_key(|waiting| waiting.order);
        self.own.extend(again.into_iter().filter_map(|waiting| waiting.frame.clone()));
        loop {
            if self.write_own(&mut connection).await.is_err() {
                break;
            }
            tokio::select! {
                frame = connection.next() => match frame.map(|frame| frame.map(|f| Message::parse(&f))) {
                    Ok(Some(Ok(message))) => self.arrived(message),
                    Ok(Some(Err(e))) | Err(e) => {
                        tracing::warn!(error = %e, "the node broke the protocol");
                        break;
                    }
                    Ok(None) => break,
                },
                count = self.commands.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        // Nobody holds the client any more: end the session in good order.
                        connection.finish().await;
                        return false;
                    }
                    match self.write(&mut connection, &mut batch).await {
                        Wrote::All => {}
                        Wrote::Failed => break,
                        Wrote::Last => {
                            connection.finish().await;
                            return false;
                        }
                    }
                }
            }
        }
        let closed = connection.finish().await;
        let parting = self.parting.take();
        let for_good = closed.as_ref().is_some_and(|(code, _)| !comes_back(*code))
            || parting.as_ref().is_some_and(|error| !error.retry);
        if for_good {
            let reason = closed.map(|(_, reason)| reason).or(parting.map(|error| error.message));
            tracing::warn!(reason, "the session was ended for good");
        }
        self.fail_pending(for_good || !self.how.can());
        !for_good
    }

    /// The connection is over. What is asked again stays, if there is to be another one.
    fn fail_pending(&mut self, for_good: bool) {
        self.own.clear();
        let failed = |_: &String, waiting: &mut Waiting| for_good || waiting.frame.is_none();
        for (_, waiting) in self.pending.extract_if(failed) {
            // Whoever asked may have given up.
            let _ = waiting.answer.send(Err(Error::Disconnected));
        }
    }

    async fn write_own(&mut self, connection: &mut Connection) -> Result<(), Error> {
        if self.own.is_empty() {
            return Ok(());
        }
        for frame in self.own.drain(..) {
            connection.put(&frame);
        }
        connection.flush().await
    }

    async fn write(&mut self, connection: &mut Connection, batch: &mut Vec<Command>) -> Wrote {
        let (mut told, mut last) = (Vec::new(), false);
        for command in batch.drain(..) {
            match command {
                Command::Send(frame, sent) => {
                    connection.put(&frame);
                    told.push(sent);
                }
                Command::Ask { frame, id, wanted, answer } => {
                    if self.pending.len() >= MAX_PENDING {
                        self.pending.retain(|_, waiting| !waiting.answer.is_closed());
                    }
                    if self.pending.len() >= MAX_PENDING {
                        let reason = format!("{MAX_PENDING} questions wait already");
                        let _ = answer.send(Err(Error::Unreachable(reason)));
                        continue;
                    }
                    connection.put(&frame);
                    let frame = matches!(wanted, Wanted::Receipt(_)).then_some(frame);
                    self.asked += 1;
                    let order = self.asked;
                    self.pending.insert(id, Waiting { wanted, answer, frame, order });
                }
                Command::Settle(name, verdict) => {
                    connection.put(&self.settle(&name, &verdict));
                    if matches!(verdict, Verdict::Acked { .. }) {
                        self.remember(name);
                    }
                }
                Command::Forget(id) => {
                    self.pending.remove(&id);
                }
                Command::Close => last = true,
            }
        }
        let flushed = connection.flush().await;
        for sent in told {
            // Whoever sent it may not wait.
            let _ = sent.send(flushed.clone());
        }
        match flushed {
            Err(_) => Wrote::Failed,
            Ok(()) if last => Wrote::Last,
            Ok(()) => Wrote::All,
        }
    }

    fn arrived(&mut self, message: Message) {
        let Some(message) = self.answer(message) else { return };
        if message.is_from_mesh() && message.is(Kind::Error) && message.reply_to.is_none() {
            self.parting = message.read().ok();
        }
        // Whom we acknowledged to may have gone; and what we refused too late comes again.
        let of_settling = message.reply_to.as_ref().is_some_and(|id| id.starts_with(&self.settles));
        if message.is_automatic() || (message.is_from_mesh() && of_settling) {
            return;
        }
        let name = message.is_durable().then(|| Name::of(&message));
        if let Some(name) = name.as_ref().filter(|name| message.redelivered && self.done.1.contains(name)) {
            let ack = self.settle(name, &Verdict::Acked { automatic: true });
            return self.own.push(ack);
        }
        // A full inbox counts what it drops, and what is kept comes again later.
        if let (Err(Refused::Full(_)), Some(name)) = (self.inbox.try_send(message), name) {
            let reason = "the client has too much to read".to_owned();
            let nack = self.settle(&name, &Verdict::Nacked { reason, requeue: true });
            self.own.push(nack);
        }
    }

    fn settle(&mut self, name: &Name, verdict: &Verdict) -> Bytes {
        self.settled += 1;
        name.settle(&format!("{}{}", self.settles, self.settled), verdict)
    }

    /// Remembers that a message was acknowledged; of too many, the oldest are forgotten.
    fn remember(&mut self, name: Name) {
        let (order, known) = &mut self.done;
        if known.insert(name.clone()) {
            order.push_back(name);
        }
        if order.len() > MAX_DONE
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
    }

    /// Gives a message to whoever waits for it, else back.
    fn answer(&mut self, message: Message) -> Option<Message> {
        let asked = message.reply_to.as_ref().and_then(|id| self.pending.get(id));
        let Some(Waiting { wanted, .. }) = asked else { return Some(message) };
        let mesh = message.is_from_mesh();
        let refused = mesh && message.is(Kind::Error);
        let fits = match wanted {
            Wanted::Answer => !mesh && (message.is(Kind::Result) || message.is(Kind::Error)),
            Wanted::Receipt(wish) if mesh && message.kind == "RECEIPT" => {
                // A state before it is not yet an answer.
                standing::reached(&message, *wish).map(|_| true)?
            }
            Wanted::Receipt(_) => false,
            Wanted::State => mesh && message.kind == "STATE",
            Wanted::Agents => mesh && message.kind == "AGENTS",
        };
        if !fits && !refused {
            return Some(message);
        }
        let Waiting { answer, .. } = message.reply_to.as_ref().and_then(|id| self.pending.remove(id))?;
        if answer.is_closed() && !mesh {
            // Too late for whoever asked; not for whoever listens.
            return Some(message);
        }
        if message.is_durable() {
            let name = Name::of(&message);
            let ack = self.settle(&name, &Verdict::Acked { automatic: true });
            self.own.push(ack);
            self.remember(name);
        }
        let given = match refused {
            true => message.read::<ErrorPayload>().and_then(|error| Err(error.into())),
            false => Ok(message),
        };
        let _ = answer.send(given);
        None
    }
}
