//! How a machine joins: what it asks of the holder of the CA, and what it gets. No I/O here; the messages may pass
//! through any node, which can read neither secret and change neither message.
//!
//! ```text
//!  joiner                                   any node           holder of the CA
//!  JoinRequest  = CSRs, names, HMAC   ────▶  relays   ────▶    Authority::enrol: Invites::find, sign, Invites::settle
//!  JoinReply    = chains, sealed, HMAC ◀───  relays   ◀────    (kept on disk: asked again, it answers the same)
//! ```

use std::net::IpAddr;

use rcgen::PublicKeyData;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::ca::{Authority, Fingerprint};
use super::csr::{self, Key};
use super::error::{self, stamp};
use super::invites::{Found, Invited, Invites};
use super::name::{self, PeerName, Role};
use super::profile::Request;
use super::revocation::{RevocationList, Revocations};
use super::secret::{Secret, same, sha256};
use super::ticket::{InviteId, Ticket};
use super::trust::{End, Trust};
use crate::wire::ids::NodeName;

/// What the keys derived from a ticket's secret are for; one each.
const FOR_REQUEST: &str = "join request";
const FOR_REPLY: &str = "join reply";
const FOR_SEALED: &str = "join sealed";

/// Longest CSR that is looked at, in bytes; one of ours has some 200.
const MAX_CSR: usize = 4096;

/// Why a joiner is not let in, or why a reply is not believed.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The holder knows of no such invitation.
    #[error(
        "no such invitation ({0}); it ended long ago, or the ticket is of another mesh: ask for a new one (`trishula invite`)"
    )]
    Unknown(InviteId),
    /// Too late.
    #[error("the invitation expired at {}; ask for a new one (`trishula invite`)", stamp(*.0))]
    Expired(OffsetDateTime),
    /// Another machine (or another try with new keys) has used it.
    #[error("this ticket was used already, at {} with other keys; if that was not you, revoke that certificate; ask for a new ticket", stamp(*.0))]
    Used(OffsetDateTime),
    /// Made without the secret, or changed on its way.
    #[error(
        "the {0} does not carry the ticket's seal: the ticket is another one, or it was changed on its way"
    )]
    Tampered(&'static str),
    /// Another name than the invitation's.
    #[error("the ticket is for {invited}, not for {asked}")]
    WrongName {
        /// For whom the invitation is.
        invited: NodeName,
        /// Who asked.
        asked: NodeName,
    },
    /// A public name that the invitation does not allow.
    #[error("the invitation does not allow the public name {0}; ask for one that does (`trishula invite`)")]
    NameNotInvited(String),
    /// The reply is sealed, but what it holds does not fit what was asked.
    #[error("the reply does not fit what was asked: {0}; try again, then report it")]
    Misfit(&'static str),
    /// Anything else.
    #[error(transparent)]
    Identity(#[from] error::Error),
}

/// What a joiner wants certified. Its keys are on its disk before it asks: the same keys are answered again when an
/// answer is lost, others are refused.
#[derive(Debug, Default)]
pub struct Wants<'a> {
    /// A node's link leaf.
    pub node: Option<&'a Key>,
    /// An edge's link leaf.
    pub edge: Option<&'a Key>,
    /// An edge's public leaf.
    pub public: Option<(&'a Key, PublicNames)>,
}

/// Under which names clients reach an edge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicNames {
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
}

impl PublicNames {
    /// Refuses names that are not among these.
    fn cover(&self, asked: &Self) -> Result<(), EnrolError> {
        let dns = asked.dns.iter().find(|dns| !self.dns.contains(dns)).cloned();
        let ip = asked.ips.iter().find(|ip| !self.ips.contains(ip)).map(ToString::to_string);
        dns.or(ip).map_or(Ok(()), |name| Err(EnrolError::NameNotInvited(name)))
    }
}

/// What a joiner sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// [`Asked`], in postcard: the bytes that the tag is over.
    asked: Vec<u8>,
    tag: [u8; 32],
}

/// The body of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Asked {
    invite: InviteId,
    name: NodeName,
    node_csr: Option<Vec<u8>>,
    edge_csr: Option<Vec<u8>>,
    public_csr: Option<(Vec<u8>, PublicNames)>,
}

impl JoinRequest {
    /// Asks, by this ticket, for what is wanted.
    pub fn new(ticket: &Ticket, wants: &Wants<'_>) -> Result<Self, EnrolError> {
        let csr = |key: Option<&Key>| key.map(Key::request).transpose();
        let public = wants.public.as_ref().map(|(key, names)| Ok((key.request()?, names.clone())));
        let asked = Asked {
            invite: ticket.invite,
            name: ticket.name.clone(),
            node_csr: csr(wants.node)?,
            edge_csr: csr(wants.edge)?,
            public_csr: public.transpose().map_err(|e: error::Error| e)?,
        };
        let asked = encode(&asked)?;
        Ok(Self { tag: ticket.secret.mac(FOR_REQUEST, &asked)?, asked })
    }

