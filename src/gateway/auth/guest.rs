//! Agents of another namespace, where a rule lets them in: each is an agent of its own here, `NAMESPACE.NAME`, with the
//! permissions that the rule gives. So the walls between namespaces stand, and all that is checked of an agent is checked
//! of a guest.

use std::sync::Arc;

use super::{Identity, Pattern, Verifier};
use crate::wire::close::{Code, Refusal};
use crate::wire::ids::AgentName;

/// One rule.
#[derive(Debug, Clone)]
pub struct Guests {
    /// Checks their tokens: that of their own namespace.
    pub verifier: Arc<Verifier>,
    /// Any one of these permissions is enough to be let in.
    pub permissions: Vec<String>,
    /// What they may here.
    pub grants: Vec<String>,
}

impl Guests {
    /// Whether tokens of theirs have names like this.
    pub(super) fn are_called(&self, agent: &str) -> Option<AgentName> {
        let name = agent.strip_prefix(self.verifier.namespace().as_str())?.strip_prefix('.')?;
        AgentName::new(name).ok()
    }

    /// Somebody of theirs as one of `home`'s.
    pub(super) fn admit(&self, identity: Identity, home: &Verifier) -> Result<Identity, Refusal> {
        let from = self.verifier.namespace();
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
            may_register: vec![Pattern::Prefix(format!("{agent}."))],
            agent: Some(agent),
            namespace: home.namespace().clone(),
            permissions: self.grants.clone(),
            expires_at: identity.expires_at,
            token: identity.token,
        })
    }
}
