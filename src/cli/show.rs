//! `trishula show`: where a message stands.

use super::common::{Which, human_bytes, moment};
use super::{Said, print};
use crate::admin::protocol::Request;
use crate::node::records::standing::{Change, Message, NotAsked, Recipient, Shown};
use crate::wire::ids::MessageId;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula show c-1                          where it stands for each of its recipients, and how it got there
  trishula show c-1 --from agni.planner      where two senders have used the same id
  trishula show c-1 --json | jq -r '.messages[].state'

Every node in reach is asked: any one that knows the message answers, also when the one that took it is gone.
Exit codes: 0 found, 1 no node knows it, 2 the node of this machine can't be asked.")]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Which { from, id, json, .. } = self.which.clone();
        let shown: Shown = self.which.ask(&Request::Show { from, id })?;
        if json {
            print::json(&shown)?;
        } else {
            for message in &shown.messages {
                show(&shown.id, message)?;
            }
        }
        note_not_asked(&shown.not_asked);
        if shown.messages.is_empty() {
            print::note(&format!("no node that was asked knows a message {}", self.which));
            return Err(Said.into());
        }
        Ok(())
    }
}

/// Says which nodes may know more.
pub(super) fn note_not_asked(nodes: &[NotAsked]) {
    for NotAsked { node, why } in nodes {
        print::note(&format!("node {node} could not be asked, and may know more: {why}"));
    }
}

fn show(id: &MessageId, message: &Message) -> anyhow::Result<()> {
    let retry = message.retry_of.as_ref().map_or_else(String::new, |id| format!(", a retry of {id}"));
    print::line(&format!(
        "{id} of {}: {} ({}, priority {}, {}{retry}), taken {}",
        message.from,
        message.state,
        message.kind,
        message.priority,
        human_bytes(message.bytes),
        moment(message.taken_ms)
    ))?;
    print::line("")?;
    let rows: Vec<_> = message.recipients.iter().map(recipient_row).collect();
    print::table(&["recipient", "state", "where", "since", "until", "reason"], &rows)?;
    print::line("")?;
    let rows: Vec<_> = message.history.iter().map(change_row).collect();
    print::table(&["time", "node", "recipient", "state", "where"], &rows)
}

fn recipient_row(row: &Recipient) -> Vec<String> {
    let copies: Vec<&str> = row.copies.iter().map(|node| node.as_str()).collect();
    let copies = if copies.is_empty() { String::new() } else { format!(", copy at {}", copies.join(", ")) };
    let ended = matches!(row.place.as_str(), "ended" | "dead");
    vec![
        row.recipient.clone(),
        row.state.clone(),
        format!("{} ({}){copies}", row.node, row.place),
        moment(row.at_ms),
        if ended { "–".into() } else { moment(row.expires_ms) },
        row.reason.as_ref().map_or_else(String::new, |reason| reason.message.clone()),
    ]
}

fn change_row(change: &Change) -> Vec<String> {
    let place = match (&change.other, change.place.as_str()) {
        (Some(other), "handed") => format!("handed to {other}"),
        (Some(other), place) => format!("{place}, {other}"),
        (None, place) => place.to_owned(),
    };
    vec![moment(change.at_ms), change.node.to_string(), change.recipient.clone(), change.state.clone(), place]
}
