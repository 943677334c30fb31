//! Changes of the drive that are kept no longer.

use mi_kernel::{Error, Result};
use mi_tenancy::retention::{Log, expired};

use super::model::Change;

/// The changes of an office's drive.
pub const HISTORY: Log = Log {
    entries: "changes of the drive",
    kept_for: |settings| settings.drive_change_retention_seconds,
    oldest: "SELECT revision, modified_at FROM drive_changes WHERE office_id = $1 ORDER BY revision LIMIT $2",
    delete: "DELETE FROM drive_changes WHERE office_id = $1 AND revision <= $2",
};

/// Refuses to go on after a place when changes behind it are gone. Revisions have no gaps, so the first one tells.
pub(super) fn refuse_gap(after: i64, changes: &[Change]) -> Result<()> {
    match changes.first().map(|first| first.file.revision - 1) {
        Some(kept_after) if kept_after > after => Err(gone(kept_after)),
        _ => Ok(()),
    }
}

/// The refusal of a place before this one, from which on changes are kept.
pub(super) fn gone(kept_after: i64) -> Error {
    expired(format!(
        "changes up to cursor {kept_after} are no longer kept, as the office's drive_change_retention says; list the files, \
         and go on after that cursor"
    ))
}
