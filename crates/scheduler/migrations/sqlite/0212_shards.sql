-- On SQLite one process has all agents.
SELECT 1;
