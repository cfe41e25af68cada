//! Who a client is: tokens (RFC 7519, HS256) and what they allow.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::secret::Secret;
use crate::wire::close::{Code, Refusal};
use crate::wire::ids::{AgentName, Namespace};

/// Longest token that is looked at, in bytes: a few claims need a few hundred.
const MAX_TOKEN: usize = 8 * 1024;

/// What a session may do, as its token or its certificate says.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// Its own agent; `None` only where the operator has switched authentication off.
    pub agent: Option<AgentName>,
    /// The namespace it lives in.
    pub namespace: Namespace,
    /// Other names it may register as.
    pub may_register: Vec<Pattern>,
    /// As the token lists them; the namespace's rules give them a meaning.
    pub permissions: Vec<String>,
    /// Wall-clock milliseconds at which it ends; `None`: never.
    pub expires_at: Option<u64>,
}

impl Identity {
    /// An identity that only has a name: a certificate's.
    pub fn certified(agent: AgentName, namespace: Namespace) -> Identity {
        Identity {
            agent: Some(agent),
            namespace,
            may_register: Vec::new(),
            permissions: Vec::new(),
            expires_at: None,
        }
    }

    /// Anybody: where the operator has switched authentication off.
    pub fn anybody(namespace: Namespace) -> Identity {
        Identity {
            agent: None,
            namespace,
            may_register: Vec::new(),
            permissions: Vec::new(),
            expires_at: None,
        }
    }

    /// Whether the identity may be this agent.
    pub fn may_be(&self, agent: &AgentName) -> bool {
        match &self.agent {
            None => true,
            Some(own) => own == agent || self.may_register.iter().any(|pattern| pattern.covers(agent)),
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
}

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
        }
    }
}

/// What an operator decides about a namespace's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Whether a token must end.
    pub require_exp: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { require_exp: true }
    }
}

/// Checks the tokens of one namespace.
pub struct Verifier {
    keys: Vec<DecodingKey>,
    namespace: Namespace,
    rules: Rules,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Verifier {
    /// A token is good if one of the secrets signed it: two while a secret is being changed.
    pub fn new<'a>(
        secrets: impl IntoIterator<Item = &'a Secret>,
        namespace: Namespace,
        rules: Rules,
    ) -> Verifier {
        let keys = secrets.into_iter().map(|secret| DecodingKey::from_secret(secret.expose())).collect();
        Verifier { keys, namespace, rules }
    }

    /// The namespace whose tokens these are.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Reads a token at the wall-clock time `now_ms`. Nothing of the token is in the refusal.
    pub fn verify(&self, token: &str, now_ms: u64) -> Result<Identity, Refusal> {
        let claims = self.signed_claims(token)?;
        if let Some(nbf) = claims.nbf
            && millis(nbf) > now_ms
        {
            return Err(invalid("the token is not valid yet: nbf lies ahead of the server's clock"));
        }
        match claims.exp {
            None if self.rules.require_exp => return Err(invalid("the token has no exp, and must have one")),
            Some(exp) if millis(exp) <= now_ms => {
                return Err(Refusal::new(Code::TokenExpired, "the token's time is over"));
            }
            _ => {}
        }
        if let Some(audience) = &claims.aud
            && !audience.contains(self.namespace.as_str())
        {
            let message = format!("the token's aud does not name the namespace {}", self.namespace);
            return Err(invalid(message));
        }
        let agent = match (&claims.sub, &claims.user_id) {
            (Some(sub), Some(user)) if sub != user => {
                return Err(invalid("the token's sub and user_id are two different names"));
            }
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => return Err(invalid("the token names no agent: neither sub nor user_id")),
        };
        let agent = AgentName::new(agent).map_err(|e| invalid(format!("the token's agent: {e}")))?;
        Ok(Identity {
            agent: Some(agent),
            namespace: self.namespace.clone(),
            may_register: claims.agents.iter().map(|text| Pattern::new(text)).collect(),
            permissions: claims.permissions,
            expires_at: claims.exp.map(millis),
        })
    }

    fn signed_claims(&self, token: &str) -> Result<Claims, Refusal> {
        if token.len() > MAX_TOKEN {
            return Err(invalid(format!("the token is longer than {MAX_TOKEN} bytes")));
        }
        let header = jsonwebtoken::decode_header(token)
            .map_err(|_| invalid("the token is not a JWT signed with HS256"))?;
        if header.alg != Algorithm::HS256 {
            return Err(invalid(format!("the token's alg is {:?}; only HS256 is taken", header.alg)));
        }
        if header.crit.is_some() {
            return Err(invalid("the token has a crit header; none is understood"));
        }
        // The signature is the library's matter; the times are ours, so that one clock rules and tests can set it.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        let mut why = "the token's signature is not of this namespace's secret";
        for key in &self.keys {
            match jsonwebtoken::decode::<Claims>(token, key, &validation) {
                Ok(data) => return Ok(data.claims),
                Err(e) if matches!(e.kind(), jsonwebtoken::errors::ErrorKind::InvalidSignature) => {}
                Err(_) => why = "a claim of the token has the wrong type",
            }
        }
        Err(invalid(why))
    }
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::TokenInvalid, message)
}

/// NumericDate to milliseconds; a float cast saturates, and NaN is none of JSON's numbers.
fn millis(seconds: f64) -> u64 {
    (seconds * 1000.0) as u64
}

#[derive(Debug, Deserialize)]
struct Claims {
    sub: Option<String>,
    user_id: Option<String>,
    #[serde(default)]
    permissions: Vec<String>,
    #[serde(default)]
    agents: Vec<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
    #[serde(rename = "iat")]
    _iat: Option<f64>,
    aud: Option<Audience>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn contains(&self, name: &str) -> bool {
        match self {
            Audience::One(one) => one == name,
            Audience::Many(many) => many.iter().any(|one| one == name),
        }
    }
}

