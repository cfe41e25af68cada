//! The way that a message took, step by step, from the records of all nodes. The field names are what `--json` prints,
//! and stay.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Records;
use super::order::{self, Shift};
use super::standing::NotAsked;
use super::{Inquiry, rows::Row};
use crate::store::trace;
use crate::wire::ids::{AgentAddr, MessageId, NodeName};

/// What a record says besides what it is found by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// When, in microseconds since the epoch by the node's wall clock.
    pub us: u64,
    /// The other node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<NodeName>,
    /// The node's own number for the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<u64>,
    /// `node`, `edge` or `gateway`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// What carries the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier: Option<String>,
}

impl Detail {
    /// As it is written.
    pub fn to_text(&self) -> String {
        // Names and numbers only: that can always be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What one node has recorded of a message: the answer to [`Inquiry::Trail`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trail {
    /// Which.
    pub node: NodeName,
    /// In the order in which it recorded them.
    pub steps: Vec<Recorded>,
    /// Records from before this time may have gone, in milliseconds since the epoch.
    pub gone_before_ms: u64,
    /// When it dropped records; absent: none, or it is of a release that does not tell.
    #[serde(default)]
    pub missing: Vec<trace::Span>,
}

/// One step as its node recorded it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// The message's sender.
    pub from: String,
    /// Its recipient.
    pub to: String,
    /// On which node.
    pub node: NodeName,
    /// What happened.
    pub step: String,
    /// By the node's hybrid logical clock.
    pub clock: u64,
    /// The rest.
    #[serde(flatten)]
    pub detail: Detail,
}

/// `trishula trace --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Traced {
    /// As asked.
    pub id: MessageId,
    /// One for each sender that has used the id, and each recipient. Empty: no node that was asked has a record.
    pub journeys: Vec<Journey>,
    /// Nodes whose records of that time may have gone.
    pub gone: Vec<Gone>,
    /// When nodes dropped records since the message was taken: steps of those times may be missing.
    #[serde(default)]
    pub missing: Vec<Missing>,
    /// Nodes that may know more.
    pub not_asked: Vec<NotAsked>,
}

/// A node that may have had records once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gone {
    /// Which.
    pub node: NodeName,
    /// Its records begin here, in milliseconds since the epoch.
    pub before_ms: u64,
}

/// A time of which a node may lack records: they came faster than it could write them, or it could not write.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Missing {
    /// Which.
    pub node: NodeName,
    /// From when to when, in milliseconds since the epoch by its clock.
    #[serde(flatten)]
    pub span: trace::Span,
}

/// The way of one message to one recipient.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Journey {
    /// Its sender.
    pub from: String,
    /// Its recipient.
    pub to: String,
    /// When it began, in milliseconds since the epoch, by the clock of the first node.
    pub began_ms: u64,
    /// From the first step to the last.
    pub took_ms: f64,
    /// How often it was sent or handed over once more.
    pub retries: usize,
    /// By time and causality.
    pub steps: Vec<Step>,
    /// Nodes whose clocks were moved so that no effect is before its cause.
    pub shifts: Vec<Shift>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Since the first one.
    pub offset_ms: f64,
    /// On which node.
    pub node: NodeName,
    /// What happened.
    pub step: String,
    /// The other node.
    pub peer: Option<NodeName>,
    /// What carried it: quic, unix or memory.
    pub carrier: Option<String>,
    /// `node`, `edge` or `gateway`.
    pub role: Option<String>,
    /// The node's own number for the link.
    pub link: Option<u64>,
    /// What the step had taken: `commit` to the disk, `queue` on this node, `answer` of the other one.
    pub after: Option<String>,
    /// How long that took.
    pub after_ms: Option<f64>,
}

impl Records {
    /// Records are there from now on: the file is made when it is first asked for.
    pub(super) async fn begin_trails(&self) {
        if let Ok(nobodys) = MessageId::new("none") {
            let _ = self.trail(None, nobodys).await;
        }
    }

    /// Of all nodes in reach.
    pub(super) async fn traced(&self, from: Option<AgentAddr>, id: MessageId) -> Traced {
        let own = self.trail(from.clone(), id.clone()).await;
        let (others, mut not_asked) = self.of_others(&Inquiry::Trail { from, id: id.clone() }).await;
        let mut trails: Vec<Trail> = others.into_iter().map(|(_, trail)| trail).collect();
        match own {
            Ok(own) => trails.push(own),
            Err(why) => not_asked.push(NotAsked { node: self.me.clone(), why }),
        }
        together(id, trails, not_asked)
    }