    fn decode(&self) -> Result<Asked, EnrolError> {
        decode(&self.asked, "join request")
    }

    /// Of which invitation it makes use. Not checked: for routing and for logs.
    pub fn invite(&self) -> Result<InviteId, EnrolError> {
        Ok(self.decode()?.invite)
    }
}

impl Asked {
    /// By which a request is known again: its names and public keys. (Not its bytes: ECDSA signs anew each time.)
    fn digest(&self) -> Result<[u8; 32], EnrolError> {
        let key = |csr: Option<&Vec<u8>>| csr.map(|csr| public_key(csr)).transpose();
        let public = self.public_csr.as_ref();
        let keys =
            (key(self.node_csr.as_ref())?, key(self.edge_csr.as_ref())?, key(public.map(|(csr, _)| csr))?);
        let known_by = (self.invite, &self.name, keys, public.map(|(_, names)| names));
        Ok(sha256(&encode(&known_by)?))
    }
}

/// What the holder adds to the certificates.
#[derive(Debug, Default, Clone)]
pub struct Welcome<'a> {
    /// Where other nodes are.
    pub peers: Vec<(NodeName, String)>,
    /// The revocations in force.
    pub revoked: Option<&'a RevocationList>,
    /// What only the joiner shall read: the mesh's shared secrets, as the daemon encodes them.
    pub secrets: &'a [u8],
}

/// What the holder answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinReply {
    /// [`Answered`], in postcard: the bytes that the tag is over.
    answered: Vec<u8>,
    tag: [u8; 32],
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Answered {
    /// [`Asked::digest`] of what this answers.
    request: [u8; 32],
    ca_pem: String,
    node: Option<String>,
    edge: Option<String>,
    public: Option<String>,
    peers: Vec<(NodeName, String)>,
    revoked: Option<Vec<u8>>,
    sealed: Vec<u8>,
}

/// What a joiner has when all has been checked.
#[derive(Debug, PartialEq, Eq)]
pub struct Joined {
    /// For `ca.pem`.
    pub ca_pem: String,
    /// The node's link chain, PEM.
    pub node: Option<String>,
    /// The edge's link chain, PEM.
    pub edge: Option<String>,
    /// The edge's public chain, PEM.
    pub public: Option<String>,
    /// Where other nodes are.
    pub peers: Vec<(NodeName, String)>,
    /// For `revoked.crl`.
    pub revoked: Option<RevocationList>,
    /// [`Welcome::secrets`].
    pub secrets: Vec<u8>,
}

impl Authority {
    /// Lets a joiner in: once for each invitation. The answer is on disk before it is returned; the same request
    /// gets the same answer until the invitation expires.
    pub fn enrol(
        &self,
        request: &JoinRequest,
        invites: &mut Invites,
        welcome: &Welcome<'_>,
        now: OffsetDateTime,
    ) -> Result<JoinReply, EnrolError> {
        let id = request.invite()?;
        let Invited { secret, name: invited, public, state } = invites.find(id, now)?;
        // Before anything else is read from it: that it comes from the ticket's holder.
        if !secret.verify(FOR_REQUEST, &request.asked, &request.tag)? {
            return Err(EnrolError::Tampered("join request"));
        }
        let asked = request.decode()?;
        if asked.name != invited {
            return Err(EnrolError::WrongName { invited, asked: asked.name });
        }
        if let (Some(allowed), Some((_, names))) = (&public, &asked.public_csr) {
            allowed.cover(names)?;
        }
        if asked.node_csr.is_none() && asked.edge_csr.is_none() && asked.public_csr.is_none() {
            return Err(error::Error::NotIssued("the join request asks for none".into()).into());
        }
        let digest = asked.digest()?;
        match state {
            Found::Used { request, reply, .. } if request == digest => decode(&reply, "kept join reply"),
            Found::Used { at, .. } => Err(EnrolError::Used(at)),
            Found::Open => {
                let reply = self.answer(&asked, digest, &secret, welcome, now)?;
                invites.settle(id, digest, &encode(&reply)?, now)?;
                Ok(reply)
            }
        }
    }

    fn answer(
        &self,
        asked: &Asked,
        digest: [u8; 32],
        secret: &Secret,
        welcome: &Welcome<'_>,
        now: OffsetDateTime,
    ) -> Result<JoinReply, EnrolError> {
        let sign = |csr: &[u8], request: &Request| -> Result<String, EnrolError> {
            Ok(self.sign_csr(csr, request, now)?.chain_pem)
        };
        let (node, edge) = (Role::Node(asked.name.clone()), Role::Edge(asked.name.clone()));
        let node_request = Request::link(node);
        let edge_request = Request::link(edge.clone());
        let answered = Answered {
            request: digest,
            ca_pem: self.certificate_pem().into(),
            node: asked.node_csr.as_ref().map(|csr| sign(csr, &node_request)).transpose()?,
            edge: asked.edge_csr.as_ref().map(|csr| sign(csr, &edge_request)).transpose()?,
            public: asked
                .public_csr
                .as_ref()
                .map(|(csr, names)| sign(csr, &Request::public(edge, names.dns.clone(), names.ips.clone())))
                .transpose()?,
            peers: welcome.peers.clone(),
            revoked: welcome.revoked.map(|list| list.der().to_vec()),
            sealed: secret.seal(FOR_SEALED, &digest, welcome.secrets)?,
        };
        let answered = encode(&answered)?;
        Ok(JoinReply { tag: secret.mac(FOR_REPLY, &answered)?, answered })
    }
}

