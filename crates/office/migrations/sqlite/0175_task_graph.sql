-- What a task waits for is followed without its subtasks that are done, however many those are.
CREATE INDEX tasks_unfinished_parts ON tasks (office_id, parent_id, id) WHERE parent_id IS NOT NULL AND status <> 'done';
-- With the id at its end it gives the dependents of a task in an order, so that they can be read in parts.
DROP INDEX task_dependents;
CREATE INDEX task_dependents ON task_dependencies (office_id, depends_on, task_id);
