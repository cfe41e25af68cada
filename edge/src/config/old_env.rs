//! The environment of the older servers: `{SERVICE}_JWT_SECRET` and its like, so that an old `production.env` works as
//! it is. It wins over the file, as every environment does.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use super::service::Given;

/// Variables without a service's name before them: nothing here needs them.
const OF_NO_USE: [&str; 2] = ["REDIS_URL", "PROMETHEUS_METRICS_PORT"];
/// What follows a service's name and is of no use here: where to look instead, if anywhere.
const NEEDLESS: [(&str, &str); 8] = [
    ("REDIS_HOST", "no Redis is needed"),
    ("REDIS_PORT", "no Redis is needed"),
    ("REDIS_DB", "no Redis is needed"),
    ("REDIS_PASSWORD", "no Redis is needed"),
    ("METRICS_ENABLED", "metrics are always served; see [metrics]"),
    ("METRICS_PORT", "the metrics of all services have one port; see [metrics]"),
    ("SERVER_NAME", "see [edge] name"),
    // They had it in their files and closed nothing for it: who only listens stays.
    ("CONNECTION_TIMEOUT", "the older servers closed no silent client either; see connection_timeout_s"),
];

/// The service whose variables begin so has its secret from this one, which several tools share, where it has none of its own.
const SHARES_SECRET: (&str, &str) = ("CRACKERJACK_", "BODAI_SHARED_SECRET");

/// What the old variables say beside the settings of a service.
#[derive(Debug, Default)]
pub(super) struct Besides {
    /// For the log, in the words of ours.
    pub(super) level: Option<String>,
    /// Whether the log is to be JSON.
    pub(super) json: Option<bool>,
    /// What an operator should know about them.
    pub(super) notes: Vec<String>,
}

/// A variable and why its value is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) variable: String,
    pub(super) why: String,
}

/// The variables of a process that may be the old servers'.
pub(super) struct OldEnv<'a>(&'a BTreeMap<String, String>);

/// What comes before the variables of a service.
fn prefix(service: &str) -> String {
    let service = service.strip_suffix("-mcp").unwrap_or(service);
    format!("{}_", service.to_ascii_uppercase().replace('-', "_"))
}

impl OldEnv<'_> {
    pub(super) fn new(environment: &BTreeMap<String, String>) -> OldEnv<'_> {
        OldEnv(environment)
    }

    /// Puts what they say of this service over what its file gives.
    pub(super) fn lay_over(
        &self,
        service: &str,
        given: &mut Given,
        besides: &mut Besides,
    ) -> Result<(), Bad> {
        let prefix = prefix(service);
        let cas = given.ca_file.clone();
        for (variable, value) in self.0.range(prefix.clone()..) {
            let Some(rest) = variable.strip_prefix(&prefix) else { break };
            // Our own settings begin so as well, and Kubernetes' names of a Service called trishula.
            if prefix == OURS && !rest.starts_with("WS_") && rest != "JWT_SECRET" {
                continue;
            }
            let value = value.trim();
            // Compose files hand on what is not set as nothing.
            if !value.is_empty() {
                one(given, besides, variable, rest.strip_prefix("WS_").unwrap_or(rest), value)
                    .map_err(|why| Bad { variable: variable.clone(), why })?;
            }
        }
        if prefix == SHARES_SECRET.0 && self.is_set(SHARES_SECRET.1) && has_no_secret(given) {
            secret_of(given, SHARES_SECRET.1);
        }
        // They named the system's own: whose certificates those signed, strangers have too.
        if given.ca_file != cas && given.verify_client != Some(true) {
            given.ca_file = cas;
            besides.notes.push(format!("{prefix}CA_FILE is not used: {prefix}VERIFY_CLIENT is not true"));
        }
        Ok(())
    }

    fn is_set(&self, variable: &str) -> bool {
        self.0.get(variable).is_some_and(|value| !value.trim().is_empty())
    }

    /// Says which of those that belong to no service are not looked at.
    pub(super) fn note_common(&self, besides: &mut Besides) {
        for variable in OF_NO_USE {
            if self.is_set(variable) {
                besides.notes.push(format!("{variable} is not used: nothing here needs it"));
            }
        }
    }
}

