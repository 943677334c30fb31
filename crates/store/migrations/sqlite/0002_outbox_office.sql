-- Whose event it is, beside the event. SQLite adds no column without a default: an empty one is no office.
ALTER TABLE outbox ADD COLUMN office_id BLOB NOT NULL DEFAULT x'';
UPDATE outbox SET office_id = unhex(replace(json_extract(event, '$.office_id'), '-', ''));
