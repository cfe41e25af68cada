//! The TLS of a service: the certificate that it shows, and whose certificates it takes from clients. Both come from files that
//! others renew.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use time::OffsetDateTime;
use trishula::gateway::auth;
use trishula::identity;
use trishula::identity::live::ReloadableCert;
use trishula::identity::tls::{self, ClientCas, ClientCertificates};
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
    /// Their revocation lists, PEM; `None`: nobody looks.
    pub crl_file: Option<PathBuf>,
}

impl Policy {
    fn asked(&self) -> ClientCertificates<'_> {
        let Some(ca_file) = &self.ca_file else { return ClientCertificates::Unasked };
        let given = ClientCas { ca_file, crl_file: self.crl_file.as_deref() };
        if self.required { ClientCertificates::Required(given) } else { ClientCertificates::Optional(given) }
    }

    fn stamps(&self) -> Vec<Stamp> {
        self.ca_file.iter().chain(&self.crl_file).map(|path| stamp(path)).collect()
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
    /// When the first of the revocation lists ends; `None`: there are none.
    lists_until: Option<OffsetDateTime>,
    verifier: Arc<dyn ClientCertVerifier>,
    /// How often the files were read.
    reading: u64,
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

    /// Whether what a client has shown, its certificate first, would still bring it in: looked at again when the files of the
    /// policy were read anew.
    pub fn watched(self: &Arc<Self>, shown: &[CertificateDer<'static>]) -> auth::Certificate {
        let (secured, shown) = (self.clone(), shown.to_vec());
        let known = AtomicU64::new(u64::MAX);
        auth::Certificate::holding(move || {
            let (reading, verifier) = {
                let now = secured.lock();
                (now.reading, now.verifier.clone())
            };
            if known.load(Ordering::Relaxed) == reading {
                return true;
            }
            let Some((own, others)) = shown.split_first() else { return true };
            let Some(time) = clock::for_tls().current_time() else { return true };
            let holds = verifier.verify_client_cert(own, others, time).is_ok();
            if holds {
                known.store(reading, Ordering::Relaxed);
            }
            holds
        })
    }

    /// When the first of the lists of clients' certificates that were taken back ends; `None`: there are none.
    pub fn lists_until(&self) -> Option<OffsetDateTime> {
        self.lock().lists_until
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
        let read = read(&self.certificate, &self.policy, self.http2)?;
        let mut now = self.lock();
        *now = Now { reading: now.reading + 1, ..read };
        Ok(changed)
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(certificate: &Arc<ReloadableCert>, policy: &Policy, http2: bool) -> Result<Now, identity::Error> {
    let seen = policy.stamps();
    let server = tls::https_server(certificate.clone(), policy.asked(), clock::for_tls())?;
    let mut config = server.config;
    if http2 {
        config.alpn_protocols.insert(0, tls::ALPN_H2.to_vec());
    }
    Ok(Now {
        config: Arc::new(config),
        lists_until: server.lists_until,
        verifier: server.verifier,
        reading: 0,
        seen,
    })
}
