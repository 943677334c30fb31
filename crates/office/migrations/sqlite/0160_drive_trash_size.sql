-- What was replaced or deleted takes space until it goes from storage: its bytes count, those of an office together.
ALTER TABLE drive_trash ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
ALTER TABLE drive_usage ADD COLUMN trash INTEGER NOT NULL DEFAULT 0;
