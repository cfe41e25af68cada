//! What is in each certificate: the one place that decides. `certs/README.md` has the reasons, field by field.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, SerialNumber,
};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::error::Error;
use super::name::{Role, RoleKind};
use super::secret;
use super::serial::{Serial, hex};

/// How long a mesh's CA lasts. Replacing it means joining every machine again, so it is long.
pub const CA_LIFE: Duration = Duration::days(3650);
/// How long a link leaf lasts; nodes replace their own in the last third of it.
pub const LINK_LIFE: Duration = Duration::days(90);
/// How long a public leaf lasts: Apple refuses more than 398 days, so a day less than that less one for time zones.
pub const PUBLIC_LIFE: Duration = Duration::days(397);
/// No leaf lasts longer than this, whatever is asked for.
pub const MAX_LEAF_LIFE: Duration = Duration::days(397);
/// Certificates hold from a little before they are made: the clocks of two machines differ.
pub const BACKDATE: Duration = Duration::hours(1);

/// Longest common name (RFC 5280, `ub-common-name`), in bytes.
const MAX_COMMON_NAME: usize = 64;
/// Most DNS names and addresses in one certificate.
const MAX_ALTERNATIVES: usize = 32;
/// Names under this belong to the mesh: nobody may ask for them.
const RESERVED_SUFFIX: &str = ".trishula";

/// What a leaf may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Both ends of a link: a node, or an edge. TLS server and client.
    Link,
    /// What an edge shows its clients. TLS server only, so it never opens a link.
    Public,
    /// An agent that comes in with a certificate. TLS client only.
    Client,
}

/// What certificate is asked for. What it says is ours to decide: nothing of it comes from the asker's CSR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Whom it names.
    pub role: Role,
    /// What it is for.
    pub profile: Profile,
    /// Further DNS names; public leaves only.
    pub dns_names: Vec<String>,
    /// IP addresses; public leaves only.
    pub ips: Vec<IpAddr>,
    /// How long it holds; `None` is the profile's own.
    pub life: Option<Duration>,
}

impl Request {
    /// A leaf for the links of a node or edge, or for an agent.
    pub fn link(role: Role) -> Self {
        let profile = if role.kind() == RoleKind::Agent { Profile::Client } else { Profile::Link };
        Self { role, profile, dns_names: Vec::new(), ips: Vec::new(), life: None }
    }

    /// A leaf that an edge shows its clients.
    pub fn public(role: Role, dns_names: Vec<String>, ips: Vec<IpAddr>) -> Self {
        Self { role, profile: Profile::Public, dns_names, ips, life: None }
    }

    /// Refuses what no certificate should say.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::NotIssued(why));
        let kind = self.role.kind();
        let fits = match self.profile {
            Profile::Link => kind != RoleKind::Agent,
            Profile::Public => kind == RoleKind::Edge,
            Profile::Client => kind == RoleKind::Agent,
        };
        if !fits {
            return refuse(format!("{} has no {:?} certificate", self.role, self.profile));
        }
        let alternatives = self.dns_names.len() + self.ips.len();
        match self.profile {
            Profile::Public if alternatives == 0 => {
                return refuse(
                    "a public certificate needs a DNS name or an IP address that clients use".into(),
                );
            }
            Profile::Public if alternatives > MAX_ALTERNATIVES => {
                return refuse(format!("{alternatives} names; at most {MAX_ALTERNATIVES} are allowed"));
            }
            Profile::Link | Profile::Client if alternatives > 0 => {
                return refuse("a link certificate carries no names but its role's".into());
            }
            _ => {}
        }
        if let Some(bad) = self.dns_names.iter().find(|name| !is_public_dns_name(name)) {
            return refuse(format!(
                "{bad:?} is not a DNS name (letters, digits, '-' and dots), or ends in {RESERVED_SUFFIX}, which is the mesh's own"
            ));
        }
        if self.life.is_some_and(|life| life > MAX_LEAF_LIFE || life <= Duration::ZERO) {
            return refuse(format!("it must last between a moment and {} days", MAX_LEAF_LIFE.whole_days()));
        }
        Ok(())
    }
}

