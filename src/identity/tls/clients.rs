//! Which certificates an edge takes from its clients, by files that others renew.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use time::OffsetDateTime;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::{cas, provider, store};
use crate::identity::error::{Error, stamp};
use crate::identity::{files, name};

/// Longest file of revocation lists that is read, in bytes: some 400,000 entries.
const MAX_LISTS: usize = 16 << 20;

/// Whether an edge wants certificates from its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificates<'a> {
    /// It does not ask, and browsers show no dialogue.
    Unasked,
    /// Who shows one must have it from one of these; who shows none comes in all the same.
    Optional(ClientCas<'a>),
    /// Only who has one from one of these comes in.
    Required(ClientCas<'a>),
}

/// CAs of clients' certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientCas<'a> {
    /// They, PEM.
    pub ca_file: &'a Path,
    /// Their lists of certificates that were taken back before their end (RFC 5280), PEM; `None`: nobody looks.
    pub crl_file: Option<&'a Path>,
}

/// What checks certificates of clients.
pub(super) struct Checks {
    pub verifier: Arc<dyn ClientCertVerifier>,
    /// When the first of the lists ends; `None`: there are none.
    pub lists_until: Option<OffsetDateTime>,
}

impl ClientCertificates<'_> {
    /// By what is in the files at this time. A list that has ended is no use for a beginning; one that ends later counts on,
    /// as what it takes back stays taken back.
    pub(super) fn checks(self, now: OffsetDateTime) -> Result<Checks, Error> {
        let (given, required) = match self {
            Self::Unasked => {
                return Ok(Checks { verifier: WebPkiClientVerifier::no_client_auth(), lists_until: None });
            }
            Self::Optional(given) => (given, false),
            Self::Required(given) => (given, true),
        };
        let path = given.ca_file;
        let cas = cas(path, "check the configured file of CAs for client certificates")?;
        let lists = given.crl_file.map(|path| Lists::read(path, &cas, now)).transpose()?;
        let roots = Arc::new(store(path, cas)?);
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
        if !required {
            builder = builder.allow_unauthenticated();
        }
        let lists_until = lists.as_ref().map(|lists| lists.until);
        if let Some(lists) = lists {
            // A certificate of the chain that no list speaks of is refused.
            builder = builder.with_crls(lists.ders);
        }
        let at_fault = given.crl_file.unwrap_or(path);
        let verifier = builder.build().map_err(|e| Error::malformed(at_fault.display().to_string(), e))?;
        Ok(Checks { verifier, lists_until })
    }
}

/// Revocation lists, each CA's among them.
struct Lists {
    ders: Vec<CertificateRevocationListDer<'static>>,
    until: OffsetDateTime,
}

impl Lists {
    fn read(path: &Path, cas: &[CertificateDer<'static>], now: OffsetDateTime) -> Result<Lists, Error> {
        let wrong = |why: String| Error::malformed(path.display().to_string(), why);
        let pem = files::read(path, "check the configured file of revocation lists (crl_file)")?;
        if pem.len() > MAX_LISTS {
            return Err(wrong(format!("is longer than {} MiB", MAX_LISTS >> 20)));
        }
        let ders = CertificateRevocationListDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
        let ders = ders.map_err(|e| wrong(e.to_string()))?;
        let mut lists = Vec::new();
        let mut until: Option<OffsetDateTime> = None;
        for der in &ders {
            let (_, list) = CertificateRevocationList::from_der(der)
                .map_err(|e| wrong(format!("one of its lists is no CRL ({e})")))?;
            let end = end(&list, now).map_err(wrong)?;
            until = Some(until.map_or(end, |until| until.min(end)));
            lists.push(list);
        }
        for ca in cas {
            has_list(&lists, ca)?.map_err(wrong)?;
        }
        drop(lists);
        let until = until.ok_or_else(|| wrong("has no list (X509 CRL, PEM)".into()))?;
        Ok(Lists { ders, until })
    }
}

/// When a list ends, if it has not yet.
fn end(list: &CertificateRevocationList<'_>, now: OffsetDateTime) -> Result<OffsetDateTime, String> {
    let issuer = list.issuer();
    let Some(end) = list.next_update().map(|end| end.to_datetime()) else {
        return Err(format!("the list of {issuer} does not say when the next one comes (nextUpdate)"));
    };
    if end <= now {
        let since = stamp(end);
        return Err(format!("the list of {issuer} has ended at {since}; put the CA's newest one there"));
    }
    Ok(end)
}

/// Whether this CA's list is there. The outer error is about the CA.
fn has_list(
    lists: &[CertificateRevocationList<'_>],
    ca: &CertificateDer<'_>,
) -> Result<Result<(), String>, Error> {
    let ca = name::parse(ca)?;
    let issuer = ca.subject();
    let mut own = lists.iter().filter(|list| list.issuer().as_raw() == issuer.as_raw()).peekable();
    if own.peek().is_none() {
        return Ok(Err(format!(
            "has no list (X509 CRL, PEM) of the CA {issuer}: nobody could come in with its certificates; \
             add its list, be it empty"
        )));
    }
    if !own.any(|list| list.verify_signature(ca.public_key()).is_ok()) {
        return Ok(Err(format!("the list of {issuer} is not signed by the CA of that name in ca_file")));
    }
    Ok(Ok(()))
}
