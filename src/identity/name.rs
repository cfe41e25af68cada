//! Who a certificate names: the URI in its subject alternative names.

use std::fmt;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use x509_parser::prelude::{GeneralName, X509Certificate};

use super::error::Error;
use super::serial::Serial;
use crate::wire::ids::{AgentAddr, AgentName, Namespace, NodeName};

/// What every node's certificate bears besides its own name: dialled (SNI) where the name is not known.
pub const ANY_NODE: &str = "node.trishula";
/// How the names that we issue begin.
const SCHEME: &str = "trishula:";

/// What a party of the mesh is, and its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A node: keeps mailboxes and forwards. `trishula://node/NAME`
    Node(NodeName),
    /// The edge of the node of that name: carries clients' frames. `trishula://edge/NAME`
    Edge(NodeName),
    /// An agent that comes in with a certificate of its own. `trishula://agent/NAMESPACE/NAME`
    Agent(AgentAddr),
}

/// A role without the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RoleKind {
    /// See [`Role::Node`].
    Node,
    /// See [`Role::Edge`].
    Edge,
    /// See [`Role::Agent`].
    Agent,
}

impl Role {
    /// Which of the three it is.
    pub fn kind(&self) -> RoleKind {
        match self {
            Self::Node(_) => RoleKind::Node,
            Self::Edge(_) => RoleKind::Edge,
            Self::Agent(_) => RoleKind::Agent,
        }
    }

    /// The URI by which certificates name it.
    pub fn uri(&self) -> String {
        match self {
            Self::Node(name) => format!("trishula://node/{name}"),
            Self::Edge(name) => format!("trishula://edge/{name}"),
            Self::Agent(addr) => format!("trishula://agent/{addr}"),
        }
    }

    /// The name that a dialler puts into TLS (SNI). Agents are not dialled and have none.
    pub fn dns_name(&self) -> Option<String> {
        match self {
            Self::Node(name) => Some(format!("{name}.node.trishula")),
            Self::Edge(name) => Some(format!("{name}.edge.trishula")),
            Self::Agent(_) => None,
        }
    }

    /// Reads such a URI. Nothing but the exact form is taken: a second spelling of a name would be a second identity.
    pub fn from_uri(uri: &str) -> Result<Self, Error> {
        let other = || Error::malformed(format!("name {uri:?}"), "is not trishula://node|edge|agent/…");
        let (kind, name) =
            uri.strip_prefix("trishula://").and_then(|rest| rest.split_once('/')).ok_or_else(other)?;
        match kind {
            "node" => Ok(Self::Node(NodeName::new(name)?)),
            "edge" => Ok(Self::Edge(NodeName::new(name)?)),
            "agent" => {
                let (namespace, name) = name.split_once('/').ok_or_else(other)?;
                Ok(Self::Agent(AgentAddr::new(Namespace::new(namespace)?, AgentName::new(name)?)))
            }
            _ => Err(other()),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node {name}"),
            Self::Edge(name) => write!(f, "edge {name}"),
            Self::Agent(addr) => write!(f, "agent {addr}"),
        }
    }
}

impl fmt::Display for RoleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "a node",
            Self::Edge => "an edge",
            Self::Agent => "an agent",
        })
    }
}

/// Whom a certificate names, and which certificate it is.
///
/// Reading one proves nothing: only [`super::Trust::admit`] says that it is to be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerName {
    /// Who.
    pub role: Role,
    /// The certificate's number, by which it may be revoked.
    pub serial: Serial,
    /// From when the certificate holds.
    pub not_before: OffsetDateTime,
    /// Until when: a connection that lives on past it is to be closed.
    pub not_after: OffsetDateTime,
}

impl PeerName {
    /// Reads whom a certificate names. It must hold exactly one URI of ours.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        let parsed = parse(certificate)?;
        Ok(Self {
            role: role_of(&parsed)?,
            serial: Serial::from_der_integer(parsed.raw_serial()),
            not_before: parsed.validity().not_before.to_datetime(),
            not_after: parsed.validity().not_after.to_datetime(),
        })
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.role, f)
    }
}

