//! The folder in which a machine keeps who it is.
//!
//! | file | what | mode |
//! |---|---|---|
//! | `ca.pem` | the mesh's CA | 0644 |
//! | `link.pem`, `link.key` | the leaf for links (leaf, then CA) and its key | 0644, 0600 |
//! | `public.pem`, `public.key` | an edge's leaf for clients, from the mesh's CA or from elsewhere; optional | 0644, 0600 |
//! | `revoked.crl` | the newest revocation list; optional | 0644 |
//! | `link.key.new`, `public.key.new` | a key whose certificate is being asked for | 0600 |
//!
//! Two files cannot be replaced at once. So a new key waits beside the old as `.new`, then the certificate is
//! replaced, then the key takes its place; reading a folder that a crash left in between finishes the work.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;

use super::ca::{CA_CERTIFICATE, Issued};
use super::csr::Key;
use super::error::Error;
use super::files::{self, Access};
use super::name::{PeerName, RoleKind};
use super::revocation::{RevocationList, Revocations};
use super::tls;
use super::trust::{Refusal, Trust};

/// The link leaf and its CA.
pub const LINK_CERTIFICATE: &str = "link.pem";
/// The link leaf's key.
pub const LINK_KEY: &str = "link.key";
/// What an edge shows its clients.
pub const PUBLIC_CERTIFICATE: &str = "public.pem";
/// The public leaf's key.
pub const PUBLIC_KEY: &str = "public.key";
/// The newest revocation list, DER.
pub const REVOKED: &str = "revoked.crl";

const REMEDY: &str =
    "this machine is not (wholly) in a mesh: run `trishula init` for a new one, or `trishula join TICKET`";

/// A certificate chain with its key, known to belong together.
pub struct Leaf {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    certified: Arc<CertifiedKey>,
}

impl Leaf {
    /// Reads a pair from two files. `group_may_read_key`: see [`files::read_key`].
    pub fn read(certificate: &Path, key: &Path, group_may_read_key: bool) -> Result<Self, Error> {
        let chain_pem = files::read(certificate, REMEDY)?;
        let key_pem = files::read_key(key, group_may_read_key, REMEDY)?;
        Self::from_pem(&chain_pem, &key_pem, &certificate.display().to_string(), &key.display().to_string())
    }

    /// Takes a pair from memory; the last two say where it came from, for errors.
    pub fn from_pem(chain: &[u8], key: &[u8], chain_place: &str, key_place: &str) -> Result<Self, Error> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|e| Error::malformed(chain_place, e))?;
        if chain.is_empty() {
            return Err(Error::malformed(chain_place, "holds no certificate (PEM)"));
        }
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| Error::malformed(key_place, "holds no private key (PEM)"))?;
        let certified =
            CertifiedKey::from_der(chain.clone(), key.clone_key(), &tls::provider()).map_err(|error| {
                match error {
                    rustls::Error::InconsistentKeys(_) => {
                        Error::KeyMismatch { certificate: chain_place.into(), key: key_place.into() }
                    }
                    other => Error::malformed(format!("{chain_place} with {key_place}"), other),
                }
            })?;
        Ok(Self { chain, key, certified: Arc::new(certified) })
    }

    /// The pair as TLS takes it.
    pub fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }

    /// The first of the chain.
    pub fn certificate(&self) -> Result<&CertificateDer<'static>, Error> {
        self.chain.first().ok_or_else(|| Error::malformed("certificate chain", "is empty"))
    }

    pub(super) fn key(&self) -> &PrivateKeyDer<'static> {
        &self.key
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

/// A machine's identity, checked.
#[derive(Debug)]
pub struct Bundle {
    /// Where it was read.
    pub folder: PathBuf,
    /// Who this machine is.
    pub name: PeerName,
    /// The mesh's CA.
    pub ca: CertificateDer<'static>,
    /// For links.
    pub link: Leaf,
    /// For clients of an edge. Its dates and names are not checked here: it may come from any CA.
    pub public: Option<Leaf>,
    /// What was on disk; newer ones come from peers.
    pub revoked: Option<RevocationList>,
}

