-- One row an office: its lock is what orders the queue's writers, so that cursors grow in the order of commits and no two
-- changes can miss each other.
CREATE TABLE task_queues (
    office_id uuid PRIMARY KEY REFERENCES offices (id),
    cursor    bigint NOT NULL
);
SELECT office_wall('task_queues', 'office_id');

-- `spec` never changes. Columns beside `spec` and `progress` repeat what queries go by.
CREATE TABLE tasks (
    office_id      uuid NOT NULL REFERENCES task_queues (office_id),
    id             uuid NOT NULL,
    cursor         bigint NOT NULL,
    kind           text NOT NULL,
    priority       integer NOT NULL,
    status         text NOT NULL,
    assigned_agent text NOT NULL,
    assigned_id    uuid,
    excluded_id    uuid,
    parent_id      uuid,
    verifies_id    uuid,
    tools          jsonb NOT NULL,
    worker_id      uuid,
    deadline       timestamptz,
    spec           jsonb NOT NULL,
    progress       jsonb NOT NULL,
    PRIMARY KEY (office_id, id)
);
CREATE INDEX tasks_queue ON tasks (office_id, priority, id) WHERE status = 'queued';
CREATE INDEX tasks_deadlines ON tasks (deadline) WHERE deadline IS NOT NULL;
CREATE INDEX tasks_changes ON tasks (office_id, cursor);
CREATE INDEX tasks_by_status ON tasks (office_id, status, id);
CREATE INDEX tasks_by_agent ON tasks (office_id, assigned_agent, id) WHERE assigned_agent <> '';
CREATE INDEX tasks_by_parent ON tasks (office_id, parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX tasks_by_subject ON tasks (office_id, verifies_id) WHERE verifies_id IS NOT NULL;
CREATE INDEX tasks_of_workers ON tasks (worker_id) WHERE worker_id IS NOT NULL;
CREATE INDEX tasks_of_assigned ON tasks (assigned_id) WHERE assigned_id IS NOT NULL;
CREATE INDEX tasks_in_need ON tasks (office_id) WHERE status = 'blocked' AND tools <> '[]';
SELECT office_wall('tasks', 'office_id');

CREATE TABLE task_dependencies (
    office_id  uuid NOT NULL,
    task_id    uuid NOT NULL,
    depends_on uuid NOT NULL,
    PRIMARY KEY (office_id, task_id, depends_on)
);
CREATE INDEX task_dependents ON task_dependencies (office_id, depends_on);
SELECT office_wall('task_dependencies', 'office_id');

CREATE TABLE task_notes (
    office_id  uuid NOT NULL,
    task_id    uuid NOT NULL,
    id         uuid NOT NULL,
    author     text NOT NULL,
    body       text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (office_id, task_id, id)
);
SELECT office_wall('task_notes', 'office_id');
