-- The newest message that reached each agent, to it alone or by its name: what it does without a task is caused by that.
CREATE TABLE wakes (
    office_id BLOB NOT NULL REFERENCES task_queues (office_id),
    agent_id  BLOB NOT NULL,
    cause     TEXT NOT NULL,
    depth     INTEGER NOT NULL,
    woken_at  TEXT NOT NULL,
    PRIMARY KEY (office_id, agent_id)
) STRICT, WITHOUT ROWID;
