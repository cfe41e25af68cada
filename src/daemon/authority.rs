//! The desk of the CA: what the machine that holds its key does for the others. The running node has it open; while
//! it does not run, the command line opens it.
//!
//! ```text
//!  ca/  ca.pem  ca.key
//!       issued.json          what was signed, for whom
//!       revoked.crl          the newest list
//!       secrets/             what a machine that joins is given (sealed for it)
//!  data/  invites.json       the open invitations
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::RngExt;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::register::Register;
pub use super::register::{Issued as IssuedRow, Taken};
use crate::config::node::NodeConfig;
use crate::identity::bundle::REVOKED;
use crate::identity::ca::{Authority, CA_KEY, Issued};
use crate::identity::enrol::{EnrolError, JoinRequest, Welcome};
use crate::identity::files::{self, Access};
use crate::identity::invites::{Invitation, Invites};
use crate::identity::profile::Request;
use crate::identity::renewal::RenewRequest;
use crate::identity::revocation::{RevocationList, Revocations};
use crate::identity::{self, Serial};
use crate::wire::ids::NodeName;

const INVITES: &str = "invites.json";
const SECRETS: &str = "secrets";
const SECRET: &str = "trishula.secret";

/// Why the desk does not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is a CA already.
    #[error(
        "{0} exists: a mesh was made here already; add a machine to it with `trishula invite NAME`, or choose another folder with --out"
    )]
    Exists(PathBuf),
    /// The list of what was signed can't be used.
    #[error(
        "{0}: {1}; restore it from the backup of the CA's folder, or remove it and revoke by serial number only"
    )]
    Register(PathBuf, String),
    /// Nothing to take back.
    #[error("no certificate of {0:?} is in force; see whose there are with: trishula cert revoke --list")]
    NobodyOf(String),
    /// The holder would cut itself off.
    #[error(
        "{0} is this machine, which holds the CA: revoked, it could lead nobody back in; move the CA first"
    )]
    Self_(NodeName),
    /// There is a machine of that name.
    #[error(
        "{0} has a certificate already; if it is to be replaced, revoke the old one (trishula cert revoke {0}) or invite with --again"
    )]
    NameTaken(NodeName),
    /// Something about certificates or files.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// A joiner is not let in.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// A message of another version, or a forged one.
    #[error("the request can't be read ({0}); use the same version of trishula on both machines")]
    Malformed(String),
}

/// Whose certificates are to be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// All of a machine (node and edge), or of an agent `namespace/name`.
    Name(String),
    /// One.
    Serial(Serial),
}

impl std::str::FromStr for Whom {
    type Err = String;

    /// A serial number is 32 hexadecimal digits; anything shorter is a name.
    fn from_str(given: &str) -> Result<Whom, String> {
        let hex: String = given.chars().filter(|c| *c != ':').collect();
        match hex.parse::<Serial>() {
            Ok(serial) if hex.len() >= 30 => Ok(Whom::Serial(serial)),
            _ if given.is_empty() => {
                Err("write a machine's name, an agent's namespace/name, or a serial number".into())
            }
            _ => Ok(Whom::Name(given.to_owned())),
        }
    }
}

/// What joiners are told besides their certificates.
#[derive(Debug, Clone, Default)]
pub struct Neighbours {
    /// The machine whose desk it is.
    pub own: Option<NodeName>,
    /// Where nodes can be dialled.
    pub peers: Vec<(NodeName, String)>,
}

impl Neighbours {
    /// As far as a configuration knows: this node first, then its peers.
    pub fn of(config: &NodeConfig) -> Neighbours {
        let mut peers: Vec<(NodeName, String)> = Vec::new();
        for address in &config.mesh.advertise {
            peers.push((config.node.name.clone(), address.to_string()));
        }
        for peer in &config.mesh.peers {
            peers.extend(peer.addresses.iter().map(|address| (peer.name.clone(), address.to_string())));
        }
        Neighbours { own: Some(config.node.name.clone()), peers }
    }
}

