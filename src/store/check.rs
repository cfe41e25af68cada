//! The full check of a start, in the background: every page, every index, every row.

use std::path::Path;

use rusqlite::InterruptHandle;
use tokio::sync::watch;

use super::file;
use super::health::{Checked, Health};
use crate::metrics;

/// Starts it; the handle ends it early. `None`: the file can't be opened for it, which was said.
pub(super) fn start(path: &Path, health: watch::Sender<Health>) -> std::io::Result<Option<InterruptHandle>> {
    let connection = match file::connect_to_read(path) {
        Ok(connection) => connection,
        Err(why) => {
            tell(&health, Checked::Failed(why.to_string()));
            return Ok(None);
        }
    };
    let handle = connection.get_interrupt_handle();
    std::thread::Builder::new().name("store.check".into()).spawn(move || {
        let checked = match file::check(&connection, "integrity_check") {
            Ok(None) => Checked::Whole,
            Ok(Some(found)) => Checked::Damaged(found),
            Err(why) => Checked::Failed(why.to_string()),
        };
        tell(&health, checked);
    })?;
    Ok(Some(handle))
}

fn tell(health: &watch::Sender<Health>, checked: Checked) {
    let word = match &checked {
        Checked::Whole => "whole",
        Checked::Damaged(found) => {
            tracing::error!(
                found,
                "the full check of the store found damage; stop the node and see: trishula store salvage"
            );
            "damaged"
        }
        Checked::Failed(why) => {
            tracing::warn!(why, "the full check of the store did not come to an end");
            "failed"
        }
    };
    metrics::STORE_CHECKS.with_label_values(&[word]).inc();
    health.send_modify(|health| health.checked = Some(checked));
}
