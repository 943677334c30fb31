//! Table `roster_changes`: which offices' agents changed lately, as the task queue knows them. Triggers on `agents` fill it.

use std::time::Duration;

use mi_kernel::OfficeId;
use mi_store::{Db, DbResult, PlatformConn, exec, scalar_one, scalars};

/// For how long it is known which. Rows twice as old are cleared away.
const KEPT_MS: i64 = 10 * 60 * 1000;
/// For how long one row serves an office: the same stands in the triggers.
const SERVES_MS: i64 = 10 * 1000;
/// Most offices of an answer.
const OFFICES: i64 = 1000;
/// Rows deleted in one transaction.
const PART: i64 = 1000;

/// What changed.
pub(crate) struct Changed {
    pub(crate) offices: Vec<OfficeId>,
    /// When it was before they were looked for.
    pub(crate) now_ms: i64,
    /// Any office may have: there are too many, or it is no longer known which.
    pub(crate) all: bool,
}

/// Unix milliseconds, by the database's clock.
async fn now_ms(conn: &mut PlatformConn) -> DbResult<i64> {
    let sql = conn.pick(
        "SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)",
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint",
    );
    scalar_one!(conn, sql)
}

/// Offices that changed since a time, by the database's clock, or whose change became visible since then, at most `overlap`
/// late. Spans offices: so does whoever asks.
pub(crate) async fn changed_since(conn: &mut PlatformConn, since_ms: i64, overlap: Duration) -> DbResult<Changed> {
    let now_ms = now_ms(conn).await?;
    // A clock that was set back has stamped what comes next with times of before.
    if since_ms > now_ms || since_ms < now_ms - KEPT_MS {
        return Ok(Changed { offices: Vec::new(), now_ms, all: true });
    }
    let sql = "SELECT DISTINCT office_id FROM roster_changes WHERE changed_ms >= $1 LIMIT $2";
    let from = since_ms - i64::try_from(overlap.as_millis()).unwrap_or(KEPT_MS) - SERVES_MS;
    let mut offices: Vec<OfficeId> = scalars!(conn, sql, from, OFFICES + 1)?;
    let all = i64::try_from(offices.len()).is_ok_and(|found| found > OFFICES);
    if all {
        offices.clear();
    }
    Ok(Changed { offices, now_ms, all })
}

/// Forgets what is too old to be asked for.
pub(crate) async fn forget_old(db: &Db) -> DbResult<()> {
    loop {
        let mut tx = db.platform().begin().await?;
        let before = now_ms(&mut tx).await? - 2 * KEPT_MS;
        let sql = "DELETE FROM roster_changes WHERE (changed_ms, office_id) IN
             (SELECT changed_ms, office_id FROM roster_changes WHERE changed_ms < $1 ORDER BY changed_ms LIMIT $2)";
        let deleted = exec!(tx, sql, before, PART)?;
        tx.commit().await?;
        if deleted < PART {
            return Ok(());
        }
    }
}
