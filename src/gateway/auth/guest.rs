//! Agents of another namespace, where a rule lets them in: each is an agent of its own here, `NAMESPACE.NAME`, with the
//! permissions that the rule gives. So the walls between namespaces stand, and all that is checked of an agent is checked
//! of a guest.

use std::sync::{Arc, PoisonError, RwLock};

use super::{Identity, Own, Rules, Trust};
use crate::wire::close::{Code, Refusal};
use crate::wire::ids::{AgentName, Namespace};

/// Checks the tokens of one namespace: its own, and those of its guests.
#[derive(Debug)]
pub struct Verifier {
    own: Arc<Own>,
    guests: RwLock<Arc<[Guests]>>,
}

impl Verifier {
    /// For the tokens of a namespace.
    pub fn new(trust: Trust, namespace: Namespace, rules: Rules) -> Verifier {
        Verifier::of(Arc::new(Own::new(trust, namespace, rules)))
    }

    /// For tokens that are checked like this.
    pub fn of(own: Arc<Own>) -> Verifier {
        Verifier { own, guests: RwLock::default() }
    }

    /// What checks its own tokens.
    pub fn own(&self) -> &Arc<Own> {
        &self.own
    }

    /// Lets in who has a token of another namespace, from now on by these rules only.
    pub fn let_in(&self, guests: Vec<Guests>) {
        *self.guests.write().unwrap_or_else(PoisonError::into_inner) = guests.into();
    }

    fn guests(&self) -> Arc<[Guests]> {
        self.guests.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the token of this identity was taken back since it was shown.
    pub fn has_taken_back(&self, identity: &Identity) -> bool {
        let (Some(agent), Some(mark)) = (&identity.agent, &identity.token) else { return false };
        let at_home = |guests: &Guests| {
            let agent = guests.are_called(agent.as_str());
            agent.is_some_and(|agent| guests.home.has_revoked(&agent, identity.user.as_deref(), mark))
        };
        self.own.has_revoked(agent, identity.user.as_deref(), mark) || self.guests().iter().any(at_home)
    }

    /// The namespace whose tokens these are.
    pub fn namespace(&self) -> &Namespace {
        self.own.namespace()
    }

    /// Reads a token at the wall-clock time `now_ms`. Nothing of the token is in the refusal.
    pub fn verify(&self, token: &str, now_ms: u64) -> Result<Identity, Refusal> {
        let guests = self.guests();
        let mut refusal = match self.own.verify(token, now_ms) {
            Ok(mut identity) => {
                // Names below a namespace are its guests'.
                let own = identity.agent.as_ref().filter(|agent| {
                    !guests.iter().any(|guests| guests.home.namespace().as_str() == agent.as_str())
                });
                let below = own.and_then(|agent| self.own.names_below(agent));
                identity.may_register.extend(below);
                return Ok(identity);
            }
            Err(refusal) => refusal,
        };
        let mut guest: Option<Identity> = None;
        for guests in &*guests {
            let admitted = match guests.home.verify(token, now_ms) {
                Ok(identity) => guests.admit(identity, &self.own),
                // It is theirs, and no good any more.
                Err(refusal) if refusal.code == Code::TokenExpired => return Err(refusal),
                Err(_) => continue,
            };
            match (admitted, &mut guest) {
                (Ok(admitted), None) => guest = Some(admitted),
                // What several rules give is given.
                (Ok(admitted), Some(guest)) if guest.agent == admitted.agent => {
                    guest.permissions.extend(admitted.permissions);
                }
                (Ok(_), Some(_)) => {}
                (Err(why), _) => refusal = why,
            }
        }
        guest.ok_or(refusal)
    }
}

/// One rule.
#[derive(Debug, Clone)]
pub struct Guests {
    /// Checks their tokens: that of their own namespace. It knows nothing of guests, so two namespaces that let in each other
    /// don't hold each other.
    pub home: Arc<Own>,
    /// Any one of these permissions is enough to be let in.
    pub permissions: Vec<String>,
    /// What they may here.
    pub grants: Vec<String>,
}

impl Guests {
    /// Whether tokens of theirs have names like this.
    fn are_called(&self, agent: &str) -> Option<AgentName> {
        let name = agent.strip_prefix(self.home.namespace().as_str())?.strip_prefix('.')?;
        AgentName::new(name).ok()
    }

