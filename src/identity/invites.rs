//! The open invitations, at the holder of the CA: `invites.json`, 0600.
//!
//! The file keeps each ticket's secret, as the holder needs it to check the seal of a request; and the answer given,
//! so that a joiner whose answer was lost on its way gets the same one again.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::ca::Authority;
use super::enrol::{EnrolError, PublicNames};
use super::error::Error;
use super::files::{self, Access};
use super::secret::Secret;
use super::serial::hex;
use super::ticket::{InviteId, MAX_ADDRESSES, Ticket};
use crate::wire::ids::NodeName;

/// How long a used or expired invitation is still kept: the joiner is then told what became of it.
const REMEMBERED: Duration = Duration::days(30);
/// Most invitations kept; the daemon has no use for more.
const MAX_INVITES: usize = 1000;

/// What is to be invited.
#[derive(Debug, Clone)]
pub struct Invitation {
    /// The name that the machine will have.
    pub name: NodeName,
    /// Until when it may join.
    pub expires: OffsetDateTime,
    /// Where it finds the mesh, `host:port`; one to eight.
    pub addresses: Vec<String>,
    /// Under which names clients may reach its edge. `None` lets the joiner choose: whoever holds such a ticket can
    /// get a certificate for any host, which machines that trust the mesh's CA will believe.
    pub public: Option<PublicNames>,
}

/// What [`Invites::find`] found.
pub(super) struct Invited {
    pub secret: Secret,
    pub name: NodeName,
    pub public: Option<PublicNames>,
    pub state: Found,
}

/// How an invitation stands.
pub(super) enum Found {
    /// Not used yet.
    Open,
    /// Used.
    Used { request: [u8; 32], reply: Vec<u8>, at: OffsetDateTime },
}

#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    name: NodeName,
    expires: i64,
    secret: Secret,
    public: Option<PublicNames>,
    used: Option<Used>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Used {
    at: i64,
    /// What the joiner asked: the digest of its names and keys.
    request: [u8; 32],
    /// What it was answered, base64. Its secrets are sealed in it.
    reply: String,
}

/// The file. One process holds it open for writing: the daemon; the command line asks it.
pub struct Invites {
    path: PathBuf,
    /// By id in hexadecimal.
    kept: BTreeMap<String, Kept>,
}

impl Invites {
    /// Reads the file; none is an empty one.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let remedy = "check who owns it; without it, open tickets are void and new ones are needed";
        let there = path.try_exists().map_err(|e| Error::file("read", path, e, remedy))?;
        if !there {
            return Ok(Self { path: path.into(), kept: BTreeMap::new() });
        }
        let bytes = files::read_private(path, remedy)?;
        let kept = serde_json::from_slice(&bytes)
            .map_err(|e| Error::malformed(path.display().to_string(), format!("{e}; {remedy}")))?;
        Ok(Self { path: path.into(), kept })
    }

    /// Invites a machine; the invitation is on disk when this returns its ticket.
    pub fn create(
        &mut self,
        ca: &Authority,
        invitation: Invitation,
        now: OffsetDateTime,
    ) -> Result<Ticket, Error> {
        let Invitation { name, expires, addresses, public } = invitation;
        if !(1..=MAX_ADDRESSES).contains(&addresses.len()) {
            let why = format!("it holds 1 to {MAX_ADDRESSES} addresses, not {}", addresses.len());
            return Err(Error::malformed("ticket", why));
        }
        if expires <= now {
            return Err(Error::malformed("ticket", "it would be expired at once"));
        }
        let (id, secret, expires) = (InviteId::random()?, Secret::random()?, expires.unix_timestamp());
        let mut next = self.kept.clone();
        let forgotten = (now - REMEMBERED).unix_timestamp();
        next.retain(|_, kept| kept.expires > forgotten);
        if next.len() >= MAX_INVITES {
            return Err(Error::malformed(
                "ticket",
                format!(
                    "{MAX_INVITES} invitations are kept already; each is forgotten {} days after its end",
                    REMEMBERED.whole_days()
                ),
            ));
        }
        next.insert(
            id.to_string(),
            Kept { name: name.clone(), expires, secret: secret.clone(), public, used: None },
        );
        self.put(next)?;
        let (mesh, ca) = (ca.mesh_name().to_owned(), ca.fingerprint());
        Ok(Ticket { mesh, ca, addresses, invite: id, secret, expires, name })
    }

    /// Looks one up: its secret, for whom it is, and how it stands.
    pub(super) fn find(&self, id: InviteId, now: OffsetDateTime) -> Result<Invited, EnrolError> {
        let kept = self.kept.get(&hex(&id.0)).ok_or(EnrolError::Unknown(id))?;
        let expires = moment(kept.expires);
        if now > expires {
            return Err(EnrolError::Expired(expires));
        }
        let state = match &kept.used {
            None => Found::Open,
            Some(used) => Found::Used {
                request: used.request,
                reply: STANDARD.decode(&used.reply).map_err(|e| Error::malformed("kept join reply", e))?,
                at: moment(used.at),
            },
        };
        let Kept { secret, name, public, .. } = kept.clone();
        Ok(Invited { secret, name, public, state })
    }

    /// Marks one used, with its answer, on disk. Only then may the answer leave.
    pub(super) fn settle(
        &mut self,
        id: InviteId,
        request: [u8; 32],
        reply: &[u8],
        now: OffsetDateTime,
    ) -> Result<(), EnrolError> {
        let mut next = self.kept.clone();
        let kept = next.get_mut(&hex(&id.0)).ok_or(EnrolError::Unknown(id))?;
        kept.used = Some(Used { at: now.unix_timestamp(), request, reply: STANDARD.encode(reply) });
        Ok(self.put(next)?)
    }

    /// The disk first: what memory says has been fsynced.
    fn put(&mut self, next: BTreeMap<String, Kept>) -> Result<(), Error> {
        let json = serde_json::to_vec_pretty(&next).map_err(|e| Error::malformed("invitations", e))?;
        files::write(&self.path, &json, Access::Private)?;
        self.kept = next;
        Ok(())
    }
}

