//! `trishula send`

use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::common::{block_on, duration};
use super::print;
use super::talk::{Talk, TalkArg, Whom, answers, payload_or_stdin, refusal};
use crate::client::Outgoing;
use crate::rt::clock;
use crate::wire::envelope::{Kind, Target};
use crate::wire::ids::{AgentName, DEFAULT_NAMESPACE, MessageId, Namespace};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula send agni.planner '{\"job\":\"report\"}'
  trishula send agni.planner hello --type STATUS         a text that is no JSON is sent as a string
  trishula send build/runner - --priority 1 < job.json   payload from stdin
  trishula send broadcast 'going down at 8' --wait none
  trishula send agni hello --node agni.example.com:8766 --identity ./planner

It waits until the message is written to a socket of its recipient, and says so; exit code 1 if it was not.")]
pub(crate) struct Args {
    #[command(flatten)]
    message: Message,
    /// What it says: JSON or text; - reads it from stdin
    #[arg(value_name = "PAYLOAD", default_value = "null", hide_default_value = true)]
    payload: String,
    /// What to wait for
    #[arg(long, value_name = "STATE", default_value = "delivered")]
    wait: Wait,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Print the receipt as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    way: TalkArg,
}

/// What of a message may be said on the command line.
#[derive(Debug, clap::Args)]
pub(crate) struct Message {
    /// To whom: NAME, NAMESPACE/NAME, or broadcast
    #[arg(value_name = "TO", value_parser = target)]
    pub to: String,
    /// COMMAND, STATUS, RESULT, ERROR, HEARTBEAT or ACK
    #[arg(long = "type", value_name = "TYPE", default_value = "COMMAND", value_parser = kind)]
    pub kind: Kind,
    /// 1 (most urgent) to 5 (bulk)
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub priority: u8,
    /// The message that this one answers
    #[arg(long, value_name = "ID")]
    pub reply_to: Option<MessageId>,
    /// This message's own id; the same again is a resend [default: a new one]
    #[arg(long, value_name = "ID")]
    pub id: Option<MessageId>,
    /// How long it is worth something
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub ttl: Option<Duration>,
    /// As this agent; takes over from other sessions of it [default: one of this machine's own]
    #[arg(long = "as", value_name = "NAME")]
    pub agent: Option<AgentName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wait {
    /// Until the node has read it
    None,
    /// Until it is on the disk of the node that took it
    Accepted,
    /// Until it is on the disk of the recipient's node
    Stored,
    /// Until it is written to a socket of the recipient
    Delivered,
    /// Until the recipient has acknowledged it
    Acked,
}

impl Wait {
    fn word(self) -> &'static str {
        match self {
            Wait::None => "none",
            Wait::Accepted => "accepted",
            Wait::Stored => "stored",
            Wait::Delivered => "delivered",
            Wait::Acked => "acked",
        }
    }
}

impl Message {
    /// The message with this payload.
    pub fn outgoing(&self, payload: Value) -> Outgoing {
        let message = Outgoing::new(self.kind, &self.to, payload);
        Outgoing {
            id: self.id.as_ref().map_or(message.id, ToString::to_string),
            priority: Some(self.priority),
            reply_to: self.reply_to.as_ref().map(ToString::to_string),
            ttl_ms: self.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
            receipt: Some("none".into()),
            ..message
        }
    }
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let payload = payload_or_stdin(&self.payload)?;
        block_on(self.send(payload))
    }

    async fn send(&self, payload: Value) -> anyhow::Result<()> {
        let whom = match self.message.agent.clone() {
            Some(name) => Whom::Agent { name, shared: true },
            None => Whom::Tool,
        };
        let broadcast = self.message.to == "broadcast" || self.message.to.ends_with("/broadcast");
        // A broadcast has many recipients and no one receipt.
        let wait = if broadcast && self.wait == Wait::Delivered { Wait::None } else { self.wait };
        let mut talk = print::progress("connecting", Talk::open(&self.way, &whom, &[])).await?;
        let message = Outgoing { receipt: Some(wait.word().into()), ..self.message.outgoing(payload) };
        let id = message.id.clone();
        let began = clock::micros();
        let what = format!("waiting until it is {}", wait.word());
        let receipt = print::progress(what, receipt(&mut talk, message, wait));
        let receipt = tokio::time::timeout(self.timeout, receipt).await;
        let receipt = receipt.map_err(|_| {
            anyhow!(
                "{id} is not {} after {:?}; it may still arrive. Is the recipient there? trishula agents",
                wait.word(),
                self.timeout
            )
        })??;
        let took_ms = (clock::micros() - began) as f64 / 1000.0;
        talk.close().await;
        if self.json {
            let to = &self.message.to;
            return print::json(&json!({ "id": id, "to": to, "receipt": receipt, "took_ms": took_ms }));
        }
        match (receipt["state"].as_str(), receipt["recipient"].as_str(), receipt["node"].as_str()) {
            (Some(state), Some(recipient), Some(node)) => {
                print::line(&format!("{state} to {recipient} at node {node} in {took_ms:.2} ms ({id})"))
            }
            _ => print::line(&format!("sent ({id})")),
        }
    }
}

/// Sends, waits for the state that was asked for, and gives the receipt's payload.
async fn receipt(talk: &mut Talk, message: Outgoing, wait: Wait) -> anyhow::Result<Value> {
    let id = message.id.clone();
    talk.client.send(message).await?;
    if wait == Wait::None {
        talk.flush(&id).await?;
        return Ok(Value::Null);
    }
    loop {
        let message = talk.next().await?;
        if !answers(&message, &id) || !message.is_from_mesh() {
            continue;
        }
        if let Some(refused) = refusal(&message) {
            return Err(refused.into());
        }
        let payload: Value = message.read()?;
        let state = payload["state"].as_str().unwrap_or_default();
        if ["nacked", "expired", "dead"].contains(&state) {
            bail!("{id} is {state}: {}", payload["reason"].as_str().unwrap_or("no reason was given"));
        }
        if state == wait.word() {
            return Ok(payload);
        }
    }
}

/// Checks an address the way the node will, so that a slip is said at once.
fn target(given: &str) -> Result<String, String> {
    let home = Namespace::new(DEFAULT_NAMESPACE).map_err(|e| e.to_string())?;
    Target::parse(given, &home).map(|_| given.to_owned()).map_err(|e| e.to_string())
}

fn kind(given: &str) -> Result<Kind, String> {
    Kind::parse(given).ok_or_else(|| "write COMMAND, STATUS, RESULT, ERROR, HEARTBEAT or ACK".into())
}
