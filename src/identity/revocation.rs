//! Certificates that were taken back before their end: a list signed by the CA (RFC 5280 CRL), spread through the mesh.

use std::sync::{Arc, PoisonError, RwLock};

use rcgen::{CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber};
use rustls::pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::error::Error;
use super::name;
use super::serial::Serial;

/// The `next_update` that RFC 5280 demands. It is not enforced: a mesh cut off from its CA's holder must go on.
const NOMINAL_LIFE: Duration = Duration::days(3650);
/// Longest list that is read, in bytes: some 200,000 entries.
const MAX_BYTES: usize = 8 << 20;

/// One certificate that was taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Which.
    pub serial: Serial,
    /// When.
    pub since: OffsetDateTime,
}

/// A list whose signature has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationList {
    number: u64,
    /// Sorted by serial.
    entries: Vec<Revoked>,
    der: Vec<u8>,
}

impl RevocationList {
    /// Reads a list and checks that this CA signed it.
    pub fn parse(der: &[u8], ca: &CertificateDer<'_>) -> Result<Self, Error> {
        let wrong = |why: &str| Error::malformed("revocation list", why);
        if der.len() > MAX_BYTES {
            return Err(wrong("is longer than 8 MiB"));
        }
        let list = match CertificateRevocationList::from_der(der) {
            Ok(([], list)) => list,
            Ok(_) => return Err(wrong("has bytes after its end")),
            Err(error) => return Err(wrong(&format!("is not a CRL ({error})"))),
        };
        let ca = name::parse(ca)?;
        if list.issuer().as_raw() != ca.subject().as_raw() {
            return Err(wrong(&format!("is {}'s, not this mesh's ({})", list.issuer(), ca.subject())));
        }
        list.verify_signature(ca.public_key()).map_err(|_| wrong("is not signed by the mesh's CA"))?;
        let number = list.crl_number().map(|n| n.to_bytes_be()).and_then(|bytes| be_u64(&bytes));
        let mut entries: Vec<Revoked> = list
            .iter_revoked_certificates()
            .map(|entry| Revoked {
                serial: Serial::from_der_integer(entry.raw_serial()),
                since: entry.revocation_date.to_datetime(),
            })
            .collect();
        entries.sort_by(|a, b| a.serial.cmp(&b.serial));
        Ok(Self { number: number.ok_or_else(|| wrong("has no number"))?, entries, der: der.to_vec() })
    }

    /// Which list of its CA it is: of two, the higher is the newer.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What it takes back, sorted by serial number.
    pub fn entries(&self) -> &[Revoked] {
        &self.entries
    }

    /// Whether this certificate is taken back.
    pub fn contains(&self, serial: &Serial) -> bool {
        self.since(serial).is_some()
    }

    /// Since when it is.
    pub fn since(&self, serial: &Serial) -> Option<OffsetDateTime> {
        let at = self.entries.binary_search_by(|entry| entry.serial.cmp(serial)).ok()?;
        self.entries.get(at).map(|entry| entry.since)
    }

    /// For `revoked.crl` and for other nodes.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    pub(super) fn sign(
        issuer: &Issuer<'_, KeyPair>,
        ca: &CertificateDer<'_>,
        number: u64,
        entries: Vec<Revoked>,
        now: OffsetDateTime,
    ) -> Result<Self, Error> {
        let revoked_certs = entries.into_iter().map(|entry| RevokedCertParams {
            serial_number: SerialNumber::from_slice(entry.serial.as_bytes()),
            revocation_time: entry.since,
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: now + NOMINAL_LIFE,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let signed = params.signed_by(issuer).map_err(|_| Error::Crypto("signing a revocation list"))?;
        // Read back rather than assembled: what we hand out is what others will read.
        Self::parse(signed.der(), ca)
    }
}

/// The newest list that this process knows, shared by everything that checks certificates.
#[derive(Debug, Default)]
pub struct Revocations(RwLock<Option<Arc<RevocationList>>>);

impl Revocations {
    /// Starts from what the disk had.
    pub fn new(list: Option<RevocationList>) -> Self {
        Self(RwLock::new(list.map(Arc::new)))
    }

    /// The list in force.
    pub fn current(&self) -> Option<Arc<RevocationList>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a list if its number is higher; says whether it did. The caller then writes it to disk, passes it on,
    /// and checks its open connections again.
    pub fn offer(&self, list: RevocationList) -> bool {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let newer = current.as_ref().is_none_or(|known| list.number > known.number);
        if newer {
            *current = Some(Arc::new(list));
        }
        newer
    }

    /// Since when this certificate is taken back, if it is.
    pub fn since(&self, serial: &Serial) -> Option<OffsetDateTime> {
        self.current()?.since(serial)
    }
}

fn be_u64(bytes: &[u8]) -> Option<u64> {
    let mut padded = [0; 8];
    let start = padded.len().checked_sub(bytes.len())?;
    padded[start..].copy_from_slice(bytes);
    Some(u64::from_be_bytes(padded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::ca::Authority;
    use crate::identity::testing::NOW;

    fn serials(n: usize) -> Vec<Serial> {
        (0..n).map(|_| Serial::random().unwrap()).collect()
    }

    #[test]
    fn a_list_grows_and_keeps_its_dates() {
        // covers T24
        let ca = Authority::create("trishula", NOW).unwrap();
        let serials = serials(3);
        let later = NOW + Duration::days(1);
        let first = ca.revoke(&serials[..2], None, NOW).unwrap();
        let second = ca.revoke(&serials, Some(&first), later).unwrap();
        assert_eq!((first.number(), second.number()), (1, 2));
        assert_eq!((first.entries().len(), second.entries().len()), (2, 3));
        assert_eq!((second.since(&serials[0]), second.since(&serials[2])), (Some(NOW), Some(later)));
        assert!(!first.contains(&serials[2]));
        assert_eq!(RevocationList::parse(second.der(), ca.certificate()).unwrap(), second);
        let empty = ca.revoke(&[], None, NOW).unwrap();
        assert!(empty.entries().is_empty());
    }

    #[test]
    fn only_the_ca_of_the_mesh_takes_back() {
        // covers T24
        let (ours, other) =
            (Authority::create("trishula", NOW).unwrap(), Authority::create("trishula", NOW).unwrap());
        let list = ours.revoke(&serials(1), None, NOW).unwrap();
        assert!(RevocationList::parse(list.der(), other.certificate()).is_err());
        let mut forged = list.der().to_vec();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        let error = RevocationList::parse(&forged, ours.certificate()).unwrap_err().to_string();
        assert!(error.contains("not signed by the mesh's CA"), "{error}");
        assert!(RevocationList::parse(&[], ours.certificate()).is_err());
    }

    #[test]
    fn of_two_lists_the_higher_number_holds() {
        // covers T24
        let ca = Authority::create("trishula", NOW).unwrap();
        let serials = serials(2);
        let first = ca.revoke(&serials[..1], None, NOW).unwrap();
        let second = ca.revoke(&serials[1..], Some(&first), NOW).unwrap();
        let known = Revocations::default();
        assert!(known.offer(second.clone()));
        assert!(!known.offer(first), "an older list never replaces a newer one");
        assert!(!known.offer(second));
        assert!(known.since(&serials[1]).is_some());
    }
}
