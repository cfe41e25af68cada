//! The mesh's own CA: who holds its key decides who belongs.

use std::fmt;
use std::path::Path;

use rcgen::{Issuer, KeyPair, PublicKeyData};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::OffsetDateTime;

use super::csr::{self, Key};
use super::error::{Error, stamp};
use super::files::{self, Access};
use super::profile::{self, Profile, Request};
use super::revocation::{RevocationList, Revoked};
use super::secret;
use super::serial::{Serial, hex};
use super::{RoleKind, name};

/// The CA's certificate, in its own folder and in each bundle.
pub const CA_CERTIFICATE: &str = "ca.pem";
/// The CA's private key; only where the CA is held.
pub const CA_KEY: &str = "ca.key";

const REMEDY: &str = "this machine may not hold the mesh's CA: run this where `trishula init` was run, or restore the backup of its CA folder";

/// SHA-256 of a certificate's DER.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Of this certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(secret::sha256(certificate))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A certificate with a fresh key.
pub struct Issued {
    /// The chain for TLS, leaf first.
    pub chain_pem: String,
    /// Its private key. Never to be printed.
    pub key_pem: String,
    /// By which it may be revoked.
    pub serial: Serial,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("serial", &self.serial).finish_non_exhaustive()
    }
}

/// A certificate for somebody else's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The chain for TLS, leaf first.
    pub chain_pem: String,
    /// By which it may be revoked.
    pub serial: Serial,
}

/// The CA with its key.
pub struct Authority {
    mesh: String,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    not_after: OffsetDateTime,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes the CA of a new mesh.
    pub fn create(mesh: &str, now: OffsetDateTime) -> Result<Self, Error> {
        check_mesh_name(mesh)?;
        let key = Key::generate()?;
        let params = profile::ca(mesh, now)?;
        let certificate = params.self_signed(key.pair()).map_err(|_| Error::Crypto("signing the CA"))?;
        let certificate_pem = certificate.pem();
        Self::assemble(certificate.into(), certificate_pem, key.into_pair())
    }

    /// Reads the CA from its folder.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let (certificate_path, key_path) = (folder.join(CA_CERTIFICATE), folder.join(CA_KEY));
        let pem = files::read(&certificate_path, REMEDY)?;
        let place = certificate_path.display().to_string();
        let certificate = CertificateDer::from_pem_slice(&pem).map_err(|e| Error::malformed(&place, e))?;
        let key = Key::from_pem(&files::read_private(&key_path, REMEDY)?, &key_path.display().to_string())?;
        if name::parse(&certificate)?.public_key().raw != key.public_key() {
            return Err(Error::KeyMismatch { certificate: place, key: key_path.display().to_string() });
        }
        Self::assemble(certificate, String::from_utf8_lossy(&pem).into_owned(), key.into_pair())
    }

    /// Writes `ca.pem` (0644) and `ca.key` (0600). The folder is made if need be.
    pub fn save(&self, folder: &Path) -> Result<(), Error> {
        files::make_folder(folder)?;
        let key_pem = self.issuer.key().serialize_pem();
        files::write(&folder.join(CA_KEY), key_pem.as_bytes(), Access::Private)?;
        files::write(&folder.join(CA_CERTIFICATE), self.certificate_pem.as_bytes(), Access::Public)
    }

    /// What the mesh is called.
    pub fn mesh_name(&self) -> &str {
        &self.mesh
    }

    /// The CA's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The CA's certificate, for `ca.pem`.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// By which a joiner knows the CA: it is in its ticket.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// Makes a key and certifies it.
    pub fn issue(&self, request: &Request, now: OffsetDateTime) -> Result<Issued, Error> {
        let key = Key::generate()?;
        let signed = self.certify(key.pair(), request, now)?;
        Ok(Issued { chain_pem: signed.chain_pem, key_pem: key.to_pem(), serial: signed.serial })
    }

    /// Certifies the key of a CSR (DER or PEM) whose maker has proved that he holds it. Only `request` decides what
    /// the certificate says; names, usages and extensions in the CSR are not even read.
    pub fn sign_csr(&self, csr: &[u8], request: &Request, now: OffsetDateTime) -> Result<Signed, Error> {
        self.certify(&csr::certified_key(csr)?, request, now)
    }

    /// Takes back certificates: the list that follows `previous`, with these added. Give `None` only for the first
    /// list ever; the daemon keeps the newest, and `trust` never goes back to a lower number.
    pub fn revoke(
        &self,
        serials: &[Serial],
        previous: Option<&RevocationList>,
        now: OffsetDateTime,
    ) -> Result<RevocationList, Error> {
        let mut entries: Vec<Revoked> = previous.map(|list| list.entries().to_vec()).unwrap_or_default();
        for serial in serials {
            if !entries.iter().any(|entry| entry.serial == *serial) {
                entries.push(Revoked { serial: serial.clone(), since: now });
            }
        }
        let number = previous.map_or(1, |list| list.number() + 1);
        RevocationList::sign(&self.issuer, &self.certificate, number, entries, now)
    }

    fn certify(
        &self,
        key: &impl PublicKeyData,
        request: &Request,
        now: OffsetDateTime,
    ) -> Result<Signed, Error> {
        let serial = Serial::random()?;
        let mut params = profile::leaf(&self.mesh, request, &serial, now)?;
        if now >= self.not_after {
            let why = format!("the mesh's CA expired at {}; make a new one", stamp(self.not_after));
            return Err(Error::NotIssued(why));
        }
        // Verifiers do not look at the dates of a CA that they trust; so no leaf outlives it.
        params.not_after = params.not_after.min(self.not_after);
        let leaf = params.signed_by(key, &self.issuer).map_err(|_| Error::Crypto("signing a certificate"))?;
        let mut chain_pem = leaf.pem();
        // On links the CA goes along: a joiner knows its fingerprint only. Clients of an edge have it already.
        if request.profile == Profile::Link && request.role.kind() != RoleKind::Agent {
            chain_pem.push_str(&self.certificate_pem);
        }
        Ok(Signed { chain_pem, serial })
    }

    fn assemble(
        certificate: CertificateDer<'static>,
        certificate_pem: String,
        key: KeyPair,
    ) -> Result<Self, Error> {
        let parsed = name::parse(&certificate)?;
        let mesh = mesh_name(&parsed).ok_or_else(|| Error::malformed("CA certificate", "names no mesh"))?;
        let not_after = parsed.validity().not_after.to_datetime();
        let issuer =
            Issuer::from_ca_cert_der(&certificate, key).map_err(|e| Error::malformed("CA certificate", e))?;
        Ok(Self { mesh, issuer, certificate_pem, not_after, certificate })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("mesh", &self.mesh).finish_non_exhaustive()
    }
}

