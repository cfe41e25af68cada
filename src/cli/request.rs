//! `trishula request`

use std::time::Duration;

use anyhow::{anyhow, bail};
use serde_json::{Value, json};

use super::common::{block_on, duration};
use super::print;
use super::send::Message;
use super::talk::{Frame, Talk, TalkArg, Whom, payload_or_stdin};
use crate::rt::clock;

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
        let mut talk = print::progress("connecting", Talk::open(&self.way, &whom, &[])).await?;
        let id = self.message.id();
        let began = clock::micros();
        talk.send(&self.message.frame(&id, payload, "none")).await?;
        let waited = tokio::time::timeout(
            self.timeout,
            print::progress(format!("waiting for {to}"), answer(&mut talk, &id)),
        );
        let waited = waited.await;
        let took_ms = (clock::micros() - began) as f64 / 1000.0;
        // The answer is what counts; a session that cannot say goodbye ends all the same.
        let _ = talk.close().await;
        let frame = waited.map_err(|_| {
            anyhow!(
                "{to} did not answer within {:?}; is it there? trishula agents (longer: --timeout)",
                self.timeout
            )
        })??;
        if self.json {
            print::json(
                &json!({ "from": frame.from, "type": frame.kind, "id": frame.id, "reply_to": id, "payload": frame.payload, "took_ms": took_ms }),
            )?;
        } else {
            print::note(&format!("{} from {} in {took_ms:.2} ms", frame.kind, frame.from));
            print::line(&frame.payload.to_string())?;
        }
        if frame.kind == "ERROR" { bail!("{} answered with an ERROR", frame.from) } else { Ok(()) }
    }
}

/// The RESULT or ERROR to this message; a STATUS on the way is shown and waited past.
async fn answer(talk: &mut Talk, id: &str) -> anyhow::Result<Frame> {
    loop {
        let frame = talk.next().await?;
        match frame.refusal() {
            Some(refused) if frame.answers(id) || frame.reply_to.is_none() => return Err(refused.into()),
            Some(_) => continue,
            None => {}
        }
        if !frame.answers(id) {
            continue;
        }
        match frame.kind.to_ascii_uppercase().as_str() {
            "RESULT" | "ERROR" => return Ok(frame),
            "STATUS" => print::note(&format!("{}: {}", frame.from, frame.payload)),
            _ => {}
        }
    }
}
