-- Which agents tasks count on is read without the tasks: who works on some, for whom some wait, and which tools some need.
CREATE INDEX tasks_held ON tasks (office_id, worker_id) WHERE worker_id IS NOT NULL;
CREATE INDEX tasks_of_assigned ON tasks (assigned_id) WHERE assigned_id IS NOT NULL AND status IN ('blocked', 'queued');
DROP INDEX tasks_in_need;
CREATE INDEX tasks_in_need ON tasks (office_id, tools, status, id) WHERE tools <> '[]' AND status IN ('blocked', 'queued');
