//! Clients with a certificate (mTLS, for services): whom it names, in place of a token.

use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use trishula::gateway::auth::{Identity, Pattern};
use trishula::identity::{Owner, Role};
use trishula::wire::ids::{AgentName, Namespace};

/// `client_identity` of a service: which agent a certificate's owner is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where the name stands.
    pub name: Field,
    /// What stands before it there; certificates whose name begins otherwise are not let in.
    pub prefix: String,
    /// Other agents that its owner may be: names, or beginnings with a `*`.
    pub agents: Vec<String>,
    /// What its owner may do, as in a token's `permissions`.
    pub permissions: Vec<String>,
}

/// A field of a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Field {
    /// A URI among the alternative names: `trishula://agent/NAMESPACE/NAME` of the mesh's own, or of any form with
    /// [`Settings::prefix`].
    #[default]
    Uri,
    /// A DNS name among them.
    Dns,
    /// The subject's common name.
    Cn,
}

/// The rule of one service.
#[derive(Debug, Clone)]
pub struct Rule {
    namespace: Namespace,
    settings: Settings,
}

impl Rule {
    /// For the clients of a namespace.
    pub fn new(namespace: Namespace, settings: Settings) -> Rule {
        Rule { namespace, settings }
    }

    /// Whom a certificate names that a configured CA has issued.
    ///
    /// # Errors
    ///
    /// Says why nobody of this service.
    pub fn identity(&self, certificate: &CertificateDer<'_>) -> Result<Identity, String> {
        let names =
            Owner::from_certificate(certificate).map_err(|e| format!("the client's certificate: {e}"))?;
        let given = match self.settings.name {
            Field::Uri => names.uris,
            Field::Dns => names.dns,
            Field::Cn => names.common_names,
        };
        let mut agents = given.iter().filter_map(|text| self.agent(text));
        let Some(agent) = agents.next() else {
            let (field, prefix) = (self.settings.name, &self.settings.prefix);
            return Err(format!(
                "the client's certificate names no agent of this service by {field:?} {prefix:?}: {given:?}"
            ));
        };
        if agents.next().is_some() {
            return Err(format!("the client's certificate names several agents: {given:?}"));
        }
        let mut identity = Identity::certified(agent, self.namespace.clone());
        identity.may_register = self.settings.agents.iter().map(|text| Pattern::new(text)).collect();
        identity.permissions = self.settings.permissions.clone();
        identity.expires_at = Some(names.not_after_ms);
        Ok(identity)
    }

    fn agent(&self, text: &str) -> Option<AgentName> {
        if self.settings.name == Field::Uri && self.settings.prefix.is_empty() {
            return match Role::from_uri(text) {
                Ok(Role::Agent(address)) if address.namespace == self.namespace => Some(address.name),
                _ => None,
            };
        }
        AgentName::new(text.strip_prefix(self.settings.prefix.as_str())?).ok()
    }
}
