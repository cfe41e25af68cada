//! `[[service]]`: what the file gives, over what its preset says, over the defaults.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use trishula::gateway::rules::{RoomAction, RoomRules};
use trishula::wire::client::DEFAULT_MAX_FRAME;
use trishula::wire::ids::Namespace;

use crate::access::{Access, Action, RoomRule, Who};
use crate::dialect::SERVICE_AGENT;
use crate::dialect::services::Request;
use crate::{deflate, echo, front};

/// Every path, in [`ServiceSection::paths`].
pub const ANY_PATH: &str = "*";
/// Everything, in [`ServiceSection::anonymous_permissions`].
pub const EVERYTHING: &str = "*";

/// What clients of a service speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DialectName {
    /// Our own protocol.
    Trishula,
    /// The envelope of nine keys.
    Mcp,
    /// session-buddy's own messages.
    SessionBuddy,
    /// The relay of the old mesh.
    Relay,
    /// Any of them, by the first frame.
    Auto,
}

/// How a client is refused that may not come in, or not now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Refuse {
    /// By a close code, after the upgrade: some clients give up for ever on an HTTP status.
    Close,
    /// By an HTTP status.
    Http,
}

/// Names each setting once: what a file may give, what is in force, and what holds when nobody says anything.
macro_rules! settings {
    ($($(#[$doc:meta])* $field:ident $(| $alias:literal)*: $type:ty = $default:expr;)*) => {
        /// `[[service]]` as it is in force: one namespace's entrance.
        #[derive(Debug, Clone)]
        pub struct ServiceSection {
            /// The namespace.
            pub name: Namespace,
            /// The preset that it is made by, if by one.
            pub preset: Option<String>,
            $($(#[$doc])* pub $field: $type,)*
        }

        /// `[[service]]` as a file gives it: only what it says.
        #[derive(Debug, Clone, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Given {
            pub(super) name: Option<Namespace>,
            pub(super) preset: Option<String>,
            pub(super) host: Option<IpAddr>,
            pub(super) port: Option<u16>,
            $($(#[serde(alias = $alias)])* pub(super) $field: Option<$type>,)*
        }

        impl Given {
            /// This one's values, and where it has none, those of `below`. Rooms and requests are joined.
            fn over(self, below: Given) -> Given {
                let rooms = joined(&self.room, &below.room, |rule| &rule.pattern);
                let requests = joined(&self.request, &below.request, |request| &request.event);
                let given = Given {
                    name: self.name.or(below.name),
                    preset: self.preset.or(below.preset),
                    host: self.host.or(below.host),
                    port: self.port.or(below.port),
                    $($field: self.$field.or(below.$field),)*
                };
                Given { room: rooms, request: requests, ..given }
            }

            fn settled(self, name: Namespace) -> ServiceSection {
                ServiceSection { name, preset: self.preset, $($field: self.$field.unwrap_or_else(|| $default),)* }
            }
        }
    };
}

settings! {
    /// What its clients speak.
    dialect: DialectName = DialectName::Trishula;
    /// Where it listens.
    listen: Vec<SocketAddr> = listen_default();
    /// Host names that lead to it where a port is shared.
    names: Vec<String> = Vec::new();
    /// Whether it is served by TLS.
    tls | "tls_enabled": bool = true;
    /// Certificate chain, PEM; `public.pem` of the identity when absent.
    cert | "cert_file": Option<PathBuf> = None;
    /// Its key, PEM.
    key | "key_file": Option<PathBuf> = None;
    /// For development: a certificate of a CA of its own is made when there is none.
    auto_cert: bool = false;
    /// Whether only clients with a certificate come in.
    verify_client: bool = false;
    /// CAs of clients' certificates, PEM. Who shows one needs no token.
    ca_file: Option<PathBuf> = None;
    /// Certificates that those CAs took back (RFC 5280), PEM: a list of each.
    crl_file: Option<PathBuf> = None;
    /// Whom such a certificate names.
    client_identity: front::certified::Settings = front::certified::Settings::default();
    /// The proxies before it.
    proxy: front::proxy::Settings = front::proxy::Settings::default();
    /// What browsers are told, and whose pages may connect.
    http: front::headers::Settings = front::headers::Settings::default();
    /// The file with the secret that signs tokens.
    secret_file: Option<PathBuf> = None;
    /// Or the environment variable with it.
    secret_env: Option<String> = None;
    /// Or the credential with it, of those that systemd gives the process: a file in `$CREDENTIALS_DIRECTORY`.
    secret_credential: Option<String> = None;
    /// The same for `key`.
    key_credential: Option<String> = None;
    /// The file with the public keys of others who make tokens (JWK Set).
    jwks_file: Option<PathBuf> = None;
    /// The file with tokens that were taken back.
    revoked_file: Option<PathBuf> = None;
    /// Whether clients need a token at all.
    auth | "require_auth": bool = true;
    /// What a client without a token may do, where it needs none; `*`: everything.
    anonymous_permissions: Vec<String> = Vec::new();
    /// Whether a token must end.
    require_exp: bool = true;
    /// How long a token is good at the most, in seconds from its `iat`; 0: for as long as it says.
    token_expiry_s | "token_expiry": u64 = 0;
    /// Permissions that open every room.
    admin: Vec<String> = vec!["admin".into()];
    /// Whether the permission `admin` opens every room of a service that has other words for it.
    admin_everywhere: bool = false;
    /// Whether case and spaces of permissions do not count.
    lenient_permissions: bool = false;
    /// Who may do what in which rooms; none that covers a room: nobody but admins.
    room: Vec<RoomRule> = Access::open_rooms();
    /// What clients of the envelope may ask of the agent of the service.
    request: Vec<Request> = Vec::new();
    /// Agents in a room at once; 0: no limit.
    max_users_per_room: u32 = 0;
    /// Whether clients of the envelope may publish what their service lists.
    may_publish: bool = false;
    /// How a client is refused.
    refuse: Refuse = Refuse::Http;
    /// Paths on which a WebSocket is served; `*`: all.
    paths: Vec<String> = vec!["/".into(), "/ws".into()];
    /// Largest frame in bytes.
    max_frame | "max_message_size": usize = DEFAULT_MAX_FRAME;
    /// Longest silence before a ping, in seconds.
    ping_interval_s | "ping_interval": u64 = 20;
    /// How long a ping may stay unanswered, in seconds; three heartbeats when absent.
    ping_timeout_s | "ping_timeout": Option<u64> = None;
    /// How long the client may take with its half of a close, in seconds.
    close_timeout_s | "close_timeout": u64 = 2;
    /// Seconds without a frame either way after which a connection is closed; 0: it may be silent for ever.
    connection_timeout_s | "connection_timeout": u64 = 0;
    /// Connections at once.
    max_connections: usize = 10_000;
    /// Connections at once from one address; a quarter when absent, and then not of this machine's own.
    max_connections_per_address: Option<usize> = None;
    /// Frames a second of one connection, and half as many again at once; 0: no limit.
    message_rate_limit: u32 = 0;
    /// Frames a second from one address, in the same way.
    message_rate_limit_per_address: u32 = 0;
    /// Bytes a second of one connection; 0: no limit.
    byte_rate_limit: u32 = 0;
    /// Failed tokens a minute from one address, and as many at once; 0: no limit. 10 when absent, and then not of
    /// this machine's own.
    auth_failures_per_minute: Option<u32> = None;
    /// How long TLS and the request for the upgrade may take.
    handshake_timeout_ms: u64 = 10_000;
    /// Whether `/echo` is served: every message comes back as it came.
    echo: bool = false;
    /// Compression of messages, for clients that offer it.
    deflate: deflate::Settings = deflate::Settings::default();
}

pub(super) fn listen_default() -> Vec<SocketAddr> {
    vec![SocketAddr::from(([0, 0, 0, 0], 443)), SocketAddr::from(([0, 0, 0, 0], 8765))]
}

/// The entries of both; one of the upper ones replaces the lower one of the same name.
fn joined<T: Clone>(
    upper: &Option<Vec<T>>,
    lower: &Option<Vec<T>>,
    name: impl Fn(&T) -> &String,
) -> Option<Vec<T>> {
    let (Some(upper), Some(lower)) = (upper, lower) else { return upper.clone().or(lower.clone()) };
    let others = lower.iter().filter(|below| !upper.iter().any(|own| name(own) == name(below)));
    Some(upper.iter().chain(others).cloned().collect())
}

impl Given {
    /// Joins what a file gives with its preset and the defaults.
    ///
    /// # Errors
    ///
    /// The key at fault, and why.
    pub(super) fn settle(mut self, preset: Option<Given>) -> Result<ServiceSection, (String, String)> {
        let mut below = preset.unwrap_or_default();
        // What a preset gives those without a token is for services where nobody needs one, nor a certificate.
        let certified = self.verify_client.or(below.verify_client).unwrap_or(false);
        if certified || self.auth.or(below.auth).unwrap_or(true) {
            below.anonymous_permissions = None;
        }
        // A preset's share of one address is one of its own number.
        if self.max_connections.is_some() {
            below.max_connections_per_address = None;
        }
        // Who says what signs tokens says all of it.
        let secret =
            self.secret_file.is_some() || self.secret_env.is_some() || self.secret_credential.is_some();
        if secret || self.jwks_file.is_some() {
            self.secret_file = Some(self.secret_file.flatten());
            self.secret_env = Some(self.secret_env.flatten());
            self.secret_credential = Some(self.secret_credential.flatten());
        }
        let moved = self.listen.is_none() && (self.host.is_some() || self.port.is_some());
        let mut joined = self.over(below);
        if moved {
            let usual = joined.listen.iter().flatten().next();
            let (ip, port) = usual.map_or((Ipv4Addr::UNSPECIFIED.into(), 443), |at| (at.ip(), at.port()));
            joined.listen =
                Some(vec![SocketAddr::new(joined.host.unwrap_or(ip), joined.port.unwrap_or(port))]);
        } else if joined.host.is_some() || joined.port.is_some() {
            return Err((
                "host".into(),
                "goes not together with listen; give host and port, or listen".into(),
            ));
        }
        let Some(name) = joined.name.clone() else {
            return Err(("name".into(), "is missing; it is the namespace of the service".into()));
        };
        Ok(joined.settled(name))
    }
}

impl ServiceSection {
    /// A preset names the variable with the secret; where nobody needs a token it need not be set.
    pub(super) fn forget_unset(&mut self, environment: &BTreeMap<String, String>) {
        let unset = self.secret_env.as_ref().is_some_and(|name| !environment.contains_key(name));
        if !self.auth && self.preset.is_some() && unset {
            self.secret_env = None;
        }
    }

    /// Whether there is anything to check tokens by.
    pub fn reads_tokens(&self) -> bool {
        self.secret_file.is_some() || self.secret_env.is_some() || self.jwks_file.is_some()
    }

    /// What it asks of its clients in the handshake.
    pub fn policy(&self) -> front::secured::Policy {
        front::secured::Policy {
            required: self.verify_client,
            ca_file: self.ca_file.clone(),
            crl_file: self.crl_file.clone(),
        }
    }

    /// How long TLS and the request for the upgrade may take.
    pub fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.handshake_timeout_ms)
    }

    /// Who may do what in which rooms.
    pub fn access(&self) -> Access {
        let mut admin = self.admin.clone();
        if self.admin_everywhere {
            admin.push("admin".into());
        }
        Access::new(admin, self.lenient_permissions, self.room.clone())
    }

    /// What its clients may ask of its agent.
    pub fn requests(&self) -> Vec<Request> {
        let every = Request::of_every_service();
        let has_it = self.request.iter().any(|own| own.event == every.event);
        self.request.iter().cloned().chain((!has_it).then_some(every)).collect()
    }

    /// The same for sessions: whoever speaks what, its frames about rooms are compared with it.
    pub fn room_rules(&self) -> RoomRules {
        let (access, all) = (self.access(), self.anonymous_may_all());
        let anonymous = self.anonymous_permissions.clone();
        let most = (self.max_users_per_room > 0).then_some(self.max_users_per_room);
        let rules = RoomRules::new(move |identity, action, room| {
            let action = match action {
                RoomAction::Read => Action::Read,
                RoomAction::Write => Action::Write,
            };
            let Some(identity) = identity else { return false };
            let who = match &identity.agent {
                // The service itself, which feeds its rooms.
                Some(agent) if agent.as_str() == SERVICE_AGENT => return true,
                // A token takes nothing away from what all may without one.
                _ if all => return true,
                Some(_) => Who::Known(&identity.permissions),
                None => Who::Stranger(&anonymous),
            };
            access.allows(who, action, room.as_str())
        });
        rules.with_most(most)
    }

    /// Whether a client without a token may do everything, as on the old servers.
    pub fn anonymous_may_all(&self) -> bool {
        self.anonymous_permissions.iter().any(|given| given == EVERYTHING)
    }

    /// What an operator must not overlook; `None`: nothing.
    pub fn warning(&self) -> Option<String> {
        (!self.auth && self.anonymous_may_all()).then(|| {
            format!(
                "service {}: nobody needs a token, and everybody may do everything (auth = false, \
                 anonymous_permissions = [\"*\"]): whoever reaches its port reads and publishes what he likes; to end \
                 that, say auth = true, or _AUTH_ENABLED=true where an older environment says false",
                self.name
            )
        })
    }

    /// Whether this host name leads to it.
    pub fn is_called(&self, host: &str) -> bool {
        self.names.iter().any(|name| name.eq_ignore_ascii_case(host))
    }

    /// The key at fault, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        match (&self.secret_file, &self.secret_env, self.auth) {
            (Some(_), Some(_), _) => {
                return Err(("secret_file", "secret_env is there too; give one of the two".into()));
            }
            (None, None, true) if self.jwks_file.is_none() => {
                let why = "is missing, and tokens can't be checked without it, secret_credential or jwks_file; \
                           make one with: head -c 48 /dev/urandom | base64 > FILE";
                return Err(("secret_file", why.into()));
            }
            _ => {}
        }
        if self.auth && !self.anonymous_permissions.is_empty() {
            let why = "are for clients without a token, and auth demands one of everybody; say auth = false, or \
                       leave them out";
            return Err(("anonymous_permissions", why.into()));
        }
        if self.cert.is_some() != self.key.is_some() {
            return Err(("cert", "goes with key; give both or none".into()));
        }
        if self.listen.is_empty() {
            let why =
                "is empty; give it an address of this machine, such as \"0.0.0.0:8765\" for all of them";
            return Err(("listen", why.into()));
        }
        self.check_front()?;
        self.check_numbers()?;
        self.deflate.check()?;
        if self.echo && self.paths.iter().any(|path| path == echo::PATH) {
            return Err(("paths", format!("{} is taken by echo; leave one of the two out", echo::PATH)));
        }
        if let Some(rule) = self.room.iter().find(|rule| !rule.is_good()) {
            let why =
                format!("{:?} is no pattern: a name, or its beginning and one '*' at the end", rule.pattern);
            return Err(("room.pattern", why));
        }
        if let Some(request) = self.request.iter().find(|request| !request.is_good()) {
            let why =
                format!("{:?} is none of a service's: it is empty, or the edge answers it", request.event);
            return Err(("request.event", why));
        }
        match self.paths.iter().find(|path| !path.starts_with('/') && *path != ANY_PATH) {
            Some(path) => Err(("paths", format!("{path:?} must begin with a '/', or be \"*\""))),
            None => Ok(()),
        }
    }

    fn check_front(&self) -> Result<(), (&'static str, String)> {
        if self.auto_cert && self.cert.is_some() {
            let why = "makes a certificate for development, and cert is there too; give one";
            return Err(("auto_cert", why.into()));
        }
        if self.verify_client && self.ca_file.is_none() {
            return Err(("verify_client", "needs ca_file: the CAs whose certificates are let in".into()));
        }
        if self.crl_file.is_some() && self.ca_file.is_none() {
            return Err(("crl_file", "needs ca_file: the CAs whose certificates the lists take back".into()));
        }
        if !self.tls && (self.auto_cert || self.ca_file.is_some()) {
            let why = "is off, and then certificates are no use; leave auto_cert and ca_file out";
            return Err(("tls", why.into()));
        }
        self.proxy.check()?;
        self.http.check()
    }

    fn check_numbers(&self) -> Result<(), (&'static str, String)> {
        let bounds = [
            ("max_frame", self.max_frame as u64, 1024, 16 << 20),
            ("ping_interval_s", self.ping_interval_s, 1, 600),
            ("ping_timeout_s", self.ping_timeout_s.unwrap_or(1), 1, 600),
            ("close_timeout_s", self.close_timeout_s, 1, 60),
            ("connection_timeout_s", self.connection_timeout_s, 0, 86_400),
            ("max_connections", self.max_connections as u64, 1, 1_000_000),
            (
                "max_connections_per_address",
                self.max_connections_per_address.unwrap_or(1) as u64,
                1,
                1_000_000,
            ),
            ("max_users_per_room", self.max_users_per_room.into(), 0, 1_000_000),
            ("message_rate_limit", self.message_rate_limit.into(), 0, 1_000_000),
            ("message_rate_limit_per_address", self.message_rate_limit_per_address.into(), 0, 1_000_000),
            ("auth_failures_per_minute", self.auth_failures_per_minute.unwrap_or(0).into(), 0, 10_000),
            ("token_expiry_s", self.token_expiry_s, 0, 315_360_000),
            ("handshake_timeout_ms", self.handshake_timeout_ms, 100, 600_000),
        ];
        for (key, value, low, high) in bounds {
            if !(low..=high).contains(&value) {
                return Err((key, format!("{value} is not from {low} to {high}")));
            }
        }
        if self.byte_rate_limit != 0 && (self.byte_rate_limit as usize) < self.max_frame {
            let why = format!("is less than max_frame, {}: such a frame could never come", self.max_frame);
            return Err(("byte_rate_limit", why));
        }
        Ok(())
    }
}
