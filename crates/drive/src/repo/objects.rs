//! Tables `drive_uploads`, `drive_blobs` and `drive_trash`: one of the three names an object in storage.

use mi_base::sweep::{Due, PutOff};
use mi_kernel::{OfficeId, Time};
use mi_store::{
    Conn, Db, DbResult, OfficeConn, PlatformConn, all, delete_some, exec, json_text, scalar, scalar_one, scalars,
    time_text,
};
use uuid::Uuid;

/// Objects that are moved to the trash in one transaction.
const PART: i64 = 1000;

/// Names an object before its first byte is written.
pub(crate) async fn upload_insert(tx: &mut OfficeConn, object: Uuid, now: Time) -> DbResult<()> {
    exec!(tx, "INSERT INTO drive_uploads (object, office_id, begun_at) VALUES ($2, $1, $3)", object, now).map(drop)
}

/// Takes the object out; false: it was not among the uploads any more.
pub(crate) async fn upload_delete(tx: &mut OfficeConn, object: Uuid) -> DbResult<bool> {
    Ok(exec!(tx, "DELETE FROM drive_uploads WHERE office_id = $1 AND object = $2", object)? == 1)
}

/// Moves some uploads that began before a time to the trash, in a transaction of its own; true: there may be more. Spans
/// offices: whose process died is not known.
pub(crate) async fn upload_expire_some(db: &Db, before: Time, now: Time) -> DbResult<bool> {
    let mut tx = db.platform().begin().await?;
    let sql = "DELETE FROM drive_uploads WHERE object IN
         (SELECT object FROM drive_uploads WHERE begun_at < $1 ORDER BY begun_at LIMIT $2)
         RETURNING office_id, object";
    let expired: Vec<(OfficeId, Uuid)> = all!(tx, sql, before, PART)?;
    trash_insert_all(&mut tx, &expired, now).await?;
    tx.commit().await?;
    Ok(!expired.is_empty())
}

/// Keeps the object as the content with this checksum; false: the office has that content already.
pub(crate) async fn blob_insert(tx: &mut OfficeConn, sha256: &str, object: Uuid) -> DbResult<bool> {
    let sql = "INSERT INTO drive_blobs (office_id, sha256, object) VALUES ($1, $2, $3)
         ON CONFLICT (office_id, sha256) DO NOTHING";
    Ok(exec!(tx, sql, sha256, object)? == 1)
}

/// Moves content of this size to the trash unless a file has it. The office must be locked.
pub(crate) async fn blob_release(tx: &mut OfficeConn, sha256: &str, size: i64, due: Time) -> DbResult<()> {
    let sql = "DELETE FROM drive_blobs WHERE office_id = $1 AND sha256 = $2
         AND NOT EXISTS (SELECT 1 FROM drive_files WHERE office_id = $1 AND sha256 = $2) RETURNING object";
    let object: Option<Uuid> = scalar!(tx, sql, sha256)?;
    match object {
        Some(object) => trash_insert(tx, object, size, due).await,
        None => Ok(()),
    }
}

/// Names an object that may be deleted from a time on, and counts its bytes until then.
pub(crate) async fn trash_insert(tx: &mut OfficeConn, object: Uuid, size: i64, due: Time) -> DbResult<()> {
    exec!(tx, "INSERT INTO drive_trash (object, office_id, due_at, size) VALUES ($2, $1, $3, $4)", object, due, size)?;
    trash_count(tx, size).await
}

/// Names objects of no counted bytes that may be deleted from a time on, with one statement. Takes offices' objects
/// together, as the sweep finds them.
async fn trash_insert_all(tx: &mut Conn, objects: &[(OfficeId, Uuid)], due: Time) -> DbResult<()> {
    let sql = tx.pick(
        "INSERT INTO drive_trash (office_id, object, due_at, size)
         SELECT unhex(value ->> 0, '-'), unhex(value ->> 1, '-'), $2, 0 FROM json_each($1)",
        "INSERT INTO drive_trash (office_id, object, due_at, size)
         SELECT (value ->> 0)::uuid, (value ->> 1)::uuid, $2, 0 FROM json_array_elements($1::json)",
    );
    exec!(tx, sql, json_text(objects)?, due).map(drop)
}

/// Counts bytes that come into the trash, or leave it.
async fn trash_count(tx: &mut OfficeConn, bytes: i64) -> DbResult<()> {
    if bytes != 0 {
        let sql = "UPDATE drive_usage SET trash = trash + $2 WHERE office_id = $1";
        exec!(tx, sql, bytes)?;
    }
    Ok(())
}

/// Objects of all offices that may be deleted: the sweep knows of no office.
pub(crate) async fn trash_due(conn: &mut PlatformConn, now: Time, limit: usize) -> DbResult<Vec<Due<Uuid>>> {
    let sql = "SELECT office_id, object, tries FROM drive_trash WHERE due_at <= $1 ORDER BY due_at, object LIMIT $2";
    let rows: Vec<(OfficeId, Uuid, i32)> = all!(conn, sql, now, i64::try_from(limit).unwrap_or(i64::MAX))?;
    Ok(rows.into_iter().map(|(office_id, id, tries)| Due { office_id, id, tries }).collect())
}

