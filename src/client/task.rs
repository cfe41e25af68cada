//! The task that owns a client's connection.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::oneshot;

use super::connect::{Connection, Ways};
use super::life::{Life, Sign};
use super::message::{self, Message, Name, Registered, Verdict};
use super::rooms::Rooms;
use super::standing::Wanted;
use super::{Error, Options, comes_back, standing};
use crate::rt::backoff::Backoff;
use crate::rt::places::Places;
use crate::rt::queue::Refused;
use crate::rt::{clock, queue};
use crate::wire::client::ErrorPayload;
use crate::wire::envelope::Kind;

/// The first wait before coming back, and the longest (docs/protocol.md).
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// See [`FIRST_WAIT`].
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A connection that lasted so long was a good one: the next wait is short again.
const GOOD_AFTER: Duration = Duration::from_secs(30);
/// A client with several nodes to choose from takes the next at once, unless its connections end as fast as this.
const SHORT: Duration = Duration::from_secs(1);
/// Such a client asks a node that was silent for so long for a sign of life …
pub(super) const ASK_AFTER: Duration = Duration::from_millis(1_500);
/// … and leaves it after this, as edges do: a node that only has no processor for a second or two is worth waiting for.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// What the client waits for has so long to arrive before it goes to a better node; it is asked for there again.
const LEAVES_WITHIN: Duration = Duration::from_secs(2);
/// How long the node that is left may take to read the last frames.
const ENDS_WITHIN: Duration = Duration::from_secs(1);
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

/// How a batch of commands went.
enum Wrote {
    All,
    /// And nothing is to follow.
    Last,
    Failed,
}

/// How a connection ended.
enum Over {
    /// There is to be no other.
    ForGood,
    Broken,
    /// The node says nothing any more.
    Hangs,
    /// A better node answers: this is a connection to it.
    Better(Box<(usize, Connection)>),
}

type Answer = oneshot::Sender<Result<Message, Error>>;

/// Somebody who waits for an answer.
pub(super) struct Waiting {
    pub(super) wanted: Wanted,
    answer: Answer,
    /// What was asked, if it is to be asked again over another connection.
    frame: Option<Bytes>,
    /// The how-manieth question it was.
    order: u64,
}

pub(super) struct Task {
    ways: Arc<Ways>,
    options: Options,
    commands: queue::Receiver<Command>,
    pub(super) inbox: queue::Sender<Message>,
    /// With its place among the ways.
    connection: Option<(usize, Connection)>,
    pub(super) pending: HashMap<String, Waiting>,
    asked: u64,
    /// What the ids of our ACK and NACK begin with: nobody is told that one of them came to nothing.
    pub(super) settles: String,
    settled: u64,
    /// What was acknowledged last, by its order: if that did not arrive, it is delivered once more.
    done: (VecDeque<Name>, HashSet<Name>),
    /// What the program was given, or will be, and has not acknowledged: another node may hand it out again.
    given: HashSet<Name>,
    /// Frames of our own to be written.
    pub(super) own: Vec<Bytes>,
    pub(super) rooms: Rooms,
    /// The last error of the mesh's that answered nothing: perhaps why it closes.
    parting: Option<ErrorPayload>,
}

impl Task {
    pub(super) fn new(
        ways: Ways,
        options: Options,
        commands: queue::Receiver<Command>,
        inbox: queue::Sender<Message>,
    ) -> Task {
        let (pending, asked, settled, done, own, rooms) = Default::default();
        let (ways, given) = (Arc::new(ways), HashSet::new());
        let settles = format!("{}.", message::new_id());
        Task {
            ways,
            options,
            commands,
            inbox,
            connection: None,
            pending,
            asked,
            settles,
            settled,
            done,
            given,
            own,
            rooms,
            parting: None,
        }
    }