impl Bundle {
    /// Reads the folder, and checks all that can be checked without a peer: that keys belong to certificates, that
    /// the link leaf is this CA's, in date, not revoked, and of the role that is needed here.
    pub fn load(folder: &Path, expected: RoleKind, now: OffsetDateTime) -> Result<Self, Error> {
        let ca = read_ca(&folder.join(CA_CERTIFICATE))?;
        let link_path = folder.join(LINK_CERTIFICATE);
        let link = read_pair(folder, LINK_CERTIFICATE, LINK_KEY, false)?;
        let revoked = read_revoked(&folder.join(REVOKED), &ca)?;
        let trust = Trust::new(ca.clone(), Arc::new(Revocations::new(revoked.clone())))?;
        let place = link_path.display().to_string();
        let name = trust.admit(&link.chain, now).map_err(|refusal| refused(&place, refusal))?;
        if name.role.kind() != expected {
            return Err(Error::WrongRole {
                place,
                found: name.to_string(),
                expected: expected.to_string(),
                remedy: "node and edge have a folder each; check the configured one",
            });
        }
        let public = Self::read_public(folder)?;
        Ok(Self { folder: folder.into(), name, ca, link, public, revoked })
    }

    /// The key that waits for its certificate (`file` is [`LINK_KEY`] or [`PUBLIC_KEY`]), made if there is none. It
    /// is on disk when this returns; so a machine that crashes while it joins or renews asks again with the same
    /// key, and gets the same answer.
    pub fn pending_key(folder: &Path, file: &str) -> Result<Key, Error> {
        let path = pending(folder, file);
        if path.exists() {
            return Key::from_pem(&files::read_private(&path, REMEDY)?, &path.display().to_string());
        }
        files::make_folder(folder)?;
        let key = Key::generate()?;
        files::write(&path, key.to_pem().as_bytes(), Access::Private)?;
        Ok(key)
    }

    /// Writes the parts of a bundle that are new; the rest of the folder stays.
    pub fn write(folder: &Path, parts: &Parts<'_>) -> Result<(), Error> {
        files::make_folder(folder)?;
        let put = |file: &str, bytes: &[u8], access| files::write(&folder.join(file), bytes, access);
        if let Some(pair) = parts.link {
            write_pair(folder, LINK_CERTIFICATE, LINK_KEY, pair)?;
        }
        if let Some(pair) = parts.public {
            write_pair(folder, PUBLIC_CERTIFICATE, PUBLIC_KEY, pair)?;
        }
        if let Some(list) = parts.revoked {
            put(REVOKED, list, Access::Public)?;
        }
        // Last: a folder with a CA is one that is in a mesh.
        parts.ca_pem.map_or(Ok(()), |pem| put(CA_CERTIFICATE, pem.as_bytes(), Access::Public))
    }

    fn read_public(folder: &Path) -> Result<Option<Leaf>, Error> {
        if !folder.join(PUBLIC_CERTIFICATE).exists() && !folder.join(PUBLIC_KEY).exists() {
            return Ok(None);
        }
        read_pair(folder, PUBLIC_CERTIFICATE, PUBLIC_KEY, true).map(Some)
    }
}

/// What [`Bundle::write`] puts into the folder: certificate chain and key, PEM.
#[derive(Default, Clone, Copy)]
pub struct Parts<'a> {
    /// The mesh's CA.
    pub ca_pem: Option<&'a str>,
    /// For links.
    pub link: Option<(&'a str, &'a str)>,
    /// For clients of an edge.
    pub public: Option<(&'a str, &'a str)>,
    /// DER of the revocation list.
    pub revoked: Option<&'a [u8]>,
}

impl Issued {
    /// The pair, as [`Parts`] takes it.
    pub fn pair(&self) -> (&str, &str) {
        (&self.chain_pem, &self.key_pem)
    }
}

