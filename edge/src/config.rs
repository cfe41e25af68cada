//! The file `edge.toml`. `deploy/edge.toml` is the same with a comment on every key.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use trishula::config::log::LogSection;
use trishula::config::{Error, load, resolve};
use trishula::link::dial;
use trishula::rt::platform;
use trishula::wire::client::DEFAULT_MAX_FRAME;
use trishula::wire::ids::{Namespace, NodeName};
use trishula::wire::url::RELAY_PATH;

use crate::{deflate, echo};

/// The file's name within a configuration folder.
pub const FILE: &str = "edge.toml";

/// Where the file lies by default.
pub fn default_path() -> PathBuf {
    platform::default_config_dir().join(FILE)
}

/// Everything an edge is told.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeConfig {
    /// The process.
    #[serde(default)]
    pub edge: EdgeSection,
    /// Who it is for its node.
    #[serde(default)]
    pub identity: IdentitySection,
    /// Where its node is.
    #[serde(default)]
    pub uplink: UplinkSection,
    /// What it passes on to its node.
    #[serde(default)]
    pub relay: RelaySection,
    /// What it serves.
    #[serde(default, rename = "service")]
    pub services: Vec<ServiceSection>,
    /// Health and metrics.
    #[serde(default)]
    pub metrics: MetricsSection,
    /// Its log.
    #[serde(default)]
    pub log: LogSection,
}

/// `[edge]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EdgeSection {
    /// As `/health` shows it.
    pub name: String,
    /// How long a stop may wait for sessions to end.
    pub drain_ms: u64,
    /// Threads that serve; one is cheapest where the machine has few cores.
    pub threads: usize,
}

impl Default for EdgeSection {
    fn default() -> Self {
        Self { name: "trishula".into(), drain_ms: 5_000, threads: 1 }
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
    /// Addresses of the node, tried in this order: `host:port`, or `unix:PATH` on the same machine.
    pub nodes: Vec<String>,
    /// The node's name; without one, any node of the mesh will do.
    pub node: Option<NodeName>,
}

impl Default for UplinkSection {
    fn default() -> Self {
        let socket = format!("{}{}", dial::UNIX, platform::default_edge_socket().display());
        Self { nodes: vec![socket, "127.0.0.1:8766".into()], node: None }
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

/// `[[service]]`: one namespace's entrance.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSection {
    /// The namespace.
    pub name: Namespace,
    /// Where it listens.
    #[serde(default = "listen_default")]
    pub listen: Vec<SocketAddr>,
    /// Certificate chain, PEM; `public.pem` of the identity when absent.
    pub cert: Option<PathBuf>,
    /// Its key, PEM.
    pub key: Option<PathBuf>,
    /// The file with the secret that signs tokens.
    pub secret_file: Option<PathBuf>,
    /// Or the environment variable with it.
    pub secret_env: Option<String>,
    /// The file with the public keys of others who make tokens (JWK Set).
    pub jwks_file: Option<PathBuf>,
    /// The file with tokens that were taken back.
    pub revoked_file: Option<PathBuf>,
    /// Whether clients need a token at all. Only for a network in which everybody is trusted.
    #[serde(default = "yes")]
    pub auth: bool,
    /// Whether a token must end.
    #[serde(default = "yes")]
    pub require_exp: bool,
    /// Paths on which a WebSocket is served.
    #[serde(default = "paths_default")]
    pub paths: Vec<String>,
    /// Largest frame in bytes.
    #[serde(default = "max_frame_default")]
    pub max_frame: usize,
    /// Longest silence before a ping.
    #[serde(default = "ping_interval_default")]
    pub ping_interval_s: u64,
    /// How long a ping may stay unanswered; three heartbeats when absent.
    pub ping_timeout_s: Option<u64>,
    /// Connections at once; more wait in the system's queue.
    #[serde(default = "max_connections_default")]
    pub max_connections: usize,
    /// How long TLS and the request for the upgrade may take.
    #[serde(default = "handshake_default")]
    pub handshake_timeout_ms: u64,
    /// Whether `/echo` is served: every message comes back as it came.
    #[serde(default)]
    pub echo: bool,
    /// Compression of messages, for clients that offer it.
    #[serde(default)]
    pub deflate: deflate::Settings,
}

fn listen_default() -> Vec<SocketAddr> {
    vec![SocketAddr::from(([0, 0, 0, 0], 443)), SocketAddr::from(([0, 0, 0, 0], 8765))]
}

fn yes() -> bool {
    true
}

fn paths_default() -> Vec<String> {
    vec!["/".into(), "/ws".into()]
}

fn max_frame_default() -> usize {
    DEFAULT_MAX_FRAME
}

fn ping_interval_default() -> u64 {
    20
}

fn max_connections_default() -> usize {
    10_000
}

fn handshake_default() -> u64 {
    10_000
}

impl ServiceSection {
    /// How long TLS and the request for the upgrade may take.
    pub fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.handshake_timeout_ms)
    }
}

