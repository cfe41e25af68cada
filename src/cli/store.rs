//! `trishula store`: look at this machine's store, change the version of its tables, save what a damaged one still has.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand};

use super::Said;
use super::common::{ConfigArg, SocketArg, block_on, human_seconds};
use super::print;
use crate::admin::protocol::Request;
use crate::rt::clock;
use crate::store::maintenance::{self, Survey};
use crate::store::{SCHEMA, place_word};

const EXAMPLES: &str = "\
Examples:
  trishula store status                        also while the node runs
  trishula store status --full --json | jq .damage
  trishula store down                          before an older release is installed; with the node stopped
  trishula store up
  trishula store salvage                       what a damaged store still has; with the node stopped
  trishula store salvage --out /var/lib/trishula.new
  trishula store resume --redeliver            after a backup was restored; with the node running

Exit codes: 0 done, 1 failed or damaged, 2 wrong usage, 64 bad configuration.";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum Command {
    /// Show what is in the store, and check it
    #[command(after_help = EXAMPLES)]
    Status(Status),
    /// Bring the tables to the version of this release (the node does it at its start)
    #[command(after_help = EXAMPLES)]
    Up(Move),
    /// Bring the tables back by one version, for an older release
    #[command(after_help = EXAMPLES)]
    Down(Move),
    /// Say what a damaged store still has; with --out, put it into a new one
    #[command(after_help = EXAMPLES)]
    Salvage(Salvage),
    /// Let a node go on that stands still because its store is an old copy
    #[command(after_help = EXAMPLES)]
    Resume(Resume),
}

/// Which store.
#[derive(Debug, Args)]
pub(crate) struct DataArg {
    #[command(flatten)]
    config: ConfigArg,
    /// The node's data folder [default: the configuration's]
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    data: Option<PathBuf>,
}

