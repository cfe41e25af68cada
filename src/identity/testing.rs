//! What the tests of this module share.

use std::sync::Arc;

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use time::{Duration, OffsetDateTime};

use super::Role;
use super::tls::Clock;
use super::trust::unix_time;
use crate::wire::ids::NodeName;

/// When the tests take place: noon of 2026-10-01, UTC.
pub const NOW: OffsetDateTime =
    OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::days(20_727)).saturating_add(Duration::hours(12));

pub fn name(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub fn node(node: &str) -> Role {
    Role::Node(name(node))
}

pub fn edge(node: &str) -> Role {
    Role::Edge(name(node))
}

#[derive(Debug)]
struct Stopped(UnixTime);

impl TimeProvider for Stopped {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

/// A clock that stands.
pub fn clock_at(moment: OffsetDateTime) -> Clock {
    Arc::new(Stopped(unix_time(moment)))
}
