//! Tables `drive_files`, `drive_changes` and `drive_usage`.

pub mod objects;

use mi_kernel::{Time, page::Page};
use mi_store::{DbResult, OfficeConn, json_text, on};
use sqlx::FromRow;
use uuid::Uuid;

use super::{Change, rules::after_prefix};

/// A file of the drive, without its content.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct FileRow {
    /// Where it is, without a leading slash.
    pub path: String,
    /// Bytes of its content.
    pub size: i64,
    /// Of the content, lower-case hex.
    pub sha256: String,
    /// The drive's revision that it was written with.
    pub revision: i64,
    /// Media type, as whoever wrote it said.
    pub content_type: String,
    /// When it was written.
    pub modified_at: Time,
    /// Name of an agent, or `operator`.
    pub modified_by: String,
}

/// What an office's files amount to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromRow)]
pub struct Usage {
    /// Of the last change.
    pub revision: i64,
    /// Bytes of the files together.
    pub bytes: i64,
    /// How many files there are.
    pub files: i64,
    /// Bytes that were replaced or deleted, and are in storage yet.
    pub trash: i64,
}

/// The file at this path.
pub async fn file_get(conn: &mut OfficeConn, path: &str) -> DbResult<Option<FileRow>> {
    let office = conn.office_id();
    Ok(on!(conn, |c| {
        sqlx::query_as(
            "SELECT path, size, sha256, revision, content_type, modified_at, modified_by FROM drive_files
             WHERE office_id = $1 AND path = $2",
        )
        .bind(office.0)
        .bind(path)
        .fetch_optional(&mut *c)
        .await
    })?)
}

/// The files at these paths, as far as there are any.
pub async fn file_get_all(conn: &mut OfficeConn, paths: &[String]) -> DbResult<Vec<FileRow>> {
    let (office, paths) = (conn.office_id(), json_text(paths)?);
    let sql = conn.pick(
        "SELECT path, size, sha256, revision, content_type, modified_at, modified_by FROM drive_files
         WHERE office_id = $1 AND path IN (SELECT value FROM json_each($2))",
        // As in the tasks' repository: for each path its row by the index, whatever the table held when this was planned.
        "SELECT f.* FROM json_array_elements_text($2::json) AS wanted (path),
             LATERAL (SELECT path, size, sha256, revision, content_type, modified_at, modified_by FROM drive_files
                 WHERE office_id = $1 AND path = wanted.path OFFSET 0) AS f",
    );
    Ok(on!(conn, |c| sqlx::query_as(sql).bind(office.0).bind(paths).fetch_all(&mut *c).await)?)
}

#[derive(FromRow)]
struct Stored {
    #[sqlx(flatten)]
    file: FileRow,
    object: Uuid,
}

/// The file, and the object that has its content.
pub(super) async fn file_open(conn: &mut OfficeConn, path: &str) -> DbResult<Option<(FileRow, Uuid)>> {
    let office = conn.office_id();
    let stored: Option<Stored> = on!(conn, |c| {
        sqlx::query_as(
            "SELECT path, size, sha256, revision, content_type, modified_at, modified_by, object
             FROM drive_files JOIN drive_blobs USING (office_id, sha256) WHERE office_id = $1 AND path = $2",
        )
        .bind(office.0)
        .bind(path)
        .fetch_optional(&mut *c)
        .await
    })?;
    Ok(stored.map(|stored| (stored.file, stored.object)))
}

/// Files whose paths start with the prefix, by path.
pub(super) async fn file_list(conn: &mut OfficeConn, prefix: &str, page: &Page<String>) -> DbResult<Vec<FileRow>> {
    let office = conn.office_id();
    Ok(on!(conn, |c| {
        sqlx::query_as(
            "SELECT path, size, sha256, revision, content_type, modified_at, modified_by FROM drive_files
             WHERE office_id = $1 AND path >= $2 AND ($3 IS NULL OR path < $3) AND path > $4 ORDER BY path LIMIT $5",
        )
        .bind(office.0)
        .bind(prefix)
        .bind(after_prefix(prefix))
        .bind(page.after.as_deref().unwrap_or_default())
        .bind(page.fetch())
        .fetch_all(&mut *c)
        .await
    })?)
}

/// A file that cannot be beside one at this path: the one is a directory of the other. Paths are compared byte for byte.
pub(super) async fn file_clash(conn: &mut OfficeConn, path: &str) -> DbResult<Option<String>> {
    let office = conn.office_id();
    let above: Vec<&str> = path.match_indices('/').map(|(at, _)| &path[..at]).collect();
    let above = json_text(&above)?;
    let below = format!("{path}/");
    let sql = conn.pick(
        "SELECT path FROM drive_files WHERE office_id = $1 AND path IN (SELECT value FROM json_each($2))
         UNION ALL SELECT path FROM drive_files WHERE office_id = $1 AND path >= $3 AND path < $4 LIMIT 1",
        "SELECT path FROM drive_files WHERE office_id = $1 AND path IN (SELECT json_array_elements_text($2::json))
         UNION ALL SELECT path FROM drive_files WHERE office_id = $1 AND path >= $3 AND path < $4 LIMIT 1",
    );
    Ok(on!(conn, |c| {
        sqlx::query_scalar(sql)
            .bind(office.0)
            .bind(above)
            .bind(&below)
            .bind(after_prefix(&below))
            .fetch_optional(&mut *c)
            .await
    })?)
}

