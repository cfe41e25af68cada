//! What is in a machine's folder: `init`, `invite --offline` and `join` write the same.
//!
//! ```text
//!  agni/  node.toml  edge.toml
//!         identity/       ca.pem  link.pem  link.key               the node
//!         edge-identity/  ca.pem  link.pem  link.key  public.*     its edge: for its link, and for its clients
//!         secrets/        trishula.secret                          signs the tokens of clients
//!         ca/             ca.pem  ca.key  …                        only on the machine that holds the CA
//! ```
//!
//! Paths in the two files are relative to them, so the folder works wherever it is copied to.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};

use crate::config::address::HostPort;
use crate::identity::bundle::{Bundle, Parts};
use crate::identity::enrol::PublicNames;
use crate::identity::files::{self, Access};
use crate::rt::platform;
use crate::wire::ids::NodeName;
use crate::wire::url::{RELAY_PATH, WSS, WssUrl, authority};

/// Within a machine's folder.
pub(crate) const NODE_TOML: &str = "node.toml";
/// See [`NODE_TOML`].
pub(crate) const EDGE_TOML: &str = "edge.toml";
/// See [`NODE_TOML`].
pub(crate) const IDENTITY: &str = "identity";
/// See [`NODE_TOML`].
pub(crate) const EDGE_IDENTITY: &str = "edge-identity";
/// See [`NODE_TOML`].
pub(crate) const SECRETS: &str = "secrets";
/// See [`NODE_TOML`].
pub(crate) const SECRET: &str = "trishula.secret";
/// See [`NODE_TOML`].
pub(crate) const CA: &str = "ca";

/// The edge's first port.
const EDGE_PORT: u16 = 443;
/// Most that one `join` writes as a secret, in bytes.
const MAX_SECRET: usize = 4096;

/// Ports that one machine takes on loopback, and where the search for free ones begins.
const STRIDE: u16 = 10;
const FIRST_BASE: u16 = 18_700;

/// Where everything of one machine listens.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ports {
    /// UDP, of the node.
    pub mesh: SocketAddr,
    /// TCP, health and metrics of the node.
    pub http: SocketAddr,
    /// TCP, clients of the edge.
    pub edge: Vec<SocketAddr>,
    /// TCP, health and metrics of the edge.
    pub edge_metrics: SocketAddr,
}

/// One machine, as its two files say it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Machine {
    /// Its name.
    pub name: NodeName,
    /// Where others dial it; empty: it dials out only.
    pub advertise: Vec<HostPort>,
    /// The others that can be dialled.
    pub peers: Vec<(NodeName, Vec<HostPort>)>,
    /// Where it listens.
    pub ports: Ports,
    /// Whether the CA lies in its folder.
    pub holds_ca: bool,
    /// Whether data and socket lie in its folder too, so that several machines fit on one.
    pub self_contained: bool,
}

/// Certificates and keys of one machine.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a> {
    /// The mesh's CA.
    pub ca_pem: &'a str,
    /// The node's.
    pub node: (&'a str, &'a str),
    /// The edge's, for its link.
    pub edge: (&'a str, &'a str),
    /// The edge's, for its clients.
    pub public: (&'a str, &'a str),
    /// The revocation list, DER.
    pub revoked: Option<&'a [u8]>,
    /// What signs the tokens of clients.
    pub secret: &'a [u8],
}

impl Ports {
    /// On a machine of its own, on every address; `port` is the node's.
    pub fn system(port: u16) -> Ports {
        let everywhere = |port| SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
        let loopback = |port| SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, port));
        Ports {
            mesh: everywhere(port),
            http: loopback(9089),
            edge: vec![everywhere(EDGE_PORT), everywhere(8765)],
            edge_metrics: loopback(9090),
        }
    }

    /// On loopback, [`STRIDE`] ports a machine from `base` on.
    fn loopback(base: u16) -> Ports {
        let at = |offset| SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, base + offset));
        Ports { mesh: at(0), http: at(1), edge: vec![at(2), at(3)], edge_metrics: at(4) }
    }
}

impl Ports {
    fn are_free(&self) -> bool {
        let tcp = self.edge.iter().chain([&self.http, &self.edge_metrics]);
        UdpSocket::bind(self.mesh).is_ok()
            && tcp.into_iter().all(|address| TcpListener::bind(address).is_ok())
    }

