//! `trishula publish`

use std::time::Duration;

use anyhow::anyhow;
use serde_json::json;

use super::common::{block_on, duration};
use super::print;
use super::send::kind;
use super::talk::{Talk, TalkArg, Whom, payload_or_stdin};
use crate::client::{self, Outgoing};
use crate::rt::clock;
use crate::wire::envelope::{Kind, State};
use crate::wire::ids::{AgentName, MessageId, RoomName};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula publish deploys '{\"step\":1}'
  trishula publish deploys done --as builder       a text that is no JSON is sent as a string
  trishula publish deploys - < report.json         payload from stdin

It waits until the message is on the disk of the node that took it, and says so; exit code 1 if it did not get so far. The
same --id again is recognised as long as the room's history has it.")]
pub(crate) struct Args {
    /// The room, without room:
    #[arg(value_name = "ROOM")]
    room: RoomName,
    /// What it says: JSON or text; - reads it from stdin
    #[arg(value_name = "PAYLOAD", default_value = "null", hide_default_value = true)]
    payload: String,
    /// COMMAND, STATUS, RESULT, ERROR, HEARTBEAT or ACK
    #[arg(long = "type", value_name = "TYPE", default_value = "STATUS", value_parser = kind)]
    kind: Kind,
    /// The message that this one answers
    #[arg(long, value_name = "ID")]
    reply_to: Option<MessageId>,
    /// This message's own id; the same again is a resend [default: a new one]
    #[arg(long, value_name = "ID")]
    id: Option<MessageId>,
    /// As this agent; takes over from other sessions of it [default: one of this machine's own]
    #[arg(long = "as", value_name = "NAME")]
    agent: Option<AgentName>,
    /// How long to wait, connecting included
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Print the receipt as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    way: TalkArg,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        block_on(self.publish())
    }

    async fn publish(&self) -> anyhow::Result<()> {
        let payload = payload_or_stdin(&self.payload)?;
        let whom = match self.agent.clone() {
            Some(name) => Whom::Agent { name, shared: true },
            None => Whom::Tool,
        };
        let began = clock::micros();
        let open = tokio::time::timeout(self.timeout, Talk::open(&self.way, &whom, None));
        let talk = print::progress("connecting", open)
            .await
            .map_err(|_| anyhow!("no connection after {:?}; nothing was published", self.timeout))??;
        let message = Outgoing::new(self.kind, &format!("room:{}", self.room), payload);
        let message = Outgoing {
            id: self.id.as_ref().map_or(message.id, ToString::to_string),
            reply_to: self.reply_to.as_ref().map(ToString::to_string),
            ..message
        };
        let id = message.id.clone();
        let left = self.timeout.saturating_sub(Duration::from_micros(clock::micros() - began));
        let told = talk.client.send_and_wait(message, State::Accepted, left).await;
        let receipt = told.map_err(|error| match error {
            client::Error::TimedOut(_) => anyhow!(
                "{id} is not accepted after {:?}, and may still be; publish it again with --id {id}, which is safe",
                self.timeout
            ),
            other => other.into(),
        })?;
        let took_ms = (clock::micros() - began) as f64 / 1000.0;
        talk.close().await;
        if self.json {
            let room = self.room.as_str();
            return print::json(&json!({ "id": id, "room": room, "node": receipt.node, "took_ms": took_ms }));
        }
        print::line(&format!("accepted in {} at node {} in {took_ms:.2} ms ({id})", self.room, receipt.node))
    }
}
