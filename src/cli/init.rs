//! `trishula init`: a whole mesh from nothing.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{bail, ensure};
use serde::Serialize;

use super::common::now;
use super::layout::{self, Keys, Machine, Ports};
use super::print;
use crate::config::address::HostPort;
use crate::config::node::DEFAULT_PORT;
use crate::daemon::authority::{CaDesk, fresh_secret};
use crate::identity::Role;
use crate::identity::ca::Issued;
use crate::identity::profile::Request;
use crate::wire::ids::NodeName;

/// The machines of a mesh when none are named.
const DEFAULT_MACHINES: [&str; 3] =
    ["dc=-", "agni=agni.example.com:8766", "rushabdev=rushabdev.example.com:8766"];
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula init                              dc (behind NAT), agni and rushabdev, with example addresses
  trishula init dc agni=192.0.2.10:8766 rushabdev=rushabdev.example.com:8766
  trishula init --holder agni dc agni=192.0.2.10:8766,[2001:db8::10]:8766
  trishula init --loopback --out /tmp/mesh   all on this machine, to try it out
  trishula init --edge-name agni=wss.example.com dc agni=192.0.2.10:8766

A machine without an address (or NAME=-) dials out only; with --loopback only NAME=- does. The CA's key lies in the folder of the first machine (or of --holder):
it signs certificates, so keep a copy of that folder off the machine.")]
pub(crate) struct Args {
    /// The machines: NAME, or NAME=HOST:PORT[,HOST:PORT…] where others can dial it, or NAME=-
    #[arg(value_name = "NAME[=HOST:PORT,…]")]
    machines: Vec<Given>,
    /// Where the folders are made
    #[arg(long, value_name = "DIR", default_value = "trishula-mesh")]
    out: PathBuf,
    /// What the mesh is called
    #[arg(long, value_name = "NAME", default_value = "trishula")]
    mesh: String,
    /// The machine that holds the CA [default: the first]
    #[arg(long, value_name = "NAME")]
    holder: Option<NodeName>,
    /// A further host name or address under which clients reach a machine's edge; may be repeated
    #[arg(long, value_name = "NAME=HOST")]
    edge_name: Vec<EdgeName>,
    /// All on this machine: 127.0.0.1, ports and data of their own for each
    #[arg(long)]
    loopback: bool,
    /// The first of the ports with --loopback, ten for each machine [default: the first that are free]
    #[arg(long, value_name = "PORT", requires = "loopback")]
    base_port: Option<u16>,
    /// Print what was made as JSON
    #[arg(long)]
    json: bool,
}

/// `NAME` or `NAME=HOST:PORT,…`.
#[derive(Debug, Clone)]
struct Given {
    name: NodeName,
    addresses: Vec<HostPort>,
    dials_out_only: bool,
}

impl Given {
    /// UDP port of its node.
    fn port(&self) -> u16 {
        self.addresses.first().map_or(DEFAULT_PORT, HostPort::port)
    }
}

impl FromStr for Given {
    type Err = String;

    fn from_str(given: &str) -> Result<Given, String> {
        let (name, addresses) = given.split_once('=').unwrap_or((given, ""));
        let name = NodeName::new(name).map_err(|e| e.to_string())?;
        let dials_out_only = addresses == "-";
        let addresses = if dials_out_only { "" } else { addresses };
        let addresses =
            addresses.split(',').filter(|part| !part.is_empty()).map(|part| part.parse::<HostPort>());
        let addresses = addresses.collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
        if addresses.is_empty() && given.contains('=') && !dials_out_only {
            return Err(format!(
                "no address follows {name}=; write {name}=- for a machine that dials out only"
            ));
        }
        Ok(Given { name, addresses, dials_out_only })
    }
}

/// `NAME=HOST`.
#[derive(Debug, Clone)]
struct EdgeName {
    machine: NodeName,
    host: String,
}

impl FromStr for EdgeName {
    type Err = String;

