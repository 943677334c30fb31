-- What an office has in the trash is gone through in the order of objects, and what is removed early in the order of its
-- end: neither passes over the trash of others, nor over what frees no room.
DROP INDEX drive_trash_by_office;
CREATE INDEX drive_trash_by_office ON drive_trash (office_id, object);
CREATE INDEX drive_trash_early ON drive_trash (due_at, object) WHERE size > 0 AND tries = 0;