impl fmt::Debug for Invites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invites").field("path", &self.path).field("kept", &self.kept.len()).finish()
    }
}

fn moment(unix: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(unix).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::{NOW, name};

    fn invitation(who: &str) -> Invitation {
        Invitation {
            name: name(who),
            expires: NOW + Duration::hours(1),
            addresses: vec!["agni:8766".into()],
            public: None,
        }
    }

    #[test]
    fn invitations_are_kept_privately_and_shown_without_secrets() {
        // covers Q07, covers B16
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("invites.json");
        let ca = Authority::create("trishula", NOW).unwrap();
        let mut invites = Invites::open(&path).unwrap();
        let ticket = invites.create(&ca, invitation("dc"), NOW).unwrap();
        assert_eq!(
            (ticket.mesh.as_str(), ticket.ca, &ticket.name),
            ("trishula", ca.fingerprint(), &name("dc"))
        );
        let again = Invites::open(&path).unwrap();
        assert!(matches!(again.find(ticket.invite, NOW), Ok(Invited { state: Found::Open, .. })));
        assert!(!format!("{invites:?}").contains("secret"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn what_cannot_work_is_not_invited_and_the_old_are_forgotten() {
        // covers Q07
        let folder = tempfile::tempdir().unwrap();
        let ca = Authority::create("trishula", NOW).unwrap();
        let mut invites = Invites::open(&folder.path().join("invites.json")).unwrap();
        assert!(invites.create(&ca, Invitation { expires: NOW, ..invitation("dc") }, NOW).is_err());
        assert!(invites.create(&ca, Invitation { addresses: vec![], ..invitation("dc") }, NOW).is_err());
        let first = invites.create(&ca, invitation("dc"), NOW).unwrap();
        let later = NOW + Duration::days(31);
        let second = Invitation { expires: later + Duration::hours(1), ..invitation("mac") };
        let second = invites.create(&ca, second, later).unwrap();
        assert!(matches!(invites.find(first.invite, later), Err(EnrolError::Unknown(_))));
        assert!(invites.find(second.invite, later).is_ok());
    }

    #[test]
    fn a_disk_that_fails_uses_up_no_invitation() {
        // covers Q07
        let folder = tempfile::tempdir().unwrap();
        let ca = Authority::create("trishula", NOW).unwrap();
        let path = folder.path().join("gone").join("invites.json");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let mut invites = Invites::open(&path).unwrap();
        let ticket = invites.create(&ca, invitation("dc"), NOW).unwrap();
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
        assert!(invites.settle(ticket.invite, [0; 32], b"reply", NOW).is_err());
        assert!(matches!(invites.find(ticket.invite, NOW), Ok(Invited { state: Found::Open, .. })));
    }
}
