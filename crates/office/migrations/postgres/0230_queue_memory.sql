-- What a transaction of a queue writes, as arrays, one a column, and its events as one row; and a write that goes by what a
-- process remembers of the queue, instead of a look at it a moment ago. `queue_put` and `queue_write` as they were stay for
-- processes of before.

-- Writes tasks, the queue's new position and counts, and events. The arrays from `kinds` on, of what never changes, are those of
-- new tasks alone, which come first.
CREATE FUNCTION queue_put(of_office uuid, newest bigint, tally text, events text, ids uuid[], cursors bigint[], statuses text[],
    assigned_agents text[], assigned_ids uuid[], worker_ids uuid[], deadlines timestamptz[], hanging uuid[], progresses text[],
    kinds text[], priorities integer[], excluded_ids uuid[], parent_ids uuid[], verifies_ids uuid[], requests text[],
    contexts text[], tools text[], specs text[]) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tasks (office_id, id, cursor, kind, priority, status, assigned_agent, assigned_id, excluded_id, parent_id,
            verifies_id, request, context, tools, worker_id, deadline, hangs_on, spec, progress)
        SELECT of_office, v.id, v.cursor, coalesce(v.kind, ''), coalesce(v.priority, 0), v.status, v.assigned_agent, v.assigned_id,
            v.excluded_id, v.parent_id, v.verifies_id, v.request, v.context, coalesce(v.tools, '[]')::jsonb, v.worker_id,
            v.deadline, v.hangs_on, coalesce(v.spec, '{}')::json, v.progress::json
        FROM unnest(ids, cursors, statuses, assigned_agents, assigned_ids, worker_ids, deadlines, hanging, progresses, kinds,
            priorities, excluded_ids, parent_ids, verifies_ids, requests, contexts, tools, specs)
            AS v (id, cursor, status, assigned_agent, assigned_id, worker_id, deadline, hangs_on, progress, kind, priority,
            excluded_id, parent_id, verifies_id, request, context, tools, spec)
        ON CONFLICT (office_id, id) DO UPDATE SET cursor = excluded.cursor, status = excluded.status,
            assigned_agent = excluded.assigned_agent, assigned_id = excluded.assigned_id, worker_id = excluded.worker_id,
            deadline = excluded.deadline, hangs_on = excluded.hangs_on, progress = excluded.progress;
    UPDATE task_queues SET cursor = newest, counts = tally::json WHERE office_id = of_office;
    INSERT INTO outbox (office_id, event) SELECT of_office, events::json WHERE events <> '[]';
END
$$;

-- The same if the queue and its office are as they were seen, and `given_at`, where it is given, is the database's time to a second.
-- Answers when it was; NULL: nothing is written. What is NULL is not looked at.
CREATE FUNCTION queue_write(of_office uuid, newest bigint, tally text, events text, ids uuid[], cursors bigint[], statuses text[],
    assigned_agents text[], assigned_ids uuid[], worker_ids uuid[], deadlines timestamptz[], hanging uuid[], progresses text[],
    kinds text[], priorities integer[], excluded_ids uuid[], parent_ids uuid[], verifies_ids uuid[], requests text[],
    contexts text[], tools text[], specs text[], was_newest bigint, was_tally text, was_version bigint, was_away bigint,
    could_pay boolean, given_at timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('mi.scope', of_office::text, TRUE);
    PERFORM 1 FROM task_queues WHERE office_id = of_office AND cursor = was_newest AND counts::text = was_tally
        FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    -- A statement of its own: it sees what was committed while the one above waited.
    PERFORM 1 FROM offices AS o JOIN balances AS b ON b.office_id = o.id CROSS JOIN task_sweeps AS s
        WHERE o.id = of_office AND o.version = was_version AND s.id = 1 AND s.away = was_away
        AND (could_pay IS NULL OR (b.balance - b.reserved > 0) = could_pay)
        AND NOT EXISTS (SELECT 1 FROM task_consequences WHERE office_id = of_office);
    IF NOT FOUND OR given_at NOT BETWEEN clock_timestamp() - interval '1 second' AND clock_timestamp() + interval '1 second' THEN
        RETURN NULL;
    END IF;
    PERFORM queue_put(of_office, newest, tally, events, ids, cursors, statuses, assigned_agents, assigned_ids, worker_ids,
        deadlines, hanging, progresses, kinds, priorities, excluded_ids, parent_ids, verifies_ids, requests, contexts, tools,
        specs);
    RETURN clock_timestamp();
END
$$;
