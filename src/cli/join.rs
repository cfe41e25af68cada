//! `trishula join`: this machine becomes one of the mesh.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use quinn::crypto::rustls::QuicClientConfig;

use super::common::{block_on, now};
use super::layout::{self, Keys, Machine, Ports};
use super::print;
use crate::config::address::{HostPort, parse_listen};
use crate::config::node::DEFAULT_PORT;
use crate::gateway::enrol;
use crate::identity::ANY_NODE;
use crate::identity::bundle::{Bundle, LINK_KEY, PUBLIC_KEY};
use crate::identity::csr::Key;
use crate::identity::enrol::{JoinReply, JoinRequest, Joined, Wants};
use crate::identity::ticket::Ticket;
use crate::identity::tls;
use crate::rt::{clock, platform};

/// How long one address may take to connect, and the holder of the CA to answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(25);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo trishula join trishula-ticket-1:…                      from `trishula invite NAME`, on the CA's holder
  sudo trishula join trishula-ticket-1:… --advertise server.example.com:8766
  trishula join - --out ./laptop < ticket                     the ticket from stdin, so that `ps` does not show it
  trishula join trishula-ticket-1:… --out ./try --loopback    next to other machines on this one

Without --advertise the machine dials out only, as one behind NAT must. When it fails half-way, say it again with the
same ticket and the same --out: the keys made at the first try are used.")]
pub(crate) struct Args {
    /// The ticket, or - for stdin
    ticket: String,
    /// Where the machine's folder is made [default: /etc/trishula]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// UDP address to listen on [default: [::] with the port of --advertise, or 8766]
    #[arg(long, value_name = "IP:PORT", value_parser = parse_listen, conflicts_with = "loopback")]
    listen: Option<SocketAddr>,
    /// Where others can dial this machine; may be repeated
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "loopback")]
    advertise: Vec<HostPort>,
    /// A host name or address under which clients reach the edge, as the invitation allows; may be repeated
    #[arg(long, value_name = "HOST")]
    edge_name: Vec<String>,
    /// Next to other machines on this one: 127.0.0.1, ports and data of its own
    #[arg(long)]
    loopback: bool,
    /// The first of the ten ports with --loopback [default: the first that are free]
    #[arg(long, value_name = "PORT", requires = "loopback")]
    base_port: Option<u16>,
}

/// Made before anything is asked, and on disk: an answer that is lost on its way can be asked for again.
struct NewKeys {
    node: Key,
    edge: Key,
    public: Key,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let text = match self.ticket.as_str() {
            "-" => std::io::read_to_string(std::io::stdin().lock())
                .context("the ticket can't be read from stdin")?,
            text => text.to_owned(),
        };
        let ticket = Ticket::parse(&text, now())?;
        let folder = self.out.clone().unwrap_or_else(platform::default_config_dir);
        refuse_used(&folder)?;
        let keys = NewKeys::make(&folder)?;
        let public = layout::public_names(self.edge_name.iter().map(String::as_str));
        let wants =
            Wants { node: Some(&keys.node), edge: Some(&keys.edge), public: Some((&keys.public, public)) };
        let request = JoinRequest::new(&ticket, &wants)?;
        let reply = block_on(ask_any(&ticket, &request))?;
        let joined = reply.open(&ticket, &request, now())?;
        let machine = self.machine(&ticket, &joined)?;
        write(&machine, &folder, &joined, &keys)?;
        self.tell(&machine, &folder)
    }

    fn machine(&self, ticket: &Ticket, joined: &Joined) -> anyhow::Result<Machine> {
        let mut ports = match self.loopback {
            true => Ports::many(1, self.base_port)?.pop().context("no port is free")?,
            false => Ports::system(self.advertise.first().map_or(DEFAULT_PORT, HostPort::port)),
        };
        ports.mesh = self.listen.unwrap_or(ports.mesh);
        let advertise = match self.loopback {
            true => vec![HostPort::new("127.0.0.1", ports.mesh.port())?],
            false => self.advertise.clone(),
        };
        let mut peers = layout::group(&joined.peers);
        peers.retain(|(name, _)| *name != ticket.name);
        let name = ticket.name.clone();
        Ok(Machine { name, advertise, peers, ports, holds_ca: false, self_contained: self.loopback })
    }

    fn tell(&self, machine: &Machine, folder: &Path) -> anyhow::Result<()> {
        let shown = folder.display();
        print::line(&format!("This machine is {} now; its folder is {shown}. Next:", machine.name))?;
        if folder == platform::default_config_dir() {
            print::line(
                "  chown -R trishula: /etc/trishula && systemctl enable --now trishula trishula-edge",
            )?;
            return print::line("  trishula status");
        }
        print::line(&format!("  trishula run --config {shown}/{}", layout::NODE_TOML))?;
        print::line(&format!("  trishula status --config {shown}/{}", layout::NODE_TOML))
    }
}

