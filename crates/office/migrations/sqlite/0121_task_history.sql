-- What waits for an agent is found without its finished tasks, however many those are.
DROP INDEX tasks_of_assigned;
CREATE INDEX tasks_kept ON tasks (office_id, assigned_id, id)
    WHERE assigned_id IS NOT NULL AND status IN ('blocked', 'queued');
-- With the id at its end it gives the subtasks of a task in the order of a list.
DROP INDEX tasks_by_parent;
CREATE INDEX tasks_by_parent ON tasks (office_id, parent_id, id) WHERE parent_id IS NOT NULL;