    /// For so many machines on loopback: from `base` on, or wherever all of them are free.
    pub fn many(machines: usize, base: Option<u16>) -> anyhow::Result<Vec<Ports>> {
        let needed = u16::try_from(machines).ok().and_then(|machines| machines.checked_mul(STRIDE));
        let Some(needed) = needed else { bail!("{machines} machines do not fit on one") };
        let all = |base: u16| (base..base + needed).step_by(STRIDE.into()).map(Ports::loopback);
        if let Some(base) = base {
            ensure!(
                base > 0 && base.checked_add(needed).is_some(),
                "--base-port {base}: {needed} ports from there on are needed, and ports end at 65535"
            );
            return Ok(all(base).collect());
        }
        let mut bases = (FIRST_BASE..u16::MAX.saturating_sub(needed)).step_by(100);
        match bases.find(|base| all(*base).all(|ports| ports.are_free())) {
            Some(base) => Ok(all(base).collect()),
            None => bail!(
                "no {needed} free ports were found on 127.0.0.1; say where they are with --base-port PORT"
            ),
        }
    }
}

impl Machine {
    /// The text of `node.toml`.
    pub fn node_toml(&self) -> String {
        let name = &self.name;
        let mut out = format!(
            "# Node {name}. Every key is explained in deploy/node.toml. Relative paths count from this file's folder.\n\
             # To check: trishula check --config {NODE_TOML}\n\n[node]\nname = \"{name}\"\n"
        );
        let data = if self.self_contained { "data".into() } else { platform::default_data_dir() };
        let socket = if self.self_contained { "node.sock".into() } else { platform::default_socket() };
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "data_dir = {}\n\n[identity]\ndir = \"{IDENTITY}\"\nedge_dir = \"{EDGE_IDENTITY}\"\n",
            quoted_path(&data)
        );
        if self.holds_ca {
            let _ = writeln!(
                out,
                "# The key of the mesh's CA: only here. Keep a copy off this machine.\nca_dir = \"{CA}\""
            );
        }
        let _ = write!(out, "\n[mesh]\nlisten = \"{}\"\n", self.ports.mesh);
        if self.advertise.is_empty() {
            out.push_str("# Nobody can dial this node (it is behind NAT): it dials out only.\n");
        }
        let _ = writeln!(out, "advertise = {}", quoted(&self.advertise));
        let own = self.fallback(&self.advertise);
        if !own.is_empty() {
            let _ = writeln!(
                out,
                "# For others that get no UDP through: this machine's edge passes them on.\nadvertise_fallback = {}",
                quoted(&own)
            );
        }
        for (peer, addresses) in &self.peers {
            let _ = write!(out, "\n[[mesh.peers]]\nname = \"{peer}\"\naddresses = {}\n", quoted(addresses));
            let fallback = self.fallback(addresses);
            if !fallback.is_empty() {
                let _ = writeln!(out, "fallback = {}", quoted(&fallback));
            }
        }
        let http = self.ports.http;
        let _ = write!(out, "\n[admin]\nsocket = {}\nhttp = \"{http}\"\n", quoted_path(&socket));
        let (edge, relay) = (quoted_path(&self.edge_socket()), quoted_path(&self.relay_socket()));
        let _ = write!(out, "\n[gateway]\nnative = true\nedge_socket = {edge}\nrelay_socket = {relay}\n");
        out.push_str("\n[log]\nlevel = \"info\"\nformat = \"text\"\n");
        out
    }

    /// The text of `edge.toml`.
    pub fn edge_toml(&self) -> String {
        let name = &self.name;
        let node = [
            format!("unix:{}", self.edge_socket().display()),
            format!("127.0.0.1:{}", self.ports.mesh.port()),
        ];
        format!(
            "# The edge of node {name}. Every key is explained in deploy/edge.toml. Relative paths count from this file's folder.\n\
             # To check: trishula-edge check --config {EDGE_TOML}\n\n\
             [edge]\nname = \"{name}\"\n\n\
             [identity]\ndir = \"{EDGE_IDENTITY}\"\n\n\
             [uplink]\nnodes = {}\n\n\
             # Other nodes that get no UDP through come in at wss://HOST/mesh, and are passed on to this node.\n\
             [relay]\nsocket = {}\n\n\
             [[service]]\nname = \"trishula\"\nlisten = {}\n\
             # Files of Let's Encrypt may stand here instead; they are read again when they change.\n\
             cert = \"{EDGE_IDENTITY}/public.pem\"\nkey = \"{EDGE_IDENTITY}/public.key\"\n\
             secret_file = \"{SECRETS}/{SECRET}\"\n\
             # Seconds that a token is good at the most, whatever it says; 0: as long as it says.\n\
             token_expiry_s = 3600\n\n\
             [metrics]\nlisten = \"{}\"\n\n\
             [log]\nlevel = \"info\"\nformat = \"text\"\n",
            quoted(&node),
            quoted_path(&self.relay_socket()),
            quoted(&self.ports.edge),
            self.ports.edge_metrics,
        )
    }

    /// Where the edge of a machine with these addresses passes nodes on, as [`Ports::system`] has it. On loopback UDP is
    /// never blocked.
    fn fallback(&self, addresses: &[HostPort]) -> Vec<WssUrl> {
        let mut found: Vec<WssUrl> = Vec::new();
        for address in addresses.iter().filter(|_| !self.self_contained) {
            let url = format!("{WSS}{}{RELAY_PATH}", authority(address.host(), EDGE_PORT)).parse();
            found.extend(url.ok().filter(|url| !found.contains(url)));
        }
        found
    }

    fn edge_socket(&self) -> PathBuf {
        if self.self_contained { "edge.sock".into() } else { platform::default_edge_socket() }
    }

    fn relay_socket(&self) -> PathBuf {
        if self.self_contained { "relay.sock".into() } else { platform::default_relay_socket() }
    }

    /// Writes the machine's folder. What is secret is 0600 from its first moment.
    pub fn write(&self, folder: &Path, keys: &Keys<'_>) -> anyhow::Result<()> {
        files::make_folder(folder)?;
        let (ca_pem, revoked) = (Some(keys.ca_pem), keys.revoked);
        let node = Parts { ca_pem, link: Some(keys.node), public: None, revoked };
        Bundle::write(&folder.join(IDENTITY), &node)?;
        let edge = Parts { ca_pem, link: Some(keys.edge), public: Some(keys.public), revoked };
        Bundle::write(&folder.join(EDGE_IDENTITY), &edge)?;
        write_secret(&folder.join(SECRETS), keys.secret)?;
        self.write_configuration(folder)
    }

    /// Writes the two files only.
    pub fn write_configuration(&self, folder: &Path) -> anyhow::Result<()> {
        files::write(&folder.join(EDGE_TOML), self.edge_toml().as_bytes(), Access::Public)?;
        Ok(files::write(&folder.join(NODE_TOML), self.node_toml().as_bytes(), Access::Public)?)
    }
}