impl NewKeys {
    fn make(folder: &Path) -> anyhow::Result<NewKeys> {
        let (node, edge) = (folder.join(layout::IDENTITY), folder.join(layout::EDGE_IDENTITY));
        Ok(NewKeys {
            node: Bundle::pending_key(&node, LINK_KEY)?,
            edge: Bundle::pending_key(&edge, LINK_KEY)?,
            public: Bundle::pending_key(&edge, PUBLIC_KEY)?,
        })
    }
}

/// A folder with a configuration is a machine's already; one with keys only is left from a try that failed.
fn refuse_used(folder: &Path) -> anyhow::Result<()> {
    if folder.join(layout::NODE_TOML).exists() {
        let shown = folder.display();
        bail!(
            "{shown}/{} exists: this machine is in a mesh already; choose another folder with --out, or move it away: mv '{shown}' '{shown}.old'",
            layout::NODE_TOML
        );
    }
    Ok(())
}

fn write(machine: &Machine, folder: &Path, joined: &Joined, keys: &NewKeys) -> anyhow::Result<()> {
    let lacks = "the reply lacks a certificate that was asked for; try again, then report it";
    let chains = (&joined.node, &joined.edge, &joined.public);
    let (Some(node), Some(edge), Some(public)) = chains else { bail!(lacks) };
    ensure!(
        !machine.peers.is_empty(),
        "the mesh did not say where its nodes can be dialled; on the holder of the CA, add [[mesh.peers]] with addresses (or [mesh] advertise), and invite again"
    );
    let (node_key, edge_key, public_key) = (keys.node.to_pem(), keys.edge.to_pem(), keys.public.to_pem());
    let keys = Keys {
        ca_pem: &joined.ca_pem,
        node: (node, &node_key),
        edge: (edge, &edge_key),
        public: (public, &public_key),
        revoked: joined.revoked.as_ref().map(|list| list.der()),
        secret: &joined.secrets,
    };
    machine.write(folder, &keys)
}

/// Asks at one address after the other. What the holder refuses, it refuses at every address.
async fn ask_any(ticket: &Ticket, request: &JoinRequest) -> anyhow::Result<JoinReply> {
    let tls = QuicClientConfig::try_from(tls::join_client(ticket.ca, clock::for_tls())?)?;
    let config = quinn::ClientConfig::new(Arc::new(tls));
    let mut faults = Vec::new();
    for address in &ticket.addresses {
        match print::progress(format!("asking {address}"), connect(address, &config)).await {
            Ok(connection) => {
                return print::progress("waiting for the holder of the CA", ask(&connection, request)).await;
            }
            Err(error) => faults.push(format!("{address}: {}", print::explain(&error))),
        }
    }
    let listed = faults.join("\n  ");
    bail!(
        "no address of the ticket leads to the mesh:\n  {listed}\nIs UDP open on the way? Is a node running there? Other addresses: trishula invite {} --address HOST:PORT",
        ticket.name
    )
}

async fn connect(address: &str, config: &quinn::ClientConfig) -> anyhow::Result<quinn::Connection> {
    let mut last = anyhow!("the name has no address");
    for remote in tokio::net::lookup_host(address).await.context("the name is not known")? {
        let local: SocketAddr = match remote {
            SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let endpoint = quinn::Endpoint::client(local)?;
        let connecting = endpoint.connect_with(config.clone(), remote, ANY_NODE)?;
        match tokio::time::timeout(CONNECT_WITHIN, connecting).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => last = anyhow!(tls::explain(&error)),
            Err(_) => last = anyhow!("no answer within {CONNECT_WITHIN:?}"),
        }
    }
    Err(last)
}

async fn ask(connection: &quinn::Connection, request: &JoinRequest) -> anyhow::Result<JoinReply> {
    let question = postcard::to_stdvec(request)?;
    let answer = tokio::time::timeout(ANSWER_WITHIN, enrol::ask(connection, &question)).await;
    let answer = answer.map_err(|_| anyhow!("the mesh did not answer within {ANSWER_WITHIN:?}; is the node that holds the CA running? Try again, with the same ticket"))?;
    connection.close(0u32.into(), b"done");
    match answer.context("the connection broke before the answer came; try again, with the same ticket")? {
        Ok(reply) => Ok(postcard::from_bytes(&reply)
            .context("the reply can't be read; use the same version of trishula on both machines")?),
        Err(why) => bail!("the mesh refused: {why}"),
    }
}
