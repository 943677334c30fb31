-- How often an object could not be deleted, in a row: it is due later and later.
ALTER TABLE drive_trash ADD COLUMN tries integer NOT NULL DEFAULT 0;
