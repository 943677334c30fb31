ALTER TABLE agents ADD COLUMN external boolean NOT NULL DEFAULT FALSE;

-- Which invite let which agent in; kept after the agent is gone, for as long as the invite could be shown again.
CREATE TABLE admissions (
    invite_id   uuid PRIMARY KEY,
    office_id   uuid NOT NULL,
    agent_id    uuid NOT NULL,
    admitted_at timestamptz NOT NULL
);
CREATE INDEX admissions_by_office ON admissions (office_id);
CREATE INDEX admissions_by_time ON admissions (admitted_at);
SELECT office_wall('admissions', 'office_id');