fn pending(folder: &Path, key: &str) -> PathBuf {
    folder.join(format!("{key}.new"))
}

fn write_pair(folder: &Path, certificate: &str, key: &str, pair: (&str, &str)) -> Result<(), Error> {
    let (chain, key_pem) = pair;
    let waiting = pending(folder, key);
    files::write(&waiting, key_pem.as_bytes(), Access::Private)?;
    files::write(&folder.join(certificate), chain.as_bytes(), Access::Public)?;
    files::rename(&waiting, &folder.join(key))
}

/// Reads a pair; if its key is still the one before, and the one that waits fits, that one takes its place.
fn read_pair(folder: &Path, certificate: &str, key: &str, group_may_read_key: bool) -> Result<Leaf, Error> {
    let (certificate, waiting, key) = (folder.join(certificate), pending(folder, key), folder.join(key));
    Leaf::read(&certificate, &key, group_may_read_key).or_else(|error| {
        let Ok(leaf) = Leaf::read(&certificate, &waiting, false) else { return Err(error) };
        files::rename(&waiting, &key)?;
        Ok(leaf)
    })
}

fn read_ca(path: &Path) -> Result<CertificateDer<'static>, Error> {
    let pem = files::read(path, REMEDY)?;
    CertificateDer::from_pem_slice(&pem).map_err(|e| Error::malformed(path.display().to_string(), e))
}

fn read_revoked(path: &Path, ca: &CertificateDer<'_>) -> Result<Option<RevocationList>, Error> {
    let remedy = "check who owns it";
    let Some(der) = files::read_if_there(path, remedy)? else { return Ok(None) };
    RevocationList::parse(&der, ca).map(Some).map_err(|error| {
        let why = format!("{error}; remove the file to get the list again from a peer");
        Error::malformed(path.display().to_string(), why)
    })
}

