//! `trishula invite`: one more machine.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;

use super::common::{SocketArg, block_on, desk_of, duration, human_seconds, now};
use super::layout::{self, Keys, Machine, Ports};
use super::{init, print};
use crate::admin::client::{self, Client};
use crate::admin::protocol::{Invited, Request};
use crate::config::address::HostPort;
use crate::config::node::{DEFAULT_PORT, NodeConfig};
use crate::daemon::authority::{CaDesk, Neighbours};
use crate::identity::invites::Invitation;
use crate::identity::ticket::MAX_ADDRESSES;
use crate::wire::ids::NodeName;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula invite laptop                                  prints a ticket that is good for an hour
  trishula invite laptop --expires 15m --edge-name laptop.example.com
  trishula invite laptop --address agni.example.com:8766  where the new machine finds the mesh
  trishula invite server --offline ./server --address server.example.com:8766

Run it on the machine that holds the CA; that may sit behind NAT: the new machine talks to any node of the mesh,
which passes its request on. A ticket works once. It is a secret: carry it by a way that nobody reads along.
--offline makes the new machine's whole folder here instead, for one that cannot reach the mesh yet; there --address
is where others can dial the new machine.")]
pub(crate) struct Args {
    /// What the new machine is to be called
    name: NodeName,
    /// How long the ticket is good
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration, conflicts_with = "offline")]
    expires: Duration,
    /// Where the mesh can be dialled; may be repeated [default: the addresses in this node's configuration]
    #[arg(long, value_name = "HOST:PORT")]
    address: Vec<HostPort>,
    /// A host name or address under which clients may reach the new machine's edge; may be repeated
    #[arg(long, value_name = "HOST")]
    edge_name: Vec<String>,
    /// Also if the name has certificates already: for a machine that lost its disk
    #[arg(long)]
    again: bool,
    /// Make the machine's folder here instead of a ticket
    #[arg(long, value_name = "DIR")]
    offline: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArg,
}

#[derive(Serialize)]
struct Shown {
    name: NodeName,
    ticket: String,
    expires_seconds: u64,
    addresses: Vec<String>,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let config = self.socket.config.load()?;
        match &self.offline {
            Some(folder) => self.bundle(&config, folder.clone()),
            None => self.ticket(&config),
        }
    }

    fn ticket(&self, config: &NodeConfig) -> anyhow::Result<()> {
        let mut addresses: Vec<String> = self.address.iter().map(HostPort::to_string).collect();
        if addresses.is_empty() {
            let known = Neighbours::of(config).peers.into_iter();
            addresses = known.map(|(_, address)| address).take(MAX_ADDRESSES).collect();
        }
        ensure!(
            !addresses.is_empty(),
            "this node knows no address under which the mesh can be reached; say one with --address HOST:PORT"
        );
        let ticket = block_on(self.ask(config, &addresses))?;
        if self.json {
            let expires_seconds = self.expires.as_secs();
            return print::json(&Shown { name: self.name.clone(), ticket, expires_seconds, addresses });
        }
        let within = human_seconds(self.expires.as_secs());
        print::note(&format!("On {}, within {within}: trishula join TICKET", self.name));
        print::line(&ticket)
    }

    async fn ask(&self, config: &NodeConfig, addresses: &[String]) -> anyhow::Result<String> {
        let public = Some(layout::public_names(self.edge_name.iter().map(String::as_str)));
        match Client::connect(&self.socket.path()?).await {
            Ok(mut client) => {
                let request = Request::Invite {
                    name: self.name.clone(),
                    expires_ms: u64::try_from(self.expires.as_millis()).unwrap_or(u64::MAX),
                    addresses: addresses.to_vec(),
                    again: self.again,
                    public,
                };
                Ok(client.ask::<Invited>(&request).await?.ticket)
            }
            Err(error @ client::Error::NotRunning(_)) => {
                let Some(mut desk) = desk_of(config)? else { return Err(error.into()) };
                let (name, addresses) = (self.name.clone(), addresses.to_vec());
                let invitation = Invitation { name, expires: now() + self.expires, addresses, public };
                Ok(desk.invite(invitation, self.again, now())?)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn bundle(&self, config: &NodeConfig, folder: PathBuf) -> anyhow::Result<()> {
        layout::refuse_used(&folder)?;
        let desk = desk_of(config)?;
        let mut desk: CaDesk = desk.context(
            "this machine does not hold the CA ([identity] ca_dir); run this where `trishula init` was run",
        )?;
        desk.refuse_taken(&self.name, self.again, now())?;
        let machine = Machine {
            name: self.name.clone(),
            advertise: self.address.clone(),
            peers: layout::group(&Neighbours::of(config).peers),
            ports: Ports::system(self.address.first().map_or(DEFAULT_PORT, HostPort::port)),
            holds_ca: false,
            self_contained: false,
        };
        let secret = desk.secret()?;
        let issued = init::issue(&mut desk, &machine, self.edge_name.iter().map(String::as_str))?;
        let revoked = desk.revocations().current();
        let keys = Keys {
            ca_pem: desk.authority().certificate_pem(),
            node: issued.node.pair(),
            edge: issued.edge.pair(),
            public: issued.public.pair(),
            revoked: revoked.as_ref().map(|list| list.der()),
            secret: &secret,
        };
        machine.write(&folder, &keys)?;
        let shown = folder.display();
        print::line(&format!("Made {shown} for {}. Next:", self.name))?;
        print::line(&format!("  rsync -a {shown}/ root@{}:/etc/trishula/ && rm -r {shown}", self.name))
    }
}
