//! The full check of a start, in the background: every page, every index, every row.

use std::path::{Path, PathBuf};

use rusqlite::InterruptHandle;
use tokio::sync::watch;

use super::file;
use super::health::{self, Checked, Health};
use crate::metrics;

/// Starts it; the handle ends it early. `None`: the file can't be opened for it, which was said.
pub(super) fn start(path: &Path, health: watch::Sender<Health>) -> std::io::Result<Option<InterruptHandle>> {
    let connection = match file::connect_to_read(path) {
        Ok(connection) => connection,
        Err(why) => {
            tell(&health, path, Checked::Failed(why.to_string()));
            return Ok(None);
        }
    };
    let handle = connection.get_interrupt_handle();
    let path: PathBuf = path.into();
    std::thread::Builder::new().name("store.check".into()).spawn(move || {
        let checked = match file::check(&connection, "integrity_check") {
            Ok(None) => Checked::Whole,
            Ok(Some(found)) => Checked::Damaged(found),
            Err(why) => Checked::Failed(why.to_string()),
        };
        tell(&health, &path, checked);
    })?;
    Ok(Some(handle))
}

/// Damage ends the writing before anybody is told of it: see `Writer::commit`.
fn tell(health: &watch::Sender<Health>, file: &Path, checked: Checked) {
    let word = checked.word();
    match &checked {
        Checked::Whole => {}
        Checked::Damaged(found) => health::found_damaged(health, file, found),
        Checked::Failed(why) => tracing::warn!(why, "the full check of the store did not come to an end"),
    }
    metrics::STORE_CHECKS.with_label_values(&[word]).inc();
    health.send_modify(|health| health.checked = Some(checked));
}