/// What a certificate of somebody else's CA says of its owner, and until when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// URIs among the alternative names.
    pub uris: Vec<String>,
    /// DNS names among them.
    pub dns: Vec<String>,
    /// Common names of the subject.
    pub common_names: Vec<String>,
    /// Wall-clock milliseconds at which it ends.
    pub not_after_ms: u64,
}

impl Owner {
    /// Reads a certificate. It proves nothing: its chain is to be checked in the handshake.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Owner, Error> {
        let parsed = parse(certificate)?;
        let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let mut owner = Owner { not_after_ms: seconds.saturating_mul(1000), ..Owner::default() };
        for name in alternative_names(&parsed)? {
            match name {
                GeneralName::URI(uri) => owner.uris.push(uri.to_owned()),
                GeneralName::DNSName(dns) => owner.dns.push(dns.to_owned()),
                _ => {}
            }
        }
        let common = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        owner.common_names = common.map(str::to_owned).collect();
        Ok(owner)
    }
}

/// Reads the DER of one certificate, all of it.
pub(super) fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    match x509_parser::parse_x509_certificate(certificate.as_ref()) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err(Error::malformed("certificate", "has bytes after its end")),
        Err(error) => Err(Error::malformed("certificate", format!("is not X.509 DER ({error})"))),
    }
}

/// The names in a certificate's subject alternative names.
pub(super) fn alternative_names<'a>(parsed: &'a X509Certificate<'_>) -> Result<Vec<GeneralName<'a>>, Error> {
    let found = parsed.subject_alternative_name().map_err(|e| {
        Error::malformed("certificate", format!("has unreadable subject alternative names ({e})"))
    })?;
    Ok(found.map(|extension| extension.value.general_names.clone()).unwrap_or_default())
}

/// Whom a parsed certificate names.
pub(super) fn role_of(parsed: &X509Certificate<'_>) -> Result<Role, Error> {
    let nameless = |why: String| Error::Nameless { subject: parsed.subject().to_string(), why };
    let names = alternative_names(parsed)?;
    let ours: Vec<&str> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) if uri.to_ascii_lowercase().starts_with(SCHEME) => Some(*uri),
            _ => None,
        })
        .collect();
    match ours[..] {
        [uri] => Role::from_uri(uri).map_err(|e| nameless(format!("names nobody: {e}"))),
        [] => Err(nameless("names nobody: it has no trishula:// URI".into())),
        _ => Err(nameless(format!("names more than one: {}", ours.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_has_one_spelling() {
        // covers T24
        for uri in ["trishula://node/agni", "trishula://edge/agni", "trishula://agent/trishula/agni.planner"]
        {
            assert_eq!(Role::from_uri(uri).unwrap().uri(), uri);
        }
        for bad in [
            "trishula://node/Agni",
            "trishula://node/agni/",
            "trishula://node/agni?x",
            "TRISHULA://node/agni",
            "trishula://node/%61gni",
            "trishula://agent/dc",
            "trishula://boss/agni",
            "spiffe://node/agni",
        ] {
            assert!(Role::from_uri(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_certificate_names_exactly_one() {
        // covers T24
        let with = |uris: &[&str]| {
            let mut params = rcgen::CertificateParams::default();
            params.subject_alt_names =
                uris.iter().map(|u| rcgen::SanType::URI((*u).try_into().unwrap())).collect();
            let key = rcgen::KeyPair::generate().unwrap();
            PeerName::from_certificate(params.self_signed(&key).unwrap().der())
        };
        assert_eq!(with(&["trishula://node/agni"]).unwrap().role.to_string(), "node agni");
        assert!(with(&["https://example.com", "trishula://edge/agni"]).is_ok(), "other URIs do not matter");
        for (uris, said) in [
            (&[][..], "names nobody"),
            (&["trishula://node/a", "trishula://node/b"], "more than one"),
            (&["trishula://node/a", "Trishula://node/b"], "more than one"),
            (&["trishula://node/A"], "not a node name"),
        ] {
            let error = with(uris).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
