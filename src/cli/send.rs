//! `trishula send`

use std::time::Duration;

use anyhow::anyhow;
use clap::error::ErrorKind;
use clap::{CommandFactory, ValueEnum};
use serde_json::{Value, json};

use super::common::{block_on, duration};
use super::print;
use super::talk::{Talk, TalkArg, Whom, payload_or_stdin};
use crate::client::{self, Outgoing, Receipt};
use crate::rt::clock;
use crate::wire::envelope::{Class, Kind, State, Target};
use crate::wire::ids::{AgentName, DEFAULT_NAMESPACE, MessageId, Namespace};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula send agni.planner '{\"job\":\"report\"}'
  trishula send agni.planner hello --type STATUS         a text that is no JSON is sent as a string
  trishula send build/runner - --priority 1 < job.json   payload from stdin
  trishula send agni.planner hello --wait acked          until its recipient has said that it has done with it
  trishula send agni hello --not-before 1h --ttl 1d      delivered in an hour, or within the day, or never
  trishula send broadcast 'going down at 8'
  trishula send agni hello --node agni.example.com:8766 --identity ./planner

It waits until the message is on the disk of the node that took it (a live one: until it is written to a socket of its
recipient), and says so; exit code 1 if it did not get so far. From then on it is the mesh's to deliver.")]
pub(crate) struct Args {
    #[command(flatten)]
    message: Message,
    /// What it says: JSON or text; - reads it from stdin
    #[arg(value_name = "PAYLOAD", default_value = "null", hide_default_value = true)]
    payload: String,
    /// What to wait for [default: accepted; of a live message delivered]
    #[arg(long, value_name = "STATE")]
    wait: Option<Wait>,
    /// durable: kept until its end is known; live: now or never [default: live for HEARTBEAT and ACK, else durable]
    #[arg(long, value_name = "CLASS")]
    class: Option<Lasts>,
    /// Deliver it not before so long from now
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    not_before: Option<Duration>,
    /// On how many machines it must lie before it is accepted
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=2))]
    copies: Option<u8>,
    /// Keep it also for an agent that has never registered
    #[arg(long)]
    create: bool,
    /// How long to wait, connecting included
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
    fn state(self) -> Option<State> {
        match self {
            Wait::None => None,
            Wait::Accepted => Some(State::Accepted),
            Wait::Stored => Some(State::Stored),
            Wait::Delivered => Some(State::Delivered),
            Wait::Acked => Some(State::Acked),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Lasts {
    Durable,
    Live,
}

impl Message {
    /// The message with this payload.
    pub fn outgoing(&self, payload: Value) -> Outgoing {
        let message = Outgoing::new(self.kind, &self.to, payload);
        Outgoing {
            id: self.id.as_ref().map_or(message.id, ToString::to_string),
            priority: Some(self.priority),
            reply_to: self.reply_to.as_ref().map(ToString::to_string),
            ttl_ms: self.ttl.map(millis),
            receipt: Some("none".into()),
            ..message
        }
    }
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let wish = self.wish()?;
        let payload = payload_or_stdin(&self.payload)?;
        block_on(self.send(payload, wish))
    }

    /// What is waited for, where this message can get so far.
    fn wish(&self) -> Result<Option<State>, clap::Error> {
        let live = match self.class {
            Some(class) => class == Lasts::Live,
            None => self.message.kind.default_class() == Class::Live,
        };
        let broadcast = self.is_broadcast();
        let best = match (broadcast, live) {
            (true, true) => None,
            (true, false) => Some(State::Accepted),
            (false, true) => Some(State::Delivered),
            (false, false) => Some(State::Acked),
        };
        let wish = match self.wait {
            Some(wait) => wait.state(),
            None if live => best,
            None => Some(State::Accepted),
        };
        let why = match wish {
            Some(state) if broadcast && wish > best => {
                let state = state.as_str();
                let least = if live { "none" } else { "accepted" };
                format!(
                    "a broadcast has many recipients and no one state {state}; send it with --wait {least}"
                )
            }
            Some(state) if live && wish != best => format!(
                "a live message is kept nowhere and never {}; send it with --wait delivered, or --class durable",
                state.as_str()
            ),
            _ => return Ok(wish),
        };
        Err(super::Cli::command().error(ErrorKind::ArgumentConflict, why))
    }

    async fn send(&self, payload: Value, wish: Option<State>) -> anyhow::Result<()> {
        let whom = match self.message.agent.clone() {
            Some(name) => Whom::Agent { name, shared: true },
            None => Whom::Tool,
        };
        let ends = clock::micros() + u64::try_from(self.timeout.as_micros()).unwrap_or(u64::MAX / 2);
        let open = tokio::time::timeout(self.timeout, Talk::open(&self.way, &whom, None));
        let mut talk = print::progress("connecting", open)
            .await
            .map_err(|_| anyhow!("no connection after {:?}; nothing was sent", self.timeout))??;
        let message = self.outgoing(payload);
        let id = message.id.clone();
        let began = clock::micros();
        let left = Duration::from_micros(ends.saturating_sub(began));
        let receipt = match wish {
            None => {
                talk.client.send(message).await?;
                talk.flush(&id).await?;
                None
            }
            Some(state) => {
                let what = format!("waiting until it is {}", state.as_str());
                let told = print::progress(what, talk.client.send_and_wait(message, state, left)).await;
                Some(told.map_err(|error| self.explain(error, &id, state))?)
            }
        };
        let took_ms = (clock::micros() - began) as f64 / 1000.0;
        talk.close().await;
        if self.json {
            let receipt = receipt.map(|receipt| {
                let (recipients, refused) = receipt.counts.unzip();
                json!({
                    "state": receipt.state.as_str(), "recipient": receipt.recipient, "node": receipt.node,
                    "recipients": recipients, "refused": refused,
                })
            });
            let to = &self.message.to;
            return print::json(&json!({ "id": id, "to": to, "receipt": receipt, "took_ms": took_ms }));
        }
        match receipt {
            Some(Receipt { state, node, counts: Some((accepted, refused)), .. }) => {
                let refused = if refused > 0 { format!(", refused for {refused}") } else { String::new() };
                print::line(&format!(
                    "{} for {accepted} recipients{refused} at node {node} in {took_ms:.2} ms ({id})",
                    state.as_str()
                ))
            }
            Some(Receipt { state, recipient, node, .. }) => print::line(&format!(
                "{} {} {recipient} at node {node} in {took_ms:.2} ms ({id})",
                state.as_str(),
                if state < State::Delivered { "for" } else { "to" }
            )),
            None => print::line(&format!("sent ({id})")),
        }
    }

    fn is_broadcast(&self) -> bool {
        self.message.to == "broadcast" || self.message.to.ends_with("/broadcast")
    }

    fn outgoing(&self, payload: Value) -> Outgoing {
        Outgoing {
            class: self.class.map(|class| if class == Lasts::Live { "live" } else { "durable" }),
            not_before_ms: self.not_before.map(millis),
            copies: self.copies,
            create: self.create.then_some(true),
            ..self.message.outgoing(payload)
        }
    }

    fn explain(&self, error: client::Error, id: &str, state: State) -> anyhow::Error {
        match error {
            client::Error::TimedOut(_) if state == State::Accepted => anyhow!(
                "{id} is not accepted after {:?}, and may still be; send it again with --id {id}, which is safe",
                self.timeout
            ),
            client::Error::TimedOut(_) => anyhow!(
                "{id} is not {} after {:?}; it may still arrive. Is the recipient there? trishula agents",
                state.as_str(),
                self.timeout
            ),
            client::Error::Undelivered { state, reason } => {
                let reason = if reason.is_empty() { "no reason was given" } else { &reason };
                anyhow!("{id} is {state}: {reason}")
            }
            other => other.into(),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Checks an address the way the node will, so that a slip is said at once.
fn target(given: &str) -> Result<String, String> {
    let home = Namespace::new(DEFAULT_NAMESPACE).map_err(|e| e.to_string())?;
    Target::parse(given, &home).map(|_| given.to_owned()).map_err(|e| e.to_string())
}

pub(crate) fn kind(given: &str) -> Result<Kind, String> {
    Kind::parse(given).ok_or_else(|| "write COMMAND, STATUS, RESULT, ERROR, HEARTBEAT or ACK".into())
}
