//! A leaf is replaced before it ends, by the machine itself: the current key asks for a certificate of the next one.

use rcgen::SigningKey;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;

use super::bundle::Leaf;
use super::ca::{Authority, Signed};
use super::csr::Key;
use super::error::Error;
use super::info::{dns_names, ip_addresses};
use super::name;
use super::profile::{Profile, Request};
use super::revocation::Revocations;
use super::trust::{End, Trust};

/// Signed along with the request, so that no other signature of the key can pass for one.
const PURPOSE: &[u8] = b"trishula renew 1\0";

/// Whether it is time: in the last third of a leaf's life, and ever after.
pub fn due(not_before: OffsetDateTime, not_after: OffsetDateTime, now: OffsetDateTime) -> bool {
    now >= not_after - (not_after - not_before) / 3
}

/// "I hold the key of this certificate; certify this new one likewise."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// PKCS #10 for the new key.
    pub csr_der: Vec<u8>,
    /// The leaf that is to be replaced.
    pub current_cert_der: Vec<u8>,
    /// ECDSA by the current leaf's key over the purpose and the CSR.
    pub signature: Vec<u8>,
}

impl RenewRequest {
    /// Asks for a certificate of the next key, which [`super::bundle::Bundle::pending_key`] has put on disk.
    pub fn create(current: &Leaf, fresh: &Key) -> Result<Self, Error> {
        let csr_der = fresh.request()?;
        let signature = Key::from_der(current.key(), "current key")?
            .pair()
            .sign(&signed_bytes(&csr_der))
            .map_err(|_| Error::Crypto("signing a renewal"))?;
        Ok(Self { csr_der, current_cert_der: current.certificate()?.to_vec(), signature })
    }
}

impl Authority {
    /// Issues the same role and names again, for the new key. The current leaf must hold at this moment: one that
    /// has expired or is revoked needs a new ticket.
    pub fn renew(
        &self,
        request: &RenewRequest,
        revocations: &std::sync::Arc<Revocations>,
        now: OffsetDateTime,
    ) -> Result<Signed, Error> {
        let current = CertificateDer::from(request.current_cert_der.as_slice());
        let parsed = name::parse(&current)?;
        let renewed = same_again(&parsed)?;
        let end = if renewed.profile == Profile::Public { End::Server } else { End::Client };
        Trust::new(self.certificate().clone(), revocations.clone())?
            .check(std::slice::from_ref(&current), end, now)
            .map_err(|refusal| Error::Refused { place: "the certificate to be renewed".into(), refusal })?;
        if !is_signed(&parsed, request) {
            return Err(Error::NotIssued("the renewal is not signed by the key it would replace".into()));
        }
        self.sign_csr(&request.csr_der, &renewed, now)
    }
}

/// What to ask of the CA to get a certificate that says the same.
fn same_again(parsed: &X509Certificate<'_>) -> Result<Request, Error> {
    let role = name::role_of(parsed)?;
    let usage = parsed.extended_key_usage().ok().flatten();
    let profile = match usage.map(|usage| (usage.value.server_auth, usage.value.client_auth)) {
        Some((true, true)) => Profile::Link,
        Some((true, false)) => Profile::Public,
        Some((false, true)) => Profile::Client,
        _ => return Err(Error::NotIssued(format!("the certificate of {role} says nothing of its use"))),
    };
    if profile != Profile::Public {
        return Ok(Request::link(role));
    }
    let names = name::alternative_names(parsed)?;
    Ok(Request::public(role, dns_names(&names), ip_addresses(&names)))
}

fn is_signed(current: &X509Certificate<'_>, request: &RenewRequest) -> bool {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
    let key = &current.public_key().subject_public_key.data;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
        .verify(&signed_bytes(&request.csr_der), &request.signature)
        .is_ok()
}

fn signed_bytes(csr_der: &[u8]) -> Vec<u8> {
    [PURPOSE, csr_der].concat()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use time::Duration;

    use super::*;
    use crate::identity::info::describe;
    use crate::identity::testing::{NOW, edge, node};

    fn leaf(ca: &Authority, request: &Request) -> Leaf {
        let issued = ca.issue(request, NOW).unwrap();
        Leaf::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), "c", "k").unwrap()
    }

    #[test]
    fn the_last_third_is_the_time() {
        // covers T24
        let end = NOW + Duration::days(90);
        assert!(!due(NOW, end, NOW + Duration::days(60) - Duration::SECOND));
        assert!(due(NOW, end, NOW + Duration::days(60)));
        assert!(due(NOW, end, end + Duration::days(1)));
    }

    #[test]
    fn a_renewed_leaf_says_the_same_for_a_new_key() {
        // covers T24
        let ca = Authority::create("trishula", NOW).unwrap();
        let none = Arc::new(Revocations::default());
        let later = NOW + Duration::days(61);
        let names = (vec!["agni.example.com".to_string()], vec!["192.0.2.1".parse().unwrap()]);
        for request in [Request::link(node("agni")), Request::public(edge("agni"), names.0, names.1)] {
            let old = leaf(&ca, &request);
            let key = Key::generate().unwrap();
            let renewal = RenewRequest::create(&old, &key).unwrap();
            let bytes = postcard::to_stdvec(&renewal).unwrap();
            let renewal: RenewRequest = postcard::from_bytes(&bytes).unwrap();
            let signed = ca.renew(&renewal, &none, later).unwrap();
            let new = Leaf::from_pem(signed.chain_pem.as_bytes(), key.to_pem().as_bytes(), "c", "k").unwrap();
            let (before, after) = (
                describe(old.certificate().unwrap(), None, later).unwrap(),
                describe(new.certificate().unwrap(), None, later).unwrap(),
            );
            assert_eq!((&before.role, &before.dns, &before.ips), (&after.role, &after.dns, &after.ips));
            assert!(after.days_left > before.days_left && after.serial != before.serial);
        }
    }

    #[test]
    fn only_the_holder_of_a_good_leaf_renews_it() {
        // covers T24
        let ca = Authority::create("trishula", NOW).unwrap();
        let (ours, other) = (leaf(&ca, &Request::link(node("agni"))), leaf(&ca, &Request::link(node("dc"))));
        let none = Arc::new(Revocations::default());
        let good = RenewRequest::create(&ours, &Key::generate().unwrap()).unwrap();
        let theirs = RenewRequest::create(&other, &Key::generate().unwrap()).unwrap();
        let why = |request: &RenewRequest, revocations: &Arc<Revocations>, now| {
            ca.renew(request, revocations, now).unwrap_err().to_string()
        };

        let stolen = RenewRequest { current_cert_der: theirs.current_cert_der.clone(), ..good.clone() };
        assert!(why(&stolen, &none, NOW).contains("not signed by the key"));
        let swapped = RenewRequest { csr_der: theirs.csr_der, ..good.clone() };
        assert!(why(&swapped, &none, NOW).contains("not signed by the key"));
        assert!(why(&good, &none, NOW + Duration::days(91)).contains("expired"));

        let serial = describe(&good.current_cert_der, None, NOW).unwrap().serial;
        let revoked = Arc::new(Revocations::new(Some(ca.revoke(&[serial], None, NOW).unwrap())));
        assert!(why(&good, &revoked, NOW).contains("revoked"));
        let stranger = Authority::create("trishula", NOW).unwrap();
        assert!(stranger.renew(&good, &none, NOW).unwrap_err().to_string().contains("not of this mesh"));
        assert!(ca.renew(&good, &none, NOW).is_ok());
    }
}