    /// Somebody of theirs as one of `host`'s.
    fn admit(&self, identity: Identity, host: &Own) -> Result<Identity, Refusal> {
        let from = self.home.namespace();
        if !identity.permissions.iter().any(|given| self.permissions.contains(given)) {
            let message = format!(
                "a token of {from} needs one of the permissions {} to come in here",
                self.permissions.join(", ")
            );
            return Err(Refusal::new(Code::TokenInvalid, message));
        }
        let own = identity.agent.as_ref().map_or("", |agent| agent.as_str());
        let agent = AgentName::new(&format!("{from}.{own}")).map_err(|e| {
            Refusal::new(Code::TokenInvalid, format!("the agent {own} of {from} has no name here: {e}"))
        })?;
        Ok(Identity {
            may_register: host.names_below(&agent).into_iter().collect(),
            agent: Some(agent),
            user: identity.user,
            namespace: host.namespace().clone(),
            permissions: self.grants.clone(),
            expires_at: identity.expires_at,
            token: identity.token,
            certificate: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{KeySet, NewToken, Revoked, issue};
    use super::*;
    use crate::gateway::secret::Secret;

    const NOW: u64 = 1_767_225_600_000;

    fn secret(byte: u8) -> Secret {
        Secret::new(&[byte; 40], "test").unwrap()
    }

    fn verifier(byte: u8, name: &str, own_names: bool) -> Arc<Verifier> {
        let trust = Trust::new(&[secret(byte)], KeySet::default(), Revoked::default());
        let rules = Rules { own_names, ..Rules::default() };
        Arc::new(Verifier::new(trust, Namespace::new(name).unwrap(), rules))
    }

    fn rule(from: &Verifier, permission: &str, grants: &str) -> Guests {
        let (permissions, grants) = (vec![permission.to_owned()], vec![grants.to_owned()]);
        Guests { home: from.own().clone(), permissions, grants }
    }

    /// A token of akosha, whose secret is made of `a`.
    fn token(permissions: &[&str]) -> String {
        let new = NewToken {
            sub: AgentName::new("alice").unwrap(),
            aud: Namespace::new("akosha").unwrap(),
            permissions: permissions.iter().map(|permission| (*permission).to_owned()).collect(),
            agents: Vec::new(),
            jti: "t-1".into(),
            iat: NOW / 1000,
            exp: Some(NOW / 1000 + 60),
        };
        issue(&secret(b'a'), &new).unwrap()
    }

    #[test]
    fn namespaces_that_let_in_each_other_end_with_their_sessions() {
        // covers B15, B29
        let (one, other) = (verifier(b'a', "akosha", true), verifier(b'b', "dhruva", true));
        one.let_in(vec![rule(&other, "x", "y")]);
        other.let_in(vec![rule(&one, "x", "y")]);
        let held = [Arc::downgrade(&one), Arc::downgrade(&other)];
        let own = [Arc::downgrade(one.own()), Arc::downgrade(other.own())];
        drop((one, other));
        assert!(held.iter().all(|held| held.upgrade().is_none()), "each reload would keep two");
        assert!(own.iter().all(|own| own.upgrade().is_none()));
    }

    #[test]
    fn each_rule_between_two_namespaces_counts() {
        // covers B15
        let (home, host) = (verifier(b'a', "akosha", true), verifier(b'b', "dhruva", true));
        host.let_in(vec![rule(&home, "first", "read"), rule(&home, "second", "write")]);
        let may = |permissions: &[&str]| {
            host.verify(&token(permissions), NOW).map(|identity| identity.permissions).unwrap_or_default()
        };
        assert_eq!(may(&["first"]), ["read"]);
        assert_eq!(may(&["second"]), ["write"]);
        assert_eq!(may(&["second", "first"]), ["read", "write"]);
        assert!(host.verify(&token(&["third"]), NOW).unwrap_err().message.contains("needs one of"));
    }

    #[test]
    fn a_guest_has_names_of_its_own_only_where_clients_have() {
        // covers B15
        let (home, below) =
            (verifier(b'a', "akosha", true), AgentName::new("akosha.alice.1f00c0de").unwrap());
        for own_names in [false, true] {
            let host = verifier(b'b', "dhruva", own_names);
            host.let_in(vec![rule(&home, "x", "read")]);
            let identity = host.verify(&token(&["x"]), NOW).unwrap();
            assert_eq!(identity.may_be(&below), own_names);
            assert!(identity.may_be(&AgentName::new("akosha.alice").unwrap()));
        }
    }

    #[test]
    fn names_of_guests_are_nobody_elses() {
        // covers B15
        let (guests, host) = (verifier(b'b', "alice", true), verifier(b'a', "akosha", true));
        let below = AgentName::new("alice.1f00c0de").unwrap();
        assert!(host.verify(&token(&[]), NOW).unwrap().may_be(&below));
        host.let_in(vec![rule(&guests, "x", "y")]);
        assert!(!host.verify(&token(&[]), NOW).unwrap().may_be(&below));
    }
}
