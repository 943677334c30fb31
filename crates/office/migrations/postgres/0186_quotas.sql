-- What an account has, so that a quota is checked and shown without counting: its offices, and its keys that are not revoked.
ALTER TABLE accounts ADD COLUMN office_count bigint NOT NULL DEFAULT 0, ADD COLUMN key_count bigint NOT NULL DEFAULT 0;
UPDATE accounts SET
    office_count = (SELECT count(*) FROM offices WHERE account_id = accounts.id),
    key_count = (SELECT count(*) FROM api_keys WHERE account_id = accounts.id AND revoked_at IS NULL);

-- How many tasks have each status, likewise; whoever changes tasks has the queue's row locked.
ALTER TABLE task_queues ADD COLUMN counts json NOT NULL DEFAULT '{}';
UPDATE task_queues SET counts = counted.counts FROM (
    SELECT office_id, json_object_agg(status, found) AS counts FROM (
        SELECT office_id, status, count(*) AS found FROM tasks GROUP BY office_id, status) AS by_status
    GROUP BY office_id) AS counted
WHERE counted.office_id = task_queues.office_id;

-- As before, with the counts.
DROP FUNCTION queue_open (uuid);
CREATE FUNCTION queue_open(of_office uuid)
    RETURNS TABLE (newest bigint, tally json, office offices, told timestamptz, swept_at timestamptz, away bigint,
        back_at timestamptz)
    LANGUAGE plpgsql AS $$
DECLARE
    place bigint;
    standing json;
BEGIN
    SELECT cursor, counts INTO place, standing FROM task_queues WHERE office_id = of_office FOR NO KEY UPDATE;
    IF FOUND THEN
        -- A statement of its own: it sees what was committed while the one above waited, and a lease begins when it is
        -- given.
        RETURN QUERY SELECT place, standing, o, clock_timestamp(), s.swept_at, s.away, s.back_at
            FROM offices AS o CROSS JOIN task_sweeps AS s WHERE o.id = of_office AND s.id = 1;
    END IF;
END
$$;
