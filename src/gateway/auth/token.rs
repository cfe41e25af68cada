//! Tokens (RFC 7519): HS256 with the namespace's secret, EdDSA and ES256 with public keys.

use std::sync::{Arc, PoisonError, RwLock};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::keys::{KeySet, Mark, Revoked};
use super::{Identity, Pattern, user};
use crate::gateway::secret::Secret;
use crate::wire::close::{Code, Refusal};
use crate::wire::ids::{AgentName, Namespace};

/// Longest token that is looked at, in bytes: a few claims need a few hundred.
const MAX_TOKEN: usize = 8 * 1024;
/// How far the clock of who made a token may be ahead of this one, in milliseconds.
const MAX_AHEAD_MS: u64 = 30_000;

/// What an operator decides about a namespace's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Whether a token must end.
    pub require_exp: bool,
    /// Whether a token for `dc` is good for `dc.xxxxxxxx` as well: each connection of a client that speaks an older dialect
    /// has such a name of its own. No user has one below another's: those with a dot are called like those that are no
    /// agents' names.
    pub own_names: bool,
    /// Whether users may have names that are no agents'; so it is where connections have names of their own.
    pub any_users: bool,
    /// How long a token is good at the most, in milliseconds: from when it was made (`iat`), or, where it does not say, from
    /// when it is shown. `None`: for as long as it says.
    pub longest_life_ms: Option<u64>,
}

impl Default for Rules {
    fn default() -> Self {
        Self { require_exp: true, own_names: false, any_users: false, longest_life_ms: None }
    }
}

impl Rules {
    /// When a token ends that says these times, each in milliseconds; `None`: never.
    fn end(&self, exp: Option<u64>, iat: Option<u64>, now: u64) -> Option<u64> {
        let Some(life) = self.longest_life_ms else { return exp };
        // Who says that it is made only later is not given more time for that.
        let latest = iat.unwrap_or(now).min(now).saturating_add(life);
        Some(exp.unwrap_or(latest).min(latest))
    }
}

/// By what tokens are believed; replaced as a whole when its files change.
#[derive(Default)]
pub struct Trust {
    secrets: Vec<DecodingKey>,
    keys: KeySet,
    revoked: Revoked,
}

