//! The presets: the files of `deploy/services`, compiled in, so that an operator reads what is in force.

use std::path::Path;

use trishula::config::{Error, load_text};

use super::service::{Given, ServiceSection};

/// Name and text of each.
const PRESETS: [(&str, &str); 8] = [
    ("trishula", include_str!("../../../deploy/services/trishula.toml")),
    ("session-buddy", include_str!("../../../deploy/services/session-buddy.toml")),
    ("mahavishnu", include_str!("../../../deploy/services/mahavishnu.toml")),
    ("crackerjack", include_str!("../../../deploy/services/crackerjack.toml")),
    ("akosha", include_str!("../../../deploy/services/akosha.toml")),
    ("dhruva", include_str!("../../../deploy/services/dhruva.toml")),
    ("excalidraw-mcp", include_str!("../../../deploy/services/excalidraw-mcp.toml")),
    ("fastblocks", include_str!("../../../deploy/services/fastblocks.toml")),
];

/// The names of all.
pub fn names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|(name, _)| *name)
}

/// What the preset of this name says; `None`: there is none.
///
/// # Errors
///
/// Its file is wrong, which a test rules out.
pub(super) fn find(name: &str) -> Option<Result<Given, Error>> {
    let (name, text) = PRESETS.iter().find(|(known, _)| *known == name)?;
    let place = Path::new("deploy/services").join(format!("{name}.toml"));
    Some(load_text(&place, (*text).to_owned(), std::iter::empty(), Vec::new()))
}

/// The service that a preset alone makes; `None`: there is none of this name.
pub fn section(name: &str) -> Option<ServiceSection> {
    Given::default().settle(Some(find(name)?.ok()?)).ok()
}
