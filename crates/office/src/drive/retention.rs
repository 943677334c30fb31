//! Changes of the drive that are kept no longer: always the oldest, so that a place to go on from is complete or refused.

use mi_kernel::{Clock, Error, OfficeId, Result, Time};
use mi_store::{Db, DbResult, OfficeConn, on};

use super::Change;
use crate::retention::{bound, expired, record};

/// Changes that one transaction deletes.
const PART: i64 = 1000;

/// Deletes the oldest changes that are kept no longer: how many, and whether there may be more.
pub(crate) async fn forget_some(db: &Db, office_id: OfficeId, clock: &dyn Clock) -> Result<(usize, bool)> {
    let mut tx = db.office(office_id).begin().await?;
    let Some(bound) = bound(&mut tx, clock, |settings| settings.drive_change_retention_seconds).await? else {
        return Ok((0, false));
    };
    let oldest = change_oldest(&mut tx).await?;
    let full = i64::try_from(oldest.len()) == Ok(PART);
    let old: Vec<i64> = oldest.iter().take_while(|(_, at)| *at < bound.before).map(|(revision, _)| *revision).collect();
    let Some(last) = old.last() else { return Ok((0, false)) };
    change_delete(&mut tx, *last).await?;
    let more = full && old.len() == oldest.len();
    record(tx, "changes of the drive", old.len(), bound).await?;
    Ok((old.len(), more))
}

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

async fn change_oldest(tx: &mut OfficeConn) -> DbResult<Vec<(i64, Time)>> {
    let office = tx.office_id();
    Ok(on!(tx, |c| {
        sqlx::query_as(
            "SELECT revision, modified_at FROM drive_changes WHERE office_id = $1 ORDER BY revision LIMIT $2",
        )
        .bind(office.0)
        .bind(PART)
        .fetch_all(&mut *c)
        .await
    })?)
}

/// Deletes the changes up to this one.
async fn change_delete(tx: &mut OfficeConn, last: i64) -> DbResult<()> {
    let office = tx.office_id();
    on!(tx, |c| {
        sqlx::query("DELETE FROM drive_changes WHERE office_id = $1 AND revision <= $2")
            .bind(office.0)
            .bind(last)
            .execute(&mut *c)
            .await
            .map(drop)
    })?;
    Ok(())
}
