//! Table `office_retentions`: one row an office that does not keep everything for ever.

use mi_kernel::{OfficeId, Time};
use mi_store::{DbResult, OfficeConn, PlatformConn, on};
use uuid::Uuid;

/// Offices whose turn it is, the longest waiting first. Spans offices: it finds the ones to work on.
pub(super) async fn retention_due(conn: &mut PlatformConn, now: Time, limit: i64) -> DbResult<Vec<OfficeId>> {
    let rows: Vec<(Uuid,)> = on!(conn, |c| {
        sqlx::query_as("SELECT office_id FROM office_retentions WHERE due_at <= $1 ORDER BY due_at LIMIT $2")
            .bind(now)
            .bind(limit)
            .fetch_all(&mut *c)
            .await
    })?;
    Ok(rows.into_iter().map(|(id,)| id.into()).collect())
}

/// The time by the database's clock; none: it has no clock of its own.
pub(super) async fn told(conn: &mut PlatformConn) -> DbResult<Option<Time>> {
    let sql = conn.pick("SELECT NULL", "SELECT clock_timestamp()");
    let (told,): (Option<Time>,) = on!(conn, |c| sqlx::query_as(sql).fetch_one(&mut *c).await)?;
    Ok(told)
}

/// Has the office looked at from this time on.
pub(super) async fn retention_put(tx: &mut OfficeConn, due_at: Time) -> DbResult<()> {
    let office = tx.office_id();
    on!(tx, |c| {
        sqlx::query(
            "INSERT INTO office_retentions (office_id, due_at) VALUES ($1, $2)
             ON CONFLICT (office_id) DO UPDATE SET due_at = excluded.due_at",
        )
        .bind(office.0)
        .bind(due_at)
        .execute(&mut *c)
        .await
        .map(drop)
    })?;
    Ok(())
}

/// When the office is next looked at, if it still is.
pub(super) async fn retention_next(tx: &mut OfficeConn, due_at: Time) -> DbResult<()> {
    let office = tx.office_id();
    on!(tx, |c| {
        sqlx::query("UPDATE office_retentions SET due_at = $2 WHERE office_id = $1")
            .bind(office.0)
            .bind(due_at)
            .execute(&mut *c)
            .await
            .map(drop)
    })?;
    Ok(())
}

/// Has the office looked at no longer.
pub(super) async fn retention_delete(tx: &mut OfficeConn) -> DbResult<()> {
    let office = tx.office_id();
    on!(tx, |c| {
        sqlx::query("DELETE FROM office_retentions WHERE office_id = $1")
            .bind(office.0)
            .execute(&mut *c)
            .await
            .map(drop)
    })?;
    Ok(())
}
