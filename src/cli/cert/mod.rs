//! `trishula cert`: certificates of this mesh.

mod check;
mod issue;
mod renew;
mod revoke;
mod show;

use std::path::PathBuf;

use time::OffsetDateTime;

use super::common::{ConfigArg, now};
use super::layout;
use crate::identity::bundle::{LINK_CERTIFICATE, PUBLIC_CERTIFICATE};
use crate::identity::ca::CA_CERTIFICATE;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show what certificates say
    Show(show::Args),
    /// Check certificates; exit code 1 if one ends within 30 days or does not hold
    Check(check::Args),
    /// Replace certificates before they end
    Renew(renew::Args),
    /// Take back certificates of a machine or an agent (on the holder of the CA)
    Revoke(revoke::Args),
    /// Make an identity for an agent that comes in by QUIC (on the holder of the CA)
    Issue(issue::Args),
}

impl Command {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Command::Show(args) => args.run(),
            Command::Check(args) => args.run(),
            Command::Renew(args) => args.run(),
            Command::Revoke(args) => args.run(),
            Command::Issue(args) => args.run(),
        }
    }
}

/// Whole days until then, rounded down; negative once it is past.
pub(crate) fn days(end: OffsetDateTime) -> i64 {
    (end - now()).whole_seconds().div_euclid(24 * 3600)
}

/// Which identities.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct IdentityArg {
    /// An identity's folder [default: the configuration's, and its edge's beside it]
    #[arg(long, value_name = "DIR")]
    identity: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArg,
}

impl IdentityArg {
    /// The folders that are meant.
    fn folders(&self) -> anyhow::Result<Vec<PathBuf>> {
        if let Some(folder) = &self.identity {
            return Ok(vec![folder.clone()]);
        }
        let identity = self.config.load()?.identity;
        let beside = identity.dir.with_file_name(layout::EDGE_IDENTITY);
        let edge = identity.edge_dir.or_else(|| beside.is_dir().then_some(beside));
        Ok(std::iter::once(identity.dir).chain(edge).collect())
    }

    /// The certificates in them.
    fn certificates(&self) -> anyhow::Result<Vec<PathBuf>> {
        let files = [LINK_CERTIFICATE, PUBLIC_CERTIFICATE, CA_CERTIFICATE];
        let all = self.folders()?.into_iter().flat_map(|folder| files.map(|file| folder.join(file)));
        Ok(all.filter(|path| path.exists()).collect())
    }
}
