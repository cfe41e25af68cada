//! What tokens are checked against besides a secret: public keys (RFC 7517, a JWK Set), and tokens that were taken back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Largest file of keys or of tokens that were taken back, in bytes.
pub const MAX_FILE: u64 = 4 << 20;
/// Most keys in a set that are of use.
pub const MAX_KEYS: usize = 64;
/// Most entries in a list of tokens that were taken back.
pub const MAX_REVOKED: usize = 50_000;

/// Why a file of keys or of tokens that were taken back is not taken.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It can't be read.
    #[error("{path} can't be read: {why}; check the path and its permissions")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// It is larger than anybody needs.
    #[error("{path} has {length} bytes; at most {MAX_FILE} are read")]
    Large {
        /// Which.
        path: PathBuf,
        /// In bytes.
        length: u64,
    },
    /// Something in it is wrong.
    #[error("{path}: {why}")]
    Content {
        /// Which.
        path: PathBuf,
        /// Where in it, what, and what to do.
        why: String,
    },
}

/// Reads a file of a bounded size.
fn read(path: &Path) -> Result<String, FileError> {
    let unreadable = |why| FileError::Read { path: path.into(), why };
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > MAX_FILE {
        return Err(FileError::Large { path: path.into(), length });
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

struct PublicKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// Public keys of whoever issues tokens: Ed25519 (EdDSA, RFC 8037) and P-256 (ES256, RFC 7518).
#[derive(Default)]
pub struct KeySet {
    keys: Vec<PublicKey>,
    passed_over: usize,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySet").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl KeySet {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// Says which key is wrong. Keys of kinds that are not served are passed over, as RFC 7517 section 5 has it, unless none
    /// is left; a private or symmetric key is an error: it does not belong into a file that others read.
    pub fn from_file(path: &Path) -> Result<KeySet, FileError> {
        let text = read(path)?;
        KeySet::from_json(&text).map_err(|why| FileError::Content { path: path.into(), why })
    }

    fn from_json(text: &str) -> Result<KeySet, String> {
        #[derive(serde::Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_str(text)
            .map_err(|e| format!("is not a JWK Set, {{\"keys\":[…]}} (RFC 7517): {e}"))?;
        let mut found = KeySet::default();
        for (n, value) in set.keys.into_iter().enumerate() {
            match public_key(value).map_err(|why| format!("key {} {why}", n + 1))? {
                Some(key) => found.keys.push(key),
                None => found.passed_over += 1,
            }
        }
        match found.keys.len() {
            0 => Err("has no key of use: Ed25519 (kty OKP) or P-256 (kty EC), for signatures".into()),
            1..=MAX_KEYS => Ok(found),
            many => Err(format!("has {many} keys; at most {MAX_KEYS} are taken")),
        }
    }

    /// How many are of use.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many were passed over: of a kind that is not served, or not for signatures.
    pub fn passed_over(&self) -> usize {
        self.passed_over
    }

    /// Those that a token may be signed with: of its algorithm, and of its key id if it names one.
    pub(super) fn candidates(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
    ) -> impl Iterator<Item = &DecodingKey> {
        let fits = move |key: &&PublicKey| {
            key.algorithm == algorithm && id.is_none_or(|id| key.id.as_deref() == Some(id))
        };
        self.keys.iter().filter(fits).map(|key| &key.key)
    }
}

/// `None`: not for us.
fn public_key(value: serde_json::Value) -> Result<Option<PublicKey>, String> {
    if value.get("d").is_some() || value.get("k").is_some() {
        return Err(
            "holds a private or symmetric key: leave it with whoever makes tokens; here only public keys \
                    are read, and secrets by secret_file"
                .into(),
        );
    }
    let kind = value.get("kty").and_then(|kind| kind.as_str()).ok_or("has no kty")?.to_owned();
    let curve = value.get("crv").and_then(|curve| curve.as_str()).unwrap_or_default().to_owned();
    if !matches!((kind.as_str(), curve.as_str()), ("OKP", "Ed25519") | ("EC", "P-256")) {
        return Ok(None);
    }
    let jwk: Jwk = serde_json::from_value(value).map_err(|e| format!("is no JWK: {e}"))?;
    let for_signatures = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
    let (algorithm, named, coordinates) = match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA, vec![&key.x])
        }
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256, vec![&key.x, &key.y])
        }
        _ => return Ok(None),
    };
    if !for_signatures || jwk.common.key_algorithm.is_some_and(|algorithm| algorithm != named) {
        return Ok(None);
    }
    // 32 bytes in base64url are 43 characters.
    if coordinates.iter().any(|text| text.len() != 43) {
        return Err(format!("has a coordinate that is not 32 bytes in base64url, as {kind} {curve} needs"));
    }
    let key = DecodingKey::from_jwk(&jwk).map_err(|e| format!("is no public key: {e}"))?;
    Ok(Some(PublicKey { id: jwk.common.key_id, algorithm, key }))
}

/// What says of a token whether it was taken back.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mark {
    /// Its `jti`.
    pub id: Option<String>,
    /// Its `iat`, wall-clock milliseconds.
    pub issued_ms: Option<u64>,
}

