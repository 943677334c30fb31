-- What most transactions of a queue come down to: a look at it that locks nothing, and a write that goes by its being as it
-- was then. Each is one statement and a transaction of its own, in which the office is the scope.

-- The queue's row with its office and what is left to be done, and tasks: those asked for by id, of each of the `ended` an open
-- subtask and what waits for it, and the most urgent ones that may be claimed.
CREATE FUNCTION queue_look(of_office uuid, agents json, kinds json, usable jsonb, most bigint, is_shared boolean, ids json,
    ended json, most_dependents bigint)
    RETURNS TABLE (newest bigint, tally json, rest bigint, available bigint, office offices, told timestamptz,
        swept_at timestamptz, away bigint, back_at timestamptz, seen json)
    LANGUAGE plpgsql AS $$
DECLARE
    of_agents uuid[] := ARRAY(SELECT json_array_elements_text(agents)::uuid);
    of_kinds text[] := ARRAY(SELECT json_array_elements_text(kinds));
BEGIN
    PERFORM set_config('mi.scope', of_office::text, TRUE);
    -- First, so that the position is none of after a change that what is read next did not see.
    SELECT q.cursor, q.counts INTO newest, tally FROM task_queues AS q WHERE q.office_id = of_office;
    SELECT coalesce(json_agg(json_build_object('id', t.id, 'cursor', t.cursor, 'spec', t.spec, 'progress', t.progress,
            'claimable', t.claimable)), '[]') INTO seen
        FROM (SELECT t.id, t.cursor, t.spec, t.progress, FALSE AS claimable
                FROM json_array_elements_text(ids) AS wanted (id),
                LATERAL (SELECT * FROM tasks WHERE office_id = of_office AND tasks.id = wanted.id::uuid OFFSET 0) AS t
            UNION ALL SELECT t.id, t.cursor, t.spec, t.progress, FALSE FROM json_array_elements_text(ended) AS whole (id),
                LATERAL (SELECT * FROM tasks WHERE office_id = of_office AND parent_id = whole.id::uuid
                    AND status IN ('blocked', 'queued', 'running', 'verifying') LIMIT 1) AS t
            UNION ALL (SELECT t.id, t.cursor, t.spec, t.progress, FALSE FROM json_array_elements_text(ended) AS before (id),
                LATERAL (SELECT task_id FROM task_dependencies
                    WHERE office_id = of_office AND depends_on = before.id::uuid OFFSET 0) AS d,
                LATERAL (SELECT * FROM tasks WHERE office_id = of_office AND tasks.id = d.task_id AND status = 'blocked'
                    OFFSET 0) AS t LIMIT most_dependents)
            UNION ALL (SELECT tasks.id, tasks.cursor, tasks.spec, tasks.progress, TRUE FROM tasks
                WHERE office_id = of_office AND status = 'queued'
                AND (assigned_id IS NULL OR assigned_id = ANY (of_agents))
                AND (of_kinds = '{}' OR kind = ANY (of_kinds))
                AND (usable IS NULL OR tools <@ usable)
                AND (excluded_id IS NULL OR is_shared OR NOT excluded_id = ANY (of_agents))
                ORDER BY priority, tasks.id LIMIT most)) AS t;
    RETURN QUERY SELECT newest, tally, queue_rest(of_office), b.balance - b.reserved, o, clock_timestamp(), s.swept_at, s.away,
            s.back_at, seen
        FROM offices AS o JOIN balances AS b ON b.office_id = o.id CROSS JOIN task_sweeps AS s
        WHERE o.id = of_office AND s.id = 1 AND newest IS NOT NULL;
END
$$;

-- Writes tasks, the queue's new position and counts, and events.
CREATE FUNCTION queue_put(of_office uuid, changed json, newest bigint, tally json, events json) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tasks (office_id, id, cursor, kind, priority, status, assigned_agent, assigned_id, excluded_id, parent_id,
            verifies_id, request, context, tools, worker_id, deadline, hangs_on, spec, progress)
        SELECT of_office, v.id, v.cursor, v.kind, v.priority, v.status, v.assigned_agent, v.assigned_id, v.excluded_id,
            v.parent_id, v.verifies_id, v.request, v.context, v.tools, v.worker_id, v.deadline, v.hangs_on,
            coalesce(v.spec, '{}'), v.progress
        FROM json_to_recordset(changed) AS v (id uuid, cursor bigint, kind text, priority integer, status text,
            assigned_agent text, assigned_id uuid, excluded_id uuid, parent_id uuid, verifies_id uuid, request text,
            context text, tools jsonb, worker_id uuid, deadline timestamptz, hangs_on uuid, spec json, progress json)
        ON CONFLICT (office_id, id) DO UPDATE SET cursor = excluded.cursor, status = excluded.status,
            assigned_agent = excluded.assigned_agent, assigned_id = excluded.assigned_id, worker_id = excluded.worker_id,
            deadline = excluded.deadline, hangs_on = excluded.hangs_on, progress = excluded.progress;
    UPDATE task_queues SET cursor = newest, counts = tally WHERE office_id = of_office;
    INSERT INTO outbox (office_id, event)
        SELECT of_office, value FROM json_array_elements(events) WITH ORDINALITY AS e (value, place) ORDER BY place;
END
$$;

-- The same if the queue and its office are as a look saw them; false: they are not, and nothing is written. What is NULL is not
-- looked at.
CREATE FUNCTION queue_write(of_office uuid, changed json, newest bigint, tally json, events json, was_newest bigint,
    was_tally text, was_version bigint, was_away bigint, could_pay boolean)
    RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('mi.scope', of_office::text, TRUE);
    PERFORM 1 FROM task_queues WHERE office_id = of_office AND cursor = was_newest AND counts::text = was_tally
        FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN FALSE;
    END IF;
    -- A statement of its own: it sees what was committed while the one above waited.
    PERFORM 1 FROM offices AS o JOIN balances AS b ON b.office_id = o.id CROSS JOIN task_sweeps AS s
        WHERE o.id = of_office AND o.version = was_version AND s.id = 1 AND s.away = was_away
        AND (could_pay IS NULL OR (b.balance - b.reserved > 0) = could_pay) AND queue_rest(of_office) = 0;
    IF NOT FOUND THEN
        RETURN FALSE;
    END IF;
    PERFORM queue_put(of_office, changed, newest, tally, events);
    RETURN TRUE;
END
$$;
