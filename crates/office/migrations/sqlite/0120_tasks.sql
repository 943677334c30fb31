-- One row an office: its lock is what orders the queue's writers, so that cursors grow in the order of commits and no two
-- changes can miss each other.
CREATE TABLE task_queues (
    office_id BLOB PRIMARY KEY REFERENCES offices (id),
    cursor    INTEGER NOT NULL
) STRICT;

-- `spec` never changes. Columns beside `spec` and `progress` repeat what queries go by.
CREATE TABLE tasks (
    office_id      BLOB NOT NULL REFERENCES task_queues (office_id),
    id             BLOB NOT NULL,
    cursor         INTEGER NOT NULL,
    kind           TEXT NOT NULL,
    priority       INTEGER NOT NULL,
    status         TEXT NOT NULL,
    assigned_agent TEXT NOT NULL,
    assigned_id    BLOB,
    excluded_id    BLOB,
    parent_id      BLOB,
    verifies_id    BLOB,
    tools          TEXT NOT NULL,
    worker_id      BLOB,
    deadline       TEXT,
    spec           TEXT NOT NULL,
    progress       TEXT NOT NULL,
    PRIMARY KEY (office_id, id)
) STRICT;
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

CREATE TABLE task_dependencies (
    office_id  BLOB NOT NULL,
    task_id    BLOB NOT NULL,
    depends_on BLOB NOT NULL,
    PRIMARY KEY (office_id, task_id, depends_on)
) STRICT;
CREATE INDEX task_dependents ON task_dependencies (office_id, depends_on);

CREATE TABLE task_notes (
    office_id  BLOB NOT NULL,
    task_id    BLOB NOT NULL,
    id         BLOB NOT NULL,
    author     TEXT NOT NULL,
    body       TEXT NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (office_id, task_id, id)
) STRICT;
