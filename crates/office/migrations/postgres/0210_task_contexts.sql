-- The conversation that a task goes on with; none: it begins one.
ALTER TABLE tasks ADD COLUMN context text;
CREATE INDEX tasks_by_context ON tasks (office_id, context, id) WHERE context IS NOT NULL;
