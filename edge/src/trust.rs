//! By what a service believes tokens, from its files: read at the start, and again when one of them changes.

use std::path::PathBuf;
use std::sync::Arc;

use trishula::gateway::auth::keys::FileError;
use trishula::gateway::auth::{KeySet, Own, Revoked, Rules, Trust};
use trishula::gateway::secret::{Secret, SecretError};
use trishula::metrics;
use trishula::wire::ids::Namespace;

use crate::config::{DialectName, ServiceSection};
use crate::stamp::{Stamp, stamp};

/// Why tokens can't be checked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Public keys, or tokens that were taken back.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The checks of one service, and where they come from.
#[derive(Debug, Clone)]
pub struct Watched {
    service: Namespace,
    secret_file: Option<PathBuf>,
    secret_env: Option<String>,
    jwks_file: Option<PathBuf>,
    revoked_file: Option<PathBuf>,
    /// How the files were just before they were read last: a change meanwhile is read again.
    seen: Vec<Stamp>,
    /// Shared with its sessions, and with those of services where its clients are guests.
    pub own: Arc<Own>,
}

impl Watched {
    /// Reads the files of a service; `None`: it asks for no tokens.
    pub fn load(section: &ServiceSection) -> Result<Option<Watched>, Error> {
        if !section.reads_tokens() {
            return Ok(None);
        }
        // Each connection of an older client is an agent of its own below its token's; those of a relay name themselves.
        let own_names = !matches!(section.dialect, DialectName::Trishula | DialectName::Relay);
        let any_users = section.dialect != DialectName::Trishula;
        let longest_life_ms = (section.token_expiry_s > 0).then_some(section.token_expiry_s * 1000);
        let rules = Rules { require_exp: section.require_exp, own_names, any_users, longest_life_ms };
        let mut watched = Watched {
            service: section.name.clone(),
            secret_file: section.secret_file.clone(),
            secret_env: section.secret_env.clone(),
            jwks_file: section.jwks_file.clone(),
            revoked_file: section.revoked_file.clone(),
            seen: Vec::new(),
            own: Arc::new(Own::new(Trust::default(), section.name.clone(), rules)),
        };
        watched.seen = watched.stamps();
        watched.own.replace(watched.read()?);
        Ok(Some(watched))
    }

    fn read(&self) -> Result<Trust, Error> {
        let secret = match (&self.secret_file, &self.secret_env) {
            (Some(path), _) => Some(Secret::from_file(path)?),
            (None, Some(name)) => Some(Secret::from_env(name)?),
            (None, None) => None,
        };
        let keys = self.jwks_file.as_deref().map(KeySet::from_file).transpose()?.unwrap_or_default();
        if keys.passed_over() > 0 {
            let (keys, passed_over) = (keys.len(), keys.passed_over());
            tracing::info!(service = %self.service, keys, passed_over, "keys that are no use here were passed over");
        }
        let revoked = self.revoked_file.as_deref().map(Revoked::from_file).transpose()?.unwrap_or_default();
        Ok(Trust::new(&secret, keys, revoked))
    }

    fn stamps(&self) -> Vec<Stamp> {
        let files = [&self.secret_file, &self.jwks_file, &self.revoked_file];
        files.into_iter().flatten().map(|path| stamp(path)).collect()
    }

    /// Reads the files again if they have changed, or `anyway`.
    pub fn look(&mut self, anyway: bool) {
        let now = self.stamps();
        if anyway || now != self.seen {
            self.seen = now;
            self.reload();
        }
    }

    /// What was believed before holds until what is in the files can be taken.
    fn reload(&self) {
        let outcome = match self.read() {
            Ok(trust) => {
                self.own.replace(trust);
                tracing::info!(service = %self.service, "secret, keys or tokens taken back were read again");
                "ok"
            }
            Err(why) => {
                tracing::error!(service = %self.service, %why, "what tokens are checked by stays as it was");
                "refused"
            }
        };
        metrics::TRUST_RELOADS.with_label_values(&[self.service.as_str(), outcome]).inc();
    }
}