impl JoinReply {
    /// The certificate chains in it, PEM; not checked: for the holder's own list of what it signed.
    pub fn chains(&self) -> Result<Vec<String>, EnrolError> {
        let answered: Answered = decode(&self.answered, "join reply")?;
        Ok([answered.node, answered.edge, answered.public].into_iter().flatten().collect())
    }

    /// Checks an answer against the ticket and what was asked, and opens it.
    pub fn open(
        &self,
        ticket: &Ticket,
        request: &JoinRequest,
        now: OffsetDateTime,
    ) -> Result<Joined, EnrolError> {
        if !ticket.secret.verify(FOR_REPLY, &self.answered, &self.tag)? {
            return Err(EnrolError::Tampered("join reply"));
        }
        let answered: Answered = decode(&self.answered, "join reply")?;
        let asked = request.decode()?;
        let digest = asked.digest()?;
        if !same(&answered.request, &digest) {
            return Err(EnrolError::Misfit("it answers another request"));
        }
        let ca = CertificateDer::from_pem_slice(answered.ca_pem.as_bytes())
            .map_err(|e| error::Error::malformed("CA in the join reply", e))?;
        if Fingerprint::of(&ca) != ticket.ca {
            return Err(EnrolError::Misfit("its CA is not the ticket's"));
        }
        let trust = Trust::new(ca.clone(), std::sync::Arc::new(Revocations::default()))?;
        let (node, edge) = (Role::Node(asked.name.clone()), Role::Edge(asked.name.clone()));
        let public_csr = asked.public_csr.as_ref().map(|(csr, _)| csr);
        check_chain(&trust, asked.node_csr.as_ref(), answered.node.as_ref(), &node, End::Client, now)?;
        check_chain(&trust, asked.edge_csr.as_ref(), answered.edge.as_ref(), &edge, End::Client, now)?;
        check_chain(&trust, public_csr, answered.public.as_ref(), &edge, End::Server, now)?;
        let revoked = answered.revoked.map(|der| RevocationList::parse(&der, &ca)).transpose()?;
        let secrets = ticket.secret.open(FOR_SEALED, &digest, &answered.sealed)?;
        Ok(Joined {
            ca_pem: answered.ca_pem,
            node: answered.node,
            edge: answered.edge,
            public: answered.public,
            peers: answered.peers,
            revoked,
            secrets: secrets.ok_or(EnrolError::Tampered("sealed part of the join reply"))?,
        })
    }
}

/// That a chain came exactly if one was asked for, of this CA, for our key and our role.
fn check_chain(
    trust: &Trust,
    csr: Option<&Vec<u8>>,
    chain: Option<&String>,
    role: &Role,
    end: End,
    now: OffsetDateTime,
) -> Result<(), EnrolError> {
    let (csr, chain) = match (csr, chain) {
        (None, None) => return Ok(()),
        (Some(csr), Some(chain)) => (csr, chain),
        _ => return Err(EnrolError::Misfit("it holds other certificates than those asked for")),
    };
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| error::Error::malformed("certificate in the join reply", e))?;
    let peer: PeerName = trust
        .check(&certificates, end, now)
        .map_err(|refusal| error::Error::Refused { place: "join reply".into(), refusal })?;
    if peer.role != *role {
        return Err(EnrolError::Misfit("a certificate names somebody else"));
    }
    let leaf = certificates.first().ok_or(EnrolError::Misfit("a chain is empty"))?;
    if name::parse(leaf)?.public_key().raw != public_key(csr)? {
        return Err(EnrolError::Misfit("a certificate is for another key"));
    }
    Ok(())
}

fn public_key(csr: &[u8]) -> Result<Vec<u8>, EnrolError> {
    if csr.len() > MAX_CSR {
        return Err(error::Error::malformed("certificate request", "is longer than 4 KiB").into());
    }
    Ok(csr::certified_key(csr)?.subject_public_key_info())
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, EnrolError> {
    Ok(postcard::to_stdvec(value).map_err(|e| error::Error::malformed("join message", e))?)
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T, EnrolError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(error::Error::malformed(what, "has bytes after its end").into()),
        Err(error) => Err(error::Error::malformed(what, error).into()),
    }
}

#[cfg(test)]
mod tests;
