//! Keys of a node's UDP port that outlive its process.
//!
//! A peer whose connection this process does not know is told so by a stateless reset (RFC 9000, 10.3), which only a
//! node with the key of the earlier process can make. So the peers of a node that was killed and started again notice at
//! once, not after the silence that they allow. The tokens by which a client shows that it was at its address before
//! (RFC 9000, 8.1.3) outlive the process for the same reason.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::{hkdf, hmac};

use super::error::Error;
use super::files::{self, Access};
use super::secret;

/// In the node's data folder.
const FILE: &str = "port.key";
/// Its length in bytes.
const LENGTH: usize = 32;
/// Length of our connection ids, as quinn makes them.
const ID: usize = 8;

/// The keys of one port.
#[derive(Clone)]
pub struct PortKeys([u8; LENGTH]);

impl PortKeys {
    /// Reads them from a folder; makes them at the first start. The file is private (0600).
    pub fn open(folder: &Path) -> Result<PortKeys, Error> {
        let path = folder.join(FILE);
        if !path.exists() {
            let key = secret::random()?;
            files::write(&path, &key, Access::Private)?;
            return Ok(PortKeys(key));
        }
        let bytes = files::read_private(&path, "remove it: the next start makes another")?;
        let wrong = |_| {
            let why =
                format!("has {} bytes, not {LENGTH}; remove it: the next start makes another", bytes.len());
            Error::malformed(path.display().to_string(), why)
        };
        <[u8; LENGTH]>::try_from(bytes.as_slice()).map(PortKeys).map_err(wrong)
    }

    /// For the endpoint: with stateless resets that hold for the connections of the process before.
    pub fn endpoint(&self) -> Result<quinn::EndpointConfig, Error> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.derive("stateless reset")?);
        let mut config = quinn::EndpointConfig::new(Arc::new(key));
        config.cid_generator(|| Box::new(AnyId));
        Ok(config)
    }

    /// For the tokens that the server gives to its clients.
    pub fn tokens(&self) -> Result<Arc<dyn quinn::crypto::HandshakeTokenKey>, Error> {
        Ok(Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&self.derive("address token")?)))
    }

    fn derive(&self, purpose: &str) -> Result<[u8; LENGTH], Error> {
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, b"trishula port 1").extract(&self.0);
        let mut key = [0; LENGTH];
        extracted
            .expand(&[purpose.as_bytes()], hkdf::HKDF_SHA256)
            .and_then(|expanded| expanded.fill(&mut key))
            .map_err(|_| Error::Crypto("deriving a key"))?;
        Ok(key)
    }
}

impl fmt::Debug for PortKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PortKeys")
    }
}

/// Connection ids without a mark. quinn's own have one that only the process knows which made them, and what comes with
/// another is dropped before anybody thinks of a reset.
struct AnyId;

impl quinn::ConnectionIdGenerator for AnyId {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        quinn::ConnectionId::new(&rand::random::<[u8; ID]>())
    }

    fn cid_len(&self) -> usize {
        ID
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_a_port_stay_and_are_private() {
        // covers Q02, B16
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let first = PortKeys::open(folder.path()).unwrap();
        let again = PortKeys::open(folder.path()).unwrap();
        assert_eq!(first.0, again.0);
        assert_ne!(first.derive("stateless reset").unwrap(), first.derive("address token").unwrap());
        let path = folder.path().join(FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, b"short").unwrap();
        let error = PortKeys::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("port.key") && error.contains("remove it"), "{error}");
        assert_eq!(format!("{first:?}"), "PortKeys");
    }
}
