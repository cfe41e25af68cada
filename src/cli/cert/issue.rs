//! `trishula cert issue`

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};

use crate::cli::common::{ConfigArg, now};
use crate::cli::print;
use crate::daemon::authority::{CaDesk, Neighbours};
use crate::identity::Role;
use crate::identity::bundle::{Bundle, LINK_CERTIFICATE, Parts};
use crate::identity::profile::Request;
use crate::wire::ids::{AgentAddr, DEFAULT_NAMESPACE, Namespace};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula cert issue --agent planner --out ./planner      on the machine that holds the CA
  trishula cert issue --agent build/runner --out ./runner
  trishula send agni hello --node agni.example.com:8766 --identity ./planner

The key is in the folder and nowhere else; move it to the agent's machine. To take it back: trishula cert revoke NAMESPACE/NAME")]
pub(crate) struct Args {
    /// For this agent: NAME, or NAMESPACE/NAME
    #[arg(long, value_name = "NAME")]
    agent: String,
    /// Where the identity is written
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    config: ConfigArg,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let agent = AgentAddr::parse(&self.agent, &Namespace::new(DEFAULT_NAMESPACE)?)?;
        let config = self.config.load()?;
        let ca_dir = config.identity.ca_dir.context("this machine does not hold the CA ([identity] ca_dir is not set); run this where `trishula init` was run")?;
        if self.out.join(LINK_CERTIFICATE).exists() {
            bail!("{} holds an identity already; choose another folder with --out", self.out.display());
        }
        let mut desk = CaDesk::open(&ca_dir, &config.node.data_dir, Arc::default(), Neighbours::default())?;
        let issued = desk.issue(&Request::link(Role::Agent(agent.clone())), now())?;
        let revoked = desk.revocations().current();
        let parts = Parts {
            ca_pem: Some(desk.authority().certificate_pem()),
            link: Some(issued.pair()),
            public: None,
            revoked: revoked.as_ref().map(|list| list.der()),
        };
        Bundle::write(&self.out, &parts)?;
        print::line(&format!(
            "Made an identity for agent {agent} in {} (serial {})",
            self.out.display(),
            issued.serial
        ))
    }
}
