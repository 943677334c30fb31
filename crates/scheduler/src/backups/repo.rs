//! Table `backups`.

use mi_kernel::{BackupId, OfficeId, Time, page::Page};
use mi_store::{DbResult, OfficeConn, PlatformConn, on};
use sqlx::FromRow;
use uuid::Uuid;

use super::Backup;

#[derive(FromRow)]
struct Row {
    id: Uuid,
    office_id: Uuid,
    agent: String,
    size_bytes: i64,
    sha256: String,
    created_at: Time,
}

impl From<Row> for Backup {
    fn from(row: Row) -> Self {
        Self {
            id: row.id.into(),
            office_id: row.office_id.into(),
            agent: row.agent,
            size_bytes: row.size_bytes,
            sha256: row.sha256,
            created_at: row.created_at,
        }
    }
}

/// Adds the backup; one with its id that is there already stays.
pub(super) async fn backup_insert(tx: &mut OfficeConn, backup: &Backup) -> DbResult<()> {
    let office = tx.office_id();
    on!(tx, |c| {
        sqlx::query(
            "INSERT INTO backups (id, office_id, agent, size_bytes, sha256, removed, created_at)
             VALUES ($1, $2, $3, $4, $5, FALSE, $6) ON CONFLICT (id) DO NOTHING",
        )
        .bind(backup.id.0)
        .bind(office.0)
        .bind(&backup.agent)
        .bind(backup.size_bytes)
        .bind(&backup.sha256)
        .bind(backup.created_at)
        .execute(&mut *c)
        .await
        .map(drop)
    })?;
    Ok(())
}

pub(super) async fn backup_get(conn: &mut OfficeConn, id: BackupId) -> DbResult<Option<Backup>> {
    let office = conn.office_id();
    let row: Option<Row> = on!(conn, |c| {
        sqlx::query_as("SELECT * FROM backups WHERE office_id = $1 AND id = $2 AND NOT removed")
            .bind(office.0)
            .bind(id.0)
            .fetch_optional(&mut *c)
            .await
    })?;
    Ok(row.map(Backup::from))
}

/// Newest first.
pub(super) async fn backup_list(conn: &mut OfficeConn, page: &Page<BackupId>) -> DbResult<Vec<Backup>> {
    let office = conn.office_id();
    let rows: Vec<Row> = on!(conn, |c| {
        sqlx::query_as(
            "SELECT * FROM backups WHERE office_id = $1 AND id < $2 AND NOT removed ORDER BY id DESC LIMIT $3",
        )
        .bind(office.0)
        .bind(page.after.map_or(Uuid::max(), |id| id.0))
        .bind(page.fetch())
        .fetch_all(&mut *c)
        .await
    })?;
    Ok(rows.into_iter().map(Backup::from).collect())
}

pub(crate) async fn backup_hide(tx: &mut OfficeConn, id: BackupId) -> DbResult<()> {
    let office = tx.office_id();
    on!(tx, |c| {
        sqlx::query("UPDATE backups SET removed = TRUE WHERE office_id = $1 AND id = $2")
            .bind(office.0)
            .bind(id.0)
            .execute(&mut *c)
            .await
            .map(drop)
    })?;
    Ok(())
}

pub(crate) async fn backup_hide_all(tx: &mut OfficeConn) -> DbResult<()> {
    let office = tx.office_id();
    on!(tx, |c| {
        sqlx::query("UPDATE backups SET removed = TRUE WHERE office_id = $1")
            .bind(office.0)
            .execute(&mut *c)
            .await
            .map(drop)
    })?;
    Ok(())
}

/// Hidden backups of all offices: the sweep that finishes removals knows of no office.
pub(super) async fn backup_hidden(conn: &mut PlatformConn) -> DbResult<Vec<(OfficeId, BackupId)>> {
    let rows: Vec<(Uuid, Uuid)> =
        on!(conn, |c| { sqlx::query_as("SELECT office_id, id FROM backups WHERE removed").fetch_all(&mut *c).await })?;
    Ok(rows.into_iter().map(|(office, id)| (office.into(), id.into())).collect())
}

pub(super) async fn backup_delete(tx: &mut OfficeConn, id: BackupId) -> DbResult<()> {
    let office = tx.office_id();
    on!(tx, |c| {
        sqlx::query("DELETE FROM backups WHERE office_id = $1 AND id = $2 AND removed")
            .bind(office.0)
            .bind(id.0)
            .execute(&mut *c)
            .await
            .map(drop)
    })?;
    Ok(())
}
