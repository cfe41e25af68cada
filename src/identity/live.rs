//! Certificates that are replaced while the TLS configurations that use them live on.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;

use super::bundle::Leaf;
use super::ca::Fingerprint;
use super::error::Error;
use super::{name, tls};

/// A certificate and its key, as they are now. New handshakes take what is there; connections keep what they had.
///
/// Configurations hold this by `Arc` and stay the same object when it changes: rustls gives tickets of one
/// configuration's credentials to no other, so a new configuration would cost every peer its 0-RTT. (Who dials makes a
/// new one all the same when its own leaf is renewed: a resumed session shows the peer the leaf of its beginning.)
pub struct LiveCertificate(RwLock<Option<Arc<CertifiedKey>>>);

impl LiveCertificate {
    /// Starts with this one, or with none.
    pub fn new(leaf: Option<&Leaf>) -> Self {
        Self(RwLock::new(leaf.map(Leaf::certified)))
    }

    /// Shows this one from now on.
    pub fn replace(&self, leaf: &Leaf) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(leaf.certified());
    }

    /// What is shown now.
    pub fn current(&self) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for LiveCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LiveCertificate")
    }
}

impl ResolvesServerCert for LiveCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

impl ResolvesClientCert for LiveCertificate {
    fn resolve(&self, _roots: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current()
    }

    fn has_certs(&self) -> bool {
        self.current().is_some()
    }
}

/// The certificates of a node's one UDP port, told apart by what the client wants to speak: browsers (`h3`) accept
/// only a short-lived one whose hash the page knows, everything else is shown the link leaf.
#[derive(Debug)]
pub struct ByAlpn {
    /// For `trishula/2` and `trishula-join/1`.
    pub link: Arc<LiveCertificate>,
    /// For `h3`; while it is empty, browsers are refused.
    pub h3: LiveCertificate,
}

impl ResolvesServerCert for ByAlpn {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let offers = |wanted: &[u8]| hello.alpn().is_some_and(|mut all| all.any(|p| p == wanted));
        // In the order in which the server chooses: one who offers both will speak ours.
        let is_browser = offers(tls::ALPN_H3) && !offers(tls::ALPN_LINK) && !offers(tls::ALPN_JOIN);
        if is_browser { self.h3.current() } else { self.link.current() }
    }
}

/// A certificate kept in two files that another program may renew (certbot, or `trishula cert renew`).
#[derive(Debug)]
pub struct ReloadableCert {
    certificate: PathBuf,
    key: PathBuf,
    live: LiveCertificate,
}

/// What a reload found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// The same certificate as before.
    Unchanged,
    /// Another one, in use from now on.
    Changed {
        /// The one before.
        was: Option<Fingerprint>,
        /// The one now.
        now: Fingerprint,
        /// Until when it holds.
        not_after: OffsetDateTime,
    },
}

impl ReloadableCert {
    /// Reads the two files.
    pub fn open(certificate: &Path, key: &Path) -> Result<Self, Error> {
        let leaf = Leaf::read(certificate, key, true)?;
        let live = LiveCertificate::new(Some(&leaf));
        Ok(Self { certificate: certificate.into(), key: key.into(), live })
    }

    /// Reads them again. On any error the old one stays in use. (Between the writing of the one file and of the
    /// other they do not match: that is an error too, and passes.)
    pub fn reload(&self) -> Result<Reloaded, Error> {
        let leaf = Leaf::read(&self.certificate, &self.key, true)?;
        let certificate = leaf.certificate()?;
        let now = Fingerprint::of(certificate);
        let was = self.fingerprint();
        if was == Some(now) {
            return Ok(Reloaded::Unchanged);
        }
        let not_after = name::parse(certificate)?.validity().not_after.to_datetime();
        self.live.replace(&leaf);
        Ok(Reloaded::Changed { was, now, not_after })
    }

    /// Of the one in use.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.live.current().and_then(|key| key.cert.first().map(|c| Fingerprint::of(c)))
    }

    /// The files: certificate chain and key.
    pub fn paths(&self) -> (&Path, &Path) {
        (&self.certificate, &self.key)
    }
}

impl ResolvesServerCert for ReloadableCert {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.live.current()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::ca::{Authority, Issued};
    use crate::identity::files::{self, Access};
    use crate::identity::profile::Request;
    use crate::identity::testing::{NOW, edge};

    #[test]
    fn a_reload_says_what_changed_and_an_error_keeps_the_old() {
        // covers B11
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("public.pem"), folder.path().join("public.key"));
        let put = |issued: &Issued| {
            files::write(&certificate, issued.chain_pem.as_bytes(), Access::Public).unwrap();
            files::write(&key, issued.key_pem.as_bytes(), Access::Private).unwrap();
        };
        let ca = Authority::create("trishula", NOW).unwrap();
        let issue =
            || ca.issue(&Request::public(edge("agni"), vec!["localhost".into()], vec![]), NOW).unwrap();
        put(&issue());
        let live = ReloadableCert::open(&certificate, &key).unwrap();
        let first = live.fingerprint();
        assert_eq!(live.reload().unwrap(), Reloaded::Unchanged);

        files::write(&key, issue().key_pem.as_bytes(), Access::Private).unwrap();
        assert!(matches!(live.reload(), Err(Error::KeyMismatch { .. })));
        assert_eq!(live.fingerprint(), first);

        put(&issue());
        let Reloaded::Changed { was, now, .. } = live.reload().unwrap() else { panic!("it has changed") };
        assert_eq!((was, Some(now)), (first, live.fingerprint()));
        assert_ne!(was, Some(now));
    }
}