impl Trust {
    /// A token is good if one of the secrets signed it (two while a secret is being changed), or one of the keys, and it was
    /// not taken back.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>, keys: KeySet, revoked: Revoked) -> Trust {
        let secrets = secrets.into_iter().map(|secret| DecodingKey::from_secret(secret.expose())).collect();
        Trust { secrets, keys, revoked }
    }

    /// By the agent's name, and by what its tokens call it.
    fn has_revoked(&self, agent: &AgentName, user: Option<&str>, mark: &Mark) -> bool {
        [Some(agent.as_str()), user].into_iter().flatten().any(|name| self.revoked.has(name, mark))
    }

    /// The keys of an algorithm and nobody else's: what is public to one must never be the secret of another.
    fn keys_for(&self, header: &Header) -> Vec<&DecodingKey> {
        match header.alg {
            Algorithm::HS256 => self.secrets.iter().collect(),
            Algorithm::EdDSA | Algorithm::ES256 => {
                self.keys.candidates(header.alg, header.kid.as_deref()).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// Checks the tokens of one namespace that are its own.
pub struct Own {
    trust: RwLock<Arc<Trust>>,
    namespace: Namespace,
    rules: Rules,
}

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Own").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Own {
    /// For the tokens of a namespace.
    pub fn new(trust: Trust, namespace: Namespace, rules: Rules) -> Own {
        Own { trust: RwLock::new(Arc::new(trust)), namespace, rules }
    }

    /// Believes these from now on.
    pub fn replace(&self, trust: Trust) {
        *self.trust.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(trust);
    }

    fn trust(&self) -> Arc<Trust> {
        self.trust.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether this token of an agent of its own was taken back.
    pub(super) fn has_revoked(&self, agent: &AgentName, user: Option<&str>, mark: &Mark) -> bool {
        self.trust().has_revoked(agent, user, mark)
    }

    /// The agent of whom a token is about.
    fn agent(&self, claims: &Claims) -> Result<(AgentName, Option<String>), Refusal> {
        let name = match (&claims.sub, &claims.user_id) {
            // The older servers' own claim; of the other they only asked that it is text.
            (Some(_), Some(name)) if self.rules.own_names => name,
            (Some(sub), Some(user)) if sub != user => {
                return Err(invalid("the token's sub and user_id are two different names"));
            }
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => return Err(invalid("the token names no agent: neither sub nor user_id")),
        };
        let agent = match self.rules.own_names || self.rules.any_users {
            true => user::agent_of(name, self.rules.own_names)
                .ok_or_else(|| invalid("the token's user has no name of 1 to 256 bytes that can be seen"))?,
            false => AgentName::new(name).map_err(|e| invalid(format!("the token's agent: {e}")))?,
        };
        let user = (agent.as_str() != name).then(|| name.clone());
        Ok((agent, user))
    }

    /// The namespace whose tokens these are.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The names below an agent's, where its connections have names of their own.
    pub(super) fn names_below(&self, agent: &AgentName) -> Option<Pattern> {
        self.rules.own_names.then(|| Pattern::Connection(user::base_of(agent.as_str())))
    }

    /// Reads a token at the wall-clock time `now_ms`. Nothing of the token is in the refusal.
    pub fn verify(&self, token: &str, now_ms: u64) -> Result<Identity, Refusal> {
        let trust = self.trust();
        let claims = signed_claims(&trust, token)?;
        if let Some(nbf) = claims.nbf
            && millis(nbf) > now_ms
        {
            return Err(invalid("the token is not valid yet: nbf lies ahead of the server's clock"));
        }
        // As the older servers did, of whole seconds; but those had mostly made it themselves, by the same clock.
        if let Some(iat) = claims.iat.filter(|_| self.rules.own_names)
            && millis(iat.floor()) > now_ms.saturating_add(MAX_AHEAD_MS)
        {
            return Err(invalid("the token is not valid yet: iat lies ahead of the server's clock"));
        }
        match claims.exp {
            None if self.rules.require_exp => return Err(invalid("the token has no exp, and must have one")),
            Some(exp) if millis(exp) <= now_ms => {
                return Err(Refusal::new(Code::TokenExpired, "the token's time is over"));
            }
            _ => {}
        }
        let expires_at = self.rules.end(claims.exp.map(millis), claims.iat.map(millis), now_ms);
        if expires_at.is_some_and(|at| at <= now_ms) {
            let message = "the token was made too long ago for this service; ask for a new one";
            return Err(Refusal::new(Code::TokenExpired, message));
        }
        if let Some(audience) = &claims.aud
            && !audience.contains(self.namespace.as_str())
        {
            let message = format!("the token's aud does not name the namespace {}", self.namespace);
            return Err(invalid(message));
        }
        let (agent, user) = self.agent(&claims)?;
        let mark = Mark { id: claims.jti, issued_ms: claims.iat.map(millis) };
        if trust.has_revoked(&agent, user.as_deref(), &mark) {
            return Err(taken_back());
        }
        Ok(Identity {
            agent: Some(agent),
            user,
            namespace: self.namespace.clone(),
            may_register: claims.agents.iter().map(|text| Pattern::new(text)).collect(),
            permissions: claims.permissions.or(claims.scopes).unwrap_or_default(),
            expires_at,
            token: Some(mark),
            certificate: None,
        })
    }
}

fn signed_claims(trust: &Trust, token: &str) -> Result<Claims, Refusal> {
    if token.len() > MAX_TOKEN {
        return Err(invalid(format!("the token is longer than {MAX_TOKEN} bytes")));
    }
    let header = jsonwebtoken::decode_header(token)
        .map_err(|_| invalid("the token is not a JWT signed with HS256, EdDSA or ES256"))?;
    if !matches!(header.alg, Algorithm::HS256 | Algorithm::EdDSA | Algorithm::ES256) {
        return Err(invalid(format!(
            "the token's alg is {:?}; only HS256, EdDSA and ES256 are taken",
            header.alg
        )));
    }
    if header.crit.is_some() {
        return Err(invalid("the token has a crit header; none is understood"));
    }
    // The signature is the library's matter; the times are ours, so that one clock rules and tests can set it.
    let mut validation = Validation::new(header.alg);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    let mut why = match header.alg {
        Algorithm::HS256 => "the token's signature is not of this namespace's secret",
        _ => "the token's signature is of none of this namespace's keys",
    };
    for key in trust.keys_for(&header) {
        match jsonwebtoken::decode::<Claims>(token, key, &validation) {
            Ok(data) => return Ok(data.claims),
            Err(e) => match e.kind() {
                ErrorKind::InvalidSignature => {}
                ErrorKind::Base64(_) => why = "the token is damaged: it is not Base64url; copy all of it",
                _ => why = "a claim of the token has the wrong type",
            },
        }
    }
    Err(invalid(why))
}

/// What a session is told whose token was taken back.
pub fn taken_back() -> Refusal {
    invalid("the token was taken back by the operator; ask for a new one")
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::TokenInvalid, message)
}

/// What a client whose numbers are doubles can still tell from the next one (RFC 8259 section 6).
const LATEST_MS: u64 = (1 << 53) - 1;

/// NumericDate to milliseconds; a float cast saturates, and NaN is none of JSON's numbers.
fn millis(seconds: f64) -> u64 {
    ((seconds * 1000.0) as u64).min(LATEST_MS)
}

#[derive(Debug, Deserialize)]
struct Claims {
    sub: Option<String>,
    user_id: Option<String>,
    permissions: Option<Vec<String>>,
    /// The same in tokens between services.
    scopes: Option<Vec<String>>,
    #[serde(default)]
    agents: Vec<String>,
    #[serde(default, deserialize_with = "number")]
    exp: Option<f64>,
    #[serde(default, deserialize_with = "number")]
    nbf: Option<f64>,
    #[serde(default, deserialize_with = "number")]
    iat: Option<f64>,
    jti: Option<String>,
    aud: Option<Audience>,
}

/// NumericDate; the library of the older services took one in quotes as well.
fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(f64),
        Text(String),
    }
    let Some(given) = Option::<Either>::deserialize(deserializer)? else { return Ok(None) };
    let number = match given {
        Either::Number(number) => number,
        Either::Text(text) => text.trim().parse().map_err(serde::de::Error::custom)?,
    };
    // "inf" and "NaN" are numbers to the parser, and no times.
    if number.is_finite() { Ok(Some(number)) } else { Err(serde::de::Error::custom("is no time")) }
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
    /// Its own name, by which it can be taken back.
    pub jti: String,
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
mod tests;
