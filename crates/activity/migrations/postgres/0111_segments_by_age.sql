-- Old segments are gone through by time and path: a page begins behind the one before, however many were written at once.
DROP INDEX log_segments_by_age;
CREATE INDEX log_segments_by_age ON log_segments (written_at, path);
