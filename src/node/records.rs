//! Where messages stand and what died: one task that asks this node's disk, and the disks of the others.
//!
//! | file | what is in it |
//! |---|---|
//! | [`rows`] | what one node's disk says of a message |
//! | [`standing`] | what several of them say together |
//! | `query` | the same as a client is told it |
//! | `gather` | asking the other nodes |
//! | [`dead`] | dead letters: list, show, retry, drop |
//! | [`trace`] | the way that a message took |
//! | [`order`] | steps of several clocks in one order |

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::mesh::Queried;
use crate::rt::{queue, tasks};
use crate::store::trace::Lookup;
use crate::store::{Health, Reader};
use crate::wire::close::{Code, Refusal};
use crate::wire::frame::Frame;
use crate::wire::ids::{AgentAddr, LinkId, MessageId, NodeName, Sequence, SessionNo};

pub mod dead;
mod gather;
pub mod order;
mod query;
pub mod rows;
pub mod standing;
pub mod trace;

use rows::Row;
use standing::Shown;
use trace::Traced;

/// Questions that may wait.
const BOUND: usize = 256;
/// Questions that are answered at the same time.
const AT_ONCE: usize = 64;

/// What a node is asked of its own disk: the body of [`Method::Records`](crate::wire::frame::Method::Records).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Inquiry {
    /// What it knows of a message: a list of [`Row`].
    Rows {
        /// Whose; `None`: everybody's of that id.
        from: Option<AgentAddr>,
        /// What its sender calls it.
        id: MessageId,
    },
    /// What happened to a message there: [`trace::Trail`].
    Trail {
        /// Whose; `None`: everybody's of that id.
        from: Option<AgentAddr>,
        /// What its sender calls it.
        id: MessageId,
    },
    /// Its dead letters, by the order in which they were taken: [`dead::Letters`].
    Dead {
        /// How many at most.
        limit: usize,
        /// Behind this one; `None`: from the first.
        after: Option<u64>,
    },
    /// One of them, with its text: [`dead::Opened`].
    DeadLetter(dead::Name),
    /// Sends them again as new messages: [`dead::Done`].
    Retry {
        /// Which.
        which: dead::Which,
    },
    /// Forgets them: [`dead::Done`].
    Drop {
        /// Which.
        which: dead::Which,
    },
}

/// What the task is asked.
#[derive(Debug)]
pub enum Ask {
    /// Where a message stands, as all nodes in reach know it.
    Show {
        /// Whose; `None`: everybody's of that id.
        from: Option<AgentAddr>,
        /// What its sender calls it.
        id: MessageId,
        /// The answer.
        answer: oneshot::Sender<Shown>,
    },
    /// The way of a message, from the records of all nodes in reach.
    Trace {
        /// Whose; `None`: everybody's of that id.
        from: Option<AgentAddr>,
        /// What its sender calls it.
        id: MessageId,
        /// The answer.
        answer: oneshot::Sender<Traced>,
    },
    /// Something of one node.
    One {
        /// Another one than this.
        node: Option<NodeName>,
        /// What.
        inquiry: Inquiry,
        /// The answer, as the inquiry says.
        answer: oneshot::Sender<Result<Value, String>>,
    },
    /// Another node asks.
    Call(super::Question),
    /// A session asks.
    Query {
        /// Over which link.
        link: LinkId,
        /// Which.
        session: SessionNo,
        /// Its number for the answer.
        number: Sequence,
        /// About what.
        queried: Queried,
    },
}

/// To ask the task; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    asks: queue::Sender<Ask>,
}

impl Handle {
    /// Where a message stands, as all nodes in reach know it.
    pub async fn show(&self, from: Option<AgentAddr>, id: MessageId) -> Result<Shown, String> {
        self.ask(|answer| Ask::Show { from, id, answer }).await
    }

    /// The way of a message, from the records of all nodes in reach.
    pub async fn trace(&self, from: Option<AgentAddr>, id: MessageId) -> Result<Traced, String> {
        self.ask(|answer| Ask::Trace { from, id, answer }).await
    }

