//! `trishula token`: with which clients come in at an edge.

use std::path::PathBuf;
use std::time::Duration;

use rand::RngExt;

use super::common::{ConfigArg, duration};
use super::{layout, print};
use crate::gateway::auth::{self, NewToken};
use crate::gateway::secret::Secret;
use crate::rt::clock;
use crate::wire::ids::{AgentName, DEFAULT_NAMESPACE, Namespace};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    /// The node's configuration: the secrets lie beside it [default: /etc/trishula/node.toml]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a token for an agent, and print it
    Issue(Issue),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula token issue planner
  trishula token issue planner --ttl 12h --secret-file /etc/trishula/secrets/trishula.secret
  trishula token issue gateway --agents 'worker-*' --permission admin
  trishula token issue planner --json | jq -r .id   # to take it back later: revoked_file in edge.toml
  curl -H \"Authorization: Bearer $(trishula token issue me)\" https://agni.example.com/…

Only the token is printed. It is as good as a password until it ends: give it to its agent, and to nobody else.")]
struct Issue {
    /// The agent that it is for
    agent: AgentName,
    /// What signs it [default: secrets/trishula.secret beside the configuration]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// The namespace it is for
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NAMESPACE)]
    namespace: Namespace,
    /// How long it is good
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    ttl: Duration,
    /// What the agent may do; may be repeated
    #[arg(long, value_name = "WORD")]
    permission: Vec<String>,
    /// Other names that it may register as, such as worker-*; may be repeated
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    agents: Vec<String>,
    /// Print the token with its id, by which it can be taken back, and its end
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let config = ConfigArg { config: self.config };
        match self.command {
            Command::Issue(issue) => issue.run(&config),
        }
    }
}

impl Issue {
    fn run(self, config: &ConfigArg) -> anyhow::Result<()> {
        let beside = || config.path().with_file_name(layout::SECRETS).join(layout::SECRET);
        let secret = Secret::from_file(&self.secret_file.unwrap_or_else(beside))?;
        let now = clock::wall_ms() / 1000;
        let exp = now + self.ttl.as_secs().max(1);
        let token = NewToken {
            sub: self.agent,
            aud: self.namespace,
            permissions: self.permission,
            agents: self.agents,
            jti: format!("{:032x}", rand::rng().random::<u128>()),
            iat: now,
            exp: Some(exp),
        };
        let signed = auth::issue(&secret, &token)?;
        if !self.json {
            return print::line(&signed);
        }
        let (agent, namespace) = (token.sub.as_str(), token.aud.as_str());
        print::json(&serde_json::json!({
            "token": signed, "id": token.jti, "agent": agent, "namespace": namespace, "expires_at": exp * 1000
        }))
    }
}
