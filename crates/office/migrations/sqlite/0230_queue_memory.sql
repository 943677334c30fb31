-- SQLite has no functions, and nobody else writes.
SELECT 1;