    /// Something of one node: this one, or another.
    pub async fn one(&self, node: Option<NodeName>, inquiry: Inquiry) -> Result<Value, String> {
        self.ask(|answer| Ask::One { node, inquiry, answer }).await?
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, String> {
        let stopping = || "this node is stopping".to_owned();
        let (answer, wait) = oneshot::channel();
        self.asks.send(make(answer)).await.map_err(|_| stopping())?;
        wait.await.map_err(|_| stopping())
    }
}

/// The task's inbox: for the node task, for everybody else, and for [`Records::start`].
pub fn inbox() -> (queue::Sender<Ask>, Handle, queue::Receiver<Ask>) {
    let (asks, asked) = queue::bounded("node.records", BOUND);
    (asks.clone(), Handle { asks }, asked)
}

/// The payload of an ERROR for a session that can't be answered now.
pub fn unavailable(why: &str) -> Bytes {
    query::error(&Refusal::new(Code::Unavailable, why))
}

/// What the task needs.
pub struct Records {
    /// This node.
    pub me: NodeName,
    /// To ask other nodes, and to answer.
    pub node: super::Handle,
    /// This node's disk.
    pub reader: Reader,
    /// Its records of how messages travelled.
    pub trace: Lookup,
    /// What tells when something was written.
    pub health: watch::Receiver<Health>,
}

impl Records {
    /// Starts the task.
    pub fn start(self, mut asks: queue::Receiver<Ask>) -> tasks::Task {
        tasks::spawn("node.records", async move {
            let this = Arc::new(self);
            this.begin_trails().await;
            let places = Arc::new(Semaphore::new(AT_ONCE));
            let mut work = tasks::Group::default();
            // What finds no place waits in the inbox, and what finds no room there is refused.
            while let Ok(place) = places.clone().acquire_owned().await {
                let Some(ask) = asks.recv().await else { return };
                let this = this.clone();
                work.spawn("node.records.answer", async move {
                    this.answer(ask).await;
                    drop(place);
                });
            }
        })
    }

    async fn answer(&self, ask: Ask) {
        // Whoever asked may have gone: an answer that nobody takes is dropped.
        match ask {
            Ask::Show { from, id, answer } => {
                let (rows, not_asked) = self.rows_of_all(from, &id).await;
                let _ = answer.send(standing::together(id, rows, not_asked));
            }
            Ask::Trace { from, id, answer } => drop(answer.send(self.traced(from, id).await)),
            Ask::One { node: None, inquiry, answer } => drop(answer.send(self.inquired(inquiry).await)),
            Ask::One { node: Some(node), inquiry, answer } if node == self.me => {
                let _ = answer.send(self.inquired(inquiry).await);
            }
            Ask::One { node: Some(node), inquiry, answer } => {
                let _ = answer.send(self.of(node, &inquiry).await);
            }
            Ask::Call(super::Question { call, body }) => {
                let result = self.called(&body).await;
                let _ = self.node.answer(call, result).await;
            }
            Ask::Query { link, session, number, queried } => {
                let state = self.queried(&queried).await;
                let _ = self.node.tell(link, Frame::Answer(session, number, state)).await;
            }
        }
    }

    async fn called(&self, body: &[u8]) -> Result<Bytes, String> {
        let inquiry = serde_json::from_slice(body)
            .map_err(|e| format!("the question can't be read ({e}); run the same release on both nodes"))?;
        let value = self.inquired(inquiry).await?;
        serde_json::to_vec(&value).map(Bytes::from).map_err(|e| e.to_string())
    }

    /// Of this node's own disk.
    async fn inquired(&self, inquiry: Inquiry) -> Result<Value, String> {
        let json = |e: serde_json::Error| e.to_string();
        match inquiry {
            Inquiry::Rows { from, id } => serde_json::to_value(self.rows(from, id).await?).map_err(json),
            Inquiry::Trail { from, id } => serde_json::to_value(self.trail(from, id).await?).map_err(json),
            Inquiry::Dead { limit, after } => {
                serde_json::to_value(self.dead(limit, after).await?).map_err(json)
            }
            Inquiry::DeadLetter(name) => serde_json::to_value(self.open_dead(&name).await?).map_err(json),
            Inquiry::Retry { which } => serde_json::to_value(self.retry(which).await?).map_err(json),
            Inquiry::Drop { which } => serde_json::to_value(self.drop_letters(which).await?).map_err(json),
        }
    }

    async fn rows(&self, from: Option<AgentAddr>, id: MessageId) -> Result<Vec<Row>, String> {
        let found = self.reader.find(from.clone(), id.clone()).await.map_err(|e| e.to_string())?;
        let mut rows: Vec<Row> = found.into_iter().map(|found| Row::new(&self.me, found)).collect();
        self.add_delivered(&mut rows, from, id).await;
        Ok(rows)
    }
}