fn refused(place: &str, refusal: Refusal) -> Error {
    Error::Refused { place: place.into(), refusal }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use time::Duration;

    use super::*;
    use crate::identity::Serial;
    use crate::identity::ca::Authority;
    use crate::identity::profile::Request;
    use crate::identity::testing::{NOW, edge, node};

    fn write(folder: &Path, ca: &Authority, link: &Issued) {
        let parts = Parts { ca_pem: Some(ca.certificate_pem()), link: Some(link.pair()), ..Parts::default() };
        Bundle::write(folder, &parts).unwrap();
    }

    fn why(folder: &Path, now: OffsetDateTime) -> String {
        Bundle::load(folder, RoleKind::Node, now).unwrap_err().to_string()
    }

    #[test]
    fn a_bundle_is_read_as_it_was_written() {
        // covers Q07
        let folder = tempfile::tempdir().unwrap();
        let ca = Authority::create("trishula", NOW).unwrap();
        let link = ca.issue(&Request::link(edge("agni")), NOW).unwrap();
        let public = Request::public(edge("agni"), vec!["localhost".into()], vec![]);
        let public = ca.issue(&public, NOW).unwrap();
        let list = ca.revoke(&[Serial::random().unwrap()], None, NOW).unwrap();
        let parts = Parts {
            ca_pem: Some(ca.certificate_pem()),
            link: Some(link.pair()),
            public: Some(public.pair()),
            revoked: Some(list.der()),
        };
        Bundle::write(folder.path(), &parts).unwrap();
        let bundle = Bundle::load(folder.path(), RoleKind::Edge, NOW).unwrap();
        assert_eq!((bundle.name.role, bundle.name.serial), (edge("agni"), link.serial));
        assert_eq!(bundle.revoked.unwrap().number(), 1);
        assert!(bundle.public.is_some());
        let error = why(folder.path(), NOW);
        assert!(error.contains("edge agni") && error.contains("a node is needed"), "{error}");
    }

    #[test]
    fn a_key_of_another_certificate_is_named() {
        // covers Q07
        let folder = tempfile::tempdir().unwrap();
        let ca = Authority::create("trishula", NOW).unwrap();
        let (one, two) =
            (ca.issue(&Request::link(node("agni")), NOW), ca.issue(&Request::link(node("agni")), NOW));
        write(folder.path(), &ca, &one.unwrap());
        files::write(&folder.path().join(LINK_KEY), two.unwrap().key_pem.as_bytes(), Access::Private)
            .unwrap();
        let error = why(folder.path(), NOW);
        assert!(error.contains("link.key does not belong to"), "{error}");
    }

    #[test]
    fn a_crash_between_the_files_of_a_pair_is_mended() {
        // covers T24, covers Q07
        let folder = tempfile::tempdir().unwrap();
        let ca = Authority::create("trishula", NOW).unwrap();
        write(folder.path(), &ca, &ca.issue(&Request::link(node("agni")), NOW).unwrap());
        let serial = || Bundle::load(folder.path(), RoleKind::Node, NOW).unwrap().name.serial;
        let before = serial();

        let key = Bundle::pending_key(folder.path(), LINK_KEY).unwrap();
        let again = Bundle::pending_key(folder.path(), LINK_KEY).unwrap();
        assert_eq!(key.public_key(), again.public_key(), "asked again, it is the same");
        assert_eq!(serial(), before, "a key that waits changes nothing");
        let signed = ca.sign_csr(&key.request().unwrap(), &Request::link(node("agni")), NOW).unwrap();
        fs::write(folder.path().join(LINK_CERTIFICATE), &signed.chain_pem).unwrap();
        assert_eq!(serial(), signed.serial);
        assert!(!folder.path().join("link.key.new").exists());
        assert_eq!(serial(), signed.serial);

        // The same at a first join: there is no key before.
        fs::rename(folder.path().join(LINK_KEY), folder.path().join("link.key.new")).unwrap();
        assert_eq!(serial(), signed.serial);
    }

    #[test]
    fn what_does_not_hold_says_why_and_what_to_do() {
        // covers T24
        let folder = tempfile::tempdir().unwrap();
        let ca = Authority::create("trishula", NOW).unwrap();
        let link = ca.issue(&Request::link(node("agni")), NOW).unwrap();
        write(folder.path(), &ca, &link);
        assert!(Bundle::load(folder.path(), RoleKind::Node, NOW).is_ok());
        let expired = why(folder.path(), NOW + Duration::days(90));
        assert!(
            expired.contains("expired at 2026-12-30T11:00:00Z") && expired.contains("renew"),
            "{expired}"
        );
        let early = why(folder.path(), NOW - Duration::days(1));
        assert!(early.contains("clocks"), "{early}");

        let list = ca.revoke(&[link.serial], None, NOW).unwrap();
        Bundle::write(folder.path(), &Parts { revoked: Some(list.der()), ..Parts::default() }).unwrap();
        let revoked = why(folder.path(), NOW);
        assert!(revoked.contains("revoked at 2026-10-01T12:00:00Z"), "{revoked}");

        fs::write(folder.path().join(REVOKED), b"rubbish").unwrap();
        assert!(why(folder.path(), NOW).contains("remove the file"));
        fs::remove_file(folder.path().join(REVOKED)).unwrap();

        let other = Authority::create("trishula", NOW).unwrap();
        fs::write(folder.path().join(CA_CERTIFICATE), other.certificate_pem()).unwrap();
        let stranger = why(folder.path(), NOW);
        assert!(stranger.contains("not of this mesh"), "{stranger}");
        fs::remove_file(folder.path().join(CA_CERTIFICATE)).unwrap();
        assert!(why(folder.path(), NOW).contains("trishula join"));
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_may_read_is_refused() {
        // covers B16
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let ca = Authority::create("trishula", NOW).unwrap();
        write(folder.path(), &ca, &ca.issue(&Request::link(node("agni")), NOW).unwrap());
        fs::set_permissions(folder.path().join(LINK_KEY), fs::Permissions::from_mode(0o644)).unwrap();
        let error = why(folder.path(), NOW);
        assert!(error.contains("chmod 600"), "{error}");
    }
}
