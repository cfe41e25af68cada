//! Keys, and requests to certify them (PKCS #10).

use std::fmt;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SubjectPublicKeyInfo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateSigningRequestDer, PrivateKeyDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::error::Error;

/// A fresh P-256 key that never leaves its machine, save into its own file.
pub struct Key(KeyPair);

impl Key {
    /// Makes one.
    pub fn generate() -> Result<Self, Error> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self).map_err(|_| Error::Crypto("making a key"))
    }

    /// Reads one back (PKCS #8). `place` says where it came from, for the error.
    pub fn from_pem(pem: &[u8], place: &str) -> Result<Self, Error> {
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|e| Error::malformed(place, e))?;
        Self::from_der(&der, place)
    }

    pub(super) fn from_der(der: &PrivateKeyDer<'_>, place: &str) -> Result<Self, Error> {
        KeyPair::try_from(der).map(Self).map_err(|e| Error::malformed(place, e))
    }

    /// For its file; see [`super::files::Access::Private`].
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// Asks for a certificate of this key. The request names nobody: the CA alone decides on names.
    pub fn request(&self) -> Result<Vec<u8>, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params.serialize_request(&self.0).map_err(|_| Error::Crypto("signing a request"))?;
        Ok(request.der().to_vec())
    }

    /// The public half, as certificates carry it.
    pub fn public_key(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    pub(super) fn pair(&self) -> &KeyPair {
        &self.0
    }

    pub(super) fn into_pair(self) -> KeyPair {
        self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(secret)")
    }
}

/// Reads a request, DER or PEM, and checks that whoever made it holds the key: the public key in it, and nothing else.
pub(super) fn certified_key(csr: &[u8]) -> Result<SubjectPublicKeyInfo, Error> {
    let wrong = |why: String| Error::malformed("certificate request", why);
    let der = if csr.starts_with(b"-----") {
        CertificateSigningRequestDer::from_pem_slice(csr).map_err(|e| wrong(e.to_string()))?
    } else {
        csr.into()
    };
    let parsed = match X509CertificationRequest::from_der(&der) {
        Ok(([], parsed)) => parsed,
        Ok(_) => return Err(wrong("has bytes after its end".into())),
        Err(error) => return Err(wrong(format!("is not PKCS #10 ({error})"))),
    };
    parsed.verify_signature().map_err(|_| wrong("is not signed by the key that it is for".into()))?;
    let info = parsed.certification_request_info.subject_pki.raw;
    let key = SubjectPublicKeyInfo::from_der(info).map_err(|e| wrong(e.to_string()))?;
    if key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
        return Err(wrong("is for a key that is not P-256".into()));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_must_be_signed_by_its_own_key() {
        // covers T24
        let key = Key::generate().unwrap();
        let csr = key.request().unwrap();
        assert_eq!(certified_key(&csr).unwrap().subject_public_key_info(), key.public_key());
        let mut forged = csr.clone();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert!(certified_key(&forged).is_err());
        let mut longer = csr;
        longer.push(0);
        assert!(certified_key(&longer).is_err());
        assert!(certified_key(b"").is_err());
    }

    #[test]
    fn only_p256_is_certified() {
        // covers T24
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap();
        let error = certified_key(csr.der()).unwrap_err().to_string();
        assert!(error.contains("P-256"), "{error}");
    }

    #[test]
    fn a_key_is_never_printed() {
        // covers B16
        assert_eq!(format!("{:?}", Key::generate().unwrap()), "Key(secret)");
    }
}
