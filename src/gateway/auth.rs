//! Who a client is, and what it may be.
//!
//! | file | what is in it |
//! |---|---|
//! | this one | identities, whatever shows them |
//! | [`token`] | tokens (RFC 7519) by secret or public key |
//! | [`guest`] | agents of other namespaces, where a rule lets them in |
//! | [`keys`] | public keys, and tokens that were taken back |
//! | `user` | users whose names are no agents' |

pub mod guest;
pub mod keys;
pub mod token;
mod user;

use std::sync::Arc;

use crate::wire::ids::{AgentName, Namespace};

pub use guest::{Guests, Verifier};
pub use keys::{KeySet, Mark, Revoked};
pub use token::{NewToken, Own, Rules, Trust, issue};
pub use user::base_of;

/// What a session may do, as its token or its certificate says.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// Its own agent; `None` only where the operator has switched authentication off: then all names are its own, unless
    /// some are listed.
    pub agent: Option<AgentName>,
    /// What its token calls it, where that is not the agent's name.
    pub user: Option<String>,
    /// The namespace it lives in.
    pub namespace: Namespace,
    /// Other names it may register as.
    pub may_register: Vec<Pattern>,
    /// As the token lists them; the namespace's rules give them a meaning.
    pub permissions: Vec<String>,
    /// Wall-clock milliseconds at which it ends; `None`: never.
    pub expires_at: Option<u64>,
    /// The token that says so, if one does.
    pub token: Option<Mark>,
    /// The certificate that says so, if one does.
    pub certificate: Option<Certificate>,
}

/// A certificate that was shown and found good, and whoever can say whether it still is: it may be taken back meanwhile.
#[derive(Clone)]
pub struct Certificate(Arc<dyn Fn() -> bool + Send + Sync>);

impl Certificate {
    /// One that holds as long as this says so.
    pub fn holding(holds: impl Fn() -> bool + Send + Sync + 'static) -> Certificate {
        Certificate(Arc::new(holds))
    }

    /// Whether it still holds.
    pub fn holds(&self) -> bool {
        (self.0)()
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Certificate) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificate")
    }
}

impl Identity {
    /// An identity that only has a name: a certificate's.
    pub fn certified(agent: AgentName, namespace: Namespace) -> Identity {
        Identity {
            agent: Some(agent),
            user: None,
            namespace,
            may_register: Vec::new(),
            permissions: Vec::new(),
            expires_at: None,
            token: None,
            certificate: None,
        }
    }

    /// Anybody: where the operator has switched authentication off.
    pub fn anybody(namespace: Namespace) -> Identity {
        Identity {
            agent: None,
            user: None,
            namespace,
            may_register: Vec::new(),
            permissions: Vec::new(),
            expires_at: None,
            token: None,
            certificate: None,
        }
    }

    /// The same where only these names are anybody's.
    pub fn stranger(namespace: Namespace, names: Pattern) -> Identity {
        Identity { may_register: vec![names], ..Identity::anybody(namespace) }
    }

    /// Whether the identity may be this agent.
    pub fn may_be(&self, agent: &AgentName) -> bool {
        let may = || self.may_register.iter().any(|pattern| pattern.covers(agent));
        match &self.agent {
            None => self.may_register.is_empty() || may(),
            Some(own) => own == agent || may(),
        }
    }
}

/// A name, or all names with a beginning (`worker-*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// This one.
    Name(String),
    /// All that begin so.
    Prefix(String),
    /// What the connections of this one are called that speak an older dialect: `NAME.` and eight hex digits.
    Connection(String),
    /// All but this one.
    Except(String),
}

pub use crate::wire::ids::ANONYMOUS;

impl Pattern {
    /// Reads `name` or `prefix*`.
    pub fn new(text: &str) -> Pattern {
        match text.strip_suffix('*') {
            Some(prefix) => Pattern::Prefix(prefix.to_owned()),
            None => Pattern::Name(text.to_owned()),
        }
    }

    /// Whether a name is meant.
    pub fn covers(&self, name: &AgentName) -> bool {
        match self {
            Pattern::Name(own) => own == name.as_str(),
            Pattern::Prefix(prefix) => name.as_str().starts_with(prefix),
            Pattern::Connection(of) => name.connection_of() == Some(of),
            Pattern::Except(other) => other != name.as_str(),
        }
    }
}