/// Writes the file in the place of the one at its path, if there is one. Its blob must be there.
pub async fn file_put(tx: &mut OfficeConn, file: &FileRow) -> DbResult<()> {
    let office = tx.office_id();
    on!(tx, |c| {
        sqlx::query(
            "INSERT INTO drive_files
             (office_id, path, size, sha256, revision, content_type, modified_at, modified_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (office_id, path) DO UPDATE SET size = excluded.size, sha256 = excluded.sha256,
             revision = excluded.revision, content_type = excluded.content_type, modified_at = excluded.modified_at,
             modified_by = excluded.modified_by",
        )
        .bind(office.0)
        .bind(&file.path)
        .bind(file.size)
        .bind(&file.sha256)
        .bind(file.revision)
        .bind(&file.content_type)
        .bind(file.modified_at)
        .bind(&file.modified_by)
        .execute(&mut *c)
        .await
        .map(drop)
    })?;
    Ok(())
}

pub(super) async fn file_delete(tx: &mut OfficeConn, path: &str) -> DbResult<()> {
    let office = tx.office_id();
    on!(tx, |c| {
        sqlx::query("DELETE FROM drive_files WHERE office_id = $1 AND path = $2")
            .bind(office.0)
            .bind(path)
            .execute(&mut *c)
            .await
            .map(drop)
    })?;
    Ok(())
}

/// What the office's files amount to.
pub async fn usage_get(conn: &mut OfficeConn) -> DbResult<Usage> {
    let office = conn.office_id();
    let usage: Option<Usage> = on!(conn, |c| {
        sqlx::query_as("SELECT revision, bytes, files, trash FROM drive_usage WHERE office_id = $1")
            .bind(office.0)
            .fetch_optional(&mut *c)
            .await
    })?;
    Ok(usage.unwrap_or_default())
}

/// Counts a change and what it adds; answers its revision. Until the transaction ends no other change gets one, so that
/// revisions become visible in their order.
pub async fn usage_change(tx: &mut OfficeConn, bytes: i64, files: i64) -> DbResult<i64> {
    let office = tx.office_id();
    Ok(on!(tx, |c| {
        sqlx::query_scalar(
            "INSERT INTO drive_usage (office_id, revision, bytes, files) VALUES ($1, 1, $2, $3)
             ON CONFLICT (office_id) DO UPDATE SET revision = drive_usage.revision + 1,
             bytes = drive_usage.bytes + excluded.bytes, files = drive_usage.files + excluded.files RETURNING revision",
        )
        .bind(office.0)
        .bind(bytes)
        .bind(files)
        .fetch_one(&mut *c)
        .await
    })?)
}

/// Adds a change; `upload` is the object that an upload wrote.
pub async fn change_insert(tx: &mut OfficeConn, change: &Change, upload: Option<Uuid>) -> DbResult<()> {
    let office = tx.office_id();
    let Change { kind, file } = change;
    on!(tx, |c| {
        sqlx::query(
            "INSERT INTO drive_changes
             (office_id, revision, kind, path, size, sha256, content_type, modified_at, modified_by, upload)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(office.0)
        .bind(file.revision)
        .bind(kind.as_str())
        .bind(&file.path)
        .bind(file.size)
        .bind(&file.sha256)
        .bind(&file.content_type)
        .bind(file.modified_at)
        .bind(&file.modified_by)
        .bind(upload)
        .execute(&mut *c)
        .await
        .map(drop)
    })?;
    Ok(())
}

#[derive(FromRow)]
struct ChangeRow {
    kind: String,
    #[sqlx(flatten)]
    file: FileRow,
}

/// Changes after a revision, oldest first.
pub(super) async fn change_list(conn: &mut OfficeConn, after: i64, limit: i64) -> DbResult<Vec<Change>> {
    let office = conn.office_id();
    let rows: Vec<ChangeRow> = on!(conn, |c| {
        sqlx::query_as(
            "SELECT kind, path, size, sha256, revision, content_type, modified_at, modified_by FROM drive_changes
             WHERE office_id = $1 AND revision > $2 ORDER BY revision LIMIT $3",
        )
        .bind(office.0)
        .bind(after)
        .bind(limit)
        .fetch_all(&mut *c)
        .await
    })?;
    let change = |row: ChangeRow| Ok(Change { kind: row.kind.parse()?, file: row.file });
    rows.into_iter().map(change).collect()
}

/// The file as an upload left it.
pub(super) async fn change_of_upload(conn: &mut OfficeConn, upload: Uuid) -> DbResult<Option<FileRow>> {
    let office = conn.office_id();
    Ok(on!(conn, |c| {
        sqlx::query_as(
            "SELECT path, size, sha256, revision, content_type, modified_at, modified_by FROM drive_changes
             WHERE office_id = $1 AND upload = $2",
        )
        .bind(office.0)
        .bind(upload)
        .fetch_optional(&mut *c)
        .await
    })?)
}
