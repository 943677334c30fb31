//! Table `office_retentions`: one row an office that does not keep everything for ever.

use mi_kernel::{OfficeId, Time};
use mi_store::{DbResult, OfficeConn, PlatformConn, exec, scalar_one, scalars};

/// Offices whose turn it is, the longest waiting first. Spans offices: it finds the ones to work on.
pub(super) async fn retention_due(conn: &mut PlatformConn, now: Time, limit: i64) -> DbResult<Vec<OfficeId>> {
    scalars!(conn, "SELECT office_id FROM office_retentions WHERE due_at <= $1 ORDER BY due_at LIMIT $2", now, limit)
}

/// The time by the database's clock; none: it has no clock of its own.
pub(super) async fn told(conn: &mut PlatformConn) -> DbResult<Option<Time>> {
    let sql = conn.pick("SELECT NULL", "SELECT clock_timestamp()");
    scalar_one!(conn, sql)
}

/// Has the office looked at from this time on.
pub(super) async fn retention_put(tx: &mut OfficeConn, due_at: Time) -> DbResult<()> {
    let sql = "INSERT INTO office_retentions (office_id, due_at) VALUES ($1, $2)
         ON CONFLICT (office_id) DO UPDATE SET due_at = excluded.due_at";
    exec!(tx, sql, due_at).map(drop)
}

/// When the office is next looked at, if it still is.
pub(super) async fn retention_next(tx: &mut OfficeConn, due_at: Time) -> DbResult<()> {
    exec!(tx, "UPDATE office_retentions SET due_at = $2 WHERE office_id = $1", due_at).map(drop)
}

/// Has the office looked at no longer.
pub(super) async fn retention_delete(tx: &mut OfficeConn) -> DbResult<()> {
    exec!(tx, "DELETE FROM office_retentions WHERE office_id = $1").map(drop)
}
