-- The try that wrote a backup, by which its object is named; none: the object has the backup's own name.
ALTER TABLE backups ADD COLUMN upload BLOB;
