-- The task that failed or was cancelled, on which a blocked one hangs, by whatever way.
ALTER TABLE tasks ADD COLUMN hangs_on uuid;
-- Whether a task has a subtask that goes on by itself is found without those that do not.
CREATE INDEX tasks_live_parts ON tasks (office_id, parent_id) WHERE parent_id IS NOT NULL
    AND status IN ('blocked', 'queued', 'running', 'verifying') AND hangs_on IS NULL;

-- Changes of tasks that are still to be carried on to those who follow them: subtasks that are to be cancelled with
-- `root_id`, then the parent and the dependents after `after_id`.
CREATE TABLE task_consequences (
    office_id uuid NOT NULL REFERENCES task_queues (office_id),
    task_id   uuid NOT NULL,
    root_id   uuid,
    after_id  uuid,
    PRIMARY KEY (office_id, task_id)
);
SELECT office_wall('task_consequences', 'office_id');
CREATE INDEX task_cancellations ON task_consequences (office_id) WHERE root_id IS NOT NULL;

-- What hangs on a task that failed before is not marked yet.
INSERT INTO task_consequences (office_id, task_id)
SELECT DISTINCT d.office_id, d.depends_on FROM task_dependencies AS d
JOIN tasks AS waits ON waits.office_id = d.office_id AND waits.id = d.task_id AND waits.status = 'blocked'
JOIN tasks AS ended ON ended.office_id = d.office_id AND ended.id = d.depends_on AND ended.status IN ('failed', 'cancelled');

-- Whether something is left to be done in an office (1), and whether that is to cancel subtasks (2). A function, so that it
-- sees what was committed while the statement that asks waited for the queue's lock.
CREATE FUNCTION queue_rest(of_office uuid) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM task_consequences WHERE office_id = of_office AND root_id IS NOT NULL) THEN
        RETURN 2;
    ELSIF EXISTS (SELECT 1 FROM task_consequences WHERE office_id = of_office) THEN
        RETURN 1;
    END IF;
    RETURN 0;
END
$$;
