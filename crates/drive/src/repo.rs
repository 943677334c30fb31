//! Tables `drive_files`, `drive_changes` and `drive_usage`.

pub(crate) mod objects;

use mi_kernel::page::Page;
use mi_store::{DbResult, FromRow, OfficeConn, all, exec, json_text, optional, scalar, scalar_one};
use uuid::Uuid;

use super::model::{Change, FileRow};

/// What an office's files amount to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromRow)]
pub(super) struct Usage {
    /// Of the last change.
    pub(super) revision: i64,
    /// Bytes of the files together.
    pub(super) bytes: i64,
    /// How many files there are.
    pub(super) files: i64,
    /// Bytes that were replaced or deleted, and are in storage yet.
    pub(super) trash: i64,
}

/// The first text behind all that start with this one; none: there is no such text.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // Byte order of UTF-8 is the order of the characters.
        if let Some(next) = (last..=char::MAX).nth(1) {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

/// The file at this path.
pub(super) async fn file_get(conn: &mut OfficeConn, path: &str) -> DbResult<Option<FileRow>> {
    let sql = "SELECT path, size, sha256, revision, content_type, modified_at, modified_by FROM drive_files
         WHERE office_id = $1 AND path = $2";
    optional!(conn, sql, path)
}

/// The files at these paths, as far as there are any.
///
/// # Errors
/// Those of the database.
pub async fn file_get_all(conn: &mut OfficeConn, paths: &[String]) -> DbResult<Vec<FileRow>> {
    let sql = conn.pick(
        "SELECT path, size, sha256, revision, content_type, modified_at, modified_by FROM drive_files
         WHERE office_id = $1 AND path IN (SELECT value FROM json_each($2))",
        // As in the tasks' repository: for each path its row by the index, whatever the table held when this was planned.
        "SELECT f.* FROM json_array_elements_text($2::json) AS wanted (path),
             LATERAL (SELECT path, size, sha256, revision, content_type, modified_at, modified_by FROM drive_files
                 WHERE office_id = $1 AND path = wanted.path OFFSET 0) AS f",
    );
    all!(conn, sql, json_text(paths)?)
}

#[derive(FromRow)]
struct Stored {
    #[sqlx(flatten)]
    file: FileRow,
    object: Uuid,
}

/// The file, and the object that has its content.
pub(super) async fn file_open(conn: &mut OfficeConn, path: &str) -> DbResult<Option<(FileRow, Uuid)>> {
    let sql = "SELECT path, size, sha256, revision, content_type, modified_at, modified_by, object
         FROM drive_files JOIN drive_blobs USING (office_id, sha256) WHERE office_id = $1 AND path = $2";
    let stored: Option<Stored> = optional!(conn, sql, path)?;
    Ok(stored.map(|stored| (stored.file, stored.object)))
}

/// Files whose paths start with the prefix, by path.
pub(super) async fn file_list(conn: &mut OfficeConn, prefix: &str, page: &Page<String>) -> DbResult<Vec<FileRow>> {
    let (after, limit) = (page.after.as_deref().unwrap_or_default(), page.fetch());
    // Two texts: with an end that may be missing, what is behind it would be read on for a page that is not full.
    let Some(end) = after_prefix(prefix) else {
        let sql = "SELECT path, size, sha256, revision, content_type, modified_at, modified_by FROM drive_files
             WHERE office_id = $1 AND path >= $2 AND path > $3 ORDER BY path LIMIT $4";
        return all!(conn, sql, prefix, after, limit);
    };
    let sql = "SELECT path, size, sha256, revision, content_type, modified_at, modified_by FROM drive_files
         WHERE office_id = $1 AND path >= $2 AND path < $3 AND path > $4 ORDER BY path LIMIT $5";
    all!(conn, sql, prefix, end, after, limit)
}

/// A file that cannot be beside one at this path: the one is a directory of the other. Paths are compared byte for byte.
pub(super) async fn file_clash(conn: &mut OfficeConn, path: &str) -> DbResult<Option<String>> {
    let above: Vec<&str> = path.match_indices('/').map(|(at, _)| &path[..at]).collect();
    let above = json_text(&above)?;
    let below = format!("{path}/");
    let sql = conn.pick(
        "SELECT path FROM drive_files WHERE office_id = $1 AND path IN (SELECT value FROM json_each($2))
         UNION ALL SELECT path FROM drive_files WHERE office_id = $1 AND path >= $3 AND path < $4 LIMIT 1",
        // Behind LATERAL and a limit, each path above is looked up: to go over all files of the office is no way then.
        "SELECT above.path FROM json_array_elements_text($2::json) AS asked (path) CROSS JOIN LATERAL
             (SELECT path FROM drive_files WHERE office_id = $1 AND path = asked.path LIMIT 1) AS above
         UNION ALL SELECT path FROM drive_files WHERE office_id = $1 AND path >= $3 AND path < $4 LIMIT 1",
    );
    scalar!(conn, sql, above, &below, after_prefix(&below))
}

/// Writes the file in the place of the one at its path, if there is one. Its blob must be there.
pub(super) async fn file_put(tx: &mut OfficeConn, file: &FileRow) -> DbResult<()> {
    let sql = "INSERT INTO drive_files
         (office_id, path, size, sha256, revision, content_type, modified_at, modified_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (office_id, path) DO UPDATE SET size = excluded.size, sha256 = excluded.sha256,
         revision = excluded.revision, content_type = excluded.content_type, modified_at = excluded.modified_at,
         modified_by = excluded.modified_by";
    exec!(
        tx,
        sql,
        &file.path,
        file.size,
        &file.sha256,
        file.revision,
        &file.content_type,
        file.modified_at,
        &file.modified_by
    )
    .map(drop)
}

pub(super) async fn file_delete(tx: &mut OfficeConn, path: &str) -> DbResult<()> {
    exec!(tx, "DELETE FROM drive_files WHERE office_id = $1 AND path = $2", path).map(drop)
}

/// What the office's files amount to.
pub(super) async fn usage_get(conn: &mut OfficeConn) -> DbResult<Usage> {
    let sql = "SELECT revision, bytes, files, trash FROM drive_usage WHERE office_id = $1";
    let usage: Option<Usage> = optional!(conn, sql)?;
    Ok(usage.unwrap_or_default())
}

/// Counts a change and what it adds; answers its revision. Until the transaction ends no other change gets one, so that
/// revisions become visible in their order.
pub(super) async fn usage_change(tx: &mut OfficeConn, bytes: i64, files: i64) -> DbResult<i64> {
    let sql = "INSERT INTO drive_usage (office_id, revision, bytes, files) VALUES ($1, 1, $2, $3)
         ON CONFLICT (office_id) DO UPDATE SET revision = drive_usage.revision + 1,
         bytes = drive_usage.bytes + excluded.bytes, files = drive_usage.files + excluded.files RETURNING revision";
    scalar_one!(tx, sql, bytes, files)
}

/// Adds a change; `upload` is the object that an upload wrote.
pub(super) async fn change_insert(tx: &mut OfficeConn, change: &Change, upload: Option<Uuid>) -> DbResult<()> {
    let Change { kind, file } = change;
    let sql = "INSERT INTO drive_changes
         (office_id, revision, kind, path, size, sha256, content_type, modified_at, modified_by, upload)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    exec!(
        tx,
        sql,
        file.revision,
        kind.as_str(),
        &file.path,
        file.size,
        &file.sha256,
        &file.content_type,
        file.modified_at,
        &file.modified_by,
        upload
    )
    .map(drop)
}

/// Changes after a revision, oldest first.
pub(super) async fn change_list(conn: &mut OfficeConn, after: i64, limit: i64) -> DbResult<Vec<Change>> {
    let sql = "SELECT kind, path, size, sha256, revision, content_type, modified_at, modified_by FROM drive_changes
         WHERE office_id = $1 AND revision > $2 ORDER BY revision LIMIT $3";
    all!(conn, sql, after, limit)
}

/// The file as an upload left it.
pub(super) async fn change_of_upload(conn: &mut OfficeConn, upload: Uuid) -> DbResult<Option<FileRow>> {
    let sql = "SELECT path, size, sha256, revision, content_type, modified_at, modified_by FROM drive_changes
         WHERE office_id = $1 AND upload = $2";
    optional!(conn, sql, upload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix() {
        for (prefix, end) in [("", None), ("a", Some("b")), ("a/", Some("a0")), ("\u{D7FF}", Some("\u{E000}"))] {
            assert_eq!(after_prefix(prefix).as_deref(), end);
        }
        assert_eq!(after_prefix("a\u{10FFFF}").as_deref(), Some("b"));
        assert_eq!(after_prefix("\u{10FFFF}"), None);
    }
}
