//! What rustls asks during a handshake, answered by [`Trust`].

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};

use super::provider;
use crate::identity::ca::Fingerprint;
use crate::identity::revocation::Revocations;
use crate::identity::trust::{End, Refusal, Trust, expect_node, from_unix_time, unix_time};
use crate::wire::ids::NodeName;

/// For a node: whoever shows a certificate must be of this mesh; nobody has to show one.
#[derive(Debug)]
pub(super) struct Peers {
    pub trust: Arc<Trust>,
}

/// For a dialler: the other end must be a node of this mesh, or exactly this one.
#[derive(Debug)]
pub(super) struct Node {
    pub trust: Arc<Trust>,
    pub expected: Option<NodeName>,
}

/// For a joiner, who knows the CA by its fingerprint only.
#[derive(Debug)]
pub(super) struct Pinned {
    pub ca: Fingerprint,
}

/// For the outside of a link whose inside knows who is there.
#[derive(Debug)]
pub(super) struct Anybody;

/// The signature half of a verifier, for both directions: that of the one provider.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            leaf: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls12_signature(message, leaf, signature, &provider().signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            leaf: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, leaf, signature, &provider().signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            provider().signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ClientCertVerifier for Peers {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.trust.client_verifier().root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let chain = chain(leaf, rest);
        self.trust.check(&chain, End::Client, from_unix_time(now)).map_err(|refusal| {
            // TLS says what is wrong with a certificate, and not whose it is.
            tracing::warn!(why = %refusal, "a certificate was refused in the handshake");
            alert(refusal)
        })?;
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
}

/// A verifier of nodes: what it checks of a chain is its own, the rest is the same for all of them.
macro_rules! server_verifier {
    ($name:ident) => {
        impl ServerCertVerifier for $name {
            fn verify_server_cert(
                &self,
                leaf: &CertificateDer<'_>,
                rest: &[CertificateDer<'_>],
                _name: &ServerName<'_>,
                _ocsp: &[u8],
                now: UnixTime,
            ) -> Result<ServerCertVerified, rustls::Error> {
                self.check(&chain(leaf, rest), now).map_err(alert)?;
                Ok(ServerCertVerified::assertion())
            }

            signatures!();
        }
    };
}

server_verifier!(Node);
server_verifier!(Pinned);
server_verifier!(Anybody);

impl Anybody {
    /// Only that there is one: its signature is looked at all the same.
    fn check(&self, _chain: &[CertificateDer<'static>], _now: UnixTime) -> Result<(), Refusal> {
        Ok(())
    }
}

impl Node {
    fn check(&self, chain: &[CertificateDer<'static>], now: UnixTime) -> Result<(), Refusal> {
        self.trust.admit_node(chain, self.expected.as_ref(), from_unix_time(now)).map(|_| ())
    }
}

impl Pinned {
    fn check(&self, chain: &[CertificateDer<'static>], now: UnixTime) -> Result<(), Refusal> {
        let [_, .., ca] = chain else {
            return Err(Refusal::Invalid("it came without its CA".into()));
        };
        // The fingerprint is the ticket's; from here on the CA that was sent is as good as one from a file.
        if Fingerprint::of(ca) != self.ca {
            return Err(Refusal::Stranger);
        }
        let invalid = |error: crate::identity::Error| Refusal::Invalid(error.to_string());
        let trust = Trust::new(ca.clone(), Arc::new(Revocations::default())).map_err(invalid)?;
        let peer = trust.check(chain, End::Server, from_unix_time(now))?;
        expect_node(&peer, None)
    }
}

fn chain(leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Vec<CertificateDer<'static>> {
    std::iter::once(leaf).chain(rest).map(|certificate| certificate.clone().into_owned()).collect()
}

/// A refusal as rustls takes it: with TLS's own alert where there is one, so that a peer of any make understands;
/// with our words otherwise.
fn alert(refusal: Refusal) -> rustls::Error {
    rustls::Error::InvalidCertificate(match refusal {
        Refusal::Stranger => CertificateError::UnknownIssuer,
        Refusal::Revoked { .. } => CertificateError::Revoked,
        Refusal::Expired { since, now, .. } => {
            CertificateError::ExpiredContext { time: unix_time(now), not_after: unix_time(since) }
        }
        Refusal::NotYetValid { from, now, .. } => {
            CertificateError::NotValidYetContext { time: unix_time(now), not_before: unix_time(from) }
        }
        other => CertificateError::Other(OtherError(Arc::new(Words(other)))),
    })
}

/// rustls shows other errors by `Debug`, which is no sentence.
struct Words(Refusal);

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Words {}
