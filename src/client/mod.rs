//! The client of native agents, of the command line and of tests: it registers, sends, asks and listens, and
//! comes back by itself.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use trishula::client::{Client, Options};
//! # async fn example(io: tokio::net::UnixStream) -> Result<(), trishula::client::Error> {
//! let client = Client::over(io, Options::default()).await?;
//! let result = client.request("agni", serde_json::json!({"run": "uptime"}), Duration::from_secs(5)).await?;
//! let answer: String = result.read()?;
//! # Ok(()) }
//! ```
//!
//! | file | what is in it |
//! |---|---|
//! | this one | what a program may do with a client |
//! | `arrivals` | what comes, and whose it is |
//! | `connect` | how it reaches its node, and reaches it again |
//! | `life` | whether the node still says anything, and the connection has survived a sleep |
//! | `message` | what it sends and gets |
//! | `numbers` | its count of what it sends |
//! | `rooms` | what it has subscribed to |
//! | `standing` | what it learns of what it sent |
//! | `task` | the task that owns the connection |
//! | `through` | a way to its node where UDP is blocked |

mod arrivals;
mod connect;
mod life;
mod message;
mod numbers;
mod rooms;
mod standing;
mod task;
mod through;

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

pub use connect::{Connect, Connection, Quic, Ways};
pub use message::{Agent, Message, Outgoing, Registered};
use message::{Name, Verdict};
use numbers::Numbers;
pub use rooms::{Subscribed, Subscription};
use standing::Wanted;
pub use standing::{Receipt, Recipient, Standing};
use task::{Command, Task};
pub use through::Through;

use crate::rt::{queue, tasks};
use crate::wire::client::ErrorPayload;
use crate::wire::close::CloseCode;
use crate::wire::envelope::State;
use crate::wire::ids::AgentName;

/// Messages that may wait for a listener; more are dropped, and counted.
const INBOX: usize = 1024;
/// Frames that may wait to be sent.
const COMMANDS: usize = 256;

/// Why a client could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No connection came about.
    #[error("the node can't be reached: {0}")]
    Unreachable(String),
    /// The mesh refused, with its code and what to do.
    #[error("{message} ({code}); {hint}")]
    Refused {
        /// As in the protocol's table.
        code: String,
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
        /// Whether the same may succeed later.
        retry: bool,
    },
    /// The connection broke before the answer came; whether the message arrived is not known.
    #[error("the connection broke before the answer came; whether the message arrived is not known")]
    Disconnected,
    /// The message has ended, and its recipient does not have it, or does not want it.
    #[error("the message is {state}: {reason}")]
    Undelivered {
        /// `nacked`, `expired` or `dead`.
        state: String,
        /// In the words of whoever ended it.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The session was ended for good.
    #[error("the session was ended: {reason}")]
    Ended {
        /// The close code, where the carrier transmits it.
        code: Option<u16>,
        /// In the node's words.
        reason: String,
    },
    /// What came is not of the protocol.
    #[error("the node's answer can't be read: {0}")]
    Malformed(String),
}

impl From<ErrorPayload> for Error {
    fn from(error: ErrorPayload) -> Error {
        let ErrorPayload { code, message, hint, retry, .. } = error;
        Error::Refused { code, message, hint, retry }
    }
}

/// How a client registers.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// As whom; the identity's own name when absent.
    pub agent: Option<AgentName>,
    /// What the agent can.
    pub capabilities: Vec<String>,
    /// Shares the agent's messages with its other sessions.
    pub shared: bool,
    /// On how many machines each message must be before it is accepted, 1 or 2, where it does not say so itself; 1 when
    /// absent.
    pub copies: Option<u8>,
    /// The program acknowledges what it is delivered, by [`Client::ack`] and [`Client::nack`]. Otherwise a message is
    /// acknowledged when the program asks for the next one, or closes the client.
    pub manual: bool,
    /// Does not count its messages: of an agent that ends with its client nothing need be remembered for long.
    pub uncounted: bool,
}

/// A registered session that comes back by itself. Dropping it cuts the connection; [`Client::close`] ends it
/// in good order.
#[derive(Debug)]
pub struct Client {
    commands: queue::Sender<Command>,
    inbox: queue::Receiver<Message>,
    registered: Registered,
    numbers: Numbers,
    manual: bool,
    /// The message that the program was given last, until it is acknowledged.
    given: Option<Name>,
    task: tasks::Task,
}

