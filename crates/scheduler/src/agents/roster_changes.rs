//! Table `roster_changes`: which offices' agents changed lately, as the task queue knows them. Triggers on `agents` fill it.

use mi_kernel::OfficeId;
use mi_store::{Db, DbResult, PlatformConn, exec, one, scalar_one, scalars};

/// For how long it is known which. Rows twice as old are cleared away.
const KEPT_MS: i64 = 10 * 60 * 1000;
/// Most offices of an answer.
const OFFICES: i64 = 1000;
/// Rows deleted in one transaction.
const PART: i64 = 1000;

/// What changed.
pub(crate) struct Changed {
    pub(crate) offices: Vec<OfficeId>,
    /// When it was before they were looked for: Unix milliseconds, by the database's clock.
    pub(crate) now_ms: i64,
    /// What was visible then: a snapshot of transactions, or the last row's position.
    pub(crate) position: String,
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

/// Offices of which a change became visible since an earlier answer, each change once. A change belongs to the transaction that
/// made it: by its time, one that is committed late would be missed. Spans offices: so does whoever asks.
pub(crate) async fn changed_since(conn: &mut PlatformConn, since_ms: i64, position: &str) -> DbResult<Changed> {
    let before = now_ms(conn).await?;
    let seen = Some(position).filter(|position| !position.is_empty());
    // A database that was restored gives numbers again: what comes after these was not seen.
    let sql = conn.pick(
        "SELECT CAST(s.seq AS TEXT), coalesce(CAST($1 AS INTEGER) > s.seq, TRUE)
         FROM (SELECT coalesce(max(seq), 0) AS seq FROM sqlite_sequence WHERE name = 'roster_changes') AS s",
        "SELECT pg_current_snapshot()::text,
             coalesce(pg_snapshot_xmax($1::pg_snapshot) > pg_snapshot_xmax(pg_current_snapshot()), TRUE)",
    );
    let (now, is_unknown): (String, bool) = one!(conn, sql, seen)?;
    let mut changed = Changed { offices: Vec::new(), now_ms: before, position: now, all: true };
    if is_unknown || since_ms < before - KEPT_MS {
        return Ok(changed);
    }
    let sql = conn.pick(
        "SELECT DISTINCT office_id FROM roster_changes WHERE position > CAST($1 AS INTEGER) LIMIT $2",
        "SELECT DISTINCT office_id FROM roster_changes WHERE changed_in >= pg_snapshot_xmin($1::pg_snapshot)
             AND NOT pg_visible_in_snapshot(changed_in, $1::pg_snapshot) LIMIT $2",
    );
    let offices: Vec<OfficeId> = scalars!(conn, sql, position, OFFICES + 1)?;
    changed.all = i64::try_from(offices.len()).is_ok_and(|found| found > OFFICES);
    if !changed.all {
        changed.offices = offices;
    }
    Ok(changed)
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
