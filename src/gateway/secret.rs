//! The secret that signs a namespace's tokens: read from a file or the environment, never shown.

use std::fmt;
use std::path::{Path, PathBuf};

/// Shortest secret that is taken, in bytes: what RFC 7518 section 3.2 demands for HS256.
pub const MIN_SECRET: usize = 32;

/// Secrets that stand in examples, tutorials and the defaults of older services. Whoever has read one of
/// those can make tokens.
const KNOWN: [&str; 11] = [
    "dev-secret-change-in-production",
    "test-secret",
    "secret",
    "changeme",
    "change-me",
    "change-this-in-production",
    "your-secret-key",
    "your-256-bit-secret",
    "password",
    "supersecret",
    "your-generated-secret-key-here",
];

/// Bytes that nobody may see; comparing and printing are left out on purpose.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

/// Why a secret is not taken.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file can't be read.
    #[error(
        "the token secret {path} can't be read: {why}; all edges of a namespace share one: copy it from another machine, or name its file with --secret-file. Only for a new namespace, make one: head -c 48 /dev/urandom | base64 > {path}"
    )]
    File {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// The variable is not set.
    #[error(
        "the environment variable {0}, which should hold the token secret, is not set or not UTF-8; set it, or use secret_file"
    )]
    Variable(String),
    /// Too easily guessed.
    #[error(
        "the token secret from {place} has {length} bytes; at least {MIN_SECRET} are needed: head -c 48 /dev/urandom | base64"
    )]
    Short {
        /// File or variable.
        place: String,
        /// In bytes.
        length: usize,
    },
    /// Stands in somebody's documentation.
    #[error(
        "the token secret from {place} is a published default; make one of your own with: head -c 48 /dev/urandom | base64"
    )]
    Known {
        /// File or variable.
        place: String,
    },
}

impl Secret {
    /// Takes bytes as a secret if they are long enough and nobody's default. `place` is for the error.
    pub fn new(bytes: &[u8], place: &str) -> Result<Secret, SecretError> {
        let bytes = bytes.trim_ascii();
        let known = |word: &&str| bytes.to_ascii_lowercase().starts_with(word.as_bytes());
        // "secret" padded or repeated is no better, but a random text may begin with any word: only what is
        // little more than the word is refused.
        if KNOWN.iter().any(|word| known(word) && bytes.len() < word.len() + 16) {
            return Err(SecretError::Known { place: place.into() });
        }
        if bytes.len() < MIN_SECRET {
            return Err(SecretError::Short { place: place.into(), length: bytes.len() });
        }
        Ok(Secret(bytes.to_vec()))
    }

    /// Reads a file; white space at its ends does not count.
    pub fn from_file(path: &Path) -> Result<Secret, SecretError> {
        let bytes = std::fs::read(path).map_err(|why| SecretError::File { path: path.into(), why })?;
        Secret::new(&bytes, &path.display().to_string())
    }

    /// Reads an environment variable.
    pub fn from_env(name: &str) -> Result<Secret, SecretError> {
        let value = std::env::var(name).map_err(|_| SecretError::Variable(name.into()))?;
        Secret::new(value.as_bytes(), &format!("${name}"))
    }

    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_published_secrets_are_refused_with_what_to_do() {
        // covers T05
        for known in ["dev-secret-change-in-production", "test-secret", "Secret", "changeme\n"] {
            let error = Secret::new(known.as_bytes(), "here").unwrap_err();
            assert!(matches!(error, SecretError::Known { .. }), "{known}: {error}");
            assert!(error.to_string().contains("/dev/urandom"));
        }
        let error = Secret::new(b"0123456789", "edge.key").unwrap_err().to_string();
        assert!(error.contains("edge.key has 10 bytes"), "{error}");
        let good = Secret::new(&[b'k'; 32], "here").unwrap();
        assert_eq!(format!("{good:?}"), "Secret(..)");
    }

    #[test]
    fn a_missing_file_or_variable_is_named() {
        // covers T05
        let error = Secret::from_file(Path::new("/nowhere/secret")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/secret"), "{error}");
        let error = Secret::from_env("TRISHULA_TEST_NOT_SET").unwrap_err().to_string();
        assert!(error.contains("TRISHULA_TEST_NOT_SET"), "{error}");
    }
}
