//! `trishula cert revoke`

use anyhow::{Context, bail};

use crate::admin::client::{self, Client};
use crate::admin::protocol::{Request, Revoked};
use crate::cli::common::{SocketArg, block_on, desk_of, now};
use crate::cli::print;
use crate::daemon::authority::{IssuedRow, Whom};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula cert revoke --list                                whose certificates are in force
  trishula cert revoke oldlaptop --reason 'stolen'           all of a machine: its node and its edge
  trishula cert revoke trishula/planner                      an agent's
  trishula cert revoke 68711e04ffc4d1067988b0c7f5e9b0d7      one certificate

Only on the machine that holds the CA. The new list spreads over the links within seconds, and those on it are
disconnected at once; they come back only with a new ticket.")]
pub(crate) struct Args {
    /// A machine's name, an agent's NAMESPACE/NAME, or a serial number
    #[arg(required_unless_present = "list")]
    whom: Option<Whom>,
    /// Why, for the records
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Show what is in force instead
    #[arg(long, conflicts_with = "whom")]
    list: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArg,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if self.list {
            return self.show();
        }
        let whom = self.whom.clone().context("whose?")?;
        let (revoked, spreads) = block_on(self.revoke(&whom))?;
        if self.json {
            return print::json(&revoked);
        }
        let then =
            if spreads { "it is spreading over the links" } else { "it spreads when the node here runs" };
        print::line(&format!(
            "Revoked. List {} has {} certificates; {then}.",
            revoked.number, revoked.entries
        ))
    }

    async fn revoke(&self, whom: &Whom) -> anyhow::Result<(Revoked, bool)> {
        let text = match whom {
            Whom::Name(name) => name.clone(),
            Whom::Serial(serial) => serial.to_string(),
        };
        match Client::connect(&self.socket.path()?).await {
            Ok(mut client) => {
                let request = Request::Revoke { whom: text, reason: self.reason.clone() };
                Ok((client.ask(&request).await?, true))
            }
            Err(error @ client::Error::NotRunning(_)) => {
                let Some(mut desk) = desk_of(&self.socket.config.load()?)? else { return Err(error.into()) };
                let list = desk.revoke(whom, &self.reason, now())?;
                Ok((Revoked { number: list.number(), entries: list.entries().len() }, false))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn show(&self) -> anyhow::Result<()> {
        let Some(desk) = desk_of(&self.socket.config.load()?)? else {
            bail!("this machine does not hold the CA; run this on the one where `trishula init` was run");
        };
        let rows = desk.in_force(now())?;
        if self.json {
            return print::json(&rows);
        }
        let row = |row: &IssuedRow| {
            vec![row.name(), row.role.to_string(), row.serial.to_string(), row.not_after.clone()]
        };
        print::table(&["name", "of", "serial", "ends"], &rows.iter().map(row).collect::<Vec<_>>())
    }
}
