-- Both go in and out as text: queries go by the columns beside them.
ALTER TABLE tasks ALTER COLUMN spec TYPE json, ALTER COLUMN progress TYPE json;

-- How every transaction over an office's queue begins, in one round trip.
CREATE FUNCTION queue_open(of_office uuid) RETURNS TABLE (newest bigint, office offices) LANGUAGE plpgsql AS $$
DECLARE
    place bigint;
BEGIN
    SELECT cursor INTO place FROM task_queues WHERE office_id = of_office FOR NO KEY UPDATE;
    IF FOUND THEN
        -- A statement of its own: it sees what was committed while the one above waited.
        RETURN QUERY SELECT place, o FROM offices AS o WHERE o.id = of_office;
    END IF;
END
$$;
