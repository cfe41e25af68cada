//! Services that share a port, and what tells them apart: the host name that a client asks for, or else what it speaks.

use std::fmt;
use std::sync::Arc;

use crate::dialect::sniff::{Serves, Tongue};
use crate::listener::Service;

/// The services of one port, at least one.
#[derive(Clone)]
pub struct Site {
    services: Vec<Arc<Service>>,
}

impl Site {
    /// Of these, in the order of the configuration. `None`: there is none.
    pub fn new(services: Vec<Arc<Service>>) -> Option<Site> {
        (!services.is_empty()).then_some(Site { services })
    }

    /// All of them.
    pub fn services(&self) -> &[Arc<Service>] {
        &self.services
    }

    /// The first of those that a client may mean that asks for this host: whose pages, paths and tokens are asked for. It is
    /// the one of our own protocol, if there is one, as old clients ask for nothing in their requests.
    pub fn called(&self, host: Option<&str>) -> &Arc<Service> {
        let named = self.named(host);
        let mut meant = self.meant(named).collect::<Vec<_>>().into_iter();
        let first = meant.clone().next();
        let ours = meant.find(|service| service.speech.tongue() == Some(Tongue::Trishula));
        // A site has at least one.
        ours.or(first).unwrap_or(&self.services[0])
    }

    /// Whether a service of it has this name.
    pub fn knows(&self, host: &str) -> bool {
        self.services.iter().any(|service| service.is_called(host))
    }

    /// Those that share the host of this one: one alone, if it has a name.
    pub fn beside<'a>(&'a self, service: &'a Arc<Service>) -> Vec<&'a Arc<Service>> {
        let named = Some(service).filter(|service| service.has_names());
        self.meant(named).collect()
    }

    /// What the services that share its host serve; `None`: it is alone, and nothing has to be found out.
    pub fn choice(&self, service: &Arc<Service>) -> Option<Serves> {
        let beside = self.beside(service);
        if beside.len() < 2 {
            return None;
        }
        let serves = |tongue| beside.iter().any(|service| service.speech.tongue() == Some(tongue));
        Some(Serves {
            trishula: serves(Tongue::Trishula),
            mcp: serves(Tongue::Mcp),
            session_buddy: serves(Tongue::SessionBuddy),
            relay: serves(Tongue::Relay),
        })
    }

    /// The one of them that speaks this.
    pub fn speaking(&self, service: &Arc<Service>, tongue: Tongue) -> Arc<Service> {
        let beside = self.beside(service);
        let found = beside.into_iter().find(|service| service.speech.tongue() == Some(tongue));
        found.unwrap_or(service).clone()
    }

    fn named(&self, host: Option<&str>) -> Option<&Arc<Service>> {
        let host = host?;
        self.services.iter().find(|service| service.is_called(host))
    }

    /// The named one alone, or else those without a name, or else all.
    fn meant<'a>(&'a self, named: Option<&'a Arc<Service>>) -> impl Iterator<Item = &'a Arc<Service>> {
        let nameless = self.services.iter().any(|service| !service.has_names());
        let others =
            self.services.iter().filter(move |service| named.is_none() && !(nameless && service.has_names()));
        named.into_iter().chain(others)
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.services.iter().map(|service| service.page.namespace.as_ref());
        f.debug_list().entries(names.flatten()).finish()
    }
}
