//! `trishula listen`

use std::time::Duration;

use serde_json::{Value, json};

use super::common::block_on;
use super::print;
use super::talk::{Closed, Frame, Refused, Talk, TalkArg, Whom, fresh_id, parse, payload};
use crate::rt::backoff::Backoff;
use crate::rt::signals;
use crate::wire::ids::AgentName;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula listen                             what comes for NODE.cli
  trishula listen --as planner --json         as an agent of this machine, one JSON frame a line
  trishula listen --as echo --answer '{\"ok\":true}'   answers each COMMAND with this RESULT
  trishula listen --as once --count 1

It goes on until Ctrl-C (or --count), and connects again by itself when the node was away. A newer session of the
same agent takes over, and this one ends; with --shared on both they share the agent's messages.")]
pub(crate) struct Args {
    /// As this agent [default: NODE.cli]
    #[arg(long = "as", value_name = "NAME")]
    agent: Option<AgentName>,
    /// Next to other sessions of the agent, instead of taking over
    #[arg(long)]
    shared: bool,
    /// What the agent can, as `trishula agents` shows it; may be repeated
    #[arg(long, value_name = "WORD")]
    capability: Vec<String>,
    /// Answer each COMMAND with a RESULT of this payload
    #[arg(long, value_name = "PAYLOAD")]
    answer: Option<String>,
    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print each frame as its sender wrote it, one a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    way: TalkArg,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        block_on(async {
            tokio::select! {
                done = self.listen() => done,
                // Being told to stop is how it usually ends.
                _ = signals::stop_requested() => Ok(()),
            }
        })
    }

    async fn listen(&self) -> anyhow::Result<()> {
        let whom = match self.agent.clone() {
            Some(name) => Whom::Agent { name, shared: self.shared },
            None => Whom::Tool,
        };
        let (mut seen, mut first) = (0, true);
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            let ended = match Talk::open(&self.way, &whom, &self.capability).await {
                Ok(mut talk) => {
                    print::note(&format!("listening as {} (Ctrl-C ends)", talk.agent));
                    (first, backoff) =
                        (false, Backoff::new(Duration::from_millis(200), Duration::from_secs(10)));
                    match self.serve(&mut talk, &mut seen).await {
                        Ok(()) => return talk.close().await,
                        Err(error) => error,
                    }
                }
                // What does not work the first time is the user's to mend.
                Err(error) if first => return Err(error),
                Err(error) => error,
            };
            let refused = ended.downcast_ref::<Refused>();
            let may_return = refused
                .is_none_or(|refused| ["unavailable", "no_route", "slow"].contains(&refused.code.as_str()));
            if !may_return || (first && !ended.is::<Closed>()) || ended.is::<print::ReaderGone>() {
                return Err(ended);
            }
            print::note(&format!("{}; connecting again", print::explain(&ended)));
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    /// Until enough have come.
    async fn serve(&self, talk: &mut Talk, seen: &mut u64) -> anyhow::Result<()> {
        loop {
            let text = talk.next_raw().await?;
            let frame = parse(&text)?;
            match frame.refusal() {
                // Of an answer that nobody waits for: the session goes on.
                Some(refused) if frame.reply_to.is_some() => {
                    print::note(&refused.to_string());
                    continue;
                }
                Some(refused) => return Err(refused.into()),
                None if frame.from == "mesh" => continue,
                None => {}
            }
            if self.json {
                print::line(&text)?
            } else {
                show(&frame)?
            }
            if let (Some(answer), "COMMAND") = (&self.answer, frame.kind.to_ascii_uppercase().as_str()) {
                talk.send(&result(&frame, payload(answer))).await?;
            }
            *seen += 1;
            if self.count == Some(*seen) {
                return Ok(());
            }
        }
    }
}

fn result(frame: &Frame, payload: Value) -> Value {
    json!({ "type": "RESULT", "to": frame.from, "id": fresh_id(), "reply_to": frame.id, "payload": payload })
}

fn show(frame: &Frame) -> anyhow::Result<()> {
    let reply =
        frame.reply_to.as_ref().filter(|id| !id.is_empty()).map(|id| format!(" to {id}")).unwrap_or_default();
    print::line(&format!("{} {} ({}{reply}): {}", frame.from, frame.kind, frame.id, frame.payload))
}