/// Tokens that are good no more, though their time is not over. One a line: a token's id (`jti`), or `agent NAME TIME` for
/// all tokens of an agent made up to that time (RFC 3339) or without saying when; NAME may be what the tokens call a user, blanks and all;
/// `#` begins a comment.
#[derive(Debug, Default)]
pub struct Revoked {
    ids: BTreeSet<String>,
    agents: BTreeMap<String, u64>,
}

impl Revoked {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// Says which line is wrong.
    pub fn from_file(path: &Path) -> Result<Revoked, FileError> {
        let text = read(path)?;
        Revoked::from_lines(&text).map_err(|why| FileError::Content { path: path.into(), why })
    }

    pub(super) fn from_lines(text: &str) -> Result<Revoked, String> {
        let mut found = Revoked::default();
        for (n, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [] => {}
                [id] => drop(found.ids.insert(id.to_owned())),
                ["agent", ref name @ .., time] if !name.is_empty() => {
                    let time = OffsetDateTime::parse(time, &Rfc3339).map_err(|_| {
                        format!("line {}: {time} is no time such as 2026-01-31T12:00:00Z", n + 1)
                    })?;
                    let ms = u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
                    let until = found.agents.entry(name.join(" ")).or_default();
                    *until = ms.max(*until);
                }
                _ => {
                    return Err(format!("line {}: is neither a token's id nor `agent NAME TIME`", n + 1));
                }
            }
        }
        match found.ids.len() + found.agents.len() {
            0..=MAX_REVOKED => Ok(found),
            many => Err(format!("has {many} entries; at most {MAX_REVOKED} are taken")),
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.ids.len() + self.agents.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether an agent's token was taken back.
    pub fn has(&self, agent: &str, mark: &Mark) -> bool {
        let by_id = mark.id.as_ref().is_some_and(|id| self.ids.contains(id));
        let by_agent =
            self.agents.get(agent).is_some_and(|until| mark.issued_ms.is_none_or(|issued| issued <= *until));
        by_id || by_agent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    #[test]
    fn a_key_set_says_which_key_is_wrong_and_passes_over_what_is_not_for_us() {
        // covers B03
        let ours =
            format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{X}","kid":"a","use":"sig","alg":"EdDSA"}}"#);
        let ec = format!(r#"{{"kty":"EC","crv":"P-256","x":"{X}","y":"{X}"}}"#);
        let rsa = r#"{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"r"}"#;
        let for_secrecy = format!(r#"{{"kty":"EC","crv":"P-256","x":"{X}","y":"{X}","use":"enc"}}"#);
        let unknown = r#"{"kty":"ML-DSA","alg":"ML-DSA-44"}"#;
        let set = |keys: &[&str]| KeySet::from_json(&format!(r#"{{"keys":[{}]}}"#, keys.join(",")));
        let all = set(&[&ours, rsa, &ec, &for_secrecy, unknown]).unwrap();
        assert_eq!((all.len(), all.passed_over()), (2, 3));
        assert_eq!(all.candidates(Algorithm::EdDSA, None).count(), 1);
        assert_eq!(all.candidates(Algorithm::EdDSA, Some("a")).count(), 1);
        assert_eq!(all.candidates(Algorithm::EdDSA, Some("b")).count(), 0);
        assert_eq!(all.candidates(Algorithm::HS256, None).count(), 0);
        let private = format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{X}","d":"{X}"}}"#);
        for (keys, says) in [
            (vec![], "no key of use"),
            (vec![rsa], "no key of use"),
            (vec![&ours, &private], "key 2 holds a private"),
            (vec![r#"{"kty":"oct","k":"c2VjcmV0"}"#], "key 1 holds a private or symmetric key"),
            (vec![r#"{"crv":"P-256"}"#], "key 1 has no kty"),
            (vec![r#"{"kty":"OKP","crv":"Ed25519","x":"AA"}"#], "key 1 has a coordinate"),
        ] {
            let error = set(&keys).unwrap_err();
            assert!(error.contains(says), "{keys:?}: {error}");
        }
        assert!(KeySet::from_json("[]").unwrap_err().contains("JWK Set"));
    }

    #[test]
    fn tokens_are_taken_back_by_id_and_by_agent() {
        // covers B03
        let text = "# lost laptop\nagent dc 2026-01-01T00:00:00Z\n\n4b1f # the old one\n";
        let revoked = Revoked::from_lines(text).unwrap();
        assert_eq!(revoked.len(), 2);
        let at = |issued_ms| Mark { id: Some("9".into()), issued_ms };
        let new_year = 1_767_225_600_000;
        assert!(revoked.has("dc", &at(Some(new_year))));
        assert!(!revoked.has("dc", &at(Some(new_year + 1))));
        assert!(revoked.has("dc", &at(None)), "it does not say when it was made");
        assert!(!revoked.has("agni", &at(None)));
        assert!(revoked.has("agni", &Mark { id: Some("4b1f".into()), issued_ms: None }));
        for (text, says) in [
            ("agent 2026-01-01T00:00:00Z", "line 1"),
            ("agent dc", "line 1"),
            ("x\nagent dc soon", "line 2: soon is no time"),
        ] {
            assert!(Revoked::from_lines(text).unwrap_err().contains(says), "{text}");
        }
    }
}
