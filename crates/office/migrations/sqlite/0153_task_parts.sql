-- Whether a task has open subtasks is found without those that are finished, however many they are.
CREATE INDEX tasks_open_parts ON tasks (office_id, parent_id)
    WHERE parent_id IS NOT NULL AND status IN ('blocked', 'queued', 'running', 'verifying');
