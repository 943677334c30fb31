-- Whose lines they are, in the rows that hold or name them. SQLite adds no column without a default: an empty one is no
-- office.
ALTER TABLE log_tail ADD COLUMN office_id BLOB NOT NULL DEFAULT x'';
UPDATE log_tail SET office_id = s.office_id FROM log_streams s WHERE s.agent_id = log_tail.agent_id;

ALTER TABLE log_segments ADD COLUMN office_id BLOB NOT NULL DEFAULT x'';
UPDATE log_segments SET office_id = s.office_id FROM log_streams s WHERE s.agent_id = log_segments.agent_id;
