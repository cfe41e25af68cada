//! What `trishula cert show` says about a certificate.

use std::fmt;
use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use time::OffsetDateTime;
use x509_parser::prelude::GeneralName;

use super::ca::Fingerprint;
use super::error::{Error, stamp};
use super::name::{self, Role};
use super::revocation::RevocationList;
use super::serial::Serial;

/// A certificate in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertInfo {
    /// Whom it names in the mesh; nobody, for the CA and for certificates from elsewhere.
    pub role: Option<Role>,
    /// The subject's distinguished name.
    pub subject: String,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// Hexadecimal.
    pub serial: Serial,
    /// RFC 3339, UTC.
    pub not_before: String,
    /// RFC 3339, UTC.
    pub not_after: String,
    /// Whole days that are left, rounded down; negative once it has expired.
    pub days_left: i64,
    /// DNS names.
    pub dns: Vec<String>,
    /// IP addresses.
    pub ips: Vec<IpAddr>,
    /// SHA-256 of the DER, hexadecimal.
    pub fingerprint_sha256: String,
    /// Since when it is revoked (RFC 3339), if the list that was given says so.
    pub revoked: Option<String>,
}

/// Describes the first certificate of some PEM, or one in DER.
pub fn describe(
    certificate: &[u8],
    revoked: Option<&RevocationList>,
    now: OffsetDateTime,
) -> Result<CertInfo, Error> {
    let der = if certificate.starts_with(&[0x30]) {
        CertificateDer::from(certificate)
    } else {
        CertificateDer::from_pem_slice(certificate).map_err(|e| Error::malformed("certificate", e))?
    };
    let parsed = name::parse(&der)?;
    let serial = Serial::from_der_integer(parsed.raw_serial());
    let not_after = parsed.validity().not_after.to_datetime();
    let names = name::alternative_names(&parsed)?;
    Ok(CertInfo {
        role: name::role_of(&parsed).ok(),
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        not_before: stamp(parsed.validity().not_before.to_datetime()),
        not_after: stamp(not_after),
        days_left: (not_after - now).whole_seconds().div_euclid(24 * 3600),
        dns: dns_names(&names),
        ips: ip_addresses(&names),
        fingerprint_sha256: Fingerprint::of(&der).to_string(),
        revoked: revoked.and_then(|list| list.since(&serial)).map(stamp),
        serial,
    })
}

impl fmt::Display for CertInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = self.role.as_ref().map_or_else(|| "nobody of a mesh".into(), ToString::to_string);
        writeln!(f, "names        {role}")?;
        writeln!(f, "subject      {}", self.subject)?;
        writeln!(f, "issuer       {}", self.issuer)?;
        writeln!(f, "serial       {}", self.serial)?;
        writeln!(f, "valid        {} to {} ({} days left)", self.not_before, self.not_after, self.days_left)?;
        if !self.dns.is_empty() {
            writeln!(f, "DNS names    {}", self.dns.join(", "))?;
        }
        if !self.ips.is_empty() {
            let ips: Vec<String> = self.ips.iter().map(ToString::to_string).collect();
            writeln!(f, "addresses    {}", ips.join(", "))?;
        }
        writeln!(f, "SHA-256      {}", self.fingerprint_sha256)?;
        match &self.revoked {
            Some(since) => writeln!(f, "REVOKED      {since}"),
            None => Ok(()),
        }
    }
}

/// The DNS names among a certificate's names.
pub(super) fn dns_names(names: &[GeneralName<'_>]) -> Vec<String> {
    let dns = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(dns) => Some((*dns).to_string()),
        _ => None,
    };
    names.iter().filter_map(dns).collect()
}

/// The addresses among a certificate's names; one of another length than 4 or 16 bytes is left out.
pub(super) fn ip_addresses(names: &[GeneralName<'_>]) -> Vec<IpAddr> {
    let ip = |name: &GeneralName<'_>| match name {
        GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes)
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
            .ok(),
        _ => None,
    };
    names.iter().filter_map(ip).collect()
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;
    use crate::identity::ca::Authority;
    use crate::identity::profile::Request;
    use crate::identity::testing::{NOW, edge};

    #[test]
    fn a_certificate_is_shown_with_its_days_and_names() {
        // covers T24
        let ca = Authority::create("trishula", NOW).unwrap();
        let ips = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        let request = Request::public(edge("agni"), vec!["localhost".into()], ips.clone());
        let issued = ca.issue(&request, NOW).unwrap();
        let list = ca.revoke(std::slice::from_ref(&issued.serial), None, NOW).unwrap();
        let info = describe(issued.chain_pem.as_bytes(), Some(&list), NOW).unwrap();
        assert_eq!((info.role.clone(), info.days_left), (Some(edge("agni")), 396));
        assert_eq!((info.dns.as_slice(), &info.ips), (&["localhost".to_string()][..], &ips));
        assert_eq!(info.revoked.as_deref(), Some("2026-10-01T12:00:00Z"));
        let json = serde_json::to_value(&info).unwrap();
        assert_eq!(json["role"]["edge"], "agni");
        assert_eq!(json["serial"], issued.serial.to_string());
        assert!(info.to_string().contains("396 days left"));

        let expired = describe(issued.chain_pem.as_bytes(), None, NOW + Duration::days(397)).unwrap();
        assert_eq!((expired.days_left, expired.revoked), (-1, None));
        let ca_info = describe(ca.certificate(), None, NOW).unwrap();
        assert_eq!((ca_info.role, ca_info.fingerprint_sha256), (None, ca.fingerprint().to_string()));
        assert!(describe(b"rubbish", None, NOW).is_err());
    }
}
