//! Which certificates an edge takes from its clients, by files that others renew.

use std::path::Path;
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::{provider, roots};
use crate::identity::error::Error;

/// Whether an edge wants certificates from its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificates<'a> {
    /// It does not ask, and browsers show no dialogue.
    Unasked,
    /// Who shows one must have it from a CA in this file (PEM); who shows none comes in all the same.
    Optional(&'a Path),
    /// Only who has one from a CA in this file comes in.
    Required(&'a Path),
}

impl ClientCertificates<'_> {
    /// What checks them, by what is in the files now.
    pub(super) fn verifier(self) -> Result<Arc<dyn ClientCertVerifier>, Error> {
        let (path, required) = match self {
            Self::Unasked => return Ok(WebPkiClientVerifier::no_client_auth()),
            Self::Optional(path) => (path, false),
            Self::Required(path) => (path, true),
        };
        let roots = roots(path, "check the configured file of CAs for client certificates")?;
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let builder = if required { builder } else { builder.allow_unauthenticated() };
        builder.build().map_err(|e| Error::malformed(path.display().to_string(), e))
    }
}
