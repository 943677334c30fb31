//! Table `invites`.

use mi_kernel::Time;
use mi_store::{Db, DbResult, OfficeConn, PlatformConn, delete_before, on};
use sqlx::FromRow;
use uuid::Uuid;

use super::Invite;

#[derive(FromRow)]
struct Row {
    id: Uuid,
    office_id: Uuid,
    created_at: Time,
    expires_at: Time,
}

impl From<Row> for Invite {
    fn from(row: Row) -> Self {
        Self {
            id: row.id.into(),
            office_id: row.office_id.into(),
            created_at: row.created_at,
            expires_at: row.expires_at,
        }
    }
}

/// Keeps an invite; false: its code is another one's, of whatever office.
pub(super) async fn invite_insert(tx: &mut OfficeConn, invite: &Invite, code_sha256: &[u8]) -> DbResult<bool> {
    let office = tx.office_id();
    Ok(on!(tx, |c| {
        sqlx::query(
            "INSERT INTO invites (id, office_id, code_sha256, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT DO NOTHING",
        )
        .bind(invite.id.0)
        .bind(office.0)
        .bind(code_sha256)
        .bind(invite.created_at)
        .bind(invite.expires_at)
        .execute(&mut *c)
        .await
        .map(|done| done.rows_affected() == 1)
    })?)
}

/// Invites of the office that have not run out.
pub(super) async fn invite_count(conn: &mut OfficeConn, now: Time) -> DbResult<i64> {
    let office = conn.office_id();
    let (count,): (i64,) = on!(conn, |c| {
        sqlx::query_as("SELECT count(*) FROM invites WHERE office_id = $1 AND expires_at > $2")
            .bind(office.0)
            .bind(now)
            .fetch_one(&mut *c)
            .await
    })?;
    Ok(count)
}

/// The invite with this code, unless it has run out; of whatever office: who shows a code has not said where to.
pub(super) async fn invite_find(conn: &mut PlatformConn, code_sha256: &[u8], now: Time) -> DbResult<Option<Invite>> {
    let row: Option<Row> = on!(conn, |c| {
        sqlx::query_as(
            "SELECT id, office_id, created_at, expires_at FROM invites WHERE code_sha256 = $1 AND expires_at > $2",
        )
        .bind(code_sha256)
        .bind(now)
        .fetch_optional(&mut *c)
        .await
    })?;
    Ok(row.map(Invite::from))
}

/// Forgets the invites of the office.
pub(super) async fn invite_forget_all(tx: &mut OfficeConn) -> DbResult<()> {
    let office = tx.office_id();
    on!(tx, |c| {
        sqlx::query("DELETE FROM invites WHERE office_id = $1").bind(office.0).execute(&mut *c).await.map(drop)
    })?;
    Ok(())
}

/// Forgets the invites that have run out, of whatever office, in parts.
pub(super) async fn invite_sweep(db: &Db, now: Time) -> DbResult<()> {
    let sql =
        "DELETE FROM invites WHERE id IN (SELECT id FROM invites WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)";
    delete_before(db, sql, now).await
}
