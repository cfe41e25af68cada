//! The sections of the process itself.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use trishula::link::dial;
use trishula::rt::platform;
use trishula::wire::ids::{Namespace, NodeName};

use crate::front::net::Net;

use super::ServiceSection;

/// `[edge]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EdgeSection {
    /// As `/health` shows it.
    pub name: String,
    /// How long a stop may wait for sessions to end.
    pub drain_ms: u64,
    /// Connections at once, of all services together; one more is turned away.
    pub max_connections: usize,
    /// Threads that serve; one is cheapest where the machine has few cores.
    pub threads: usize,
}

impl Default for EdgeSection {
    fn default() -> Self {
        Self { name: "trishula".into(), drain_ms: 5_000, max_connections: 65_536, threads: 1 }
    }
}

/// `[identity]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdentitySection {
    /// The folder with `ca.pem`, `link.pem`, `link.key`, and `public.pem`, `public.key` for the services that
    /// name no certificate of their own.
    pub dir: PathBuf,
}

impl Default for IdentitySection {
    fn default() -> Self {
        Self { dir: "edge-identity".into() }
    }
}

/// `[uplink]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UplinkSection {
    /// Addresses of the node, tried in this order: `unix:PATH` on the same machine, `host:port`, or
    /// `wss://HOST:PORT/mesh` of its edge for when UDP is blocked.
    pub nodes: Vec<String>,
    /// CAs by one of which those edges must be signed; without, any certificate will do, as what passes them is under TLS of
    /// the mesh's own.
    pub fallback_ca: Option<PathBuf>,
    /// The node's name; without one, any node of the mesh will do.
    pub node: Option<NodeName>,
}

impl Default for UplinkSection {
    fn default() -> Self {
        let socket = format!("{}{}", dial::UNIX, platform::default_edge_socket().display());
        Self { nodes: vec![socket, "127.0.0.1:8766".into()], fallback_ca: None, node: None }
    }
}

/// `[relay]`: other nodes that get no UDP through, at `/mesh` of every service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelaySection {
    /// Whether they are passed on.
    pub serve: bool,
    /// The node's Unix socket for it.
    pub socket: PathBuf,
    /// At once; of one address no more than a quarter.
    pub max_relays: usize,
}

impl Default for RelaySection {
    fn default() -> Self {
        Self { serve: true, socket: platform::default_relay_socket(), max_relays: 128 }
    }
}

/// `[metrics]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSection {
    /// Where `/metrics`, `/health` and `/ready` are served without TLS: a loopback address as a rule.
    pub listen: SocketAddr,
    /// Who may ask there: addresses and networks.
    pub allow: Vec<Net>,
}

impl Default for MetricsSection {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9090)), allow: Net::loopback() }
    }
}

/// `[[rule]]`: agents of one service come in at another, with tokens of their own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSection {
    /// Whose tokens.
    pub from: Namespace,
    /// Where they are good.
    pub to: Namespace,
    /// Any one of these permissions is enough.
    pub permissions: Vec<String>,
    /// What they may there.
    #[serde(default)]
    pub grants: Vec<String>,
}

impl RuleSection {
    /// Why it can't hold.
    pub(super) fn check(&self, services: &[ServiceSection]) -> Result<(), String> {
        for name in [&self.from, &self.to] {
            let Some(service) = services.iter().find(|service| service.name == *name) else {
                return Err(format!("there is no service {name}"));
            };
            if !service.reads_tokens() {
                return Err(format!(
                    "service {name} has nothing to check tokens by, so nobody could come in by this rule; give it \
                     secret_file, secret_env or jwks_file, or take the rule out"
                ));
            }
        }
        if self.from == self.to {
            return Err("is for two services; in one, everybody is at home: take the rule out".into());
        }
        if self.permissions.is_empty() {
            return Err("permissions: is empty; name those of which a token must have one".into());
        }
        Ok(())
    }
}
