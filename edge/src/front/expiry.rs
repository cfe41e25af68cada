//! When the certificates end that services show their clients.

use std::path::Path;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use trishula::identity::info;
use trishula::identity::live::ReloadableCert;
use trishula::rt::clock;

/// Fewer days than this are warned of.
pub const WARNING_DAYS: i64 = 30;
/// What to do about it.
pub const REMEDY: &str = "renew it (certbot renew; or one of the mesh's own by: trishula cert renew), the edge takes the new files by itself";

/// Whole days that a certificate still holds, rounded down; negative once it has ended. `None`: its file can't be read.
pub fn days_left(certificate: &ReloadableCert) -> Option<i64> {
    end_of(certificate.paths().0).map(days_until)
}

/// When the first certificate of a file ends. `None`: the file can't be read.
pub fn end_of(path: &Path) -> Option<OffsetDateTime> {
    let shown = info::describe(&std::fs::read(path).ok()?, None, clock::wall().into()).ok()?;
    OffsetDateTime::parse(&shown.not_after, &Rfc3339).ok()
}

/// Whole days until then, rounded down; negative once it is past.
pub fn days_until(end: OffsetDateTime) -> i64 {
    (end - OffsetDateTime::from(clock::wall())).whole_seconds().div_euclid(24 * 3600)
}