/// `[metrics]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSection {
    /// Where `/metrics` and `/health` are served without TLS: a loopback address.
    pub listen: SocketAddr,
}

impl Default for MetricsSection {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9090)) }
    }
}

impl EdgeConfig {
    /// Reads a configuration and checks that its values go together. Relative paths in it count from the file's
    /// own folder, so that a bundle can be moved as a whole.
    ///
    /// # Errors
    ///
    /// See [`load`].
    pub fn load(
        path: &Path,
        environment: impl Iterator<Item = (String, String)>,
        overrides: Vec<(String, toml::Value)>,
    ) -> Result<EdgeConfig, Error> {
        let mut config: EdgeConfig = load(path, environment, overrides)?;
        config.check().map_err(|(key, why)| Error::Together { path: path.into(), key, why })?;
        let services = config.services.iter_mut();
        let files = services
            .flat_map(|s| {
                [&mut s.cert, &mut s.key, &mut s.secret_file, &mut s.jwks_file, &mut s.revoked_file]
            })
            .flatten();
        files
            .chain([&mut config.identity.dir, &mut config.relay.socket])
            .for_each(|file| resolve(path, file));
        for address in &mut config.uplink.nodes {
            if let Some(socket) = address.strip_prefix(dial::UNIX) {
                let mut socket = PathBuf::from(socket);
                resolve(path, &mut socket);
                *address = format!("{}{}", dial::UNIX, socket.display());
            }
        }
        Ok(config)
    }

    /// The key at fault, and why.
    fn check(&self) -> Result<(), (String, String)> {
        let wrong = |key: &str, why: String| Err((key.to_owned(), why));
        if self.services.is_empty() {
            return wrong("service", "there is none; an edge without a [[service]] serves nobody".into());
        }
        if self.uplink.nodes.is_empty() {
            return wrong(
                "uplink.nodes",
                "is empty; give the node's address, usually \"127.0.0.1:8766\"".into(),
            );
        }
        if !(1..=64).contains(&self.edge.threads) {
            return wrong("edge.threads", format!("{} is not from 1 to 64", self.edge.threads));
        }
        if !(1..=4096).contains(&self.relay.max_relays) {
            return wrong("relay.max_relays", format!("{} is not from 1 to 4096", self.relay.max_relays));
        }
        let taken = self.services.iter().find(|service| service.paths.iter().any(|path| path == RELAY_PATH));
        if let Some(service) = taken.filter(|_| self.relay.serve) {
            let why = format!(
                "{RELAY_PATH} is where other nodes are relayed; take another path, or set [relay] serve = false"
            );
            return wrong(&format!("service {}: paths", service.name), why);
        }
        let mut seen = vec![self.metrics.listen];
        for service in &self.services {
            service.check().map_err(|(key, why)| (format!("service {}: {key}", service.name), why))?;
            for listen in &service.listen {
                if listen.port() != 0 && seen.contains(listen) {
                    let key = format!("service {}: listen", service.name);
                    return wrong(&key, format!("{listen} is used twice"));
                }
                seen.push(*listen);
            }
        }
        Ok(())
    }
}

