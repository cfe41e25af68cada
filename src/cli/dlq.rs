//! `trishula dlq`: messages that died and are kept for the operator.

use anyhow::bail;

use super::common::{SocketArg, agent, block_on, human_bytes, human_seconds, moment};
use super::{Said, print};
use crate::admin::client::Client;
use crate::admin::protocol::Request;
use crate::node::records::Inquiry;
use crate::node::records::dead::{Done, Letter, Letters, Name, Opened, Outcome, Which};
use crate::wire::ids::{AgentAddr, MessageId, NodeName};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List dead letters: what died, why, and when
    List(List),
    /// Show one with its text
    Show(Show),
    /// Send one, or all, again as new messages with new ids
    Retry(Chosen),
    /// Forget one, or all
    Drop(Chosen),
}

impl Command {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Command::List(args) => block_on(args.run()),
            Command::Show(args) => block_on(args.run()),
            Command::Retry(args) => block_on(args.run(true)),
            Command::Drop(args) => block_on(args.run(false)),
        }
    }
}

/// Whose dead letters.
#[derive(Debug, clap::Args)]
struct Where {
    /// Of this node, asked through the mesh [default: that of this machine]
    #[arg(long, value_name = "NAME")]
    node: Option<NodeName>,
    #[command(flatten)]
    socket: SocketArg,
}

/// Which dead letter, where its id alone does not say.
#[derive(Debug, clap::Args)]
struct Ends {
    /// Only of this sender: NAME or NAMESPACE/NAME
    #[arg(long, value_name = "AGENT", value_parser = agent)]
    from: Option<AgentAddr>,
    /// Only for this recipient
    #[arg(long, value_name = "AGENT", value_parser = agent)]
    to: Option<AgentAddr>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula dlq list
  trishula dlq list --node agni --limit 10
  trishula dlq list --json | jq -r '.[] | select(.reason.code == \"unknown_recipient\") | .id'

A message that died lies at the node that had it last: that of its recipient, or that of its sender.")]
pub(crate) struct List {
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: Where,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula dlq show c-1
  trishula dlq show c-1 --from agni.planner --to build/runner    where c-1 names several
  trishula dlq show c-1 --json | jq .message.payload")]
pub(crate) struct Show {
    /// What its sender called it
    #[arg(value_name = "ID")]
    id: MessageId,
    #[command(flatten)]
    ends: Ends,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: Where,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula dlq retry c-1            as a new message with a new id; its recipient sees retry_of: c-1
  trishula dlq retry --all --node agni
  trishula dlq drop c-1 --from agni.planner
  trishula dlq drop --all

A dead letter that was sent again is one no more once the new message is on disk. Exit code 1 if one could not be
retried or dropped.")]
pub(crate) struct Chosen {
    /// What its sender called it
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    id: Option<MessageId>,
    /// Every dead letter of the node
    #[arg(long, conflicts_with_all = ["from", "to"])]
    all: bool,
    #[command(flatten)]
    ends: Ends,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: Where,
}

impl Where {
    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        client: &mut Client,
        inquiry: Inquiry,
    ) -> anyhow::Result<T> {
        let request = Request::Records { node: self.node.clone(), inquiry };
        let whom = self.node.as_ref().map_or("the node", NodeName::as_str);
        Ok(print::progress(format!("waiting for {whom}"), client.ask(&request)).await?)
    }
}

impl List {
    async fn run(self) -> anyhow::Result<()> {
        let mut client = self.at.socket.connect().await?;
        let (mut letters, mut after) = (Vec::new(), None);
        let wanted = self.limit as usize;
        let more = loop {
            let limit = wanted - letters.len();
            let page: Letters = self.at.ask(&mut client, Inquiry::Dead { limit, after }).await?;
            letters.extend(page.letters);
            after = page.next;
            if after.is_none() || letters.len() >= wanted {
                break after.is_some();
            }
        };
        if self.json {
            return print::json(&letters);
        }
        let rows: Vec<_> = letters.iter().map(row).collect();
        print::table(&["id", "to", "from", "size", "died", "reason"], &rows)?;
        if more {
            print::note(&format!("there are more than {wanted}; see them with --limit"));
        }
        Ok(())
    }
}

fn row(letter: &Letter) -> Vec<String> {
    vec![
        letter.id.to_string(),
        letter.to.clone(),
        letter.from.clone(),
        human_bytes(letter.bytes),
        format!("{} ago", human_seconds(letter.age_seconds)),
        letter
            .reason
            .as_ref()
            .map_or_else(String::new, |reason| format!("{}: {}", reason.code, reason.message)),
    ]
}

impl Show {
    async fn run(self) -> anyhow::Result<()> {
        let mut client = self.at.socket.connect().await?;
        let Ends { from, to } = self.ends;
        let name = Name { id: self.id, from, to };
        let opened: Opened = self.at.ask(&mut client, Inquiry::DeadLetter(name)).await?;
        if self.json {
            return print::json(&opened);
        }
        let Opened { node, letter, message } = &opened;
        let why = letter.reason.as_ref().map_or("no reason is known", |reason| &reason.message);
        print::line(&format!("{} of {} to {}, at node {node}", letter.id, letter.from, letter.to))?;
        print::line(&format!("died {}: {why}", moment(letter.died_ms)))?;
        if let Some(first) = &letter.retry_of {
            print::line(&format!("a retry of {first}"))?;
        }
        print::line("")?;
        print::json(message)
    }
}

impl Chosen {
    async fn run(self, retry: bool) -> anyhow::Result<()> {
        let mut client = self.at.socket.connect().await?;
        let Ends { from, to } = self.ends;
        let mut which = match (self.id, self.all) {
            (Some(id), _) => Some(Which::One(Name { id, from, to })),
            (None, true) => Some(Which::Next { after: None, before_ms: None }),
            (None, false) => bail!("say which: an ID, or --all"),
        };
        let mut outcomes: Vec<Outcome> = Vec::new();
        while let Some(now) = which.take() {
            let inquiry = match retry {
                true => Inquiry::Retry { which: now },
                false => Inquiry::Drop { which: now },
            };
            let done: Done = self.at.ask(&mut client, inquiry).await?;
            if !self.json {
                done.letters.iter().try_for_each(|outcome| say(outcome, retry))?;
            }
            outcomes.extend(done.letters);
            which = done.next;
        }
        if self.json {
            print::json(&outcomes)?;
        } else if outcomes.is_empty() {
            print::line("there are no dead letters")?;
        }
        if outcomes.iter().all(|outcome| outcome.trouble.is_none()) { Ok(()) } else { Err(Said.into()) }
    }
}

fn say(outcome: &Outcome, retry: bool) -> anyhow::Result<()> {
    let what = format!("{} of {} to {}", outcome.id, outcome.from, outcome.to);
    match (&outcome.new_id, retry) {
        (Some(new), _) => print::line(&format!("{what}: sent again as {new}"))?,
        (None, false) if outcome.dropped => print::line(&format!("{what}: dropped"))?,
        _ => {}
    }
    if let Some(trouble) = &outcome.trouble {
        print::note(&format!("{what}: {trouble}"));
    }
    Ok(())
}
