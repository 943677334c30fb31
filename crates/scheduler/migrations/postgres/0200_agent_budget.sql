-- What the office role told of an agent's budget: micro-credits or none, the version of that, and why it has to wait.
ALTER TABLE agents ADD COLUMN budget bigint;
ALTER TABLE agents ADD COLUMN budget_version bigint NOT NULL DEFAULT 0;
ALTER TABLE agents ADD COLUMN budget_reached text NOT NULL DEFAULT '';

-- Agents that are charged for.
CREATE INDEX agents_running ON agents (office_id, id) WHERE phase = 'running' AND NOT external;
