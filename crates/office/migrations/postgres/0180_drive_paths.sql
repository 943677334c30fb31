-- Paths are compared byte for byte: twins but for case, or in another normal form, are two files.
ALTER TABLE drive_files DROP COLUMN folded;
