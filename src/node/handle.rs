//! What the rest of the program may ask the node task.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::status::{AgentRow, CallAnswer, Status, TakenOver};
use crate::link::inbox::Inbox;
use crate::mesh::NoTakeOver;
use crate::rt::queue;
use crate::wire::close::Refusal;
use crate::wire::envelope::{Head, MessageKey};
use crate::wire::frame::{Call, Frame, Method};
use crate::wire::ids::{LinkId, Namespace, NodeName};

/// A question to the node task; the answer comes back through the channel in it.
#[derive(Debug)]
pub enum Request {
    /// See [`Handle::status`].
    Status(oneshot::Sender<Status>),
    /// See [`Handle::agents`].
    Agents(Option<Namespace>, oneshot::Sender<Vec<AgentRow>>),
    /// See [`Handle::call`].
    Call {
        /// Whom to ask; `None`: the holder of the CA.
        to: Option<NodeName>,
        /// What.
        method: Method,
        /// With what.
        body: Bytes,
        /// How long to wait.
        within: Duration,
        /// The answer.
        answer: oneshot::Sender<Result<CallAnswer, CallError>>,
    },
    /// See [`Handle::answer`].
    Answer(Call, Result<Bytes, String>),
    /// See [`Handle::tell`].
    Tell(LinkId, Box<Frame>),
    /// See [`Handle::post`].
    Post {
        /// Its head.
        head: Box<Head>,
        /// Its text.
        payload: Bytes,
        /// Whether it was taken.
        answer: oneshot::Sender<Result<(), Refusal>>,
    },
    /// See [`Handle::drop_dead`].
    DropDead(MessageKey),
    /// See [`Handle::resume`].
    Resume(bool, oneshot::Sender<bool>),
    /// See [`Handle::take_over`].
    TakeOver(NodeName, oneshot::Sender<Result<TakenOver, NoTakeOver>>),
    /// See [`Handle::set_revocations`].
    Revocations(u64, Bytes),
    /// See [`Handle::set_certificate_days`].
    CertificateDays(i64),
    /// See [`Handle::stop`].
    Stop(oneshot::Sender<()>),
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No such node was ever seen.
    #[error("no node {0} is known to this mesh; see the nodes with: trishula status")]
    UnknownNode(String),
    /// Nobody in reach holds the CA.
    #[error("no node in reach holds the CA's key; start the node on which `trishula init` was run")]
    NoHolder,
    /// No way leads there now.
    #[error("no way leads to node {0} at the moment; see the links with: trishula status")]
    NoRoute(NodeName),
    /// No answer in time.
    #[error("node {0} did not answer within {1:?}")]
    TimedOut(NodeName, Duration),
    /// The node answered with an error.
    #[error("node {0} refused: {1}")]
    Refused(NodeName, String),
    /// Too many calls wait already.
    #[error("too many calls are under way; try again in a second")]
    Busy,
    /// The node task has stopped.
    #[error("this node is stopping")]
    Stopping,
}

/// To ask the node task; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    requests: queue::Sender<Request>,
    links: Inbox,
}

impl Handle {
    /// For the node task: both of its inboxes.
    pub fn new(requests: queue::Sender<Request>, links: Inbox) -> Handle {
        Handle { requests, links }
    }

    /// Where links report.
    pub fn links(&self) -> Inbox {
        self.links.clone()
    }

    /// How this node and the mesh stand.
    pub async fn status(&self) -> Result<Status, CallError> {
        self.ask(Request::Status).await
    }

    /// The agents of a namespace, or of all.
    pub async fn agents(&self, namespace: Option<Namespace>) -> Result<Vec<AgentRow>, CallError> {
        self.ask(|answer| Request::Agents(namespace, answer)).await
    }

    /// Asks another node, through others if need be; `to: None` asks the holder of the CA.
    pub async fn call(
        &self,
        to: Option<NodeName>,
        method: Method,
        body: Bytes,
        within: Duration,
    ) -> Result<CallAnswer, CallError> {
        self.ask(|answer| Request::Call { to, method, body, within, answer }).await?
    }

    /// The answer to a [`super::Question`].
    pub async fn answer(&self, call: Call, result: Result<Bytes, String>) -> Result<(), CallError> {
        self.requests.send(Request::Answer(call, result)).await.map_err(|_| CallError::Stopping)
    }

    /// Sends a frame over a link; one that is not there any more needs none.
    pub async fn tell(&self, link: LinkId, frame: Frame) -> Result<(), CallError> {
        self.requests.send(Request::Tell(link, Box::new(frame))).await.map_err(|_| CallError::Stopping)
    }

    /// Sends a message for somebody. `Ok(Ok(()))`: it was taken, and is being written.
    pub async fn post(&self, head: Head, payload: Bytes) -> Result<Result<(), Refusal>, CallError> {
        let head = Box::new(head);
        self.ask(|answer| Request::Post { head, payload, answer }).await
    }

    /// A message that died is not wanted any more.
    pub async fn drop_dead(&self, key: MessageKey) -> Result<(), CallError> {
        self.requests.send(Request::DropDead(key)).await.map_err(|_| CallError::Stopping)
    }

    /// Lets a node go on that stands still because its store is an old one: what waits in it is handed over again, marked,
    /// or goes to the dead letters. `false`: it does not stand still.
    pub async fn resume(&self, redeliver: bool) -> Result<bool, CallError> {
        self.ask(|answer| Request::Resume(redeliver, answer)).await
    }

    /// What this node has second copies of goes on from here, although the node that has the first ones has not been away
    /// for long.
    pub async fn take_over(&self, node: NodeName) -> Result<Result<TakenOver, NoTakeOver>, CallError> {
        self.ask(|answer| Request::TakeOver(node, answer)).await
    }

    /// A revocation list that was verified: spread it, and close links to those on it.
    pub async fn set_revocations(&self, number: u64, der: Bytes) -> Result<(), CallError> {
        self.requests.send(Request::Revocations(number, der)).await.map_err(|_| CallError::Stopping)
    }

    /// Days that our own certificate has left, for `status`.
    pub async fn set_certificate_days(&self, days: i64) -> Result<(), CallError> {
        self.requests.send(Request::CertificateDays(days)).await.map_err(|_| CallError::Stopping)
    }

    /// Says goodbye to every peer; answers when that is on its way.
    pub async fn stop(&self) {
        // A node task that is gone already has stopped.
        let _ = self.ask(Request::Stop).await;
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, CallError> {
        let (answer, wait) = oneshot::channel();
        self.requests.send(make(answer)).await.map_err(|_| CallError::Stopping)?;
        wait.await.map_err(|_| CallError::Stopping)
    }
}
