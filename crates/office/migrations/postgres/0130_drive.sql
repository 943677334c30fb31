-- What an office's files amount to, and the number of the drive's last change. Every writer changes the row, and so they
-- commit in the order of the numbers.
CREATE TABLE drive_usage (
    office_id uuid PRIMARY KEY REFERENCES offices (id),
    revision  bigint NOT NULL,
    bytes     bigint NOT NULL,
    files     bigint NOT NULL
);

-- An object in storage is named by one of three tables at any moment: by uploads while it is written, by blobs while files
-- have its content, by trash until it is deleted.
CREATE TABLE drive_uploads (
    object    uuid PRIMARY KEY,
    office_id uuid NOT NULL REFERENCES offices (id),
    begun_at  timestamptz NOT NULL
);
CREATE INDEX drive_uploads_by_office ON drive_uploads (office_id);
CREATE INDEX drive_uploads_by_begin ON drive_uploads (begun_at);

CREATE TABLE drive_blobs (
    office_id uuid NOT NULL REFERENCES offices (id),
    sha256    text COLLATE "C" NOT NULL,
    object    uuid NOT NULL UNIQUE,
    PRIMARY KEY (office_id, sha256)
);

-- Outlives the office: an upload that was cut off by its end may still write.
CREATE TABLE drive_trash (
    object    uuid PRIMARY KEY,
    office_id uuid NOT NULL,
    due_at    timestamptz NOT NULL
);
CREATE INDEX drive_trash_by_office ON drive_trash (office_id);
CREATE INDEX drive_trash_by_end ON drive_trash (due_at);

-- `folded` is the path in lower case. Without its blob a file cannot be.
CREATE TABLE drive_files (
    office_id    uuid NOT NULL REFERENCES offices (id),
    path         text COLLATE "C" NOT NULL,
    folded       text COLLATE "C" NOT NULL,
    size         bigint NOT NULL,
    sha256       text COLLATE "C" NOT NULL,
    revision     bigint NOT NULL,
    content_type text NOT NULL,
    modified_at  timestamptz NOT NULL,
    modified_by  text NOT NULL,
    PRIMARY KEY (office_id, path),
    UNIQUE (office_id, folded),
    FOREIGN KEY (office_id, sha256) REFERENCES drive_blobs (office_id, sha256)
);
CREATE INDEX drive_files_by_blob ON drive_files (office_id, sha256);

-- The file as each change left it; of a deletion, as it was before. `upload` names the upload that made the change.
CREATE TABLE drive_changes (
    office_id    uuid NOT NULL REFERENCES offices (id),
    revision     bigint NOT NULL,
    kind         text NOT NULL,
    path         text NOT NULL,
    size         bigint NOT NULL,
    sha256       text NOT NULL,
    content_type text NOT NULL,
    modified_at  timestamptz NOT NULL,
    modified_by  text NOT NULL,
    upload       uuid,
    PRIMARY KEY (office_id, revision)
);
CREATE UNIQUE INDEX drive_changes_by_upload ON drive_changes (upload) WHERE upload IS NOT NULL;

SELECT office_wall('drive_usage', 'office_id');
SELECT office_wall('drive_uploads', 'office_id');
SELECT office_wall('drive_blobs', 'office_id');
SELECT office_wall('drive_trash', 'office_id');
SELECT office_wall('drive_files', 'office_id');
SELECT office_wall('drive_changes', 'office_id');
