//! What the CA has signed: `issued.json` in its folder, so that a certificate can be taken back by its owner's name.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::authority::Error;
use crate::identity::files::{self, Access};
use crate::identity::info::describe;
use crate::identity::{Role, Serial};

/// In the CA's folder.
const FILE: &str = "issued.json";
const REMEDY: &str = "restore it from the backup of the CA's folder; without it, revoke by serial number";

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// By which a revocation list names it.
    pub serial: Serial,
    /// Whose it is.
    pub role: Role,
    /// RFC 3339, UTC.
    pub not_after: String,
    /// Since when it is taken back, and why.
    pub revoked: Option<Taken>,
}

/// A certificate was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// RFC 3339, UTC.
    pub since: String,
    /// In the operator's words.
    pub reason: String,
}

/// The file. It is read anew each time: the running node and the command line may both write to it.
#[derive(Debug)]
pub(super) struct Register {
    path: PathBuf,
}

impl Issued {
    fn ended(&self, now: OffsetDateTime) -> bool {
        OffsetDateTime::parse(&self.not_after, &Rfc3339).is_ok_and(|end| end < now)
    }

    /// Whose it is, as `cert revoke` takes it: `agni`, or `namespace/name` of an agent.
    pub fn name(&self) -> String {
        match &self.role {
            Role::Node(name) | Role::Edge(name) => name.to_string(),
            Role::Agent(agent) => agent.to_string(),
        }
    }
}

impl Register {
    /// Of this folder; none is an empty one, and a damaged one an error.
    pub(super) fn open(ca_dir: &Path) -> Result<Register, Error> {
        let register = Register { path: ca_dir.join(FILE) };
        register.read()?;
        Ok(register)
    }

    /// Writes down a chain's leaf; one that ended is forgotten.
    pub(super) fn add(&self, chain_pem: &str, now: OffsetDateTime) -> Result<(), Error> {
        let info = describe(chain_pem.as_bytes(), None, now)?;
        let Some(role) = info.role else { return Ok(()) };
        let mut entries = self.read()?;
        entries.retain(|entry| !entry.ended(now) && entry.serial != info.serial);
        entries.push(Issued { serial: info.serial, role, not_after: info.not_after, revoked: None });
        self.write(&entries)
    }

    /// Everything that has not ended and was not taken back.
    pub(super) fn good(&self, now: OffsetDateTime) -> Result<Vec<Issued>, Error> {
        let mut entries = self.read()?;
        entries.retain(|entry| entry.revoked.is_none() && !entry.ended(now));
        Ok(entries)
    }

    /// Marks those as taken back.
    pub(super) fn take_back(&self, serials: &[Serial], taken: &Taken) -> Result<(), Error> {
        let mut entries = self.read()?;
        for entry in entries.iter_mut().filter(|entry| serials.contains(&entry.serial)) {
            entry.revoked = Some(taken.clone());
        }
        self.write(&entries)
    }

    fn read(&self) -> Result<Vec<Issued>, Error> {
        match files::read_if_there(&self.path, REMEDY)? {
            None => Ok(Vec::new()),
            Some(bytes) => {
                serde_json::from_slice(&bytes).map_err(|e| Error::Register(self.path.clone(), e.to_string()))
            }
        }
    }

    fn write(&self, entries: &[Issued]) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(entries)
            .map_err(|e| Error::Register(self.path.clone(), e.to_string()))?;
        Ok(files::write(&self.path, &text, Access::Private)?)
    }
}
