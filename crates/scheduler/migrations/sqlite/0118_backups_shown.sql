-- Backups are listed, and hidden in parts, without passing over those that are hidden.
DROP INDEX backups_by_office;
CREATE INDEX backups_shown ON backups (office_id, id) WHERE NOT removed;
