//! `trishula request`

use std::time::Duration;

use anyhow::{anyhow, bail};
use serde_json::{Value, json};

use super::common::{block_on, duration};
use super::print;
use super::send::Message;
use super::talk::{Talk, TalkArg, Whom, payload_or_stdin};
use crate::client;
use crate::rt::clock;
use crate::wire::envelope::Kind;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula request agni.planner '{\"job\":\"report\"}'
  trishula request agni.planner - --timeout 5m < job.json
  trishula request build/runner '{\"do\":\"test\"}' --priority 1 --json | jq .took_ms

The RESULT's payload is printed to stdout, who answered and how fast to stderr. Exit code 1: an ERROR came, or nothing.")]
pub(crate) struct Args {
    #[command(flatten)]
    message: Message,
    /// What is asked: JSON or text; - reads it from stdin
    #[arg(value_name = "PAYLOAD", default_value = "null", hide_default_value = true)]
    payload: String,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    timeout: Duration,
    /// Print who answered, what, and how fast as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    way: TalkArg,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let payload = payload_or_stdin(&self.payload)?;
        block_on(self.request(payload))
    }

    async fn request(&self, payload: Value) -> anyhow::Result<()> {
        let whom = match self.message.agent.clone() {
            Some(name) => Whom::Agent { name, shared: false },
            None => Whom::Once,
        };
        let to = &self.message.to;
        let talk = print::progress("connecting", Talk::open(&self.way, &whom, None)).await?;
        let message = self.message.outgoing(payload);
        let id = message.id.clone();
        let began = clock::micros();
        let sender = talk.client.sender();
        let answer =
            print::progress(format!("waiting for {to}"), sender.request_with(message, self.timeout)).await;
        let took_ms = (clock::micros() - began) as f64 / 1000.0;
        talk.close().await;
        let answer = answer.map_err(|error| match error {
            client::Error::TimedOut(within) => {
                anyhow!(
                    "{to} did not answer within {within:?}; is it there? trishula agents (longer: --timeout)"
                )
            }
            other => other.into(),
        })?;
        let kind = answer.kind.to_ascii_uppercase();
        if self.json {
            let payload: Value = answer.read()?;
            print::json(&json!({
                "from": answer.from, "type": kind, "id": answer.id, "reply_to": id, "payload": payload, "took_ms": took_ms
            }))?;
        } else {
            print::note(&format!("{kind} from {} in {took_ms:.2} ms", answer.from));
            print::line(answer.payload.get())?;
        }
        if answer.is(Kind::Error) { bail!("{} answered with an ERROR", answer.from) } else { Ok(()) }
    }
}
