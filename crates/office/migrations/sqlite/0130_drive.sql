-- What an office's files amount to, and the number of the drive's last change. Every writer changes the row, and so they
-- commit in the order of the numbers.
CREATE TABLE drive_usage (
    office_id BLOB PRIMARY KEY REFERENCES offices (id),
    revision  INTEGER NOT NULL,
    bytes     INTEGER NOT NULL,
    files     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- An object in storage is named by one of three tables at any moment: by uploads while it is written, by blobs while files
-- have its content, by trash until it is deleted.
CREATE TABLE drive_uploads (
    object    BLOB PRIMARY KEY,
    office_id BLOB NOT NULL REFERENCES offices (id),
    begun_at  TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX drive_uploads_by_office ON drive_uploads (office_id);
CREATE INDEX drive_uploads_by_begin ON drive_uploads (begun_at);

CREATE TABLE drive_blobs (
    office_id BLOB NOT NULL REFERENCES offices (id),
    sha256    TEXT NOT NULL,
    object    BLOB NOT NULL UNIQUE,
    PRIMARY KEY (office_id, sha256)
) STRICT, WITHOUT ROWID;

-- Outlives the office: an upload that was cut off by its end may still write.
CREATE TABLE drive_trash (
    object    BLOB PRIMARY KEY,
    office_id BLOB NOT NULL,
    due_at    TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX drive_trash_by_office ON drive_trash (office_id);
CREATE INDEX drive_trash_by_end ON drive_trash (due_at);

-- `folded` is the path in lower case. Without its blob a file cannot be.
CREATE TABLE drive_files (
    office_id    BLOB NOT NULL REFERENCES offices (id),
    path         TEXT NOT NULL,
    folded       TEXT NOT NULL,
    size         INTEGER NOT NULL,
    sha256       TEXT NOT NULL,
    revision     INTEGER NOT NULL,
    content_type TEXT NOT NULL,
    modified_at  TEXT NOT NULL,
    modified_by  TEXT NOT NULL,
    PRIMARY KEY (office_id, path),
    UNIQUE (office_id, folded),
    FOREIGN KEY (office_id, sha256) REFERENCES drive_blobs (office_id, sha256)
) STRICT, WITHOUT ROWID;
CREATE INDEX drive_files_by_blob ON drive_files (office_id, sha256);

-- The file as each change left it; of a deletion, as it was before. `upload` names the upload that made the change.
CREATE TABLE drive_changes (
    office_id    BLOB NOT NULL REFERENCES offices (id),
    revision     INTEGER NOT NULL,
    kind         TEXT NOT NULL,
    path         TEXT NOT NULL,
    size         INTEGER NOT NULL,
    sha256       TEXT NOT NULL,
    content_type TEXT NOT NULL,
    modified_at  TEXT NOT NULL,
    modified_by  TEXT NOT NULL,
    upload       BLOB,
    PRIMARY KEY (office_id, revision)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX drive_changes_by_upload ON drive_changes (upload) WHERE upload IS NOT NULL;
