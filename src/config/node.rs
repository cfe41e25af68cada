//! The whole of `node.toml`. `deploy/node.toml` is the same with a comment on every key; a test reads it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, de};

use super::address::{HostPort, listen};
use super::limits::LimitsSection;
use super::log::LogSection;
use super::{Error, load, resolve};
use crate::rt::platform;
use crate::wire::ids::NodeName;
use crate::wire::url::WssUrl;

/// The file's name within a configuration folder.
pub const FILE: &str = "node.toml";
/// UDP port of a node.
pub const DEFAULT_PORT: u16 = 8766;
/// TCP port of a node's health and metrics, on loopback.
pub const DEFAULT_HTTP_PORT: u16 = 9089;

/// Everything a node is told.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Who it is.
    pub node: NodeSection,
    /// Its certificates.
    #[serde(default)]
    pub identity: IdentitySection,
    /// Its links to other nodes.
    #[serde(default)]
    pub mesh: MeshSection,
    /// The command line's way in, health and metrics.
    #[serde(default)]
    pub admin: AdminSection,
    /// Entrances for clients.
    #[serde(default)]
    pub gateway: GatewaySection,
    /// What it keeps and lets pass of durable messages.
    #[serde(default)]
    pub limits: LimitsSection,
    /// Its log.
    #[serde(default)]
    pub log: LogSection,
}

/// `[node]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSection {
    /// As in its certificate.
    pub name: NodeName,
    /// What it must not forget; writable, on a local disk.
    #[serde(default = "platform::default_data_dir")]
    pub data_dir: PathBuf,
}

/// `[identity]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdentitySection {
    /// The folder with `ca.pem`, `link.pem` and `link.key`.
    pub dir: PathBuf,
    /// The folder with the CA's key; only on the machine that holds it.
    pub ca_dir: Option<PathBuf>,
    /// The folder of this machine's edge, whose link certificate the node renews along with its own.
    pub edge_dir: Option<PathBuf>,
}

/// `[mesh]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MeshSection {
    /// UDP address to listen on.
    #[serde(deserialize_with = "listen")]
    pub listen: SocketAddr,
    /// Where others can dial this node; empty: it dials out only.
    pub advertise: Vec<HostPort>,
    /// Where this machine's edge relays to this node, for others that get no UDP through.
    pub advertise_fallback: Vec<WssUrl>,
    /// CAs (PEM) that the certificates of other machines' edges must be of; absent: any will do, as the TLS within
    /// knows who is there.
    pub fallback_ca: Option<PathBuf>,
    /// Milliseconds between signs of life on a link.
    #[serde(deserialize_with = "heartbeat")]
    pub heartbeat_ms: u64,
    /// Who decides how much may be under way on a link.
    pub congestion: Congestion,
    /// KiB that loss always leaves under way, with `cubic`.
    #[serde(deserialize_with = "floor")]
    pub congestion_floor_kib: u64,
    /// KiB that UDP may hold for this node in each direction, if the system allows it.
    #[serde(deserialize_with = "udp_buffer")]
    pub udp_buffer_kib: u64,
    /// Nodes to dial from the start; others are learnt from them.
    pub peers: Vec<PeerSection>,
}

/// Who decides how much may be under way on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// Cubic between a floor and a ceiling by delay.
    Cubic,
    /// quinn's BBR.
    Bbr,
}

/// `[[mesh.peers]]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerSection {
    /// As in its certificate.
    pub name: NodeName,
    /// Where it can be dialled; tried in this order. Empty: it dials us.
    #[serde(default)]
    pub addresses: Vec<HostPort>,
    /// Where its edge relays to it, for when UDP is blocked. Empty: where it says itself.
    #[serde(default)]
    pub fallback: Vec<WssUrl>,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminSection {
    /// The Unix socket that the command line asks.
    pub socket: PathBuf,
    /// TCP address of `/health` and `/metrics`.
    #[serde(deserialize_with = "listen")]
    pub http: SocketAddr,
}

/// `[gateway]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewaySection {
    /// Whether agents with a certificate of their own may come in over QUIC.
    pub native: bool,
    /// The Unix socket on which this machine's edge comes in.
    pub edge_socket: PathBuf,
    /// The Unix socket on which this machine's edge relays other nodes that get no UDP through.
    pub relay_socket: PathBuf,
}

