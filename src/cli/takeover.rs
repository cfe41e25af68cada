//! `trishula takeover`: the operator does not wait for a node any longer.

use super::common::{SocketArg, block_on};
use super::print;
use crate::admin::protocol::Request;
use crate::node::status::TakenOver;
use crate::wire::ids::NodeName;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula takeover agni                            agni is gone, and nobody wants to wait for takeover_seconds
  trishula takeover agni --json | jq .taken_over

The node of this machine goes on with the messages of which it has the second copy (copies: 2) and the named node the first:
at once where their recipients have registered at another node since, else as soon as they do. They come marked as
redelivered, as the first machine may have delivered them. That holds until the named node is in reach again, which then learns
what was done meanwhile, or until the node of this machine is started anew. Run it on each machine that may have second copies.
Exit code 1 if the named node is in reach, or unknown: nothing was done.")]
pub(crate) struct Args {
    /// The node that stays away
    #[arg(value_name = "NODE")]
    node: NodeName,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArg,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        block_on(async {
            let mut client = self.socket.connect().await?;
            let request = Request::Takeover { node: self.node };
            let taken: TakenOver = print::progress("waiting for the node", client.ask(&request)).await?;
            if self.json {
                return print::json(&taken);
            }
            let TakenOver { node, taken_over, waiting } = taken;
            print::line(&format!("messages of {node} that go on from here: {taken_over}"))?;
            if waiting > 0 {
                print::line(&format!(
                    "messages that wait until their recipients register at another node: {waiting}"
                ))?;
            }
            Ok(())
        })
    }
}