    /// Of this node.
    pub(super) async fn trail(&self, from: Option<AgentAddr>, id: MessageId) -> Result<Trail, String> {
        let found = self.trace.find(from, id).await.map_err(|e| e.to_string())?;
        let steps = found.hops.into_iter().map(Recorded::from).collect();
        let (gone_before_ms, missing) = (found.gone_before_ms, found.missing);
        Ok(Trail { node: self.me.clone(), steps, gone_before_ms, missing })
    }

    /// That a message was written to its recipient's socket is not on the disk for itself: the records know.
    pub(super) async fn add_delivered(&self, rows: &mut [Row], from: Option<AgentAddr>, id: MessageId) {
        if !rows.iter().any(|row| row.place == "mailbox") {
            return;
        }
        let Ok(trail) = self.trail(from, id).await else { return };
        for row in rows.iter_mut().filter(|row| row.place == "mailbox") {
            let of_row = |step: &&Recorded| step.to == row.to && step.from == row.from;
            let written = trail.steps.iter().filter(of_row).find(|step| step.step == "written");
            if let Some(written) = written {
                row.delivered(written.detail.us / 1000);
            }
        }
    }
}

impl From<trace::Hop> for Recorded {
    fn from(hop: trace::Hop) -> Recorded {
        // Of a record that another release wrote in another form there is the time.
        let unknown = || Detail { us: hop.at_ms * 1000, ..Detail::default() };
        Recorded {
            from: hop.from.to_string(),
            to: hop.to,
            node: hop.node,
            step: hop.what.into_owned(),
            clock: hop.clock,
            detail: serde_json::from_str(&hop.detail).unwrap_or_else(|_| unknown()),
        }
    }
}

fn together(id: MessageId, trails: Vec<Trail>, mut not_asked: Vec<NotAsked>) -> Traced {
    let began_ms = trails.iter().flat_map(|trail| &trail.steps).map(|step| step.detail.us / 1000).min();
    let lost = |trail: &&Trail| began_ms.is_none_or(|began| trail.gone_before_ms > began);
    let gone = trails.iter().filter(lost);
    let mut gone: Vec<Gone> =
        gone.map(|trail| Gone { node: trail.node.clone(), before_ms: trail.gone_before_ms }).collect();
    gone.sort_by(|a, b| a.node.cmp(&b.node));
    // Later ones count as well: nobody knows what the last step was. Of a message without a record all do.
    let since = |span: &&trace::Span| began_ms.is_none_or(|began| span.to_ms >= began);
    let of = |trail: &Trail| -> Vec<Missing> {
        let spans = trail.missing.iter().filter(since);
        spans.map(|span| Missing { node: trail.node.clone(), span: *span }).collect()
    };
    let mut missing: Vec<Missing> = trails.iter().flat_map(of).collect();
    missing.sort_by(|a, b| (&a.node, a.span.from_ms).cmp(&(&b.node, b.span.from_ms)));
    not_asked.sort_by(|a, b| a.node.cmp(&b.node));
    let mut by_recipient: BTreeMap<(String, String), Vec<Recorded>> = BTreeMap::new();
    for step in trails.into_iter().flat_map(|trail| trail.steps) {
        by_recipient.entry((step.from.clone(), step.to.clone())).or_default().push(step);
    }
    let journeys = by_recipient.into_iter().map(|((from, to), steps)| journey(from, to, steps)).collect();
    Traced { id, journeys, gone, missing, not_asked }
}

fn journey(from: String, to: String, steps: Vec<Recorded>) -> Journey {
    let (steps, shifts) = order::in_order(steps);
    let first_us = steps.first().map_or(0, |step| step.detail.us);
    let last_us = steps.last().map_or(0, |step| step.detail.us);
    let again = ["sent again", "handed over again"];
    let retries = steps.iter().filter(|step| again.contains(&step.step.as_str())).count();
    let spans: Vec<_> = (0..steps.len()).map(|at| order::span_before(&steps, at)).collect();
    let shown = |(step, span): (Recorded, Option<(&'static str, u64)>)| Step {
        offset_ms: milliseconds(step.detail.us.saturating_sub(first_us)),
        node: step.node,
        step: step.step,
        peer: step.detail.peer,
        carrier: step.detail.carrier,
        role: step.detail.role,
        link: step.detail.link,
        after: span.map(|(what, _)| what.to_owned()),
        after_ms: span.map(|(_, us)| milliseconds(us)),
    };
    Journey {
        from,
        to,
        began_ms: first_us / 1000,
        took_ms: milliseconds(last_us.saturating_sub(first_us)),
        retries,
        steps: steps.into_iter().zip(spans).map(shown).collect(),
        shifts,
    }
}

fn milliseconds(us: u64) -> f64 {
    us as f64 / 1e3
}
