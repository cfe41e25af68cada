//! `trishula cert show`

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Serialize;

use super::IdentityArg;
use crate::cli::common::now;
use crate::cli::print;
use crate::identity::bundle::REVOKED;
use crate::identity::ca::CA_CERTIFICATE;
use crate::identity::info::{CertInfo, describe};
use crate::identity::revocation::RevocationList;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula cert show                                this machine's, its edge's and the CA's
  trishula cert show /etc/letsencrypt/live/wss.example.com/fullchain.pem
  trishula cert show --json | jq '.[] | {file, days_left}'")]
pub(crate) struct Args {
    /// Certificates in PEM or DER
    files: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    identity: IdentityArg,
}

#[derive(Serialize)]
struct Shown {
    file: PathBuf,
    #[serde(flatten)]
    info: CertInfo,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let files = if self.files.is_empty() { self.identity.certificates()? } else { self.files };
        if files.is_empty() {
            bail!(
                "there is no certificate; make a mesh with `trishula init`, or join one with `trishula join TICKET`"
            );
        }
        let shown = files.into_iter().map(read).collect::<anyhow::Result<Vec<_>>>()?;
        if self.json {
            return print::json(&shown);
        }
        shown.iter().try_for_each(|one| print::line(&format!("{}\n{}", one.file.display(), one.info)))
    }
}

fn read(file: PathBuf) -> anyhow::Result<Shown> {
    let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let revoked = revocations_beside(&file);
    let info = describe(&bytes, revoked.as_ref(), now()).with_context(|| file.display().to_string())?;
    Ok(Shown { file, info })
}

/// The list in the same folder, if there is one that its CA signed; `cert check` says more about a bad one.
pub(super) fn revocations_beside(file: &Path) -> Option<RevocationList> {
    let ca = CertificateDer::from_pem_file(file.with_file_name(CA_CERTIFICATE)).ok()?;
    RevocationList::parse(&std::fs::read(file.with_file_name(REVOKED)).ok()?, &ca).ok()
}
