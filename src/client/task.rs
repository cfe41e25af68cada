//! The task that owns a client's connection.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::oneshot;

use super::connect::{Connection, Event, Ways};
use super::life::{Life, Sign};
use super::message::{self, Message, Name, Registered, Verdict};
use super::rooms::Rooms;
use super::standing::Wanted;
use super::{Error, Options, comes_back};
use crate::rt::backoff::Backoff;
use crate::rt::places::Places;
use crate::rt::wake::{self, Wakes};
use crate::rt::{clock, queue};
use crate::wire::client::ErrorPayload;

/// The first wait before coming back, and the longest (docs/protocol.md).
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// See [`FIRST_WAIT`].
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A connection that lasted so long was a good one: the next wait is short again.
const GOOD_AFTER: Duration = Duration::from_secs(30);
/// A client with several nodes to choose from takes the next at once, unless its connections end as fast as this.
const SHORT: Duration = Duration::from_secs(1);
/// What the client waits for has so long to arrive before it goes to a better node; it is asked for there again.
const LEAVES_WITHIN: Duration = Duration::from_secs(2);
/// How long the node that is left may take to read the last frames.
const ENDS_WITHIN: Duration = Duration::from_secs(1);
/// How long the node may take to register us.
const REGISTER_WITHIN: Duration = Duration::from_secs(10);
/// Commands that are obeyed before what they put is written.
const BATCH: usize = 64;
/// How many of those who ask may wait at once.
const MAX_PENDING: usize = 4096;

/// What the task is told.
#[derive(Debug)]
pub(super) enum Command {
    Send(Bytes, Sent),
    Ask { frame: Bytes, id: String, wanted: Wanted, answer: Answer },
    Settle(Name, Verdict),
    Forget(String),
    Close,
}

/// How a connection ended.
enum Over {
    /// There is to be no other.
    ForGood,
    Broken,
    /// The node says nothing any more.
    Hangs,
    /// It did not survive that this machine slept, or came to another network: that is not the node's fault.
    Slept,
    /// A better node answers: this is a connection to it.
    Better(Box<(usize, Connection)>),
}

type Answer = oneshot::Sender<Result<Message, Error>>;
type Sent = oneshot::Sender<Result<(), Error>>;

/// Somebody who waits for an answer.
pub(super) struct Waiting {
    pub(super) wanted: Wanted,
    pub(super) answer: Answer,
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
    pub(super) settled: u64,
    /// What was acknowledged last, by its order: if that did not arrive, it is delivered once more.
    pub(super) done: (VecDeque<Name>, HashSet<Name>),
    /// What the program was given, or will be, and has not acknowledged: another node may hand it out again.
    pub(super) given: HashSet<Name>,
    /// Frames of our own to be written.
    pub(super) own: Vec<Bytes>,
    pub(super) rooms: Rooms,
    /// The last error of the mesh's that answered nothing: perhaps why it closes.
    pub(super) parting: Option<ErrorPayload>,
    /// Who is to be told when all that was put is written.
    telling: Vec<Sent>,
    /// Then all is over.
    closing: bool,
}

