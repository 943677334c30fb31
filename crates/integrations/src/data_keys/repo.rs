//! Tables `master_key` and `office_keys`.

use mi_kernel::OfficeId;
use mi_store::{DbResult, OfficeConn, PlatformConn, on};
use mi_vault::KeyId;
use sqlx::FromRow;
use uuid::Uuid;

use super::Wrapped;

#[derive(FromRow)]
struct Row {
    master_key_id: String,
    wrapped: Vec<u8>,
}

impl From<Row> for Wrapped {
    fn from(row: Row) -> Self {
        Self { master_key_id: row.master_key_id.into(), bytes: row.wrapped }
    }
}

/// The master key in use. Platform-wide: it is no office's.
pub(super) async fn master_get(conn: &mut PlatformConn) -> DbResult<Option<KeyId>> {
    let id: Option<String> =
        on!(conn, |c| sqlx::query_scalar("SELECT key_id FROM master_key").fetch_optional(&mut *c).await)?;
    Ok(id.map(KeyId::from))
}

/// The master key in use, which stays so until the transaction ends.
pub(super) async fn master_hold(tx: &mut OfficeConn) -> DbResult<Option<KeyId>> {
    let sql = tx.pick("SELECT key_id FROM master_key", "SELECT key_id FROM master_key FOR SHARE");
    let id: Option<String> = on!(tx, |c| sqlx::query_scalar(sql).fetch_optional(&mut *c).await)?;
    Ok(id.map(KeyId::from))
}

/// Takes a master key into use, unless there is one.
pub(super) async fn master_claim(tx: &mut PlatformConn, id: &KeyId) -> DbResult<()> {
    on!(tx, |c| {
        sqlx::query("INSERT INTO master_key (one, key_id) VALUES (1, $1) ON CONFLICT (one) DO NOTHING")
            .bind(id.as_str())
            .execute(&mut *c)
            .await
            .map(drop)
    })?;
    Ok(())
}

/// Takes another master key into use.
pub(super) async fn master_set(tx: &mut PlatformConn, id: &KeyId) -> DbResult<()> {
    on!(tx, |c| {
        sqlx::query("UPDATE master_key SET key_id = $1").bind(id.as_str()).execute(&mut *c).await.map(drop)
    })?;
    Ok(())
}

async fn one(conn: &mut OfficeConn, sql: &'static str) -> DbResult<Option<Wrapped>> {
    let office_id = conn.office_id();
    let row: Option<Row> = on!(conn, |c| sqlx::query_as(sql).bind(office_id.0).fetch_optional(&mut *c).await)?;
    Ok(row.map(Wrapped::from))
}

pub(super) async fn key_get(conn: &mut OfficeConn) -> DbResult<Option<Wrapped>> {
    one(conn, "SELECT master_key_id, wrapped FROM office_keys WHERE office_id = $1").await
}

/// The key, which nobody else changes until the transaction ends.
pub(super) async fn key_lock(tx: &mut OfficeConn) -> DbResult<Option<Wrapped>> {
    let sql = tx.pick(
        "SELECT master_key_id, wrapped FROM office_keys WHERE office_id = $1",
        "SELECT master_key_id, wrapped FROM office_keys WHERE office_id = $1 FOR UPDATE",
    );
    one(tx, sql).await
}

async fn write(tx: &mut OfficeConn, sql: &'static str, key: &Wrapped) -> DbResult<()> {
    let office_id = tx.office_id();
    on!(tx, |c| {
        sqlx::query(sql)
            .bind(office_id.0)
            .bind(key.master_key_id.as_str())
            .bind(&key.bytes)
            .execute(&mut *c)
            .await
            .map(drop)
    })?;
    Ok(())
}

pub(super) async fn key_insert(tx: &mut OfficeConn, key: &Wrapped) -> DbResult<()> {
    write(tx, "INSERT INTO office_keys (office_id, master_key_id, wrapped) VALUES ($1, $2, $3)", key).await
}

pub(super) async fn key_update(tx: &mut OfficeConn, key: &Wrapped) -> DbResult<()> {
    write(tx, "UPDATE office_keys SET master_key_id = $2, wrapped = $3 WHERE office_id = $1", key).await
}

pub(super) async fn key_delete(tx: &mut OfficeConn) -> DbResult<()> {
    let office_id = tx.office_id();
    on!(tx, |c| {
        sqlx::query("DELETE FROM office_keys WHERE office_id = $1").bind(office_id.0).execute(&mut *c).await.map(drop)
    })?;
    Ok(())
}

/// Offices whose keys are under another master key. Spans offices: a rotation is over when none is left.
pub(super) async fn key_elsewhere(conn: &mut PlatformConn, id: &KeyId, limit: i64) -> DbResult<Vec<OfficeId>> {
    let rows: Vec<Uuid> = on!(conn, |c| {
        sqlx::query_scalar(
            "SELECT office_id FROM office_keys WHERE master_key_id < $1 OR master_key_id > $1
             ORDER BY office_id LIMIT $2",
        )
        .bind(id.as_str())
        .bind(limit)
        .fetch_all(&mut *c)
        .await
    })?;
    Ok(rows.into_iter().map(OfficeId).collect())
}