impl DataArg {
    fn folder(&self) -> anyhow::Result<PathBuf> {
        match &self.data {
            Some(folder) => Ok(folder.clone()),
            None => Ok(self.config.load()?.node.data_dir),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    data: DataArg,
    /// Check every row and index, not only the pages
    #[arg(long)]
    full: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Move {
    /// To this version
    #[arg(value_name = "VERSION")]
    version: Option<i64>,
    #[command(flatten)]
    data: DataArg,
    /// Also when that loses what the older version has no tables for
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Salvage {
    #[command(flatten)]
    data: DataArg,
    /// The folder of the new store
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Command::Status(args) => args.run(),
            Command::Up(args) => args.run(true),
            Command::Down(args) => args.run(false),
            Command::Salvage(args) => args.run(),
            Command::Resume(args) => block_on(args.run()),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// Hand over again what waits in the store, marked as redelivered
    #[arg(long, required_unless_present = "bury")]
    redeliver: bool,
    /// Put what waits in the store among the dead letters: trishula dlq list
    #[arg(long, conflicts_with = "redeliver")]
    bury: bool,
    #[command(flatten)]
    socket: SocketArg,
}

impl Resume {
    async fn run(self) -> anyhow::Result<()> {
        let mut client = self.socket.connect().await?;
        let request = Request::Resume { redeliver: self.redeliver };
        let stood_still: bool = print::progress("waiting for the node", client.ask(&request)).await?;
        if !stood_still {
            bail!("this node does not stand still: its store is no old one, nothing was changed");
        }
        match self.bury {
            true => print::line("the node goes on; what waited is among the dead letters: trishula dlq list"),
            false => print::line("the node goes on; what waited is handed over again, marked as redelivered"),
        }
    }
}

impl Status {
    fn run(self) -> anyhow::Result<()> {
        let survey = maintenance::survey(&self.data.folder()?, self.full)?;
        if self.json {
            print::json(&survey)?;
        } else {
            show(&survey)?;
        }
        if survey.damage.is_some() { Err(Said.into()) } else { Ok(()) }
    }
}

fn show(survey: &Survey) -> anyhow::Result<()> {
    let used = if survey.in_use { "in use by a running node" } else { "not in use" };
    print::line(&format!("{}: {used}, {}", survey.file.display(), bytes(survey.file_bytes)))?;
    let schema = match survey.schema {
        0 if survey.damage.is_some() => "it can't be read",
        found if found == survey.newest_schema => "this release's",
        found if found > survey.newest_schema => "A NEWER RELEASE'S; run that one",
        _ => "an older release's; the node brings it up at its start",
    };
    print::line(&format!("schema {} ({schema})", survey.schema))?;
    let check = match &survey.damage {
        None => "nothing found".to_owned(),
        Some(damage) => {
            format!("DAMAGED: {damage}; stop the node and see what can be saved with: trishula store salvage")
        }
    };
    print::line(&format!("check: {check}"))?;
    if let Some(incarnation) = survey.incarnation {
        print::line(&format!("incarnation {incarnation}, {} agents registered here", survey.agents))?;
    }
    if survey.quarantined > 0 {
        print::line(&format!(
            "{} DAMAGED MESSAGES were put aside; of {} no other node is known to hold a copy",
            survey.quarantined, survey.quarantined_alone
        ))?;
        for message in &survey.aside {
            let what = format!("{} of {} to {}", message.id, message.from, message.to);
            print::line(&format!("  {what}: {}; {}", message.why, message.rest))?;
        }
        if survey.quarantined > survey.aside.len() as u64 {
            print::line("  and earlier ones, in the table quarantine of that file")?;
        }
    }
    if let Some(oldest) = survey.oldest_ms {
        let ago = clock::wall_ms().saturating_sub(oldest) / 1000;
        print::line(&format!("the oldest message that waits was taken {} ago", human_seconds(ago)))?;
    }
    if survey.places.is_empty() {
        return Ok(());
    }
    print::line("")?;
    let row = |(place, count): &(_, crate::store::Count)| {
        vec![place_word(*place).to_owned(), count.messages.to_string(), bytes(count.bytes)]
    };
    print::table(&["place", "messages", "payload"], &survey.places.iter().map(row).collect::<Vec<_>>())
}

impl Move {
    fn run(self, up: bool) -> anyhow::Result<()> {
        let folder = self.data.folder()?;
        let survey = maintenance::survey(&folder, false)?;
        if survey.in_use {
            bail!("{}: the node runs; stop it first", survey.file.display());
        }
        if let Some(damage) = survey.damage {
            bail!("{}: damaged ({damage}); see: trishula store salvage", survey.file.display());
        }
        let found = survey.schema;
        let target = self.version.unwrap_or(if up { SCHEMA.max(found) } else { found - 1 });
        if !(1..=SCHEMA).contains(&target) {
            bail!("version {target} is not one that this release knows: 1 to {SCHEMA}");
        }
        if (up && target < found) || (!up && target > found) {
            let other = if up { "down" } else { "up" };
            bail!("the store is at version {found}; to come to {target}: trishula store {other} {target}");
        }
        let lost = maintenance::losses(&folder, target)?;
        if !lost.is_empty() && !self.yes {
            bail!(
                "version {target} has no place for {}: they would be lost; make a copy of {} first, then add --yes",
                lost.join(" and "),
                folder.display()
            );
        }
        let found = maintenance::migrate(&folder, target)?;
        print::line(&match found == target {
            true => format!("the store is at version {target} already"),
            false => format!("the store went from version {found} to {target}"),
        })
    }
}

impl Salvage {
    fn run(self) -> anyhow::Result<()> {
        let folder = self.data.folder()?;
        let saved = maintenance::salvage(&folder, self.out.as_deref())?;
        if self.json {
            return print::json(&saved);
        }
        let row = |saved: &maintenance::Saved| {
            let whole = if saved.whole { "all of it" } else { "NOT ALL OF IT" };
            vec![saved.table.to_owned(), saved.rows.to_string(), whole.to_owned()]
        };
        print::table(&["table", "rows", ""], &saved.iter().map(row).collect::<Vec<_>>())?;
        if let Some((missing, all)) = maintenance::missing_pages(&folder) {
            print::note(&format!(
                "the end of the file is cut off: {missing} of its {all} pages of 4 KiB are missing"
            ));
        }
        match self.out {
            Some(out) => print::note(&format!(
                "written to {}/node.sqlite; move all that is called {}/node.sqlite* away (and keep it), then this one to its place",
                out.display(),
                folder.display()
            )),
            None => print::note(
                "nothing was written; to put it into a new store: trishula store salvage --out DIR",
            ),
        }
        Ok(())
    }
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}
