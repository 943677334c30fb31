-- Paths are compared byte for byte: twins but for case, or in another normal form, are two files. What is unique goes with
-- its table only.
CREATE TABLE drive_files_by_bytes (
    office_id    BLOB NOT NULL REFERENCES offices (id),
    path         TEXT NOT NULL,
    size         INTEGER NOT NULL,
    sha256       TEXT NOT NULL,
    revision     INTEGER NOT NULL,
    content_type TEXT NOT NULL,
    modified_at  TEXT NOT NULL,
    modified_by  TEXT NOT NULL,
    PRIMARY KEY (office_id, path),
    FOREIGN KEY (office_id, sha256) REFERENCES drive_blobs (office_id, sha256)
) STRICT, WITHOUT ROWID;
INSERT INTO drive_files_by_bytes
SELECT office_id, path, size, sha256, revision, content_type, modified_at, modified_by FROM drive_files;
DROP TABLE drive_files;
ALTER TABLE drive_files_by_bytes RENAME TO drive_files;
CREATE INDEX drive_files_by_blob ON drive_files (office_id, sha256);
