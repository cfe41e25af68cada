//! `trishula cert check`

use std::path::Path;

use super::{IdentityArg, days};
use crate::cli::common::now;
use crate::cli::findings::{Findings, Level, shell};
use crate::identity::RoleKind;
use crate::identity::bundle::{Bundle, PUBLIC_CERTIFICATE};
use crate::identity::info::describe;

/// Fewer days than this are a warning.
const WARNING_DAYS: i64 = 30;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula cert check                          this machine's node and edge
  trishula cert check --identity ./agent
  trishula cert check || mail -s 'certificates' ops@example.com

Exit code 1: a certificate ends within 30 days, or does not hold; each line says which command mends it.")]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    identity: IdentityArg,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut findings = Findings::default();
        for folder in self.identity.folders()? {
            check(&folder, &mut findings);
        }
        findings.tell(self.json, true)
    }
}

fn check(folder: &Path, findings: &mut Findings) {
    let bundle = match load(folder) {
        Ok(bundle) => bundle,
        // The message itself says what to do.
        Err(error) => return findings.bad(Level::Fault, folder.display().to_string(), error, ""),
    };
    let mend = format!("trishula cert renew --identity {}", shell(folder));
    let name = bundle.name.to_string();
    judge(&folder.join("link.pem"), &name, days(bundle.name.not_after), &mend, findings);
    if let Some(public) = &bundle.public {
        let path = folder.join(PUBLIC_CERTIFICATE);
        let info = public
            .certificate()
            .and_then(|certificate| describe(certificate, bundle.revoked.as_ref(), now()));
        match info {
            Ok(info) => match info.revoked {
                Some(since) => findings.bad(
                    Level::Fault,
                    path.display().to_string(),
                    format!("revoked at {since}"),
                    "join again with a new ticket",
                ),
                None => judge(&path, &info.subject, info.days_left, &mend, findings),
            },
            Err(error) => findings.bad(Level::Fault, path.display().to_string(), error, ""),
        }
    }
}

/// Of whichever role it is.
fn load(folder: &Path) -> Result<Bundle, crate::identity::Error> {
    let node = Bundle::load(folder, RoleKind::Node, now());
    match node {
        Err(crate::identity::Error::WrongRole { .. }) => {}
        other => return other,
    }
    match Bundle::load(folder, RoleKind::Edge, now()) {
        Err(crate::identity::Error::WrongRole { .. }) => Bundle::load(folder, RoleKind::Agent, now()),
        other => other,
    }
}

fn judge(path: &Path, name: &str, left: i64, mend: &str, findings: &mut Findings) {
    let what = path.display().to_string();
    match left {
        WARNING_DAYS.. => findings.ok(what, format!("{name}, good for {left} days")),
        0.. => findings.bad(Level::Warning, what, format!("{name}, good for only {left} days"), mend),
        _ => findings.bad(Level::Fault, what, format!("{name}, ended {} days ago", -left), mend),
    }
}
