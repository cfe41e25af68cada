//! Asking the other nodes: all that are in reach, many at once, none for long.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::rows::Row;
use super::standing::NotAsked;
use super::{Inquiry, Records};
use crate::wire::frame::Method;
use crate::wire::ids::{AgentAddr, MessageId, NodeName};

/// Nodes that are asked at the same time.
const AT_ONCE: usize = 16;
/// How long each may take.
const WITHIN: Duration = Duration::from_secs(3);
/// How long one may take that is asked to do something.
const DONE_WITHIN: Duration = Duration::from_secs(60);

impl Records {
    /// What all nodes know of a message, and those that could not be asked.
    pub(super) async fn rows_of_all(
        &self,
        from: Option<AgentAddr>,
        id: &MessageId,
    ) -> (Vec<Row>, Vec<NotAsked>) {
        let own = self.rows(from.clone(), id.clone()).await;
        let (others, mut not_asked) = self.of_others(&Inquiry::Rows { from, id: id.clone() }).await;
        let mut rows: Vec<Row> = others.into_iter().flat_map(|(_, rows): (_, Vec<Row>)| rows).collect();
        match own {
            Ok(own) => rows.extend(own),
            Err(why) => not_asked.push(NotAsked { node: self.me.clone(), why }),
        }
        (rows, not_asked)
    }

    /// What every other node answers.
    pub(super) async fn of_others<T: DeserializeOwned>(
        &self,
        inquiry: &Inquiry,
    ) -> (Vec<(NodeName, T)>, Vec<NotAsked>) {
        let (mut answers, mut not_asked) = (Vec::new(), Vec::new());
        let (body, status) = match (body_of(inquiry), self.node.status().await) {
            (Ok(body), Ok(status)) => (body, status),
            (Err(why), _) => return (answers, vec![NotAsked { node: self.me.clone(), why }]),
            (_, Err(why)) => {
                return (answers, vec![NotAsked { node: self.me.clone(), why: why.to_string() }]);
            }
        };
        let mut waiting = Vec::new();
        for node in status.nodes.into_iter().filter(|node| node.node != self.me) {
            match node.reachable {
                true => waiting.push(node.node),
                false => {
                    not_asked.push(NotAsked { node: node.node, why: "no way leads there now".into() });
                }
            }
        }
        let mut asked = FuturesUnordered::new();
        loop {
            while asked.len() < AT_ONCE
                && let Some(node) = waiting.pop()
            {
                asked.push(self.ask_one(node, body.clone(), WITHIN));
            }
            match asked.next().await {
                Some((node, Ok(answer))) => answers.push((node, answer)),
                Some((node, Err(why))) => not_asked.push(NotAsked { node, why }),
                None => return (answers, not_asked),
            }
        }
    }

    /// What one other node answers.
    pub(super) async fn of(&self, node: NodeName, inquiry: &Inquiry) -> Result<Value, String> {
        let within = match inquiry {
            Inquiry::Retry { .. } | Inquiry::Drop { .. } => DONE_WITHIN,
            _ => WITHIN,
        };
        self.ask_one(node, body_of(inquiry)?, within).await.1
    }

    async fn ask_one<T: DeserializeOwned>(
        &self,
        node: NodeName,
        body: Bytes,
        within: Duration,
    ) -> (NodeName, Result<T, String>) {
        let answer = match self.node.call(Some(node.clone()), Method::Records, body, within).await {
            Ok(called) => serde_json::from_slice(&called.body)
                .map_err(|e| format!("its answer can't be read ({e}); run the same release on both nodes")),
            Err(why) => Err(why.to_string()),
        };
        (node, answer)
    }
}

fn body_of(inquiry: &Inquiry) -> Result<Bytes, String> {
    serde_json::to_vec(inquiry).map(Bytes::from).map_err(|e| e.to_string())
}
