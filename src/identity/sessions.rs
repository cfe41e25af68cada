//! TLS sessions that can be resumed, for links that send before the handshake is over (0-RTT).
//!
//! [`Sessions`] is the accepting side. A session is taken out when it is used, at once and for good: the same ticket never
//! resumes twice. It is in memory, as TLS does not wait; whoever holds it writes [`Sessions::snapshot`] to a file when
//! [`Sessions::changed`] says so, and gives it back by [`Sessions::restore`] after a start. A crash so loses the latest
//! tickets, and a file that is brought back from a copy makes used ones good again: then a recorded flight can be replayed
//! once more. That is harmless, as nothing is read from it but messages that are recognised when they come twice.
//!
//! The dialling side keeps its tickets in memory ([`super::tls::Tickets`]), sixteen a peer; they end with the process.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::server::StoresServerSessions;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::ca::Fingerprint;
use super::tls::Clock;
use super::trust::Trust;

/// Sessions at once; of one more the oldest goes.
pub const MAX_SESSIONS: usize = 4096;
/// How long a session can be resumed, in seconds: 24 hours, as TLS tells the peer.
pub const SESSION_LIFE_S: u64 = 24 * 3600;
/// A session's name and what is in it at most, in bytes; ours have some 2,000.
const MAX_SESSION: usize = 32 * 1024;
/// Tickets that a peer is given with each connection. Each attempt to connect uses up one while there is more than one, also in
/// an outage, where nobody answers. More would let the sessions of clients that come and go push out those of nodes sooner.
pub(super) const TICKETS: usize = 8;
/// Tickets that who dials keeps of one peer: those of two connections.
pub(super) const KEPT: usize = 2 * TICKETS;

/// What is in the file. Another version is not read.
#[derive(Serialize, Deserialize)]
struct Saved {
    version: u8,
    ca: Fingerprint,
    list: u64,
    sessions: Vec<(Vec<u8>, u64, Vec<u8>)>,
}

const VERSION: u8 = 1;

/// Sessions of whoever connected here.
pub struct Sessions {
    trust: Arc<Trust>,
    clock: Clock,
    kept: Mutex<Kept>,
    changed: Notify,
}

#[derive(Default)]
struct Kept {
    /// Number of the revocation list under which these were made.
    list: u64,
    by_name: BTreeMap<Vec<u8>, Session>,
}

struct Session {
    since_s: u64,
    value: Vec<u8>,
}

/// Why a file of sessions was not taken. Nothing is lost by it but a round trip for each peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotRestored {
    /// It is damaged, or of another release.
    #[error("it can't be read")]
    Unreadable,
    /// They were made under another CA or another revocation list.
    #[error("whom this mesh trusts has changed since")]
    OtherTrust,
}

impl Sessions {
    /// Begins with none.
    pub fn new(trust: Arc<Trust>, clock: Clock) -> Sessions {
        let kept = Mutex::new(Kept { list: list_of(&trust), ..Kept::default() });
        Sessions { trust, clock, kept, changed: Notify::new() }
    }

    /// Waits until there is something new to write.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.kept().by_name.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them as bytes for a private file: who reads it can speak as those peers for a day.
    pub fn snapshot(&self) -> Vec<u8> {
        let kept = self.kept();
        let sessions = kept.by_name.iter();
        let sessions = sessions.map(|(name, session)| (name.clone(), session.since_s, session.value.clone()));
        let (ca, list) = (Fingerprint::of(self.trust.ca()), kept.list);
        let saved = Saved { version: VERSION, ca, list, sessions: sessions.collect() };
        // Writing to memory does not fail; an empty file would be read as none.
        postcard::to_stdvec(&saved).unwrap_or_default()
    }

    /// Takes what an earlier life of this process has kept, if the same are trusted; answers how many can be resumed.
    pub fn restore(&self, bytes: &[u8]) -> Result<usize, NotRestored> {
        let saved: Saved = postcard::from_bytes(bytes).map_err(|_| NotRestored::Unreadable)?;
        if saved.version != VERSION {
            return Err(NotRestored::Unreadable);
        }
        let mut kept = self.kept();
        if saved.ca != Fingerprint::of(self.trust.ca()) || saved.list != kept.list {
            return Err(NotRestored::OtherTrust);
        }
        let now_s = self.now_s();
        for (name, since_s, value) in saved.sessions.into_iter().take(MAX_SESSIONS) {
            // One from the future would never end.
            if since_s <= now_s && now_s - since_s < SESSION_LIFE_S {
                kept.by_name.insert(name, Session { since_s, value });
            }
        }
        Ok(kept.by_name.len())
    }

    /// Looks whether others are trusted than when the sessions were made: then nobody resumes any of them. That is also
    /// looked at before each use; this is for the file.
    pub fn look_at_trust(&self) {
        drop(self.kept());
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let list = list_of(&self.trust);
        if kept.list != list {
            *kept = Kept { list, ..Kept::default() };
            self.changed.notify_one();
        }
        kept
    }

    fn now_s(&self) -> u64 {
        self.clock.current_time().map_or(0, |now| now.as_secs())
    }
}

impl Kept {
    fn make_room(&mut self, now_s: u64) {
        if self.by_name.len() < MAX_SESSIONS {
            return;
        }
        self.by_name.retain(|_, session| now_s.saturating_sub(session.since_s) < SESSION_LIFE_S);
        while self.by_name.len() >= MAX_SESSIONS {
            let oldest = self.by_name.iter().min_by_key(|(_, session)| session.since_s);
            let Some(name) = oldest.map(|(name, _)| name.clone()) else { return };
            self.by_name.remove(&name);
        }
    }
}