/// The desk.
pub struct CaDesk {
    authority: Authority,
    ca_dir: PathBuf,
    invites_path: PathBuf,
    /// Read when first needed: only the node's own user may read it.
    invites: Option<Invites>,
    register: Register,
    revocations: Arc<Revocations>,
    /// The newest list that was signed here; it is in force once the node has taken it.
    signed: Option<RevocationList>,
    neighbours: Neighbours,
}

impl std::fmt::Debug for CaDesk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaDesk").field("ca_dir", &self.ca_dir).finish_non_exhaustive()
    }
}

/// Thirty-two random bytes in hexadecimal: what signs the tokens of clients.
pub fn fresh_secret() -> Vec<u8> {
    let mut bytes = [0u8; 32];
    rand::rng().fill(&mut bytes);
    bytes.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
}

impl CaDesk {
    /// Makes the CA of a new mesh. `secret` is what joiners are given to check clients' tokens with.
    pub fn create(ca_dir: &Path, mesh: &str, secret: &[u8], now: OffsetDateTime) -> Result<CaDesk, Error> {
        if ca_dir.join(CA_KEY).exists() {
            return Err(Error::Exists(ca_dir.join(CA_KEY)));
        }
        let authority = Authority::create(mesh, now)?;
        authority.save(ca_dir)?;
        files::make_folder(&ca_dir.join(SECRETS))?;
        files::write(&ca_dir.join(SECRETS).join(SECRET), secret, Access::Private)?;
        CaDesk::open(ca_dir, ca_dir, Arc::default(), Neighbours::default())
    }

    /// Opens the desk. `revocations` is the process's own; the CA's newest list is put into it.
    pub fn open(
        ca_dir: &Path,
        data_dir: &Path,
        revocations: Arc<Revocations>,
        neighbours: Neighbours,
    ) -> Result<CaDesk, Error> {
        let authority = Authority::load(ca_dir)?;
        let register = Register::open(ca_dir)?;
        if let Some(der) = files::read_if_there(&ca_dir.join(REVOKED), "check who owns it")? {
            revocations.offer(RevocationList::parse(&der, authority.certificate())?);
        }
        let (ca_dir, invites_path) = (ca_dir.to_owned(), data_dir.join(INVITES));
        Ok(CaDesk {
            authority,
            ca_dir,
            invites_path,
            invites: None,
            register,
            revocations,
            signed: None,
            neighbours,
        })
    }

    /// The CA itself.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The revocations in force.
    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// What was signed, has not ended, and was not taken back.
    pub fn in_force(&self, now: OffsetDateTime) -> Result<Vec<IssuedRow>, Error> {
        self.register.good(now)
    }

    /// Makes a key and a certificate for it, and writes down that it did.
    pub fn issue(&mut self, request: &Request, now: OffsetDateTime) -> Result<Issued, Error> {
        let issued = self.authority.issue(request, now)?;
        self.register.add(&issued.chain_pem, now)?;
        Ok(issued)
    }

    /// What a machine that joins is given to check clients' tokens with.
    pub fn secret(&self) -> Result<Vec<u8>, Error> {
        let path = self.ca_dir.join(SECRETS).join(SECRET);
        Ok(files::read_private(
            &path,
            "copy secrets/trishula.secret of any machine of the mesh there, mode 0600",
        )?)
    }

    /// Invites a machine: the text of its ticket, which is a secret. `again`: also if the name has certificates.
    pub fn invite(
        &mut self,
        invitation: Invitation,
        again: bool,
        now: OffsetDateTime,
    ) -> Result<String, Error> {
        self.refuse_taken(&invitation.name, again, now)?;
        // A node that has never run has no data folder yet.
        self.invites_path.parent().map_or(Ok(()), files::make_folder)?;
        let invites = match &mut self.invites {
            Some(invites) => invites,
            none => none.insert(Invites::open(&self.invites_path)?),
        };
        Ok(invites.create(&self.authority, invitation, now)?.to_text()?)
    }

    /// That no other machine has the name.
    pub fn refuse_taken(&self, name: &NodeName, again: bool, now: OffsetDateTime) -> Result<(), Error> {
        let taken = self.register.good(now)?.iter().any(|entry| entry.name() == name.as_str());
        if taken && !again { Err(Error::NameTaken(name.clone())) } else { Ok(()) }
    }