impl ServiceSection {
    fn check(&self) -> Result<(), (&'static str, String)> {
        match (&self.secret_file, &self.secret_env, self.auth) {
            (Some(_), Some(_), _) => {
                return Err(("secret_file", "secret_env is there too; give one of the two".into()));
            }
            (None, None, true) if self.jwks_file.is_none() => {
                let why = "is missing, and tokens can't be checked without, or without jwks_file; \
                           make one with: head -c 48 /dev/urandom | base64 > FILE";
                return Err(("secret_file", why.into()));
            }
            _ => {}
        }
        if self.cert.is_some() != self.key.is_some() {
            return Err(("cert", "goes with key; give both or none".into()));
        }
        if self.listen.is_empty() {
            return Err(("listen", "is empty".into()));
        }
        let bounds = [
            ("max_frame", self.max_frame as u64, 1024, 16 << 20),
            ("ping_interval_s", self.ping_interval_s, 1, 600),
            ("ping_timeout_s", self.ping_timeout_s.unwrap_or(1), 1, 600),
            ("max_connections", self.max_connections as u64, 1, 1_000_000),
            ("handshake_timeout_ms", self.handshake_timeout_ms, 100, 600_000),
        ];
        for (key, value, low, high) in bounds {
            if !(low..=high).contains(&value) {
                return Err((key, format!("{value} is not from {low} to {high}")));
            }
        }
        self.deflate.check()?;
        if self.echo && self.paths.iter().any(|path| path == echo::PATH) {
            return Err(("paths", format!("{} is taken by echo; leave one of the two out", echo::PATH)));
        }
        match self.paths.iter().find(|path| !path.starts_with('/')) {
            Some(path) => Err(("paths", format!("{path:?} must begin with a '/'"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<EdgeConfig, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.toml");
        std::fs::write(&path, text).unwrap();
        EdgeConfig::load(&path, std::iter::empty(), Vec::new())
    }

    #[test]
    fn the_reference_configuration_is_read() {
        // covers T03
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/edge.toml");
        let config = EdgeConfig::load(&path, std::iter::empty(), Vec::new()).unwrap();
        assert_eq!(config.services[0].name.as_str(), "trishula");
        assert_eq!(config.services[0].listen, listen_default());
        assert_eq!(config.services[0].max_frame, DEFAULT_MAX_FRAME);
        assert_eq!(config.services[0].deflate, deflate::Settings::default());
        assert!(!config.services[0].echo);
        assert_eq!(config.metrics.listen, MetricsSection::default().listen);
        assert_eq!(config.uplink.nodes, UplinkSection::default().nodes);
        assert_eq!((config.relay.serve, config.relay.max_relays), (true, RelaySection::default().max_relays));
        assert_eq!(config.relay.socket, RelaySection::default().socket);
    }

    #[test]
    fn unknown_keys_and_bad_values_say_where_and_what() {
        // covers T03
        let service = "[[service]]\nname = \"trishula\"\nsecret_file = \"s\"\n";
        for (text, says) in [
            ("[edge]\nnmae = \"x\"\n".to_owned(), "nmae"),
            (format!("{service}max_frmae = 5\n"), "edge.toml:4:"),
            (format!("{service}max_frame = \"big\"\n"), "edge.toml:4:"),
            (
                format!("{service}paths = [\"/mesh\"]\n"),
                "service trishula: paths: /mesh is where other nodes",
            ),
            (format!("[relay]\nmax_relays = 0\n{service}"), "relay.max_relays: 0 is not from 1 to 4096"),
            (format!("[relay]\nsokcet = \"x\"\n{service}"), "sokcet"),
            (format!("{service}max_frame = 5\n"), "service trishula: max_frame: 5 is not from 1024"),
            (format!("{service}secret_env = \"S\"\n"), "give one of the two"),
            (
                format!("{service}[service.deflate]\nwindow_bits = 8\n"),
                "service trishula: deflate.window_bits: 8 is not from 9 to 15",
            ),
            (format!("{service}[service.deflate]\nlevle = 8\n"), "levle"),
            (format!("{service}echo = true\npaths = [\"/echo\"]\n"), "paths: /echo is taken by echo"),
            (format!("{service}listen = [\"localhost\"]\n"), "edge.toml:4:"),
            ("[[service]]\nname = \"Trishula\"\n".to_owned(), "is not a namespace"),
            ("[[service]]\nname = \"trishula\"\n".to_owned(), "secret_file: is missing"),
            (String::new(), "without a [[service]]"),
            ("[edge\n".to_owned(), "edge.toml:1:"),
        ] {
            let error = load(&text).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("edge.toml"), "{text}: {error}");
        }
        let nowhere = EdgeConfig::load(Path::new("/nowhere/edge.toml"), std::iter::empty(), Vec::new());
        assert!(nowhere.unwrap_err().to_string().contains("--config"));
    }

    #[test]
    fn the_environment_wins_over_the_file_and_flags_over_both() {
        // covers T21
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.toml");
        let text = "[log]\nlevel = \"warn\"\n[[service]]\nname = \"trishula\"\nsecret_file = \"s\"\n";
        std::fs::write(&path, text).unwrap();
        let environment = || [("TRISHULA_LOG_LEVEL".to_owned(), "debug".to_owned())].into_iter();
        assert_eq!(EdgeConfig::load(&path, environment(), Vec::new()).unwrap().log.level, "debug");
        let flags = vec![("log.level".to_owned(), toml::Value::from("trace"))];
        assert_eq!(EdgeConfig::load(&path, environment(), flags).unwrap().log.level, "trace");
        let bad = [("TRISHULA_EDGE_DRAIN_MS".to_owned(), "soon".to_owned())].into_iter();
        let error = EdgeConfig::load(&path, bad, Vec::new()).unwrap_err().to_string();
        assert!(error.contains("TRISHULA_EDGE_DRAIN_MS"), "{error}");
    }
}
