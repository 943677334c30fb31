ALTER TABLE agents ADD COLUMN external INTEGER NOT NULL DEFAULT 0;

-- Which invite let which agent in; kept after the agent is gone, for as long as the invite could be shown again.
CREATE TABLE admissions (
    invite_id   BLOB PRIMARY KEY,
    office_id   BLOB NOT NULL,
    agent_id    BLOB NOT NULL,
    admitted_at TEXT NOT NULL
) STRICT;
CREATE INDEX admissions_by_office ON admissions (office_id);
CREATE INDEX admissions_by_time ON admissions (admitted_at);
