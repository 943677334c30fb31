-- When a removed backup's object is to be deleted, and how often that failed in a row.
ALTER TABLE backups ADD COLUMN due_at TEXT;
ALTER TABLE backups ADD COLUMN tries INTEGER NOT NULL DEFAULT 0;
UPDATE backups SET due_at = created_at WHERE removed;
DROP INDEX backups_removed;
CREATE INDEX backups_removed ON backups (office_id, id) WHERE removed;
CREATE INDEX backups_due ON backups (due_at, id) WHERE removed;
