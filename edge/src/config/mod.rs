//! The file `edge.toml`. `deploy/edge.toml` is the same with a comment on every key.

mod credentials;
mod old_env;
mod place;
pub mod presets;
mod sections;
mod service;
#[cfg(test)]
mod service_tests;
mod sharing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use trishula::config::address::HostPort;
use trishula::config::log::{LogFormat, LogSection};
use trishula::config::{Error, load, resolve};
use trishula::link::dial;
use trishula::rt::platform;
use trishula::wire::url::{RELAY_PATH, WSS, WssUrl};

use crate::front;

use old_env::{Besides, OldEnv};
pub use sections::{EdgeSection, IdentitySection, MetricsSection, RelaySection, RuleSection, UplinkSection};
pub use service::{ANY_PATH, DialectName, Given, Refuse, ServiceSection};

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
    /// What it serves, as the file has it.
    #[serde(default, rename = "service")]
    given: Vec<Given>,
    /// What it serves.
    #[serde(skip)]
    pub services: Vec<ServiceSection>,
    /// Who of one service comes in at another.
    #[serde(default, rename = "rule")]
    pub rules: Vec<RuleSection>,
    /// What an operator should know of it, though it is good.
    #[serde(skip)]
    pub notes: Vec<String>,
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
        let environment: BTreeMap<String, String> = environment.collect();
        let log = overrides.iter().any(|(key, _)| key.starts_with("log."));
        let mut config: EdgeConfig = load(path, environment.clone().into_iter(), overrides)?;
        config.settle(path, &environment, log)?;
        config.check().map_err(|wrong| place::fault(path, &environment, wrong))?;
        let services = config.services.iter_mut();
        let files = services
            .flat_map(|s| {
                [
                    &mut s.cert,
                    &mut s.key,
                    &mut s.ca_file,
                    &mut s.crl_file,
                    &mut s.secret_file,
                    &mut s.jwks_file,
                    &mut s.revoked_file,
                ]
            })
            .flatten();
        files
            .chain([&mut config.identity.dir, &mut config.relay.socket])
            .chain(&mut config.uplink.fallback_ca)
            .chain(&mut config.log.file)
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

    /// What an operator must not overlook, though it is good: for the log at each start, and for `check`.
    pub fn warnings(&self) -> impl Iterator<Item = String> + '_ {
        self.services.iter().filter_map(ServiceSection::warning)
    }

    /// Joins what the file gives of each service with the old variables of its own and with its preset. `log`: a flag
    /// has said how to log.
    fn settle(
        &mut self,
        path: &Path,
        environment: &BTreeMap<String, String>,
        log: bool,
    ) -> Result<(), Error> {
        let (old, mut besides) = (OldEnv::new(environment), Besides::default());
        for (at, mut given) in std::mem::take(&mut self.given).into_iter().enumerate() {
            let called = given.preset.clone().or_else(|| given.name.as_ref().map(ToString::to_string));
            let called = called.unwrap_or_else(|| format!("[{at}]"));
            let wrong =
                |(key, why)| place::fault(path, environment, (format!("service {called}: {key}"), why));
            let preset = match &given.preset {
                Some(name) => Some(presets::find(name).ok_or_else(|| {
                    let known = presets::names().collect::<Vec<_>>().join(", ");
                    wrong(("preset".into(), format!("{name:?} is none; there are {known}")))
                })??),
                None => None,
            };
            old.lay_over(&called, &mut given, &mut besides)
                .map_err(|bad| Error::Variable { variable: bad.variable, why: bad.why })?;
            let mut section = given.settle(preset).map_err(wrong)?;
            section.forget_unset(environment);
            credentials::find(&mut section, environment).map_err(|(key, why)| wrong((key.into(), why)))?;
            self.services.push(section);
        }
        old.note_common(&mut besides);
        let says_how = ["TRISHULA_LOG_LEVEL", "TRISHULA_LOG_FORMAT"];
        let own = log || says_how.iter().any(|variable| environment.contains_key(*variable));
        if !own {
            besides.level.into_iter().for_each(|level| self.log.level = level);
            besides.json.filter(|json| *json).into_iter().for_each(|_| self.log.format = LogFormat::Json);
        }
        self.notes = besides.notes;
        Ok(())
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
        if let Some(why) = self.uplink.nodes.iter().find_map(|address| not_a_node(address)) {
            return wrong("uplink.nodes", why);
        }
        if !(1..=1_000_000).contains(&self.edge.max_connections) {
            let why = format!("{} is not from 1 to 1000000", self.edge.max_connections);
            return wrong("edge.max_connections", why);
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
        for (at, service) in self.services.iter().enumerate() {
            // What is counted, reloaded and ruled goes by the name.
            if self.services[..at].iter().any(|other| other.name == service.name) {
                let name = &service.name;
                let why = "is there twice; give one [[service]] all its addresses in listen";
                return wrong(&format!("service {name}: name"), why.into());
            }
            service.check().map_err(|(key, why)| (format!("service {}: {key}", service.name), why))?;
        }
        for rule in &self.rules {
            rule.check(&self.services).map_err(|why| (format!("rule {} to {}", rule.from, rule.to), why))?;
        }
        let mut taken = self.redirect.listen.clone();
        taken.push(self.metrics.listen);
        sharing::check(&self.services, &taken)
    }
}

/// Why the node can't be reached at an address; `None`: it may be.
fn not_a_node(address: &str) -> Option<String> {
    if let Some(path) = address.strip_prefix(dial::UNIX) {
        let why = "has no path; write unix:PATH, such as \"unix:/run/trishula/edge.sock\"";
        return path.is_empty().then(|| format!("{address:?} {why}"));
    }
    if address.starts_with(WSS) {
        return address.parse::<WssUrl>().err().map(|bad| bad.to_string());
    }
    let bad = address.parse::<HostPort>().err()?;
    Some(format!("{bad}; unix:PATH for a node on this machine, or wss://HOST:PORT/mesh for its edge"))
}
