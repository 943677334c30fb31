-- Whose lines they are, in the rows that hold or name them.
ALTER TABLE log_tail ADD COLUMN office_id uuid;
UPDATE log_tail SET office_id = s.office_id FROM log_streams s WHERE s.agent_id = log_tail.agent_id;
ALTER TABLE log_tail ALTER COLUMN office_id SET NOT NULL;

ALTER TABLE log_segments ADD COLUMN office_id uuid;
UPDATE log_segments SET office_id = s.office_id FROM log_streams s WHERE s.agent_id = log_segments.agent_id;
ALTER TABLE log_segments ALTER COLUMN office_id SET NOT NULL;
