//! Table `backups`.

use mi_base::sweep::{Due, PutOff};
use mi_kernel::{BackupId, OfficeId, Time, page::Page};
use mi_store::{Db, DbResult, OfficeConn, PlatformConn, json_text, on, time_text};
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

/// From now on nobody sees the backup, and its object may be deleted.
pub(crate) async fn backup_hide(tx: &mut OfficeConn, id: BackupId, now: Time) -> DbResult<()> {
    let office = tx.office_id();
    on!(tx, |c| {
        sqlx::query("UPDATE backups SET removed = TRUE, due_at = $3 WHERE office_id = $1 AND id = $2 AND NOT removed")
            .bind(office.0)
            .bind(id.0)
            .bind(now)
            .execute(&mut *c)
            .await
            .map(drop)
    })?;
    Ok(())
}

/// Hides some backups of the office, in a transaction of its own; false: none was left.
pub(crate) async fn backup_hide_some(db: &Db, office: OfficeId, now: Time) -> DbResult<bool> {
    const PART: i64 = 1000;
    let mut tx = db.office(office).begin().await?;
    let hidden = on!(tx, |c| {
        sqlx::query(
            "UPDATE backups SET removed = TRUE, due_at = $3 WHERE office_id = $1 AND id IN
             (SELECT id FROM backups WHERE office_id = $1 AND NOT removed ORDER BY id LIMIT $2)",
        )
        .bind(office.0)
        .bind(PART)
        .bind(now)
        .execute(&mut *c)
        .await
        .map(|done| done.rows_affected())
    })?;
    tx.commit().await?;
    Ok(hidden > 0)
}

/// Hidden backups of the office after one.
pub(super) async fn backup_hidden(
    conn: &mut OfficeConn,
    after: Option<BackupId>,
    limit: usize,
) -> DbResult<Vec<BackupId>> {
    let office = conn.office_id();
    let rows: Vec<Uuid> = on!(conn, |c| {
        sqlx::query_scalar("SELECT id FROM backups WHERE office_id = $1 AND removed AND id > $2 ORDER BY id LIMIT $3")
            .bind(office.0)
            .bind(after.map_or(Uuid::nil(), |id| id.0))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *c)
            .await
    })?;
    Ok(rows.into_iter().map(Into::into).collect())
}

/// Hidden backups that may be deleted now, of all offices: the sweep that finishes removals knows of no office.
pub(super) async fn backup_due(conn: &mut PlatformConn, now: Time, limit: usize) -> DbResult<Vec<Due<BackupId>>> {
    let rows: Vec<(Uuid, Uuid, i32)> = on!(conn, |c| {
        sqlx::query_as(
            "SELECT office_id, id, tries FROM backups WHERE removed AND due_at <= $1 ORDER BY due_at, id LIMIT $2",
        )
        .bind(now)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *c)
        .await
    })?;
    Ok(rows.into_iter().map(|(office, id, tries)| Due { office_id: office.into(), id: id.into(), tries }).collect())
}

/// Writes when these are due again. Spans offices, as the sweep.
pub(super) async fn backup_put_off(tx: &mut PlatformConn, later: &[PutOff<BackupId>]) -> DbResult<()> {
    let sql = tx.pick(
        "UPDATE backups SET tries = later.tries, due_at = later.due_at
         FROM (SELECT unhex(value ->> 0, '-') AS id, value ->> 1 AS tries, value ->> 2 AS due_at FROM json_each($1))
             AS later
         WHERE backups.id = later.id AND backups.removed",
        "UPDATE backups SET tries = later.tries, due_at = later.due_at
         FROM (SELECT (value ->> 0)::uuid AS id, (value ->> 1)::integer AS tries, (value ->> 2)::timestamptz AS due_at
             FROM json_array_elements($1::json)) AS later
         WHERE backups.id = later.id AND backups.removed",
    );
    let rows: Vec<_> = later.iter().map(|later| (later.id, later.tries, time_text(later.due_at))).collect();
    let rows = json_text(&rows)?;
    on!(tx, |c| sqlx::query(sql).bind(rows).execute(&mut *c).await.map(drop))?;
    Ok(())
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
