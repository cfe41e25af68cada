//! What can go wrong with identities. Every message says what, where, and what to do about it.

use std::path::{Path, PathBuf};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::trust::Refusal;
use crate::wire::ids::NameError;

/// Why something about an identity could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {doing} {path}: {source}; {remedy}")]
    File {
        /// "read", "write" …
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
        /// What to do.
        remedy: String,
    },
    /// A private file that others than its owner may open.
    #[error(
        "{path} holds a secret, but its mode {mode:04o} lets others than its owner open it; run: chmod 600 '{path}'"
    )]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Bytes that are not what they should be.
    #[error("{what}: {why}")]
    Malformed {
        /// What was read: "certificate in /etc/…", "revocation list" …
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate that names nobody, or more than one.
    #[error("the certificate of {subject:?} {why}; join again with a new ticket")]
    Nameless {
        /// The certificate's subject.
        subject: String,
        /// What is wrong.
        why: String,
    },
    /// A certificate and a private key that do not belong together.
    #[error(
        "the key {key} does not belong to the certificate {certificate}; put back the pair that was written together, or join again"
    )]
    KeyMismatch {
        /// Where the certificate came from.
        certificate: String,
        /// Where the key came from.
        key: String,
    },
    /// A certificate of another role than this place needs.
    #[error("{place} names {found}, but {expected} is needed here; {remedy}")]
    WrongRole {
        /// Which file.
        place: String,
        /// Who it names.
        found: String,
        /// Who was expected.
        expected: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A certificate that does not hold; where it came from is in front.
    #[error("{place}: {refusal}")]
    Refused {
        /// Which file or message.
        place: String,
        /// Why.
        refusal: Refusal,
    },
    /// A request for a certificate that is not granted.
    #[error("this certificate is not issued: {0}")]
    NotIssued(String),
    /// A string that is not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// TLS could not be set up with what was given.
    #[error("TLS could not be set up: {0}")]
    Tls(String),
    /// The cryptographic library refused; nothing here can cause it, save an exhausted system.
    #[error("{0} failed inside the cryptographic library; try again, and look at the system's health")]
    Crypto(&'static str),
}

impl Error {
    pub(super) fn malformed(what: impl Into<String>, why: impl ToString) -> Self {
        Self::Malformed { what: what.into(), why: why.to_string() }
    }

    pub(super) fn file(doing: &'static str, path: &Path, source: std::io::Error, remedy: &str) -> Self {
        Self::File { doing, path: path.into(), source, remedy: remedy.into() }
    }
}

/// A moment as people and logs read it: RFC 3339, UTC.
pub(super) fn stamp(moment: OffsetDateTime) -> String {
    moment.format(&Rfc3339).unwrap_or_else(|_| format!("@{}", moment.unix_timestamp()))
}
