//! What an operator decides about sessions.

use std::time::Duration;

use super::{CLOSE_WITHIN, RoomTimes};
use crate::gateway::rules::RoomRules;
use crate::wire::client::DEFAULT_MAX_FRAME;

/// What an operator decides about sessions.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Largest frame in bytes.
    pub max_frame: usize,
    /// How long a client may take to send its AUTH.
    pub auth_within: Duration,
    /// How long it may take to send REGISTER before it is registered as its token's agent.
    pub register_within: Duration,
    /// How long the node may take to register a session before the client is told `unavailable`.
    pub attach_within: Duration,
    /// Longest silence before a ping; the session's own heartbeat may be shorter.
    pub ping_interval: Duration,
    /// How long a ping may stay unanswered; `None`: until three heartbeats are over.
    pub ping_timeout: Option<Duration>,
    /// How long the client may take with its half of a close before the connection is dropped.
    pub close_within: Duration,
    /// Who may do what in which room.
    pub rooms: RoomRules,
    /// Where the times of joining and leaving rooms go.
    pub room_times: Option<RoomTimes>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_frame: DEFAULT_MAX_FRAME,
            auth_within: Duration::from_secs(10),
            register_within: Duration::from_millis(250),
            attach_within: Duration::from_secs(5),
            ping_interval: Duration::from_secs(20),
            ping_timeout: None,
            close_within: CLOSE_WITHIN,
            rooms: RoomRules::default(),
            room_times: None,
        }
    }
}