/// The variable that gives a service this key, where there is one for it in the environment.
pub(super) fn laid_over(environment: &BTreeMap<String, String>, service: &str, key: &str) -> Option<String> {
    let ends: &[&str] = match key {
        "max_connections" => &["MAX_CONNECTIONS"],
        "message_rate_limit" => &["RATE_LIMIT"],
        "token_expiry_s" => &["TOKEN_EXPIRY", "JWT_EXPIRY"],
        _ => return None,
    };
    let prefix = prefix(service);
    let between: &[&str] = if prefix == OURS { &["WS_"] } else { &["WS_", ""] };
    let names = between.iter().flat_map(|ws| ends.iter().map(move |end| (ws, end)));
    let mut names = names.map(|(ws, end)| format!("{prefix}{ws}{end}"));
    names.find(|name| environment.get(name).is_some_and(|value| !value.trim().is_empty()))
}

/// Of the service that is named as the program is.
const OURS: &str = "TRISHULA_";

fn one(
    given: &mut Given,
    besides: &mut Besides,
    variable: &str,
    key: &str,
    value: &str,
) -> Result<(), String> {
    match key {
        "JWT_SECRET" => secret_of(given, variable),
        "HOST" => {
            let host = if value == "localhost" { "127.0.0.1" } else { value };
            given.host = Some(read::<IpAddr>(host, "an IP address")?);
            let listened = given.listen.take().and_then(|listen| Some(listen.first()?.port()));
            given.port = given.port.or(listened);
        }
        "PORT" => {
            given.port = Some(read(value, "a port")?);
            let listened = given.listen.take().and_then(|listen| Some(listen.first()?.ip()));
            given.host = given.host.or(listened);
        }
        "TLS_ENABLED" => given.tls = Some(switch(value)?),
        "CERT_FILE" => given.cert = Some(Some(PathBuf::from(value))),
        "KEY_FILE" => {
            given.key = Some(Some(PathBuf::from(value)));
            given.key_credential = Some(None);
        }
        "AUTH_ENABLED" => given.auth = Some(switch(value)?),
        "MAX_CONNECTIONS" => given.max_connections = Some(read(value, "a number")?),
        // Some documents call it a minute's; the old servers took it as a second's.
        "RATE_LIMIT" => given.message_rate_limit = Some(read(value, "a number")?),
        // The old servers gave so much to the tokens that they made; here it is what any token gets at the most.
        "TOKEN_EXPIRY" | "JWT_EXPIRY" => given.token_expiry_s = Some(read(value, "a number of seconds")?),
        "LOG_LEVEL" => besides.level = Some(level(value)?.to_owned()),
        "LOG_FORMAT" => besides.json = Some(value.eq_ignore_ascii_case("json")),
        "VERIFY_CLIENT" => given.verify_client = Some(switch(value)?),
        "CA_FILE" => given.ca_file = Some(Some(PathBuf::from(value))),
        key => {
            let why = NEEDLESS.iter().find(|(known, _)| *known == key).map(|(_, why)| *why);
            besides.notes.extend(why.map(|why| format!("{variable} is not used: {why}")));
        }
    }
    Ok(())
}

/// Whether neither the file nor the environment has said where the secret is.
fn has_no_secret(given: &Given) -> bool {
    given.secret_env.is_none() && given.secret_file.is_none() && given.secret_credential.is_none()
}

/// The secret is this variable's, whatever the file says.
fn secret_of(given: &mut Given, variable: &str) {
    given.secret_env = Some(Some(variable.to_owned()));
    given.secret_file = Some(None);
    given.secret_credential = Some(None);
}

fn read<T: FromStr>(value: &str, what: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{value:?} is not {what}"))
}

fn switch(value: &str) -> Result<bool, String> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("{value:?} is neither true nor false")),
    }
}

/// A level of Python's logging in our words.
fn level(value: &str) -> Result<&'static str, String> {
    Ok(match value.to_ascii_lowercase().as_str() {
        "trace" => "trace",
        "debug" => "debug",
        "info" => "info",
        "warn" | "warning" => "warn",
        "error" | "critical" | "fatal" => "error",
        _ => return Err(format!("{value:?} is no level; take error, warn, info, debug or trace")),
    })
}