/// The CA's own certificate.
pub(super) fn ca(mesh: &str, now: OffsetDateTime) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    // The suffix keeps two CAs apart that were made for one mesh name: a chain is found by the issuer's name.
    let suffix = hex(&secret::random::<4>()?);
    params.distinguished_name = subject(mesh, &format!("{mesh} CA {suffix}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial_number(&Serial::random()?));
    params.not_before = now - BACKDATE;
    params.not_after = now + CA_LIFE;
    Ok(params)
}

/// A leaf. Checks the request first.
pub(super) fn leaf(
    mesh: &str,
    request: &Request,
    serial: &Serial,
    now: OffsetDateTime,
) -> Result<CertificateParams, Error> {
    request.check()?;
    let (suffix, usages, life) = match request.profile {
        Profile::Link => ("", BOTH, LINK_LIFE),
        Profile::Public => (" public", SERVER, PUBLIC_LIFE),
        Profile::Client => ("", CLIENT, LINK_LIFE),
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(mesh, &format!("{}{suffix}", request.role));
    params.subject_alt_names = alternative_names(request)?;
    // Not `NoCa`: that would leave out the subject key identifier and the basic constraints.
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages.to_vec();
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial_number(serial));
    params.not_before = now - BACKDATE;
    // Counted from `not_before`, so that the whole is never over the limit.
    params.not_after = params.not_before + request.life.unwrap_or(life);
    Ok(params)
}

const SERVER: &[ExtendedKeyUsagePurpose] = &[ExtendedKeyUsagePurpose::ServerAuth];
const CLIENT: &[ExtendedKeyUsagePurpose] = &[ExtendedKeyUsagePurpose::ClientAuth];
const BOTH: &[ExtendedKeyUsagePurpose] =
    &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];

/// The name of a CA and of a leaf differ: a leaf whose subject is its issuer's counts as self-signed (OpenSSL).
fn subject(mesh: &str, common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, mesh);
    // Names are ASCII, so this cuts no character in two. Who is meant is in the URI, never here.
    name.push(DnType::CommonName, &common_name[..common_name.len().min(MAX_COMMON_NAME)]);
    name
}

fn alternative_names(request: &Request) -> Result<Vec<SanType>, Error> {
    let ia5 = |text: &str| text.try_into().map_err(|_| Error::NotIssued(format!("{text:?} is not ASCII")));
    let mut names = vec![SanType::URI(ia5(&request.role.uri())?)];
    if let (Profile::Link, Some(dns_name)) = (request.profile, request.role.dns_name()) {
        names.push(SanType::DnsName(ia5(&dns_name)?));
    }
    for dns_name in &request.dns_names {
        names.push(SanType::DnsName(ia5(dns_name)?));
    }
    names.extend(request.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    Ok(names)
}

fn serial_number(serial: &Serial) -> SerialNumber {
    SerialNumber::from_slice(serial.as_bytes())
}

/// A host name that clients may use, `*.` in front allowed.
fn is_public_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let host = name.strip_prefix("*.").unwrap_or(name);
    let lower = name.to_ascii_lowercase();
    name.len() <= 253
        && host.split('.').all(is_label)
        && !lower.ends_with(RESERVED_SUFFIX)
        && lower != "trishula"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ids::NodeName;

    #[test]
    fn only_what_a_role_needs_is_granted() {
        // covers T24
        let node = || Role::Node(NodeName::new("agni").unwrap());
        let edge = || Role::Edge(NodeName::new("agni").unwrap());
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_string()).collect::<Vec<_>>();
        assert!(Request::link(node()).check().is_ok());
        assert!(
            Request::public(edge(), names(&["agni.example.com", "*.example.com", "localhost"]), vec![])
                .check()
                .is_ok()
        );
        let refused = [
            Request::public(node(), names(&["agni.example.com"]), vec![]),
            Request::public(edge(), vec![], vec![]),
            Request::public(edge(), names(&["dc.node.trishula"]), vec![]),
            Request::public(edge(), names(&["dc.node.Trishula"]), vec![]),
            Request::public(edge(), names(&["a b"]), vec![]),
            Request::public(edge(), names(&["a..b"]), vec![]),
            Request { dns_names: names(&["x.example.com"]), ..Request::link(edge()) },
            Request { life: Some(Duration::days(398)), ..Request::link(edge()) },
        ];
        for request in refused {
            assert!(request.check().is_err(), "{request:?}");
        }
    }

    #[test]
    fn a_common_name_is_never_too_long() {
        // covers T24
        let role = Role::Node(NodeName::new(&"n".repeat(63)).unwrap());
        let params = leaf(
            "mesh",
            &Request::link(role),
            &Serial::random().unwrap(),
            OffsetDateTime::UNIX_EPOCH + CA_LIFE,
        );
        let name = params.unwrap().distinguished_name;
        let Some(rcgen::DnValue::Utf8String(name)) = name.get(&DnType::CommonName) else {
            panic!("no common name")
        };
        assert_eq!(name.len(), 64);
    }
}
