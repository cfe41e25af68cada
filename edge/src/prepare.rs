//! What a configuration needs to run: secrets, certificates, identity, ports. `check` finds here what `run`
//! would fall over.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use trishula::gateway::auth::{ANONYMOUS, Guests, Identity, Pattern, Verifier};
use trishula::gateway::session::{Opening, Settings};
use trishula::identity::bundle::{Bundle, PUBLIC_CERTIFICATE, PUBLIC_KEY};
use trishula::identity::{self, RoleKind};
use trishula::link::wss::Outward;
use trishula::rt::clock;

use crate::config::{DialectName, EdgeConfig, ServiceSection};
use crate::dialect::SERVICE_AGENT;
use crate::front::auto_cert;
use crate::front::measured::Series;
use crate::front::secured::Secured;
use crate::trust::{self, Watched};

/// Connections that the system may hold for us before we take them.
const BACKLOG: u32 = 1024;

/// Why an edge can't start. Each says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What tokens of a service are checked by.
    #[error("service {service}: {why}")]
    Trust {
        /// Which.
        service: String,
        /// What is wrong with it.
        why: trust::Error,
    },
    /// The certificate or key of a service, or whose certificates it takes.
    #[error("service {service}: {why}")]
    Certificate {
        /// Which.
        service: String,
        /// What is wrong with it.
        why: identity::Error,
    },
    /// The identity for the link to the node.
    #[error("the edge's identity: {0}")]
    Identity(#[from] identity::Error),
    /// Whom to believe of other machines' edges.
    #[error("[uplink] fallback_ca: {0}")]
    Fallback(identity::Error),
    /// A port that somebody has.
    #[error(
        "{address} is in use: by this edge if it runs already (then look at the rest with: trishula-edge check --running), or by another \
         program; see which with: ss -ltnp 'sport = :{}'; stop that, or listen elsewhere", .address.port()
    )]
    InUse {
        /// Where.
        address: SocketAddr,
    },
    /// A port below 1024 without the right to it.
    #[error(
        "{address} may not be listened on: ports below 1024 need a right that this user lacks; use the systemd unit, \
             or: sudo setcap cap_net_bind_service=+ep $(command -v trishula-edge)"
    )]
    Privileged {
        /// Where.
        address: SocketAddr,
    },
    /// Any other trouble with a listener.
    #[error("{address} can't be listened on: {why}; see this machine's addresses with: ip addr")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        why: io::Error,
    },
    /// The socket for the link to the node.
    #[error("no UDP socket for the link to the node: {0}")]
    Endpoint(io::Error),
}

impl Error {
    /// Whether the configuration is to blame, rather than the moment.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Error::Trust { .. } | Error::Certificate { .. } | Error::Identity(_))
    }
}

/// One service, ready to be listened for.
#[derive(Debug)]
pub struct Prepared {
    /// As configured.
    pub section: ServiceSection,
    /// Its TLS, the files of which may be renewed while it is in use; `None`: it is served without.
    pub tls: Option<Arc<Secured>>,
    /// By what its tokens are checked, if they are.
    pub trust: Option<Watched>,
    /// How its sessions begin.
    pub opening: Opening,
}

/// Reads what the services need.
pub fn services(config: &EdgeConfig) -> Result<Vec<Prepared>, Error> {
    let services = config.services.iter().map(|section| service(config, section));
    let services: Vec<Prepared> = services.collect::<Result<_, Error>>()?;
    for prepared in &services {
        let Some(verifier) = &prepared.opening.verifier else { continue };
        let rules = config.rules.iter().filter(|rule| rule.to == prepared.section.name);
        let guests = rules.filter_map(|rule| {
            let mut others = services.iter().filter(|other| other.section.name == rule.from);
            let home = others.find_map(|other| Some(other.opening.verifier.as_ref()?.own().clone()))?;
            Some(Guests { home, permissions: rule.permissions.clone(), grants: rule.grants.clone() })
        });
        verifier.let_in(guests.collect());
    }
    Ok(services)
}