fn list_of(trust: &Trust) -> u64 {
    trust.revocations().current().map_or(0, |list| list.number())
}

impl StoresServerSessions for Sessions {
    fn put(&self, name: Vec<u8>, value: Vec<u8>) -> bool {
        if name.len() + value.len() > MAX_SESSION {
            return false;
        }
        let since_s = self.now_s();
        let mut kept = self.kept();
        kept.make_room(since_s);
        kept.by_name.insert(name, Session { since_s, value });
        self.changed.notify_one();
        true
    }

    fn get(&self, name: &[u8]) -> Option<Vec<u8>> {
        self.kept().by_name.get(name).map(|session| session.value.clone())
    }

    fn take(&self, name: &[u8]) -> Option<Vec<u8>> {
        let now_s = self.now_s();
        let session = self.kept().by_name.remove(name)?;
        self.changed.notify_one();
        (now_s.saturating_sub(session.since_s) < SESSION_LIFE_S).then_some(session.value)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sessions")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::UnixTime;
    use rustls::time_provider::TimeProvider;

    use super::*;
    use crate::identity::ca::Authority;
    use crate::identity::revocation::Revocations;
    use crate::identity::testing::NOW;

    #[derive(Debug)]
    struct At(Mutex<u64>);

    impl TimeProvider for At {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(Duration::from_secs(*self.0.lock().unwrap())))
        }
    }

    fn at(seconds: u64) -> Arc<At> {
        Arc::new(At(Mutex::new(seconds)))
    }

    fn trust(ca: &Authority) -> Arc<Trust> {
        Arc::new(Trust::new(ca.certificate().clone(), Arc::new(Revocations::default())).unwrap())
    }

    #[test]
    fn a_session_is_taken_once_and_survives_a_restart() {
        // covers T02, B16
        let ca = Authority::create("trishula", NOW).unwrap();
        let sessions = Sessions::new(trust(&ca), at(1_000));
        assert!(sessions.put(b"one".to_vec(), b"1".to_vec()) && sessions.put(b"two".to_vec(), b"2".to_vec()));
        assert_eq!(sessions.take(b"one"), Some(b"1".to_vec()));
        assert_eq!(sessions.take(b"one"), None);

        let again = Sessions::new(trust(&ca), at(1_000 + SESSION_LIFE_S - 1));
        assert_eq!(again.restore(&sessions.snapshot()), Ok(1));
        assert_eq!((again.take(b"one"), again.take(b"two")), (None, Some(b"2".to_vec())));
        assert_eq!(again.restore(b""), Err(NotRestored::Unreadable));
        assert_eq!(again.restore(&sessions.snapshot()[..9]), Err(NotRestored::Unreadable));
    }

    #[test]
    fn sessions_are_bounded_in_number_and_age() {
        // covers T02
        let ca = Authority::create("trishula", NOW).unwrap();
        let clock = at(1_000);
        let sessions = Sessions::new(trust(&ca), clock.clone());
        for n in 0..MAX_SESSIONS as u64 + 10 {
            *clock.0.lock().unwrap() = 1_000 + n;
            sessions.put(n.to_le_bytes().to_vec(), vec![1; 8]);
        }
        assert_eq!(sessions.len(), MAX_SESSIONS);
        assert_eq!(sessions.get(&9u64.to_le_bytes()), None, "the oldest went");
        assert!(sessions.get(&10u64.to_le_bytes()).is_some());
        assert!(!sessions.put(vec![1], vec![0; MAX_SESSION]), "nobody fills the memory with one");

        let saved = sessions.snapshot();
        *clock.0.lock().unwrap() = 1_000 + SESSION_LIFE_S + 10;
        assert_eq!(sessions.take(&10u64.to_le_bytes()), None, "too old");
        let later = Sessions::new(trust(&ca), clock);
        assert_eq!(later.restore(&saved), Ok(MAX_SESSIONS - 1));
        let earlier = Sessions::new(trust(&ca), at(500));
        assert_eq!(
            earlier.restore(&saved),
            Ok(0),
            "a clock that was set back does not make them last longer"
        );
    }

    #[tokio::test]
    async fn when_others_are_trusted_nobody_resumes() {
        // covers T24
        let ca = Authority::create("trishula", NOW).unwrap();
        let trust_now = trust(&ca);
        let sessions = Sessions::new(trust_now.clone(), at(1_000));
        sessions.put(b"one".to_vec(), b"1".to_vec());
        let saved = sessions.snapshot();
        sessions.changed().await;
        let serial = crate::identity::Serial::from_der_integer(&[7]);
        let list = ca.revoke(&[serial], None, NOW).unwrap();
        assert!(trust_now.revocations().offer(list));
        sessions.look_at_trust();
        tokio::time::timeout(Duration::from_secs(10), sessions.changed())
            .await
            .expect("the file is written anew");
        assert!(sessions.is_empty());
        assert_eq!(sessions.restore(&saved), Err(NotRestored::OtherTrust));

        let other = Authority::create("trishula", NOW).unwrap();
        let elsewhere = Sessions::new(trust(&other), at(1_000));
        assert_eq!(elsewhere.restore(&saved), Err(NotRestored::OtherTrust));
    }
}
