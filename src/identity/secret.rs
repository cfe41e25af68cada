//! Random bytes, digests, and what two parties that share a secret can do with it.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{constant_time, digest, hkdf, hmac, rand};
use serde::{Deserialize, Serialize};

use super::error::Error;

/// Length of a SHA-256 digest and of an HMAC-SHA256 tag, in bytes.
pub(super) const DIGEST: usize = 32;

/// Fresh random bytes.
pub(super) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| Error::Crypto("drawing random bytes"))?;
    Ok(bytes)
}

/// SHA-256.
pub(super) fn sha256(bytes: &[u8]) -> [u8; DIGEST] {
    let mut out = [0; DIGEST];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// Compares without telling by its duration where the difference is.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// Thirty-two random bytes that two parties share. It is never printed; a key for each use is derived from it
/// (HKDF-SHA256), so that what is shown of one tells nothing about another.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A new one.
    pub fn random() -> Result<Self, Error> {
        random().map(Self)
    }

    /// The HMAC-SHA256 of a message, for one use.
    pub(super) fn mac(&self, purpose: &str, message: &[u8]) -> Result<[u8; DIGEST], Error> {
        let mut out = [0; DIGEST];
        out.copy_from_slice(hmac::sign(&self.mac_key(purpose)?, message).as_ref());
        Ok(out)
    }

    /// Whether a tag is that message's, for that use.
    pub(super) fn verify(&self, purpose: &str, message: &[u8], tag: &[u8]) -> Result<bool, Error> {
        Ok(hmac::verify(&self.mac_key(purpose)?, message, tag).is_ok())
    }

    /// Encrypts for the other holder of the secret: AES-256-GCM, a random nonce in front. `bound_to` is not
    /// encrypted, but opening asks for the same.
    pub(super) fn seal(&self, purpose: &str, bound_to: &[u8], plain: &[u8]) -> Result<Vec<u8>, Error> {
        let mut sealed = plain.to_vec();
        let nonce = self
            .seal_key(purpose)?
            .seal_in_place_append_tag(Aad::from(bound_to), &mut sealed)
            .map_err(|_| Error::Crypto("encryption"))?;
        let mut out = nonce.as_ref().to_vec();
        out.append(&mut sealed);
        Ok(out)
    }

    /// Decrypts what [`Self::seal`] made; `None` if it was made with another secret or has been changed.
    pub(super) fn open(
        &self,
        purpose: &str,
        bound_to: &[u8],
        sealed: &[u8],
    ) -> Result<Option<Vec<u8>>, Error> {
        let Some((nonce, body)) = sealed.split_at_checked(NONCE_LEN) else { return Ok(None) };
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Error::Crypto("reading a nonce"))?;
        let mut body = body.to_vec();
        let key = self.seal_key(purpose)?;
        Ok(key.open_in_place(nonce, Aad::from(bound_to), &mut body).ok().map(|plain| plain.to_vec()))
    }

    fn mac_key(&self, purpose: &str) -> Result<hmac::Key, Error> {
        Ok(hmac::Key::new(hmac::HMAC_SHA256, &self.derive(purpose)?))
    }

    fn seal_key(&self, purpose: &str) -> Result<RandomizedNonceKey, Error> {
        RandomizedNonceKey::new(&AES_256_GCM, &self.derive(purpose)?)
            .map_err(|_| Error::Crypto("making a key"))
    }

    fn derive(&self, purpose: &str) -> Result<[u8; 32], Error> {
        let failed = |_| Error::Crypto("deriving a key");
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, b"trishula 1").extract(&self.0);
        let mut key = [0; 32];
        extracted
            .expand(&[purpose.as_bytes()], hkdf::HKDF_SHA256)
            .and_then(|expanded| expanded.fill(&mut key))
            .map_err(failed)?;
        Ok(key)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_only_with_the_same_secret_purpose_and_context() {
        // covers Q07
        let (ours, other) = (Secret::random().unwrap(), Secret::random().unwrap());
        let sealed = ours.seal("a", b"context", b"plain").unwrap();
        assert_eq!(ours.open("a", b"context", &sealed).unwrap().unwrap(), b"plain");
        assert_eq!(other.open("a", b"context", &sealed).unwrap(), None);
        assert_eq!(ours.open("b", b"context", &sealed).unwrap(), None);
        assert_eq!(ours.open("a", b"other", &sealed).unwrap(), None);
        assert_eq!(ours.open("a", b"context", &sealed[..5]).unwrap(), None);
        assert_ne!(sealed, ours.seal("a", b"context", b"plain").unwrap(), "the nonce is random");
    }

    #[test]
    fn a_secret_is_never_printed() {
        // covers B16
        let secret = Secret([0xab; 32]);
        assert_eq!(format!("{secret:?}"), "(secret)");
    }
}
