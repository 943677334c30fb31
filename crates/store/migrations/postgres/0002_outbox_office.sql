-- Whose event it is, beside the event.
ALTER TABLE outbox ADD COLUMN office_id uuid;
UPDATE outbox SET office_id = (event ->> 'office_id')::uuid;
ALTER TABLE outbox ALTER COLUMN office_id SET NOT NULL;
