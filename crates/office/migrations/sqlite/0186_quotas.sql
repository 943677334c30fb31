-- What an account has, so that a quota is checked and shown without counting: its offices, and its keys that are not revoked.
ALTER TABLE accounts ADD COLUMN office_count INTEGER NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN key_count INTEGER NOT NULL DEFAULT 0;
UPDATE accounts SET
    office_count = (SELECT count(*) FROM offices WHERE account_id = accounts.id),
    key_count = (SELECT count(*) FROM api_keys WHERE account_id = accounts.id AND revoked_at IS NULL);

-- How many tasks have each status, likewise; whoever changes tasks has the queue's row locked.
ALTER TABLE task_queues ADD COLUMN counts TEXT NOT NULL DEFAULT '{}';
UPDATE task_queues SET counts = (
    SELECT json_group_object(status, found) FROM (
        SELECT status, count(*) AS found FROM tasks WHERE office_id = task_queues.office_id GROUP BY status));
