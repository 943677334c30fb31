-- One row: when deadlines were last looked at by anybody, and what was missed before. `away` is in microseconds; `back_at` is
-- when the platform was back after the last time that nobody looked.
CREATE TABLE task_sweeps (
    id       integer PRIMARY KEY CHECK (id = 1),
    swept_at timestamptz,
    away     bigint NOT NULL,
    back_at  timestamptz
);
INSERT INTO task_sweeps (id, away) VALUES (1, 0);

-- How every transaction over an office's queue begins, in one round trip, with the time that all processes go by.
DROP FUNCTION queue_open (uuid);
CREATE FUNCTION queue_open(of_office uuid)
    RETURNS TABLE (newest bigint, office offices, told timestamptz, swept_at timestamptz, away bigint, back_at timestamptz)
    LANGUAGE plpgsql AS $$
DECLARE
    place bigint;
BEGIN
    SELECT cursor INTO place FROM task_queues WHERE office_id = of_office FOR NO KEY UPDATE;
    IF FOUND THEN
        -- A statement of its own: it sees what was committed while the one above waited, and a lease begins when it is
        -- given.
        RETURN QUERY SELECT place, o, clock_timestamp(), s.swept_at, s.away, s.back_at
            FROM offices AS o CROSS JOIN task_sweeps AS s WHERE o.id = of_office AND s.id = 1;
    END IF;
END
$$;