/// Objects with bytes of their own that are in the trash, due or not, and could be deleted so far. Spans offices, as the
/// sweep.
pub(crate) async fn trash_early(conn: &mut PlatformConn, limit: usize) -> DbResult<Vec<Due<Uuid>>> {
    let sql = "SELECT office_id, object FROM drive_trash WHERE size > 0 AND tries = 0 ORDER BY due_at, object LIMIT $1";
    let rows: Vec<(OfficeId, Uuid)> = all!(conn, sql, i64::try_from(limit).unwrap_or(i64::MAX))?;
    Ok(rows.into_iter().map(|(office_id, id)| Due { office_id, id, tries: 0 }).collect())
}

/// Writes when these are due again. Spans offices, as the sweep.
pub(crate) async fn trash_put_off(tx: &mut PlatformConn, later: &[PutOff<Uuid>]) -> DbResult<()> {
    let sql = tx.pick(
        "UPDATE drive_trash SET tries = later.tries, due_at = later.due_at
         FROM (SELECT unhex(value ->> 0, '-') AS id, value ->> 1 AS tries, value ->> 2 AS due_at FROM json_each($1))
             AS later
         WHERE drive_trash.object = later.id",
        "UPDATE drive_trash SET tries = later.tries, due_at = later.due_at
         FROM (SELECT (value ->> 0)::uuid AS id, (value ->> 1)::integer AS tries, (value ->> 2)::timestamptz AS due_at
             FROM json_array_elements($1::json)) AS later
         WHERE drive_trash.object = ANY (ARRAY(SELECT (value ->> 0)::uuid FROM json_array_elements($1::json)))
             AND drive_trash.object = later.id",
    );
    let rows: Vec<_> = later.iter().map(|later| (later.id, later.tries, time_text(later.due_at))).collect();
    let rows = json_text(&rows)?;
    exec!(tx, sql, rows).map(drop)
}

/// Objects of the office in the trash, due or not, after one.
pub(crate) async fn trash_list(conn: &mut OfficeConn, after: Uuid, limit: i64) -> DbResult<Vec<Uuid>> {
    let sql = "SELECT object FROM drive_trash WHERE office_id = $1 AND object > $2 ORDER BY object LIMIT $3";
    scalars!(conn, sql, after, limit)
}

/// Forgets an object that was deleted, unless it was not due yet and may come back. One that was put off was due.
pub(crate) async fn trash_delete(tx: &mut OfficeConn, object: Uuid, now: Time) -> DbResult<()> {
    let sql = "DELETE FROM drive_trash WHERE office_id = $1 AND object = $2 AND (due_at <= $3 OR tries > 0)
         RETURNING size";
    let size: Option<i64> = scalar!(tx, sql, object, now)?;
    trash_count(tx, -size.unwrap_or_default()).await
}

/// Whether there is anything to sweep: an upload from before a time, or trash that is due. Spans offices, as the sweep.
pub(crate) async fn anything_due(conn: &mut PlatformConn, before: Time, now: Time) -> DbResult<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM drive_uploads WHERE begun_at < $1)
         OR EXISTS (SELECT 1 FROM drive_trash WHERE due_at <= $2)";
    scalar_one!(conn, sql, before, now)
}

/// Deletes some of the drive of an office that goes, in a transaction of its own, and moves their content to the trash;
/// true: there may be more.
pub(crate) async fn drive_clear_some(db: &Db, office_id: OfficeId, now: Time) -> DbResult<bool> {
    let mut tx = db.office(office_id).begin().await?;
    let statements = [
        "DELETE FROM drive_files WHERE office_id = $1 AND path IN
         (SELECT path FROM drive_files WHERE office_id = $1 ORDER BY path LIMIT $2)",
        "DELETE FROM drive_changes WHERE office_id = $1 AND revision IN
         (SELECT revision FROM drive_changes WHERE office_id = $1 ORDER BY revision LIMIT $2)",
    ];
    if delete_some(&mut tx, &statements).await? {
        tx.commit().await?;
        return Ok(true);
    }
    let sql = "DELETE FROM drive_blobs WHERE office_id = $1 AND sha256 IN
         (SELECT sha256 FROM drive_blobs WHERE office_id = $1 ORDER BY sha256 LIMIT $2) RETURNING object";
    let objects: Vec<Uuid> = scalars!(tx, sql, PART)?;
    let objects: Vec<_> = objects.into_iter().map(|object| (office_id, object)).collect();
    trash_insert_all(&mut tx, &objects, now).await?;
    tx.commit().await?;
    Ok(!objects.is_empty())
}

/// Removes what is left of the office's drive: uploads go to the trash for when the last of them must have ended.
pub(crate) async fn drive_clear(tx: &mut OfficeConn, uploads_end: Time) -> DbResult<()> {
    let sql = "INSERT INTO drive_trash (object, office_id, due_at)
         SELECT object, office_id, $2 FROM drive_uploads WHERE office_id = $1";
    exec!(tx, sql, uploads_end)?;
    exec!(tx, "DELETE FROM drive_uploads WHERE office_id = $1")?;
    exec!(tx, "DELETE FROM drive_usage WHERE office_id = $1").map(drop)
}
