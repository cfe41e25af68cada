//! Certificates of this run, for the bare carriers.
use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use trishula::identity::tls;

/// What the leaf is called.
pub const HOST: &str = "localhost";

/// A CA, and one leaf by it.
#[derive(Debug)]
pub struct Identity {
    ca: CertificateDer<'static>,
    leaf: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Identity {
        Identity { ca: self.ca.clone(), leaf: self.leaf.clone(), key: self.key.clone_key() }
    }
}

impl Identity {
    pub fn generate() -> Result<Identity> {
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, "bench CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_der = ca.self_signed(&ca_key)?.der().clone();
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new(vec![HOST.to_owned()])?;
        let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key))?.der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
        Ok(Identity { ca: ca_der, leaf, key })
    }

    /// Takes early data where QUIC asks for it.
    pub fn server(&self, alpn: &[u8]) -> Result<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![self.leaf.clone()], self.key.clone_key())?;
        config.alpn_protocols = vec![alpn.to_vec()];
        config.max_early_data_size = u32::MAX;
        Ok(config)
    }

    pub fn client(&self, alpn: &[u8]) -> Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone())?;
        let mut config = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        config.enable_early_data = true;
        Ok(config)
    }
}