impl Task {
    pub(super) fn new(
        ways: Ways,
        options: Options,
        commands: queue::Receiver<Command>,
        inbox: queue::Sender<Message>,
    ) -> Task {
        let (pending, asked, settled, done, own, rooms, telling) = Default::default();
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
            telling,
            closing: false,
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
            loop {
                let message = match connection.next().await? {
                    Event::Came(frame) => Message::parse(&frame)?,
                    Event::Written => continue,
                    Event::Ended => return Err(Error::Disconnected),
                };
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
        let (_watch, mut wakes) = (wake::watch(), wake::subscribe());
        loop {
            let since = clock::now();
            let (mut place, mut over) = (0, Over::Broken);
            if let Some((at, connection)) = self.connection.take() {
                (place, over) = (at, self.serve(at, connection, &mut places, &mut wakes).await);
            }
            let lasted = clock::since(since);
            places.left(place, lasted);
            if lasted >= GOOD_AFTER {
                backoff.reset();
            }
            let found = match over {
                Over::ForGood => return,
                _ if self.closing || self.ways.len() == 0 => return,
                Over::Better(found) => Some(*found),
                Over::Slept => {
                    backoff.reset();
                    None
                }
                Over::Broken | Over::Hangs => {
                    if matches!(over, Over::Hangs) {
                        places.shun(place);
                    }
                    let waits = self.ways.len() < 2 || lasted < SHORT;
                    if waits && wakes.within(backoff.next_wait()).await {
                        backoff.reset();
                    }
                    None
                }
            };
            let again = self.come_back(found, &places.round(), &mut wakes).await;
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

    /// Connects, unless that is done, and registers. What a sleep came between is begun anew: its sockets may be dead.
    async fn come_back(
        &mut self,
        found: Option<(usize, Connection)>,
        round: &[usize],
        wakes: &mut Wakes,
    ) -> Result<Registered, Error> {
        tokio::select! {
            again = self.connect_again(found, round) => again,
            // Once: where networks come and go all the time, a try must get to its end.
            true = wakes.next() => self.connect_again(None, round).await,
        }
    }

    async fn connect_again(
        &mut self,
        found: Option<(usize, Connection)>,
        round: &[usize],
    ) -> Result<Registered, Error> {
        let (place, connection) = match found {
            Some(found) => found,
            None => self.ways.clone().connect_in(round).await?,
        };
        self.register(place, connection).await
    }

    /// Serves one connection.
    async fn serve(
        &mut self,
        place: usize,
        mut connection: Connection,
        places: &mut Places,
        wakes: &mut Wakes,
    ) -> Over {
        let mut batch = Vec::with_capacity(BATCH);
        self.parting = None;
        self.ask_again();
        let ways = self.ways.clone();
        let better = places.better(place, |place| ways.connect_by(place));
        let mut better = std::pin::pin!(better);
        let (mut found, mut leave_by) = (None, None);
        let mut life = Life::new(ways.len() > 1);
        let mut gone = std::pin::pin!(connection.gone());
        let mut silent = std::pin::pin!(connection.silent());
        loop {
            self.own.drain(..).for_each(|frame| connection.put(&frame));
            let written = connection.is_written();
            if self.closing && written {
                connection.finish().await;
                return Over::ForGood;
            }
            let can_leave = written && self.pending.is_empty();
            if let Some(found) = found.take_if(|_| can_leave || leave_by <= Some(clock::now())) {
                self.leave(connection).await;
                return Over::Better(Box::new(found));
            }
            tokio::select! {
                event = connection.next() => if !self.happened(event, &mut life) {
                    return self.ended(connection, life.is_doubted()).await;
                },
                count = self.commands.recv_many(&mut batch, BATCH), if written => {
                    // Nobody holds the client any more: end the session in good order.
                    self.closing |= count == 0;
                    batch.drain(..).for_each(|command| self.obey(command, &mut connection));
                }
                there = &mut better, if found.is_none() => {
                    (found, leave_by) = (Some(there), Some(clock::now() + LEAVES_WITHIN));
                }
                () = &mut gone, if ways.len() > 1 => return self.left(found, Over::Broken),
                () = &mut silent, if ways.len() > 1 => return self.left_silent(place, found),
                // Of two connections that may be dead, this one was to be left anyway.
                true = wakes.next(), if ways.len() > 0 => match found {
                    Some(_) => return self.left(None, Over::Slept),
                    None => {
                        tracing::debug!(place, "after a sleep, or on another network: does the connection live?");
                        life.doubt(self.ask_for_life());
                    }
                },
                () = self.rooms.due() => self.look_at_rooms(),
                () = life.due(leave_by) => match life.look() {
                    Sign::Fine => {}
                    Sign::Ask => drop(self.ask_for_life()),
                    Sign::Gone => return self.left_silent(place, found),
                    Sign::Dead => {
                        tracing::info!(place, "the connection is dead: another one is made");
                        return self.left(found, Over::Slept);
                    }
                },
            }
        }
    }

    /// What has no receipt yet may not have arrived.
    fn ask_again(&mut self) {
        let mut again: Vec<&Waiting> = self.pending.values().filter(|w| !w.answer.is_closed()).collect();
        again.sort_by_key(|waiting| waiting.order);
        self.own.extend(again.into_iter().filter_map(|waiting| waiting.frame.clone()));
    }

    /// Takes what happened on the connection; `false`: it is over.
    fn happened(&mut self, event: Result<Event, Error>, life: &mut Life) -> bool {
        let came = match event {
            Ok(Event::Came(frame)) => Message::parse(&frame),
            Ok(Event::Written) => {
                self.tell(&Ok(()));
                return true;
            }
            Ok(Event::Ended) => return false,
            Err(e) => Err(e),
        };
        match came {
            Ok(message) => {
                if life.heard(message.reply_to.as_deref()) {
                    tracing::debug!("the connection lives");
                }
                self.arrived(message);
                true
            }
            Err(e) => {
                tracing::warn!(error = %e, "the node broke the protocol");
                false
            }
        }
    }

    /// The connection is left as it is; for a better one, if that is there already.
    fn left(&mut self, found: Option<(usize, Connection)>, over: Over) -> Over {
        self.fail_pending(false);
        found.map_or(over, |found| Over::Better(Box::new(found)))
    }

    fn left_silent(&mut self, place: usize, found: Option<(usize, Connection)>) -> Over {
        tracing::warn!(place, "the node is silent: it is left");
        self.left(found, Over::Hangs)
    }

    /// The connection is broken, or was ended by the node: perhaps because that has forgotten it while this machine slept.
    async fn ended(&mut self, connection: Connection, doubted: bool) -> Over {
        let closed = connection.finish().await;
        let parting = self.parting.take();
        let for_good = closed.as_ref().is_some_and(|(code, _)| !comes_back(*code))
            || parting.as_ref().is_some_and(|error| !error.retry);
        if for_good {
            let reason = closed.map(|(_, reason)| reason).or(parting.map(|error| error.message));
            tracing::warn!(reason, "the session was ended for good");
        }
        self.fail_pending(for_good || self.ways.len() == 0);
        match (for_good, doubted) {
            (true, _) => Over::ForGood,
            (false, true) => Over::Slept,
            (false, false) => Over::Broken,
        }
    }

    /// Ends the session with a node for that with a better one: it reads all that was written before.
    async fn leave(&mut self, mut connection: Connection) {
        let rest = async {
            connection.end().await;
            while let Ok(Event::Came(frame)) = connection.next().await {
                if let Ok(message) = Message::parse(&frame) {
                    self.arrived(message);
                }
            }
        };
        // What is not read by then comes again at the other node.
        let _ = tokio::time::timeout(ENDS_WITHIN, rest).await;
        self.tell(&if connection.is_written() { Ok(()) } else { Err(Error::Disconnected) });
        self.parting = None;
    }

    /// Asks the node for a sign of life, by a question of this id.
    fn ask_for_life(&mut self) -> String {
        self.settled += 1;
        let id = format!("{}{}", self.settles, self.settled);
        self.own.push(json!({"type": "HEARTBEAT", "id": id}).to_string().into());
        id
    }

    /// The connection is over. What is asked again stays, if there is to be another one.
    fn fail_pending(&mut self, for_good: bool) {
        self.own.clear();
        self.tell(&Err(Error::Disconnected));
        let failed = |_: &String, waiting: &mut Waiting| for_good || waiting.frame.is_none();
        for (_, waiting) in self.pending.extract_if(failed) {
            // Whoever asked may have given up.
            let _ = waiting.answer.send(Err(Error::Disconnected));
        }
    }

    /// Tells whoever sent whether it is written.
    fn tell(&mut self, written: &Result<(), Error>) {
        for sent in self.telling.drain(..) {
            // Whoever sent it may not wait.
            let _ = sent.send(written.clone());
        }
    }

    fn obey(&mut self, command: Command, connection: &mut Connection) {
        match command {
            Command::Send(frame, sent) => {
                connection.put(&frame);
                self.telling.push(sent);
            }
            Command::Ask { frame, id, wanted, answer } => {
                if self.pending.len() >= MAX_PENDING {
                    self.pending.retain(|_, waiting| !waiting.answer.is_closed());
                }
                if self.pending.len() >= MAX_PENDING {
                    let reason = format!("{MAX_PENDING} questions wait already");
                    let _ = answer.send(Err(Error::Unreachable(reason)));
                    return;
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
            Command::Close => self.closing = true,
        }
    }
}
