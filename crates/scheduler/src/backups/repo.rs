//! Table `backups`.

use mi_base::sweep::{Due, PutOff};
use mi_kernel::{BackupId, OfficeId, Time, page::Page};
use mi_store::{Db, DbResult, OfficeConn, PlatformConn, all, exec, json_text, optional, scalar, scalars, time_text};

use super::Backup;

/// Adds the backup; one with its id that is there already stays.
pub(super) async fn backup_insert(tx: &mut OfficeConn, backup: &Backup) -> DbResult<()> {
    let sql = "INSERT INTO backups (id, office_id, agent, size_bytes, sha256, removed, created_at, upload)
         VALUES ($2, $1, $3, $4, $5, FALSE, $6, $7) ON CONFLICT (id) DO NOTHING";
    let Backup { id, agent, size_bytes, sha256, created_at, upload, .. } = backup;
    exec!(tx, sql, id, agent, size_bytes, sha256, created_at, upload).map(drop)
}

/// Notes a try to write a backup: from `due_at` on its object is nobody's, and is removed as that of a hidden backup.
pub(super) async fn try_insert(
    tx: &mut OfficeConn,
    id: BackupId,
    agent: &str,
    now: Time,
    due_at: Time,
) -> DbResult<()> {
    let sql = "INSERT INTO backups (id, office_id, agent, size_bytes, sha256, removed, created_at, due_at)
         VALUES ($2, $1, $3, 0, '', TRUE, $4, $5)";
    exec!(tx, sql, id, agent, now, due_at).map(drop)
}

/// Forgets a try whose object has become a backup; false: it was given up before.
pub(super) async fn try_take(tx: &mut OfficeConn, id: BackupId, now: Time) -> DbResult<bool> {
    let sql = "DELETE FROM backups WHERE office_id = $1 AND id = $2 AND removed AND due_at > $3";
    Ok(exec!(tx, sql, id, now)? == 1)
}

/// Gives a try up, whose object nobody can make a backup of any more; false: it has become one, or is gone.
pub(super) async fn try_give_up(tx: &mut OfficeConn, id: BackupId) -> DbResult<bool> {
    let sql = "UPDATE backups SET due_at = created_at WHERE office_id = $1 AND id = $2 AND removed";
    Ok(exec!(tx, sql, id)? == 1)
}

pub(crate) async fn backup_get(conn: &mut OfficeConn, id: BackupId) -> DbResult<Option<Backup>> {
    optional!(conn, "SELECT * FROM backups WHERE office_id = $1 AND id = $2 AND NOT removed", id)
}

/// Newest first.
pub(super) async fn backup_list(conn: &mut OfficeConn, page: &Page<BackupId>) -> DbResult<Vec<Backup>> {
    let sql = "SELECT * FROM backups WHERE office_id = $1 AND id < $2 AND NOT removed ORDER BY id DESC LIMIT $3";
    all!(conn, sql, page.after.unwrap_or(BackupId::MAX), page.fetch())
}

/// The name of the object of a hidden backup; none: there is no such backup.
pub(super) async fn backup_hidden_object(conn: &mut OfficeConn, id: BackupId) -> DbResult<Option<BackupId>> {
    let sql = "SELECT COALESCE(upload, id) FROM backups WHERE office_id = $1 AND id = $2 AND removed";
    scalar!(conn, sql, id)
}

/// From now on nobody sees the backup, and its object may be deleted.
pub(crate) async fn backup_hide(tx: &mut OfficeConn, id: BackupId, now: Time) -> DbResult<()> {
    let sql = "UPDATE backups SET removed = TRUE, due_at = $3 WHERE office_id = $1 AND id = $2 AND NOT removed";
    exec!(tx, sql, id, now).map(drop)
}

/// Hides some backups of the office, in a transaction of its own; false: none was left.
pub(crate) async fn backup_hide_some(db: &Db, office: OfficeId, now: Time) -> DbResult<bool> {
    const PART: i64 = 1000;
    let mut tx = db.office(office).begin().await?;
    let sql = "UPDATE backups SET removed = TRUE, due_at = $3 WHERE office_id = $1 AND id IN
         (SELECT id FROM backups WHERE office_id = $1 AND NOT removed ORDER BY id LIMIT $2)";
    let hidden = exec!(tx, sql, PART, now)?;
    tx.commit().await?;
    Ok(hidden > 0)
}

/// Hidden backups of the office after one.
pub(super) async fn backup_hidden(
    conn: &mut OfficeConn,
    after: Option<BackupId>,
    limit: usize,
) -> DbResult<Vec<BackupId>> {
    let sql = "SELECT id FROM backups WHERE office_id = $1 AND removed AND id > $2 ORDER BY id LIMIT $3";
    scalars!(conn, sql, after.unwrap_or(BackupId::MIN), i64::try_from(limit).unwrap_or(i64::MAX))
}

/// Hidden backups that may be deleted now, of all offices: the sweep that finishes removals knows of no office.
pub(super) async fn backup_due(conn: &mut PlatformConn, now: Time, limit: usize) -> DbResult<Vec<Due<BackupId>>> {
    let sql = "SELECT office_id, id, tries FROM backups WHERE removed AND due_at <= $1 ORDER BY due_at, id LIMIT $2";
    let rows: Vec<(OfficeId, BackupId, i32)> = all!(conn, sql, now, i64::try_from(limit).unwrap_or(i64::MAX))?;
    Ok(rows.into_iter().map(|(office_id, id, tries)| Due { office_id, id, tries }).collect())
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
         WHERE backups.id = ANY (ARRAY(SELECT (value ->> 0)::uuid FROM json_array_elements($1::json)))
             AND backups.id = later.id AND backups.removed",
    );
    let rows: Vec<_> = later.iter().map(|later| (later.id, later.tries, time_text(later.due_at))).collect();
    exec!(tx, sql, json_text(&rows)?).map(drop)
}

pub(super) async fn backup_delete(tx: &mut OfficeConn, id: BackupId) -> DbResult<()> {
    exec!(tx, "DELETE FROM backups WHERE office_id = $1 AND id = $2 AND removed", id).map(drop)
}
