//! Who is let in: one check for handshakes, for resumed connections and for long-lived ones.

use std::sync::Arc;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, RootCertStore};
use time::OffsetDateTime;

use super::error::{Error, stamp};
use super::name::{PeerName, RoleKind};
use super::revocation::Revocations;
use super::tls;
use crate::wire::ids::NodeName;

/// Longest chain that is looked at: a leaf and its CA, and one to spare.
const MAX_CHAIN: usize = 3;

/// Why a peer is not let in. Nothing has been done for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It showed none.
    #[error("no certificate was shown; a link needs one of this mesh")]
    NoCertificate,
    /// Signed by somebody else.
    #[error(
        "the certificate is not of this mesh (another CA signed it); join this mesh with a ticket of its own"
    )]
    Stranger,
    /// Too old.
    #[error("the certificate of {who} expired at {}; renew it, or join again", stamp(*.since))]
    Expired {
        /// Whom it names.
        who: String,
        /// Its last moment.
        since: OffsetDateTime,
        /// What the clock here said.
        now: OffsetDateTime,
    },
    /// Too new.
    #[error("the certificate of {who} holds only from {}, and here it is {}; set the clocks of both machines", stamp(*.from), stamp(*.now))]
    NotYetValid {
        /// Whom it names.
        who: String,
        /// Its first moment.
        from: OffsetDateTime,
        /// What the clock here said.
        now: OffsetDateTime,
    },
    /// Taken back.
    #[error("the certificate of {who} was revoked at {}; it must join again with a new ticket", stamp(*.since))]
    Revoked {
        /// Whom it names.
        who: String,
        /// When.
        since: OffsetDateTime,
    },
    /// It names nobody of a mesh.
    #[error("the certificate names no role: {0}")]
    NoRole(String),
    /// A good certificate, of somebody else.
    #[error("{found} answered where {expected} was expected; check the address")]
    NotWhoWasExpected {
        /// Whom the certificate names.
        found: String,
        /// Who should have been there.
        expected: String,
    },
    /// Anything else that is wrong with it: its use, its signature, its form.
    #[error("the certificate does not hold: {0}")]
    Invalid(String),
}

/// Which end of a link showed the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It was dialled.
    Server,
    /// It dialled.
    Client,
}

/// What a mesh's members are believed by: the CA and its revocations.
#[derive(Debug)]
pub struct Trust {
    ca: CertificateDer<'static>,
    roots: RootCertStore,
    revocations: Arc<Revocations>,
    /// webpki's check with the client's extended key usage.
    clients: Arc<dyn ClientCertVerifier>,
}

impl Trust {
    /// Trusts what this CA signed, save what the revocations (which may grow) take back.
    pub fn new(ca: CertificateDer<'static>, revocations: Arc<Revocations>) -> Result<Self, Error> {
        let wrong = |e: &dyn std::fmt::Display| Error::malformed("CA certificate", e);
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone()).map_err(|e| wrong(&e))?;
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), tls::provider())
            .allow_unauthenticated()
            .build()
            .map_err(|e| wrong(&e))?;
        Ok(Self { ca, roots, revocations, clients })
    }

    /// The mesh's CA.
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// The revocations in force.
    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// Says who a peer is, from the certificates of its connection (`quinn::Connection::peer_identity`).
    ///
    /// To be asked after *every* handshake, and again when revocations change or [`PeerName::not_after`] is past:
    /// a resumed TLS session repeats what an earlier handshake found, without looking at dates or revocations.
    pub fn admit(
        &self,
        certificates: &[CertificateDer<'_>],
        now: OffsetDateTime,
    ) -> Result<PeerName, Refusal> {
        self.check(certificates, End::Client, now)
    }

    /// The same, for a peer that was dialled as this node.
    pub fn admit_node(
        &self,
        certificates: &[CertificateDer<'_>],
        expected: Option<&NodeName>,
        now: OffsetDateTime,
    ) -> Result<PeerName, Refusal> {
        let peer = self.check(certificates, End::Server, now)?;
        expect_node(&peer, expected)?;
        Ok(peer)
    }

    /// The chain, the dates, the use, the revocations, the name, in this order.
    pub(super) fn check(
        &self,
        certificates: &[CertificateDer<'_>],
        end: End,
        now: OffsetDateTime,
    ) -> Result<PeerName, Refusal> {
        let (leaf, rest) = certificates.split_first().ok_or(Refusal::NoCertificate)?;
        if certificates.len() > MAX_CHAIN {
            return Err(Refusal::Invalid(format!("its chain has {} certificates", certificates.len())));
        }
        let verified = self.verify_chain(leaf, rest, end, unix_time(now));
        let named = PeerName::from_certificate(leaf);
        verified.map_err(|error| refusal(error, named.as_ref().ok(), now))?;
        let peer = named.map_err(|error| Refusal::NoRole(error.to_string()))?;
        match self.revocations.since(&peer.serial) {
            Some(since) => Err(Refusal::Revoked { who: peer.to_string(), since }),
            None => Ok(peer),
        }
    }

    pub(super) fn client_verifier(&self) -> &dyn ClientCertVerifier {
        &*self.clients
    }

    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        end: End,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        match end {
            End::Client => self.clients.verify_client_cert(leaf, rest, now).map(|_| ()),
            End::Server => {
                let algorithms = tls::provider().signature_verification_algorithms.all;
                let parsed = ParsedCertificate::try_from(leaf)?;
                verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, rest, now, algorithms)
            }
        }
    }
}

/// Refuses who is not a node, or not this one.
pub(super) fn expect_node(peer: &PeerName, expected: Option<&NodeName>) -> Result<(), Refusal> {
    use super::name::Role;
    let right = match (&peer.role, expected) {
        (Role::Node(found), Some(expected)) => found == expected,
        (role, _) => role.kind() == RoleKind::Node,
    };
    if right {
        return Ok(());
    }
    let expected = expected.map_or_else(|| RoleKind::Node.to_string(), |name| format!("node {name}"));
    Err(Refusal::NotWhoWasExpected { found: peer.to_string(), expected })
}

fn refusal(error: rustls::Error, peer: Option<&PeerName>, now: OffsetDateTime) -> Refusal {
    let who = peer.map_or_else(|| "an unnamed peer".into(), ToString::to_string);
    let rustls::Error::InvalidCertificate(why) = error else { return Refusal::Invalid(error.to_string()) };
    match (why, peer) {
        (CertificateError::UnknownIssuer | CertificateError::BadSignature, _) => Refusal::Stranger,
        (CertificateError::ExpiredContext { .. } | CertificateError::Expired, Some(peer)) => {
            Refusal::Expired { who, since: peer.not_after, now }
        }
        (CertificateError::NotValidYetContext { .. } | CertificateError::NotValidYet, Some(peer)) => {
            Refusal::NotYetValid { who, from: peer.not_before, now }
        }
        (why, _) => Refusal::Invalid(why.to_string()),
    }
}

/// A moment as rustls takes it.
pub(super) fn unix_time(moment: OffsetDateTime) -> UnixTime {
    let seconds = u64::try_from(moment.unix_timestamp()).unwrap_or(0);
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
}

/// A moment as rustls gives it.
pub(super) fn from_unix_time(moment: UnixTime) -> OffsetDateTime {
    let seconds = i64::try_from(moment.as_secs()).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