fn mesh_name(ca: &x509_parser::certificate::X509Certificate<'_>) -> Option<String> {
    ca.subject().iter_organization().next()?.as_str().ok().map(str::to_owned)
}

fn check_mesh_name(mesh: &str) -> Result<(), Error> {
    let ok = (1..=32).contains(&mesh.len())
        && mesh.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !mesh.starts_with('-');
    if ok {
        return Ok(());
    }
    let why = "must be 1 to 32 lower-case letters, digits and '-', starting with a letter or digit";
    Err(Error::malformed(format!("mesh name {mesh:?}"), why))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use time::Duration;
    use x509_parser::prelude::{GeneralName, ParsedExtension, X509Certificate};

    use super::*;
    use crate::identity::testing::{NOW, edge, node};

    fn first(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    fn key_identifiers(certificate: &X509Certificate<'_>) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let (mut subject, mut authority) = (None, None);
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => subject = Some(id.0.to_vec()),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    authority = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                _ => {}
            }
        }
        (subject, authority)
    }

    #[test]
    fn the_ca_satisfies_strict_verifiers() {
        // covers T24
        let ca = Authority::create("trishula", NOW).unwrap();
        let parsed = name::parse(ca.certificate()).unwrap();
        let constraints = parsed.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(0));
        let usage = parsed.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
        assert!(!usage.value.digital_signature());
        assert!(key_identifiers(&parsed).0.is_some());
        assert!(parsed.public_key().parsed().is_ok_and(|key| key.key_size() == 256));
        assert_eq!(parsed.subject(), parsed.issuer());
        parsed.verify_signature(None).unwrap();
        let other = Authority::create("trishula", NOW).unwrap();
        assert_ne!(name::parse(other.certificate()).unwrap().subject(), parsed.subject());
        assert!(Authority::create("Not A Name", NOW).is_err());
    }

    #[test]
    fn a_link_leaf_says_what_a_link_needs_and_no_more() {
        // covers T24
        let ca = Authority::create("trishula", NOW).unwrap();
        let issued = ca.issue(&Request::link(node("agni")), NOW).unwrap();
        let der = first(&issued.chain_pem);
        let (leaf, parent) = (name::parse(&der).unwrap(), name::parse(ca.certificate()).unwrap());
        leaf.verify_signature(Some(parent.public_key())).unwrap();
        assert_ne!(leaf.subject(), leaf.issuer());
        assert_eq!(leaf.issuer(), parent.subject());
        let (subject_key, authority_key) = key_identifiers(&leaf);
        assert!(subject_key.is_some());
        assert_eq!(authority_key, key_identifiers(&parent).0);
        let usage = leaf.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.flags == 1, "digitalSignature only");
        let extended = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && extended.client_auth && !extended.any);
        assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
        assert_eq!(
            name::alternative_names(&leaf).unwrap(),
            [GeneralName::URI("trishula://node/agni"), GeneralName::DNSName("agni.node.trishula")]
        );
        let validity = leaf.validity();
        assert_eq!(validity.not_before.to_datetime(), NOW - Duration::hours(1));
        assert_eq!(validity.not_after.to_datetime() - validity.not_before.to_datetime(), Duration::days(90));
        assert_eq!(leaf.raw_serial().len(), 16);
        assert!(leaf.raw_serial()[0] & 0x80 == 0, "positive");
        assert_eq!(issued.serial, Serial::from_der_integer(leaf.raw_serial()));
        assert_eq!(CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes()).count(), 2, "leaf and CA");
    }

    #[test]
    fn a_public_leaf_serves_and_nothing_else() {
        // covers T24
        let ca = Authority::create("trishula", NOW).unwrap();
        let request =
            Request::public(edge("agni"), vec!["localhost".into()], vec![Ipv4Addr::LOCALHOST.into()]);
        let der = first(&ca.issue(&request, NOW).unwrap().chain_pem);
        let leaf = name::parse(&der).unwrap();
        let extended = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && !extended.client_auth);
        let names = name::alternative_names(&leaf).unwrap();
        assert_eq!(names[1..], [GeneralName::DNSName("localhost"), GeneralName::IPAddress(&[127, 0, 0, 1])]);
        let validity = leaf.validity();
        let life = validity.not_after.to_datetime() - validity.not_before.to_datetime();
        assert!(life <= Duration::days(397), "Apple's limit is 398");
    }

    #[test]
    fn what_a_csr_says_about_itself_is_not_read() {
        // covers T24
        let ca = Authority::create("trishula", NOW).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut forged = rcgen::CertificateParams::default();
        forged.subject_alt_names = vec![rcgen::SanType::URI("trishula://node/dc".try_into().unwrap())];
        forged.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        forged.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let csr = forged.serialize_request(&key).unwrap();
        for given in [csr.der().to_vec(), csr.pem().unwrap().into_bytes()] {
            let signed = ca.sign_csr(&given, &Request::link(edge("agni")), NOW).unwrap();
            let der = first(&signed.chain_pem);
            let leaf = name::parse(&der).unwrap();
            assert_eq!(name::role_of(&leaf).unwrap(), edge("agni"));
            assert!(!leaf.is_ca());
            assert!(!leaf.key_usage().unwrap().unwrap().value.key_cert_sign());
        }
    }

    #[test]
    fn no_leaf_outlives_its_ca() {
        // covers T24
        let ca = Authority::create("trishula", NOW).unwrap();
        let end = name::parse(ca.certificate()).unwrap().validity().not_after.to_datetime();
        let last = ca.issue(&Request::link(node("agni")), end - Duration::DAY).unwrap();
        let der = first(&last.chain_pem);
        assert_eq!(name::parse(&der).unwrap().validity().not_after.to_datetime(), end);
        assert!(ca.issue(&Request::link(node("agni")), end).is_err());
    }

    #[test]
    fn a_saved_ca_is_the_same_ca() {
        // covers T24
        let folder = tempfile::tempdir().unwrap();
        let ca = Authority::create("trishula", NOW).unwrap();
        ca.save(&folder.path().join("ca")).unwrap();
        let again = Authority::load(&folder.path().join("ca")).unwrap();
        assert_eq!((again.mesh_name(), again.fingerprint()), ("trishula", ca.fingerprint()));
        let der = first(&again.issue(&Request::link(node("agni")), NOW).unwrap().chain_pem);
        let parent = name::parse(ca.certificate()).unwrap();
        name::parse(&der).unwrap().verify_signature(Some(parent.public_key())).unwrap();

        Authority::create("other", NOW).unwrap().save(folder.path()).unwrap();
        std::fs::copy(folder.path().join("ca/ca.pem"), folder.path().join("ca.pem")).unwrap();
        assert!(matches!(Authority::load(folder.path()), Err(Error::KeyMismatch { .. })));
        assert!(Authority::load(Path::new("/nowhere")).unwrap_err().to_string().contains("trishula init"));
        assert!(!format!("{ca:?}").contains("PRIVATE"));
    }
}