impl Default for IdentitySection {
    fn default() -> Self {
        Self { dir: platform::default_config_dir().join("identity"), ca_dir: None, edge_dir: None }
    }
}

impl Default for MeshSection {
    fn default() -> Self {
        Self {
            listen: (Ipv6Addr::UNSPECIFIED, DEFAULT_PORT).into(),
            advertise: Vec::new(),
            advertise_fallback: Vec::new(),
            fallback_ca: None,
            heartbeat_ms: 120,
            congestion: Congestion::Cubic,
            congestion_floor_kib: 64,
            udp_buffer_kib: 4096,
            peers: Vec::new(),
        }
    }
}

impl Default for AdminSection {
    fn default() -> Self {
        Self { socket: platform::default_socket(), http: (Ipv4Addr::LOCALHOST, DEFAULT_HTTP_PORT).into() }
    }
}

impl Default for GatewaySection {
    fn default() -> Self {
        let (edge_socket, relay_socket) = (platform::default_edge_socket(), platform::default_relay_socket());
        Self { native: true, edge_socket, relay_socket }
    }
}

/// Where `node.toml` is unless told otherwise.
pub fn default_path() -> PathBuf {
    platform::default_config_dir().join(FILE)
}

impl NodeConfig {
    /// Reads a node's configuration and checks that its values go together. Relative paths in it count from the
    /// file's own folder.
    ///
    /// # Errors
    ///
    /// See [`load`].
    pub fn load(
        path: &Path,
        environment: impl Iterator<Item = (String, String)>,
        overrides: Vec<(String, toml::Value)>,
    ) -> Result<NodeConfig, Error> {
        let mut config: NodeConfig = load(path, environment, overrides)?;
        config.check().map_err(|(key, why)| Error::Together { path: path.into(), key, why })?;
        let NodeConfig { node, identity, mesh, admin, gateway, log, .. } = &mut config;
        let sockets = [&mut admin.socket, &mut gateway.edge_socket, &mut gateway.relay_socket];
        let paths = [&mut node.data_dir, &mut identity.dir].into_iter().chain(sockets);
        let optional = identity.ca_dir.iter_mut().chain(&mut identity.edge_dir).chain(&mut mesh.fallback_ca);
        let optional = optional.chain(&mut log.file);
        paths.chain(optional).for_each(|each| resolve(path, each));
        Ok(config)
    }

    fn check(&self) -> Result<(), (String, String)> {
        let mut seen = BTreeSet::new();
        for (n, peer) in self.mesh.peers.iter().enumerate() {
            let key = format!("mesh.peers[{n}].name");
            if peer.name == self.node.name {
                return Err((key, format!("{} is this node itself; remove that peer", peer.name)));
            }
            if !seen.insert(&peer.name) {
                return Err((key, format!("{} is there twice; put its addresses into one list", peer.name)));
            }
            if let Some(own) = peer.fallback.iter().find(|url| self.mesh.advertise_fallback.contains(url)) {
                let key = format!("mesh.peers[{n}].fallback");
                return Err((
                    key,
                    format!("{own} is this node's own edge, in advertise_fallback; give {}'s", peer.name),
                ));
            }
        }
        if self.gateway.edge_socket == self.gateway.relay_socket {
            let why = "is edge_socket as well; each needs a path of its own";
            return Err(("gateway.relay_socket".into(), why.into()));
        }
        Ok(())
    }
}

fn heartbeat<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    within(from, 100..=60_000, "milliseconds")
}

fn floor<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    within(from, 16..=4096, "KiB")
}

fn udp_buffer<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    within(from, 64..=1_048_576, "KiB")
}

fn within<'de, D: Deserializer<'de>>(
    from: D,
    range: RangeInclusive<u64>,
    unit: &str,
) -> Result<u64, D::Error> {
    let given = u64::deserialize(from)?;
    if range.contains(&given) {
        return Ok(given);
    }
    Err(de::Error::custom(format!("{given} is not from {} to {} {unit}", range.start(), range.end())))
}
