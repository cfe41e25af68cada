//! What clients of a service speak: its dialects with their settings, and how fast each client may be.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use trishula::gateway::auth::Identity;
use trishula::rt::clock;

use crate::config::{DialectName, ServiceSection};
use crate::dialect::ids::Random;
use crate::dialect::mcp::Mcp;
use crate::dialect::pace::PerSecond;
use crate::dialect::paced::Paced;
use crate::dialect::relay::{Entry, Relay};
use crate::dialect::services::{self, Service};
use crate::dialect::session_buddy::SessionBuddy;
use crate::dialect::sniff::{Choice, Sniffer, Tongue};
use crate::dialect::{Anonymous, Auth, Dialect, Now, Pace, Settings, User};
use crate::door::Door;

/// What is known of it beforehand.
pub struct Speech {
    choice: Choice,
    dialect: DialectName,
    /// Frames and bytes a second; 0: no limit.
    rates: (u32, u32),
}

impl Speech {
    /// As configured.
    pub fn new(section: &ServiceSection) -> Speech {
        let auth = if section.auth { Auth::Required } else { Auth::Optional };
        let auto = section.dialect == DialectName::Auto;
        let speaks = |name| auto || section.dialect == name;
        let preset = section.preset.as_deref().unwrap_or(section.name.as_str());
        let settings = |service: &'static Service, auth_within| {
            let server = if service.server.is_empty() { section.name.as_str() } else { service.server };
            Arc::new(Settings {
                server: server.into(),
                namespace: section.name.to_string(),
                auth,
                anonymous: match section.anonymous_may_all() {
                    true => Anonymous::Everything,
                    false => Anonymous::Permissions(section.anonymous_permissions.clone()),
                },
                access: section.access(),
                requests: section.requests(),
                may_publish: section.may_publish,
                secure: section.tls,
                rate: section.message_rate_limit,
                max_frame: section.max_frame,
                auth_within,
                ..Settings::new(service)
            })
        };
        let ten = Duration::from_secs(10);
        let choice = Choice {
            trishula: speaks(DialectName::Trishula),
            mcp: speaks(DialectName::Mcp)
                .then(|| settings(Service::preset(preset).unwrap_or(&services::NAMELESS), ten)),
            session_buddy: speaks(DialectName::SessionBuddy)
                .then(|| settings(&services::SESSION_BUDDY, Duration::from_secs(5))),
            relay: speaks(DialectName::Relay).then(|| Entry {
                namespace: section.name.clone(),
                auth,
                auth_within: ten,
                max_frame: section.max_frame,
            }),
        };
        Speech {
            choice,
            dialect: section.dialect,
            rates: (section.message_rate_limit, section.byte_rate_limit),
        }
    }

    /// What its clients speak, where that is one thing.
    pub fn tongue(&self) -> Option<Tongue> {
        match self.dialect {
            DialectName::Trishula => Some(Tongue::Trishula),
            DialectName::Mcp => Some(Tongue::Mcp),
            DialectName::SessionBuddy => Some(Tongue::SessionBuddy),
            DialectName::Relay => Some(Tongue::Relay),
            DialectName::Auto => None,
        }
    }

    /// What a client speaks: `identity` if its request has shown a token, and `ours` if it has said that it speaks our own
    /// protocol.
    pub fn dialect(
        &self,
        door: &Arc<Door>,
        from: SocketAddr,
        identity: Option<&Identity>,
        ours: bool,
    ) -> Dialect {
        let now = Now { micros: clock::micros(), wall_ms: clock::wall_ms() };
        let limits = self.limits(door, from);
        let tongue = if ours { Some(Tongue::Trishula) } else { self.tongue() };
        if tongue == Some(Tongue::Trishula) && !limits.is_any() {
            return Dialect::Trishula;
        }
        let (ids, pace) = (Box::new(Random), Box::new(limits));
        let user = identity.and_then(|identity| {
            let name = identity.agent.as_ref()?.to_string();
            Some(User { name, called: identity.user.clone(), permissions: identity.permissions.clone() })
        });
        match (tongue, &self.choice) {
            (None, choice) => Dialect::Undecided(Box::new(Sniffer::new(choice.clone(), ids, pace, now))),
            (Some(Tongue::Mcp), Choice { mcp: Some(settings), .. }) => {
                Dialect::Mcp(Box::new(Mcp::new(settings.clone(), user, ids, pace, now)))
            }
            (Some(Tongue::SessionBuddy), Choice { session_buddy: Some(settings), .. }) => {
                Dialect::SessionBuddy(Box::new(SessionBuddy::new(settings.clone(), user, ids, pace, now)))
            }
            (Some(Tongue::Relay), Choice { relay: Some(entry), .. }) => {
                Dialect::Relay(Box::new(Relay::new(entry.clone(), user.is_some(), ids, pace, now)))
            }
            _ => Dialect::Paced(Box::new(Paced::new(ids, pace))),
        }
    }

    /// How fast a client may be whose messages are in no dialect.
    pub fn pace(&self, door: &Arc<Door>, from: SocketAddr) -> Box<dyn Pace> {
        Box::new(self.limits(door, from))
    }

    fn limits(&self, door: &Arc<Door>, from: SocketAddr) -> Limits {
        Limits {
            frames: PerSecond::new(self.rates.0),
            bytes: PerSecond::new(self.rates.1),
            of_address: door.frames.is_some().then(|| (door.clone(), from)),
        }
    }
}

/// How fast one client may be: by its own limits, and with all others of its address.
struct Limits {
    frames: Option<PerSecond>,
    bytes: Option<PerSecond>,
    of_address: Option<(Arc<Door>, SocketAddr)>,
}

impl Limits {
    fn is_any(&self) -> bool {
        self.frames.is_some() || self.bytes.is_some() || self.of_address.is_some()
    }
}

impl Pace for Limits {
    fn take(&mut self, micros: u64, bytes: usize) -> Result<(), Duration> {
        if let Some(frames) = &mut self.frames {
            frames.take(micros, bytes)?;
        }
        let units = u32::try_from(bytes).ok().and_then(NonZeroU32::new);
        if let Some((limit, units)) = self.bytes.as_mut().zip(units) {
            limit.take_units(micros, units)?;
        }
        match &self.of_address {
            Some((door, from)) => door.frames.as_ref().map_or(Ok(()), |rates| rates.take(from.ip(), micros)),
            None => Ok(()),
        }
    }
}
