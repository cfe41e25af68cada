//! The file `edge.toml`. `deploy/edge.toml` is the same with a comment on every key.

mod sections;
mod service;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde::Deserialize;
use trishula::config::log::LogSection;
use trishula::config::{Error, load, resolve};
use trishula::link::dial;
use trishula::rt::platform;
use trishula::wire::url::RELAY_PATH;

use crate::front;

pub use sections::{EdgeSection, IdentitySection, MetricsSection, RelaySection, UplinkSection};
pub use service::ServiceSection;

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
    /// Plain HTTP, sent to TLS.
    #[serde(default)]
    pub redirect: front::redirect::Settings,
    /// Its log.
    #[serde(default)]
    pub log: LogSection,
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
                [
                    &mut s.cert,
                    &mut s.key,
                    &mut s.ca_file,
                    &mut s.secret_file,
                    &mut s.jwks_file,
                    &mut s.revoked_file,
                ]
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
        seen.extend(&self.redirect.listen);
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