/// A client's sending half; cheap to clone.
#[derive(Debug, Clone)]
pub struct Sender {
    commands: queue::Sender<Command>,
    numbers: Numbers,
}

impl Client {
    /// Connects and registers, and does both again whenever the connection breaks. Of several ways ([`Ways`], and [`Quic`]
    /// with several addresses) the first that answers is taken; another one as soon as the node hangs or is gone, and a better
    /// one when that is there again. Where the machine has slept or is on another network, a connection that has died is found
    /// out within two seconds. Nothing is lost on the way; what was in the program's hands is not given to it twice.
    pub async fn connect(how: impl Connect, options: Options) -> Result<Client, Error> {
        let ways = how.apart();
        let round: Vec<usize> = (0..ways.len()).collect();
        let connected = ways.connect_in(&round).await?;
        Client::start(connected, ways, options).await
    }

    /// Takes a connection that was made already; when it breaks, the client ends. After a sleep it is not doubted.
    pub async fn over<S>(io: S, options: Options) -> Result<Client, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Client::start((0, Connection::over(io)), Ways::default(), options).await
    }

    async fn start(
        (place, connection): (usize, Connection),
        ways: Ways,
        options: Options,
    ) -> Result<Client, Error> {
        let (commands, waiting) = queue::bounded("client.commands", COMMANDS);
        let (arrived, inbox) = queue::bounded("client.inbox", INBOX);
        // Sessions that share an agent would each count for itself.
        let (manual, counts) = (options.manual, !options.shared && !options.uncounted);
        let mut task = Task::new(ways, options, waiting, arrived);
        let registered = task.register(place, connection).await?;
        let task = tasks::spawn("client", task.run());
        let numbers = if counts { Numbers::new(&registered) } else { Numbers::default() };
        Ok(Client { commands, inbox, registered, numbers, manual, given: None, task })
    }

    /// As whom and where the client registered first.
    pub fn registered(&self) -> &Registered {
        &self.registered
    }

    /// The next message that is no answer to a request; `None`: the client has ended for good. Asking for it
    /// acknowledges the one before, unless the client is [manual](Options::manual). Losing this future loses nothing.
    pub async fn next(&mut self) -> Option<Message> {
        self.acknowledge_given().await;
        let message = self.inbox.recv().await?;
        if message.is_durable() && !self.manual {
            self.given = Some(Name::of(&message));
        }
        Some(message)
    }

    async fn acknowledge_given(&mut self) {
        let Some(name) = self.given.clone() else { return };
        // A client that has ended acknowledges nothing: the message comes again elsewhere.
        let _ = self.commands.send(Command::Settle(name, Verdict::Acked { automatic: true })).await;
        self.given = None;
    }

    /// Says that the program has done with a message.
    pub async fn ack(&self, message: &Message) -> Result<(), Error> {
        self.settle(message, Verdict::Acked { automatic: false }).await
    }

    /// Refuses a message, for good or (`requeue`) until later.
    pub async fn nack(&self, message: &Message, reason: &str, requeue: bool) -> Result<(), Error> {
        self.settle(message, Verdict::Nacked { reason: reason.to_owned(), requeue }).await
    }

    async fn settle(&self, message: &Message, verdict: Verdict) -> Result<(), Error> {
        self.sender().command(Command::Settle(Name::of(message), verdict)).await
    }

    /// Ends the session once all that was sent is out.
    pub async fn close(mut self) {
        self.acknowledge_given().await;
        let Client { commands, inbox, task, .. } = self;
        // Nobody listens any more; a full inbox must not be in the way.
        drop(inbox);
        // A task that has ended already has nothing to close.
        let _ = commands.send(Command::Close).await;
        task.join().await;
    }

    /// A half to send from other tasks with.
    pub fn sender(&self) -> Sender {
        Sender { commands: self.commands.clone(), numbers: self.numbers.clone() }
    }

    /// See [`Sender::send`].
    pub async fn send(&self, message: Outgoing) -> Result<(), Error> {
        self.sender().send(message).await
    }

    /// See [`Sender::send_and_wait`].
    pub async fn send_and_wait(
        &self,
        message: Outgoing,
        wish: State,
        within: Duration,
    ) -> Result<Receipt, Error> {
        self.sender().send_and_wait(message, wish, within).await
    }

    /// See [`Sender::request`].
    pub async fn request(&self, to: &str, payload: Value, within: Duration) -> Result<Message, Error> {
        self.sender().request(to, payload, within).await
    }

    /// See [`Sender::query`].
    pub async fn query(
        &self,
        message: &str,
        from: Option<&str>,
        within: Duration,
    ) -> Result<Standing, Error> {
        self.sender().query(message, from, within).await
    }

    /// See [`Sender::agents`].
    pub async fn agents(&self, within: Duration) -> Result<Vec<Agent>, Error> {
        self.sender().agents(within).await
    }
}

