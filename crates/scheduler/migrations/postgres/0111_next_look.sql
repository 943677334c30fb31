-- When the planner next wants to look at an agent; none: it rests until its row changes. While the planner only listens for
-- signs of life, each of them moves the time on.
ALTER TABLE agents ADD COLUMN next_look_at timestamptz;
ALTER TABLE agents ADD COLUMN listening boolean NOT NULL DEFAULT FALSE;
UPDATE agents SET next_look_at = created_at;
CREATE INDEX agents_by_next_look ON agents (next_look_at, id) WHERE next_look_at IS NOT NULL;