/// What a new token is to say.
#[derive(Debug, Clone, Serialize)]
pub struct NewToken {
    /// The agent.
    pub sub: AgentName,
    /// The namespace.
    pub aud: Namespace,
    /// What it may do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<String>,
    /// Other names it may register as: names, or beginnings with a `*` behind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<String>,
    /// Seconds since the epoch: when it was made.
    pub iat: u64,
    /// Seconds since the epoch: its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exp: Option<u64>,
}

/// A token could not be made; ours never fail to.
#[derive(Debug, thiserror::Error)]
#[error("the token can't be made: {0}")]
pub struct IssueError(String);

/// Makes a token.
pub fn issue(secret: &Secret, token: &NewToken) -> Result<String, IssueError> {
    let key = EncodingKey::from_secret(secret.expose());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), token, &key).map_err(|e| IssueError(e.to_string()))
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    const NOW: u64 = 1_767_225_600_000;

    fn secret(byte: u8) -> Secret {
        Secret::new(&[byte; 40], "test").unwrap()
    }

    fn verifier() -> Verifier {
        Verifier::new([&secret(b'a')], Namespace::new("trishula").unwrap(), Rules::default())
    }

    fn sign(claims: serde_json::Value) -> String {
        let key = EncodingKey::from_secret(secret(b'a').expose());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
    }

    fn refused(token: &str) -> Code {
        verifier().verify(token, NOW).unwrap_err().code
    }

    #[test]
    fn a_token_of_ours_says_who_it_is() {
        // covers T05
        let new = NewToken {
            sub: AgentName::new("ops").unwrap(),
            aud: Namespace::new("trishula").unwrap(),
            permissions: vec!["read".into()],
            agents: vec!["worker-*".into(), "spare".into()],
            iat: NOW / 1000,
            exp: Some(NOW / 1000 + 60),
        };
        let identity = verifier().verify(&issue(&secret(b'a'), &new).unwrap(), NOW).unwrap();
        assert_eq!(identity.expires_at, Some(NOW + 60_000));
        for (name, may) in [("ops", true), ("worker-3", true), ("spare", true), ("dc", false)] {
            assert_eq!(identity.may_be(&AgentName::new(name).unwrap()), may, "{name}");
        }
    }

    #[test]
    fn forged_expired_and_unsigned_tokens_are_refused() {
        // covers T05
        let exp = NOW / 1000 + 60;
        let good = serde_json::json!({"sub": "dc", "exp": exp});
        assert!(verifier().verify(&sign(good.clone()), NOW).is_ok());
        let other = EncodingKey::from_secret(secret(b'b').expose());
        let forged = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &good, &other).unwrap();
        assert_eq!(refused(&forged), Code::TokenInvalid);
        let longer = EncodingKey::from_secret(secret(b'a').expose());
        let hs512 = jsonwebtoken::encode(&Header::new(Algorithm::HS512), &good, &longer).unwrap();
        assert_eq!(refused(&hs512), Code::TokenInvalid);
        let none = format!(
            "{}.{}.",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#),
            URL_SAFE_NO_PAD.encode(good.to_string())
        );
        assert_eq!(refused(&none), Code::TokenInvalid);
        for bad in ["", "secret", "a.b.c", &"x".repeat(9000)] {
            assert_eq!(refused(bad), Code::TokenInvalid);
        }
        assert_eq!(refused(&sign(serde_json::json!({"sub": "dc", "exp": NOW / 1000}))), Code::TokenExpired);
    }

    #[test]
    fn claims_are_checked_one_by_one() {
        // covers T05, T08
        let exp = (NOW / 1000 + 60) as f64 + 0.5;
        for good in [
            serde_json::json!({"user_id": "dc", "exp": exp}),
            serde_json::json!({"sub": "dc", "user_id": "dc", "exp": exp, "aud": ["x", "trishula"]}),
            serde_json::json!({"sub": "dc", "exp": exp, "aud": "trishula", "unknown": {"a": 1}}),
        ] {
            assert!(verifier().verify(&sign(good.clone()), NOW).is_ok(), "{good}");
        }
        for bad in [
            serde_json::json!({"sub": "dc"}),
            serde_json::json!({"exp": exp}),
            serde_json::json!({"sub": "dc", "user_id": "agni", "exp": exp}),
            serde_json::json!({"sub": "d c", "exp": exp}),
            serde_json::json!({"sub": "dc", "exp": "soon"}),
            serde_json::json!({"sub": "dc", "exp": exp, "iat": "now"}),
            serde_json::json!({"sub": "dc", "exp": exp, "nbf": exp}),
            serde_json::json!({"sub": "dc", "exp": exp, "aud": "akosha"}),
            serde_json::json!({"sub": 7, "exp": exp}),
            serde_json::json!({"sub": "dc", "exp": exp, "permissions": "all"}),
        ] {
            assert_eq!(refused(&sign(bad.clone())), Code::TokenInvalid, "{bad}");
        }
        let lax =
            Verifier::new([&secret(b'a')], Namespace::new("trishula").unwrap(), Rules { require_exp: false });
        assert_eq!(lax.verify(&sign(serde_json::json!({"sub": "dc"})), NOW).unwrap().expires_at, None);
    }

    #[test]
    fn a_secret_can_be_changed_while_old_tokens_live() {
        // covers T05
        let both = Verifier::new(
            [&secret(b'b'), &secret(b'a')],
            Namespace::new("trishula").unwrap(),
            Rules::default(),
        );
        let token = sign(serde_json::json!({"sub": "dc", "exp": NOW / 1000 + 60}));
        assert!(both.verify(&token, NOW).is_ok());
    }
}
