//! `trishula listen`

use anyhow::bail;

use super::common::block_on;
use super::talk::{Talk, TalkArg, Whom, payload, refusal};
use super::{Said, print};
use crate::client::{Message, Outgoing};
use crate::rt::{logging, signals};
use crate::wire::envelope::Kind;
use crate::wire::ids::AgentName;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula listen                             what comes for NODE.cli
  trishula listen --as planner --json         as an agent of this machine, one JSON frame a line
  trishula listen --as echo --answer '{\"ok\":true}'   answers each COMMAND with this RESULT
  trishula listen --as once --count 1

What it has printed is acknowledged. It goes on until Ctrl-C (or --count), and connects again by itself when the node was away. A newer session of the
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
        let mut talk =
            print::progress("connecting", Talk::open(&self.way, &whom, Some(&self.capability))).await?;
        print::note(&format!("listening as {} (Ctrl-C ends)", talk.agent()));
        // How the client fares with its node from here on is in its log.
        logging::init("off,trishula::client=debug", false);
        let (mut seen, mut parting) = (0, None);
        while let Some(message) = talk.client.next().await {
            if let Some(refused) = refusal(&message) {
                // Of an answer that nobody waits for, or why the session is about to end.
                print::note(&refused.to_string());
                parting = message.reply_to.is_none().then_some(refused);
                continue;
            }
            if message.is_from_mesh() {
                continue;
            }
            self.show(&message)?;
            if let (Some(answer), true) = (&self.answer, message.is(Kind::Command)) {
                talk.client.send(Outgoing::result(&message, payload(answer))).await?;
            }
            seen += 1;
            if self.count == Some(seen) {
                talk.close().await;
                return Ok(());
            }
        }
        match parting {
            Some(_) => Err(Said.into()),
            None => bail!("the node ended the session for good; see its log"),
        }
    }

    fn show(&self, message: &Message) -> anyhow::Result<()> {
        if self.json {
            // JSON has line ends between its parts only, where a space is as good.
            return print::line(&String::from_utf8_lossy(&message.frame).replace(['\n', '\r'], " "));
        }
        let reply = message.reply_to.as_ref().filter(|id| !id.is_empty());
        let reply = reply.map(|id| format!(" to {id}")).unwrap_or_default();
        print::line(&format!(
            "{} {} ({}{reply}): {}",
            message.from, message.kind, message.id, message.payload
        ))
    }
}
