-- One row: when deadlines were last looked at by anybody, and what was missed before. `away` is in microseconds; `back_at` is
-- when the platform was back after the last time that nobody looked.
CREATE TABLE task_sweeps (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    swept_at TEXT,
    away     INTEGER NOT NULL,
    back_at  TEXT
) STRICT;
INSERT INTO task_sweeps (id, away) VALUES (1, 0);
