//! Identities for simulated nodes.
//!
//! A signature by ECDSA is 70 to 72 bytes long, by chance; one byte more or less in a handshake moves every
//! packet after it. So certificates and handshakes are signed again until the signature has 71 bytes. They
//! are real signatures all the same. Certificates are made once a process: what two runs of it send is of
//! the same length.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::{CryptoProvider, KeyProvider};
use rustls::pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::sign::{Signer, SigningKey};
use rustls::time_provider::TimeProvider;
use rustls::{SignatureAlgorithm, SignatureScheme};
use time::OffsetDateTime;
use trishula::identity::bundle::{Bundle, Leaf};
use trishula::identity::ca::{Authority, Issued};
use trishula::identity::profile::Request;
use trishula::identity::revocation::Revocations;
use trishula::identity::tls::Identity;
use trishula::identity::{PeerName, Role};
use trishula::wire::ids::NodeName;

const SIGNATURE: usize = 71;

/// What every wall clock of a run shows at its start: the first of January 2026.
pub fn wall_at_start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

/// The mesh's CA, and what it has issued so far.
pub struct Pki {
    authority: Authority,
    issued: Mutex<BTreeMap<NodeName, Issued>>,
    now: OffsetDateTime,
}

/// The one of this process.
pub fn pki() -> &'static Pki {
    static PKI: OnceLock<Pki> = OnceLock::new();
    PKI.get_or_init(|| {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let provider = CryptoProvider { key_provider: &EvenKeys, ..provider };
        provider.install_default().expect("nobody installs another");
        let now = OffsetDateTime::from(wall_at_start());
        let authority = std::iter::repeat_with(|| Authority::create("simulated", now).unwrap())
            .find(|authority| signature_len(authority.certificate()) == SIGNATURE)
            .unwrap();
        Pki { authority, issued: Mutex::default(), now }
    })
}

impl Pki {
    /// The identity of a node, always the same.
    pub fn identity(&self, node: &NodeName) -> Identity {
        let mut all = self.issued.lock().unwrap();
        let issued = all.entry(node.clone()).or_insert_with(|| self.issue(node));
        let link = leaf(issued);
        let bundle = Bundle {
            folder: PathBuf::new(),
            name: PeerName::from_certificate(link.certificate().unwrap()).unwrap(),
            ca: self.authority.certificate().clone(),
            link,
            public: None,
            revoked: None,
        };
        Identity::new(&bundle, Arc::new(Revocations::new(None)), self.clock()).unwrap()
    }

    /// What TLS goes by.
    pub fn clock(&self) -> Arc<dyn TimeProvider> {
        let now = Duration::from_secs(self.now.unix_timestamp() as u64);
        Arc::new(Standing(UnixTime::since_unix_epoch(now)))
    }

    fn issue(&self, node: &NodeName) -> Issued {
        let request = Request::link(Role::Node(node.clone()));
        std::iter::repeat_with(|| self.authority.issue(&request, self.now).unwrap())
            .find(|issued| signature_len(leaf(issued).certificate().unwrap()) == SIGNATURE)
            .unwrap()
    }
}

fn leaf(issued: &Issued) -> Leaf {
    Leaf::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), "leaf", "key").unwrap()
}

fn signature_len(certificate: &[u8]) -> usize {
    x509_parser::parse_x509_certificate(certificate).unwrap().1.signature_value.data.len()
}

/// TLS sees no time pass: a run is the same however long it takes.
#[derive(Debug)]
struct Standing(UnixTime);

impl TimeProvider for Standing {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

#[derive(Debug)]
struct EvenKeys;

impl KeyProvider for EvenKeys {
    fn load_private_key(&self, der: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        let key = rustls::crypto::aws_lc_rs::default_provider().key_provider.load_private_key(der)?;
        Ok(Arc::new(EvenKey(key)))
    }
}

#[derive(Debug)]
struct EvenKey(Arc<dyn SigningKey>);

impl SigningKey for EvenKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(EvenSigner(self.0.choose_scheme(offered)?)))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.0.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

#[derive(Debug)]
struct EvenSigner(Box<dyn Signer>);

impl Signer for EvenSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        loop {
            let signature = self.0.sign(message)?;
            if signature.len() == SIGNATURE {
                return Ok(signature);
            }
        }
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.scheme()
    }
}
