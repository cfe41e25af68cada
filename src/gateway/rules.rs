//! Who may do what in which room: a namespace's policy, as its entrance knows it.

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
pub struct RoomRules(Option<Arc<Policy>>);

impl RoomRules {
    /// Asks `policy` for each frame; what it denies is refused as `forbidden`.
    pub fn new(
        policy: impl Fn(Option<&Identity>, RoomAction, &RoomName) -> bool + Send + Sync + 'static,
    ) -> RoomRules {
        RoomRules(Some(Arc::new(policy)))
    }

    /// Whether it may.
    pub fn allow(&self, identity: Option<&Identity>, action: RoomAction, room: &RoomName) -> bool {
        self.0.as_ref().is_none_or(|policy| policy(identity, action, room))
    }
}

impl fmt::Debug for RoomRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "RoomRules(policy)" } else { "RoomRules(all)" })
    }
}