    /// The answer to `Method::Enrol`: postcard of a [`JoinRequest`] in, postcard of the reply out; the error is for
    /// the joiner to read.
    pub fn answer_enrol(&mut self, body: &[u8], now: OffsetDateTime) -> Result<Vec<u8>, String> {
        self.enrol(body, now).map_err(|e| e.to_string())
    }

    /// The answer to `Method::Renew`: postcard of a [`RenewRequest`] in, the new chain in PEM out.
    pub fn answer_renew(&mut self, body: &[u8], now: OffsetDateTime) -> Result<Vec<u8>, String> {
        self.renew(body, now).map_err(|e| e.to_string())
    }

    /// Takes certificates back: the new list is on disk when this returns. It is in force, here too, once it has been
    /// given to the node ([`crate::node::Handle::set_revocations`]), which closes links and spreads it; or when the
    /// desk is next opened.
    pub fn revoke(
        &mut self,
        whom: &Whom,
        reason: &str,
        now: OffsetDateTime,
    ) -> Result<RevocationList, Error> {
        let serials = self.serials_of(whom, now)?;
        let in_force = self.revocations.current();
        let previous = self.signed.iter().chain(in_force.as_deref()).max_by_key(|list| list.number());
        let list = self.authority.revoke(&serials, previous, now)?;
        files::write(&self.ca_dir.join(REVOKED), list.der(), Access::Public)?;
        let since = now.format(&Rfc3339).unwrap_or_default();
        self.register.take_back(&serials, &Taken { since, reason: reason.to_owned() })?;
        self.signed = Some(list.clone());
        Ok(list)
    }

    fn serials_of(&self, whom: &Whom, now: OffsetDateTime) -> Result<Vec<Serial>, Error> {
        let own = self.neighbours.own.as_ref();
        let is_own = |entry: &IssuedRow| own.filter(|own| entry.name() == own.as_str()).cloned();
        let mut meant = self.register.good(now)?;
        meant.retain(|entry| match whom {
            Whom::Name(name) => entry.name() == *name,
            Whom::Serial(serial) => entry.serial == *serial,
        });
        if let Some(own) = meant.iter().find_map(is_own) {
            return Err(Error::Self_(own));
        }
        match whom {
            Whom::Name(name) if meant.is_empty() => Err(Error::NobodyOf(name.clone())),
            // One that the register does not know may still be of this CA: a lost register must not protect it.
            Whom::Serial(serial) => Ok(vec![serial.clone()]),
            Whom::Name(_) => Ok(meant.into_iter().map(|entry| entry.serial).collect()),
        }
    }

    fn enrol(&mut self, body: &[u8], now: OffsetDateTime) -> Result<Vec<u8>, Error> {
        let request: JoinRequest = postcard::from_bytes(body).map_err(|e| Error::Malformed(e.to_string()))?;
        let revoked = self.revocations.current();
        let secrets = self.secret()?;
        let welcome =
            Welcome { peers: self.neighbours.peers.clone(), revoked: revoked.as_deref(), secrets: &secrets };
        let invites = match &mut self.invites {
            Some(invites) => invites,
            none => none.insert(Invites::open(&self.invites_path)?),
        };
        let reply = self.authority.enrol(&request, invites, &welcome, now)?;
        for chain in reply.chains()? {
            self.register.add(&chain, now)?;
        }
        postcard::to_stdvec(&reply).map_err(|e| Error::Malformed(e.to_string()))
    }

    fn renew(&mut self, body: &[u8], now: OffsetDateTime) -> Result<Vec<u8>, Error> {
        let request: RenewRequest =
            postcard::from_bytes(body).map_err(|e| Error::Malformed(e.to_string()))?;
        let signed = self.authority.renew(&request, &self.revocations, now)?;
        self.register.add(&signed.chain_pem, now)?;
        Ok(signed.chain_pem.into_bytes())
    }
}

#[cfg(test)]
mod tests;
