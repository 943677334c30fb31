-- SQLite has no row-level security: there the office-scoped repositories are the only wall.
SELECT 1;