    /// Registers over a new connection, and keeps it.
    pub(super) async fn register(
        &mut self,
        place: usize,
        mut connection: Connection,
    ) -> Result<Registered, Error> {
        let id = message::new_id();
        let frame = json!({"type": "REGISTER", "id": id, "payload": {
            "agent": self.options.agent,
            "capabilities": self.options.capabilities,
            "shared": self.options.shared,
            "copies": self.options.copies,
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
                self.connection = Some((place, connection));
                self.go_on_in_rooms();
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
        let mut places = Places::new(self.ways.len());
        loop {
            let since = clock::now();
            let (mut place, mut over) = (0, Over::Broken);
            if let Some((at, connection)) = self.connection.take() {
                (place, over) = (at, self.serve(at, connection, &mut places).await);
            }
            let lasted = clock::since(since);
            places.left(place, lasted);
            if lasted >= GOOD_AFTER {
                backoff.reset();
            }
            let connected = match over {
                Over::ForGood => return,
                Over::Better(found) => Ok(*found),
                _ if self.ways.len() == 0 => return,
                Over::Broken | Over::Hangs => {
                    if matches!(over, Over::Hangs) {
                        places.shun(place);
                    }
                    if self.ways.len() < 2 || lasted < SHORT {
                        tokio::time::sleep(backoff.next_wait()).await;
                    }
                    self.ways.clone().connect_in(&places.round()).await
                }
            };
            let again = match connected {
                Ok((place, connection)) => self.register(place, connection).await,
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

    /// Serves one connection.
    async fn serve(&mut self, place: usize, mut connection: Connection, places: &mut Places) -> Over {
        let mut batch = Vec::with_capacity(BATCH);
        self.parting = None;
        // What has no receipt yet may not have arrived.
        let mut again: Vec<&Waiting> = self.pending.values().filter(|w| !w.answer.is_closed()).collect();
        again.sort_by_key(|waiting| waiting.order);
        self.own.extend(again.into_iter().filter_map(|waiting| waiting.frame.clone()));
        let ways = self.ways.clone();
        let better = places.better(place, |place| ways.connect_by(place));
        let mut better = std::pin::pin!(better);
        let (mut found, mut leave_by) = (None, None);
        let mut life = Life::new(ways.len() > 1);
        let mut gone = std::pin::pin!(connection.gone());
        loop {
            if self.write_own(&mut connection).await.is_err() {
                break;
            }
            if let Some(found) = found.take_if(|_| self.pending.is_empty() || leave_by <= Some(clock::now()))
            {
                self.leave(connection).await;
                return Over::Better(Box::new(found));
            }
            tokio::select! {
                frame = connection.next() => match frame.map(|frame| frame.map(|f| Message::parse(&f))) {
                    Ok(Some(Ok(message))) => {
                        life.heard();
                        self.arrived(message);
                    }
                    Ok(Some(Err(e))) | Err(e) => {
                        tracing::warn!(error = %e, "the node broke the protocol");
                        break;
                    }
                    Ok(None) => break,
                },
                count = self.commands.recv_many(&mut batch, BATCH) => {
                    let wrote = match count {
                        // Nobody holds the client any more: end the session in good order.
                        0 => Wrote::Last,
                        _ => self.write(&mut connection, &mut batch).await,
                    };
                    match wrote {
                        Wrote::All => {}
                        Wrote::Failed => break,
                        Wrote::Last => {
                            connection.finish().await;
                            return Over::ForGood;
                        }
                    }
                }
                there = &mut better, if found.is_none() => {
                    (found, leave_by) = (Some(there), Some(clock::now() + LEAVES_WITHIN));
                }
                () = &mut gone, if ways.len() > 1 => {
                    self.fail_pending(false);
                    return Over::Broken;
                }
                () = self.rooms.due() => self.look_at_rooms(),
                () = life.due(leave_by) => match life.look() {
                    Sign::Fine => {}
                    Sign::Ask => self.ask_for_life(),
                    Sign::Gone => {
                        tracing::warn!(place, "the node is silent: it is left");
                        self.fail_pending(false);
                        return Over::Hangs;
                    }
                },
            }
        }
        self.ended(connection).await
    }

    /// The connection is broken, or was ended by the node.
    async fn ended(&mut self, connection: Connection) -> Over {
        let closed = connection.finish().await;
        let parting = self.parting.take();
        let for_good = closed.as_ref().is_some_and(|(code, _)| !comes_back(*code))
            || parting.as_ref().is_some_and(|error| !error.retry);
        if for_good {
            let reason = closed.map(|(_, reason)| reason).or(parting.map(|error| error.message));
            tracing::warn!(reason, "the session was ended for good");
        }
        self.fail_pending(for_good || self.ways.len() == 0);
        if for_good { Over::ForGood } else { Over::Broken }
    }

    /// Ends the session with a node for that with a better one: it reads all that was written before.
    async fn leave(&mut self, mut connection: Connection) {
        connection.end().await;
        let rest = async {
            while let Ok(Some(frame)) = connection.next().await {
                if let Ok(message) = Message::parse(&frame) {
                    self.arrived(message);
                }
            }
        };
        // What is not read by then comes again at the other node.
        let _ = tokio::time::timeout(ENDS_WITHIN, rest).await;
        self.parting = None;
    }

    fn ask_for_life(&mut self) {
        self.settled += 1;
        let id = format!("{}{}", self.settles, self.settled);
        self.own.push(json!({"type": "HEARTBEAT", "id": id}).to_string().into());
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
                    self.given.remove(&name);
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
        let Some(message) = self.of_room(message).and_then(|message| self.answer(message)) else { return };
        if message.is_from_mesh() && message.is(Kind::Error) && message.reply_to.is_none() {
            self.parting = message.read().ok();
        }
        // Whom we acknowledged to may have gone; and what we refused too late comes again.
        let of_settling = message.reply_to.as_ref().is_some_and(|id| id.starts_with(&self.settles));
        if message.is_automatic() || (message.is_from_mesh() && of_settling) {
            return;
        }
        let name = message.is_durable().then(|| Name::of(&message));
        if name.as_ref().is_some_and(|name| message.redelivered && self.given.contains(name)) {
            return;
        }
        if let Some(name) = name.as_ref().filter(|name| message.redelivered && self.done.1.contains(name)) {
            let ack = self.settle(name, &Verdict::Acked { automatic: true });
            return self.own.push(ack);
        }
        // A full inbox counts what it drops, and what is kept comes again later.
        match (self.inbox.try_send(message), name) {
            (Err(Refused::Full(_)), Some(name)) => {
                let reason = "the client has too much to read".to_owned();
                let nack = self.settle(&name, &Verdict::Nacked { reason, requeue: true });
                self.own.push(nack);
            }
            (Ok(()), Some(name)) if self.given.len() < MAX_DONE => {
                self.given.insert(name);
            }
            _ => {}
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
            Wanted::Said(kind) => mesh && message.kind == *kind,
            Wanted::Subscribed { .. } => mesh && message.kind == "SUBSCRIBED",
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
