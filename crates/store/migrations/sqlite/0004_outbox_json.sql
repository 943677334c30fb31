-- SQLite keeps JSON as text anyway.
SELECT 1;
