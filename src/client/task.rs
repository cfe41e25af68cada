//! The task that owns a client's connection.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::oneshot;

use super::connect::{Connection, Reconnect};
use super::message::{self, Message, Registered};
use super::{Error, Options, comes_back};
use crate::rt::backoff::Backoff;
use crate::rt::{clock, queue};
use crate::wire::client::ErrorPayload;
use crate::wire::envelope::Kind;

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

/// What the task is told.
#[derive(Debug)]
pub(super) enum Command {
    Send(Bytes, oneshot::Sender<Result<(), Error>>),
    Ask { frame: Bytes, id: String, wanted: Wanted, answer: oneshot::Sender<Result<Message, Error>> },
    Forget(String),
    Close,
}

/// What answers a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// RESULT or ERROR of the recipient.
    Answer,
    /// RECEIPT of the mesh.
    Receipt,
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

pub(super) struct Task {
    how: Box<dyn Reconnect>,
    options: Options,
    commands: queue::Receiver<Command>,
    inbox: queue::Sender<Message>,
    connection: Option<Connection>,
    pending: HashMap<String, (Wanted, Answer)>,
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
        Task { how, options, commands, inbox, connection: None, pending: HashMap::new(), parting: None }
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
        loop {
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
        for (_, (_, answer)) in self.pending.drain() {
            // Whoever asked may have given up.
            let _ = answer.send(Err(Error::Disconnected));
        }
        let closed = connection.finish().await;
        let parting = self.parting.take();
        let for_good = closed.as_ref().is_some_and(|(code, _)| !comes_back(*code))
            || parting.as_ref().is_some_and(|error| !error.retry);
        if for_good {
            let reason = closed.map(|(_, reason)| reason).or(parting.map(|error| error.message));
            tracing::warn!(reason, "the session was ended for good");
        }
        !for_good
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
                        self.pending.retain(|_, (_, answer)| !answer.is_closed());
                    }
                    if self.pending.len() >= MAX_PENDING {
                        let reason = format!("{MAX_PENDING} questions wait already");
                        let _ = answer.send(Err(Error::Unreachable(reason)));
                        continue;
                    }
                    connection.put(&frame);
                    self.pending.insert(id, (wanted, answer));
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
        // A full inbox counts what it drops; the sender of a message learns nothing of it in this release.
        let _ = self.inbox.try_send(message);
    }

    /// Gives a message to whoever waits for it, else back.
    fn answer(&mut self, message: Message) -> Option<Message> {
        let asked = message.reply_to.as_ref().and_then(|id| self.pending.get(id));
        let Some((wanted, _)) = asked else { return Some(message) };
        let mesh = message.is_from_mesh();
        let refused = mesh && message.is(Kind::Error);
        let fits = match wanted {
            Wanted::Answer => !mesh && (message.is(Kind::Result) || message.is(Kind::Error)),
            Wanted::Receipt => mesh && message.kind == "RECEIPT",
            Wanted::Agents => mesh && message.kind == "AGENTS",
        };
        if !fits && !refused {
            return Some(message);
        }
        let (_, answer) = message.reply_to.as_ref().and_then(|id| self.pending.remove(id))?;
        let given = match refused {
            true => message.read::<ErrorPayload>().and_then(|error| Err(error.into())),
            false => Ok(message),
        };
        let _ = answer.send(given);
        None
    }
}