/// Under which names clients may reach an edge: as this machine itself, and as `hosts`.
pub(crate) fn public_names<'a>(hosts: impl IntoIterator<Item = &'a str>) -> PublicNames {
    let mut names = PublicNames {
        dns: vec!["localhost".to_owned()],
        ips: vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)],
    };
    for host in hosts {
        match host.parse() {
            Ok(ip) if !names.ips.contains(&ip) => names.ips.push(ip),
            Err(_) if !names.dns.iter().any(|known| known == host) => names.dns.push(host.to_owned()),
            _ => {}
        }
    }
    names
}

/// Addresses by machine, in the order in which they came.
pub(crate) fn group(addresses: &[(NodeName, String)]) -> Vec<(NodeName, Vec<HostPort>)> {
    let mut grouped: Vec<(NodeName, Vec<HostPort>)> = Vec::new();
    for (name, address) in addresses {
        // What another version may write and this one can't read is no address for it.
        let Ok(address) = address.parse() else { continue };
        match grouped.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => known.push(address),
            None => grouped.push((name.clone(), vec![address])),
        }
    }
    grouped
}

/// Writes the secret that signs clients' tokens.
pub(crate) fn write_secret(folder: &Path, secret: &[u8]) -> anyhow::Result<()> {
    if secret.is_empty() || secret.len() > MAX_SECRET {
        bail!("a secret of {} bytes came with the identity; 1 to {MAX_SECRET} are expected", secret.len());
    }
    files::make_folder(folder)?;
    Ok(files::write(&folder.join(SECRET), secret, Access::Private)?)
}

/// Refuses a folder in which something of ours lies already.
pub(crate) fn refuse_used(folder: &Path) -> anyhow::Result<()> {
    let ours = [NODE_TOML, EDGE_TOML, IDENTITY, EDGE_IDENTITY, SECRETS, CA];
    let Some(there) = ours.iter().map(|name| folder.join(name)).find(|path| path.exists()) else {
        return Ok(());
    };
    let shown = folder.display();
    bail!(
        "{} exists already, and is not overwritten: keys would be lost; choose another folder with --out, or move it away: mv '{shown}' '{shown}.old'",
        there.display()
    )
}

fn quoted<T: ToString>(items: &[T]) -> String {
    let items: Vec<toml::Value> = items.iter().map(|item| item.to_string().into()).collect();
    toml::Value::Array(items).to_string()
}

fn quoted_path(path: &Path) -> String {
    toml::Value::String(path.display().to_string()).to_string()
}
