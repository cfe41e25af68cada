//! `trishula agents`: who is there.

use super::common::{SocketArg, block_on};
use super::print;
use crate::admin::protocol::Request;
use crate::node::status::AgentRow;
use crate::wire::ids::Namespace;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula agents
  trishula agents --namespace trishula
  trishula agents --online --json | jq -r '.[].agent'")]
pub(crate) struct Args {
    /// Only those of this namespace
    #[arg(long, value_name = "NAME")]
    namespace: Option<Namespace>,
    /// Only those that are connected
    #[arg(long)]
    online: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArg,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut agents: Vec<AgentRow> = block_on(async {
            let mut node = self.socket.connect().await?;
            Ok(print::progress(
                "waiting for the node",
                node.ask(&Request::Agents { namespace: self.namespace }),
            )
            .await?)
        })?;
        agents.retain(|agent| agent.online || !self.online);
        if self.json {
            return print::json(&agents);
        }
        let rows: Vec<_> = agents.iter().map(row).collect();
        print::table(&["agent", "now", "node", "can"], &rows)
    }
}

fn row(agent: &AgentRow) -> Vec<String> {
    let now = if agent.online { "connected" } else { "away" };
    vec![agent.agent.clone(), now.into(), agent.node.to_string(), agent.capabilities.join(", ")]
}