impl Sender {
    /// Gives a message its number, as sending does. Who may send the same message again does this first: by the number it
    /// is recognised also when its id is forgotten.
    pub fn numbered(&self, message: Outgoing) -> Outgoing {
        self.numbers.give(message)
    }

    /// Sends; returns when the message is on its way to the node. A refusal arrives as a message from `mesh`.
    pub async fn send(&self, message: Outgoing) -> Result<(), Error> {
        let (sent, wait) = oneshot::channel();
        self.command(Command::Send(self.numbered(message).to_frame()?, sent)).await?;
        wait.await.map_err(|_| ended())?
    }

    /// Sends, and waits until the message has got so far: to `Accepted`, `Stored`, `Delivered` or `Acked`. When the
    /// connection breaks, it is sent again over the next one with the same id, which is safe.
    pub async fn send_and_wait(
        &self,
        message: Outgoing,
        wish: State,
        within: Duration,
    ) -> Result<Receipt, Error> {
        let message = Outgoing { receipt: Some(wish.as_str().into()), ..self.numbered(message) };
        let told = self.ask(message.to_frame()?, message.id.clone(), Wanted::Receipt(wish), within).await?;
        standing::reached(&told, wish).unwrap_or(Err(Error::Disconnected))
    }

    /// Where a message stands, of this agent's own or (`from`) one that it was sent.
    pub async fn query(
        &self,
        message: &str,
        from: Option<&str>,
        within: Duration,
    ) -> Result<Standing, Error> {
        let id = message::new_id();
        let mut payload = serde_json::json!({"message": message});
        if let Some(from) = from {
            payload["from"] = from.into();
        }
        let frame = serde_json::json!({"type": "QUERY", "id": id, "payload": payload}).to_string();
        self.ask(frame.into(), id, Wanted::Said("STATE"), within).await?.read()
    }

    /// Sends a COMMAND, and waits for the RESULT that answers it. An ERROR of the recipient is answered like
    /// a RESULT: its type tells.
    pub async fn request(&self, to: &str, payload: Value, within: Duration) -> Result<Message, Error> {
        self.request_with(Outgoing::command(to, payload), within).await
    }

    /// The same, with a message of the caller's making.
    pub async fn request_with(&self, message: Outgoing, within: Duration) -> Result<Message, Error> {
        let message = self.numbered(message);
        self.ask(message.to_frame()?, message.id.to_string(), Wanted::Answer, within).await
    }

    /// The agents of the client's namespace.
    pub async fn agents(&self, within: Duration) -> Result<Vec<Agent>, Error> {
        let id = message::new_id();
        let frame = serde_json::json!({"type": "AGENTS", "id": id}).to_string();
        let answer = self.ask(frame.into(), id, Wanted::Said("AGENTS"), within).await?;
        message::agents(&answer)
    }

    async fn ask(
        &self,
        frame: bytes::Bytes,
        id: String,
        wanted: Wanted,
        within: Duration,
    ) -> Result<Message, Error> {
        let (answer, wait) = oneshot::channel();
        let asked = async {
            self.command(Command::Ask { frame, id: id.clone(), wanted, answer }).await?;
            wait.await.map_err(|_| ended())?
        };
        match tokio::time::timeout(within, asked).await {
            Ok(answer) => answer,
            Err(_) => {
                // The task forgets what nobody waits for; should its queue be full, it does so later.
                let _ = self.commands.try_send(Command::Forget(id));
                Err(Error::TimedOut(within))
            }
        }
    }

    async fn command(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| ended())
    }
}

fn ended() -> Error {
    Error::Ended { code: None, reason: "the client has ended".into() }
}

/// Whether a client that was closed with this code should come back unchanged (docs/protocol.md).
fn comes_back(code: u16) -> bool {
    code < 4400 && code != CloseCode::Protocol.number()
}

#[cfg(test)]
mod tests;
