//! Who may do what in which room, and how many may be there: a namespace's policy, as its entrance knows it.

use std::fmt;
use std::sync::Arc;

use super::auth::Identity;
use crate::wire::ids::RoomName;

/// What somebody wants to do in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoomAction {
    /// Subscribe, and ask for members and history.
    Read,
    /// Publish.
    Write,
}

type Policy = dyn Fn(Option<&Identity>, RoomAction, &RoomName) -> bool + Send + Sync;

/// A namespace's policy for rooms. Without one everybody in the namespace may read and write.
#[derive(Clone, Default)]
pub struct RoomRules {
    policy: Option<Arc<Policy>>,
    most: Option<u32>,
}

impl RoomRules {
    /// Asks `policy` for each frame; what it denies is refused as `forbidden`.
    pub fn new(
        policy: impl Fn(Option<&Identity>, RoomAction, &RoomName) -> bool + Send + Sync + 'static,
    ) -> RoomRules {
        RoomRules { policy: Some(Arc::new(policy)), most: None }
    }

    /// The same, with so many agents in a room at most; what its node serves without that limit stays without it.
    pub fn with_most(self, most: Option<u32>) -> RoomRules {
        RoomRules { most, ..self }
    }

    /// How many agents may be in a room; `None`: any number.
    pub fn most(&self) -> Option<u32> {
        self.most
    }

    /// Whether it may.
    pub fn allow(&self, identity: Option<&Identity>, action: RoomAction, room: &RoomName) -> bool {
        self.policy.as_ref().is_none_or(|policy| policy(identity, action, room))
    }
}

impl fmt::Debug for RoomRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.policy.is_some() { "RoomRules(policy)" } else { "RoomRules(all)" })
    }
}
