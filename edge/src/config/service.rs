//! `[[service]]`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use trishula::wire::client::DEFAULT_MAX_FRAME;
use trishula::wire::ids::Namespace;

use crate::{deflate, echo, front};

/// `[[service]]`: one namespace's entrance.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSection {
    /// The namespace.
    pub name: Namespace,
    /// Where it listens.
    #[serde(default = "listen_default")]
    pub listen: Vec<SocketAddr>,
    /// Certificate chain, PEM; `public.pem` of the identity when absent.
    pub cert: Option<PathBuf>,
    /// Its key, PEM.
    pub key: Option<PathBuf>,
    /// Whether TLS is spoken. Without, only behind a proxy on this machine, or where everybody is trusted.
    #[serde(default = "yes")]
    pub tls: bool,
    /// For development: a certificate of a CA of its own is made when there is none.
    #[serde(default)]
    pub auto_cert: bool,
    /// Whether only clients with a certificate come in.
    #[serde(default)]
    pub verify_client: bool,
    /// CAs of clients' certificates, PEM. Who shows one needs no token.
    pub ca_file: Option<PathBuf>,
    /// Whom such a certificate names.
    #[serde(default)]
    pub client_identity: front::certified::Settings,
    /// The proxies before it.
    #[serde(default)]
    pub proxy: front::proxy::Settings,
    /// What browsers are told, and whose pages may connect.
    #[serde(default)]
    pub http: front::headers::Settings,
    /// The file with the secret that signs tokens.
    pub secret_file: Option<PathBuf>,
    /// Or the environment variable with it.
    pub secret_env: Option<String>,
    /// The file with the public keys of others who make tokens (JWK Set).
    pub jwks_file: Option<PathBuf>,
    /// The file with tokens that were taken back.
    pub revoked_file: Option<PathBuf>,
    /// Whether clients need a token at all. Only for a network in which everybody is trusted.
    #[serde(default = "yes")]
    pub auth: bool,
    /// Whether a token must end.
    #[serde(default = "yes")]
    pub require_exp: bool,
    /// Paths on which a WebSocket is served.
    #[serde(default = "paths_default")]
    pub paths: Vec<String>,
    /// Largest frame in bytes.
    #[serde(default = "max_frame_default")]
    pub max_frame: usize,
    /// Longest silence before a ping.
    #[serde(default = "ping_interval_default")]
    pub ping_interval_s: u64,
    /// How long a ping may stay unanswered; three heartbeats when absent.
    pub ping_timeout_s: Option<u64>,
    /// Connections at once; more wait in the system's queue.
    #[serde(default = "max_connections_default")]
    pub max_connections: usize,
    /// How long TLS and the request for the upgrade may take.
    #[serde(default = "handshake_default")]
    pub handshake_timeout_ms: u64,
    /// Whether `/echo` is served: every message comes back as it came.
    #[serde(default)]
    pub echo: bool,
    /// Compression of messages, for clients that offer it.
    #[serde(default)]
    pub deflate: deflate::Settings,
}

pub(super) fn listen_default() -> Vec<SocketAddr> {
    vec![SocketAddr::from(([0, 0, 0, 0], 443)), SocketAddr::from(([0, 0, 0, 0], 8765))]
}

fn yes() -> bool {
    true
}

fn paths_default() -> Vec<String> {
    vec!["/".into(), "/ws".into()]
}

fn max_frame_default() -> usize {
    DEFAULT_MAX_FRAME
}

fn ping_interval_default() -> u64 {
    20
}

fn max_connections_default() -> usize {
    10_000
}

fn handshake_default() -> u64 {
    10_000
}

impl ServiceSection {
    /// How long TLS and the request for the upgrade may take.
    pub fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.handshake_timeout_ms)
    }
}

impl ServiceSection {
    fn check_front(&self) -> Result<(), (&'static str, String)> {
        if self.auto_cert && self.cert.is_some() {
            return Err((
                "auto_cert",
                "makes a certificate for development, and cert is there too; give one".into(),
            ));
        }
        if self.verify_client && self.ca_file.is_none() {
            return Err(("verify_client", "needs ca_file: the CAs whose certificates are let in".into()));
        }
        if !self.tls && (self.auto_cert || self.cert.is_some() || self.ca_file.is_some()) {
            return Err((
                "tls",
                "is off, and then certificates are no use; leave cert, auto_cert and ca_file out".into(),
            ));
        }
        self.proxy.check()?;
        self.http.check()
    }

    /// The key at fault, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        match (&self.secret_file, &self.secret_env, self.auth) {
            (Some(_), Some(_), _) => {
                return Err(("secret_file", "secret_env is there too; give one of the two".into()));
            }
            (None, None, true) if self.jwks_file.is_none() => {
                let why = "is missing, and tokens can't be checked without, or without jwks_file; \
                           make one with: head -c 48 /dev/urandom | base64 > FILE";
                return Err(("secret_file", why.into()));
            }
            _ => {}
        }
        if self.cert.is_some() != self.key.is_some() {
            return Err(("cert", "goes with key; give both or none".into()));
        }
        if self.listen.is_empty() {
            return Err(("listen", "is empty".into()));
        }
        self.check_front()?;
        let bounds = [
            ("max_frame", self.max_frame as u64, 1024, 16 << 20),
            ("ping_interval_s", self.ping_interval_s, 1, 600),
            ("ping_timeout_s", self.ping_timeout_s.unwrap_or(1), 1, 600),
            ("max_connections", self.max_connections as u64, 1, 1_000_000),
            ("handshake_timeout_ms", self.handshake_timeout_ms, 100, 600_000),
        ];
        for (key, value, low, high) in bounds {
            if !(low..=high).contains(&value) {
                return Err((key, format!("{value} is not from {low} to {high}")));
            }
        }
        self.deflate.check()?;
        if self.echo && self.paths.iter().any(|path| path == echo::PATH) {
            return Err(("paths", format!("{} is taken by echo; leave one of the two out", echo::PATH)));
        }
        match self.paths.iter().find(|path| !path.starts_with('/')) {
            Some(path) => Err(("paths", format!("{path:?} must begin with a '/'"))),
            None => Ok(()),
        }
    }
}
