//! `trishula subscribe`

use std::time::Duration;

use anyhow::bail;

use super::common::block_on;
use super::talk::{Talk, TalkArg, Whom};
use super::{Said, print};
use crate::client::{Message, Subscribed, Subscription};
use crate::rt::{logging, signals};
use crate::wire::ids::{AgentName, RoomName};

/// How long the mesh may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula subscribe deploys                       what is published from now on
  trishula subscribe deploys --history 20          begins with the latest 20
  trishula subscribe deploys --json                one frame a line, each with its cursor
  trishula subscribe deploys --cursor AQEC…        goes on behind that place

It goes on until Ctrl-C (or --count), and goes on where it was when the node was away. What can't be had any more is said on
stderr.")]
pub(crate) struct Args {
    /// The room, without room:
    #[arg(value_name = "ROOM")]
    room: RoomName,
    /// Begin with so many of the latest messages
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1000))]
    history: u16,
    /// Go on behind this place: the cursor of a message
    #[arg(long, value_name = "CURSOR", conflicts_with = "history")]
    cursor: Option<String>,
    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// As this agent; takes over from other sessions of it [default: one of this machine's own]
    #[arg(long = "as", value_name = "NAME")]
    agent: Option<AgentName>,
    /// Print each frame as its publisher wrote it, with its cursor, one a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    way: TalkArg,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        block_on(async {
            tokio::select! {
                done = self.subscribe() => done,
                // Being told to stop is how it usually ends.
                _ = signals::stop_requested() => Ok(()),
            }
        })
    }

    async fn subscribe(&self) -> anyhow::Result<()> {
        let whom = match self.agent.clone() {
            Some(name) => Whom::Agent { name, shared: true },
            None => Whom::Tool,
        };
        let mut talk = print::progress("connecting", Talk::open(&self.way, &whom, None)).await?;
        let wish = Subscription { cursor: self.cursor.clone(), history: self.history, presence: false };
        let said = talk.client.subscribe(self.room.as_str(), &wish, ANSWER_WITHIN).await?;
        print::note(&format!("subscribed to {} (Ctrl-C ends)", self.room));
        if !said.recovered {
            say_missed(&said);
        }
        logging::init("off,trishula::client=debug", false);
        let mut seen = 0;
        while let Some(message) = talk.client.next().await {
            if message.is_from_mesh() && message.kind == "SUBSCRIBED" {
                say_missed(&message.read::<Subscribed>()?);
            }
            // What comes for the agent itself is left for a session that listens.
            if message.cursor.is_none() {
                continue;
            }
            self.show(&message)?;
            seen += 1;
            if self.count == Some(seen) {
                talk.close().await;
                return Ok(());
            }
        }
        print::note("the node ended the session for good; see its log");
        bail!(Said)
    }

    fn show(&self, message: &Message) -> anyhow::Result<()> {
        if self.json {
            // JSON has line ends between its parts only, where a space is as good.
            return print::line(&String::from_utf8_lossy(&message.frame).replace(['\n', '\r'], " "));
        }
        print::line(&format!("{} {} ({}): {}", message.from, message.kind, message.id, message.payload))
    }
}

fn say_missed(said: &Subscribed) {
    print::note(&format!(
        "messages of {} are missing here: its history does not reach back so far",
        said.room
    ));
}
