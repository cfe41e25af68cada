//! Who may do what in which rooms: data, by service. What no rule covers is denied.

use serde::Deserialize;
use trishula::wire::ids::RoomName;

/// Stands for everybody with a good token, in a list of permissions.
pub const ANYBODY: &str = "*";

/// What somebody wants with a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Subscribe, members, history.
    Read,
    /// Publish.
    Write,
}

/// Somebody, with permissions.
#[derive(Debug, Clone, Copy)]
pub enum Who<'a> {
    /// With a good token.
    Known(&'a [String]),
    /// Without one, where none is needed.
    Stranger(&'a [String]),
}

/// `[[service.room]]`: who may do what in some rooms. Any one of the permissions will do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoomRule {
    /// A room, or how its name begins and `*`.
    pub pattern: String,
    /// Subscribe, and ask for members and history; `*`: everybody.
    #[serde(default)]
    pub read: Vec<String>,
    /// Publish; `*`: everybody.
    #[serde(default)]
    pub write: Vec<String>,
    /// Admins, and nobody else.
    #[serde(default)]
    pub admin_only: bool,
}

impl RoomRule {
    /// Whether its pattern can cover anything.
    pub fn is_good(&self) -> bool {
        let beginning = self.pattern.strip_suffix('*').unwrap_or(&self.pattern);
        self.pattern == "*" || RoomName::new(&format!("{beginning}x")).is_ok()
    }

    /// How much of a room's name it names; `None`: another room is meant.
    fn fits(&self, room: &str) -> Option<usize> {
        match self.pattern.strip_suffix('*') {
            Some(beginning) => room.starts_with(beginning).then_some(beginning.len()),
            // The whole name says more than any beginning.
            None => (self.pattern == room).then_some(usize::MAX),
        }
    }
}

/// The rules of one service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    admin: Vec<String>,
    lenient: bool,
    rooms: Vec<RoomRule>,
}

impl Access {
    /// `admin`: permissions that open every room; `lenient`: `Service: Read` is the same as `service:read`.
    pub fn new(admin: Vec<String>, lenient: bool, rooms: Vec<RoomRule>) -> Access {
        Access { admin, lenient, rooms }
    }

    /// Where nothing is said: every room is everybody's of the namespace, but those of admins.
    pub fn open_rooms() -> Vec<RoomRule> {
        let rule = |pattern: &str, who: &[&str], admin_only| {
            let who: Vec<String> = who.iter().map(|who| (*who).to_owned()).collect();
            RoomRule { pattern: pattern.into(), read: who.clone(), write: who, admin_only }
        };
        vec![rule("admin*", &[], true), rule("*", &[ANYBODY], false)]
    }

    /// Whether somebody with these permissions may do this. The rule that names most of the room decides.
    pub fn allows(&self, who: Who<'_>, action: Action, room: &str) -> bool {
        let (Who::Known(permissions) | Who::Stranger(permissions)) = who;
        let known = matches!(who, Who::Known(_));
        if self.has_any(permissions, &self.admin) {
            return true;
        }
        let fitting = self.rooms.iter().filter_map(|rule| Some((rule.fits(room)?, rule)));
        let Some((_, rule)) = fitting.max_by_key(|(length, _)| *length) else { return false };
        let enough = if action == Action::Read { &rule.read } else { &rule.write };
        let anybody = known && enough.iter().any(|who| who == ANYBODY);
        !rule.admin_only && (anybody || self.has_any(permissions, enough))
    }

    /// Whether one of the permissions is among those that are enough.
    pub fn has_any<T: AsRef<str>>(&self, permissions: &[String], enough: &[T]) -> bool {
        permissions.iter().any(|given| {
            let plain: String;
            let given = if self.lenient {
                plain = given.to_lowercase().split_whitespace().collect();
                &plain
            } else {
                given
            };
            enough.iter().any(|enough| enough.as_ref() == given)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(pattern: &str, read: &[&str], admin_only: bool) -> RoomRule {
        let read = read.iter().map(|who| (*who).to_owned()).collect();
        RoomRule { pattern: pattern.into(), read, write: Vec::new(), admin_only }
    }

    fn may(access: &Access, permissions: &[&str], room: &str) -> bool {
        let permissions: Vec<String> = permissions.iter().map(|p| (*p).to_owned()).collect();
        access.allows(Who::Known(&permissions), Action::Read, room)
    }

    #[test]
    fn the_rule_that_says_most_of_the_name_decides_and_none_denies() {
        // covers B05
        let rules = vec![
            rule("pool:*", &["pool:read"], false),
            rule("pool:secret*", &["pool:secrets"], false),
            rule("pool:p1", &[ANYBODY], false),
        ];
        let access = Access::new(vec!["admin".into()], false, rules);
        assert!(may(&access, &["pool:read"], "pool:p2") && !may(&access, &[], "pool:p2"));
        assert!(
            !may(&access, &["pool:read"], "pool:secret-1")
                && may(&access, &["pool:secrets"], "pool:secret-1")
        );
        assert!(may(&access, &[], "pool:p1"));
        assert!(!access.allows(Who::Stranger(&[]), Action::Read, "pool:p1"), "everybody has a token");
        assert!(!may(&access, &["pool:read"], "workflow:1") && may(&access, &["admin"], "workflow:1"));
        assert!(!may(&access, &["superadmin"], "workflow:1"), "no search within a permission");
        assert!(!access.allows(Who::Known(&["pool:read".into()]), Action::Write, "pool:p2"));
    }

    #[test]
    fn rooms_of_admins_are_denied_where_nothing_is_said() {
        // covers B05
        let access = Access::new(vec!["admin".into()], false, Access::open_rooms());
        assert!(may(&access, &[], "deploys") && !may(&access, &["read"], "admin:controls"));
        assert!(may(&access, &["admin"], "admin:controls"));
        let opened = Access::new(Vec::new(), false, vec![rule("admin:*", &[ANYBODY], true)]);
        assert!(!may(&opened, &["admin"], "admin:controls"), "admins are who the service says");
    }
}