    fn from_str(given: &str) -> Result<EdgeName, String> {
        let (machine, host) = given.split_once('=').ok_or("write NAME=HOST, such as agni=wss.example.com")?;
        Ok(EdgeName { machine: NodeName::new(machine).map_err(|e| e.to_string())?, host: host.to_owned() })
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Made {
    mesh: String,
    ca_fingerprint_sha256: String,
    holder: NodeName,
    machines: Vec<MadeMachine>,
}

#[derive(Debug, Serialize)]
struct MadeMachine {
    name: NodeName,
    folder: PathBuf,
    node_config: PathBuf,
    edge_config: PathBuf,
    ca_certificate: PathBuf,
    secret_file: PathBuf,
    dials_out_only: bool,
    listen: String,
    http: String,
    edge_listen: Vec<String>,
    edge_metrics: String,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let given = self.given()?;
        let machines = self.plan(&given)?;
        // Everything that can be refused is refused before the first file is written.
        for machine in &machines {
            layout::refuse_used(&self.out.join(machine.name.as_str()))?;
        }
        let Some(holder) = machines.iter().find(|machine| machine.holds_ca) else {
            bail!("no machine holds the CA")
        };
        let ca_dir = self.out.join(holder.name.as_str()).join(layout::CA);
        let secret = fresh_secret();
        let mut desk = CaDesk::create(&ca_dir, &self.mesh, &secret, now())?;
        for machine in &machines {
            self.make(&mut desk, machine, &secret)?;
        }
        self.tell(&desk, holder, &machines)
    }

    fn given(&self) -> anyhow::Result<Vec<Given>> {
        let given = match self.machines.is_empty() {
            true => DEFAULT_MACHINES
                .iter()
                .map(|m| m.parse())
                .collect::<Result<_, String>>()
                .map_err(anyhow::Error::msg)?,
            false => self.machines.clone(),
        };
        for (n, one) in given.iter().enumerate() {
            ensure!(
                !given[..n].iter().any(|other| other.name == one.name),
                "{} is named twice; give its addresses together: {}=HOST:PORT,HOST:PORT",
                one.name,
                one.name
            );
        }
        let known = |name: &NodeName| given.iter().any(|one| one.name == *name);
        if let Some(holder) = &self.holder {
            ensure!(known(holder), "--holder {holder} is none of the machines of this mesh");
        }
        if let Some(stranger) = self.edge_name.iter().find(|edge| !known(&edge.machine)) {
            bail!(
                "--edge-name {}=…: {} is none of the machines of this mesh",
                stranger.machine,
                stranger.machine
            );
        }
        Ok(given)
    }

    fn plan(&self, given: &[Given]) -> anyhow::Result<Vec<Machine>> {
        let holder = self.holder.as_ref().or(given.first().map(|first| &first.name));
        let ports: Vec<Ports> = match self.loopback {
            true => Ports::many(given.len(), self.base_port)?,
            false => given.iter().map(|one| Ports::system(one.port())).collect(),
        };
        let addresses: Vec<Vec<HostPort>> = given
            .iter()
            .zip(&ports)
            .map(|(one, ports)| match self.loopback && !one.dials_out_only {
                true => Ok(vec![HostPort::new("127.0.0.1", ports.mesh.port())?]),
                false => Ok(one.addresses.clone()),
            })
            .collect::<anyhow::Result<_>>()?;
        let machines = given.iter().enumerate().map(|(n, one)| Machine {
            name: one.name.clone(),
            advertise: addresses[n].clone(),
            peers: given
                .iter()
                .zip(&addresses)
                .filter(|(other, addresses)| other.name != one.name && !addresses.is_empty())
                .map(|(other, addresses)| (other.name.clone(), addresses.clone()))
                .collect(),
            ports: ports[n].clone(),
            holds_ca: holder == Some(&one.name),
            self_contained: self.loopback,
        });
        Ok(machines.collect())
    }

    fn make(&self, desk: &mut CaDesk, machine: &Machine, secret: &[u8]) -> anyhow::Result<()> {
        let further = self.edge_name.iter().filter(|edge| edge.machine == machine.name);
        let issued = issue(desk, machine, further.map(|edge| edge.host.as_str()))?;
        let keys = Keys {
            ca_pem: desk.authority().certificate_pem(),
            node: issued.node.pair(),
            edge: issued.edge.pair(),
            public: issued.public.pair(),
            revoked: None,
            secret,
        };
        machine.write(&self.out.join(machine.name.as_str()), &keys)
    }

    fn tell(&self, desk: &CaDesk, holder: &Machine, machines: &[Machine]) -> anyhow::Result<()> {
        let fingerprint = desk.authority().fingerprint().to_string();
        if self.json {
            return print::json(&Made {
                mesh: self.mesh.clone(),
                ca_fingerprint_sha256: fingerprint,
                holder: holder.name.clone(),
                machines: machines.iter().map(|machine| made(&self.out, machine)).collect(),
            });
        }
        let out = self.out.display();
        print::line(&format!(
            "Made the mesh {:?} of {} in {out}:\n",
            self.mesh,
            plural(machines.len(), "machine")
        ))?;
        for machine in machines {
            let listed: Vec<String> = machine.advertise.iter().map(ToString::to_string).collect();
            let way = if listed.is_empty() { "dials out only".into() } else { listed.join(", ") };
            let ca = if machine.holds_ca { "; holds the CA's key: keep a copy of it elsewhere" } else { "" };
            print::line(&format!("  {out}/{}  {way}{ca}", machine.name))?;
        }
        print::line(&format!("\nCA (SHA-256) {fingerprint}"))?;
        if self.machines.is_empty() && !self.loopback {
            print::line(
                "\nThe addresses are examples: name your machines, or change them in the node.toml files.",
            )?;
        }
        print::line("\nNext:")?;
        for machine in machines {
            let folder = format!("{out}/{}", machine.name);
            print::line(&match self.loopback {
                true => format!("  trishula run --config {folder}/node.toml &"),
                false => format!(
                    "  rsync -a {folder}/ root@{}:/etc/trishula/ && ssh root@{} 'chown -R trishula: /etc/trishula && systemctl enable --now trishula trishula-edge'",
                    machine.name, machine.name
                ),
            })?;
        }
        let config =
            if self.loopback { format!(" --config {out}/{}/node.toml", holder.name) } else { String::new() };
        print::line(&format!("  trishula status{config}"))
    }
}

/// The three certificates of a machine.
pub(crate) struct MachineCertificates {
    /// The node's, for its links.
    pub node: Issued,
    /// The edge's, for its link.
    pub edge: Issued,
    /// The edge's, for its clients.
    pub public: Issued,
}

/// Makes them, with keys. `hosts` are further names of the edge.
pub(crate) fn issue<'a>(
    desk: &mut CaDesk,
    machine: &'a Machine,
    hosts: impl Iterator<Item = &'a str>,
) -> anyhow::Result<MachineCertificates> {
    let names = layout::public_names(machine.advertise.iter().map(HostPort::host).chain(hosts));
    let edge = Role::Edge(machine.name.clone());
    Ok(MachineCertificates {
        node: desk.issue(&Request::link(Role::Node(machine.name.clone())), now())?,
        edge: desk.issue(&Request::link(edge.clone()), now())?,
        public: desk.issue(&Request::public(edge, names.dns, names.ips), now())?,
    })
}

fn made(out: &Path, machine: &Machine) -> MadeMachine {
    let folder = out.join(machine.name.as_str());
    MadeMachine {
        name: machine.name.clone(),
        node_config: folder.join(layout::NODE_TOML),
        edge_config: folder.join(layout::EDGE_TOML),
        ca_certificate: folder.join(layout::EDGE_IDENTITY).join(crate::identity::ca::CA_CERTIFICATE),
        secret_file: folder.join(layout::SECRETS).join(layout::SECRET),
        dials_out_only: machine.advertise.is_empty(),
        listen: machine.ports.mesh.to_string(),
        http: machine.ports.http.to_string(),
        edge_listen: machine.ports.edge.iter().map(ToString::to_string).collect(),
        edge_metrics: machine.ports.edge_metrics.to_string(),
        folder,
    }
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("{count} {noun}") } else { format!("{count} {noun}s") }
}
