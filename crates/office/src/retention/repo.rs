//! Table `office_retentions`: one row an office that does not keep everything for ever.

use mi_kernel::{OfficeId, Time};
use mi_store::{DbResult, OfficeConn, PlatformConn, on};
use sqlx::FromRow;
use uuid::Uuid;

use crate::offices::{Office, repo::Row};

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

/// An office whose settings stay as they are until the transaction ends.
#[derive(FromRow)]
pub(super) struct Held {
    #[sqlx(flatten, try_from = "Row")]
    pub(super) office: Office,
    /// When that was, by the database's clock; none: it has no clock of its own.
    pub(super) told: Option<Time>,
}

/// Holds the office; none: it is not there.
pub(super) async fn office_hold(tx: &mut OfficeConn) -> DbResult<Option<Held>> {
    let office = tx.office_id();
    let sql = tx.pick(
        "SELECT *, NULL AS told FROM offices WHERE id = $1",
        "SELECT *, clock_timestamp() AS told FROM offices WHERE id = $1 FOR SHARE",
    );
    Ok(on!(tx, |c| sqlx::query_as(sql).bind(office.0).fetch_optional(&mut *c).await)?)
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
pub(crate) async fn retention_delete(tx: &mut OfficeConn) -> DbResult<()> {
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
