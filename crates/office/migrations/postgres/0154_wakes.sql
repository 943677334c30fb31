-- The newest message that reached each agent, to it alone or by its name: what it does without a task is caused by that.
CREATE TABLE wakes (
    office_id uuid NOT NULL REFERENCES task_queues (office_id),
    agent_id  uuid NOT NULL,
    cause     text NOT NULL,
    depth     integer NOT NULL,
    woken_at  timestamptz NOT NULL,
    PRIMARY KEY (office_id, agent_id)
);
SELECT office_wall('wakes', 'office_id');