/// Reads what one service needs.
pub fn service(config: &EdgeConfig, section: &ServiceSection) -> Result<Prepared, Error> {
    let name = section.name.to_string();
    let tls = encryption(config, section)
        .map_err(|why| Error::Certificate { service: name.clone(), why })?
        .map(Arc::new);
    let trust = Watched::load(section).map_err(|why| Error::Trust { service: name, why })?;
    let verifier = trust.as_ref().map(|watched| Arc::new(Verifier::of(watched.own.clone())));
    let identity = (!section.auth).then(|| stranger(section));
    let settings = Settings {
        max_frame: section.max_frame,
        ping_interval: Duration::from_secs(section.ping_interval_s),
        ping_timeout: section.ping_timeout_s.map(Duration::from_secs),
        rooms: section.room_rules(),
        room_times: Some(Series::of(&section.name).room_times()),
        close_within: Duration::from_secs(section.close_timeout_s),
        ..Settings::default()
    };
    let opening =
        Opening { namespace: section.name.clone(), identity, verifier, settings: Arc::new(settings) };
    Ok(Prepared { section: section.clone(), tls, trust, opening })
}

/// Who a client is without a token, where it needs none. It is not `service`, whose answers all believe; but where no
/// token is read nobody could be, and where all is open to everybody anyhow, anybody may.
fn stranger(section: &ServiceSection) -> Identity {
    let namespace = section.name.clone();
    let open = section.anonymous_may_all() && !section.reads_tokens();
    match section.dialect {
        DialectName::Mcp | DialectName::SessionBuddy if !open => {
            Identity::stranger(namespace, Pattern::Connection(ANONYMOUS.into()))
        }
        // A client of the relay says itself who it is.
        DialectName::Auto if !open => Identity::stranger(namespace, Pattern::Except(SERVICE_AGENT.into())),
        _ => Identity::anybody(namespace),
    }
}

/// The TLS of a service; `None`: it has none.
fn encryption(edge: &EdgeConfig, section: &ServiceSection) -> Result<Option<Secured>, identity::Error> {
    if !section.tls {
        if section.listen.iter().any(|at| !at.ip().is_loopback()) {
            let service = section.name.as_str();
            tracing::warn!(
                service,
                "tls = false, and it listens for other machines: whoever is on the way reads and changes all"
            );
        }
        return Ok(None);
    }
    let fallback =
        |path: &Option<PathBuf>, file: &str| path.clone().unwrap_or_else(|| edge.identity.dir.join(file));
    let (certificate, key) = match section.auto_cert {
        true => auto_cert::files(
            &edge.identity.dir,
            section.name.as_str(),
            &section.listen,
            clock::wall().into(),
        )?,
        false => (fallback(&section.cert, PUBLIC_CERTIFICATE), fallback(&section.key, PUBLIC_KEY)),
    };
    Secured::open(&certificate, &key, section.policy(), section.http.http2).map(Some)
}

/// The way out through other machines' edges.
///
/// # Errors
///
/// The configured file holds no CAs.
pub fn outward(config: &EdgeConfig) -> Result<Outward, Error> {
    Outward::from_env(config.uplink.fallback_ca.as_deref()).map_err(Error::Fallback)
}

/// Reads who the edge is.
pub fn bundle(config: &EdgeConfig) -> Result<Bundle, Error> {
    Ok(Bundle::load(&config.identity.dir, RoleKind::Edge, clock::wall().into())?)
}

/// Listens. A port that was in use a moment ago by an edge that has ended can be taken at once.
pub fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|why| match why.kind() {
        io::ErrorKind::AddrInUse => Error::InUse { address },
        io::ErrorKind::PermissionDenied => Error::Privileged { address },
        _ => Error::Listen { address, why },
    })
}
