//! The TLS of a service: the certificate that it shows, and whose certificates it takes from clients. Both come from files that
//! others renew.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ServerConfig;
use trishula::identity;
use trishula::identity::live::ReloadableCert;
use trishula::identity::tls::{self, ClientCertificates};
use trishula::rt::clock;

use crate::stamp::{Stamp, stamp};

/// What a service asks of its clients in the handshake. Of two services with the same, a handshake with one is as good as one
/// with the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Whether only clients with a certificate come in.
    pub required: bool,
    /// CAs of their certificates, PEM; `None`: none is asked for.
    pub ca_file: Option<PathBuf>,
}

impl Policy {
    fn asked(&self) -> ClientCertificates<'_> {
        match &self.ca_file {
            Some(ca) if self.required => ClientCertificates::Required(ca),
            Some(ca) => ClientCertificates::Optional(ca),
            None => ClientCertificates::Unasked,
        }
    }

    fn stamps(&self) -> Vec<Stamp> {
        self.ca_file.iter().map(|path| stamp(path)).collect()
    }
}

/// The TLS of one service.
#[derive(Debug)]
pub struct Secured {
    certificate: Arc<ReloadableCert>,
    policy: Policy,
    http2: bool,
    now: Mutex<Now>,
}

/// What is in force.
#[derive(Debug)]
struct Now {
    config: Arc<ServerConfig>,
    /// The files of the policy, as they were just before they were read last: a change meanwhile is read again.
    seen: Vec<Stamp>,
}

impl Secured {
    /// Reads certificate, key, and whose certificates are taken.
    ///
    /// # Errors
    ///
    /// Which file is no use, and what to do.
    pub fn open(
        certificate: &Path,
        key: &Path,
        policy: Policy,
        http2: bool,
    ) -> Result<Secured, identity::Error> {
        let certificate = Arc::new(ReloadableCert::open(certificate, key)?);
        let now = read(&certificate, &policy, http2)?;
        Ok(Secured { certificate, policy, http2, now: Mutex::new(now) })
    }

    /// For a handshake that begins now.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.lock().config.clone()
    }

    /// The certificate that it shows.
    pub fn certificate(&self) -> &Arc<ReloadableCert> {
        &self.certificate
    }

    /// What it asks of clients.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Reads again whose certificates are taken, if the files have changed, or `anyway`. Whether they had.
    ///
    /// # Errors
    ///
    /// What is wrong with them; what was in force stays in force.
    pub fn look(&self, anyway: bool) -> Result<bool, identity::Error> {
        let seen = self.policy.stamps();
        let changed = seen != self.lock().seen;
        if seen.is_empty() || !(changed || anyway) {
            return Ok(false);
        }
        // What is wrong is told once, and read again when it is mended.
        self.lock().seen = seen;
        let now = read(&self.certificate, &self.policy, self.http2)?;
        *self.lock() = now;
        Ok(changed)
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(certificate: &Arc<ReloadableCert>, policy: &Policy, http2: bool) -> Result<Now, identity::Error> {
    let seen = policy.stamps();
    let mut config = tls::https_server(certificate.clone(), policy.asked(), clock::for_tls())?;
    if http2 {
        config.alpn_protocols.insert(0, tls::ALPN_H2.to_vec());
    }
    Ok(Now { config: Arc::new(config), seen })
}
