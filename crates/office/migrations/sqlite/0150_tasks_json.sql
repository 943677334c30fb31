-- SQLite keeps JSON as text anyway, and locks the whole file.
SELECT 1;
