-- A task remembers the call that created it: whose it was, and the id that it gave it.
ALTER TABLE tasks ADD COLUMN request TEXT;
CREATE UNIQUE INDEX tasks_by_request ON tasks (office_id, request) WHERE request IS NOT NULL;
