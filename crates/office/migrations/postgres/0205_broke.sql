-- Why the office's credits do not suffice for an agent; empty: they do, as far as it asked.
ALTER TABLE agent_accounts ADD COLUMN broke text NOT NULL DEFAULT '';
CREATE INDEX agent_accounts_broke ON agent_accounts (office_id, agent_id) WHERE broke <> '';
